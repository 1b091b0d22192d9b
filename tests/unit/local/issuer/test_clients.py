from pathlib import Path

import pytest
import yaml

from apirule.local.issuer import clients
from apirule.local.issuer.clients import Client, Directory, User, allows_redirect, same_secret
from apirule.problem import SetupError


def write(folder: Path, text: str) -> None:
    path = folder / clients.FILE
    path.touch(0o600)
    path.write_text(text)


def test_a_new_instance_has_the_clients_and_users_of_the_tutorials(tmp_path: Path) -> None:
    made = clients.load_or_create(tmp_path, "kyma.localhost")
    again = clients.load_or_create(tmp_path, "kyma.localhost")

    assert [one.id for one in made.clients] == ["demo", "dashboard", "kubectl"]
    assert [one.public for one in made.clients] == [False, True, True]
    assert len(made.clients[0].secret) == 20
    assert [(one.id, one.groups) for one in made.users] == [
        ("jane", ("admins", "developers")),
        ("bob", ("developers",)),
    ]
    assert again == made
    assert (tmp_path / clients.FILE).stat().st_mode & 0o777 == 0o600


def test_another_domain_changes_the_addresses_and_nothing_else(tmp_path: Path) -> None:
    before = clients.load_or_create(tmp_path, "kyma.localhost")
    after = clients.load_or_create(tmp_path, "local.kyma.dev")

    assert before.clients[1].redirect_uris[0] == "http://dashboard.kyma.localhost/auth/callback"
    assert after.clients[1].redirect_uris[0] == "http://dashboard.local.kyma.dev/auth/callback"
    assert after.users[0].email == "jane@local.kyma.dev"
    assert [one.secret for one in after.clients] == [one.secret for one in before.clients]


def test_two_instances_share_no_secret() -> None:
    one, other = clients.defaults(), clients.defaults()

    assert one.clients[0].secret != other.clients[0].secret
    assert one.users[0].password != other.users[0].password


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("[", "is not valid", id="no YAML"),
        pytest.param("[" * 100_000, "nested deeper", id="nested without end"),
        pytest.param("clients: [{id: a, secrets: b}]", "secrets", id="unknown field"),
        pytest.param("clients: [{id: a, secret: 5}]", "Expected `str`", id="type"),
        pytest.param("clients: [{id: a, secret: s}, {id: a, secret: s}]", "twice", id="twice"),
        pytest.param("clients: [{id: a}]", "needs a secret", id="public machine"),
        pytest.param(
            "clients: [{id: a, secret: s, defaultScope: [x]}]", "'x' is not among", id="scope"
        ),
        pytest.param(
            "clients: [{id: a, secret: s, lifetimeS: 0}]", "must be positive", id="lifetime"
        ),
        pytest.param(
            'clients: [{id: a, secret: s, redirectUris: ["http://example.org/"]}]',
            "plain HTTP",
            id="plain http",
        ),
        pytest.param(
            'clients: [{id: a, secret: s, redirectUris: ["javascript:x"]}]',
            "not an http",
            id="scheme",
        ),
        pytest.param("users: [{id: u, password: ''}]", "password is empty", id="no password"),
        pytest.param(
            "{clients: [{id: a, secret: s}], users: [{id: a, password: p}]}",
            "same id",
            id="client and user",
        ),
    ],
)
def test_a_wrong_file_says_where(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, text)

    with pytest.raises(SetupError, match=message):
        clients.load(tmp_path, "kyma.localhost")


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "{}")
    (tmp_path / clients.FILE).chmod(0o640)

    with pytest.raises(SetupError, match="other users"):
        clients.load(tmp_path, "kyma.localhost")


def test_what_is_written_can_be_read_by_people(tmp_path: Path) -> None:
    clients.load_or_create(tmp_path, "kyma.localhost")

    text = (tmp_path / clients.FILE).read_text()

    assert text.startswith("# Clients and users")
    assert yaml.safe_load(text)["clients"][0]["defaultScope"] == ["read"]


@pytest.mark.parametrize(
    ("registered", "uri", "allowed"),
    [
        ("https://app.example/cb", "https://app.example/cb", True),
        ("https://app.example/cb", "https://app.example/cb/", False),
        ("https://app.example/cb", "https://app.example:8443/cb", False),
        ("http://localhost/cb", "http://localhost:5000/cb", True),
        ("http://localhost/cb", "http://localhost/cb", True),
        ("http://localhost/cb", "http://127.0.0.1:5000/cb", False),
        ("http://localhost", "http://localhost:5000", True),
        ("http://localhost", "http://localhost:5000/", False),
        ("http://127.0.0.1/cb", "http://127.0.0.1:1/cb", True),
        ("http://[::1]/cb", "http://[::1]:5000/cb", True),
        ("http://d.kyma.localhost/cb", "http://d.kyma.localhost:8080/cb", True),
        ("http://d.own.example/cb", "http://d.own.example:8080/cb", True),
        ("http://d.example/cb", "http://d.example:8080/cb", False),
        ("http://localhost/cb", "http://localhost:99999/cb", False),
        ("http://localhost/cb", "http://localhost:5000@evil/cb", False),
        ("http://localhost/cb", "http://localhost:5000/cb#x", False),
        ("http://localhost/cb", "http://[localhost:5000/cb", False),
    ],
)
def test_redirects_are_compared_to_the_letter(registered: str, uri: str, allowed: bool) -> None:
    assert allows_redirect((registered,), uri, domain="own.example") is allowed


def test_secrets_of_any_text_are_compared_and_an_empty_one_is_nobodys() -> None:
    assert same_secret("pässword", "pässword")
    assert not same_secret("passwörd", "password")
    assert not same_secret("", "")


def test_a_person_is_known_by_both_name_and_password() -> None:
    directory = Directory(users=(User(id="jane", password="p"), User(id="bob", password="q")))

    jane = directory.sign_in("jane", "p")

    assert jane is not None
    assert jane.id == "jane"
    assert directory.sign_in("bob", "p") is None
    assert directory.sign_in("nobody", "") is None


@pytest.mark.parametrize(
    ("audiences", "default", "asked", "allowed"),
    [
        ((), "c", "c", True),
        ((), "c", "x", False),
        (("a", "b"), "a", "b", True),
        (("*", "a"), "a", "anything", True),
    ],
)
def test_audiences(audiences: tuple[str, ...], default: str, asked: str, allowed: bool) -> None:
    client = Client(id="c", secret="s", audiences=audiences)

    assert client.default_audience == default
    assert client.may_ask_for(asked) is allowed
