"""doctor on a machine on which nothing runs: each lack is named with its mend."""

import os
import socket
from pathlib import Path

import pytest
import yaml
from ports import free_ports

from apirule.cli import kubeconfigs, surroundings
from apirule.cli.findings import Finding, Verdict
from apirule.local.processes import envoy
from apirule.problem import SetupError
from apirule.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    https, http, api = free_ports(3)
    return Settings(state=str(tmp_path / "state"), https_port=https, http_port=http, api_port=api)


def found(settings: Settings, about: str) -> Finding:
    findings = surroundings.findings(settings, is_running=False)
    return next(finding for finding in findings if about in finding.text)


def program(folder: Path, script: str) -> Path:
    file = folder / "envoy"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return file


def test_nothing_is_wrong_with_a_machine_that_is_as_it_should_be(settings: Settings) -> None:
    findings = list(surroundings.findings(settings, is_running=False))

    assert [finding for finding in findings if finding.verdict is Verdict.FAIL] == []
    assert any(finding.text.startswith("Envoy 1.") for finding in findings)
    assert f"port {settings.https_port} is free" in [finding.text for finding in findings]


def test_who_has_a_port_is_named_where_an_instance_of_ours_should_have_it(
    settings: Settings,
) -> None:
    with socket.create_server(("127.0.0.1", settings.https_port)):
        taken = found(settings, f"port {settings.https_port}")

    assert taken.verdict is Verdict.FAIL
    assert taken.text.endswith(f"(pid {os.getpid()})")
    assert taken.fix == "apirule up --https-port N"


def test_a_process_of_an_instance_is_known_by_its_state_folder() -> None:
    envoy_of_pod = ["/bin/envoy", "--config-path", "/s/x/pods/shop_orders/bootstrap.json", "--more"]
    control_plane = ["python", "-m", "apirule", "--state", "/s/y", "control-plane"]

    assert surroundings.state_of(envoy_of_pod) == "/s/x"
    assert surroundings.state_of(control_plane) == "/s/y"
    assert surroundings.state_of(["/bin/envoy", "--config-path", "/etc/envoy.yaml"]) == ""
    assert surroundings.state_of(["nginx"]) == ""


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("exit 3", "Envoy does not start: exit code 3"),
        ("echo no such symbol >&2; exit 1", "Envoy does not start: no such symbol"),
        (
            '[ "$1" = --version ] && exec echo "envoy  version: a/9.9/x"; echo broken >&2; exit 1',
            "Envoy does not start: broken",
        ),
    ],
    ids=["silently", "with a word", "it only tells its version"],
)
def test_an_envoy_that_does_not_start_is_noticed(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, says: str
) -> None:
    monkeypatch.setattr(envoy, "binary", lambda: program(tmp_path, script))

    finding = found(settings, "Envoy")

    assert (finding.verdict, finding.text) == (Verdict.FAIL, says)


def test_an_old_clock_is_noticed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Path(surroundings.__file__)
    newer = package.stat().st_mtime + 10 * 365 * 86400
    stat = Path.stat

    def later(path: Path, **more: bool) -> os.stat_result:
        seen = stat(path, **more)
        return os.stat_result((*seen[:8], newer, seen[9])) if path == package else seen

    monkeypatch.setattr(Path, "stat", later)

    finding = found(settings, "the clock says")

    assert finding.verdict is Verdict.FAIL
    assert "before apirule was installed" in finding.text


def test_a_state_folder_that_others_can_read_is_named(settings: Settings) -> None:
    root = settings.folder.root
    root.mkdir()
    root.chmod(0o755)

    finding = found(settings, "can read")

    assert (finding.verdict, finding.fix) == (Verdict.FAIL, f"chmod 700 {root}")


def kubeconfig(context: str, server: str) -> str:
    return yaml.safe_dump(
        {
            "current-context": context,
            "contexts": [{"name": context, "context": {"cluster": "c"}}],
            "clusters": [{"name": "c", "cluster": {"server": server}}],
        }
    )


def test_the_context_in_force_is_named(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.write_text(kubeconfig("mine", f"https://127.0.0.1:{settings.api_port}"))
    theirs.write_text(kubeconfig("prod", "https://prod.example"))
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")

    monkeypatch.setenv("KUBECONFIG", str(ours))
    mine = found(settings, "kubectl")
    monkeypatch.setenv("KUBECONFIG", f"{theirs}{os.pathsep}{ours}")
    prod = found(settings, "kubectl")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    none = found(settings, "kubectl")

    assert (mine.verdict, mine.text) == (Verdict.OK, "kubectl context 'mine' is this instance")
    assert prod.text == "kubectl context 'prod' (https://prod.example) is current"
    assert (none.verdict, none.text) == (Verdict.WARN, "kubectl knows no cluster")


def test_without_a_variable_the_file_in_the_home_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube/config").write_text(kubeconfig("home", "https://home.example/"))

    assert kubeconfigs.current({}) == kubeconfigs.Current("home", "https://home.example")


def test_a_broken_kubeconfig_is_named(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("a: b: c")

    with pytest.raises(SetupError, match="is not valid YAML"):
        kubeconfigs.current({"KUBECONFIG": str(tmp_path / "config")})
