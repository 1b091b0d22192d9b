"""`kubectl logs` with the real kubectl: what a follower sees when files are put aside."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from tests.shells.conftest import RunningApiServer
from tests.shells.kubectls import Kubectl, programs

pytestmark = pytest.mark.kubectl


class Written:
    """The log of a container, written as the supervisor does."""

    def __init__(self, folder: Path, container: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{container}.log"

    def line(self, text: str) -> None:
        with self.path.open("a") as file:
            file.write(f"{text}\n")

    def rotate(self) -> None:
        self.path.replace(f"{self.path}.1")

    def restart(self) -> None:
        self.path.replace(f"{self.path}.previous")
        Path(f"{self.path}.1").unlink(missing_ok=True)


@pytest.fixture
def kubectl(api_server: RunningApiServer, tmp_path: Path) -> Kubectl:
    return Kubectl(programs()[-1], api_server.kubeconfig, tmp_path)


@pytest.fixture
def log(api_server: RunningApiServer) -> Written:
    api_server.create(pod("talk", "main", "side"))
    return Written(api_server.logs.folder / "default_talk", "main")


def pod(name: str, *containers: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "talk"}},
        "spec": {"containers": [{"name": one, "image": "example/app"} for one in containers]},
    }


@contextmanager
def following(kubectl: Kubectl, *options: str) -> Iterator[IO[str]]:
    with subprocess.Popen(
        [kubectl.program, "logs", "-f", "talk", "-c", "main", *options],
        stdout=subprocess.PIPE,
        text=True,
        env=kubectl.environment(),
        cwd=kubectl.home,
    ) as running:
        assert running.stdout is not None
        yield running.stdout
        running.terminate()


def test_a_follower_misses_nothing_when_the_file_is_put_aside(
    kubectl: Kubectl, log: Written
) -> None:
    log.line("one")
    with following(kubectl) as lines:
        seen = [lines.readline()]
        log.line("two")
        log.rotate()
        log.line("three")
        seen += [lines.readline(), lines.readline()]
        log.line("four")
        log.rotate()
        log.line("five")
        seen += [lines.readline(), lines.readline()]

    assert "".join(seen).split() == ["one", "two", "three", "four", "five"]


def test_a_follower_sees_the_next_run_too(kubectl: Kubectl, log: Written) -> None:
    log.line("first run")
    with following(kubectl) as lines:
        seen = [lines.readline()]
        log.line("its end")
        log.restart()
        log.line("second run")
        seen += [lines.readline(), lines.readline()]

    assert seen == ["first run\n", "its end\n", "second run\n"]


def test_a_follower_that_fell_behind_reads_the_older_half_first(
    kubectl: Kubectl, log: Written
) -> None:
    log.line("first run")
    with following(kubectl) as lines:
        seen = [lines.readline()]
        log.restart()
        log.line("older half")
        log.rotate()
        log.line("younger half")
        seen += [lines.readline(), lines.readline()]

    assert seen == ["first run\n", "older half\n", "younger half\n"]


def test_the_older_half_of_a_run_that_ended_is_not_taken_for_the_next_run(
    kubectl: Kubectl, log: Written
) -> None:
    log.line("older half")
    log.rotate()
    os.utime(f"{log.path}.1", (1_000_000_000, 1_000_000_000))
    log.line("younger half")
    with following(kubectl) as lines:
        seen = [lines.readline()]
        # As a restart leaves it for a moment.
        log.path.replace(f"{log.path}.previous")
        log.line("next run")
        seen += [lines.readline()]

    assert seen == ["younger half\n", "next run\n"]


def test_since_and_timestamps_say_what_they_cannot_do(kubectl: Kubectl, log: Written) -> None:
    log.line("hello")

    done = kubectl.run("logs", "talk", "-c", "main", "--timestamps", "--since=1h")

    assert done.stdout == "hello\n"
    assert "Warning: timestamps has no effect" in done.stderr
    assert "Warning: since leaves out logs" in done.stderr


def test_all_containers_of_all_pods_of_a_selector(
    api_server: RunningApiServer, kubectl: Kubectl, log: Written
) -> None:
    api_server.create(pod("other", "main"))
    log.line("of main")
    Written(api_server.logs.folder / "default_talk", "side").line("of side")
    Written(api_server.logs.folder / "default_other", "main").line("of the other Pod")

    said = kubectl("logs", "-l", "app=talk", "--all-containers", "--prefix")

    assert sorted(said.splitlines()) == [
        "[pod/other/main] of the other Pod",
        "[pod/talk/main] of main",
        "[pod/talk/side] of side",
    ]
