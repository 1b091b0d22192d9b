"""Containers: names, commands, environment, ports and probes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from apirule.problem import FieldPath, Problem
from apirule.schema import syntax
from apirule.schema.checks import words

_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")
_HOOK_HANDLERS = ("exec", "httpGet", "tcpSocket", "sleep")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
_REFERENCES = ("configMapRef", "secretRef")

_Container = Mapping[str, Any]


def container(found: _Container, at: FieldPath, *, is_init: bool = False) -> Iterator[Problem]:
    yield from _name(found, at)
    yield from _image(found, at)
    for key in ("command", "args"):
        yield from _arguments(found.get(key) or (), at / key)
    yield from _without_nul(found.get("workingDir", ""), at / "workingDir")
    yield from _environment(found, at)
    yield from _ports(found, at)
    if is_init and found.get("restartPolicy") != "Always":
        for key in (*_PROBES, "lifecycle"):
            if key in found:
                detail = "may not be set for init containers without restartPolicy=Always"
                yield words.forbidden(at / key, detail, "Remove it.")
        return
    for key in _PROBES:
        if key in found:
            yield from _probe(found[key], key, at / key)
    for key in ("postStart", "preStop"):
        hook = (found.get("lifecycle") or {}).get(key)
        if hook is not None:
            yield from _handler(hook, at / "lifecycle" / key, _HOOK_HANDLERS)


def _name(found: _Container, at: FieldPath) -> Iterator[Problem]:
    name = found.get("name")
    if name == "":
        yield words.required(at / "name", "Give the container a name.")
    elif name is not None:
        fix = "Use lower case letters, digits and hyphens."
        yield from words.misspelt(at / "name", name, syntax.dns_label, fix)


def _image(found: _Container, at: FieldPath) -> Iterator[Problem]:
    image = found.get("image")
    if image == "":
        yield words.required(at / "image", "Name the image.")
    elif image is not None and image.strip() != image:
        detail = "must not have leading or trailing whitespace"
        yield words.invalid(at / "image", image, detail, "Remove the blanks.")


def _arguments(texts: Iterable[str], at: FieldPath) -> Iterator[Problem]:
    for index, text in enumerate(texts):
        yield from _without_nul(text, at / index)


def _without_nul(text: str, at: FieldPath) -> Iterator[Problem]:
    if "\0" in text:
        detail = "must not contain NUL: no process can be given it"
        yield words.invalid(at, text, detail, "Remove the character.")


def _environment(found: _Container, at: FieldPath) -> Iterator[Problem]:
    for index, variable in enumerate(found.get("env") or ()):
        place = at / "env" / index
        name = variable.get("name")
        if name == "":
            yield words.required(place / "name", "Name the variable.")
        elif name is not None:
            yield from words.misspelt(place / "name", name, syntax.variable_name)
        yield from _without_nul(variable.get("value", ""), place / "value")
        if "valueFrom" in variable:
            yield from _source(variable, place / "valueFrom")
    for index, origin in enumerate(found.get("envFrom") or ()):
        place = at / "envFrom" / index
        if prefix := origin.get("prefix"):
            yield from words.misspelt(place / "prefix", prefix, syntax.variable_name)
        given = [key for key in _REFERENCES if key in origin]
        if len(given) != 1:
            detail = "must specify one of: `configMapRef` or `secretRef`"
            yield words.invalid(place, "", detail, "Name one ConfigMap or one Secret.")


def _source(variable: Mapping[str, Any], at: FieldPath) -> Iterator[Problem]:
    given = [key for key in _SOURCES if key in variable["valueFrom"]]
    fix = f"Write one of {', '.join(_SOURCES[:-1])}."
    if not given:
        listed = ", ".join(f"`{key}`" for key in _SOURCES[:-1])
        yield words.invalid(at, "", f"must specify one of: {listed} or `{_SOURCES[-1]}`", fix)
    elif len(given) > 1:
        yield words.invalid(at, "", "may not have more than one field specified at a time", fix)
    if variable.get("value"):
        detail = "may not be specified when `value` is not empty"
        yield words.invalid(at, "", detail, "Keep value or valueFrom.")


def _ports(found: _Container, at: FieldPath) -> Iterator[Problem]:
    names: set[str] = set()
    for index, port in enumerate(found.get("ports") or ()):
        place, name = at / "ports" / index / "name", port.get("name")
        if not name:
            continue
        if name in names:
            yield words.duplicate(place, name, "Give each port its own name.")
        else:
            yield from words.misspelt(place, name, syntax.port_name)
        names.add(name)


def _probe(probe: Mapping[str, Any], kind: str, at: FieldPath) -> Iterator[Problem]:
    yield from _handler(probe, at, _HANDLERS)
    threshold = probe.get("successThreshold", 1)
    # 0 stands for a field that is left out.
    if kind != "readinessProbe" and threshold not in (0, 1):
        yield words.invalid(at / "successThreshold", threshold, "must be 1", "Leave it out.")
    if kind == "readinessProbe" and "terminationGracePeriodSeconds" in probe:
        detail = "must not be set for readinessProbes"
        place = at / "terminationGracePeriodSeconds"
        yield words.invalid(place, probe["terminationGracePeriodSeconds"], detail, "Remove it.")


def _handler(
    found: Mapping[str, Any], at: FieldPath, allowed: tuple[str, ...]
) -> Iterator[Problem]:
    given = [key for key in allowed if key in found]
    if not given:
        fix = f"Write one of {', '.join(allowed)}."
        yield words.required(at, fix, "must specify a handler type")
    for key in given[1:]:
        detail = "may not specify more than 1 handler type"
        yield words.forbidden(at / key, detail, f"Keep {given[0]} or {key}.")
    for key in given:
        action, place = found[key], at / key
        if "port" in action:
            yield from words.misspelt(place / "port", action["port"], syntax.port)
        yield from _arguments(action.get("command") or (), place / "command")
        for index, header in enumerate(action.get("httpHeaders") or ()):
            name = place / "httpHeaders" / index / "name"
            yield from words.misspelt(name, header.get("name", ""), syntax.header_name)
