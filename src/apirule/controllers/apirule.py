"""The APIRule controller: makes the cluster match each APIRule, one pass per name.

What to write is decided by ``translate`` and ``plan``; here it is carried out, in their order, and
the outcome is told in the status and in Events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import anyio
import msgspec
import structlog
from anyio.abc import TaskStatus

from apirule.apis import core, networking, scheme, security
from apirule.apis.gateway import v2
from apirule.apis.meta import Object, ObjectRef, Resource
from apirule.controllers import triggers
from apirule.controllers.cluster import Cluster, mesh_config
from apirule.controllers.openings import Openings
from apirule.controllers.triggers import OWNER, Triggers
from apirule.kube.ahead import Ahead
from apirule.kube.client import Client
from apirule.kube.controller import DONE, Controller, ControllerMetrics, Result, Source
from apirule.kube.errors import ApiError, Conflict, NoKindMatch, NotFound, Unreachable
from apirule.kube.events import EventRecorder
from apirule.kube.informer import Informers, name_of
from apirule.names import ObjectName
from apirule.ownership import selectors
from apirule.problem import ROOT, Problem, Reason
from apirule.translate import Outcome, translate
from apirule.translate.plan import Change, Create, Delete, Update, owned, plan
from apirule.translate.status import (
    NOT_REPORTED,
    Failure,
    State,
    enforcement,
    missing_dependency,
    status_of,
)

log = structlog.get_logger(__name__)

FINALIZER = "gateway.kyma-project.io/subresources"
RESYNC_S = 30 * 60.0
"""Changes are watched; this only finds what no watch tells, as the peer does."""

PATIENCE_S = 0.04
"""How long the proxies have before the status says that they are waited for.

Mostly they need less, and then it is one write instead of two. Shorter than any client takes to
come back and read the status of what it has changed.
"""

OWNED: dict[str, type[Resource]] = {
    "virtualservices.networking.istio.io": networking.VirtualService,
    "authorizationpolicies.security.istio.io": security.AuthorizationPolicy,
    "requestauthentications.security.istio.io": security.RequestAuthentication,
}
"""What we write, by the name of its CRD; in the order in which a missing one is reported."""


class APIRuleController:
    """Hand ``informers`` the same set that other controllers use; run it beside them."""

    def __init__(
        self,
        client: Client,
        informers: Informers,
        *,
        now: Callable[[], datetime],
        engine_reports: bool = True,
        space_delimited_claims: bool = True,
        workers: int = 4,
        base_delay_s: float = 1.0,
        max_delay_s: float = 1000.0,
        resync_s: float = RESYNC_S,
        metrics: ControllerMetrics | None = None,
    ) -> None:
        """``engine_reports``: the engine says on its objects what its proxies have (ours does)."""
        self._client = client
        self._now = now
        self._engine_reports = engine_reports
        self._resync_s = resync_s
        self._events = EventRecorder(client, "apirule-controller", now=now)
        self._cluster = Cluster(informers, space_delimited_claims=space_delimited_claims)
        self._rules = informers.of(v2.APIRule.gvk)
        self._rules_ahead = Ahead(self._rules)
        self._owned = {crd: informers.of(kind.gvk) for crd, kind in OWNED.items()}
        self._ahead = {informer.gvk.kind: Ahead(informer) for informer in self._owned.values()}
        self._patient_until: dict[ObjectName, float] = {}
        services = informers.of(core.Service.gvk)
        triggers.add_rule_indexes(self._rules)
        services.add_index(triggers.NAMESPACE, triggers.namespace_index)
        concerned = Triggers(self._rules, services)
        policies = informers.of(security.AuthorizationPolicy.gvk)
        self._openings = Openings(self._rules, policies)
        owners = triggers.owner_of_change(reports=engine_reports)
        for informer in self._owned.values():
            informer.add_index(OWNER, triggers.owner_index)
            informer.on_state_change(self._look_at_all)
        self._controller = Controller(
            "apirule",
            self.reconcile,
            [
                Source(self._rules, triggers.rule_itself),
                Source(informers.of(networking.Gateway.gvk), concerned.of_gateway),
                Source(services, concerned.of_service),
                Source(mesh_config(informers), concerned.of_mesh_config),
                Source(informers.of(core.Pod.gvk), concerned.of_pod),
                Source(informers.of(core.Namespace.gvk), concerned.of_namespace),
                Source(informers.of(networking.VirtualService.gvk), concerned.of_routes),
                *(Source(informer, owners) for informer in self._owned.values()),
                Source(policies, self._openings.concerned),
            ],
            workers=workers,
            base_delay_s=base_delay_s,
            max_delay_s=max_delay_s,
            metrics=metrics,
        )

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Reconcile for ever. The informers must be run by somebody else."""
        await self._controller.run(task_status=task_status)

    async def reconcile(self, name: ObjectName) -> Result:
        """Make the cluster match one rule. Raises ApiError; the work queue comes back."""
        obj = self._rules_ahead.get(name)
        if obj is None:
            self._patient_until.pop(name, None)
            return DONE
        if obj["metadata"].get("deletionTimestamp"):
            await self._clean_up(name, obj)
            return DONE
        missing = next((crd for crd, one in self._owned.items() if one.missing), None)
        if missing is not None:
            rule = _read(obj)[0]
            await self._report(obj, rule, missing_dependency(rule, missing, now=self._now()))
            return Result(requeue_after_s=self._resync_s)
        obj = await self._with_finalizer(name, obj)
        return await self._apply(name, obj)

    # ── making it so ─────────────────────────────────────────────────────────────────────────

    async def _apply(self, name: ObjectName, obj: Object) -> Result:
        rule, broken = _read(obj)
        outcome = broken or translate(rule, self._cluster.facts())
        actual = owned(self._known(name, outcome), name, outcome.resources or ())
        # What exists stays as it is while the rule has errors.
        changes = plan(outcome.resources, actual) if outcome.resources is not None else ()
        if outcome.resources is not None and _opens_behind_known_guards(changes, actual):
            # The cache may still show guards whose deletion it has not been told: those of a rule
            # of the same name, gone a moment ago. The route must not be made on their account.
            actual = owned(await self._live(name), name, outcome.resources)
            changes = plan(outcome.resources, actual)
        result = {ObjectRef.of(one): one for one in actual}
        failures: list[Failure] = []
        failed: ApiError | None = None
        try:
            await self._perform(name, changes, result)
        except (Conflict, Unreachable):
            # Neither says anything about the rule: look again, or wait for the server.
            raise
        except _Refused as refused:
            failed = refused.error
            failures.append(Failure(_blamed(refused.change), str(refused.error)))
        enforced = NOT_REPORTED
        if self._engine_reports:
            enforced = enforcement(list(result.values()))
        if not enforced.refusals:
            enforced = self._openings.of(name, outcome.resources or ()) or enforced
        status = status_of(rule, outcome, enforced, now=self._now(), failures=failures)
        if changes:
            self._patient_until[name] = anyio.current_time() + PATIENCE_S
        left_s = self._patient_until.get(name, 0.0) - anyio.current_time()
        if status.state == State.PROCESSING and left_s > 0:
            return Result(requeue_after_s=left_s)
        self._patient_until.pop(name, None)
        await self._report(obj, rule, status)
        if failed is not None:
            raise failed
        return Result(requeue_after_s=self._resync_s)

    async def _perform(
        self, name: ObjectName, changes: Sequence[Change], result: dict[ObjectRef, Object]
    ) -> None:
        """Carry out changes in their order; the first failure ends it, so no guard is skipped."""
        give_back = self._claim_hosts(changes)
        for index, change in enumerate(changes):
            try:
                await self._write(change, result)
            except ApiError as error:
                if not any(_is_route(done) for done in changes[:index]):
                    give_back()
                if isinstance(error, Conflict | Unreachable):
                    raise
                raise _Refused(change, error) from error
            log.info("change applied", rule=str(name), change=str(change))

    async def _write(self, change: Change, result: dict[ObjectRef, Object]) -> None:
        ahead, name = self._ahead[change.ref.kind], change.ref.object_name
        match change:
            case Create(obj):
                result[change.ref] = await self._client.create(obj)
                ahead.wrote(name, None, result[change.ref])
            case Update(obj):
                try:
                    result[change.ref] = await self._client.update(obj)
                except NotFound as error:
                    # Deleted since we read it; the next pass creates it anew.
                    raise Conflict(error.status, error.message) from error
                ahead.wrote(name, obj, result[change.ref])
            case Delete(obj):
                await self._delete(obj)
                result.pop(change.ref, None)
                ahead.wrote(name, obj, None)

    async def _delete(self, obj: Object) -> None:
        kind = next(one for one in OWNED.values() if one.gvk.kind == obj["kind"])
        ref = ObjectRef.of(obj)
        try:
            await self._client.delete(kind.gvk, ref.object_name, uid=obj["metadata"]["uid"])
        except NotFound:
            log.debug("already deleted", kind=ref.kind, name=str(ref.object_name))

    def _claim_hosts(self, changes: Sequence[Change]) -> Callable[[], None]:
        claims = [self._cluster.claim(change.object) for change in changes if _is_route(change)]

        def give_back() -> None:
            for claim in claims:
                claim()

        return give_back

    def _known(self, name: ObjectName, outcome: Outcome) -> list[Object]:
        """Return what may belong to a rule: by its labels, and by the names it would have."""
        known: list[Object] = []
        for informer in self._owned.values():
            labelled = [name_of(one) for one in informer.by_index(OWNER, str(name))]
            derived = [r.object_name for r in outcome.resources or () if r.gvk == informer.gvk]
            ahead = self._ahead[informer.gvk.kind]
            found = (ahead.get(one) for one in dict.fromkeys(labelled + derived))
            known += [one for one in found if one is not None]
        return known

    async def _with_finalizer(self, name: ObjectName, obj: Object) -> Object:
        """Make sure that we get to clean up, before there is anything to clean up."""
        finalizers = obj["metadata"].get("finalizers") or []
        if FINALIZER in finalizers:
            return obj
        written = await self._set_finalizers(name, obj, [*finalizers, FINALIZER])
        self._rules_ahead.wrote(name, obj, written)
        return written

    async def _set_finalizers(self, name: ObjectName, obj: Object, names: list[str]) -> Object:
        version = obj["metadata"]["resourceVersion"]
        patch = {"metadata": {"finalizers": names, "resourceVersion": version}}
        return await self._client.patch(v2.APIRule.gvk, name, patch)

    # ── taking it away ───────────────────────────────────────────────────────────────────────

    async def _clean_up(self, name: ObjectName, obj: Object) -> None:
        finalizers = obj["metadata"].get("finalizers") or []
        if FINALIZER not in finalizers:
            return
        for change in plan((), owned(await self._live(name), name)):
            await self._delete(change.object)
            log.info("change applied", rule=str(name), change=str(change))
        try:
            rest = [one for one in finalizers if one != FINALIZER]
            await self._set_finalizers(name, obj, rest)
        except NotFound:
            log.debug("already deleted", kind="APIRule", name=str(name))

    async def _live(self, name: ObjectName) -> list[Object]:
        """Ask the server, not the cache: what we wrote a moment ago must not be left behind."""
        found: dict[ObjectRef, Object] = {}
        for kind in OWNED.values():
            for selector in selectors(name):
                try:
                    listing = await self._client.list(kind.gvk, label_selector=selector)
                except NoKindMatch:
                    break
                found |= {ObjectRef.of(one): one for one in listing.items}
        return list(found.values())

    # ── telling it ───────────────────────────────────────────────────────────────────────────

    async def _report(self, obj: Object, rule: v2.APIRule, status: v2.APIRuleStatus) -> None:
        """Write the status if it says anything new; the time alone is nothing new."""
        before = rule.status
        same_time = msgspec.structs.replace(status, last_processed_time=before.last_processed_time)
        if same_time == before:
            return
        body: Any = msgspec.to_builtins(status)
        version = obj["metadata"]["resourceVersion"]
        patch = {"metadata": {"resourceVersion": version}, "status": body}
        name = rule.object_name
        written = await self._client.patch(v2.APIRule.gvk, name, patch, subresource="status")
        self._rules_ahead.wrote(name, obj, written)
        log.info("status changed", rule=str(rule.object_name), state=status.state)
        if (status.state, status.description) != (before.state, before.description):
            await self._tell(obj, status)

    async def _tell(self, obj: Object, status: v2.APIRuleStatus) -> None:
        match status.state:
            case State.READY:
                await self._events.normal(obj, "Reconciled", status.description)
            case State.WARNING | State.ERROR:
                reasons = {one.type: one.reason for one in status.conditions}
                await self._events.warning(obj, reasons["Enforced"], status.description)
            case _:
                log.debug("no event", rule=str(name_of(obj)), state=status.state)

    def _look_at_all(self) -> None:
        for rule in self._rules:
            self._controller.queue.add(name_of(rule))


class _Refused(Exception):  # noqa: N818  # never leaves this module
    """A change that the server refused."""

    def __init__(self, change: Change, error: ApiError) -> None:
        super().__init__(str(error))
        self.change = change
        self.error = error


def _read(obj: Object) -> tuple[v2.APIRule, Outcome | None]:
    """Decode a rule. One that has another shape than ours keeps its metadata and gets a problem."""
    try:
        return scheme.decode(obj, v2.APIRule), None
    except msgspec.ValidationError as error:
        meta = {key: obj["metadata"].get(key) for key in ("namespace", "name", "generation")}
        bare = scheme.decode({"metadata": meta}, v2.APIRule)
        problem = Problem(
            ROOT, Reason.TYPE_INVALID, str(error), "Give the field the type that the CRD says."
        )
        return bare, Outcome(None, (problem,))


def _opens_behind_known_guards(changes: Sequence[Change], actual: Sequence[Object]) -> bool:
    """Whether a route is made anew while guards are believed to be there."""
    makes = any(isinstance(change, Create) and _is_route(change) for change in changes)
    return makes and any(obj["kind"] != networking.VirtualService.gvk.kind for obj in actual)


def _is_route(change: Change) -> bool:
    return not isinstance(change, Delete) and change.ref.kind == "VirtualService"


def _blamed(change: Change) -> str:
    """Return the kind that the description names, where the Kyma operator would know it."""
    kind = change.ref.kind
    unknown = isinstance(change, Create) or (
        isinstance(change, Update) and kind == "AuthorizationPolicy"
    )
    return "ApiRule" if unknown else kind
