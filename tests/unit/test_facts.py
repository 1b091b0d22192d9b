"""Facts: what is found, and how."""

from apirule.apis import core, networking
from apirule.apis.meta import ObjectMeta
from apirule.facts import Facts, full_host, gateway_domain
from apirule.names import ObjectName


def gateway(
    *servers: tuple[str, tuple[str, ...]],
    namespace: str = "kyma-system",
    name: str = "kyma-gateway",
) -> networking.Gateway:
    return networking.Gateway(
        metadata=ObjectMeta(namespace=namespace, name=name),
        spec=networking.GatewaySpec(
            servers=tuple(
                networking.Server(port=networking.Port(number=443, protocol=protocol), hosts=hosts)
                for protocol, hosts in servers
            )
        ),
    )


def pod(name: str, labels: dict[str, str], namespace: str = "web") -> core.Pod:
    return core.Pod(metadata=ObjectMeta(namespace=namespace, name=name, labels=labels))


def test_a_gateway_is_found_with_its_name_swapped_only_if_there_is_none_as_written() -> None:
    straight = gateway(namespace="a", name="b")
    swapped = gateway(namespace="b", name="a")

    both = Facts.of([straight, swapped])
    one = Facts.of([swapped])

    assert both.find_gateway(ObjectName("a", "b")) == (straight, False)
    assert one.find_gateway(ObjectName("a", "b")) == (swapped, True)
    assert one.find_gateway(ObjectName("a", "c")) is None


def test_the_default_gateway_gives_the_default_domain() -> None:
    servers = (("HTTPS", ("*.example.org",)), ("HTTP", ("*.example.org",)))

    assert Facts.of([gateway(*servers)]).default_domain == "example.org"


def test_a_default_gateway_of_several_domains_gives_no_default_domain() -> None:
    servers = (("HTTPS", ("*.example.org",)), ("HTTPS", ("*.example.com",)))

    assert Facts.of([gateway(*servers)]).default_domain is None


def test_a_domain_that_is_given_wins() -> None:
    facts = Facts.of([gateway(("HTTPS", ("*.example.org",)))], default_domain="kyma.localhost")

    assert facts.default_domain == "kyma.localhost"


def test_the_domain_of_a_gateway_is_its_first_host() -> None:
    found = gateway(("HTTP", ()), ("HTTPS", ("web/*.b.example.org", "*.a.example.org")))

    assert gateway_domain(found) == "b.example.org"


def test_only_a_short_host_is_completed() -> None:
    found = gateway(("HTTPS", ("*.example.org",)))

    assert full_host("shop", found) == "shop.example.org"
    assert full_host("shop.example.com", found) == "shop.example.com"
    assert full_host("*.example.com", found) == "*.example.com"


def test_a_selector_selects_pods_that_carry_all_its_labels_in_its_namespace() -> None:
    both = pod("both", {"app": "shop", "version": "v1", "more": "x"})
    facts = Facts.of(
        [both, pod("one", {"app": "shop"}), pod("away", {"app": "shop", "version": "v1"}, "other")]
    )

    assert list(facts.selected_pods("web", {"app": "shop", "version": "v1"})) == [both]


def test_an_empty_selector_selects_nothing() -> None:
    assert list(Facts.of([pod("one", {})]).selected_pods("web", {})) == []


def test_sidecars_are_injected_where_the_namespace_says_so() -> None:
    labelled = core.Namespace(metadata=ObjectMeta(name="in", labels={"istio-injection": "enabled"}))
    facts = Facts.of([labelled, core.Namespace(metadata=ObjectMeta(name="out"))])

    assert [facts.injects_sidecars(name) for name in ("in", "out", "unknown")] == [
        True,
        False,
        False,
    ]
