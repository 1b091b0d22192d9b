"""What a proxy is told, as values that can be printed: readable, in a stable order, no secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from apirule.mesh.config import ProxyConfig, TypeUrl

REDACTED = "[redacted]"
_SECTIONS = {
    TypeUrl.CLUSTER: "clusters",
    TypeUrl.ENDPOINT: "endpoints",
    TypeUrl.SECRET: "secrets",
    TypeUrl.LISTENER: "listeners",
    TypeUrl.ROUTE: "routes",
    TypeUrl.EXTENSION: "filters",
}
_SECRET_FIELDS = frozenset({"private_key", "password", "session_ticket_keys", "generic_secret"})


def render(config: ProxyConfig) -> dict[str, list[dict[str, Any]]]:
    """Return the configuration by sections, each a list of resources sorted by name.

    Private keys and their like are replaced. Extensions stand with their ``@type``, so the result
    of a section is what Envoy itself would accept.
    """
    return {
        section: [
            _redacted(as_dict(message))
            for _, message in sorted(config.resources.get(url, {}).items())
        ]
        for url, section in _SECTIONS.items()
        if config.resources.get(url)
    }


def as_dict(message: Message) -> dict[str, Any]:
    """Return a message as Envoy's documentation writes it; the types inside must be imported."""
    found: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return found


def _redacted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: REDACTED if key in _SECRET_FIELDS else _redacted(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_redacted(item) for item in value]
    return value
