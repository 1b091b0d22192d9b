"""What files leave to the cluster, and what may be taken for granted of it without one. Pure.

A Deployment stands for the Pod it makes. Without an instance a Gateway, a Service and an
authorizer that a rule names are there, and every Service has a workload behind a sidecar.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from apirule import manifest, providers
from apirule.apis import core, networking
from apirule.apis.gateway import v2
from apirule.apis.meta import Object, ObjectRef, Resource
from apirule.facts import DEFAULT_GATEWAY
from apirule.local import system
from apirule.local.processes import injector
from apirule.mesh.proxy import PROXY_CONTAINER
from apirule.names import ObjectName
from apirule.settings import Settings
from apirule.validate.neighbours import host_within


class Assumed(NamedTuple):
    objects: list[Object]
    sentences: list[str]
    """What somebody should know who looks at what was made of them."""


def pods_of_deployments(objects: Iterable[Object], known: Iterable[Object]) -> Iterator[Object]:
    """Yield a Pod for each Deployment, injected as its namespace says; unknown ones say yes."""
    namespaces = {
        str(obj["metadata"].get("name")): obj for obj in known if obj.get("kind") == "Namespace"
    }
    for obj in objects:
        ref = ObjectRef.of(obj)
        if (ref.group, ref.kind) != ("apps", "Deployment"):
            continue
        template = (obj.get("spec") or {}).get("template") or {}
        meta = {**(template.get("metadata") or {}), "name": ref.name, "namespace": ref.namespace}
        pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": meta}
        yield injector.inject(pod, namespaces.get(ref.namespace, _INJECTING))


def without_instance(
    resources: Iterable[Resource], rules: list[v2.APIRule], settings: Settings
) -> Assumed:
    """Return what the rules need and the resources do not hold."""
    known = list(resources)
    services = list(_services(rules, known))
    every = [one for one in known if isinstance(one, core.Service)]
    workloads = [
        _pod(one.object_name, one.spec.selector)
        for one in every
        if one.spec.selector and not any(_selects(one, pod) for pod in known)
    ]
    workloads += [_pod(_name(obj), obj["spec"]["selector"]) for obj in services]
    sentences = [
        f"Service {_name(obj)} is not among the files; taken for granted with the selector "
        f"app: {_name(obj).name}. Give it with another -f."
        for obj in services
    ]
    return Assumed(
        [*_gateways(rules, known, settings), *services, *workloads, *_authorizers(rules, known)],
        sentences,
    )


_INJECTING = {"metadata": {"labels": {injector.NAMESPACE_LABEL: "enabled"}}}


def _gateways(
    rules: list[v2.APIRule], known: list[Resource], settings: Settings
) -> Iterator[Object]:
    names = {one.object_name for one in known if isinstance(one, networking.Gateway)}
    hosts: dict[ObjectName, list[str]] = {}
    for rule in rules:
        name = ObjectName.parse(rule.spec.gateway or "")
        turned = ObjectName(name.name, name.namespace)
        if name in names or turned in names or not name.name:
            continue
        name = DEFAULT_GATEWAY if turned == DEFAULT_GATEWAY else name
        hosts.setdefault(name, []).extend(rule.spec.hosts)
    for name, served in hosts.items():
        full = [host for host in served if "." in host]
        ours = all(host_within(host, f"*.{settings.domain}") for host in full)
        if name == DEFAULT_GATEWAY and (ours or len(full) < len(served)):
            yield system.default_gateway(settings)
        elif full:
            yield _gateway(name, sorted({f"*.{host.partition('.')[2]}" for host in full}))


def _gateway(name: ObjectName, hosts: list[str]) -> Object:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "Gateway",
        "metadata": {"name": name.name, "namespace": name.namespace},
        "spec": {
            "selector": dict(system.LABELS),
            "servers": [
                {"port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": hosts}
            ],
        },
    }


def _services(rules: list[v2.APIRule], known: list[Resource]) -> Iterator[Object]:
    there = {one.object_name for one in known if isinstance(one, core.Service)}
    ports: dict[ObjectName, set[int]] = {}
    for rule in rules:
        for one in rule.spec.rules:
            name = rule.service_of(one)
            if name is not None and name not in there:
                ports.setdefault(name, set()).add(rule.port_of(one))
    for name, wanted in ports.items():
        yield {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name.name, "namespace": name.namespace},
            "spec": {
                "selector": {"app": name.name},
                "ports": [{"name": f"http-{port}", "port": port} for port in sorted(wanted)],
            },
        }


def _authorizers(rules: list[v2.APIRule], known: list[Resource]) -> Iterator[Object]:
    """Yield the mesh configuration with the authorizers that are named, unless it is there."""
    names = {
        name
        for rule in rules
        for one in rule.spec.rules
        for name in (one.ext_auth.authorizers if one.ext_auth is not None else ())
    }
    if not names or any(_is_mesh_config(one) for one in known):
        return
    entry = {"service": "authorizer.invalid", "port": 80}
    listed = [{"name": name, providers.HTTP: entry} for name in sorted(names)]
    yield {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": providers.CONFIG_MAP.name,
            "namespace": providers.CONFIG_MAP.namespace,
        },
        "data": {providers.KEY: manifest.dump([{providers.FIELD: listed}])},
    }


def _is_mesh_config(one: Resource) -> bool:
    return isinstance(one, core.ConfigMap) and one.object_name == providers.CONFIG_MAP


def _pod(name: ObjectName, labels: Mapping[str, Any]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name.name, "namespace": name.namespace, "labels": dict(labels)},
        "spec": {"containers": [{"name": "main"}, {"name": PROXY_CONTAINER}]},
    }


def _selects(service: core.Service, pod: Resource) -> bool:
    return (
        isinstance(pod, core.Pod)
        and pod.metadata.namespace == service.metadata.namespace
        and (service.spec.selector or {}).items() <= pod.labels.items()
    )


def _name(obj: Object) -> ObjectName:
    return ObjectRef.of(obj).object_name
