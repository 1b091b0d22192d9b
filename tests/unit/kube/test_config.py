import base64
import ssl
from pathlib import Path
from typing import Any

import pytest

from apirule.kube.config import KubeConfig
from apirule.problem import SetupError


def document(**parts: Any) -> dict[str, Any]:
    cluster = {"server": "https://127.0.0.1:6443/"} | parts.get("cluster", {})
    return {
        "current-context": "main",
        "contexts": [{"name": "main", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": parts.get("user", {})}],
    }


def test_data_and_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "client.key").write_bytes(b"KEY")
    (tmp_path / "config").write_text(
        """
current-context: main
contexts: [{name: main, context: {cluster: c, user: u, namespace: shop}}]
clusters: [{name: c, cluster: {server: "https://h:1", certificate-authority-data: Q0E=}}]
users: [{name: u, user: {client-certificate-data: Q0VSVA==, client-key: client.key}}]
"""
    )

    config = KubeConfig.load(tmp_path / "config")

    assert (config.server, config.namespace) == ("https://h:1", "shop")
    assert (config.ca, config.client_cert, config.client_key) == (b"CA", b"CERT", b"KEY")


def test_another_context_can_be_chosen() -> None:
    parts = document()
    parts["contexts"].append({"name": "other", "context": {"cluster": "c", "namespace": "n"}})

    config = KubeConfig.parse(parts, context="other")

    assert config.namespace == "n"


def test_a_token_file_wins_over_a_token(tmp_path: Path) -> None:
    config = KubeConfig.parse(document(user={"token": "old", "tokenFile": "token"}), base=tmp_path)

    assert (config.token, config.token_file) == (None, tmp_path / "token")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        pytest.param({"user": {"exec": {"command": "aws"}}}, "'exec'", id="exec plugin"),
        pytest.param({"user": {"auth-provider": {"name": "gcp"}}}, "'auth-provider'", id="old"),
        pytest.param({"user": {"username": "x", "password": "y"}}, "'username'", id="password"),
        pytest.param({"cluster": {"proxy-url": "http://p"}}, "'proxy-url'", id="proxy"),
        pytest.param(
            {"cluster": {"server": "http://h:1"}, "user": {"token": "t"}},
            "in the clear",
            id="token over http",
        ),
        pytest.param({"cluster": {"server": "h:1"}}, "not an http", id="no URL"),
        pytest.param({"user": {"client-key-data": "S0VZ"}}, "without its key", id="half a pair"),
        pytest.param({"cluster": {"certificate-authority-data": "%"}}, "Base64", id="not Base64"),
        pytest.param({"cluster": {"certificate-authority": "no"}}, "cannot be read", id="no file"),
    ],
)
def test_what_cannot_be_honoured_is_refused(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(SetupError, match=message):
        KubeConfig.parse(document(**parts), base=Path("/nonexistent"))


def test_a_missing_file_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot be read") as caught:
        KubeConfig.load(tmp_path / "config")

    assert "apirule up" in caught.value.fix


@pytest.mark.parametrize("text", ["[", "just text", "{}", "[" * 100_000])
def test_a_file_that_is_no_kubeconfig_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config").write_text(text)

    with pytest.raises(SetupError):
        KubeConfig.load(tmp_path / "config")


def test_secrets_do_not_show_in_a_repr() -> None:
    key = base64.b64encode(b"SECRET-KEY").decode()
    config = KubeConfig.parse(
        document(user={"token": "SECRET", "client-certificate-data": key, "client-key-data": key})
    )

    assert "SECRET" not in repr(config)


def test_a_pod_uses_its_service_account(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(b"CA")
    (tmp_path / "namespace").write_text("kyma-system\n")

    config = KubeConfig.in_cluster("fd00::1", "443", root=tmp_path)

    assert config.server == "https://[fd00::1]:443"
    assert config.token_file == tmp_path / "token"
    assert config.namespace == "kyma-system"


def test_outside_a_pod_that_is_said() -> None:
    with pytest.raises(SetupError, match="not in a Pod"):
        KubeConfig.in_cluster("", "")


def test_only_the_named_ca_is_trusted() -> None:
    open_config = KubeConfig(server="https://h:1")
    context = open_config.ssl_context()

    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert KubeConfig(server="http://h:1").ssl_context() is None
    with pytest.raises(SetupError, match="cannot be loaded"):
        KubeConfig(server="https://h:1", ca=b"not PEM").ssl_context()
