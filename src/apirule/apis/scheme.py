"""Kind to type: decode objects to resources, encode resources to objects.

Istio serves each kind in several versions with one shape, so a kind is looked up by group and
kind; the version only says how the user wrote it.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from apirule.apis import core, networking, operator, security, traffic
from apirule.apis.envoy_filter import EnvoyFilter
from apirule.apis.gateway import v1alpha1, v2
from apirule.apis.meta import GroupVersionKind, Object, Resource
from apirule.problem import ROOT, FieldPath, Problem, Reason

R = TypeVar("R", bound=Resource)

TYPES: Mapping[tuple[str, str], type[Resource]] = {
    (kind.gvk.group, kind.gvk.kind): kind
    for kind in (
        core.Namespace,
        core.Service,
        core.Secret,
        core.ConfigMap,
        core.Pod,
        core.EndpointSlice,
        networking.VirtualService,
        networking.Gateway,
        EnvoyFilter,
        traffic.DestinationRule,
        traffic.ServiceEntry,
        security.RequestAuthentication,
        security.AuthorizationPolicy,
        security.PeerAuthentication,
        v2.APIRule,
        v1alpha1.RateLimit,
        operator.APIGateway,
        operator.Istio,
    )
}


def type_of(gvk: GroupVersionKind) -> type[Resource] | None:
    return TYPES.get((gvk.group, gvk.kind))


def decode(obj: Mapping[str, Any], kind: type[R]) -> R:
    """Turn an object into its typed form. msgspec.ValidationError: a field of another type."""
    return msgspec.convert(obj, kind, strict=True)


def misfit(error: msgspec.ValidationError) -> Problem:
    """Return what keeps an object from having its typed form."""
    message, _, place = str(error).partition(" - at `$")
    at = FieldPath.parse(place.rstrip("`"))
    return Problem(at, Reason.TYPE_INVALID, message, "Write a value of that type.")


def encode(resource: Resource) -> Object:
    """Turn a resource into an object, with ``apiVersion`` and ``kind`` first."""
    gvk = resource.gvk
    # By way of JSON, so that tuples come out as the lists that an API server hands back.
    body = msgspec.json.decode(msgspec.json.encode(resource))
    return {"apiVersion": gvk.api_version, "kind": gvk.kind, **body}


def unknown_fields(value: Any, shape: Any, at: FieldPath = ROOT) -> Iterator[FieldPath]:
    """Yield each place of ``value`` that ``shape`` has no field for.

    ``apiVersion``, ``kind``, ``status`` and all of ``metadata`` belong to every object and are not
    looked at.
    """
    origin = typing.get_origin(shape)
    if origin in (types.UnionType, typing.Union):
        for choice in typing.get_args(shape):
            if choice is not type(None):
                yield from unknown_fields(value, choice, at)
    elif origin is tuple and isinstance(value, list):
        for index, item in enumerate(value):
            yield from unknown_fields(item, typing.get_args(shape)[0], at / index)
    elif origin is dict and isinstance(value, dict):
        for key, item in value.items():
            yield from unknown_fields(item, typing.get_args(shape)[1], at / key)
    elif isinstance(shape, type) and issubclass(shape, msgspec.Struct) and isinstance(value, dict):
        yield from _unknown_of_struct(value, shape, at)


def _unknown_of_struct(
    value: Mapping[str, Any], shape: type[msgspec.Struct], at: FieldPath
) -> Iterator[FieldPath]:
    known = _fields_of(shape)
    ignored = {"apiVersion", "kind", "metadata", "status"} if issubclass(shape, Resource) else set()
    for key, item in value.items():
        if key in ignored:
            continue
        if key not in known:
            yield at / key
        else:
            yield from unknown_fields(item, known[key], at / key)


def field_names(shape: Any) -> Iterator[str]:
    """Yield the names of all fields on the wire, at any depth; one may come several times."""
    if typing.get_origin(shape) is not None:
        for part in typing.get_args(shape):
            yield from field_names(part)
    elif isinstance(shape, type) and issubclass(shape, msgspec.Struct):
        for name, part in _fields_of(shape).items():
            yield name
            yield from field_names(part)


@functools.cache
def _fields_of(shape: type[msgspec.Struct]) -> Mapping[str, Any]:
    """Return the type of each field by its name on the wire; resolving them is slow."""
    hints = typing.get_type_hints(shape)
    return {field.encode_name: hints[field.name] for field in msgspec.structs.fields(shape)}
