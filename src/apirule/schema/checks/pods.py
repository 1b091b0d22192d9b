"""Pods, and the Pods that a template describes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from apirule.apis.meta import Object
from apirule.problem import SPEC, FieldPath, Problem
from apirule.schema import syntax
from apirule.schema.checks import labels, words
from apirule.schema.checks.containers import container

_ALWAYS = "Always"


def pod(obj: Object) -> Iterator[Problem]:
    yield from _spec(obj.get("spec") or {}, SPEC)


def template(found: Mapping[str, Any], at: FieldPath) -> Iterator[Problem]:
    metadata, spec = found.get("metadata") or {}, found.get("spec") or {}
    yield from labels.labels(metadata.get("labels") or {}, at / "metadata" / "labels")
    for key in metadata.get("annotations") or ():
        place = at / "metadata" / "annotations"
        yield from words.misspelt(place, key.lower(), syntax.qualified_name)
    yield from _spec(spec, at / "spec")
    policy = spec.get("restartPolicy", _ALWAYS)
    if policy != _ALWAYS:
        yield words.unsupported(
            at / "spec" / "restartPolicy", policy, (_ALWAYS,), "Leave restartPolicy out."
        )


def _spec(spec: Mapping[str, Any], at: FieldPath) -> Iterator[Problem]:
    present = {found.get("name") for found in spec.get("containers") or ()}
    for index, found in enumerate(spec.get("initContainers") or ()):
        place = at / "initContainers" / index
        yield from container(found, place, is_init=True)
        if found.get("name") in present:
            fix = "Give each container of the Pod its own name."
            yield words.duplicate(place / "name", found.get("name"), fix)
        policy = found.get("restartPolicy", _ALWAYS)
        if policy != _ALWAYS:
            yield words.unsupported(
                place / "restartPolicy", policy, (_ALWAYS,), "Leave restartPolicy out."
            )
    for index, found in enumerate(spec.get("containers") or ()):
        yield from container(found, at / "containers" / index)
    for key in ("serviceAccountName", "nodeName"):
        if spec.get(key):
            yield from words.misspelt(at / key, spec[key], syntax.dns_subdomain)
    for key in ("hostname", "subdomain"):
        if spec.get(key):
            yield from words.misspelt(at / key, spec[key], syntax.dns_label)
