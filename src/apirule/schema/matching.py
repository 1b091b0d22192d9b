"""``self.matches('…')`` without CEL, which compiles the expression anew for every value (0.7 ms).

Only rules that are nothing but such a call qualify, and only expressions that RE2 and the linear
engine of jsonschema-rs read alike: plain characters, classes, groups, repetition and anchors. All
others stay with CEL.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import jsonschema_rs

_CALL = re.compile(r"\s*self\.matches\('((?:[^'\\\n]|\\\\)*)'\)\s*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\U0010ffff]")
_LETTER_ESCAPE = re.compile(r"\\[0-9A-Za-z]")
_FLAGS = re.compile(r"\(\?(?!:)")
_SET_OPERATION = re.compile(r"&&|--|~~|\[:")


def simple_match(rule: str) -> Callable[[str], bool] | None:
    """Return a test that decides as the rule does; None: only CEL can tell."""
    call = _CALL.fullmatch(rule)
    if call is None:
        return None
    pattern = call[1].replace("\\\\", "\\")
    doubtful = (_CONTROL, _LETTER_ESCAPE, _FLAGS, _SET_OPERATION)
    if any(dialect.search(pattern) for dialect in doubtful):
        return None
    try:
        validator = jsonschema_rs.Draft202012Validator(
            {"pattern": pattern}, pattern_options=jsonschema_rs.RegexOptions()
        )
    except ValueError:
        return None
    return validator.is_valid
