"""Reading the manifests that ``-f`` names; what is wrong with them is said at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from apirule import manifest
from apirule.apis.meta import GroupVersionKind, Object
from apirule.cli import output
from apirule.problem import Severity

SUFFIXES = (".yaml", ".yml", ".json")


def read(files: tuple[str, ...]) -> tuple[list[Object], bool]:
    """Read all manifests; what is wrong with them is printed, and True comes back."""
    objects: list[Object] = []
    failed = False
    for source, text in texts(files):
        found = manifest.load(text, source=source)
        output.findings(found.findings)
        failed = failed or found.has_errors
        objects += found.objects
    return objects, failed


def texts(files: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield name and text of each file; a folder stands for the manifests in it."""
    for name in files:
        if name == "-":
            yield "-", _decode(sys.stdin.buffer.read(), "-")
            continue
        path = Path(name)
        try:
            for file in _files(path):
                yield str(file), _decode(file.read_bytes(), str(file))
        except OSError as error:
            where = error.filename or name
            raise click.UsageError(f"{where} cannot be read: {error.strerror}.") from error


def label(obj: Object) -> str:
    """Name an object as kubectl does: ``apirule.gateway.kyma-project.io/httpbin``."""
    gvk = GroupVersionKind.of(obj)
    kind = f"{gvk.kind.lower()}.{gvk.group}" if gvk.group else gvk.kind.lower()
    return f"{kind}/{obj['metadata'].get('name', '')}"


def has_errors(findings: list[manifest.Finding]) -> bool:
    return any(finding.problem.severity is Severity.ERROR for finding in findings)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if not found:
        raise click.UsageError(f"The folder {path} holds no {', '.join(SUFFIXES)} file.")
    return found


def _decode(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise click.UsageError(
            f"{source} is no text in UTF-8 (line {line}): is it a manifest?"
        ) from error
