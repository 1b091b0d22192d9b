"""Kyma's Istio resource to the mesh configuration: its authorizers among everybody else's.

An annotation of the ConfigMap names the entries that are ours. All others, and all the rest of
the configuration, stay as somebody wrote them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import yaml

from apirule import providers
from apirule.apis import scheme
from apirule.apis.mesh_config import ExtAuthzHttp, ExtensionProvider
from apirule.apis.meta import Object
from apirule.apis.operator import Authorizer, Headers, InCheck, Istio, ToDownstream, ToUpstream
from apirule.names import ObjectName
from apirule.problem import SPEC, FieldPath, Problem, Reason

NAMESPACE = "kyma-system"
"""Where the Istio resource has to be."""
OURS = "operator.kyma-project.io/apirule-authorizers"
_AUTHORIZERS = SPEC / "config" / "authorizers"


class Filled(msgspec.Struct, frozen=True):
    """``config_map`` is what the ConfigMap shall be; None if it is to stay as it is."""

    config_map: Object | None
    problems: tuple[Problem, ...] = ()


def leading(resources: Sequence[Istio]) -> Istio | None:
    """Return the resource that counts: the oldest one in its namespace."""
    candidates = [one for one in resources if one.metadata.namespace == NAMESPACE]
    return min(candidates, key=_age, default=None)


def unknown_fields(obj: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what an Istio resource asks for that is not done here."""
    for place in scheme.unknown_fields(obj, Istio):
        yield Problem(
            place,
            Reason.NOT_IMPLEMENTED,
            "The field has no effect here",
            "Remove it; only spec.config.authorizers is read.",
        )


def fill(existing: Object | None, wanted: Sequence[Authorizer]) -> Filled:
    """Return the ConfigMap with these authorizers, or what keeps them from being written.

    One mistake keeps all of them from being written: what is there goes on working.
    """
    data = dict((existing or {}).get("data") or {})
    mesh = providers.parse(data.get(providers.KEY, ""))
    if mesh is None or not isinstance(mesh.get(providers.FIELD) or [], list):
        return Filled(None, (_unreadable(),))
    listed = mesh.get(providers.FIELD) or []
    ours = set(_ours(existing))
    kept = [one for one in listed if not (isinstance(one, dict) and one.get("name") in ours)]
    problems = tuple(_problems(wanted, kept))
    if problems:
        return Filled(None, problems)
    names = [one.name for one in wanted]
    mesh = {**mesh, providers.FIELD: [*kept, *(_entry(one) for one in wanted)]}
    if mesh[providers.FIELD] == listed and sorted(names) == sorted(ours):
        return Filled(None)
    text = yaml.dump(mesh, Dumper=yaml.CSafeDumper, sort_keys=False)
    base: Object = existing or {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": dict(zip(("namespace", "name"), providers.CONFIG_MAP, strict=True)),
    }
    annotations = {**(base["metadata"].get("annotations") or {}), OURS: json.dumps(names)}
    metadata = {**base["metadata"], "annotations": annotations}
    return Filled({**base, "metadata": metadata, "data": {**data, providers.KEY: text}})


def _age(istio: Istio) -> tuple[str, ObjectName]:
    return (istio.metadata.creation_timestamp or "", istio.object_name)


def _ours(existing: Object | None) -> list[str]:
    text = ((existing or {}).get("metadata", {}).get("annotations") or {}).get(OURS, "[]")
    try:
        names = msgspec.json.decode(text, type=list[str])
    except msgspec.DecodeError:
        return []
    return names


def _problems(wanted: Sequence[Authorizer], kept: Sequence[Any]) -> Iterator[Problem]:
    others = {one.get("name") for one in kept if isinstance(one, dict)}
    first: dict[str, FieldPath] = {}
    for index, one in enumerate(wanted):
        at = _AUTHORIZERS / index / "name"
        if first.setdefault(one.name, at) != at:
            yield Problem(
                at,
                Reason.DUPLICATE,
                f"There is another authorizer {one.name!r} at {first[one.name]}",
                "Give each authorizer a name of its own.",
            )
        elif one.name in others:
            yield Problem(
                at,
                Reason.CONFLICT,
                f"ConfigMap {providers.CONFIG_MAP} has a provider {one.name!r} of somebody else",
                f"Choose another name, or remove it from {providers.FIELD} there.",
            )


def _entry(one: Authorizer) -> Object:
    headers = one.headers or Headers()
    in_check = headers.in_check or InCheck()
    upstream = headers.to_upstream or ToUpstream()
    downstream = headers.to_downstream or ToDownstream()
    provider = ExtensionProvider(
        name=one.name,
        envoy_ext_authz_http=ExtAuthzHttp(
            service=one.service,
            port=one.port,
            path_prefix=one.path_prefix,
            timeout=one.timeout,
            include_request_headers_in_check=in_check.include,
            include_additional_headers_in_check=in_check.add or None,
            headers_to_upstream_on_allow=upstream.on_allow,
            headers_to_downstream_on_allow=downstream.on_allow,
            headers_to_downstream_on_deny=downstream.on_deny,
        ),
    )
    entry: Object = msgspec.json.decode(msgspec.json.encode(provider))
    return entry


def _unreadable() -> Problem:
    return Problem(
        SPEC,
        Reason.INVALID,
        f"The key {providers.KEY} of ConfigMap {providers.CONFIG_MAP} is not the YAML of a mesh"
        " configuration",
        "Correct it; nothing is written until then.",
    )
