"""Values to YAML: block style, apiVersion, kind and metadata first; it reads back the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from apirule.manifest.reading import Loader

_FIRST = ("apiVersion", "kind", "metadata")
_LAST = ("status",)
_FIRST_IN_METADATA = ("name", "generateName", "namespace")


class _Dumper(yaml.CSafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.CSafeDumper, value: str) -> yaml.ScalarNode:
    # Lines that end in a blank cannot be written as a block.
    style = "|" if "\n" in value and not any(x.endswith(" ") for x in value.split("\n")) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
# What any reader takes for a number, a boolean or a date must stand in quotes, so both the types of
# YAML 1.1 (inherited) and those of kubectl count.
for _first, _resolvers in Loader.yaml_implicit_resolvers.items():
    for _tag, _pattern in _resolvers:
        _Dumper.add_implicit_resolver(_tag, _pattern, [_first])


def dump(objects: Iterable[Mapping[str, Any]]) -> str:
    """Write objects as YAML documents. Equal objects give equal text; ``load`` gives them back."""
    return "---\n".join(
        yaml.dump(
            _ordered(obj),
            Dumper=_Dumper,
            sort_keys=False,
            default_flow_style=False,
            allow_unicode=True,
            width=1 << 30,
        )
        for obj in objects
    )


def _ordered(obj: Mapping[str, Any]) -> dict[str, Any]:
    result = _sorted(obj, _FIRST, _LAST)
    if isinstance(result.get("metadata"), Mapping):
        result["metadata"] = _sorted(result["metadata"], _FIRST_IN_METADATA, ())
    return result


def _sorted(
    obj: Mapping[str, Any], first: tuple[str, ...], last: tuple[str, ...]
) -> dict[str, Any]:
    middle = [name for name in obj if name not in first and name not in last]
    names = [*first, *middle, *last]
    return {name: obj[name] for name in names if name in obj}
