"""The delta protocol, as a proxy speaks it: requests on one side, responses on the other."""

from collections.abc import Mapping, Sequence

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC as RBACFilter  # noqa: N811 - a name
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from apirule.local.xds.ads import DeltaStream
from apirule.local.xds.bundle import Bundle, encode_one
from apirule.mesh.config import TypeUrl

CDS, EDS, SDS = TypeUrl.CLUSTER, TypeUrl.ENDPOINT, TypeUrl.SECRET
LDS, RDS, ECDS = TypeUrl.LISTENER, TypeUrl.ROUTE, TypeUrl.EXTENSION


def eds_cluster(name: str, *, variant: int = 0) -> Message:
    cluster: Message = Cluster(name=name, type=Cluster.EDS, alt_stat_name=str(variant))
    return cluster


def make(url: TypeUrl, name: str, variant: int) -> Message:
    text = str(variant)
    messages: dict[TypeUrl, Message] = {
        CDS: eds_cluster(name, variant=variant),
        EDS: ClusterLoadAssignment(cluster_name=name),
        SDS: Secret(name=name),
        LDS: Listener(name=name, stat_prefix=text),
        RDS: RouteConfiguration(name=name, internal_only_headers=[text]),
        ECDS: TypedExtensionConfig(name=f"{name}-{text}"),
    }
    return messages[url]


def bundle(**groups: Mapping[str, int]) -> Bundle:
    """``bundle(CLUSTER={"a": 1})``: names with a number that changes their content."""
    return {
        TypeUrl[kind]: {
            name: encode_one(TypeUrl[kind], make(TypeUrl[kind], name, variant))
            for name, variant in group.items()
        }
        for kind, group in groups.items()
    }


FULL = {
    "CLUSTER": {"a": 1},
    "ENDPOINT": {"a": 1},
    "LISTENER": {"l": 1},
    "ROUTE": {"r": 1},
    "EXTENSION": {"jwt": 1, "rbac": 1},
}


def ask(url: TypeUrl, *names: str, **more: object) -> DeltaDiscoveryRequest:
    return DeltaDiscoveryRequest(type_url=url, resource_names_subscribe=names, **more)


def ack(response: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest:
    return DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)


def nack(response: DeltaDiscoveryResponse, message: str = "no") -> DeltaDiscoveryRequest:
    request = ack(response)
    request.error_detail.message = message
    return request


def said(responses: Sequence[DeltaDiscoveryResponse]) -> list[tuple[TypeUrl, list[str], list[str]]]:
    """Return type, names and removed names of each response."""
    return [
        (TypeUrl(r.type_url), [x.name for x in r.resources], list(r.removed_resources))
        for r in responses
    ]


def ack_all(stream: DeltaStream, responses: Sequence[DeltaDiscoveryResponse]) -> list[TypeUrl]:
    """Acknowledge until there is nothing more; return the types in the order they came."""
    order, queue = [], list(responses)
    while queue:
        response = queue.pop(0)
        order.append(TypeUrl(response.type_url))
        queue += stream.receive(ack(response))
    return order


def running(target: Bundle) -> DeltaStream:
    """Return the stream of a proxy that holds the target."""
    stream = DeltaStream()
    stream.assign(target)
    for request in (
        ask(CDS),
        ask(EDS, *target.get(EDS, {})),
        ask(LDS),
        ask(RDS, *target.get(RDS, {})),
        ask(ECDS, *target.get(ECDS, {})),
    ):
        ack_all(stream, stream.receive(request))
    assert stream.synced
    return stream


def test_proxy_without_a_target_is_not_answered_until_it_has_one() -> None:
    stream = DeltaStream()

    nothing = stream.receive(ask(CDS)) + stream.receive(ask(LDS))
    answer = stream.assign(bundle(**FULL))

    assert nothing == []
    assert said(answer) == [(CDS, ["a"], [])]
    assert not stream.settled


def test_first_request_without_names_asks_for_everything() -> None:
    stream = DeltaStream()
    stream.assign(bundle(CLUSTER={"a": 1, "b": 1}))

    assert said(stream.receive(ask(CDS))) == [(CDS, ["a", "b"], [])]


def test_star_asks_for_everything_and_its_withdrawal_ends_that() -> None:
    stream = DeltaStream()
    stream.assign(bundle(LISTENER={"l": 1}))

    assert said(stream.receive(ask(LDS, "*"))) == [(LDS, ["l"], [])]
    stream.receive(DeltaDiscoveryRequest(type_url=LDS, resource_names_unsubscribe=["*"]))
    assert stream.assign(bundle(LISTENER={"l": 1, "m": 1})) == []


def test_empty_configuration_is_settled_without_an_answer() -> None:
    stream = DeltaStream()
    stream.assign(bundle())

    stream.receive(ask(CDS))
    stream.receive(ask(LDS))

    assert stream.synced


def test_additions_go_out_in_the_order_that_references_need() -> None:
    stream = running(bundle(**FULL))

    changed = stream.assign(
        bundle(
            CLUSTER={"a": 2},
            ENDPOINT={"a": 1},
            LISTENER={"l": 2},
            ROUTE={"r": 2},
            EXTENSION={"jwt": 2, "rbac": 1},
        )
    )

    assert ack_all(stream, changed) == [CDS, EDS, ECDS, LDS, RDS]
    assert stream.synced


def test_endpoints_are_sent_again_when_their_cluster_changes() -> None:
    stream = running(bundle(**FULL))

    responses = stream.assign(bundle(**{**FULL, "CLUSTER": {"a": 2}}))

    assert said(responses) == [(CDS, ["a"], []), (EDS, ["a"], [])]


def test_routes_wait_for_warm_clusters_and_filters_do_not() -> None:
    stream = running(bundle(**FULL))

    responses = stream.assign(
        bundle(**{**FULL, "CLUSTER": {"a": 1, "b": 1}, "ROUTE": {"r": 2}, "EXTENSION": {"jwt": 2}})
    )
    clusters, filters = responses
    after_filters = stream.receive(ack(filters))
    after_clusters = stream.receive(ack(clusters))

    assert said(responses) == [(CDS, ["b"], []), (ECDS, ["jwt"], [])]
    assert after_filters == []
    assert said(after_clusters) == [(RDS, ["r"], [])]


def test_release_sends_routes_although_a_cluster_stays_cold() -> None:
    stream = running(bundle(**FULL))
    stream.assign(bundle(**{**FULL, "CLUSTER": {"a": 1, "b": 1}, "ROUTE": {"r": 2}}))

    assert said(stream.release()) == [(RDS, ["r"], [])]
    assert not stream.settled


def test_release_holds_for_one_target_only() -> None:
    stream = running(bundle(**FULL))
    stream.assign(bundle(**{**FULL, "CLUSTER": {"a": 2}, "ROUTE": {"r": 2}}))
    released = stream.release()

    after = stream.assign(bundle(**{**FULL, "CLUSTER": {"a": 3}, "ROUTE": {"r": 3}}))

    assert (RDS, ["r"], []) in said(released)
    assert (CDS, ["a"], []) in said(after)
    assert (RDS, ["r"], []) not in said(after)


def test_new_listener_gets_its_routes_while_clusters_are_warming() -> None:
    stream = running(bundle(**FULL))
    stream.assign(bundle(**{**FULL, "CLUSTER": {"a": 2}, "ROUTE": {"r": 2, "new": 1}}))

    assert said(stream.receive(ask(RDS, "new"))) == [(RDS, ["new"], [])]


def test_removals_come_last_listeners_before_clusters() -> None:
    stream = running(bundle(**{**FULL, "CLUSTER": {"a": 1, "b": 1}, "LISTENER": {"l": 1, "m": 1}}))

    first = stream.assign(bundle(**{**FULL, "ROUTE": {"r": 2}}))
    routes, listeners = first
    waiting = stream.receive(ack(listeners))
    last = stream.receive(ack(routes))

    assert said(first) == [(RDS, ["r"], []), (LDS, [], ["m"])]
    assert waiting == []
    assert said(last) == [(CDS, [], ["b"])]


def test_cluster_stays_while_a_refused_route_may_still_use_it() -> None:
    stream = running(bundle(**{**FULL, "CLUSTER": {"a": 1, "b": 1}}))
    (routes,) = stream.assign(bundle(**{**FULL, "ROUTE": {"r": 2}}))

    kept = stream.receive(nack(routes))
    (mended,) = stream.assign(bundle(**{**FULL, "ROUTE": {"r": 3}}))
    removed = stream.receive(ack(mended))

    assert kept == []
    assert said(removed) == [(CDS, [], ["b"])]


def test_filters_and_routes_that_are_gone_are_not_taken_from_a_draining_listener() -> None:
    stream = running(bundle(**FULL))

    responses = stream.assign(bundle(CLUSTER={"a": 1}, ENDPOINT={"a": 1}))

    assert said(responses) == [
        (LDS, [], ["l"]),
    ]


def test_unchanged_configuration_is_not_sent_again() -> None:
    stream = running(bundle(**FULL))

    assert stream.assign(bundle(**FULL)) == []
    assert stream.synced


def test_name_that_is_subscribed_again_is_answered_although_unchanged() -> None:
    stream = running(bundle(**FULL))

    assert said(stream.receive(ask(RDS, "r"))) == [(RDS, ["r"], [])]


def test_name_that_was_given_up_is_not_sent_any_more() -> None:
    stream = running(bundle(**FULL))
    stream.receive(DeltaDiscoveryRequest(type_url=RDS, resource_names_unsubscribe=["r"]))

    assert stream.assign(bundle(**{**FULL, "ROUTE": {"r": 2}})) == []
    assert said(stream.receive(ask(RDS, "r"))) == [(RDS, ["r"], [])]


def test_missing_endpoints_are_an_answer_and_missing_routes_are_not() -> None:
    stream = DeltaStream()
    stream.assign(bundle())

    assert said(stream.receive(ask(EDS, "a"))) == [(EDS, [], ["a"])]
    assert stream.receive(ask(RDS, "r")) == []
    assert stream.receive(ask(ECDS, "jwt")) == []
    assert said(stream.assign(bundle(ENDPOINT={"a": 1}, ROUTE={"r": 1}))) == [
        (EDS, ["a"], []),
        (RDS, ["r"], []),
    ]


def test_proxy_that_comes_back_is_sent_only_what_it_does_not_hold() -> None:
    before, now = bundle(**FULL), bundle(**{**FULL, "ROUTE": {"r": 2}})
    held = {url: {name: r.version for name, r in group.items()} for url, group in before.items()}
    held[CDS]["old"] = "0123"
    stream = DeltaStream()
    stream.assign(now)

    answers = [
        said(stream.receive(ask(CDS, "*", initial_resource_versions=held[CDS]))),
        said(stream.receive(ask(EDS, "a", initial_resource_versions=held[EDS]))),
        said(stream.receive(ask(LDS, "*", initial_resource_versions=held[LDS]))),
        said(stream.receive(ask(ECDS, "jwt", "rbac", initial_resource_versions=held[ECDS]))),
    ]
    routes = stream.receive(ask(RDS, "r", initial_resource_versions=held[RDS]))

    assert answers == [[(CDS, [], ["old"])], [], [], []]
    assert said(routes) == []
    (sent,) = ack_clusters(stream)
    assert said([sent]) == [(RDS, ["r"], [])]


def ack_clusters(stream: DeltaStream) -> list[DeltaDiscoveryResponse]:
    """Acknowledge the first response of a stream, which was about clusters."""
    return stream.receive(DeltaDiscoveryRequest(type_url=CDS, response_nonce="1"))


def test_proxy_that_comes_back_holds_what_it_says() -> None:
    stream = DeltaStream()
    stream.assign(bundle(**FULL))
    before = stream.lacking

    stream.receive(ask(RDS, "r", initial_resource_versions={"r": "of an earlier life"}))

    assert before == {"r"}
    assert stream.lacking == frozenset()
    assert stream.held(RDS) == {"r": "of an earlier life"}


def test_endpoints_are_sent_to_a_returning_proxy_whose_cluster_changed_meanwhile() -> None:
    held = bundle(**FULL)
    stream = DeltaStream()
    stream.assign(bundle(**{**FULL, "CLUSTER": {"a": 2}}))

    clusters = stream.receive(
        ask(CDS, "*", initial_resource_versions={"a": held[CDS]["a"].version})
    )
    endpoints = stream.receive(
        ask(EDS, "a", initial_resource_versions={"a": held[EDS]["a"].version})
    )

    assert said(clusters + endpoints) == [(CDS, ["a"], []), (EDS, ["a"], [])]


def test_refusal_of_one_resource_names_it_with_the_words_of_the_proxy() -> None:
    stream = running(bundle(**FULL))
    (routes,) = stream.assign(bundle(**{**FULL, "ROUTE": {"r": 2}}))

    stream.receive(nack(routes, "missing ): /a("))

    (refusal,) = stream.refusals
    assert (refusal.type, refusal.name, refusal.message) == (RDS, "r", "missing ): /a(")
    assert stream.settled
    assert not stream.synced


def test_refusal_of_several_resources_is_narrowed_down_to_the_bad_one() -> None:
    stream = running(bundle(**{**FULL, "ROUTE": {"r": 1, "s": 1}}))
    target = bundle(**{**FULL, "ROUTE": {"r": 2, "s": 2}})
    (both,) = stream.assign(target)

    singles = stream.receive(nack(both))
    for response in singles:
        bad = response.resources[0].name == "r"
        stream.receive(nack(response, "bad regex") if bad else ack(response))

    assert said(singles) == [(RDS, ["r"], []), (RDS, ["s"], [])]
    assert [r.name for r in stream.refusals] == ["r"]
    assert stream.held(RDS)["s"] == target[RDS]["s"].version


def test_filters_travel_alone() -> None:
    stream = running(bundle(**FULL))

    responses = stream.assign(bundle(**{**FULL, "EXTENSION": {"jwt": 2, "rbac": 2}}))

    assert said(responses) == [(ECDS, ["jwt"], []), (ECDS, ["rbac"], [])]


def test_filters_that_come_to_let_everything_pass_are_sent_last() -> None:
    def filters(asking: str) -> Bundle:
        made: Bundle = {ECDS: {}}
        rules = RBACFilter(shadow_rules_stat_prefix="x")
        for name in ("slot-0", "slot-1"):
            config = AnyMessage()
            config.Pack(rules if name == asking else RBACFilter())
            message = TypedExtensionConfig(name=name, typed_config=config)
            made = {**made, ECDS: {**made[ECDS], name: encode_one(ECDS, message)}}
        return made

    stream = DeltaStream()
    stream.assign(filters("slot-0"))
    for url in (CDS, LDS):
        stream.receive(ask(url))
    ack_all(stream, stream.receive(ask(ECDS, "slot-0", "slot-1")))

    responses = stream.assign(filters("slot-1"))

    assert said(responses) == [(ECDS, ["slot-1"], []), (ECDS, ["slot-0"], [])]


def test_filter_in_force_is_sent_again_after_a_refusal_so_that_the_refused_is_forgotten() -> None:
    stream = running(bundle(**FULL))
    (bad,) = stream.assign(bundle(**{**FULL, "EXTENSION": {"jwt": 2, "rbac": 1}}))

    (reminder,) = stream.receive(nack(bad))
    stream.receive(ack(reminder))

    assert said([reminder]) == [(ECDS, ["jwt"], [])]
    assert reminder.resources[0].version == bundle(**FULL)[ECDS]["jwt"].version
    assert [r.name for r in stream.refusals] == ["jwt"]
    assert stream.retry() == []
    assert stream.settled


def test_filter_of_an_earlier_stream_is_sent_again_after_a_refusal() -> None:
    old, bad = bundle(**FULL), bundle(**{**FULL, "EXTENSION": {"jwt": 2}})
    stream = DeltaStream()
    stream.assign(bad)
    versions = {"jwt": old[ECDS]["jwt"].version}
    (refused,) = stream.receive(ask(ECDS, "jwt", initial_resource_versions=versions))

    nothing = stream.receive(nack(refused))

    assert nothing == []
    assert said(stream.assign(old)) == [(ECDS, ["jwt"], [])]


def test_new_stream_does_not_ask_again_for_a_filter_that_was_refused() -> None:
    bad = bundle(**{**FULL, "EXTENSION": {"jwt": 2, "rbac": 1}})
    first = running(bundle(**FULL))
    (response,) = first.assign(bad)
    first.receive(nack(response, "no"))

    second = DeltaStream(first.refusals)
    second.assign(bad)

    assert said(second.receive(ask(ECDS, "jwt", "rbac"))) == [(ECDS, ["rbac"], [])]
    assert [r.message for r in second.refusals] == ["no"]


def test_refused_resource_is_not_repeated_until_it_changes_or_is_retried() -> None:
    stream = running(bundle(**FULL))
    bad = bundle(**{**FULL, "ROUTE": {"r": 2}})
    (routes,) = stream.assign(bad)
    stream.receive(nack(routes))

    assert stream.assign(bad) == []
    assert said(stream.retry()) == [(RDS, ["r"], [])]
    assert said(stream.assign(bundle(**{**FULL, "ROUTE": {"r": 3}}))) == [(RDS, ["r"], [])]


def test_return_to_what_is_held_after_a_refusal_needs_no_push() -> None:
    stream = running(bundle(**FULL))
    (routes,) = stream.assign(bundle(**{**FULL, "ROUTE": {"r": 2}}))
    stream.receive(nack(routes))

    assert stream.assign(bundle(**FULL)) == []
    assert stream.synced


def test_late_refusal_of_a_superseded_version_changes_nothing() -> None:
    stream = running(bundle(**FULL))
    (second,) = stream.assign(bundle(**{**FULL, "ROUTE": {"r": 2}}))
    (third,) = stream.assign(bundle(**{**FULL, "ROUTE": {"r": 3}}))

    stream.receive(nack(second))
    stream.receive(ack(third))

    assert stream.synced


def test_answer_with_an_unknown_nonce_is_ignored() -> None:
    stream = running(bundle(**FULL))

    responses = stream.receive(
        DeltaDiscoveryRequest(type_url=RDS, response_nonce="999", error_detail={"message": "x"})
    )

    assert responses == []
    assert stream.synced


def test_type_we_do_not_serve_is_left_waiting() -> None:
    stream = running(bundle(**FULL))

    assert stream.receive(ask_text("type.googleapis.com/envoy.service.runtime.v3.Runtime")) == []


def ask_text(url: str) -> DeltaDiscoveryRequest:
    return DeltaDiscoveryRequest(type_url=url, resource_names_subscribe=["x"])


def test_acknowledgement_may_carry_a_subscription() -> None:
    stream = running(bundle(**FULL))
    (routes,) = stream.assign(bundle(**{**FULL, "ROUTE": {"r": 2, "s": 1}}))

    request = ack(routes)
    request.resource_names_subscribe.append("s")

    assert said(stream.receive(request)) == [(RDS, ["s"], [])]


@pytest.mark.parametrize("url", list(TypeUrl))
def test_version_depends_on_content_only(url: TypeUrl) -> None:
    assert encode_one(url, make(url, "x", 1)) == encode_one(url, make(url, "x", 1))
    if url not in (TypeUrl.ENDPOINT, TypeUrl.SECRET):
        one, two = encode_one(url, make(url, "x", 1)), encode_one(url, make(url, "x", 2))
        assert one.version != two.version
