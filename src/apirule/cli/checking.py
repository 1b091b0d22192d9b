"""Everything the API server, and then the controller, would say of an object. Pure.

One mistake hides no other: what a wrong field does not concern is still looked at.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from apirule import providers, schema
from apirule.apis import scheme
from apirule.apis.gateway import v2
from apirule.apis.meta import GroupVersionKind, Object, ObjectRef
from apirule.cli import slips
from apirule.facts import Facts
from apirule.problem import SPEC, FieldPath, Problem, Reason, Severity
from apirule.schema.metadata import check_metadata
from apirule.validate import validate

if TYPE_CHECKING:
    from apirule.mesh.config import MeshSettings

CRD = GroupVersionKind("apiextensions.k8s.io", "v1", "CustomResourceDefinition")
DEFAULT_GATEWAY = "kyma-system/kyma-gateway"
SWAPPED_DEFAULT = "kyma-gateway/kyma-system"
RUN_NOWHERE = ("Job", "CronJob", "StatefulSet", "DaemonSet", "ReplicationController")
"""Kinds that run programs in a cluster."""

NOT_CHECKED = FieldPath("<nil>")
"""Where an API server says that it left rules out; here they are not."""
_BREAKING = (Reason.TYPE_INVALID, Reason.REQUIRED)
"""What keeps an object from being read."""
_SAMPLES = {"integer": 1, "number": 1, "string": "x", "boolean": True, "array": [], "object": {}}

Kinds = Mapping[GroupVersionKind, schema.KindInfo]


def served(objects: Iterable[Object] = ()) -> Kinds:
    """Return the kinds that apirule serves, and those of the CRDs among the objects."""
    kinds = [*schema.builtin_kinds()]
    for crd in schema.bundled_crds():
        kinds += schema.from_crd(crd)
    known = {kind.gvk: kind for kind in kinds}
    for obj in objects:
        if GroupVersionKind.of(obj) == CRD:
            admitted = schema.admit(obj, known[CRD])
            if not admitted.problems and not schema.check_crd(admitted.object):
                found = schema.from_crd(admitted.object)
                known |= {kind.gvk: kind for kind in found if kind.served}
    return known


def with_namespace(obj: Object, namespace: str, kinds: Kinds) -> Object:
    """Return an object of a namespaced kind with the namespace that it does not name."""
    kind, meta = kinds.get(GroupVersionKind.of(obj)), obj.get("metadata")
    if kind is None or not kind.namespaced or not isinstance(meta, dict) or meta.get("namespace"):
        return obj
    return {**obj, "metadata": {**meta, "namespace": namespace}}


def problems(
    obj: Object,
    facts: Facts | None,
    kinds: Kinds,
    *,
    foreign: Severity = Severity.ERROR,
    mesh: MeshSettings | None = None,
) -> Iterator[Problem]:
    """Yield all problems of an object. Without facts, what depends on other objects is left out.

    ``foreign`` is how bad it is to be of a kind that is neither served nor one of ours. ``mesh``
    lets objects of Istio be looked at as the engine will.
    """
    gvk = GroupVersionKind.of(obj)
    kind = kinds.get(gvk)
    if kind is None:
        problem = unserved(gvk, kinds)
        yield (
            problem if gvk.group == v2.GROUP else msgspec.structs.replace(problem, severity=foreign)
        )
        return
    admission = schema.admit(obj, kind)
    wrong = [p for p in admission.problems if p.field != NOT_CHECKED]
    broken = [problem.field for problem in wrong if problem.reason in _BREAKING]
    if len(wrong) < len(admission.problems):
        rest = _without(admission.object, broken)
        wrong += [p for p in kind.schema.rules.evaluate(rest, None) if not _concerns(p, wrong)]
    for text in admission.unknown_fields:
        at = FieldPath.parse(text)
        yield Problem(at, Reason.UNKNOWN_FIELD, f'unknown field "{text}"', "Remove or mend it.")
    yield from (slips.mended(problem, _value(obj, problem.field)) for problem in wrong)
    if not any(_is_within(problem.field, FieldPath("metadata")) for problem in wrong):
        yield from _of_metadata(obj, kind)
    if (gvk.group, gvk.kind) == (v2.GROUP, "APIRule"):
        whole = _completed(admission.object, broken, kind.schema.openapi)
        # What was put in for a name would be looked for.
        names = any(isinstance(_value(whole, at), str) for at in broken)
        yield from _of_rule(whole, wrong, None if names else facts)
    elif mesh is not None and _is_for_the_engine(obj):
        yield from _of_engine(admission.object, wrong, mesh)


def unserved(gvk: GroupVersionKind, kinds: Kinds) -> Problem:
    """Say what is wrong with a kind or a version that is not served."""
    versions = sorted(
        kind.version for kind in kinds.values() if (kind.group, kind.kind) == (gvk.group, gvk.kind)
    )
    message = f"no kind {gvk.kind} in {gvk.api_version or 'no group'} is served"
    if gvk.group == v2.GROUP and versions:
        fix = (
            f"Write apiVersion: {v2.GROUP}/v2, with `hosts: [HOST]` for `host`; with `jwt`, "
            "`noAuth` or `extAuth` for `accessStrategies`, issuer and jwksUri for `jwks_urls`; "
            "and with path: /* for /.*"
        )
    elif gvk.group == v2.GROUP:
        fix = f"Write kind: APIRule, of apiVersion: {v2.GROUP}/v2."
    elif gvk.kind in RUN_NOWHERE:
        message = f"no {gvk.kind} runs here, only Deployments and Pods"
        fix = "Write a Deployment, or a Pod for something that ends."
    elif versions:
        fix = f"Write apiVersion: {'/'.join(filter(None, (gvk.group, versions[-1])))}."
    else:
        fix = "Apply its CustomResourceDefinition first, if it has one."
    if versions:
        served_are = " and ".join(versions)
        message = f"version {gvk.version} of {gvk.kind} is not served, only {served_are}"
    at = FieldPath("apiVersion" if versions else "kind")
    return Problem(at, Reason.NOT_SUPPORTED, message, fix)


def decoded_rule(obj: Object) -> v2.APIRule | Problem:
    """Return the typed form of an APIRule, or what does not fit it."""
    try:
        return scheme.decode(obj, v2.APIRule)
    except msgspec.ValidationError as error:
        return scheme.misfit(error)


def _of_metadata(obj: Object, kind: schema.KindInfo) -> Iterator[Problem]:
    meta = obj.get("metadata") or {}
    if meta.get("generateName") and not meta.get("name"):
        meta = {**meta, "name": f"{meta['generateName']}x"}
    yield from check_metadata({**obj, "metadata": meta}, kind.resource)


def _of_rule(obj: Object, wrong: list[Problem], facts: Facts | None) -> Iterator[Problem]:
    """Yield what the controller would say, of the fields that the schema has nothing against."""
    rule = decoded_rule(obj)
    if isinstance(rule, Problem):
        if not wrong:
            yield rule
        return
    if facts is None and rule.spec.gateway == SWAPPED_DEFAULT:
        # Without an instance nobody knows which Gateways there are, but for this one.
        yield Problem(
            SPEC / "gateway",
            Reason.MISLEADING,
            f"{SWAPPED_DEFAULT} looks swapped",
            f"Write the namespace first: {DEFAULT_GATEWAY}.",
            Severity.WARNING,
        )
    for problem in validate(rule, facts):
        if not any(_says_the_same(problem, known) for known in wrong):
            yield problem


def _is_for_the_engine(obj: Object) -> bool:
    ref = ObjectRef.of(obj)
    is_mesh_config = ref.kind == "ConfigMap" and ref.object_name == providers.CONFIG_MAP
    return is_mesh_config or ref.group.endswith(".istio.io")


def _of_engine(obj: Object, wrong: list[Problem], mesh: MeshSettings) -> Iterator[Problem]:
    """Yield what the API server would remark."""
    from apirule.mesh import soundness  # the types of Envoy take their time

    if wrong and ObjectRef.of(obj).kind == "ConfigMap":
        return  # there is no text to read
    for problem in soundness.problems_as_written(obj, mesh):
        if not _concerns(problem, wrong):
            yield problem


def _concerns(problem: Problem, known: list[Problem]) -> bool:
    """Whether a problem is about something that is known to be wrong, inside or around it."""
    at = problem.field
    return any(_is_within(at, one.field) or _is_within(one.field, at) for one in known)


def _says_the_same(problem: Problem, known: Problem) -> bool:
    """Whether a problem is about a field that is known to be wrong, or missing for that reason."""
    if _is_within(problem.field, known.field):
        return True
    return problem.reason is Reason.REQUIRED and _is_within(known.field, problem.field)


def _is_within(at: FieldPath, other: FieldPath) -> bool:
    return at.parts[: len(other.parts)] == other.parts


def _value(obj: Any, at: FieldPath) -> Any:
    """Return what stands at a place; None: nothing does."""
    for part in at.parts:
        try:
            obj = obj[part]
        except (KeyError, IndexError, TypeError):
            return None
    return obj


def _completed(obj: Object, places: list[FieldPath], openapi: Mapping[str, Any]) -> Object:
    """Return the object with some value of the right type at the places, so that it can be read."""
    whole = copy.deepcopy(obj) if places else obj
    for at in places:
        form = openapi
        for part in at.parts:
            known = form.get("items") if isinstance(part, int) else None
            form = known or (form.get("properties") or {}).get(part) or {}
        holder = _value(whole, FieldPath(*at.parts[:-1]))
        if isinstance(holder, dict) or _value(whole, at) is not None:
            holder[at.parts[-1]] = copy.copy(_SAMPLES.get(str(form.get("type"))))
    return whole


def _without(obj: Object, places: list[FieldPath]) -> Object:
    """Return the object without what stands at the places; of lists the later items first."""
    left = copy.deepcopy(obj) if places else obj
    for at in sorted(
        places, key=lambda at: [str(part).zfill(9) for part in at.parts], reverse=True
    ):
        holder = _value(left, FieldPath(*at.parts[:-1]))
        if holder is not None and _value(left, at) is not None:
            del holder[at.parts[-1]]
    return left
