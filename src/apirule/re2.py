"""Regular expressions as RE2 reads them, which decides what Envoy and Istio take."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

from cel_expr_python import cel


@lru_cache(maxsize=4096)
def fault(pattern: str) -> str | None:
    """Return what RE2 itself, which CEL brings along, says against a pattern; None if nothing."""
    if "\0" in pattern:
        return "a regular expression must not contain NUL"
    answer = _matcher().eval(data={"pattern": pattern})
    if answer.type() == cel.Type.ERROR:
        return str(answer.value()).partition("invalid regular expression: ")[2] or "invalid"
    return None


@cache
def _matcher() -> Any:
    env = cel.NewEnv(variables={"pattern": cel.Type.STRING})
    return env.compile("''.matches(pattern)")
