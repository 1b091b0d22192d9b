"""Every kubectl command of the table, with every kubectl there is, against the running server."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from tests.shells import kubectl_table
from tests.shells.conftest import RunningApiServer
from tests.shells.kubectl_commands import COMMANDS, RULE, Command
from tests.shells.kubectl_table import Outcome
from tests.shells.kubectls import Kubectl, label, programs, version

pytestmark = pytest.mark.kubectl

_REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "kubectl.md"
_HEAD = """\
# kubectl

What kubectl commands come to against the API server of `apirule up`, by the version of kubectl: the
exit code (`-`: it runs until it is ended), the first line of stdout, and the first line of the
error, or of what else is on stderr. `...` stands for what varies, and for the rest of a long line.
The commands build on one another from top to bottom.

The test run that measures them writes the table
(`pytest tests/shells/test_kubectl_commands.py --update-golden`), for every kubectl of the machine:
the one on PATH, siblings of it that have a version in their name (`kubectl.1.30`), and the newest,
if `scripts/find-kubectl --newest` has built it. Rows of other versions stay as they are.
"""

_measured: dict[str, list[Outcome]] = {}


def test_there_is_a_kubectl_to_test_with() -> None:
    assert programs(), "put kubectl 1.27 or newer on PATH, or run scripts/find-kubectl"


@pytest.mark.parametrize("program", programs(), ids=label)
def test_commands_do_what_they_do_on_a_cluster(
    program: Path, api_server: RunningApiServer, tmp_path: Path
) -> None:
    kubectl = Kubectl(program, api_server.kubeconfig, tmp_path)
    log = api_server.logs.folder / "default_talk" / "main.log"
    log.parent.mkdir(parents=True)
    log.write_text("hello from the pod\nsecond line\n")

    wrong = []
    outcomes = _measured.setdefault(version(program), [])
    for command in COMMANDS:
        done = _run(kubectl, command)
        exit_code = "-" if command.runs_on else str(done.returncode)
        outcomes.append(Outcome.of(exit_code, done.stdout, done.stderr))
        said = done.stdout + done.stderr
        expected = command.exceptions.get(label(program), command.exit_code)
        good = command.runs_on or done.returncode == expected
        if not good or (expected == command.exit_code and command.says not in said):
            wrong.append(f"{command.line} ({command.note}): exit {done.returncode}: {said}")

    assert not wrong, "\n".join(wrong)


def _run(kubectl: Kubectl, command: Command) -> subprocess.CompletedProcess[str]:
    arguments = shlex.split(command.line)
    if command.runs_on:
        return kubectl.run_until(command.says, *arguments)
    editor = "sed -i 's/timeout: 8/timeout: 9/'"
    return kubectl.run(*arguments, stdin=command.stdin, KUBE_EDITOR=editor)


def test_the_reference_shows_what_was_measured(pytestconfig: pytest.Config) -> None:
    commands = [_shown(command) for command in COMMANDS]
    if pytestconfig.getoption("--update-golden"):
        known, others = kubectl_table.parse(_REFERENCE.read_text())
        # Of other versions, what was measured of the same commands.
        kept = others if known == commands else {}
        replaced = {kubectl_table.short(found) for found in _measured}
        kept = {v: found for v, found in kept.items() if kubectl_table.short(v) not in replaced}
        _REFERENCE.write_text(kubectl_table.render(_HEAD, commands, {**kept, **_measured}))

    documented, outcomes = kubectl_table.parse(_REFERENCE.read_text())

    assert documented == commands
    assert kubectl_table.render(_HEAD, commands, outcomes) == _REFERENCE.read_text()
    for found, measured in _measured.items():
        if found in outcomes:
            assert outcomes[found] == measured, found


def _shown(command: Command) -> str:
    note = f" ({command.note})" if command.note else ""
    line = command.line.replace("|", "\\|")
    return f"`{line}`{note}"


@pytest.mark.parametrize("program", programs(), ids=label)
def test_wait_for_create_waits(program: Path, api_server: RunningApiServer, tmp_path: Path) -> None:
    kubectl = Kubectl(program, api_server.kubeconfig, tmp_path)
    if label(program) in ("1.27", "1.28", "1.29", "1.30"):
        refused = kubectl.run("wait", "--for=create", "configmap/later")
        assert "unrecognized condition" in refused.stderr
        return
    wait = [str(program), "wait", "--for=create", "configmap/later", "--timeout=20s", "-v=6"]

    with subprocess.Popen(
        wait, stderr=subprocess.PIPE, text=True, env=kubectl.environment(), cwd=tmp_path
    ) as waiting:
        assert waiting.stderr is not None
        # It has asked, and been told that there is none.
        next(line for line in waiting.stderr if "configmaps/later" in line and "404" in line)
        kubectl("create", "configmap", "later", "--from-literal=a=b")
        waiting.communicate(timeout=20)

    assert waiting.returncode == 0


@pytest.mark.parametrize("program", programs()[-1:], ids=label)
def test_get_with_w_prints_a_line_per_change(
    program: Path, api_server: RunningApiServer, tmp_path: Path
) -> None:
    kubectl = Kubectl(program, api_server.kubeconfig, tmp_path)
    kubectl("create", "configmap", "before", "--from-literal=a=b")

    with subprocess.Popen(
        [program, "get", "configmaps", "-w", "--no-headers"],
        stdout=subprocess.PIPE,
        text=True,
        env=kubectl.environment(),
        cwd=tmp_path,
    ) as watching:
        assert watching.stdout is not None
        first = watching.stdout.readline()
        kubectl("create", "configmap", "after", "--from-literal=a=b")
        second = watching.stdout.readline()
        watching.terminate()

    assert first.startswith("before")
    assert second.startswith("after")


@pytest.mark.parametrize("program", programs()[-1:], ids=label)
def test_a_client_side_applied_object_moves_to_server_side_apply(
    program: Path, api_server: RunningApiServer, tmp_path: Path
) -> None:
    kubectl = Kubectl(program, api_server.kubeconfig, tmp_path)
    kubectl("apply", "-f", "-", stdin=RULE)

    kubectl("apply", "--server-side", "-f", "-", stdin=RULE)
    without_host = RULE.replace("[GET], noAuth", "[POST], noAuth")
    kubectl("apply", "--server-side", "-f", "-", stdin=without_host)

    shown = kubectl("get", "apirule", "shop", "-o", "json", "--show-managed-fields")
    rule = json.loads(shown)
    managers = {
        (entry["manager"], entry["operation"]) for entry in rule["metadata"]["managedFields"]
    }
    # The second one keeps the annotation of the client side up to date, nothing else.
    assert managers == {("kubectl", "Apply"), ("kubectl-last-applied", "Apply")}
    assert rule["spec"]["rules"][0]["methods"] == ["POST"]
