"""What a gateway is told: its servers, the routes of each, the Services behind them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2

from apirule.apis import networking
from apirule.apis.meta import ObjectRef
from apirule.mesh import (
    callees,
    envoy_filters,
    gateways,
    listeners,
    routes,
    server_tls,
    tls,
)
from apirule.mesh.config import TypeUrl
from apirule.mesh.destinations import Upstream
from apirule.mesh.draft import Draft
from apirule.mesh.envoy_filters import Patches
from apirule.mesh.gateways import BoundServer, Servers
from apirule.mesh.memo import Memo
from apirule.mesh.proxy import Proxy
from apirule.mesh.route_match import Caller
from apirule.mesh.routes import Emitted, HostScope
from apirule.mesh.snapshot import Snapshot
from apirule.names import ObjectName
from apirule.problem import Problem, Reason

_CA_SUFFIX = "-cacert"


def build(draft: Draft, snapshot: Snapshot, proxy: Proxy, memo: Memo) -> None:
    servers = gateways.servers_of(snapshot, proxy)
    for ref, problems in servers.problems.items():
        draft.report(ref, problems)
    patches = envoy_filters.patches_for(snapshot, proxy, memo)
    emitting = _Emitting(snapshot, proxy, servers, memo, patches)
    opened: list[BoundServer] = []
    for port, group in servers.by_port().items():
        served = _put_listener(draft, snapshot, proxy, port, group, patches)
        for name, members in _tables(served).items():
            emitting.put_routes(draft, name, members)
        opened += served
    callees.put(draft, snapshot, proxy, emitting.upstreams, memo)
    _report_hosts(draft, snapshot, servers, opened)


def _tables(servers: Sequence[BoundServer]) -> dict[str, list[BoundServer]]:
    tables: dict[str, list[BoundServer]] = {}
    for server in servers:
        tables.setdefault(server.route_name, []).append(server)
    return tables


def _put_listener(  # noqa: PLR0917 - what a listener is made of
    draft: Draft,
    snapshot: Snapshot,
    proxy: Proxy,
    port: int,
    servers: list[BoundServer],
    patches: Patches,
) -> list[BoundServer]:
    """Add the listener of a port and return its servers; those without a certificate are out."""
    served: list[BoundServer] = []
    authorities: dict[str, str] = {}
    sources = {*patches.sources, *(server.gateway.ref for server in servers)}
    for server in servers:
        try:
            secrets = _secrets(snapshot, proxy, server) if server.is_tls else []
        except tls.CredentialError as error:
            draft.report(server.gateway.ref, [_credential_problem(server, str(error))])
            continue
        served.append(server)
        for message, ref in secrets:
            draft.put(TypeUrl.SECRET, message.name, message, [ref, server.gateway.ref])
            sources.add(ref)
            if message.HasField("validation_context"):
                authorities[server.route_name] = message.name
    if served:
        listener = listeners.gateway_listener(
            proxy, port, served, authorities, snapshot.settings, patches=patches
        )
        draft.put(TypeUrl.LISTENER, listener.name, listener, sources)
    return served


def _secrets(
    snapshot: Snapshot, proxy: Proxy, server: BoundServer
) -> list[tuple[secret_pb2.Secret, ObjectRef]]:
    """Return the certificates of a server, and for MUTUAL the CA its clients must come from."""
    settings = server.server.tls or networking.ServerTLSSettings()
    # Istio: the Secrets stand beside the gateway's Pod, not beside the Gateway.
    namespace = proxy.name.namespace
    found: list[tuple[secret_pb2.Secret, ObjectRef]] = []
    for name in server_tls.credentials(settings):
        secret = snapshot.secrets.get(ObjectName(namespace, name))
        if secret is None:
            raise tls.CredentialError(f"There is no Secret {ObjectName(namespace, name)}")
        found.append((tls.certificate(tls.credential_name(name), secret), secret.ref))
    if settings.mode == "MUTUAL":
        first = server_tls.credentials(settings)[0]
        beside = snapshot.secrets.get(ObjectName(namespace, first + _CA_SUFFIX))
        authority = beside or snapshot.secrets[ObjectName(namespace, first)]
        name = tls.credential_name(first) + _CA_SUFFIX
        found.append((tls.client_authorities(name, authority), authority.ref))
    return found


def _credential_problem(server: BoundServer, message: str) -> Problem:
    return Problem(
        server.at / "tls" / "credentialName",
        Reason.NOT_FOUND,
        f"{message}. The server is not opened.",
        "Create a Secret of type kubernetes.io/tls with tls.crt and tls.key.",
    )


class _Emitting:
    """Route tables over one set of servers; ``upstreams`` gathers what their routes name."""

    def __init__(
        self, snapshot: Snapshot, proxy: Proxy, servers: Servers, memo: Memo, patches: Patches
    ) -> None:
        self._snapshot = snapshot
        self._proxy = proxy
        self._servers = servers
        self._memo = memo
        self._patches = patches
        self.upstreams: dict[Upstream, None] = {}

    def put_routes(self, draft: Draft, name: str, members: list[BoundServer]) -> None:
        port = members[0].server.port.number
        sources = {*self._patches.sources, *(server.gateway.ref for server in members)}
        vhosts = [
            routes.redirect_host(domain, port, _redirect_port(self._servers, server, domain))
            for server in members
            if server.redirects
            for domain in server.hosts
        ]
        if members[0].is_tls:
            # Not even a rule for a wider host answers here for what has a server of its own.
            closer = sorted(self._servers.closer_hosts(members))
            vhosts += [routes.virtual_host(domain, port, []) for domain in closer]
        caller = Caller(
            namespace=self._proxy.name.namespace,
            gateways=frozenset(str(server.gateway.object_name) for server in members),
            port=port,
            labels=self._proxy.labels,
        )
        open_members = [server for server in members if not server.redirects]
        for domain, services in _answering(self._snapshot, open_members).items():
            if members[0].is_tls and not self._servers.is_closest(members, domain):
                continue
            emitted = [
                routes.emit(service, self._snapshot, self._memo, caller) for service in services
            ]
            for service, one in zip(services, emitted, strict=True):
                sources.add(service.ref)
                draft.report(service.ref, one.problems)
                self.upstreams |= dict.fromkeys(one.upstreams)
                sources |= {upstream.rule for upstream in one.upstreams if upstream.rule}
            if any(one.ordinary or one.catch_all for one in emitted):
                vhosts.append(self._virtual_host(domain, port, emitted))
        table = self._patches.on_routes(routes.table(name, vhosts))
        draft.put(TypeUrl.ROUTE, name, table, sources)

    def _virtual_host(
        self, domain: str, port: int, emitted: list[Emitted]
    ) -> route_components_pb2.VirtualHost:
        # What is remembered of a VirtualService is the same object again, and compares as one.
        key = ("virtual host", domain, port, tuple(emitted))
        return self._memo(key, lambda: routes.virtual_host(domain, port, emitted))


def _answering(
    snapshot: Snapshot, members: list[BoundServer]
) -> dict[str, list[networking.VirtualService]]:
    """Return the VirtualServices of each domain, over all Gateways that share the table."""
    found: dict[str, dict[ObjectRef, networking.VirtualService]] = {}
    for server in members:
        bound = snapshot.virtual_services(server.gateway.object_name)
        for domain, services in routes.by_domain(server.scopes, bound).items():
            found.setdefault(domain, {}).update({s.ref: s for s in services})
    return {
        domain: sorted(services.values(), key=_creation)
        for domain, services in sorted(found.items())
    }


def _creation(service: networking.VirtualService) -> tuple[str, str, str]:
    meta = service.metadata
    return (meta.creation_timestamp or "", meta.name, meta.namespace)


def _redirect_port(servers: Servers, server: BoundServer, domain: str) -> int:
    """Return the port of the https URL, 0 where the URL needs none."""
    port = servers.https_port(domain, server.gateway)
    # With both on their usual ports Envoy writes no port; else it would keep the one of http.
    is_usual = port == gateways.HTTPS_PORT and server.listen == gateways.HTTP_PORT
    return 0 if is_usual else port


def _report_hosts(
    draft: Draft, snapshot: Snapshot, servers: Servers, opened: list[BoundServer]
) -> None:
    """Tell a VirtualService about hosts that no open server of its Gateways accepts."""
    scopes: dict[ObjectName, list[HostScope]] = {
        server.gateway.object_name: [] for server in servers.bound
    }
    for server in opened:
        scopes[server.gateway.object_name].extend(server.scopes)
    seen = chain.from_iterable(snapshot.virtual_services(gateway) for gateway in scopes)
    for service in {s.ref: s for s in seen}.values():
        own = [scope for name in _gateway_names(service) for scope in scopes.get(name, ())]
        draft.report(service.ref, routes.host_problems(service, own))


def _gateway_names(service: networking.VirtualService) -> Iterator[ObjectName]:
    for text in service.spec.gateways:
        yield ObjectName.parse(text, default_namespace=service.metadata.namespace)
