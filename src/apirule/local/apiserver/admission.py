"""Admission: everything that can say no to an object, or complete it, before it is stored.

Schema first (prune, default, validate), then what the kind itself completes, then the hooks that
the composition gives the server: pure functions, called where a real API server calls webhooks.
All problems come out in one answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from apirule.apis.meta import GroupVersionKind, Object
from apirule.local.apiserver import builtin, errors
from apirule.local.apiserver.calls import Call
from apirule.local.apiserver.errors import Cause
from apirule.local.apiserver.kinds import Kind
from apirule.local.apiserver.metadata import check_metadata
from apirule.problem import Problem, Reason, Severity
from apirule.schema import KindInfo, admit

Operation = Literal["CREATE", "UPDATE"]


class AdmissionRequest(msgspec.Struct, frozen=True):
    """What a hook is asked about. Do not alter the objects; return a new one."""

    operation: Operation
    gvk: GroupVersionKind
    subresource: str
    object: Object
    old: Object | None
    namespace: Object | None
    """The Namespace the object is in; its labels decide about injection."""
    dry_run: bool


class AdmissionResult(msgspec.Struct, frozen=True):
    """What a hook says: the object to go on with, reasons to refuse it, things to remark."""

    object: Object
    problems: Sequence[Problem] = ()
    warnings: Sequence[str] = ()


Others = Callable[[], Iterable[Object]]
"""Gives the other objects of the kind, for those that must not share something."""

AdmissionHook = Callable[[AdmissionRequest], AdmissionResult]

_NOT_CHECKED = Cause(
    "<nil>",
    Reason.INVALID.value,
    "Invalid value: null: some validation rules were not checked because the object was invalid;"
    " correct the existing errors to complete validation",
)


def admit_object(
    kind: Kind,
    obj: Object,
    old: Object | None,
    call: Call,
    *,
    subresource: str = "",
    namespace: Object | None = None,
    hooks: Sequence[AdmissionHook] = (),
    duplicates: Sequence[str] = (),
    others: Others = tuple,
) -> Object:
    """Return the object complete and valid. StatusError 400 or 422 with all that is wrong."""
    if obj.get("kind") != kind.info.kind:
        _refuse_kind(kind, obj)
    obj = builtin.prepare(kind.resource, obj, old)
    admission = admit(obj, kind.info, old=old)
    report_unknown(kind, admission.unknown_fields, duplicates, call)
    mistyped = [p for p in admission.problems if p.reason is Reason.TYPE_INVALID]
    if not kind.custom:
        _refuse_types(kind, mistyped)
    complete = admission.object
    problems = list(admission.problems)
    if not problems:
        complete, problems = _completed(
            kind,
            complete,
            old,
            call,
            subresource=subresource,
            namespace=namespace,
            hooks=hooks,
            others=others,
        )
    readable = not any(problem.field.parts[:1] == ("metadata",) for problem in mistyped)
    causes = list(check_metadata(complete, kind.resource)) if readable else []
    required = any(cause.reason == Reason.REQUIRED.value for cause in causes)
    told = {(cause.field, cause.reason) for cause in causes}
    causes += (c for c in map(_cause, problems) if (c.field, c.reason) not in told)
    if required and kind.custom and _NOT_CHECKED not in causes and kind.info.schema.rules:
        causes.append(_NOT_CHECKED)
    if causes:
        name = str(complete["metadata"].get("name") or "")
        raise errors.invalid(kind.kind_subject(name), causes)
    return complete


def has_defaults(info: KindInfo) -> bool:
    """Tell whether there is anything to fill in."""
    return info.schema.has_defaults or (info.builtin and builtin.has_defaults(info.resource))


def with_defaults(info: KindInfo, stored: Object) -> Object:
    """Return a stored object with the defaults of today; as it is, if today it is not valid."""
    obj = info.schema.default(stored)
    if info.schema.validate(obj):
        return stored
    return builtin.with_defaults(info.resource, obj) if info.builtin else obj


def _completed(
    kind: Kind,
    obj: Object,
    old: Object | None,
    call: Call,
    *,
    subresource: str,
    namespace: Object | None,
    hooks: Sequence[AdmissionHook],
    others: Others,
) -> tuple[Object, list[Problem]]:
    obj, problems = _as_built_in(kind, obj, old, subresource, others)
    if not kind.custom and not subresource:
        problems += builtin.check_sent(kind.resource, obj, old)
    before = obj
    for hook in hooks:
        operation: Operation = "CREATE" if old is None else "UPDATE"
        result = hook(
            AdmissionRequest(operation, kind.gvk, subresource, obj, old, namespace, call.dry_run)
        )
        obj = result.object
        call.warnings += result.warnings
        for problem in result.problems:
            if problem.severity is Severity.ERROR:
                problems.append(problem)
            else:
                call.warnings.append(f"{problem}{' ' + problem.fix if problem.fix else ''}")
    if obj is not before and not problems:
        # A hook is code like any other: what it makes is checked as if a client had sent it.
        again = admit(obj, kind.info, old=old)
        obj, problems = again.object, list(again.problems)
        if not problems:
            obj, problems = _as_built_in(kind, obj, old, subresource, others)
    return obj, problems


def _as_built_in(
    kind: Kind, obj: Object, old: Object | None, subresource: str, others: Others
) -> tuple[Object, list[Problem]]:
    """Complete and check an object by what its kind means, where that is more than a schema."""
    if kind.custom or subresource:
        return obj, []
    complete = builtin.complete(kind.resource, obj, old, others)
    return complete, builtin.check(kind.resource, complete, old, others)


def _refuse_kind(kind: Kind, obj: Mapping[str, Any]) -> None:
    given = str(obj.get("kind"))
    name = str(obj["metadata"].get("name") or "")
    subject = errors.Subject(kind.info.group, given, name)
    message = f'Invalid value: "{given}": must be {kind.info.kind}'
    raise errors.invalid(subject, [Cause("kind", Reason.INVALID.value, message)])


def _refuse_types(kind: Kind, mistyped: Sequence[Problem]) -> None:
    """Refuse what a real server cannot decode into its own types: a bad request, not a bad object.

    The words are those for a custom resource: ours name the field and the type that it has.
    """
    said = [str(problem) for problem in mistyped]
    if said:
        raise errors.not_handled(kind.gvk, kind.info.kind, ", ".join(said))


def report_unknown(
    kind: Kind, unknown: Sequence[str], duplicates: Sequence[str], call: Call
) -> None:
    """Refuse or warn of fields that will be dropped, as the client wants it. StatusError 400."""
    said = [*_said("duplicate", duplicates), *_said("unknown", unknown)]
    if not said or call.validation == "Ignore":
        return
    if call.validation == "Strict":
        raise errors.not_handled(
            kind.gvk, kind.info.kind, f"strict decoding error: {', '.join(said)}"
        )
    call.warnings += said


def _said(what: str, paths: Sequence[str]) -> Iterator[str]:
    return (f'{what} field "{path}"' for path in paths)


def _cause(problem: Problem) -> Cause:
    return Cause(str(problem.field), problem.reason.value, problem.message)
