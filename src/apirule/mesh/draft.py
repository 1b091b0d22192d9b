"""A proxy's configuration while it is being put together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from google.protobuf.message import Message

from apirule.apis.meta import ObjectRef
from apirule.mesh.config import ProxyConfig, TypeUrl
from apirule.problem import Problem


class Draft:
    """Collects resources with the objects they were made of, and problems, each one once."""

    def __init__(self) -> None:
        self._resources: dict[TypeUrl, dict[str, Message]] = {url: {} for url in TypeUrl}
        self._sources: dict[tuple[TypeUrl, str], frozenset[ObjectRef]] = {}
        self._problems: defaultdict[ObjectRef, dict[Problem, None]] = defaultdict(dict)

    def put(self, url: TypeUrl, name: str, message: Message, sources: Iterable[ObjectRef]) -> None:
        self._resources[url][name] = message
        self._sources[url, name] = frozenset(sources)

    def report(self, ref: ObjectRef, problems: Iterable[Problem]) -> None:
        found = dict.fromkeys(problems)
        if found:
            self._problems[ref].update(found)

    def add(self, part: Draft) -> None:
        """Take over what is in another draft, which stays as it is."""
        for url, group in part._resources.items():
            self._resources[url].update(group)
        self._sources.update(part._sources)
        for ref, found in part._problems.items():
            self._problems[ref].update(found)

    def finish(self) -> ProxyConfig:
        """Return the configuration, in an order that depends on names only."""
        return ProxyConfig(
            resources={url: dict(sorted(group.items())) for url, group in self._resources.items()},
            sources=dict(self._sources),
            problems={ref: tuple(found) for ref, found in sorted(self._problems.items())},
        )
