"""Every kubectl command of the table, with every kubectl there is, against the running server."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from tests.shells.conftest import RunningApiServer
from tests.shells.kubectl_commands import COMMANDS, RULE, Command
from tests.shells.kubectls import Kubectl, label, programs

pytestmark = pytest.mark.kubectl

_REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "kubectl.md"
_HEAD = """\
# kubectl

What kubectl commands come to against the API server of `apirule up`: the exit code of each, by the
version of kubectl. The table is written by the test run that measured it
(`pytest tests/shells/test_kubectl_commands.py --update-golden`), the commands build on one another
from top to bottom.

"""

_measured: dict[str, list[int]] = {}


@pytest.mark.parametrize("program", programs(), ids=label)
def test_commands_do_what_they_do_on_a_cluster(
    program: Path, api_server: RunningApiServer, tmp_path: Path
) -> None:
    kubectl = Kubectl(program, api_server.kubeconfig, tmp_path)
    log = api_server.logs.folder / "default_talk" / "main.log"
    log.parent.mkdir(parents=True)
    log.write_text("hello from the pod\nsecond line\n")
    version = label(program)

    wrong = []
    codes = _measured.setdefault(version, [])
    for command in COMMANDS:
        done = kubectl.run(
            *shlex.split(command.line),
            stdin=command.stdin,
            KUBE_EDITOR="sed -i 's/timeout: 8/timeout: 9/'",
        )
        codes.append(done.returncode)
        said = done.stdout + done.stderr
        expected = command.exceptions.get(version, command.exit_code)
        if done.returncode != expected or (not expected and command.says not in said):
            wrong.append(f"{command.line} ({command.note}): exit {done.returncode}: {said}")
        elif expected == command.exit_code and command.says not in said:
            wrong.append(f"{command.line} ({command.note}): says {said}")

    assert not wrong, "\n".join(wrong)


def test_the_reference_shows_what_was_measured(pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("--update-golden"):
        _REFERENCE.parent.mkdir(parents=True, exist_ok=True)
        _REFERENCE.write_text(_HEAD + _table(_measured))

    documented = _columns(_REFERENCE.read_text())
    lines = [_shown(command) for command in COMMANDS]

    assert documented.pop("Command") == lines
    for version, codes in _measured.items():
        if version in documented:
            assert documented[version] == [str(code) for code in codes], version


def _table(measured: dict[str, list[int]]) -> str:
    versions = list(measured)
    rows = [
        f"| {' | '.join(['Command', *versions])} |",
        f"|{'---|' * (len(versions) + 1)}",
    ]
    for index, command in enumerate(COMMANDS):
        codes = [str(measured[version][index]) for version in versions]
        rows.append(f"| {' | '.join([_shown(command), *codes])} |")
    return "\n".join(rows) + "\n"


def _shown(command: Command) -> str:
    note = f" ({command.note})" if command.note else ""
    line = command.line.replace("|", "\\|")
    return f"`{line}`{note}"


def _columns(text: str) -> dict[str, list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    head, _, *body = rows
    return {name: [row[index] for row in body] for index, name in enumerate(head)}


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
