"""Putting our context into the kubeconfig that kubectl reads, and leaving the rest as it is."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from apirule import manifest
from apirule.problem import SetupError

LISTS = ("clusters", "users", "contexts")


def target(environment: Mapping[str, str]) -> Path:
    """Return the file that kubectl writes to: the first of KUBECONFIG, else ``~/.kube/config``."""
    first = environment.get("KUBECONFIG", "").split(os.pathsep)[0]
    return Path(first) if first else Path.home() / ".kube" / "config"


class Current(NamedTuple):
    """What kubectl talks to."""

    context: str
    server: str


def current(environment: Mapping[str, str]) -> Current | None:
    """Return the context in force, of all files that KUBECONFIG lists; None: there is none.

    SetupError: a file is no kubeconfig.
    """
    listed = [Path(one) for one in environment.get("KUBECONFIG", "").split(os.pathsep) if one]
    documents = [_read(path) for path in listed or [target(environment)]]
    context = next((str(d["current-context"]) for d in documents if d.get("current-context")), "")
    cluster = _named(documents, "contexts", context).get("context") or {}
    server = (_named(documents, "clusters", cluster.get("cluster")).get("cluster") or {}).get(
        "server"
    )
    return Current(context, str(server).rstrip("/")) if server else None


def _named(documents: list[dict[str, Any]], key: str, name: Any) -> dict[str, Any]:
    """Return the entry of a name: of several the first counts."""
    entries = (entry for document in documents for entry in document.get(key) or [])
    return next((e for e in entries if isinstance(e, dict) and e.get("name") == name), {})


def merge(path: Path, ours: str, *, name: str) -> None:
    """Add or replace the entries of one name. SetupError: the file is no kubeconfig."""
    merged = merged_with(_read(path), yaml.safe_load(ours), name=name)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Whoever reads it sees the old file or the new one, and nobody else ever sees the key.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yaml.safe_dump(merged, file, sort_keys=False)
        Path(temporary).replace(path.resolve())
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def merged_with(theirs: dict[str, Any], ours: dict[str, Any], *, name: str) -> dict[str, Any]:
    """Return their kubeconfig with our cluster, user and context, which becomes current."""
    merged = {"apiVersion": "v1", "kind": "Config", **theirs}
    for key in LISTS:
        kept = [entry for entry in merged.get(key) or [] if entry.get("name") != name]
        merged[key] = [*kept, {**ours[key][0], "name": name}]
    merged["contexts"][-1]["context"] = {"cluster": name, "user": name}
    merged["current-context"] = name
    return merged


def _read(path: Path) -> dict[str, Any]:
    try:
        found = manifest.read_yaml(path.read_bytes())[0] or {}
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise SetupError(f"{path} is not valid YAML.", "Mend it, or set KUBECONFIG.") from error
    if not isinstance(found, dict) or not all(
        isinstance(found.get(key) or [], list) for key in LISTS
    ):
        raise SetupError(f"{path} is no kubeconfig.", "Mend it, or set KUBECONFIG.")
    return found
