"""What holds for every connection manager, and what only at the edge."""

import json
from typing import Any

import pytest
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from envoy.extensions.http.early_header_mutation.header_mutation.v3.header_mutation_pb2 import (
    HeaderMutation,
)

from apirule.mesh import access_log, connection_manager
from apirule.mesh.config import MeshSettings

HCM: Any = hcm_pb2.HttpConnectionManager
SETTINGS = MeshSettings()
GUARD = hcm_pb2.HttpFilter(name="guard")


def managers() -> dict[str, Any]:
    filters = {
        "gateway": connection_manager.at_gateway("r", [GUARD], SETTINGS),
        "workload": connection_manager.at_workload("w", RouteConfiguration(), [GUARD], SETTINGS),
        "outbound": connection_manager.as_http_proxy("r", SETTINGS),
    }
    unpacked = {}
    for name, each in filters.items():
        unpacked[name] = HCM()
        assert each.typed_config.Unpack(unpacked[name])
    return unpacked


@pytest.mark.parametrize("name", ["gateway", "workload", "outbound"])
def test_every_proxy_sees_the_same_path(name: str) -> None:
    manager = managers()[name]

    assert manager.normalize_path.value
    assert manager.merge_slashes
    assert manager.path_with_escaped_slashes_action == HCM.UNESCAPE_AND_FORWARD


@pytest.mark.parametrize("name", ["gateway", "workload"])
def test_guards_stand_before_everything_and_the_router_is_last(name: str) -> None:
    names = [each.name for each in managers()[name].http_filters]

    # Faults are asked for by VirtualServices, whose routes a workload's listener does not have.
    at_edge = name == "gateway"
    assert names == [
        *(["apirule.malformed"] if at_edge else []),
        "guard",
        *(["envoy.filters.http.fault"] if at_edge else []),
        "envoy.filters.http.cors",
        "envoy.filters.http.router",
    ]


def test_only_the_gateway_believes_nothing_of_the_client() -> None:
    found = managers()

    assert found["gateway"].use_remote_address.value
    assert found["gateway"].forward_client_cert_details == HCM.SANITIZE_SET
    assert not found["workload"].use_remote_address.value
    assert found["workload"].forward_client_cert_details == HCM.APPEND_FORWARD


def test_only_the_gateway_removes_what_clients_say_in_the_name_of_proxies() -> None:
    found = managers()

    [extension] = found["gateway"].early_header_mutation_extensions
    mutation = HeaderMutation()
    assert extension.typed_config.Unpack(mutation)
    prefixes = (each.remove_on_match.key_matcher.prefix for each in mutation.mutations)
    removed = [prefix for prefix in prefixes if prefix]
    assert removed == ["x-envoy-"]
    assert not found["workload"].early_header_mutation_extensions
    assert not found["outbound"].early_header_mutation_extensions


def test_the_host_keeps_its_port_for_the_application() -> None:
    assert not any(m.strip_any_host_port or m.strip_matching_host_port for m in managers().values())


def test_no_access_log_names_a_query_or_a_token() -> None:
    text = json.dumps(access_log.FIELDS)

    assert "REQ(AUTHORIZATION" not in text.upper()
    assert "REQ(:PATH" not in text.upper()
    assert "X-ENVOY-ORIGINAL-PATH" not in text.upper()
    assert access_log.FIELDS["path"] == "%PATH(NQ:PATH)%"


def test_the_control_plane_hears_of_refusals_only() -> None:
    _, refusals = access_log.access_logs()

    comparisons = [f.status_code_filter.comparison for f in refusals.filter.or_filter.filters]
    assert [c.value.default_value for c in comparisons] == [401, 403]
