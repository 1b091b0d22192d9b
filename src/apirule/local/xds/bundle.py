"""Resources in the form the wire wants, each with a version that is a function of its content."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import NamedTuple

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from apirule.mesh.config import TypeUrl


class Encoded(NamedTuple):
    """One resource. Equal content has an equal version, in this process and in the next one."""

    version: str
    body: Any
    endpoints: str = ""
    """Of an EDS cluster: the name of the ClusterLoadAssignment it waits for."""
    is_empty: bool = False
    """Of a filter: it lets everything pass."""


Bundle = Mapping[TypeUrl, Mapping[str, Encoded]]
"""Everything one proxy is told."""


class Encoder:
    """Encodes what one proxy is told, again and again; a message that is the same is not."""

    def __init__(self) -> None:
        self._known: dict[tuple[TypeUrl, str], tuple[Message, Encoded]] = {}

    def encode(self, resources: Mapping[TypeUrl, Mapping[str, Message]]) -> Bundle:
        bundle: dict[TypeUrl, dict[str, Encoded]] = {}
        known: dict[tuple[TypeUrl, str], tuple[Message, Encoded]] = {}
        for url, group in resources.items():
            encoded = bundle[url] = {}
            for name, message in group.items():
                before = self._known.get((url, name))
                # The mesh hands out the same message for as long as nothing behind it changes.
                same = before is not None and before[0] is message
                entry = before if before and same else (message, encode_one(url, message))
                known[url, name] = entry
                encoded[name] = entry[1]
        self._known = known
        return bundle


def encode_one(url: TypeUrl, message: Message) -> Encoded:
    # Maps have no order on the wire unless they are asked to: without it equal messages would
    # have different versions, and every push would warm every cluster again.
    data = message.SerializeToString(deterministic=True)
    version = sha256(data).hexdigest()[:16]
    body = Any(type_url=url, value=data)
    return Encoded(version, body, _awaited_endpoints(message), _is_empty(message))


def _is_empty(message: Message) -> bool:
    return isinstance(message, TypedExtensionConfig) and not message.typed_config.value


def _awaited_endpoints(message: Message) -> str:
    if not isinstance(message, Cluster) or message.type != Cluster.EDS:
        return ""
    return str(message.eds_cluster_config.service_name or message.name)
