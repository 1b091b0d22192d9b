"""Rules and facts with only what a test is about."""

from typing import Any

from apirule.apis import core, networking, scheme
from apirule.apis.gateway import v2
from apirule.apis.meta import Object, ObjectMeta, Resource
from apirule.facts import Facts

IDP = {"issuer": "https://idp.example.org", "jwksUri": "https://idp.example.org/keys"}
JWT = {"authentications": [IDP]}


def gateway() -> networking.Gateway:
    return networking.Gateway(
        metadata=ObjectMeta(namespace="kyma-system", name="kyma-gateway"),
        spec=networking.GatewaySpec(
            selector={"istio": "ingressgateway"},
            servers=(
                networking.Server(
                    port=networking.Port(number=443, protocol="HTTPS"), hosts=("*.example.org",)
                ),
            ),
        ),
    )


def workload(name: str = "shop", namespace: str = "web") -> tuple[core.Service, core.Pod]:
    labels = {"app": name, "tier": "front"}
    service = core.Service(
        metadata=ObjectMeta(namespace=namespace, name=name),
        spec=core.ServiceSpec(selector=labels, ports=(core.ServicePort(port=80),)),
    )
    pod = core.Pod(
        metadata=ObjectMeta(namespace=namespace, name=f"{name}-1", labels=labels),
        spec=core.PodSpec(
            containers=(core.Container(name="app"), core.Container(name="istio-proxy"))
        ),
    )
    return service, pod


def facts(*more: Resource) -> Facts:
    return Facts.of([gateway(), *workload(), *more])


def rule(path: str = "/a", methods: tuple[str, ...] = ("GET",), **access: Any) -> Object:
    return {"path": path, "methods": list(methods), **(access or {"noAuth": True})}


def apirule(*rules: Object, generation: int = 1, **spec: Any) -> v2.APIRule:
    return scheme.decode(
        {
            "metadata": {"name": "shop", "namespace": "web", "generation": generation},
            "spec": {
                "hosts": ["shop.example.org"],
                "gateway": "kyma-system/kyma-gateway",
                "service": {"name": "shop", "port": 80},
                "rules": list(rules or (rule(),)),
                **spec,
            },
        },
        v2.APIRule,
    )
