"""DestinationRules and ServiceEntries: which one counts, what is refused, what closes a host."""

import base64
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from tests.shells.mesh_run import Authority
from tests.unit.mesh.objects import GATEWAY_POD, decode

from apirule.apis.meta import Resource
from apirule.apis.traffic import DestinationRule, ServiceEntry
from apirule.mesh import entries, traffic
from apirule.mesh.build import build
from apirule.mesh.config import ProxyConfig, TypeUrl
from apirule.mesh.snapshot import Snapshot
from apirule.names import ObjectName
from apirule.problem import errors

SHOP = "shop.web.svc.cluster.local"
WORLD = """
apiVersion: v1
kind: Pod
metadata: {name: caller, namespace: home, annotations: {apirule.local/outbound: "7001"}}
spec: {containers: [{name: app}, {name: istio-proxy}]}
---
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: web}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: shop, namespace: web, labels: {kubernetes.io/service-name: shop}}
ports: [{name: http, port: 9}]
endpoints: [{addresses: [127.0.0.1]}]
"""


def rule(
    spec: str, *, name: str = "dr", namespace: str = "web", created: str = "2026-01-01T00:00:00Z"
) -> str:
    return f"""
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: "{created}"}}
spec: {spec}
"""


def entry(spec: str, *, name: str = "se", namespace: str = "web") -> str:
    return f"""
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: {namespace}}}
spec: {spec}
"""


def only(text: str, kind: type[Resource]) -> Any:
    (found,) = (each for each in decode(text) if isinstance(each, kind))
    return found


def told(text: str, **more: Any) -> ProxyConfig:
    snapshot = Snapshot.of(decode(WORLD + text), **more)
    proxy = snapshot.proxy(ObjectName("home", "caller"))
    assert proxy is not None
    return build(snapshot, proxy)


def places(config: ProxyConfig, name: str = f"outbound|80||{SHOP}") -> int:
    assignment: Any = config.resources[TypeUrl.ENDPOINT][name]
    return sum(len(group.lb_endpoints) for group in assignment.endpoints)


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ("{host: ''}", "spec.host"),
        ("{host: a_b}", "spec.host"),
        ("{host: a, exportTo: ['~']}", "spec.exportTo[0]"),
        ("{host: a, subsets: [{name: ''}]}", "spec.subsets[0].name"),
        ("{host: a, subsets: [{name: x}, {name: x}]}", "spec.subsets[1].name"),
        ("{host: a, subsets: [{name: 'x|y'}]}", "spec.subsets[0].name"),
    ],
)
def test_a_rule_in_error_says_where(spec: str, place: str) -> None:
    problems = traffic.problems(only(rule(spec), DestinationRule), has_roots=True)

    assert [str(problem.field) for problem in problems] == [place]


@pytest.mark.parametrize(
    ("policy", "place"),
    [
        ("loadBalancer: {simple: PASSTHROUGH}", "loadBalancer.simple"),
        ("loadBalancer: {consistentHash: {}}", "loadBalancer.consistentHash"),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, httpHeaderName: a}}",
            "loadBalancer.consistentHash",
        ),
        (
            "loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}",
            "loadBalancer.consistentHash",
        ),
        (
            "loadBalancer: {consistentHash: {httpCookie: {name: a, ttl: x}}}",
            "loadBalancer.consistentHash.httpCookie.ttl",
        ),
        (
            "loadBalancer: {consistentHash: {httpHeaderName: 'a b'}}",
            "loadBalancer.consistentHash.httpHeaderName",
        ),
        (
            "loadBalancer: {consistentHash: {httpQueryParameterName: 'a b'}}",
            "loadBalancer.consistentHash.httpQueryParameterName",
        ),
        (
            "loadBalancer: {consistentHash: {httpCookie: {name: ''}}}",
            "loadBalancer.consistentHash.httpCookie.name",
        ),
        (
            "loadBalancer: {consistentHash: {httpCookie: {name: a, path: '/;'}}}",
            "loadBalancer.consistentHash.httpCookie.path",
        ),
        ("outlierDetection: {consecutive5xxErrors: -1}", "outlierDetection.consecutive5xxErrors"),
        ("tls: {mode: SIMPLE, sni: '*.a.example'}", "tls.sni"),
        ("tls: {mode: SIMPLE, subjectAltNames: ['']}", "tls.subjectAltNames[0]"),
        ("connectionPool: {tcp: {connectTimeout: 0s}}", "connectionPool.tcp.connectTimeout"),
        ("connectionPool: {tcp: {maxConnections: -1}}", "connectionPool.tcp.maxConnections"),
        ("connectionPool: {http: {idleTimeout: x}}", "connectionPool.http.idleTimeout"),
        ("outlierDetection: {interval: 0s}", "outlierDetection.interval"),
        ("outlierDetection: {maxEjectionPercent: 101}", "outlierDetection.maxEjectionPercent"),
        ("tls: {mode: MAYBE}", "tls.mode"),
        ("tls: {mode: MUTUAL}", "tls.credentialName"),
        ("tls: {mode: ISTIO_MUTUAL, credentialName: a}", "tls.credentialName"),
        ("tls: {mode: DISABLE, credentialName: a}", "tls.credentialName"),
    ],
)
def test_a_setting_in_error_closes_the_host_wherever_it_stands(policy: str, place: str) -> None:
    whole = f"{{host: shop, trafficPolicy: {{{policy}}}}}"
    port = (
        f"{{host: shop, trafficPolicy: {{portLevelSettings: [{{port: {{number: 1}}, {policy}}}]}}}}"
    )

    of_whole = traffic.problems(only(rule(whole), DestinationRule), has_roots=True)
    of_port = traffic.problems(only(rule(port), DestinationRule), has_roots=True)

    assert [str(p.field) for p in of_whole] == [f"spec.trafficPolicy.{place}"]
    assert [str(p.field) for p in of_port] == [f"spec.trafficPolicy.portLevelSettings[0].{place}"]
    assert places(told(rule(whole))) == 0
    assert places(told("")) == 1


def test_where_the_machine_trusts_no_ca_a_server_needs_one_that_is_named() -> None:
    def found(tls: str) -> list[str]:
        text = rule(f"{{host: shop, trafficPolicy: {{tls: {tls}}}}}")
        problems = errors(traffic.problems(only(text, DestinationRule), has_roots=False))
        return [str(problem.field) for problem in problems]

    assert found("{mode: SIMPLE}") == ["spec.trafficPolicy.tls.credentialName"]
    assert found("{mode: SIMPLE, credentialName: bank}") == []
    assert found("{mode: SIMPLE, insecureSkipVerify: true}") == []
    assert found("{mode: ISTIO_MUTUAL}") == []
    assert places(told(rule("{host: shop, trafficPolicy: {tls: {mode: SIMPLE}}}"))) == 0


def test_a_rule_that_a_proxy_refused_closes_its_host() -> None:
    text = rule("{host: shop, trafficPolicy: {loadBalancer: {simple: RANDOM}}}")
    refused = only(text, DestinationRule)

    config = told(text, rejected={refused.ref: "no"})
    cluster: Any = config.resources[TypeUrl.CLUSTER][f"outbound|80||{SHOP}"]

    assert places(config) == 0
    assert cluster.lb_policy == cluster.LEAST_REQUEST
    assert refused.ref in config.sources[TypeUrl.CLUSTER, cluster.name]


def test_a_route_knows_the_rule_it_hashes_for() -> None:
    text = rule(
        "{host: shop, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}}}}"
    )

    config = told(text)

    assert only(text, DestinationRule).ref in config.sources[TypeUrl.ROUTE, "http_proxy"]


def test_mutual_tls_with_nobody_to_answer_is_never_plain_text() -> None:
    config = told(rule("{host: shop, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}"))

    assert places(config) == 0


@pytest.mark.parametrize(
    ("rules", "chosen"),
    [
        ((("web", SHOP), ("home", "'*.web.svc.cluster.local'")), "home"),
        ((("web", SHOP), ("istio-system", SHOP)), "web"),
        ((("istio-system", SHOP),), "istio-system"),
        ((("press", SHOP),), None),
    ],
    ids=["the caller's own", "that of the host", "that of the root", "none of others"],
)
def test_the_rule_that_counts(rules: tuple[tuple[str, str], ...], chosen: str | None) -> None:
    text = "".join(
        rule(f"{{host: {host}}}", name=f"n{i}", namespace=namespace)
        for i, (namespace, host) in enumerate(rules)
    )
    snapshot = Snapshot.of(decode(WORLD + text))

    found = traffic.rule_for(snapshot, SHOP, home="web", caller="home")

    assert (found.metadata.namespace if found else None) == chosen


def test_in_one_namespace_the_closest_host_counts_then_the_oldest_rule() -> None:
    text = rule("{host: '*.svc.cluster.local'}", name="wide", created="2025-01-01T00:00:00Z")
    text += rule("{host: shop}", name="late", created="2026-02-01T00:00:00Z")
    text += rule(f"{{host: {SHOP}}}", name="early")
    snapshot = Snapshot.of(decode(WORLD + text))

    found = traffic.rule_for(snapshot, SHOP, home="web", caller="home")
    problems = traffic.all_problems(snapshot)

    assert found is not None
    assert found.metadata.name == "early"
    ((ref, (problem,)),) = problems.items()
    assert ref.name == "late"
    assert f"DestinationRule web/early is older and rules {SHOP} already" in problem.message


def test_rules_for_different_namespaces_do_not_meet() -> None:
    text = rule("{host: shop, exportTo: [home]}", name="a")
    text += rule("{host: shop, exportTo: [press]}", name="b")

    assert traffic.all_problems(Snapshot.of(decode(WORLD + text))) == {}


@pytest.mark.parametrize(
    ("names", "counts"), [('["."]', False), ('["*"]', True), ("[home]", True), ("[other]", False)]
)
def test_a_rule_counts_where_it_is_exported_to(names: str, counts: bool) -> None:
    snapshot = Snapshot.of(decode(WORLD + rule(f"{{host: shop, exportTo: {names}}}")))

    found = traffic.rule_for(snapshot, SHOP, home="web", caller="home")

    assert (found is not None) == counts


def test_a_rule_for_a_host_that_is_not_there_says_so() -> None:
    (problem,) = told(rule("{host: shpo}")).problems[
        only(rule("{host: shpo}"), DestinationRule).ref
    ]

    assert problem.severity == "warning"
    assert "shpo.web.svc.cluster.local" in problem.message


ENTRY = "{hosts: [a.example], resolution: STATIC, ports: [{number: 80, name: http}], "
AT_HOME = "endpoints: [{address: 127.0.0.1}]"


@pytest.mark.parametrize(
    ("spec", "places"),
    [
        ("{}", ["hosts", "ports", "resolution"]),
        (ENTRY + "}", ["endpoints"]),
        (ENTRY.replace("a.example", "short") + AT_HOME + "}", ["hosts[0]"]),
        (ENTRY.replace("STATIC", "NONE") + "}", ["resolution"]),
        (ENTRY.replace("STATIC", "DYNAMIC_DNS") + "}", ["resolution"]),
        (ENTRY.replace("number: 80", "number: 0") + AT_HOME + "}", ["ports[0].number"]),
        (
            ENTRY.replace("name: http", "name: x, protocol: TCP") + AT_HOME + "}",
            ["ports[0].protocol"],
        ),
        (
            ENTRY.replace("name: http}", "name: http}, {number: 81, name: http}") + AT_HOME + "}",
            ["ports[1]"],
        ),
        (ENTRY + "endpoints: [{address: b.example}]}", ["endpoints[0].address"]),
        (ENTRY + "endpoints: [{address: 'unix://b'}]}", ["endpoints[0].address"]),
        (
            ENTRY.replace("STATIC", "DNS") + "endpoints: [{address: 'unix:///b'}]}",
            ["endpoints[0].address"],
        ),
        (
            ENTRY + "endpoints: [{address: 'unix:///b', ports: {http: 1}}]}",
            ["endpoints[0].ports"],
        ),
        (
            ENTRY + "endpoints: [{address: 127.0.0.1, ports: {tcp: 1}}]}",
            ["endpoints[0].ports.tcp"],
        ),
        (
            ENTRY.replace("STATIC", "DNS").replace("a.", "'*.").replace("example]", "example']")
            + "}",
            ["hosts[0]"],
        ),
        (
            ENTRY.replace("STATIC", "DNS_ROUND_ROBIN")
            + "endpoints: [{address: b.example}, {address: c.example}]}",
            ["endpoints"],
        ),
        (ENTRY + "endpoints: [{address: 'unix:///" + "b" * 107 + "'}]}", ["endpoints[0].address"]),
        (ENTRY + "endpoints: [{address: 127.0.0.1, weight: -1}]}", ["endpoints[0].weight"]),
        (ENTRY + AT_HOME + ", subjectAltNames: ['a b']}", ["subjectAltNames[0]"]),
        (ENTRY + AT_HOME + ", location: NOWHERE}", ["location"]),
        (ENTRY + AT_HOME + ", exportTo: ['~']}", ["exportTo[0]"]),
    ],
)
def test_an_entry_in_error_says_where(spec: str, places: list[str]) -> None:
    problems = entries.problems(only(entry(spec), ServiceEntry))

    assert [str(problem.field) for problem in problems] == [f"spec.{place}" for place in places]


@pytest.mark.parametrize("host", [SHOP, "shop.web.svc", "shop.web"])
def test_an_entry_never_takes_the_name_of_a_service(host: str) -> None:
    text = entry(ENTRY.replace("a.example", host) + AT_HOME + "}")

    config = told(text)
    table: Any = config.resources[TypeUrl.ROUTE]["http_proxy"]
    domains = [domain for each in table.virtual_hosts for domain in each.domains]

    assert len(domains) == len(set(domains))
    (problem,) = config.problems[only(text, ServiceEntry).ref]
    assert problem.reason == "Conflict"


def test_of_two_entries_for_a_host_the_second_is_told() -> None:
    text = entry(ENTRY + AT_HOME + "}", name="a") + entry(ENTRY + AT_HOME + "}", name="b")

    problems = told(text).problems

    assert [(ref.name, [p.reason for p in group]) for ref, group in problems.items()] == [
        ("b", ["Conflict"])
    ]


def test_an_entry_that_a_proxy_refused_is_not_there() -> None:
    text = entry(ENTRY + AT_HOME + "}")

    config = told(text, rejected={only(text, ServiceEntry).ref: "no"})

    assert "outbound|80||a.example" not in config.resources[TypeUrl.CLUSTER]


def _secret(name: str, **data: bytes) -> str:
    entries = ", ".join(
        f"{key.replace('_', '.')}: {base64.b64encode(value).decode()}"
        for key, value in data.items()
    )
    return f"""
---
apiVersion: v1
kind: Secret
metadata: {{name: {name}, namespace: istio-system}}
data: {{{entries}}}
"""


def test_each_mutual_server_asks_for_certificates_of_its_own_authority() -> None:
    one, two = Authority("one"), Authority("two")
    pair = one.identity("spiffe://a")
    shown = {"tls_crt": pair.certificate, "tls_key": pair.key}
    text = (
        GATEWAY_POD.replace(
            'servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*.example.com"]}]',
            "servers: [" + ", ".join(_mutual_server(name) for name in ("one", "two")) + "]",
        )
        + _secret("one", **shown)
        + _secret("one-cacert", ca_crt=one.pem)
        + _secret("two", **shown, ca_crt=two.pem)
    )
    snapshot = Snapshot.of(decode(text))
    proxy = snapshot.proxy(ObjectName("istio-system", "gw"))
    assert proxy is not None

    config = build(snapshot, proxy)

    secrets: Any = config.resources[TypeUrl.SECRET]
    (listener,) = config.resources[TypeUrl.LISTENER].values()
    asked = {
        chain["filterChainMatch"]["serverNames"][0]: chain["transportSocket"]["typedConfig"][
            "commonTlsContext"
        ]["validationContextSdsSecretConfig"]["name"]
        for chain in MessageToDict(listener)["filterChains"]
    }
    authorities = {
        host: secrets[name].validation_context.trusted_ca.inline_bytes
        for host, name in asked.items()
    }
    assert authorities == {"one.example.com": one.pem, "two.example.com": two.pem}


def _mutual_server(name: str) -> str:
    return (
        f"{{port: {{number: 443, name: {name}, protocol: HTTPS}}, hosts: [{name}.example.com], "
        f"tls: {{mode: MUTUAL, credentialName: {name}}}}}"
    )
