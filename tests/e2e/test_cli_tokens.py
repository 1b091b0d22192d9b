"""token and curl against a running instance."""

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from instance import Instance
from tests.e2e.gateway import ask, token


def claims(text: str) -> dict[str, Any]:
    payload = text.split(".")[1]
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=="))
    return decoded


def url(instance: Instance, path: str = "/headers", host: str = "httpbin") -> str:
    return f"https://{host}.{instance.domain}:{instance.https_port}{path}"


# ── token ────────────────────────────────────────────────────────────────────────────────────


def test_a_token_is_as_it_is_wished(instance: Instance) -> None:
    plain = claims(token(instance))
    wished = claims(token(instance, "--ttl", "2h", "--scope", "write", "--audience", "orders"))

    assert (plain["sub"], plain["exp"] - plain["iat"], plain["scope"]) == ("demo", 300, "read")
    assert wished["exp"] - wished["iat"] == 7200
    assert (wished["scope"], wished["aud"]) == ("write", "orders")


def test_people_have_tokens_too(instance: Instance) -> None:
    access = token(instance, "--user", "jane")
    identity = claims(token(instance, "--user", "jane", "--id-token"))
    refresh = token(instance, "--user", "jane", "--refresh")
    everything = json.loads(token(instance, "--user", "bob", "-o", "json"))

    assert claims(access)["sub"] == "jane"
    assert ask(instance, "httpbin", token=access).status == 200
    assert (identity["email"], identity["groups"]) == (
        "jane@kyma.localhost",
        ["admins", "developers"],
    )
    assert "." not in refresh
    assert {"access_token", "id_token", "refresh_token"} <= set(everything)


def test_an_unknown_person_is_named(instance: Instance) -> None:
    done = instance.apirule("token", "get", "--user", "nobody", check=False)

    assert done.returncode == 2
    assert "The issuer has no user 'nobody'; it has jane, bob." in done.stderr


def test_any_issuer_gives_a_token_to_its_client(instance: Instance) -> None:
    """The local one, as if it were somebody else's."""
    values = json.loads(instance.apirule("env", "-o", "json").stdout)
    words = ["--client-id", values["CLIENT_ID"], "--client-secret"]

    good = token(instance, "--issuer", values["ISSUER"], *words, values["CLIENT_SECRET"])
    bad = instance.apirule(
        "token", "get", "--issuer", values["ISSUER"], *words, "guess", check=False
    )

    assert claims(good)["iss"] == values["ISSUER"]
    assert (bad.returncode, "invalid_client" in bad.stderr) == (4, True)


def test_an_inspection_says_who_signed_and_who_would_accept(instance: Instance) -> None:
    good = instance.apirule("token", "inspect", token(instance)).stdout
    expired = instance.apirule("token", "forge", "expired").stdout
    bad = instance.apirule("token", "forge", "bad-signature").stdout
    stranger = instance.apirule("token", "forge", "wrong-issuer").stdout

    def last_line(text: str) -> str:
        return instance.apirule("token", "inspect", text).stdout.splitlines()[-1]

    assert good.splitlines()[0].startswith("alg RS256  kid ")
    assert good.splitlines()[0].endswith("signature ok (local issuer)")
    # Signed in this second, or some seconds ago.
    in_time = ("exp        in 5 min 0 s", "exp        in 4 min ")
    assert any(line.startswith(in_time) for line in good.splitlines())
    assert "would be accepted by default/httpbin rule 1" in good.splitlines()
    assert last_line(expired) == "would be refused by every rule: it has expired"
    assert last_line(bad) == "would be refused by every rule: its signature is wrong"
    assert (
        "would be refused by default/httpbin rule 1 (needs a token of"
        in instance.apirule("token", "inspect", stranger).stdout
    )


def test_the_next_key_signs_and_was_known_before(instance: Instance) -> None:
    def kids() -> set[str]:
        document = json.loads(instance.apirule("token", "jwks").stdout)
        return {key["kid"] for key in document["keys"]}

    old, before = token(instance), kids()
    rotated = instance.apirule("token", "rotate-keys").stdout
    new, after = token(instance), kids()

    signing = dict(line.split(" signs with ") for line in rotated.splitlines())
    assert set(signing) == {"RS256", "ES256", "EdDSA"}
    assert set(signing.values()) <= before & after
    assert [ask(instance, "httpbin", token=one).status for one in (old, new)] == [200, 200]


# ── curl ─────────────────────────────────────────────────────────────────────────────────────


def test_curl_has_ca_address_and_token(instance: Instance) -> None:
    with_token = instance.apirule("curl", "-sS", url(instance))
    as_jane = instance.apirule("curl", "--as", "jane", "-sS", url(instance, "/headers"))
    status = ["-sS", "-o", "/dev/null", "-w", "%{http_code}"]
    without = instance.apirule("curl", *status, "--no-token", url(instance))

    def sent(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
        return claims(json.loads(done.stdout)["headers"]["Authorization"])

    assert sent(with_token)["sub"] == "demo"
    assert sent(as_jane)["sub"] == "jane"
    assert without.stdout == "401"


def test_fail_ends_with_22_as_curl_does(instance: Instance) -> None:
    done = instance.apirule("curl", "-sS", "--fail", "--no-token", url(instance), check=False)

    assert done.returncode == 22


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (
            ["--no-token"],
            "it has no token; APIRule default/httpbin rule 1 asks for one of {issuer}",
        ),
        (["--token", "not.a.token"], "Jwt header is an invalid JSON"),
    ],
)
def test_a_refusal_is_explained(instance: Instance, words: list[str], why: str) -> None:
    done = instance.apirule("curl", "-sS", *words, url(instance, "/headers"))

    issuer = f"http://oidc.{instance.domain}:{instance.http_port}"
    assert f"why: {why.format(issuer=issuer)} (see apirule logs --denied)" in done.stderr


def test_what_a_token_lacks_is_explained_and_the_token_is_not_shown(
    instance: Instance, tmp_path: Path
) -> None:
    issuer = f"http://oidc.{instance.domain}:{instance.http_port}"
    authentication = {"issuer": issuer, "jwksUri": f"{issuer}/oauth2/certs"}
    authorization = {"requiredScopes": ["write"], "audiences": ["till"]}
    rule = {
        "apiVersion": "gateway.kyma-project.io/v2",
        "kind": "APIRule",
        "metadata": {"name": "lacking", "namespace": "default"},
        "spec": {
            "hosts": ["lacking"],
            "gateway": "kyma-system/kyma-gateway",
            "service": {"name": "httpbin", "port": 8000},
            "rules": [
                {
                    "path": "/headers",
                    "methods": ["GET"],
                    "jwt": {
                        "authentications": [authentication],
                        "authorizations": [authorization],
                    },
                }
            ],
        },
    }
    file = tmp_path / "rule.json"
    file.write_text(json.dumps(rule))
    instance.apirule("apply", "-f", str(file), "--wait")
    sent = token(instance)

    done = instance.apirule("curl", "-sS", "--token", sent, url(instance, host="lacking"))
    told = instance.apirule("logs", "--denied").stdout
    instance.apirule("delete", "-f", str(file))

    why = (
        "APIRule default/lacking rule 1 needs scope write, audience till; "
        "its token has scope read, audience demo"
    )
    assert why in done.stderr
    assert why in told
    assert not any(part in done.stderr + told for part in sent.split("."))


def test_what_the_program_answers_is_not_explained(instance: Instance) -> None:
    done = instance.apirule("curl", "-sS", url(instance, "/status/403"))

    assert done.stderr == ""


def test_a_printed_command_holds_no_token_and_works(instance: Instance) -> None:
    printed = instance.apirule("curl", "--print", "-sS", url(instance)).stdout

    bin_folder = Path(sys.executable).parent
    done = subprocess.run(
        ["sh", "-c", printed],
        env={**instance.environment, "PATH": f"{bin_folder}:{instance.environment['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert "eyJ" not in printed
    assert "Authorization" in json.loads(done.stdout)["headers"]


@pytest.fixture
def spied(tmp_path: Path) -> Path:
    """A curl that notes how it was called, and what it was to read."""
    program = tmp_path / "bin/curl"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        "words = sys.argv[1:]\n"
        "files = [open(word[1:]).read() for word in words if word.startswith('@')]\n"
        "print(json.dumps({'words': words, 'files': files}))\n"
    )
    program.chmod(0o755)
    return program.parent


def spy(instance: Instance, folder: Path, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "apirule", "curl", *words],
        env={**instance.environment, "PATH": f"{folder}:{instance.environment['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "stderr": done.stderr}


def test_no_other_process_can_read_the_token(instance: Instance, spied: Path) -> None:
    seen = spy(instance, spied, url(instance))

    assert not any("eyJ" in word for word in seen["words"])
    assert seen["files"][0].startswith("Authorization: Bearer eyJ")


@pytest.mark.parametrize(
    "words",
    [
        ["https://example.com/"],
        ["https://httpbin.kyma.localhost/", "https://example.com/"],
        ["https://httpbin.kyma.localhost.example.com/"],
        ["https://httpbin.kyma.localhost@example.com/"],
        ["example.com"],
        ["http://127.0.0.1:1/"],
    ],
    ids=" ".join,
)
def test_a_token_of_the_issuer_stays_at_home(
    instance: Instance, spied: Path, words: list[str]
) -> None:
    seen = spy(instance, spied, *words)
    asked = spy(instance, spied, "--as", "jane", *words)
    given = spy(instance, spied, "--token", "mine", *words)

    assert (seen["files"], asked["files"]) == ([], [])
    assert "no token is sent" in asked["stderr"]
    assert given["files"] == ["Authorization: Bearer mine\n"]
