"""AuthorizationPolicy to the RBAC filter.

A rule is permissions (one AND-set per ``to``, OR between them) and principals (one AND-set per
``from``). A condition of ``when`` joins every set of the side it speaks of. In a set all fields
must hold; one value of a field suffices; ``not…`` is the negation of that. No set on a side: any.

``problems`` and ``policies`` walk the same tables, so what has no problem can be built. A policy
with an error is never built: its workload is closed (``mesh.policies``). Istio instead drops the
broken rule or condition, which for an ALLOW policy says less than the user wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

import msgspec
from envoy.config.rbac.v3.rbac_pb2 import RBAC, Permission, Policy, Principal

from apirule.apis.security import (
    AuthorizationPolicy,
    AuthorizationPolicySpec,
    AuthorizationRule,
    Operation,
    Source,
    When,
)
from apirule.mesh.attributes import (
    CONDITIONS,
    OPERATION,
    SOURCE,
    SOURCE_WITHOUT_TOKEN,
    WIDE_OPERATION,
    Context,
    PermissionCondition,
    PrincipalCondition,
    condition_of,
    speaks_of_token,
)
from apirule.mesh.config import MeshSettings
from apirule.problem import SPEC, FieldPath, Problem, Reason

CUSTOM = "CUSTOM"
ACTIONS: Mapping[str, RBAC.Action.ValueType] = {
    "ALLOW": RBAC.ALLOW,
    "DENY": RBAC.DENY,
    "AUDIT": RBAC.LOG,
    CUSTOM: RBAC.DENY,  # a shadow rule: what it would deny is what is asked about
}

M = TypeVar("M", Permission, Principal)


class _Side(msgspec.Struct, Generic[M], frozen=True):
    """Permissions and principals combine in the same way, under other names."""

    anything: M
    all_of: Callable[[Sequence[M]], M]
    any_of: Callable[[Sequence[M]], M]
    none_of: Callable[[M], M]

    def every(self, parts: Sequence[M]) -> M:
        if not parts:
            return self.anything
        return parts[0] if len(parts) == 1 else self.all_of(parts)

    def one(self, parts: Sequence[M]) -> M:
        return parts[0] if len(parts) == 1 else self.any_of(parts)


_PERMISSIONS = _Side(
    anything=Permission(any=True),
    all_of=lambda parts: Permission(and_rules=Permission.Set(rules=parts)),
    any_of=lambda parts: Permission(or_rules=Permission.Set(rules=parts)),
    none_of=lambda part: Permission(not_rule=part),
)
_PRINCIPALS = _Side(
    anything=Principal(any=True),
    all_of=lambda parts: Principal(and_ids=Principal.Set(ids=parts)),
    any_of=lambda parts: Principal(or_ids=Principal.Set(ids=parts)),
    none_of=lambda part: Principal(not_id=part),
)
NOBODY = Policy(
    permissions=[Permission(any=True)], principals=[Principal(not_id=Principal(any=True))]
)
EVERYBODY = Policy(permissions=[Permission(any=True)], principals=[Principal(any=True)])


def problems(policy: AuthorizationPolicy, settings: MeshSettings) -> list[Problem]:
    """Return everything in a policy that cannot be enforced as it is written."""
    spec = policy.spec
    found: list[Problem] = []
    if spec.action not in ACTIONS:
        found.append(_unknown_action(spec.action))
    if spec.provider is not None and spec.action != CUSTOM:
        place = SPEC / "provider"
        found.append(_invalid(place, f"A provider has no meaning with the action {spec.action}."))
    if spec.action == CUSTOM:
        found += _custom_problems(spec)
    context = Context(settings, policy.metadata.namespace, 0)
    for index, rule in enumerate(spec.rules):
        found += _rule_problems(rule, context, SPEC / "rules" / index)
    return found


def policies(policy: AuthorizationPolicy, settings: MeshSettings, port: int) -> dict[str, Policy]:
    """Return a policy's rules under the names Istio gives them. It must have no problems."""
    context = Context(settings, policy.metadata.namespace, port)
    allows = policy.spec.action == "ALLOW"
    return {
        rule_name(policy, index): Policy(
            permissions=permissions(rule, context, allows=allows),
            principals=principals(rule, context),
        )
        for index, rule in enumerate(policy.spec.rules)
    }


def packed(rules: Mapping[str, Policy]) -> bytes:
    """Return the rules of one policy in the form ``joined`` puts together; empty if none."""
    message: bytes = RBAC(policies=rules).SerializeToString(deterministic=True)
    return message


def joined(action: RBAC.Action.ValueType, parts: Iterable[bytes]) -> RBAC:
    """Return one RBAC with all rules.

    Messages in a row are one message with the fields of all: reading them at once takes a fraction
    of the time of copying rule by rule, and a workload may have hundreds.
    """
    rules = RBAC.FromString(b"".join(parts))
    rules.action = action
    return rules


def rule_name(policy: AuthorizationPolicy, index: int | str) -> str:
    namespace, name = policy.object_name
    return f"{custom_prefix(policy)}ns[{namespace}]-policy[{name}]-rule[{index}]"


def custom_prefix(policy: AuthorizationPolicy) -> str:
    """Return what the rules of an authorizer are told from those of another one by."""
    provider = policy.spec.provider
    return f"istio-ext-authz-{provider.name}-" if provider is not None else ""


def permissions(
    rule: AuthorizationRule, context: Context, *, allows: bool = True
) -> list[Permission]:
    """Return one permission per operation.

    A template does not match every path that a program may take for one of its own, so what is
    refused is read more widely: what a rule that ``allows`` excepts, and what any other rule names.
    """
    conditions = [
        built
        for when in rule.when
        if isinstance(condition := condition_of(when.key), PermissionCondition)
        for built in _both(_PERMISSIONS, condition.build, when.values, when.not_values, context)
    ]
    named, excepted = (OPERATION, WIDE_OPERATION) if allows else (WIDE_OPERATION, OPERATION)
    sets = [[*_fields(_PERMISSIONS, named, to.operation, context, excepted)] for to in rule.to] or [
        []
    ]
    return [_PERMISSIONS.every([*fields, *conditions]) for fields in sets]


def principals(
    rule: AuthorizationRule, context: Context, *, of_token: bool = True
) -> list[Principal]:
    """Return one principal per source. ``of_token`` False leaves out what only a token can say."""
    conditions = [
        built
        for when in rule.when
        if isinstance(condition := condition_of(when.key), PrincipalCondition)
        if of_token or not condition.of_token
        for built in _both(_PRINCIPALS, condition.build, when.values, when.not_values, context)
    ]
    table = SOURCE if of_token else SOURCE_WITHOUT_TOKEN
    sets = [[*_fields(_PRINCIPALS, table, part.source, context)] for part in rule.from_] or [[]]
    return [_PRINCIPALS.every([*fields, *conditions]) for fields in sets]


Build = Callable[[str, Context], M]


def _fields(
    side: _Side[M],
    table: Mapping[str, Build[M]],
    value: Source | Operation,
    context: Context,
    excepted: Mapping[str, Build[M]] | None = None,
) -> Iterator[M]:
    for field, build in table.items():
        given: tuple[str, ...] = getattr(value, field)
        refused: tuple[str, ...] = getattr(value, f"not_{field}")
        yield from _both(side, build, given, (), context)
        yield from _both(side, (excepted or table)[field], (), refused, context)


def _both(
    side: _Side[M],
    build: Build[M],
    given: Iterable[str],
    refused: Iterable[str],
    context: Context,
) -> Iterator[M]:
    wanted = [build(value, context) for value in given]
    if wanted:
        yield side.one(wanted)
    unwanted = [build(value, context) for value in refused]
    if unwanted:
        yield side.none_of(side.one(unwanted))


# Problems


def _rule_problems(
    rule: AuthorizationRule, context: Context, place: FieldPath
) -> Iterator[Problem]:
    for index, part in enumerate(rule.from_):
        at = place / "from" / index / "source"
        yield from _field_problems(SOURCE, part.source, context, at)
    for index, to in enumerate(rule.to):
        at = place / "to" / index / "operation"
        yield from _field_problems(OPERATION, to.operation, context, at)
    for index, when in enumerate(rule.when):
        yield from _condition_problems(when, context, place / "when" / index)


def _field_problems(
    table: Mapping[str, Build[M]], value: Source | Operation, context: Context, place: FieldPath
) -> Iterator[Problem]:
    empty = True
    for field, build in table.items():
        for name in (field, f"not_{field}"):
            values: tuple[str, ...] = getattr(value, name)
            empty = empty and not values
            yield from _value_problems(build, values, context, place / _camel(name))
    if empty:
        yield _invalid(place, "An empty entry says nothing.", "Leave the entry out, or fill it.")


def _condition_problems(when: When, context: Context, place: FieldPath) -> Iterator[Problem]:
    try:
        build = condition_of(when.key).build
    except ValueError as error:
        known = ", ".join((*CONDITIONS, "request.headers[NAME]", "request.auth.claims[NAME]"))
        fix = f"Use one of {known}."
        yield Problem(place / "key", Reason.NOT_IMPLEMENTED, str(error), fix)
        return
    if not when.values and not when.not_values:
        yield _invalid(place, f"The condition on {when.key} has neither values nor notValues.")
    yield from _value_problems(build, when.values, context, place / "values")
    yield from _value_problems(build, when.not_values, context, place / "notValues")


def _value_problems(
    build: Callable[[str, Context], object],
    values: Sequence[str],
    context: Context,
    place: FieldPath,
) -> Iterator[Problem]:
    for index, value in enumerate(values):
        try:
            build(value, context)
        except ValueError as error:
            yield _invalid(place / index, str(error))


def _custom_problems(spec: AuthorizationPolicySpec) -> Iterator[Problem]:
    """Yield what an authorizer cannot be asked by: it is asked before any token is looked at."""
    if spec.provider is None or not spec.provider.name:
        yield _invalid(
            SPEC / "provider" / "name",
            "The action CUSTOM needs to say which authorizer decides.",
            "Name an extension provider of the mesh configuration; until then nothing passes.",
        )
    for index, rule in enumerate(spec.rules):
        place = SPEC / "rules" / index
        for number, part in enumerate(rule.from_):
            at = place / "from" / number / "source"
            if part.source.request_principals:
                yield _needs_token(at / "requestPrincipals")
            if part.source.not_request_principals:
                yield _needs_token(at / "notRequestPrincipals")
        for number, when in enumerate(rule.when):
            if speaks_of_token(when.key):
                yield _needs_token(place / "when" / number / "key")


def _needs_token(place: FieldPath) -> Problem:
    return _invalid(
        place,
        "The action CUSTOM comes before tokens are checked, so a rule of it cannot ask for one.",
        "Ask for the token in an ALLOW or DENY policy; until then nothing passes.",
    )


def _unknown_action(action: str) -> Problem:
    known = ", ".join(ACTIONS)
    return Problem(
        field=SPEC / "action",
        reason=Reason.NOT_IMPLEMENTED,
        message=f"The action {action!r} is not one of {known}.",
        fix=f"Use one of {known}.",
    )


def _invalid(
    place: FieldPath, message: str, fix: str = "Correct the value; until then nothing passes."
) -> Problem:
    return Problem(field=place, reason=Reason.INVALID, message=message, fix=fix)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
