"""Which hosts a wildcard host leaves to the rules of others."""

import pytest
from tests.unit.translate.build import apirule, facts, rule, workload

from apirule.apis import core, networking
from apirule.apis.meta import ObjectMeta
from apirule.apis.security import AuthorizationPolicy
from apirule.names import ObjectName
from apirule.ownership import OWNER_NAME, OWNER_NAMESPACE
from apirule.translate import translate
from apirule.validate.neighbours import narrower_hosts

SHOP, OWNER = ObjectName("web", "shop"), ObjectName("web", "all")


def routes(
    host: str, *targets: str, namespace: str = "web", owner: str = "other"
) -> networking.VirtualService:
    return networking.VirtualService(
        metadata=ObjectMeta(
            namespace=namespace,
            name=host.replace("*", "any"),
            labels={OWNER_NAME: owner, OWNER_NAMESPACE: "web"},
        ),
        spec=networking.VirtualServiceSpec(
            hosts=(host,),
            http=tuple(
                networking.HTTPRoute(
                    route=(
                        networking.HTTPRouteDestination(
                            destination=networking.Destination(host=target)
                        ),
                    )
                )
                for target in targets
            ),
        ),
    )


def service(name: str, namespace: str = "web", **selector: str) -> core.Service:
    return core.Service(
        metadata=ObjectMeta(namespace=namespace, name=name),
        spec=core.ServiceSpec(selector=selector or None),
    )


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
    found = narrower_hosts("*.example.org", SHOP, facts(routes(host, "shop")), OWNER)

    assert found == ((host,) if is_left_out else ())


@pytest.mark.parametrize(
    ("target", "is_left_out"),
    [
        ("shop", True),
        ("shop.web", True),
        ("shop.web.svc", True),
        ("shop.web.svc.cluster.local", True),
        ("depot", False),
        ("shop.other", False),
        ("shop.other.svc.cluster.local", False),
        ("shop.web.example.org", False),
        ("front", True),  # the same label among others
        ("back", False),  # the same label with another value
        ("by-hand", True),  # without a selector: its endpoints may be any
        ("unknown", True),
    ],
)
def test_only_routes_to_the_same_pods_count(target: str, is_left_out: bool) -> None:
    known = facts(
        *workload("depot"),
        service("front", tier="front"),
        service("back", tier="back"),
        service("by-hand"),
        routes("x.example.org", target),
    )

    found = narrower_hosts("*.example.org", SHOP, known, OWNER)

    assert found == (("x.example.org",) if is_left_out else ())


def test_routes_that_cannot_be_read_count() -> None:
    assert narrower_hosts("*.example.org", SHOP, facts(routes("x.example.org")), OWNER)


def test_own_routes_do_not_count() -> None:
    own = routes("x.example.org", "shop", owner="all")

    assert narrower_hosts("*.example.org", SHOP, facts(own), OWNER) == ()


def test_a_host_that_is_no_wildcard_has_none_within_it() -> None:
    assert narrower_hosts("example.org", SHOP, facts(routes("x.example.org", "shop")), OWNER) == ()


def test_without_neighbours_the_policies_are_the_same_as_ever() -> None:
    wild = apirule(rule("/*"), hosts=["*.example.org"])
    apart = routes("x.example.org", "depot")

    def policies(*more: networking.VirtualService) -> list[AuthorizationPolicy]:
        found = translate(wild, facts(*workload("depot"), *more)).resources or ()
        return [one for one in found if isinstance(one, AuthorizationPolicy)]

    assert policies() == policies(apart)
    assert policies() != policies(routes("x.example.org", "shop"))
