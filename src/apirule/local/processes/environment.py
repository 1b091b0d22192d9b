"""The environment of a container: its ``env`` as Kubernetes reads it, and where to listen.

Pure: what ConfigMaps and Secrets hold comes in as a function.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from apirule.apis.meta import Object
from apirule.local.processes import mounts, quantities
from apirule.local.processes.mounts import ConfigError, Mounts
from apirule.local.processes.ports import LOOPBACK, Placement, tcp_port

_THIS_MACHINE = "localhost,127.0.0.1,::1,.localhost"

_REFERENCE = re.compile(r"\$(\$|\((?P<name>[^()\s]+)\))")
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")

Lookup = Callable[[str, str], Object | None]
"""Kind (ConfigMap or Secret) and name, in the namespace of the Pod."""


def no_proxy(domain: str) -> str:
    """Return where an http_proxy must not go: this machine, and what its gateway serves.

    Names of Services are not among them.
    """
    inside = f".{domain}".endswith(".localhost")
    return _THIS_MACHINE if inside else f"{_THIS_MACHINE},{domain},.{domain}"


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace ``$(NAME)``; ``$$`` is a dollar; an unknown name stays as it is written."""

    def replacement(match: re.Match[str]) -> str:
        name = match["name"]
        return "$" if name is None else variables.get(name, match[0])

    return _REFERENCE.sub(replacement, text)


class Surroundings(msgspec.Struct, frozen=True):
    """What an environment is made of besides the Pod."""

    lookup: Lookup
    domain: str
    """What the gateway serves."""
    capacity: Mapping[str, int]
    """Of the machine: ``cpu`` and ``memory`` (bytes)."""


def environment(
    pod: Object,
    container: Object,
    placement: Placement,
    around: Surroundings,
    mounted: Mounts = mounts.NONE,
) -> dict[str, str]:
    """Return all variables of a container. ConfigError: one of them cannot be had."""
    variables: dict[str, str] = {"HOSTNAME": pod["metadata"]["name"]}
    listen = dict(_listen(container, placement))
    proxy = _proxy(placement, no_proxy(around.domain))
    # Written first, so that `$(PORT)` can be used; and last, because many images are given their
    # port as PORT, and here another one holds.
    variables |= proxy | listen | dict(mounted.variables())
    for source in container.get("envFrom") or []:
        variables |= _all_of(source, around.lookup, mounted)
    for entry in container.get("env") or []:
        if "valueFrom" in entry:
            value = _value_from(entry["valueFrom"], pod, container, around)
            if value is not None:
                readable = "configMapKeyRef" in entry["valueFrom"]
                variables[entry["name"]] = mounted.relocate(value) if readable else value
        else:
            value = mounted.relocate(entry.get("value") or "")
            variables[entry["name"]] = expand(value, variables)
    return variables | listen


def _listen(container: Object, placement: Placement) -> Iterator[tuple[str, str]]:
    for index, port in enumerate(container.get("ports") or []):
        address = placement.app(port["containerPort"])
        if address is None:
            continue
        if index == 0:
            yield "APIRULE_ADDRESS", address
        if number := tcp_port(address):
            label = str(port.get("name") or port["containerPort"]).upper().replace("-", "_")
            if index == 0:
                yield "PORT", str(number)
            yield f"PORT_{label}", str(number)


def _proxy(placement: Placement, without: str) -> dict[str, str]:
    if not placement.outbound:
        return {}
    address = f"http://{LOOPBACK}:{placement.outbound}"
    return {
        "http_proxy": address,
        "HTTP_PROXY": address,
        "no_proxy": without,
        "NO_PROXY": without,
    }


def _value_from(
    source: Mapping[str, Any], pod: Object, container: Object, around: Surroundings
) -> str | None:
    if reference := source.get("configMapKeyRef"):
        return _key("ConfigMap", reference, around.lookup)
    if reference := source.get("secretKeyRef"):
        return _key("Secret", reference, around.lookup)
    if reference := source.get("fieldRef"):
        return field_of(reference.get("fieldPath", ""), pod)
    if reference := source.get("resourceFieldRef"):
        return resource_of(reference, pod, container, around.capacity)
    raise ConfigError(f"environment variables from {', '.join(source)} do not exist here")


def _key(kind: str, reference: Mapping[str, Any], lookup: Lookup) -> str | None:
    name, key = reference.get("name", ""), reference.get("key", "")
    values = _values(kind, name, lookup, optional=bool(reference.get("optional")))
    if values is not None and key in values:
        return values[key]
    if reference.get("optional"):
        return None
    raise ConfigError(f"couldn't find key {key} in {kind} {name}")


def _all_of(source: Mapping[str, Any], lookup: Lookup, mounted: Mounts) -> dict[str, str]:
    variables: dict[str, str] = {}
    for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
        if reference := source.get(field):
            optional = bool(reference.get("optional"))
            values = _values(kind, reference.get("name", ""), lookup, optional=optional) or {}
            prefix = source.get("prefix") or ""
            if kind == "ConfigMap":
                values = {key: mounted.relocate(value) for key, value in values.items()}
            named = {prefix + key: value for key, value in values.items()}
            variables |= {key: value for key, value in named.items() if _NAME.fullmatch(key)}
    return variables


def _values(kind: str, name: str, lookup: Lookup, *, optional: bool) -> Mapping[str, str] | None:
    obj = lookup(kind, name)
    if obj is None:
        if optional:
            return None
        raise ConfigError(f'{kind.lower()} "{name}" not found')
    data: Mapping[str, str] = obj.get("data") or {}
    if kind == "ConfigMap":
        return data
    try:
        return {key: base64.b64decode(value).decode() for key, value in data.items()}
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ConfigError(f'secret "{name}" holds a value that is not text') from error


def resource_of(
    reference: Mapping[str, Any], pod: Object, container: Object, capacity: Mapping[str, int]
) -> str:
    """Return what a ``resourceFieldRef`` gives, of this container unless it names another one."""
    spec = pod.get("spec") or {}
    name = reference.get("containerName") or container["name"]
    everyone = (*(spec.get("initContainers") or []), *(spec.get("containers") or []))
    named = next((one for one in everyone if one["name"] == name), None)
    if named is None:
        raise ConfigError(f"the Pod has no container {name}")
    try:
        return quantities.resource(reference, named.get("resources") or {}, capacity)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def field_of(path: str, pod: Object) -> str:
    """Return what a ``fieldRef`` gives."""
    meta, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    if subscript := _SUBSCRIPT.fullmatch(path):
        return str((meta.get(subscript[1]) or {}).get(subscript[2], ""))
    fields = {
        "metadata.name": meta.get("name"),
        "metadata.namespace": meta.get("namespace"),
        "metadata.uid": meta.get("uid"),
        "spec.nodeName": spec.get("nodeName"),
        "spec.serviceAccountName": spec.get("serviceAccountName") or "default",
        "status.hostIP": status.get("hostIP") or LOOPBACK,
        "status.podIP": status.get("podIP") or LOOPBACK,
        "status.podIPs": status.get("podIP") or LOOPBACK,
        "status.hostIPs": status.get("hostIP") or LOOPBACK,
    }
    if path not in fields:
        raise ConfigError(f"field {path} of a Pod cannot be given to a container")
    return str(fields[path] or "")
