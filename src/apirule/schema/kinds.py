"""The kinds an API server serves: ours, Istio's and the built-in ones.

A ``KindInfo`` is one version of one kind with everything discovery, admission and printing need. It
is made from a CustomResourceDefinition (``from_crd``) or from the built-in schemas of this package.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import msgspec

from apirule import manifest
from apirule.apis.meta import GroupVersionKind, Object
from apirule.schema.structural import StructuralSchema


@dataclass(frozen=True, slots=True, kw_only=True)
class KindInfo:
    """One served version of one kind."""

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    namespaced: bool
    schema: StructuralSchema = field(repr=False, compare=False)
    list_kind: str
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: frozenset[str] = frozenset()
    """``status`` and ``scale``, where the kind has them."""
    scale_paths: Mapping[str, str] | None = None
    """Where a custom resource keeps the numbers of its scale, as its CRD says it."""
    printer_columns: tuple[Mapping[str, Any], ...] = ()
    """``additionalPrinterColumns`` of the CRD; built-in kinds have none."""
    selectable_fields: frozenset[str] = frozenset()
    """What a field selector may name of a custom resource, besides name and namespace."""
    builtin: bool = False
    served: bool = True
    storage: bool = True
    deprecation_warning: str = ""
    """The text of the Warning header; empty for a version that is not deprecated."""

    @property
    def gvk(self) -> GroupVersionKind:
        return GroupVersionKind(self.group, self.version, self.kind)

    @property
    def resource(self) -> str:
        """The resource with its group, as in messages: ``apirules.gateway.kyma-project.io``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


def bundled_crds() -> list[Object]:
    """Return the CustomResourceDefinitions that apirule brings along, as fresh objects."""
    return _bundled("crds")


def from_crd(crd: Mapping[str, Any]) -> list[KindInfo]:
    """Return one KindInfo per version, served or not. The CRD must have passed ``check_crd``.

    Equal schemas share one compiled form, so this may be called for every event of a CRD.
    """
    spec = crd["spec"]
    return [_version(spec, version) for version in spec["versions"]]


def _version(spec: Mapping[str, Any], version: Mapping[str, Any]) -> KindInfo:
    names = spec["names"]
    schema = version.get("schema", {}).get("openAPIV3Schema", {})
    warning = version.get("deprecationWarning") or (
        f"{spec['group']}/{version['name']} {names['kind']} is deprecated"
    )
    return KindInfo(
        group=spec["group"],
        version=version["name"],
        kind=names["kind"],
        plural=names["plural"],
        singular=names.get("singular") or names["kind"].lower(),
        list_kind=names.get("listKind") or f"{names['kind']}List",
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        namespaced=spec["scope"] == "Namespaced",
        schema=compiled_once(schema),
        subresources=frozenset(version.get("subresources") or ()),
        scale_paths=(version.get("subresources") or {}).get("scale"),
        printer_columns=tuple(version.get("additionalPrinterColumns") or ()),
        selectable_fields=frozenset(
            field["jsonPath"].removeprefix(".") for field in version.get("selectableFields") or ()
        ),
        served=version["served"],
        storage=version["storage"],
        deprecation_warning=warning if version.get("deprecated") else "",
    )


def compiled_once(schema: Mapping[str, Any]) -> StructuralSchema:
    """Return the schema of a CRD's version for whole objects; equal ones are compiled once."""
    return _compiled(msgspec.json.encode(schema))


@functools.lru_cache(maxsize=256)
def _compiled(schema: bytes) -> StructuralSchema:
    return StructuralSchema(_with_metadata(msgspec.json.decode(schema)))


def _with_metadata(schema: Mapping[str, Any]) -> Object:
    """Give the root of a CRD's schema what belongs to every object, so that it is checked too."""
    properties = dict(schema.get("properties") or {})
    own = (properties.get("metadata") or {}).get("properties") or {}
    meta = definition("ObjectMeta")
    fields = {name: {**meta["properties"].get(name, {}), **own[name]} for name in own}
    root = {
        "apiVersion": definition("TypeMeta")["properties"]["apiVersion"],
        "kind": definition("TypeMeta")["properties"]["kind"],
        "metadata": {**meta, "properties": {**meta["properties"], **fields}},
    }
    rest = {name: child for name, child in properties.items() if name not in root}
    return {**schema, "properties": {**root, **rest}}


@functools.cache
def builtin_kinds() -> list[KindInfo]:
    """Return the kinds of Kubernetes itself that the local API server serves."""
    return [
        KindInfo(
            group=package["group"],
            version=package["version"],
            kind=entry["kind"],
            plural=entry["plural"],
            singular=entry.get("singular") or entry["kind"].lower(),
            list_kind=f"{entry['kind']}List",
            short_names=tuple(entry.get("shortNames", ())),
            categories=tuple(entry.get("categories", ())),
            namespaced=entry["namespaced"],
            schema=StructuralSchema(definition(entry["kind"])),
            subresources=frozenset(entry.get("subresources", ())),
            builtin=True,
        )
        for package in packages()
        for entry in package.get("kinds", ())
    ]


@functools.cache
def packages() -> tuple[Mapping[str, Any], ...]:
    """Return the built-in schemas as they are written: with ``$ref`` to a bare name."""
    return tuple(_bundled("builtin"))


@functools.cache
def package_of() -> Mapping[str, str]:
    """Return the OpenAPI package of each built-in schema, by the bare name of the schema."""
    return {name: p["package"] for p in packages() for name in p["schemas"]}


@functools.cache
def _written() -> Mapping[str, Mapping[str, Any]]:
    return {name: schema for p in packages() for name, schema in p["schemas"].items()}


def written(name: str) -> Mapping[str, Any]:
    """Return a built-in schema as it is written, with its references."""
    return _written()[name]


@functools.cache
def definition(name: str) -> Mapping[str, Any]:
    """Return a built-in schema with every ``$ref`` resolved."""
    resolved: Mapping[str, Any] = _resolve(written(name))
    return resolved


def _resolve(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_resolve(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    own = {name: _resolve(item) for name, item in schema.items() if name != "$ref"}
    return {**definition(schema["$ref"]), **own} if isinstance(schema.get("$ref"), str) else own


def _bundled(folder: str) -> list[Object]:
    """Read the YAML files of a folder of this package, in the order of their names."""
    files = resources.files(__package__).joinpath(folder).iterdir()
    named = sorted((f for f in files if f.name.endswith(".yaml")), key=lambda file: file.name)
    return [obj for f in named for obj in manifest.documents(f.read_text(encoding="utf-8"))]


DNS_LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
"""RFC 1035 label, the form of plural names. Use ``fullmatch``."""
