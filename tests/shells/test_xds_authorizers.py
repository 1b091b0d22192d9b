"""The engine and external authorizers: a mesh configuration that changes, breaks and is mended."""

import json
from typing import Any

import pytest
from tests.shells.xds_run import HOST, guard, route, running

from apirule.apis.meta import Object

pytestmark = pytest.mark.envoy


def gate(port: int) -> list[Object]:
    """An authorizer outside the mesh: the application, which answers everything with 200."""
    meta = {"namespace": "default", "name": "gate"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta,
            "spec": {"ports": [{"name": "http", "port": 80}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**meta, "labels": {"kubernetes.io/service-name": "gate"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["127.0.0.1"]}],
            "ports": [{"name": "http", "port": port}],
        },
    ]


def mesh_config(**fields: Any) -> Object:
    http = {"service": "gate.default", "port": 80, **fields}
    mesh = {"extensionProviders": [{"name": "gate", "envoyExtAuthzHttp": http}]}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": "istio-system", "name": "istio"},
        "data": {"mesh": json.dumps(mesh)},
    }


def asking(path: str) -> Object:
    policy = guard("ask", "app", path, action="CUSTOM")
    policy["spec"]["provider"] = {"name": "gate"}
    return policy


async def test_the_engine_follows_the_mesh_configuration() -> None:
    ask = asking("/a")
    async with running(route("app", HOST, "app"), guard("app", "app", "/a", "/b"), ask) as mesh:
        await mesh.reaches(200, "/b")
        assert await mesh.get("/a") == 403
        said = await mesh.run.status(ask, "False")
        assert "There is no ConfigMap istio-system/istio" in said["message"]

        mesh.run.feed.put(*gate(mesh.app_port), mesh_config())
        await mesh.run.status(ask, "True")
        assert await mesh.get("/a") == 200

        mesh.run.feed.delete(mesh_config())
        await mesh.run.status(ask, "False")
        assert (await mesh.get("/a"), await mesh.get("/b")) == (403, 200)


async def test_what_envoy_refuses_of_an_authorizer_is_closed_until_it_is_mended() -> None:
    ask, rule = asking("/a"), guard("app", "app", "/a", "/b")
    async with running(route("app", HOST, "app"), rule, ask) as mesh:
        mesh.run.feed.put(*gate(mesh.app_port), mesh_config())
        await mesh.run.status(ask, "True")
        await mesh.reaches(200, "/a")

        mesh.run.feed.put(mesh_config(includeAdditionalHeadersInCheck={"x-a": "%NO_SUCH(a)%"}))
        said = await mesh.run.status(ask, "False")
        assert "refuses" in said["message"]
        assert (await mesh.get("/a"), await mesh.get("/b")) == (403, 200)
        await mesh.run.status(rule, "True")

        mesh.run.feed.put(mesh_config(includeAdditionalHeadersInCheck={"x-a": "plain"}))
        await mesh.run.status(ask, "True")
        assert await mesh.get("/a") == 200
