"""What a VirtualService may say, and what becomes of one that says it wrongly."""

import pytest
from google.protobuf.json_format import MessageToDict
from tests.unit.mesh.objects import GATEWAY_POD, decode, virtual_service

from apirule.apis import networking
from apirule.mesh import routes
from apirule.mesh.memo import Memo
from apirule.mesh.route_match import Caller
from apirule.mesh.routes import Emitted
from apirule.mesh.snapshot import Snapshot

EDGE = Caller("istio-system", frozenset({"web/edge"}), 80, {"istio": "ingressgateway"})
TO_SHOP = "route: [{destination: {host: shop}}]"


def emit(http: str) -> Emitted:
    (rule,) = virtual_service("vs", http=http)
    assert isinstance(rule, networking.VirtualService)
    return routes.emit(rule, Snapshot.of(decode(GATEWAY_POD)), Memo(), EDGE)


@pytest.mark.parametrize(
    ("match", "place"),
    [
        ("uri: {regex: '('}", "uri.regex"),
        ("uri: {exact: /a, prefix: /b}", "uri"),
        ("uri: {}", "uri"),
        ("method: {regex: ''}", "method.regex"),
        ("headers: {'x y': {exact: a}}", "headers.x y"),
        ("headers: {'@request.auth.claims.sub': {exact: a}}", "headers.@request.auth.claims.sub"),
        ("queryParams: {a: {regex: '['}}", "queryParams.a.regex"),
        ("queryParams: {'': {exact: a}}", "queryParams."),
        ("headers: {'': {exact: a}}", "headers."),
        ("withoutHeaders: {a: {exact: b, regex: c}}", "withoutHeaders.a"),
    ],
)
def test_a_match_in_error_leaves_out_the_whole_rule(match: str, place: str) -> None:
    emitted = emit(f"[{{match: [{{{match}}}], {TO_SHOP}}}, {{{TO_SHOP}}}]")

    assert [str(p.field) for p in emitted.problems] == [f"spec.http[0].match[0].{place}"]
    assert (emitted.ordinary, emitted.catch_all) == ((), ())


DESTINATION = "{destination: {host: shop}}"


@pytest.mark.parametrize(
    ("addition", "place"),
    [
        ("redirect: {uri: /a}", ""),
        ("timeout: soon", ".timeout"),
        ("retries: {attempts: 1, perTryTimeout: x}", ".retries.perTryTimeout"),
        ("retries: {attempts: 1, retryOn: sometimes}", ".retries.retryOn"),
        ("retries: {attempts: 1, retryOn: '99999999999'}", ".retries.retryOn"),
        ("retries: {attempts: 99999999999}", ".retries.attempts"),
        ("headers: {request: {set: {':path': /x}}}", ".headers.request.set.:path"),
        ("headers: {response: {remove: [':status']}}", ".headers.response.remove[0]"),
        ('headers: {request: {add: {a: "b\\r\\nc"}}}', ".headers.request.add.a"),
        ("corsPolicy: {allowOrigins: [{regex: '('}]}", ".corsPolicy.allowOrigins[0].regex"),
        ("corsPolicy: {allowOrigins: [{}]}", ".corsPolicy.allowOrigins[0]"),
        ("corsPolicy: {maxAge: long}", ".corsPolicy.maxAge"),
        ("rewrite: {uriRegexRewrite: {match: '('}}", ".rewrite.uriRegexRewrite"),
        ("rewrite: {uri: /a, uriRegexRewrite: {match: a}}", ".rewrite"),
    ],
)
def test_a_detail_in_error_answers_503_in_its_place(addition: str, place: str) -> None:
    assert_unavailable(emit(f"[{{{TO_SHOP}, {addition}}}]"), place)


@pytest.mark.parametrize(
    ("action", "place"),
    [
        ("timeout: 5s", ""),
        ("redirect: {uri: /a, redirectCode: 200}", ".redirect.redirectCode"),
        ("redirect: {port: 99999}", ".redirect.port"),
        ("directResponse: {status: 99}", ".directResponse"),
        (f"route: [{DESTINATION}, {DESTINATION}]", ".route"),
        ("route: [{destination: {host: shop}, weight: -1}]", ".route[0].weight"),
    ],
)
def test_an_action_in_error_answers_503_in_its_place(action: str, place: str) -> None:
    assert_unavailable(emit(f"[{{{action}}}]"), place)


def assert_unavailable(emitted: Emitted, place: str) -> None:
    assert [str(p.field) for p in emitted.problems] == [f"spec.http[0]{place}"]
    (route,) = emitted.catch_all
    assert MessageToDict(route.direct_response) == {"status": 503}


def test_text_that_is_not_unicode_leaves_out_the_rule() -> None:
    (rule,) = virtual_service("vs")
    assert isinstance(rule, networking.VirtualService)
    match = networking.HTTPMatchRequest(uri=networking.StringMatch(exact="/\ud800"))
    http = networking.HTTPRoute(match=(match,), redirect=networking.HTTPRedirect(uri="/a"))
    bad = networking.VirtualService(
        metadata=rule.metadata, spec=networking.VirtualServiceSpec(http=(http,))
    )

    emitted = routes.emit(bad, Snapshot.of([]), Memo(), EDGE)

    assert [str(problem.field) for problem in emitted.problems] == ["spec"]
    assert (emitted.ordinary, emitted.catch_all) == ((), ())


def test_what_stands_behind_a_catch_all_is_never_reached() -> None:
    emitted = emit(f"[{{{TO_SHOP}}}, {{match: [{{uri: {{exact: /a}}}}], {TO_SHOP}}}]")

    assert len(emitted.catch_all) == 1
    assert emitted.ordinary == ()


@pytest.mark.parametrize("more", ["scheme: {exact: https}", "authority: {exact: h}"])
def test_what_asks_for_more_than_a_path_is_no_catch_all(more: str) -> None:
    emitted = emit(f"[{{match: [{{uri: {{prefix: /}}, {more}}}], {TO_SHOP}}}, {{{TO_SHOP}}}]")

    assert len(emitted.ordinary) == len(emitted.catch_all) == 1


@pytest.mark.parametrize(
    ("authority", "regex"), [("h.example", r"(?i)h\.example(:[0-9]+)?"), ("h.example:81", "")]
)
def test_an_authority_without_a_port_may_be_asked_for_with_any(authority: str, regex: str) -> None:
    text = f"[{{match: [{{authority: {{exact: '{authority}'}}}}], {TO_SHOP}}}]"
    (route,) = emit(text).ordinary

    asked = route.match.headers[0].string_match
    assert (asked.safe_regex.regex, asked.exact) == (regex, "" if regex else authority)


def test_two_destinations_of_one_cluster_add_up() -> None:
    emitted = emit(
        "[{route: [{destination: {host: shop}, weight: 30},"
        " {destination: {host: shop.web.svc.cluster.local, port: {number: 80}}, weight: 70}]}]"
    )

    (route,) = emitted.catch_all
    (cluster,) = route.route.weighted_clusters.clusters
    assert cluster.weight.value == 100


def test_an_answer_of_the_application_is_never_asked_for_again() -> None:
    host = routes.virtual_host("a", 80, [])

    assert "5xx" not in host.retry_policy.retry_on
    assert list(host.retry_policy.retriable_status_codes) == []


def test_retries_can_be_switched_off() -> None:
    (route,) = emit(f"[{{{TO_SHOP}, retries: {{attempts: 0}}}}]").catch_all

    assert route.route.retry_policy.num_retries.value == 0
    assert route.route.HasField("retry_policy")


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ("fault: {}", ".fault"),
        ("fault: {delay: {percentage: {value: 1}}}", ".fault.delay.fixedDelay"),
        ("fault: {delay: {fixedDelay: 1s}}", ".fault.delay.percentage"),
        ("fault: {abort: {httpStatus: 42, percentage: {value: 1}}}", ".fault.abort.httpStatus"),
        (
            "fault: {abort: {httpStatus: 503, percentage: {value: 101}}}",
            ".fault.abort.percentage.value",
        ),
        ("mirror: {host: shop}, mirrorPercentage: {value: -1}", ".mirrorPercentage.value"),
        ("mirrorPercentage: {value: 1}", ".mirrorPercentage"),
        ("mirror: {host: shop}, mirrors: [{destination: {host: shop}}]", ".mirror"),
    ],
)
def test_a_fault_or_mirror_in_error_answers_503_in_its_place(more: str, place: str) -> None:
    emitted = emit(f"[{{{TO_SHOP}, {more}}}]")

    assert [str(problem.field) for problem in emitted.problems] == [f"spec.http[0]{place}"]
    assert emitted.catch_all[0].direct_response.status == 503


def test_one_destination_cannot_have_two_sets_of_headers() -> None:
    full = "shop.web.svc.cluster.local"
    emitted = emit(
        "[{route: [{destination: {host: shop}, weight: 1, headers: {request: {set: {a: b}}}}, "
        f"{{destination: {{host: {full}}}, weight: 1}}]}}]"
    )

    assert [str(p.field) for p in emitted.problems] == ["spec.http[0].route[1].headers"]
    assert emitted.catch_all[0].direct_response.status == 503


def test_a_mirror_that_is_not_there_is_named_and_the_route_stays() -> None:
    emitted = emit(f"[{{{TO_SHOP}, mirror: {{host: nobody}}}}]")

    assert [str(problem.field) for problem in emitted.problems] == ["spec.http[0].mirror.host"]
    assert emitted.catch_all[0].route.cluster == "outbound|80||shop.web.svc.cluster.local"


@pytest.mark.parametrize(
    ("match", "is_there"),
    [
        ("port: 80", True),
        ("port: 443", False),
        ("gateways: [edge]", True),
        ("gateways: [web/edge, other]", True),
        ("gateways: [mesh]", False),
        ("sourceNamespace: istio-system", True),
        ("sourceNamespace: web", False),
        ("sourceLabels: {istio: ingressgateway}", True),
        ("sourceLabels: {app: shop}", False),
    ],
)
def test_a_match_is_there_for_its_callers_only(match: str, is_there: bool) -> None:
    emitted = emit(f"[{{match: [{{uri: {{exact: /a}}, {match}}}], {TO_SHOP}}}]")

    assert bool(emitted.ordinary) == is_there
    assert emitted.catch_all == ()
