"""Servers of the Gateways a proxy serves: which port each one listens on, and who was first.

A server names a port of the gateway's Service (443); the Service says which container port that
is, and the proxy which port of this machine it binds for it. Servers that cannot both be served
on one port are decided by age: the older Gateway keeps what it has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import msgspec

from apirule.apis import core, networking
from apirule.apis.meta import ObjectRef
from apirule.mesh import hosts, server_tls
from apirule.mesh.proxy import Proxy
from apirule.mesh.routes import HostScope
from apirule.mesh.snapshot import Snapshot
from apirule.problem import SPEC, FieldPath, Problem, Reason, errors

_PLAIN = frozenset({"HTTP", "HTTP2", "GRPC"})
_ONLY_REDIRECTS = tuple(networking.ServerTLSSettings(https_redirect=on) for on in (False, True))
HTTP_PORT = 80
HTTPS_PORT = 443


class BoundServer(msgspec.Struct, frozen=True):
    """One server of one Gateway at the port the proxy binds for it."""

    gateway: networking.Gateway
    server: networking.Server
    at: FieldPath
    container_port: int
    """What policies call the port."""
    listen: int
    scopes: tuple[HostScope, ...]
    route_name: str
    is_tls: bool

    @property
    def redirects(self) -> bool:
        tls = self.server.tls
        return not self.is_tls and tls is not None and tls.https_redirect

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(scope.host for scope in self.scopes))

    def accepts(self, host: str) -> bool:
        return any(hosts.intersection(one, host) for one in self.hosts)


class Servers(msgspec.Struct):
    """The servers of one proxy, and the problems of the Gateways they came from."""

    bound: list[BoundServer] = msgspec.field(default_factory=list)
    problems: defaultdict[ObjectRef, list[Problem]] = msgspec.field(
        default_factory=lambda: defaultdict(list)
    )

    def by_port(self) -> dict[int, list[BoundServer]]:
        ports: defaultdict[int, list[BoundServer]] = defaultdict(list)
        for server in self.bound:
            ports[server.listen].append(server)
        return dict(sorted(ports.items()))

    def is_closest(self, members: Sequence[BoundServer], domain: str) -> bool:
        """Whether a client that asks for the domain is led to one of these servers of a TLS port.

        A client may ask for one name (SNI) and send another in ``Host``. Were the routes of a host
        in the table of a wider server too, its own server, which may demand a client certificate,
        would be passed by.
        """
        closest = max(
            (h for h in self._tls_hosts(members) if hosts.covers(h, domain)),
            key=lambda host: (not host.startswith("*"), len(host)),
            default="",
        )
        return any(closest in server.hosts for server in members)

    def closer_hosts(self, members: Sequence[BoundServer]) -> set[str]:
        """Return the hosts that other servers of the port take away from a wider one of these."""
        own = {host for server in members for host in server.hosts}
        others = set(self._tls_hosts(members)) - own
        return {host for host in others if any(hosts.covers(wide, host) for wide in own)}

    def _tls_hosts(self, members: Sequence[BoundServer]) -> Iterator[str]:
        for server in self.bound:
            if server.listen == members[0].listen:
                yield from server.hosts

    def https_port(self, host: str, gateway: networking.Gateway) -> int:
        """Return where a host is served with TLS, its own Gateway first; 443 if it is nowhere."""
        found = [s for s in self.bound if s.is_tls and s.accepts(host)]
        own = [s for s in found if s.gateway is gateway]
        return next((s.listen for s in own + found), HTTPS_PORT)


def servers_of(snapshot: Snapshot, proxy: Proxy) -> Servers:
    """Return what a gateway proxy has to serve."""
    servers = Servers()
    ports = _service_ports(snapshot, proxy)
    taken: dict[int, bool] = {}
    sni: defaultdict[int, dict[str, str]] = defaultdict(dict)
    names: set[str] = set()
    for gateway in snapshot.gateways_of(proxy):
        for index, server in enumerate(gateway.spec.servers):
            at = SPEC / "servers" / index
            problems = servers.problems[gateway.ref]
            shape = list(_shape_problems(server, at))
            problems += shape
            if errors(shape):
                continue
            container = ports.get(server.port.number)
            if container is None:
                problems.append(_unknown_port(server, at, ports))
                continue
            listen = proxy.listen[container]
            is_tls = server.port.protocol.upper() == "HTTPS"
            if taken.setdefault(listen, is_tls) != is_tls:
                problems.append(_mixed(server, at))
                continue
            scopes = tuple(_scopes(gateway, server, at, problems))
            if is_tls:
                scopes = tuple(_free(scopes, sni[listen], gateway, at, problems))
            if not scopes:
                continue
            name = _route_name(gateway, server, listen, is_tls=is_tls)
            if is_tls and name in names:
                name = f"{name}.{index}"
            names.add(name)
            servers.bound.append(
                BoundServer(gateway, server, at, container, listen, scopes, name, is_tls)
            )
    return servers


def problems(gateway: networking.Gateway) -> Iterator[Problem]:
    """Return what is wrong with a Gateway by itself, whatever proxy serves it."""
    for index, server in enumerate(gateway.spec.servers):
        at = SPEC / "servers" / index
        yield from _shape_problems(server, at)
        for position, text in enumerate(server.hosts):
            if not hosts.is_valid(hosts.split_namespace(text)[1]):
                yield _no_host(text, at / "hosts" / position)


def _service_ports(snapshot: Snapshot, proxy: Proxy) -> dict[int, int]:
    """Return Service port to container port."""
    pod = snapshot.pods.get(proxy.name)
    found: dict[int, int] = {}
    for service in snapshot.services_selecting(proxy.name.namespace, proxy.labels):
        for port in service.spec.ports:
            container = _container_port(port, pod)
            if container in proxy.listen:
                found.setdefault(port.port, container)
    # A gateway without a Service is addressed by its container ports.
    return found or {container: container for container in proxy.listen}


def _container_port(port: core.ServicePort, pod: core.Pod | None) -> int:
    target = port.target_port if port.target_port is not None else port.port
    if isinstance(target, int):
        return target
    containers = pod.spec.containers if pod else ()
    ports = (p for container in containers for p in container.ports)
    return next((p.container_port for p in ports if p.name == target), 0)


def _route_name(
    gateway: networking.Gateway, server: networking.Server, listen: int, *, is_tls: bool
) -> str:
    if not is_tls:
        return f"http.{listen}"
    meta = gateway.metadata
    return f"https.{server.port.number}.{server.port.name}.{meta.name}.{meta.namespace}"


def _scopes(
    gateway: networking.Gateway, server: networking.Server, at: FieldPath, problems: list[Problem]
) -> Iterator[HostScope]:
    for index, text in enumerate(server.hosts):
        namespace, host = hosts.split_namespace(text)
        if not hosts.is_valid(host):
            problems.append(_no_host(text, at / "hosts" / index))
            continue
        own = gateway.metadata.namespace if namespace == "." else namespace
        yield HostScope(host.lower(), own)


def _free(
    scopes: tuple[HostScope, ...],
    owners: dict[str, str],
    gateway: networking.Gateway,
    at: FieldPath,
    problems: list[Problem],
) -> Iterator[HostScope]:
    """Yield the hosts no earlier TLS server has: two chains for one name cannot be told apart."""
    me = f"{gateway.object_name} {at}"
    for scope in scopes:
        owner = owners.setdefault(scope.host, me)
        if owner == me:
            yield scope
            continue
        problems.append(
            Problem(
                at / "hosts",
                Reason.CONFLICT,
                f'The host "{scope.host}" is already served with TLS on this port by {owner}.',
                "Remove the host from one of the two.",
            )
        )


def _shape_problems(server: networking.Server, at: FieldPath) -> Iterator[Problem]:
    protocol = server.port.protocol.upper()
    settings = server.tls
    if protocol not in (*_PLAIN, "HTTPS"):
        yield Problem(
            at / "port" / "protocol",
            Reason.NOT_IMPLEMENTED,
            f"The local engine serves HTTP and HTTPS, not {server.port.protocol}.",
            "Use HTTP or HTTPS.",
        )
    elif protocol == "HTTPS":
        yield from server_tls.problems(settings or networking.ServerTLSSettings(), at / "tls")
    elif settings is not None and settings != _ONLY_REDIRECTS[settings.https_redirect]:
        yield Problem(
            at / "tls",
            Reason.INVALID,
            f"A server of protocol {protocol} has no certificate.",
            "Set the protocol to HTTPS, or leave only httpsRedirect.",
        )


def _no_host(text: str, at: FieldPath) -> Problem:
    return Problem(
        at,
        Reason.INVALID,
        f'"{text}" is not a host.',
        "Write a DNS name, with * only as its whole first label.",
    )


def _unknown_port(server: networking.Server, at: FieldPath, ports: dict[int, int]) -> Problem:
    known = ", ".join(str(port) for port in sorted(ports)) or "none"
    return Problem(
        at / "port" / "number",
        Reason.NOT_FOUND,
        f"The gateway's Service has no port {server.port.number}; it has {known}.",
        "Use a port of the Service, or add this one to the Service and the gateway.",
    )


def _mixed(server: networking.Server, at: FieldPath) -> Problem:
    return Problem(
        at / "port",
        Reason.CONFLICT,
        f"Port {server.port.number} already serves the other of HTTP and HTTPS.",
        "Use another port.",
    )
