"""The mesh configuration, read from its ConfigMap: extension providers, and trusted domains.

Nothing here raises: a configuration that cannot be read has a fault, a provider that cannot be
used has one too, and both stand in the status of whoever needs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Any

import msgspec

from apirule import manifest, names
from apirule.apis import core, scheme
from apirule.apis.mesh_config import ExtAuthzGrpc, ExtAuthzHttp, ExtensionProvider
from apirule.names import ObjectName

CONFIG_MAP = ObjectName("istio-system", "istio")
KEY = "mesh"
FIELD = "extensionProviders"
ALIASES = "trustDomainAliases"
HTTP = "envoyExtAuthzHttp"
GRPC = "envoyExtAuthzGrpc"
_KINDS = (HTTP, GRPC)
_IMPLEMENTED = frozenset({FIELD, ALIASES})


class Fault(StrEnum):
    """Why the mesh configuration as a whole says nothing."""

    MISSING = "There is no ConfigMap istio-system/istio."
    NO_KEY = 'ConfigMap istio-system/istio has no key "mesh".'
    REFUSED = "A proxy refuses what ConfigMap istio-system/istio says of an authorizer."
    NOT_YAML = 'The key "mesh" of ConfigMap istio-system/istio is not a YAML mapping.'


class Provider(msgspec.Struct, frozen=True):
    """``config`` is None for a provider of another kind, and for one that has a ``fault``."""

    name: str
    config: ExtAuthzHttp | ExtAuthzGrpc | None
    is_http: bool
    fault: str = ""


class Providers(msgspec.Struct, frozen=True):
    """By name; of several with one name the first counts, as in Istio."""

    by_name: Mapping[str, Provider] = msgspec.field(default_factory=dict)
    fault: Fault | None = None


NONE = Providers(fault=Fault.MISSING)


def read(config_map: core.ConfigMap | None) -> Providers:
    """Read the providers of the mesh configuration; None: there is no such ConfigMap."""
    if config_map is None:
        return NONE
    text = (config_map.data or {}).get(KEY)
    if text is None:
        return Providers(fault=Fault.NO_KEY)
    mesh = parse(text)
    if mesh is None:
        return Providers(fault=Fault.NOT_YAML)
    by_name: dict[str, Provider] = {}
    for entry in entries(mesh):
        provider = _provider(entry)
        by_name.setdefault(provider.name, provider)
    return Providers(by_name)


@lru_cache(maxsize=16)
def trust_domain_aliases(text: str) -> tuple[str, ...]:
    """Return the other names of this mesh, in the text of the mesh configuration."""
    listed = (parse(text) or {}).get(ALIASES)
    given = listed if isinstance(listed, list) else []
    return tuple(dict.fromkeys(one for one in given if _is_domain(one)))


def remarks(text: str) -> Iterator[str]:
    """Yield what has no effect in the text of a mesh configuration, in a sentence each."""
    mesh = parse(text)
    if mesh is None:
        yield str(Fault.NOT_YAML)
        return
    own = {"trustDomain": names.TRUST_DOMAIN, "rootNamespace": CONFIG_MAP.namespace}
    for key, value in mesh.items():
        if key not in _IMPLEMENTED and own.get(key) != value:
            yield f"{key} is not implemented here and has no effect."
    listed = mesh.get(ALIASES)
    if listed is not None and not isinstance(listed, list):
        yield f"{ALIASES} is not a list and has no effect."
    for one in listed if isinstance(listed, list) else ():
        if not _is_domain(one):
            yield f"{one!r} in {ALIASES} is not a trust domain and has no effect."


def _is_domain(value: object) -> bool:
    return isinstance(value, str) and names.DNS_SUBDOMAIN.fullmatch(value) is not None


def parse(text: str) -> dict[str, Any] | None:
    """Return the mesh configuration; None: the text is something else. Empty text is empty."""
    try:
        mesh, _ = manifest.read_yaml(text)
    except ValueError:
        return None
    if mesh is None:
        return {}
    return mesh if isinstance(mesh, dict) else None


def entries(mesh: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the providers as they stand, those that at least have a name."""
    listed = mesh.get(FIELD)
    if not isinstance(listed, list):
        return []
    return [one for one in listed if isinstance(one, dict) and isinstance(one.get("name"), str)]


def _provider(entry: dict[str, Any]) -> Provider:
    name = str(entry["name"])
    kinds = [kind for kind in _KINDS if entry.get(kind) is not None]
    if not kinds:
        return Provider(name, None, is_http=False)
    is_http = HTTP in kinds
    if len(kinds) > 1:
        return Provider(name, None, is_http, f"It is {' and '.join(kinds)} at once.")
    known = {"name": name, kinds[0]: _port_as_number(entry[kinds[0]])}
    try:
        read_ = msgspec.convert(known, ExtensionProvider, strict=True)
    except msgspec.ValidationError as error:
        return Provider(name, None, is_http, f"It cannot be read: {error}.")
    unknown = [str(place) for place in scheme.unknown_fields(known, ExtensionProvider)]
    unknown += sorted(entry.keys() - known.keys())
    if unknown:
        return Provider(name, None, is_http, _not_implemented(unknown))
    return Provider(name, read_.envoy_ext_authz_http or read_.envoy_ext_authz_grpc, is_http)


def _port_as_number(value: Any) -> Any:
    """Read a port that is written as a string, as the JSON form of the field allows."""
    if isinstance(value, dict) and isinstance(port := value.get("port"), str) and port.isdecimal():
        return {**value, "port": int(port)}
    return value


def _not_implemented(fields: Iterable[str]) -> str:
    return f"Not implemented here: {', '.join(fields)}."
