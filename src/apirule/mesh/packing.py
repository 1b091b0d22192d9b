"""Messages inside messages: the same bytes for the same content, always.

A resource's version is the hash of its bytes, so an Any must not depend on the order in which a
map was filled.
"""

from __future__ import annotations

from envoy.config.core.v3 import config_source_pb2
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message


def pack(message: Message) -> Any:
    packed = Any()
    packed.Pack(message, deterministic=True)
    return packed


def ads() -> config_source_pb2.ConfigSource:
    """Where every resource comes from: the one stream to the control plane."""
    return config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(),
        resource_api_version=config_source_pb2.ApiVersion.Value("V3"),
    )
