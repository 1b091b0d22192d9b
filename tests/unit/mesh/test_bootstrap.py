"""What an Envoy is started with."""

from typing import Any

import pytest

from apirule.mesh.bootstrap import bootstrap, envoy_argv
from apirule.mesh.proxy import Proxy, Role
from apirule.names import ObjectName

PROXY = Proxy(ObjectName("web", "shop-1"), Role.SIDECAR, "shop", {"app": "shop"})


def document(admin: str = "unix:/run/admin.sock") -> dict[str, Any]:
    return bootstrap(PROXY, xds_socket="/run/xds.sock", admin=admin)


def test_the_control_plane_is_asked_by_one_incremental_stream_over_its_socket() -> None:
    found = document()

    (cluster,) = found["static_resources"]["clusters"]
    (group,) = cluster["load_assignment"]["endpoints"]
    address = group["lb_endpoints"][0]["endpoint"]["address"]
    assert address == {"pipe": {"path": "/run/xds.sock"}}
    assert found["dynamic_resources"]["ads_config"]["api_type"] == "DELTA_GRPC"
    assert found["node"]["id"] == "web/shop-1"


@pytest.mark.parametrize(
    ("admin", "address"),
    [
        ("unix:/run/admin.sock", {"pipe": {"path": "/run/admin.sock", "mode": 0o600}}),
        ("127.0.0.1:15000", {"socket_address": {"address": "127.0.0.1", "port_value": 15000}}),
        ("15000", {"socket_address": {"address": "127.0.0.1", "port_value": 15000}}),
    ],
)
def test_the_admin_interface_stays_on_this_machine(admin: str, address: dict[str, Any]) -> None:
    assert document(admin)["admin"]["address"] == address


def test_many_envoys_run_beside_each_other_with_one_worker_each() -> None:
    arguments = list(envoy_argv("/bin/envoy", "/run/b.json"))

    assert arguments[:3] == ["/bin/envoy", "--config-path", "/run/b.json"]
    assert "--disable-hot-restart" in arguments
    assert arguments[arguments.index("--concurrency") + 1] == "1"
