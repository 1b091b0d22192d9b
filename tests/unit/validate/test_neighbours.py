"""Which hosts a wildcard host leaves to the rules of others."""

import pytest
from tests.unit.translate.build import JWT, apirule, facts, rule, workload

from apirule.apis import networking
from apirule.apis.meta import ObjectMeta, Resource
from apirule.apis.security import AuthorizationPolicy
from apirule.names import ObjectName
from apirule.ownership import HASH, OWNER_NAME, OWNER_NAMESPACE
from apirule.translate import translate
from apirule.validate.neighbours import narrower_hosts

OWNER = ObjectName("web", "all")
TO_SHOP = networking.HTTPRoute(
    route=(networking.HTTPRouteDestination(destination=networking.Destination(host="shop")),)
)
ANSWER = networking.HTTPRoute(direct_response=networking.HTTPDirectResponse(status=200))
REDIRECT = networking.HTTPRoute(redirect=networking.HTTPRedirect(uri="/elsewhere"))


def routes(
    host: str, *http: networking.HTTPRoute, owner: str = "other"
) -> networking.VirtualService:
    return networking.VirtualService(
        metadata=ObjectMeta(
            namespace="web",
            name=host.replace("*", "any"),
            labels={OWNER_NAME: owner, OWNER_NAMESPACE: "web"},
        ),
        spec=networking.VirtualServiceSpec(hosts=(host,), http=http),
    )


def policies(resources: tuple[Resource, ...] | None) -> list[AuthorizationPolicy]:
    return [one for one in resources or () if isinstance(one, AuthorizationPolicy)]


@pytest.mark.parametrize(
    ("host", "is_left_out"),
    [
        ("x.example.org", True),
        ("y.x.example.org", True),
        ("*.x.example.org", True),
        ("*.example.org", False),
        ("example.org", False),
        ("*.org", False),
        ("xexample.org", False),
    ],
)
def test_a_host_within_the_wildcard_is_left_out(host: str, is_left_out: bool) -> None:
    found = narrower_hosts("*.example.org", facts(routes(host, TO_SHOP)), OWNER)

    assert found == ((host,) if is_left_out else ())


@pytest.mark.parametrize(
    ("http", "is_left_out"),
    [((TO_SHOP,), True), ((), True), ((ANSWER, REDIRECT), False), ((ANSWER, TO_SHOP), True)],
    ids=["a Service", "cannot be read", "nowhere", "partly"],
)
def test_only_routes_that_may_lead_to_a_workload_count(
    http: tuple[networking.HTTPRoute, ...], is_left_out: bool
) -> None:
    found = narrower_hosts("*.example.org", facts(routes("x.example.org", *http)), OWNER)

    assert bool(found) is is_left_out


def test_a_host_that_policies_guard_counts_before_its_routes_are_there() -> None:
    narrow = apirule(rule("/*", jwt=JWT), hosts=["x.example.org"])
    guards = policies(translate(narrow, facts()).resources)

    assert narrower_hosts("*.example.org", facts(*guards), OWNER) == ("x.example.org",)
    assert narrower_hosts("*.example.org", facts(*guards), narrow.object_name) == ()


def test_own_routes_do_not_count() -> None:
    own = routes("x.example.org", TO_SHOP, owner="all")

    assert narrower_hosts("*.example.org", facts(own), OWNER) == ()


def test_a_host_that_is_no_wildcard_has_none_within_it() -> None:
    assert narrower_hosts("example.org", facts(routes("x.example.org", TO_SHOP)), OWNER) == ()


def test_a_policy_keeps_name_and_hash_whatever_hosts_it_leaves_out() -> None:
    wild = apirule(rule("/*"), hosts=["*.example.org"])

    (alone,) = policies(translate(wild, facts(*workload("depot"))).resources)
    beside = facts(*workload("depot"), routes("x.example.org", TO_SHOP))
    (careful,) = policies(translate(wild, beside).resources)

    assert careful.spec.rules[0].to[0].operation.not_hosts == ("x.example.org",)
    assert careful.metadata.name == alone.metadata.name
    assert careful.labels[HASH] == alone.labels[HASH]
