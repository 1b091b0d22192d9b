"""Faults that are meant: delays and errors for a share of the requests of a route."""

from __future__ import annotations

from collections.abc import Iterator

from envoy.extensions.filters.common.fault.v3 import fault_pb2 as common_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.type.v3 import percent_pb2

from apirule.apis import networking
from apirule.mesh import durations
from apirule.problem import FieldPath, Problem, Reason

FILTER = "envoy.filters.http.fault"
_ALL = 100
_PER_PERCENT = 10_000
_FIRST_STATUS, _LAST_STATUS = 200, 599


def emit(fault: networking.HTTPFaultInjection) -> fault_pb2.HTTPFault:
    """Return the fault of a route. Only if ``problems`` found nothing."""
    result = fault_pb2.HTTPFault()
    if fault.delay is not None:
        delay = durations.parse(fault.delay.fixed_delay)
        result.delay.CopyFrom(
            common_pb2.FaultDelay(
                fixed_delay=durations.message(delay) if delay else None,
                percentage=share(fault.delay.percentage),
            )
        )
    if fault.abort is not None:
        result.abort.CopyFrom(
            fault_pb2.FaultAbort(
                http_status=fault.abort.http_status, percentage=share(fault.abort.percentage)
            )
        )
    return result


def share(percentage: networking.Percent | None) -> percent_pb2.FractionalPercent:
    """Return a share as Envoy counts it: in millionths, as Istio has fractions of a per cent."""
    value = percentage.value if percentage else 0
    return percent_pb2.FractionalPercent(
        numerator=round(value * _PER_PERCENT), denominator=percent_pb2.FractionalPercent.MILLION
    )


def problems(fault: networking.HTTPFaultInjection, at: FieldPath) -> Iterator[Problem]:
    if fault.delay is None and fault.abort is None:
        yield _invalid(at, "", "there is neither a delay nor an abort")
    if fault.delay is not None:
        text = fault.delay.fixed_delay
        if not durations.parse(text):
            yield _invalid(at / "delay" / "fixedDelay", text, "it is not a duration such as 5s")
        yield from _given(fault.delay.percentage, at / "delay" / "percentage")
    if fault.abort is not None:
        status = fault.abort.http_status or 0
        if not _FIRST_STATUS <= status <= _LAST_STATUS:
            yield _invalid(at / "abort" / "httpStatus", status, "it is not a status of an answer")
        yield from _given(fault.abort.percentage, at / "abort" / "percentage")


def share_problems(percentage: networking.Percent | None, at: FieldPath) -> Iterator[Problem]:
    if percentage is not None and not 0 <= percentage.value <= _ALL:
        yield _invalid(at / "value", percentage.value, "it lies between 0 and 100")


def _given(percentage: networking.Percent | None, at: FieldPath) -> Iterator[Problem]:
    if percentage is None:
        yield Problem(
            at,
            Reason.REQUIRED,
            "It is not said how many requests shall fail.",
            "Give a percentage, such as {value: 10}.",
        )
    yield from share_problems(percentage, at)


def _invalid(at: FieldPath, value: object, why: str) -> Problem:
    return Problem(at, Reason.INVALID, f'"{value}" cannot be used: {why}.', "Correct the value.")
