"""docs/reference/istio.md: names every field that is implemented, and calls refused what is."""

import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from apirule.apis import networking, scheme, security, traffic
from apirule.apis.meta import Object, Resource
from apirule.mesh import fields
from apirule.mesh.attributes import CONDITIONS

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "istio.md").read_text()
KINDS: tuple[type[Resource], ...] = (
    networking.VirtualService,
    networking.Gateway,
    traffic.DestinationRule,
    traffic.ServiceEntry,
    security.RequestAuthentication,
    security.AuthorizationPolicy,
    security.PeerAuthentication,
)
BY_NAME = {kind.gvk.kind: kind for kind in KINDS}
MATCHES = {"exact", "prefix", "regex"}


def section(kind: str) -> str:
    return PAGE.partition(f"\n## {kind}\n")[2].partition("\n## ")[0]


def names_of(shape: Any) -> Iterator[str]:
    arguments = typing.get_args(shape)
    if typing.get_origin(shape) in (types.UnionType, typing.Union, tuple, dict):
        for argument in arguments:
            yield from names_of(argument)
    elif isinstance(shape, type) and issubclass(shape, msgspec.Struct):
        hints = typing.get_type_hints(shape)
        for field in msgspec.structs.fields(shape):
            yield field.encode_name
            yield from names_of(hints[field.name])


def refused() -> Iterator[tuple[str, str]]:
    for kind in BY_NAME:
        for row in section(kind).splitlines():
            cells = [cell.strip() for cell in row.split("|")]
            if len(cells) > 3 and cells[2] == "refused":
                yield from ((kind, path) for path in re.findall(r"`([^`]+)`", cells[1]))


def with_field(path: str) -> Object:
    value: Any = "x"
    for part in reversed(path.split(".")):
        value = {part.removesuffix("[]"): [value] if part.endswith("[]") else value}
    return {"spec": value}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.gvk.kind))
def test_every_field_that_is_implemented_is_named(kind: type[Resource]) -> None:
    text = section(kind.gvk.kind)
    quoted = {
        part for path in re.findall(r"`([^`]+)`", text) for part in re.split(r"\[\]|\.", path)
    }
    wanted = set(names_of(typing.get_type_hints(kind)["spec"])) - MATCHES

    assert wanted - quoted == set()


@pytest.mark.parametrize(("kind", "path"), list(refused()))
def test_a_field_called_refused_is_one_the_engine_reports(kind: str, path: str) -> None:
    assert list(scheme.unknown_fields(with_field(path), BY_NAME[kind]))


@pytest.mark.parametrize("kind", BY_NAME)
def test_what_istio_has_and_we_have_not_is_called_refused(kind: str) -> None:
    told = {path for of, path in refused() if of == kind}

    assert told == fields.NOT_IMPLEMENTED.get(kind, frozenset())


def test_every_key_of_a_condition_is_named() -> None:
    assert {key for key in CONDITIONS if f"`{key}`" not in section("AuthorizationPolicy")} == set()
