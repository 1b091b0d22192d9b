"""Texts that would exhaust a process that trusts them: each reader of foreign YAML refuses all."""


def _alias_bomb(width: int = 9, depth: int = 9) -> str:
    lines = [f"a0: &a0 [{','.join('x' * width)}]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * width)}]" for n in range(1, depth)]
    return "\n".join(lines)


TEXTS = {
    "brackets": "[" * 100_000 + "]" * 100_000,
    "brackets in a value": "a: " + "[" * 60_000,
    "braces": '{"a":' * 100_000,
    "lists in a line": "- " * 100_000 + "a",
    "lists behind a byte order mark": "\ufeff" + "- " * 100_000 + "a",
    "lists behind another line break": "a:\r" + "- " * 100_000 + "a",
    "keys in a line": "? " * 100_000 + "a",
    "indentation": "\n".join(" " * level + "a:" for level in range(2_000)),
    "aliases that multiply": _alias_bomb(),
    "an alias to itself": "&a [*a]",
    "an alias to what is around it": "a: &a {b: {c: *a}}",
    "too many values": "[" + "a," * 400_000 + "]",
}
