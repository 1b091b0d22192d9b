"""Which of Envoy's own answers a local reply is about, in the language of access log filters."""

from __future__ import annotations

from envoy.config.accesslog.v3.accesslog_pb2 import (
    AccessLogFilter,
    AndFilter,
    ComparisonFilter,
    ExtensionFilter,
    StatusCodeFilter,
)
from envoy.config.core.v3.base_pb2 import RuntimeUInt32
from envoy.extensions.access_loggers.filters.cel.v3.cel_pb2 import ExpressionFilter

from apirule.mesh.packing import pack


def every(*filters: AccessLogFilter) -> AccessLogFilter:
    return AccessLogFilter(and_filter=AndFilter(filters=filters))


def status(code: int) -> AccessLogFilter:
    # Envoy asks for a runtime key; nobody sets this one.
    value = RuntimeUInt32(default_value=code, runtime_key="apirule.local_reply.status")
    comparison = ComparisonFilter(op=ComparisonFilter.EQ, value=value)
    return AccessLogFilter(status_code_filter=StatusCodeFilter(comparison=comparison))


def details_begin(text: str) -> AccessLogFilter:
    """Match answers whose details (why Envoy gave them) begin with a text without quotes."""
    expression = f'response.code_details.startsWith("{text}")'
    return AccessLogFilter(
        extension_filter=ExtensionFilter(
            name="envoy.access_loggers.extension_filters.cel",
            typed_config=pack(ExpressionFilter(expression=expression)),
        )
    )
