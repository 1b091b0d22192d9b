"""How to reach an API server: a kubeconfig file, or what a Pod finds mounted.

Credentials never go over plain HTTP, and what we cannot honour (exec plugins, proxies) is refused
instead of left out.
"""

from __future__ import annotations

import base64
import binascii
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apirule import manifest
from apirule.problem import SetupError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes mounts the token, the CA and the namespace of a Pod."""


@dataclass(frozen=True, slots=True)
class KubeConfig:
    """Server and credentials. PEM data are held in memory; a token file is read again when due."""

    server: str
    ca: bytes | None = field(default=None, repr=False)
    tls_server_name: str | None = None
    insecure_skip_tls_verify: bool = False
    client_cert: bytes | None = field(default=None, repr=False)
    client_key: bytes | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    namespace: str = "default"

    def __post_init__(self) -> None:
        if not self.server.startswith(("https://", "http://")):
            raise SetupError(
                f"The API server address {self.server!r} is not an http or https URL.",
                "Set clusters[].cluster.server to the address of the API server.",
            )
        secret = self.token or self.token_file or self.client_key
        if secret and not self.server.startswith("https://"):
            raise SetupError(
                f"The kubeconfig would send credentials in the clear to {self.server}.",
                "Use an https:// address.",
            )
        if (self.client_cert is None) != (self.client_key is None):
            raise SetupError(
                "The kubeconfig has a client certificate without its key, or a key alone.",
                "Give both client-certificate and client-key, or neither.",
            )

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return the TLS settings; None for plain HTTP. SetupError: certificates do not load."""
        if not self.server.startswith("https://"):
            return None
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            if self.insecure_skip_tls_verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            elif self.ca is not None:
                # Only this CA: a certificate of a public CA must not pass for the cluster's.
                context.load_verify_locations(cadata=self.ca.decode("ascii"))
            else:
                context.load_default_certs()
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.client_cert is not None and self.client_key is not None:
                self._load_pair(context, self.client_cert, self.client_key)
        except (ssl.SSLError, UnicodeDecodeError, ValueError) as error:
            raise SetupError(
                f"The certificates for {self.server} cannot be loaded: {error}.",
                "Check the certificate and key entries of the kubeconfig.",
            ) from error
        return context

    @staticmethod
    def _load_pair(context: ssl.SSLContext, cert: bytes, key: bytes) -> None:
        # The ssl module reads pairs from files only. The file is 0600 and gone right after.
        with tempfile.NamedTemporaryFile(prefix="apirule-client-") as pair:
            pair.write(cert.rstrip() + b"\n" + key)
            pair.flush()
            context.load_cert_chain(pair.name)

    @classmethod
    def load(cls, path: Path, *, context: str | None = None) -> KubeConfig:
        """Read a kubeconfig file. SetupError says what is wrong with it."""
        try:
            document, _ = manifest.read_yaml(path.read_bytes())
        except OSError as error:
            raise SetupError(
                f"The kubeconfig {path} cannot be read: {error.strerror}.",
                "Start `apirule up`, or pass --kubeconfig with another file.",
            ) from error
        except ValueError as error:
            raise SetupError(
                f"The kubeconfig {path} is not YAML: {error}.", "Repair or replace the file."
            ) from error
        return cls.parse(document, base=path.parent, source=str(path), context=context)

    @classmethod
    def parse(
        cls,
        document: Any,
        *,
        base: Path = Path(),
        source: str = "kubeconfig",
        context: str | None = None,
    ) -> KubeConfig:
        """Pick one context of a kubeconfig. Relative file names count from ``base``."""
        if not isinstance(document, Mapping):
            raise SetupError(
                f"The kubeconfig {source} is not a mapping.", "Repair or replace the file."
            )
        reader = _Reader(document, base, source)
        chosen = context or str(document.get("current-context") or "")
        if not chosen:
            raise SetupError(
                f"The kubeconfig {source} has no current-context.",
                "Choose one with `kubectl config use-context`, or pass --context.",
            )
        entry = reader.named("contexts", "context", chosen)
        cluster = reader.named("clusters", "cluster", str(entry.get("cluster") or ""))
        name = str(entry.get("user") or "")
        user = reader.named("users", "user", name) if name else {}
        reader.refuse(cluster, user)
        token_file = user.get("tokenFile")
        return cls(
            server=str(cluster.get("server") or "").rstrip("/"),
            ca=reader.pem(cluster, "certificate-authority"),
            tls_server_name=cluster.get("tls-server-name") or None,
            insecure_skip_tls_verify=cluster.get("insecure-skip-tls-verify") is True,
            client_cert=reader.pem(user, "client-certificate"),
            client_key=reader.pem(user, "client-key"),
            # A token file wins over a token: it is the one that is renewed.
            token=None if token_file else user.get("token") or None,
            token_file=base / token_file if token_file else None,
            namespace=str(entry.get("namespace") or "default"),
        )

    @classmethod
    def in_cluster(cls, host: str, port: str, *, root: Path = SERVICE_ACCOUNT) -> KubeConfig:
        """Use the service account of this Pod; ``host`` and ``port`` come from its environment."""
        if not host or not port:
            raise SetupError(
                "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: not in a Pod.",
                "Pass --kubeconfig, or run the operator in a cluster.",
            )
        try:
            ca = (root / "ca.crt").read_bytes()
            namespace = (root / "namespace").read_text().strip()
        except OSError as error:
            raise SetupError(
                f"The service account files in {root} cannot be read: {error.strerror}.",
                "Do not set automountServiceAccountToken: false on the operator's Pod.",
            ) from error
        address = f"[{host}]" if ":" in host else host
        return cls(
            server=f"https://{address}:{port}",
            ca=ca,
            token_file=root / "token",
            namespace=namespace or "default",
        )


class _Reader:
    """Finds things in a kubeconfig and says where they are missing."""

    def __init__(self, document: Mapping[str, Any], base: Path, source: str) -> None:
        self._document = document
        self._base = base
        self._source = source

    def named(self, section: str, part: str, name: str) -> Mapping[str, Any]:
        for entry in self._document.get(section) or []:
            if isinstance(entry, Mapping) and entry.get("name") == name:
                value = entry.get(part)
                return value if isinstance(value, Mapping) else {}
        raise SetupError(
            f"The kubeconfig {self._source} has no entry {name!r} in {section}.",
            "Choose another context, or add the entry.",
        )

    def refuse(self, cluster: Mapping[str, Any], user: Mapping[str, Any]) -> None:
        for place, key, instead in (
            (user, "exec", "Create a token (`kubectl create token`) and put it in the kubeconfig."),
            (user, "auth-provider", "Put a token or a client certificate in the kubeconfig."),
            (user, "username", "Put a token or a client certificate in the kubeconfig."),
            (user, "as", "Give the user the rights itself; impersonation is not supported."),
            (cluster, "proxy-url", "Reach the API server without a proxy."),
        ):
            if place.get(key):
                raise SetupError(
                    f"The kubeconfig {self._source} uses {key!r}, which apirule does not support.",
                    instead,
                )

    def pem(self, place: Mapping[str, Any], key: str) -> bytes | None:
        """Read ``KEY-data`` (Base64), else the file named by ``KEY``."""
        data = place.get(f"{key}-data")
        if data:
            try:
                return base64.b64decode(str(data), validate=True)
            except binascii.Error as error:
                raise SetupError(
                    f"{key}-data in the kubeconfig {self._source} is not Base64.",
                    "Repair or replace the file.",
                ) from error
        name = place.get(key)
        if not name:
            return None
        try:
            return (self._base / str(name)).read_bytes()
        except OSError as error:
            raise SetupError(
                f"{key} in the kubeconfig {self._source} cannot be read: {error.strerror}: {name}.",
                "Correct the file name.",
            ) from error
