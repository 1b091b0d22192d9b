"""The hash that AuthorizationPolicies are found by: a structure hash over FNV-1.

The labels of the Kyma operator hold it, so the bytes must be the same for policies of the one to
be updated in place by the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, reduce
from operator import xor

from apirule.apis.security import Operation

_OFFSET = 0xCBF29CE484222325
_PRIME = 0x100000001B3
_MASK = (1 << 64) - 1
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def policy_hash(namespace: str, selector: Mapping[str, str], operation: Operation) -> str:
    """Return the value of the hash label: where a policy holds, and for which requests.

    Of the operation all counts but ``notHosts``, which the Kyma operator never writes: whatever
    hosts a wildcard has to leave out, its policy is the same one, and changes in place.
    """
    return ".".join(
        (namespace_hash(namespace), _digits(_selector(selector), 32), _digits(_to(operation), 32))
    )


def namespace_hash(namespace: str) -> str:
    return _digits(_text(namespace), 36)


def _selector(labels: Mapping[str, str]) -> int:
    pairs = (_pair(_text(key), _text(value)) for key, value in labels.items())
    return _struct("WorkloadSelector", [("MatchLabels", _finish(_set(pairs)))])


def _to(operation: Operation) -> int:
    fields = (
        ("Hosts", operation.hosts),
        ("NotHosts", ()),
        ("Ports", operation.ports),
        ("NotPorts", operation.not_ports),
        ("Methods", operation.methods),
        ("NotMethods", operation.not_methods),
        ("Paths", operation.paths),
        ("NotPaths", operation.not_paths),
    )
    inner = _struct("Operation", [(name, _set(map(_text, values))) for name, values in fields])
    return _struct("Rule_To", [("Operation", inner)])


def _struct(name: str, fields: Sequence[tuple[str, int]]) -> int:
    # Finished after every field, so their order counts.
    return reduce(lambda h, f: _finish(h ^ _pair(_text(f[0]), f[1])), fields, _text(name))


def _set(hashes: Iterable[int]) -> int:
    return reduce(xor, hashes, 0)


def _pair(one: int, other: int) -> int:
    return _fnv1(one.to_bytes(8, "little") + other.to_bytes(8, "little"))


def _finish(value: int) -> int:
    return _fnv1(value.to_bytes(8, "little"))


@lru_cache(maxsize=16384)
def _text(value: str) -> int:
    # A rule has the paths of all earlier ones in its list, so the same texts come again and again.
    return _fnv1(value.encode())


def _fnv1(data: bytes) -> int:
    value = _OFFSET
    for byte in data:
        value = (value * _PRIME & _MASK) ^ byte
    return value


def _digits(value: int, base: int) -> str:
    digits = ""
    while value:
        value, digit = divmod(value, base)
        digits = _DIGITS[digit] + digits
    return digits or "0"
