"""The syntax of names, labels and keys: what is wrong with a text, in the words of Kubernetes.

Each function yields one text per mistake, none for a good one. Tools match on the wording.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from apirule.names import DNS_LABEL, DNS_SUBDOMAIN

Syntax = Callable[[str], Iterator[str]]

LABEL_LENGTH = 63
SUBDOMAIN_LENGTH = 253
_PORT_NAME_LENGTH = 15

_QUALIFIED_PART = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]+")
_HEADER = re.compile(r"[-A-Za-z0-9]+")
_VARIABLE = re.compile(r"[ -<>-~]+")
_PORTS = range(1, 65536)

_SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or"
    " '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used"
    r" for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and"
    " must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used"
    " for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_LABEL_1035_TEXT = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an"
    " alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123',"
    " regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
)
_NAME_PART_TEXT = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end"
    " with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for"
    " validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_LABEL_VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or"
    " '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value', "
    " or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_DATA_KEY_TEXT = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',"
    "  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
)
_HEADER_TEXT = (
    "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name',"
    " regex used for validation is '[-A-Za-z0-9]+')"
)
_VARIABLE_TEXT = (
    "a valid environment variable name must consist only of printable ASCII characters other than"
    " '='"
)
PORT_TEXT = "must be between 1 and 65535, inclusive"


def dns_label(text: str) -> Iterator[str]:
    if len(text) > LABEL_LENGTH:
        yield at_most(LABEL_LENGTH)
    elif not DNS_LABEL.fullmatch(text):
        yield _LABEL_TEXT


def dns_label_1035(text: str) -> Iterator[str]:
    if len(text) > LABEL_LENGTH:
        yield at_most(LABEL_LENGTH)
    elif not _LABEL_1035.fullmatch(text):
        yield _LABEL_1035_TEXT


def dns_subdomain(text: str) -> Iterator[str]:
    if len(text) > SUBDOMAIN_LENGTH:
        yield at_most(SUBDOMAIN_LENGTH)
    elif not DNS_SUBDOMAIN.fullmatch(text):
        yield _SUBDOMAIN_TEXT


def qualified_name(text: str) -> Iterator[str]:
    """Yield what is wrong with the key of a label or an annotation."""
    prefix, slash, name = text.rpartition("/")
    if slash and (not DNS_SUBDOMAIN.fullmatch(prefix) or len(prefix) > SUBDOMAIN_LENGTH):
        yield f"prefix part {_SUBDOMAIN_TEXT}"
    if not name:
        yield "name part must be non-empty"
    if len(name) > LABEL_LENGTH:
        yield f"name part {at_most(LABEL_LENGTH)}"
    elif name and not _QUALIFIED_PART.fullmatch(name):
        yield _NAME_PART_TEXT


def label_value(text: str) -> Iterator[str]:
    if len(text) > LABEL_LENGTH:
        yield at_most(LABEL_LENGTH)
    elif not _LABEL_VALUE.fullmatch(text):
        yield _LABEL_VALUE_TEXT


def port_name(text: str) -> Iterator[str]:
    """Yield what is wrong with the name of a container's port (RFC 6335, 5.1)."""
    if len(text) > _PORT_NAME_LENGTH:
        yield at_most(_PORT_NAME_LENGTH)
    if not re.fullmatch(r"[-a-z0-9]+", text):
        yield "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
    if not re.search(r"[a-z]", text):
        yield "must contain at least one letter (a-z)"
    if "--" in text:
        yield "must not contain consecutive hyphens"
    if text.startswith("-") or text.endswith("-"):
        yield "must not begin or end with a hyphen"


def port(value: int | str) -> Iterator[str]:
    """Yield what is wrong with a port that may be a number or a name."""
    if isinstance(value, str):
        yield from port_name(value)
    elif value not in _PORTS:
        yield PORT_TEXT


def data_key(text: str) -> Iterator[str]:
    """Yield what is wrong with a key of a ConfigMap or a Secret, which may become a file name."""
    if len(text) > SUBDOMAIN_LENGTH:
        yield at_most(SUBDOMAIN_LENGTH)
    if not _DATA_KEY.fullmatch(text):
        yield _DATA_KEY_TEXT
    if text in (".", ".."):
        yield f"must not be '{text}'"
    elif text.startswith(".."):
        yield "must not start with '..'"


def variable_name(text: str) -> Iterator[str]:
    """Yield what is wrong with the name of an environment variable, by the rules since 1.32."""
    if not _VARIABLE.fullmatch(text):
        yield _VARIABLE_TEXT


def header_name(text: str) -> Iterator[str]:
    if not _HEADER.fullmatch(text):
        yield _HEADER_TEXT


def at_most(length: int) -> str:
    return f"must be no more than {length} characters"
