"""The command line without an instance: usage, exit codes, what goes where."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from apirule.cli import COMMANDS, cli

Run = Callable[..., subprocess.CompletedProcess[str]]

# Whatever has the usual ones, an instance of `make demo` for example.
FREE = {"APIRULE_HTTPS_PORT": "1024", "APIRULE_API_PORT": "1025", "APIRULE_HTTP_PORT": "1026"}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a command as a user without any state; words may be bytes on stdin."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("APIRULE_", "XDG_", "KUBE"))}

    def call(*words: str, stdin: bytes = b"", **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "apirule", *words],
            env={**kept, "HOME": str(tmp_path / "home"), **env},
            cwd=tmp_path,
            input=stdin,
            capture_output=True,
            check=False,
        )
        text = (done.stdout.decode(), done.stderr.decode())
        assert "Traceback" not in text[1]
        return subprocess.CompletedProcess(words, done.returncode, *text)

    return call


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    done = CliRunner().invoke(cli, [name, "--help"], prog_name="apirule")

    assert done.exit_code == 0
    assert done.stdout.startswith(f"Usage: apirule {name}")


@pytest.mark.parametrize(
    ("words", "meant"),
    [(["staus"], "status"), (["tokn"], "token"), (["token", "forg"], "forge")],
    ids=["a command", "a group", "a command of a group"],
)
def test_an_unknown_word_is_answered_with_the_nearest_one(
    run: Run, words: list[str], meant: str
) -> None:
    done = run(*words)

    assert done.returncode == 2
    assert f"Did you mean '{meant}'?" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["logs"],
        ["get", "apirules"],
        ["describe", "apirule/x"],
        ["wait", "apirule/x", "--for=delete"],
        ["env"],
        ["kubeconfig"],
        ["token", "get"],
        ["token", "jwks"],
        ["token", "rotate-keys"],
        ["token", "forge", "expired"],
        ["curl", "http://127.0.0.1/"],
        ["stop", "x"],
        ["restart", "x"],
        ["restart", "control-plane"],
        ["run", "x", "--port", "9", "--", "true"],
        ["render", "--to", "envoy"],
    ],
    ids=" ".join,
)
def test_what_needs_an_instance_says_so(run: Run, words: list[str]) -> None:
    done = run(*words)

    sentence = "There are no logs in" if words == ["logs"] else "apirule is not running."
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {sentence}")
    assert done.stderr.endswith("\nfix:   Start it: apirule up\n")


def test_down_has_nothing_to_do(run: Run) -> None:
    assert run("down").stdout == "apirule was not running\n"
    assert run("down", "--purge").returncode == 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x00\xff\xfe\x80", "1:1: error: this is no text in UTF-8"),
        (b"a: 1\nb: \xff", "2:1: error: this is no text in UTF-8"),
        (None, "1:1: error: this cannot be read: No such file or directory"),
    ],
    ids=["a binary file", "another encoding", "no file"],
)
def test_a_file_that_is_no_manifest_is_refused_by_name(
    run: Run, tmp_path: Path, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / "rule.yaml").write_bytes(content)

    for command in ("validate", "apply", "render", "diff", "delete"):
        done = run(command, "-f", "rule.yaml")

        assert done.returncode == 2
        assert f"rule.yaml:{says}" in done.stderr


def test_one_file_that_cannot_be_read_hides_no_other(run: Run, tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules/a.yaml").write_bytes(b"\xff")
    (tmp_path / "rules/b.yaml").write_text("kind: APIRule")

    done = run("validate", "-f", "rules")

    assert done.returncode == 2
    assert "rules/a.yaml:1:1: error: this is no text in UTF-8" in done.stderr
    assert "rules/b.yaml:1:1: error: apiVersion: Required value" in done.stderr


def test_a_manifest_may_be_an_address(run: Run) -> None:
    with serving({"/rule.yaml": b"kind: APIRule"}) as url:
        found = run("validate", "-f", f"{url}/rule.yaml")
        missing = run("validate", "-f", f"{url}/other.yaml")

    assert f"{url}/rule.yaml:1:1: error: apiVersion: Required value" in found.stderr
    assert missing.returncode == 2
    assert "this cannot be read: the server answers 404" in missing.stderr


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[str]:
    """A web server with these files; gives its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = files.get(self.path)
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "error: no objects passed to apply"),
        ("{apiVersion: v1, kind: ConfigMap}", "metadata.name: Required value"),
        (
            "{apiVersion: v1, kind: ConfigMap, metadata: {generateName: g-}}",
            "use kubectl create",
        ),
    ],
    ids=["nothing", "no name", "a name to be made"],
)
def test_what_cannot_be_applied_is_said_before_anybody_is_asked(
    run: Run, text: str, says: str
) -> None:
    done = run("apply", "-f", "-", stdin=text.encode())

    assert (done.returncode, done.stdout) == (1, "")
    assert says in done.stderr


def test_a_folder_without_manifests_is_not_taken_for_a_valid_one(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    done = run("validate", "-f", "empty")

    assert done.returncode == 2
    assert "The folder empty holds no" in done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("APIRULE_HTTPS_PORT", "abc", "https_port: Expected `int`, got `str`"),
        ("APIRULE_HTTP_PORT", "0", "http_port: Expected `int` >= 1"),
        ("APIRULE_API_PORT", "99999", "api_port: Expected `int` <= 65535"),
        ("APIRULE_API_PORT", "8443", "Two of the ports are the same: 8443, 8080, 8443"),
        ("APIRULE_DOMAIN", "Not A Domain", "domain: Expected a name such as kyma.localhost"),
        ("APIRULE_LOG_LEVEL", "loud", "log_level: Invalid enum value 'loud'"),
        ("APIRULE_MISSING_TOKEN_STATUS", "404", "missing_token_status: Invalid enum value 404"),
    ],
)
def test_a_wrong_setting_is_named(run: Run, variable: str, value: str, says: str) -> None:
    done = run("up", **{variable: value})

    assert done.returncode == 3
    assert says in done.stderr


def test_a_state_folder_of_another_version_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/settings.json").write_text('{"colour": "green"}')

    done = run("--state", "state", "status")

    assert done.returncode == 3
    assert "settings.json was not written by this version of apirule" in done.stderr


def test_a_foreign_folder_is_neither_used_nor_purged(run: Run, tmp_path: Path) -> None:
    precious = tmp_path / "work/thesis.txt"
    precious.parent.mkdir()
    precious.write_text("years")

    up = run("--state", "work", "up", **FREE)
    purge = run("--state", "work", "down", "--purge")

    assert (up.returncode, purge.returncode) == (3, 3)
    assert "work is not empty, and what is in it is not apirule's" in up.stderr
    assert "is not a state folder of apirule" in purge.stderr
    assert list(precious.parent.iterdir()) == [precious]


def test_a_state_folder_that_cannot_be_made_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    done = run("--state", "file/state", "up", **FREE)

    assert done.returncode == 3
    assert "file/state cannot be made: Not a directory" in done.stderr


def test_only_the_answer_goes_to_stdout(run: Run, tmp_path: Path) -> None:
    (tmp_path / "rule.yaml").write_text("kind: APIRule\napiVersion: gateway.kyma-project.io/v2\n")

    text = run("validate", "--offline", "-f", "rule.yaml")
    machine = run("validate", "--offline", "-f", "rule.yaml", "-o", "json")

    assert text.returncode == machine.returncode == 1
    assert text.stdout == ""
    assert {"source", "line", "column", "severity", "field", "reason", "message", "fix"} == set(
        json.loads(machine.stdout)[0]
    )


@pytest.mark.parametrize(
    ("words", "env", "colored"),
    [
        ([], {}, False),
        (["--color", "always"], {}, True),
        (["--color", "never"], {"FORCE_COLOR": "1"}, False),
        ([], {"FORCE_COLOR": "1"}, True),
        ([], {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_colours_are_as_asked_for(
    run: Run, words: list[str], env: dict[str, str], colored: bool
) -> None:
    finding = run(*words, "validate", "--offline", "-f", "-", stdin=b"a: b", **env)
    mishap = run(*words, "status", **env)

    assert (finding.returncode, mishap.returncode) == (1, 3)
    assert ("\x1b[" in finding.stderr) is colored
    assert ("\x1b[" in mishap.stderr) is colored


def test_a_hint_means_the_instance_that_was_meant(run: Run) -> None:
    assert (
        "fix:   Start it: apirule --state 'my state' up\n"
        in run("--state", "my state", "status").stderr
    )
    assert "fix:   Start it: apirule up\n" in run("status", APIRULE_STATE="elsewhere").stderr


def test_a_traceback_comes_before_the_sentence_and_changes_no_exit_code(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "apirule", "-vv", "--state", "none", "status"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 3
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.splitlines()[-2:] == [
        "error: apirule is not running.",
        "fix:   Start it: apirule --state none up",
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_completion_script(run: Run, shell: str) -> None:
    assert "_APIRULE_COMPLETE" in run("completion", shell).stdout


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("apirule st", {"status", "stop"}),
        ("apirule token f", {"forge"}),
        ("apirule get api", {"apirules"}),
    ],
)
def test_the_shell_is_offered_words(run: Run, line: str, offered: set[str]) -> None:
    words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}

    done = run(**words, _APIRULE_COMPLETE="bash_complete")

    assert {entry.partition(",")[2] for entry in done.stdout.split()} == offered


def test_names_are_not_offered_when_nothing_runs(run: Run) -> None:
    done = run(
        COMP_WORDS="apirule get apirules h", COMP_CWORD="3", _APIRULE_COMPLETE="bash_complete"
    )

    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_a_token_can_be_inspected_without_an_instance(run: Run) -> None:
    done = run("token", "inspect", stdin=b"Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.")

    assert done.returncode == 0
    assert done.stdout == "alg none  kid None  signature not by the local issuer\nsub        a\n"
    assert "it has no exp" in done.stderr


@pytest.mark.parametrize("text", ["abc", "a.b.c", "....", ""])
def test_what_is_no_token_is_refused(run: Run, text: str) -> None:
    done = run("token", "inspect", stdin=text.encode())

    assert done.returncode == 1
    assert done.stderr.startswith("error: not a JWT: ")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["token", "get", "--client-id", "a"], "go with --issuer URL"),
        (["token", "get", "--issuer", "http://127.0.0.1:1"], "goes with --client-id"),
        (
            [
                *("token", "get", "--issuer", "http://127.0.0.1:1"),
                *("--client-id", "a", "--client-secret", "b", "--user", "jane"),
            ],
            "and without --client, --user",
        ),
        (["run", "x", "--port", "70000", "--", "true"], "70000 is not in the range"),
        (["run", "Bad", "--port", "70", "--", "true"], "cannot be the name of a workload"),
        (["run", "x", "--", "true"], "Missing option '--port'"),
        (["get", "pods", "x", "-A"], "goes with neither -A nor -l"),
        (["get", "pods", "-o", "toml"], "is none of table, wide"),
        (["wait", "pods/x", "--for", "luck"], "--for=luck is not understood"),
        (["delete", "pods"], "Name objects (KIND NAME…) or manifests"),
        (["delete", "pods/x", "-f", "x"], "Name objects (KIND NAME…) or manifests"),
        (["describe", "pods"], "Name the object: KIND NAME or KIND/NAME."),
        (["get", "pods,services", "-w"], "--watch takes one kind"),
        (["get", "pods", "-o", "jsonpath={.items"], "has a brace that is never closed"),
        (["run", "x", "--port", "9", "--service", "80:81", "--", "true"], "leads to 81, but"),
        (["run", "x", "--port", "9", "--service", "80:", "--", "true"], "is no port; write 80"),
        (["token", "get", "--id-token"], "Only people have ID tokens"),
        (["token", "get", "--ttl", "soon"], "'soon' is no duration"),
        (["curl", "--as", "jane", "--no-token", "http://a"], "exclude each other"),
        (["logs", "--previous", "-f"], "nothing to --follow"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_exit_code_2(run: Run, words: list[str], says: str) -> None:
    done = run(*words)

    assert done.returncode == 2
    assert says in done.stderr


def test_an_issuer_that_does_not_answer_is_named(run: Run) -> None:
    words = ("--issuer", "http://127.0.0.1:1", "--client-id", "a", "--client-secret", "b")

    done = run("token", "get", *words)

    assert done.returncode == 3
    assert "http://127.0.0.1:1/.well-known/openid-configuration does not answer" in done.stderr


def test_an_issuer_on_a_localhost_name_is_found_without_a_resolver(run: Run) -> None:
    with serving({"/.well-known/openid-configuration": b'{"issuer": "x"}'}) as url:
        port = url.rpartition(":")[2]
        issuer = f"http://idp.localhost:{port}"
        words = ("--issuer", issuer, "--client-id", "a", "--client-secret", "b")

        done = run("token", "get", *words)

    assert f"{issuer}/.well-known/openid-configuration names no token_endpoint" in done.stderr


def test_another_cluster_is_the_one_that_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        json.dumps(
            {
                "current-context": "far",
                "contexts": [{"name": "far", "context": {"cluster": "far"}}],
                "clusters": [{"name": "far", "cluster": {"server": "http://127.0.0.1:1"}}],
            }
        )
    )

    named = run("get", "--kubeconfig", "config")
    by_context = run("get", "--context", "far", KUBECONFIG="config")
    unknown = run("get", "--context", "near", KUBECONFIG="config")

    for done in (named, by_context):
        assert done.returncode == 3
        assert "The API server http://127.0.0.1:1 does not answer" in done.stderr
    assert "has no entry 'near' in contexts" in unknown.stderr


def test_a_login_that_could_not_work_is_not_written(run: Run) -> None:
    done = run("kubeconfig", "--oidc")

    assert (done.returncode, done.stdout) == (1, "")
    assert "by client certificates only" in done.stderr


def test_a_context_is_merged_into_what_kubectl_reads(run: Run, tmp_path: Path) -> None:
    assert run("kubeconfig", "--merge").returncode == 3
    assert not (tmp_path / "home/.kube").exists()
