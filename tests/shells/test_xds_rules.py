"""What Envoy needs beyond the protocol: filters before requests, and room for large tables."""

from collections.abc import Callable

import pytest
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import QueryParameterMatcher
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from google.protobuf.duration_pb2 import Duration
from tests.shells.xds_run import HOST, SPOIL, guard, route, running

from apirule.apis import networking
from apirule.apis.meta import Object
from apirule.mesh import build as mesh
from apirule.mesh.config import ProxyConfig, TypeUrl
from apirule.mesh.memo import Memo
from apirule.mesh.packing import pack
from apirule.mesh.proxy import Proxy, Role
from apirule.mesh.snapshot import Snapshot
from apirule.names import ObjectName

pytestmark = pytest.mark.envoy

Build = Callable[[Snapshot, Proxy, Memo], ProxyConfig]
GRPC_DEFAULT_BYTES = 4 * 1024 * 1024


def impatient(listener: Listener) -> Listener:
    """Let a listener wait for its filters for a tenth of a second instead of fifteen."""
    changed = Listener.FromString(listener.SerializeToString())
    for chain in changed.filter_chains:
        manager = hcm_pb2.HttpConnectionManager()
        chain.filters[0].typed_config.Unpack(manager)
        for each in manager.http_filters:
            if each.HasField("config_discovery"):
                source = each.config_discovery.config_source
                source.initial_fetch_timeout.CopyFrom(Duration(nanos=100_000_000))
        chain.filters[0].typed_config.CopyFrom(pack(manager))
    return changed


async def test_without_its_filters_a_sidecar_answers_500_until_they_come() -> None:
    withheld = {"are": True}

    def build(snapshot: Snapshot, proxy: Proxy, memo: Memo) -> ProxyConfig:
        config = mesh.build(snapshot, proxy, memo)
        if proxy.role is Role.GATEWAY:
            return config
        listeners = {n: impatient(m) for n, m in config.resources[TypeUrl.LISTENER].items()}
        filters = {} if withheld["are"] else config.resources[TypeUrl.EXTENSION]
        changed = {TypeUrl.LISTENER: listeners, TypeUrl.EXTENSION: filters}
        return ProxyConfig({**config.resources, **changed}, config.sources)

    async with running(route("app", HOST, "app"), build=build) as run:
        await run.reaches(500)

        withheld["are"] = False
        run.run.feed.put(guard("app", "app", "/{**}"))

        await run.reaches(200)


def large(spoiled: str = "") -> Object:
    """A VirtualService whose routes take more than gRPC allows by default."""
    answer = {"status": 200, "body": {"string": "x" * 4096}}
    rule = route("large", "large.kyma.localhost", "app")
    rule["metadata"]["annotations"] = {SPOIL: spoiled} if spoiled else {}
    rule["spec"]["http"] = [
        {"match": [{"uri": {"exact": f"/{number}"}}], "directResponse": answer}
        for number in range(1200)
    ]
    return rule


def spoiling(snapshot: Snapshot, proxy: Proxy, memo: Memo) -> ProxyConfig:
    """Put what Envoy refuses into the table of a rule that asks for it."""
    config = mesh.build(snapshot, proxy, memo)
    rules = snapshot.of_kind(networking.VirtualService)
    if proxy.role is Role.SIDECAR or not any(rule.annotations.get(SPOIL) for rule in rules):
        return config
    tables = {}
    for name, table in config.resources[TypeUrl.ROUTE].items():
        tables[name] = RouteConfiguration.FromString(table.SerializeToString())
        for host in tables[name].virtual_hosts:
            if host.routes:
                host.routes[0].match.query_parameters.append(QueryParameterMatcher(name=""))
    return ProxyConfig({**config.resources, TypeUrl.ROUTE: tables}, config.sources)


async def test_tables_and_refusals_may_be_larger_than_grpc_allows_by_default() -> None:
    async with running(route("app", HOST, "app"), build=spoiling) as run:
        await run.reaches(200)
        rule = large()

        run.run.feed.put(rule)
        await run.run.status(rule, "True")
        node = run.gateway_node
        config = run.run.engine.configs()[ObjectName.parse(node)]
        sizes = [table.ByteSize() for table in config.resources[TypeUrl.ROUTE].values()]
        assert max(sizes) > GRPC_DEFAULT_BYTES
        assert await run.get("/1199", "large.kyma.localhost") == 200

        bad = large(spoiled="yes")
        run.run.feed.put(bad)
        condition = await run.run.status(bad, "False")

        assert condition["reason"] == "Rejected"
        # Envoy prints the whole table and cuts its answer off before it comes to the point.
        assert "it breaks a rule of Envoy" in condition["message"]
        assert run.run.engine.fleet.standing(node).connected
        assert await run.get() == 200
