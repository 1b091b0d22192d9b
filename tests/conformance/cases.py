"""Cases as data: what is sent, what the answer must be, whether the application may hear of it.

A file of ``cases/`` is a list of cases. Each has a ``case`` (its name), a ``source`` (who says so)
and ``tries``. The fields of a try are those of ``Try``; what the case itself sets holds for all.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).with_name("cases")


@dataclass(frozen=True)
class Try:
    """One request. ``{token}`` in a text is the token, ``{host}`` the name of the rule's host."""

    case: str
    expect: int | list[int]
    """The status; several where all are refusals and the engine may choose. 0: closed."""
    to: str = "guarded"
    """The APIRule whose host is asked for."""
    method: str = "GET"
    target: str = "/headers"
    version: str = "HTTP/1.1"
    host: str = "{host}:{port}"
    authorization: str | None = None
    """By default ``Bearer {token}`` when there is a ``token``."""
    token: Mapping[str, Any] | None = None
    """How to make the token, see ``Mint``."""
    headers: list[str] = field(default_factory=list)
    body: str = ""
    raw: str | None = None
    """The whole request in place of all of these."""
    h2: list[list[str]] | None = None
    """The fields of a request over HTTP/2."""
    reached: bool | None = None
    """Whether the application gets the request; by default exactly when 200 is expected."""
    hidden: list[str] = field(default_factory=list)
    """Headers, or parts of their values, that the application must not see."""
    sees: Mapping[str, str] = field(default_factory=dict)
    """Headers the application must see; ``:target`` and ``:method`` are the request line."""
    says: Mapping[str, str] = field(default_factory=dict)
    """Headers of the answer, as regular expressions."""
    silent: list[str] = field(default_factory=list)
    """What may stand nowhere in the headers of the answer."""

    @property
    def is_reached(self) -> bool:
        return self.expect == 200 if self.reached is None else self.reached

    @property
    def statuses(self) -> list[int]:
        return [self.expect] if isinstance(self.expect, int) else self.expect


_SHARED = {each.name for each in fields(Try)} - {"case"}


def load() -> Iterator[tuple[str, Try]]:
    """Yield every try with a name of its own."""
    for path in sorted(FOLDER.glob("*.yaml")):
        for case in yaml.safe_load(path.read_text()):
            shared = {key: value for key, value in case.items() if key in _SHARED}
            for index, each in enumerate(case["tries"]):
                yield f"{case['case']}-{index}", Try(case=case["case"], **shared | each)
