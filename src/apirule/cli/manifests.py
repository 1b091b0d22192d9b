"""Reading the manifests that ``-f`` names; what is wrong with them is said at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click

from apirule import manifest
from apirule.apis.meta import GroupVersionKind, Object
from apirule.cli import output
from apirule.manifest import Finding, Manifest, Position
from apirule.problem import METADATA, ROOT, Problem, Reason, Severity

SUFFIXES = (".yaml", ".yml", ".json")
SCHEMES = ("http://", "https://")
EXIT_UNREADABLE = 2
ANSWER_WITHIN_S = 10.0
LARGEST_ANSWER = 50 << 20
"""No manifest comes near; whatever is larger was not meant."""


@dataclass
class Loaded:
    """Everything that could be read, and everything that is wrong with it."""

    manifests: list[Manifest] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    unreadable: bool = False
    """Some file could not be read at all; the finding about it says why."""

    @property
    def objects(self) -> list[Object]:
        return [one.object for one in self.manifests]


def load(files: tuple[str, ...]) -> Loaded:
    """Read all manifests. A file that cannot be read is a finding, and hides no other file's."""
    loaded = Loaded()
    for source, data in _contents(files):
        text = data if isinstance(data, Finding) else _decoded(data, source)
        if isinstance(text, Finding):
            loaded.findings.append(text)
            loaded.unreadable = True
            continue
        found = manifest.load(text, source=source)
        loaded.manifests += found.manifests
        loaded.findings += found.findings
    return loaded


def read(files: tuple[str, ...]) -> list[Object]:
    """Read all objects, or say everything that is wrong. Exit: something is.

    Each has metadata with a name.
    """
    loaded = load(files)
    loaded.findings += [finding for one in loaded.manifests for finding in _nameless(one)]
    output.findings(loaded.findings)
    if loaded.unreadable:
        raise click.exceptions.Exit(EXIT_UNREADABLE)
    if has_errors(loaded.findings):
        raise click.exceptions.Exit(1)
    return loaded.objects


def _nameless(one: Manifest) -> Iterator[Finding]:
    meta = one.object.get("metadata")
    name = meta.get("name") if isinstance(meta, dict) else None
    if isinstance(name, str) and name:
        return
    message, fix = "Required value", "Name the object."
    if isinstance(meta, dict) and meta.get("generateName"):
        message = "an object to be applied or deleted has a name; generateName is for `create`"
        fix = "Write name in place of generateName, or use kubectl create."
    yield one.locate(Problem(METADATA / "name", Reason.REQUIRED, message, fix))


def label(obj: Object) -> str:
    """Name an object as kubectl does: ``apirule.gateway.kyma-project.io/httpbin``."""
    return f"{label_of_kind(GroupVersionKind.of(obj))}/{obj['metadata'].get('name', '')}"


def label_of_kind(gvk: GroupVersionKind) -> str:
    return f"{gvk.kind.lower()}.{gvk.group}" if gvk.group else gvk.kind.lower()


def has_errors(findings: list[Finding]) -> bool:
    return any(finding.problem.severity is Severity.ERROR for finding in findings)


def _contents(files: tuple[str, ...]) -> Iterator[tuple[str, bytes | Finding]]:
    """Yield name and content of each file; a folder stands for the manifests in it."""
    for name in files:
        if name == "-":
            yield "-", sys.stdin.buffer.read()
        elif name.startswith(SCHEMES):
            yield name, _fetched(name)
        else:
            for file in _files(Path(name)):
                try:
                    yield str(file), file.read_bytes()
                except OSError as error:
                    yield str(file), _unreadable(str(file), str(error.strerror))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if not found:
        raise click.UsageError(f"The folder {path} holds no {', '.join(SUFFIXES)} file.")
    return found


def _fetched(url: str) -> bytes | Finding:
    import http.client
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=ANSWER_WITHIN_S) as answer:  # noqa: S310 - checked
            data: bytes = answer.read(LARGEST_ANSWER + 1)
    except urllib.error.HTTPError as error:
        with error:
            return _unreadable(url, f"the server answers {error.code} {error.reason}")
    except (OSError, ValueError, http.client.HTTPException) as error:
        return _unreadable(url, str(getattr(error, "reason", error)))
    return data if len(data) <= LARGEST_ANSWER else _unreadable(url, "it is too large")


def _decoded(data: bytes, source: str) -> str | Finding:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        return _wrong(source, "this is no text in UTF-8", "Is it a manifest?", line=line)


def _unreadable(source: str, why: str) -> Finding:
    return _wrong(source, f"this cannot be read: {why}", "Correct its name or its rights.")


def _wrong(source: str, message: str, fix: str, *, line: int = 1) -> Finding:
    return Finding(source, Position(line, 1), Problem(ROOT, Reason.MALFORMED, message, fix))
