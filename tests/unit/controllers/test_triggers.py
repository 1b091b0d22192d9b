import pytest

from apirule.apis.gateway import v2
from apirule.apis.meta import Object
from apirule.controllers import triggers
from apirule.controllers.triggers import Triggers
from apirule.kube.client import Client
from apirule.kube.config import KubeConfig
from apirule.kube.informer import Delta, Informer


def informer(*objects: Object) -> Informer:
    """Make an informer whose cache is filled by hand."""
    made = Informer(Client(KubeConfig(server="http://127.0.0.1:1")), v2.APIRule.gvk)
    for obj in objects:
        made._put(obj)
    return made


def rule(name: str, **spec: object) -> Object:
    return {"metadata": {"namespace": "shop", "name": name, "uid": name}, "spec": spec}


def other(namespace: str, name: str, **fields: object) -> Object:
    return {"metadata": {"namespace": namespace, "name": name}, **fields}


RULES = [
    rule("short", hosts=["orders"], gateway="gw/main"),
    rule("full", hosts=["orders.example.org"], gateway="main/gw"),
    rule("wild", hosts=["*.example.org"], gateway="gw/other"),
    rule(
        "services",
        hosts=["x.example.net"],
        gateway="gw/none",
        service={"name": "a", "port": 1, "namespace": "back"},
        rules=[{"service": {"name": "b", "port": 1}}, {"service": {"name": "c", "namespace": "c"}}],
    ),
    rule("wild-served", hosts=["*.other.test"], service={"name": "w", "namespace": "wild"}),
    rule("odd", hosts=[], gateway="no-slash", rules=[{}]),
]
SERVICES = [
    other("back", "a", spec={"selector": {"app": "a"}}),
    other("back", "b", spec={"selector": {"app": "b"}}),
    other("c", "c", spec={}),
]


@pytest.fixture
def concerned() -> Triggers:
    rules, services = informer(*RULES), informer(*SERVICES)
    triggers.add_rule_indexes(rules)
    services.add_index(triggers.NAMESPACE, triggers.namespace_index)
    return Triggers(rules, services)


@pytest.mark.parametrize(
    ("gateway", "names"),
    [(("gw", "main"), {"short", "full"}), (("gw", "other"), {"wild"}), (("x", "y"), set())],
    ids=["by two rules", "by one", "by none"],
)
def test_a_gateway_concerns_rules_that_name_it_in_either_order(
    concerned: Triggers, gateway: tuple[str, str], names: set[str]
) -> None:
    found = concerned.of_gateway(Delta(None, other(*gateway)))

    assert {name.name for name in found} == names


@pytest.mark.parametrize(
    ("service", "found"),
    [(("back", "a"), True), (("back", "b"), True), (("c", "c"), True), (("shop", "b"), False)],
    ids=str,
)
def test_a_service_concerns_rules_that_inherit_its_namespace(
    concerned: Triggers, service: tuple[str, str], found: bool
) -> None:
    names = [name.name for name in concerned.of_service(Delta(None, other(*service)))]

    assert names == (["services"] if found else [])


def test_policies_that_come_to_name_a_host_concern_the_wildcards_around_it(
    concerned: Triggers,
) -> None:
    def policy(*hosts: str, path: str = "/a") -> Object:
        operation = {"hosts": list(hosts), "paths": [path]}
        return other("shop", "p", spec={"rules": [{"to": [{"operation": operation}]}]})

    def names(old: Object | None, new: Object | None) -> list[str]:
        return sorted(name.name for name in concerned.of_guards(Delta(old, new)))

    assert names(None, policy("orders.example.org")) == ["wild"]
    assert names(policy("*.deep.example.org"), None) == ["wild"]
    assert names(policy("x.example.org"), policy("x.other.test")) == ["wild", "wild-served"]
    assert names(policy("x.example.org"), policy("x.example.org", path="/b")) == []
    assert names(None, policy("*.example.org")) == ["wild"]
    assert names(None, other("shop", "p", spec={})) == []


def test_a_pod_concerns_the_rules_of_the_services_that_select_it(concerned: Triggers) -> None:
    def pod(**labels: str) -> Object:
        return {"metadata": {"namespace": "back", "name": "p", "labels": labels}, "spec": {}}

    came = list(concerned.of_pod(Delta(None, pod(app="a"))))
    left = list(concerned.of_pod(Delta(pod(app="b"), pod(app="x"))))
    foreign = list(concerned.of_pod(Delta(None, pod(app="x"))))
    status = list(concerned.of_pod(Delta(pod(app="a"), pod(app="a") | {"status": {"x": 1}})))

    assert [len(came), len(left), len(foreign), len(status)] == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("host", "names"),
    [
        ("orders.example.org", {"short", "full", "wild"}),
        ("orders.example.com", {"short"}),
        ("deep.sub.example.org", {"wild"}),
        ("*.example.net", {"short", "full", "wild", "services", "wild-served", "odd"}),
        ("unrelated.test", set()),
    ],
)
def test_a_virtual_service_concerns_rules_that_share_or_overlap_its_hosts(
    concerned: Triggers, host: str, names: set[str]
) -> None:
    routes = other("elsewhere", "v", spec={"hosts": [host]})

    found = concerned.of_routes(Delta(None, routes))
    status = concerned.of_routes(Delta(routes, routes | {"status": {"x": 1}}))

    assert {name.name for name in found} == names
    assert list(status) == []


def test_a_namespace_concerns_rules_in_it_and_rules_with_services_there(
    concerned: Triggers,
) -> None:
    def names(namespace: str) -> set[str]:
        return {one.name for one in concerned.of_namespace(Delta(None, other("", namespace)))}

    assert names("shop") == {"short", "full", "wild", "services", "wild-served", "odd"}
    assert names("back") == {"services"}
    assert names("elsewhere") == set()


def test_a_status_is_told_from_the_rest_of_a_rule() -> None:
    old = rule("r", hosts=["a"])
    status = old | {"status": {"state": "Ready"}}
    spec = rule("r", hosts=["b"])
    leaving = {**old, "metadata": old["metadata"] | {"deletionTimestamp": "now"}}

    more = [
        triggers.is_more_than_status(delta)
        for delta in (
            Delta(None, old),
            Delta(old, status),
            Delta(old, spec),
            Delta(old, leaving),
            Delta(old, None),
        )
    ]

    assert more == [True, False, True, True, True]


def test_the_mesh_configuration_concerns_the_rules_that_ask_authorizers() -> None:
    asking = rule("asking", rules=[{"noAuth": True}, {"extAuth": {"authorizers": ["gate"]}}])
    rules = informer(*RULES, asking)
    triggers.add_rule_indexes(rules)
    before, after = (other("istio-system", "istio", data={"mesh": text}) for text in "ab")
    concerned = Triggers(rules, informer())

    assert [n.name for n in concerned.of_mesh_config(Delta(before, after))] == ["asking"]
    assert [n.name for n in concerned.of_mesh_config(Delta(after, None))] == ["asking"]
    assert list(concerned.of_mesh_config(Delta(before, before))) == []
