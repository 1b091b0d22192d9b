"""Each error of an APIRule: its place and its words, which scripts and people search for.

They are those of the Kyma operator; a line that deviates says so.
"""

from typing import Any

import pytest
from tests.unit.translate.build import IDP, JWT, apirule, facts, rule, workload

from apirule.apis import core, networking
from apirule.apis.meta import ObjectMeta, Resource
from apirule.facts import Facts
from apirule.problem import errors
from apirule.translate.status import describe
from apirule.validate import validate

OTHER = {"issuer": "https://other.example.org", "jwksUri": "https://other.example.org/keys"}
HEADER = [{"name": "X-Token"}]
NO_URI = "value is empty or not a valid uri err="
MIXED = "mixture of multiple fromHeaders and fromParams is not supported"
SHORT_HOST = (
    "Lowercase RFC 1123 label (short host) is only supported as the APIRule host when selected"
    " Gateway has a single host definition matching *.<fqdn> format"
)
EITHER = ("spec", "Either gateway or externalGateway must be specified")


def jwt(*authentications: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"jwt": {"authentications": list(authentications or (IDP,)), **more}}


def server(*hosts: str) -> networking.Server:
    return networking.Server(port=networking.Port(number=443, protocol="HTTPS"), hosts=hosts)


def gateway(*servers: networking.Server, name: str = "other") -> networking.Gateway:
    return networking.Gateway(
        metadata=ObjectMeta(namespace="web", name=name),
        spec=networking.GatewaySpec(servers=servers),
    )


def routes(name: str) -> networking.VirtualService:
    return networking.VirtualService(
        metadata=ObjectMeta(namespace="web", name=name),
        spec=networking.VirtualServiceSpec(hosts=("shop.example.org",)),
    )


def found(known: Facts, *rules: dict[str, Any], **spec: Any) -> list[tuple[str, str]]:
    problems = errors(validate(apirule(*rules, **spec), known))
    return [(str(problem.field), problem.message) for problem in problems]


JWT_AT = "spec.rules[0].jwt"


@pytest.mark.parametrize(
    ("access", "expected"),
    [
        (
            jwt(authorizations=[]),
            [("authorizations", "authorizations defined, but no configuration exists")],
        ),
        (jwt(authorizations=[None]), [("authorizations[0]", "authorization is empty")]),
        (
            jwt(authorizations=[{"requiredScopes": []}]),
            [("authorizations[0].requiredScopes", "value is empty")],
        ),
        (
            jwt(authorizations=[{}, {"requiredScopes": ["a", ""]}]),
            [("authorizations[1].requiredScopes", "scope value is empty")],
        ),
        (
            jwt(authorizations=[{"audiences": []}]),
            [("authorizations[0].audiences", "value is empty")],
        ),
        (
            jwt(authorizations=[{"audiences": [""]}]),
            [("authorizations[0].audiences", "audience value is empty")],
        ),
        (
            {"jwt": {}},
            [("authentications", "A JWT config must have at least one authentication")],
        ),
        (
            jwt({**IDP, "issuer": ""}),
            [("authentications[0].issuer", f"{NO_URI}value is empty")],
        ),
        (
            jwt({**IDP, "issuer": "://x"}),
            [("authentications[0].issuer", f'{NO_URI}parse "://x": missing protocol scheme')],
        ),
        (
            jwt({**IDP, "issuer": "tenant-1\n"}),
            [
                (  # Ours: the Kyma operator accepts it, and the proxies refuse the policy.
                    "authentications[0].issuer",
                    r"'tenant-1\n' contains a control character, which no proxy takes",
                )
            ],
        ),
        (
            jwt(IDP, {**OTHER, "jwksUri": "tenant"}),
            [
                (
                    "authentications[1].jwksUri",
                    f'{NO_URI}parse "tenant": invalid URI for request',
                )
            ],
        ),
        (
            jwt({**IDP, "fromParams": ["t"]}, {**OTHER, "fromHeaders": HEADER}),
            [("authentications[1].fromHeaders", MIXED)],
        ),
        (
            jwt({**IDP, "fromHeaders": HEADER}, {**OTHER, "fromParams": ["t"]}),
            [("authentications[1].fromParams", MIXED)],
        ),
        (
            jwt({**IDP, "fromHeaders": HEADER, "fromParams": ["t"]}),
            [("authentications[0].fromParams", MIXED)],
        ),
        (
            jwt({**IDP, "fromHeaders": HEADER * 2}),
            [("authentications[0].fromHeaders", "multiple fromHeaders are not supported")],
        ),
        (
            jwt({**IDP, "fromParams": ["a", "b"]}),
            [("authentications[0].fromParams", "multiple fromParams are not supported")],
        ),
        # The same issuer with two key sets, and one place for each issuer, are fine.
        (jwt(IDP, {**IDP, "jwksUri": "https://idp.example.org/more"}), []),
        (jwt({**IDP, "fromHeaders": HEADER}, {**OTHER, "fromHeaders": HEADER}), []),
        (jwt(authorizations=[{}]), []),
        (jwt({"issuer": "tenant-1", "jwksUri": "/keys"}), []),
    ],
)
def test_a_jwt_section(access: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert found(facts(), rule(**access)) == [(f"{JWT_AT}.{at}", text) for at, text in expected]


def test_authentications_are_told_entry_by_entry() -> None:
    bad = {"issuer": "", "jwksUri": "", "fromHeaders": HEADER * 2, "fromParams": ["a", "b"]}

    told = found(facts(), rule(**jwt(bad, bad)))

    entry = [
        ("issuer", f"{NO_URI}value is empty"),
        ("jwksUri", f"{NO_URI}value is empty"),
        ("fromHeaders", MIXED),
        ("fromParams", MIXED),
        ("fromHeaders", "multiple fromHeaders are not supported"),
        ("fromParams", "multiple fromParams are not supported"),
    ]
    at = f"{JWT_AT}.authentications"
    # No parameter stands before the headers of the first entry.
    assert told == [
        *((f"{at}[0].{field}", text) for field, text in entry if (field, text) != entry[2]),
        *((f"{at}[1].{field}", text) for field, text in entry),
    ]


SIDECAR = "Failed to execute sidecar injection validation, err: "


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (
            [rule("/{**}/{**}")],
            [("spec.rules[0].path", "Only one {**} operator is allowed in the path.")],
        ),
        (
            [rule("/{**}/{*}")],
            [("spec.rules[0].path", "The {**} operator must be the last operator in the path.")],
        ),
        (
            [rule("/a"), rule("/a")],
            [
                (
                    "spec.rules",
                    (
                        "Path /a with method GET conflicts with at least one of the previous rule"
                        " paths"
                    ),
                )
            ],
        ),
        (
            [rule(**jwt()), rule("/b", **jwt({**IDP, "fromHeaders": HEADER}))],
            [
                (
                    "spec.rules[1].jwt.authentications[0]",
                    "multiple jwt configurations that differ for the same issuer",
                )
            ],
        ),
        (
            [{**rule(), "service": {"name": "gone", "port": 1}}],
            [("spec.rules[0]", f'{SIDECAR}Service "gone" not found')],
        ),
        (
            [{**rule(), "service": {"name": "", "port": 1}}],
            [("spec.rules[0]", f"{SIDECAR}service name is required but missing")],
        ),
        (
            [{**rule(), "service": {"name": "loose", "port": 1}}],
            [("spec.rules[0].injection", "Target service label selectors are not defined")],
        ),
        (
            [rule(), {**rule("/b"), "service": {"name": "bare", "port": 1}}],
            [
                ("spec.rules[1]", f"Pod web/bare-{n} does not have an injected istio sidecar")
                for n in (1, 2)
            ],
        ),
        ([{**rule(), "service": {"name": "empty", "port": 1}}], []),
        ([{**rule(), "service": {"name": "init", "port": 1}}], []),
    ],
)
def test_rules_and_their_workloads(
    rules: list[dict[str, Any]], expected: list[tuple[str, str]]
) -> None:
    def made(name: str, *pods: core.PodSpec) -> list[Resource]:
        meta = ObjectMeta(namespace="web", name=name)
        labels = {"app": name}
        return [
            core.Service(metadata=meta, spec=core.ServiceSpec(selector=labels)),
            *(
                core.Pod(
                    metadata=ObjectMeta(namespace="web", name=f"{name}-{n}", labels=labels),
                    spec=spec,
                )
                for n, spec in enumerate(pods, 1)
            ),
        ]

    bare = core.PodSpec(containers=(core.Container(name="app"),))
    init = core.PodSpec(init_containers=(core.Container(name="istio-proxy"),))
    loose = core.Service(metadata=ObjectMeta(namespace="web", name="loose"))
    known = facts(loose, *made("bare", bare, bare), *made("empty"), *made("init", init))

    assert found(known, *rules) == expected


def test_a_rule_without_any_service_is_told_twice() -> None:
    assert found(facts(), rule(), service=None) == [
        (
            "spec.rules[0].service",
            "The rule must define a service, because no service is defined on spec level",
        ),
        ("spec.rules[0]", f"{SIDECAR}service name is required but missing"),
    ]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"rules": []}, [("spec.rules", "No rules defined")]),
        ({"hosts": []}, [("spec.hosts", "No hosts defined")]),
        ({"hosts": ["a.b"]}, [("spec.hosts[0]", "Host must be a valid FQDN or short host name")]),
        ({"hosts": ["shop"], "gateway": "web/two-hosts"}, [("spec.hosts[0]", SHORT_HOST)]),
        ({"hosts": ["shop"], "gateway": "web/two-servers"}, [("spec.hosts[0]", SHORT_HOST)]),
        ({"hosts": ["shop"], "gateway": "web/no-wildcard"}, [("spec.hosts[0]", SHORT_HOST)]),
        ({"hosts": ["shop"], "gateway": "web/empty"}, [("spec.hosts[0]", SHORT_HOST)]),
        ({"hosts": ["shop"], "gateway": "web/same-twice"}, []),
        ({"gateway": None}, [EITHER]),
        ({"gateway": "web/none"}, [("spec.gateway", "Could not get specified Gateway")]),
    ],
)
def test_hosts_and_gateways(spec: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    known = facts(
        gateway(server("*.a.org", "*.b.org"), name="two-hosts"),
        gateway(server("*.a.org"), server("*.b.org"), name="two-servers"),
        gateway(server("a.org"), name="no-wildcard"),
        gateway(name="empty"),
        gateway(server("*.a.org"), server("*.a.org"), name="same-twice"),
    )

    assert found(known, **spec) == expected


def test_a_host_is_reported_once_for_each_virtual_service_that_has_it() -> None:
    assert (
        found(facts(routes("one"), routes("two")))
        == [("spec.hosts[0]", "Host is occupied by another Virtual Service")] * 2
    )


def test_errors_come_in_the_order_of_the_checks() -> None:
    bad = jwt({**IDP, "issuer": ""}, authorizations=[])
    known = facts(*workload("depot"), routes("other"))
    rules = [
        {**rule("/{**}/{**}", **bad), "service": {"name": "gone", "port": 1}},
        rule("/x", jwt=JWT),
        rule("/x", **jwt({**IDP, "fromHeaders": HEADER})),
    ]

    assert [at for at, _ in found(known, *rules)] == [
        "spec.rules[0].jwt.authorizations",
        "spec.rules[0].jwt.authentications[0].issuer",
        "spec.rules[0]",
        "spec.rules[0].path",
        "spec.rules",
        "spec.rules[2].jwt.authentications[0]",
        "spec.hosts[0]",
    ]


def test_of_several_conflicts_the_description_has_one() -> None:
    rules = [rule("/a"), rule("/a"), rule("/b"), rule("/b"), rule("/{**}/{**}")]
    problems = errors(validate(apirule(*rules), facts()))

    assert [str(problem.field) for problem in problems].count("spec.rules") == 2
    assert describe(problems).splitlines() == [
        (
            "Validation errors: Attribute '.spec.rules[4].path': Only one {**} operator is"
            " allowed in the path."
        ),
        (
            "Attribute '.spec.rules': Path /a with method GET conflicts with at least one of the"
            " previous rule paths"
        ),
    ]


@pytest.mark.parametrize(
    "spec", [{"gateway": None}, {"externalGateway": "web/x"}], ids=["neither", "both"]
)
def test_neither_gateway_and_both_are_described_alike(spec: dict[str, Any]) -> None:
    problems = errors(validate(apirule(rule("/{**}/{**}"), **spec), facts()))

    assert describe(problems) == (
        "Validation errors: Attribute 'spec': Either gateway or externalGateway must be specified"
    )
