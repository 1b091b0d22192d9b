"""The APIRule controller: makes the cluster match each APIRule, one pass per name.

What to write is decided by ``translate`` and ``plan``; here it is carried out, in their order, and
the outcome is told in the status and in Events. A change takes several passes: what the proxies
have to take in before the next step may follow is told by the status of the objects, and each such
status brings the next pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime

import anyio
import msgspec
import structlog
from anyio.abc import TaskStatus

from apirule.apis import core, networking, scheme
from apirule.apis.gateway import v2
from apirule.apis.meta import Object, ObjectRef, Resource
from apirule.controllers import triggers
from apirule.controllers.cluster import Cluster, mesh_config
from apirule.controllers.openings import Openings
from apirule.controllers.owned import Claims, Owned, is_route
from apirule.controllers.reporter import Reporter
from apirule.controllers.triggers import Triggers
from apirule.kube.ahead import Ahead
from apirule.kube.client import Client
from apirule.kube.controller import DONE, Controller, ControllerMetrics, Result, Source
from apirule.kube.errors import ApiError, Conflict, NoKindMatch, NotFound, Unreachable
from apirule.kube.events import EventRecorder
from apirule.kube.informer import Delta, Informers, name_of
from apirule.names import ObjectName
from apirule.problem import ROOT, Problem, Reason
from apirule.translate import Outcome, translate
from apirule.translate.plan import Change, Create, Plan, Update, farewell, plan, removal
from apirule.translate.status import (
    NOT_REPORTED,
    Enforcement,
    Failure,
    State,
    Verdict,
    enforcement,
    failed_lookup,
    is_served,
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

HOST_AGAIN_S = 5.0
"""When to look again whether a host is free: a claim that is given back is told by no watch."""

SETTLING_S = 10.0
"""How long guards that are not needed any more stay where the engine does not say what it has."""


class _Memory(msgspec.Struct):
    """What is kept of a rule between two passes. All of it may be lost."""

    resources: tuple[Resource, ...] | None = None
    """What the rule asked for when it was last valid."""
    patient_until: float = 0.0
    written_at: float = 0.0


class _Work(msgspec.Struct):
    """What one pass finds, and makes of it."""

    objects: dict[ObjectRef, Object] = msgspec.field(default_factory=dict)
    """Of the rule, as they are after the changes so far."""
    changed: bool = False
    leaving: bool = False

    def learn(self, objects: Iterable[Object], *, apart: Sequence[Object] = ()) -> None:
        found = {ObjectRef.of(obj): obj for obj in objects}
        left_alone = {ObjectRef.of(obj) for obj in apart}
        self.objects = {ref: obj for ref, obj in found.items() if ref not in left_alone}

    def note(self, change: Change, written: Object | None) -> None:
        self.changed = True
        if written is None:
            self.objects.pop(change.ref, None)
        else:
            self.objects[change.ref] = written


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
        settling_s: float = SETTLING_S,
        metrics: ControllerMetrics | None = None,
    ) -> None:
        """``engine_reports``: the engine says on its objects what its proxies have (ours does)."""
        self._client = client
        self._now = now
        self._engine_reports = engine_reports
        self._resync_s = resync_s
        self._settling_s = settling_s
        self._cluster = Cluster(informers, space_delimited_claims=space_delimited_claims)
        self.facts = self._cluster.facts
        self._claims = Claims(self._cluster.claim)
        self._rules = informers.of(v2.APIRule.gvk)
        self._rules_ahead = Ahead(self._rules)
        events = EventRecorder(client, "apirule-controller", now=now)
        self._reporter = Reporter(client, self._rules_ahead, events)
        self._owned = Owned(client, informers)
        self._memories: dict[ObjectName, _Memory] = {}
        services = informers.of(core.Service.gvk)
        triggers.add_rule_indexes(self._rules)
        services.add_index(triggers.NAMESPACE, triggers.namespace_index)
        concerned = Triggers(self._rules, services)
        policies = self._owned.policies
        self._openings = Openings(self._rules, policies, reports=engine_reports)
        owners_of = triggers.owner_of_change(reports=engine_reports)

        def owners(delta: Delta) -> Iterable[ObjectName]:
            return owners_of(delta) if self._owned.is_news(delta) else ()

        self._sources = [
            Source(self._rules, self._of_rule),
            Source(informers.of(networking.Gateway.gvk), concerned.of_gateway),
            Source(services, concerned.of_service),
            Source(mesh_config(informers), concerned.of_mesh_config),
            Source(informers.of(core.Pod.gvk), concerned.of_pod),
            Source(informers.of(core.Namespace.gvk), concerned.of_namespace),
            Source(informers.of(networking.VirtualService.gvk), concerned.of_routes),
            *(Source(informer, owners) for informer in self._owned.informers),
            Source(policies, concerned.of_guards),
            Source(policies, self._openings.concerned),
        ]
        for informer in {source.informer for source in self._sources}:
            informer.on_state_change(self._look_at_all)
        self._controller = Controller(
            "apirule",
            self.reconcile,
            self._sources,
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
        if obj is None or obj["metadata"].get("deletionTimestamp"):
            self._memories.pop(name, None)
            self._reporter.forget(name)
            self._claims.release(name)
            if obj is not None:
                await self._clean_up(name, obj)
            return DONE
        rule, broken = _read(obj)
        if (crd := self._owned.missing) is not None:
            await self._reporter.report(obj, rule, missing_dependency(rule, crd, now=self._now()))
            return Result(requeue_after_s=self._resync_s)
        if (error := self._unreadable()) is not None:
            await self._reporter.report(obj, rule, failed_lookup(rule, str(error), now=self._now()))
            raise error
        return await self._apply(name, obj, rule, broken)

    # ── making it so ─────────────────────────────────────────────────────────────────────────

    async def _apply(
        self, name: ObjectName, obj: Object, rule: v2.APIRule, broken: Outcome | None
    ) -> Result:
        memory = self._memories.setdefault(name, _Memory())
        work = _Work()
        enforced = NOT_REPORTED
        failed: ApiError | None = None
        failures: list[Failure] = []
        outcome = broken
        try:
            obj = await self._with_finalizer(name, obj)
            # From here to the claim of its hosts nothing may wait: of two rules that want the same
            # one, the second has to see the first.
            outcome = broken or translate(rule, self._cluster.facts())
            enforced = await self._carry_out(name, outcome, memory, work)
        except (Conflict, Unreachable, NotFound):
            # None of them says anything about the rule: look again, or wait for the server.
            raise
        except _Refused as refused:
            failed = refused.error
            failures.append(Failure(_blamed(refused.change), str(refused.error)))
        except ApiError as error:
            failed = error
            failures.append(Failure("ApiRule", str(error)))
        status = status_of(
            rule,
            outcome or translate(rule, self._cluster.facts()),
            enforced,
            now=self._now(),
            failures=failures,
            served=is_served(list(work.objects.values())),
        )
        now = anyio.current_time()
        if work.changed:
            memory.written_at, memory.patient_until = now, now + PATIENCE_S
        if status.state == State.PROCESSING and now < memory.patient_until:
            return Result(requeue_after_s=memory.patient_until - now)
        await self._reporter.report(obj, rule, status)
        if failed is not None:
            raise failed
        settles_at = memory.written_at + self._settling_s
        if work.leaving and not self._engine_reports and now < settles_at:
            return Result(requeue_after_s=settles_at - now)
        is_late = any(p.reason is Reason.HOST_TAKEN for p in outcome.problems) if outcome else False
        return Result(requeue_after_s=HOST_AGAIN_S if is_late else self._resync_s)

    async def _carry_out(
        self, name: ObjectName, outcome: Outcome, memory: _Memory, work: _Work
    ) -> Enforcement:
        """Do what can be done now; return how far it is."""
        resources, steps = await self._planned(name, outcome, memory, work)
        work.leaving = bool(steps.leaving)
        await self._perform(name, steps.guards, work)
        opening = self._openings.of(name, resources)
        if opening is None:
            try:
                await self._perform(name, steps.routes, work)
            except BaseException:
                self._claims.release(name)
                raise
            self._claims.keep(name)
        enforced = self._enforced(work)
        if opening is None and self._may_leave(enforced, memory, work):
            await self._perform(name, farewell(steps.leaving), work)
            enforced = self._enforced(work)
        return enforced if enforced.refusals else opening or enforced

    async def _planned(
        self, name: ObjectName, outcome: Outcome, memory: _Memory, work: _Work
    ) -> tuple[tuple[Resource, ...], Plan]:
        """Return what there shall be, and the steps to it; ``work`` learns what there is.

        A rule with errors keeps what it had when it was valid, so that nobody opens it by hand
        meanwhile. If nothing routes to it any more, nothing of it is left.
        """
        if outcome.resources is not None:
            memory.resources = outcome.resources
        else:
            self._claims.release(name)
        resources = memory.resources or ()
        found = self._owned.known(name, resources)
        if outcome.resources is None and not any(map(is_route, found)):
            resources = ()
        elif memory.resources is None:
            work.learn(found)
            return (), Plan()  # in error since before we started: it stays as it is
        steps = plan(resources, found)
        self._claims.take(name, steps.routes)
        if _opens_behind_known_guards(steps, found):
            # The cache may still show guards whose deletion it has not been told: those of a rule
            # of the same name, gone a moment ago. The route must not be made on their account.
            found = await self._owned.live(name, resources)
            steps = plan(resources, found)
        work.learn(found, apart=steps.apart)
        return resources, steps

    def _enforced(self, work: _Work) -> Enforcement:
        return enforcement(list(work.objects.values())) if self._engine_reports else NOT_REPORTED

    def _may_leave(self, enforced: Enforcement, memory: _Memory, work: _Work) -> bool:
        """Whether everything that takes the place of what leaves is in force by now."""
        if self._engine_reports:
            return enforced.verdict is Verdict.TRUE
        settled_at = memory.written_at + self._settling_s
        return not work.changed and anyio.current_time() >= settled_at

    async def _perform(self, name: ObjectName, changes: Sequence[Change], work: _Work) -> None:
        """Carry out changes in their order; the first failure ends it, so no guard is skipped."""
        for change in changes:
            try:
                work.note(change, await self._owned.write(change))
            except (Conflict, Unreachable, NoKindMatch):
                raise
            except ApiError as error:
                raise _Refused(change, error) from error
            log.info("change applied", rule=str(name), change=str(change))

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
        for change in removal(await self._owned.live(name)):
            await self._owned.write(change)
            log.info("change applied", rule=str(name), change=str(change))
        try:
            rest = [one for one in finalizers if one != FINALIZER]
            await self._set_finalizers(name, obj, rest)
        except NotFound:
            log.debug("already deleted", kind="APIRule", name=str(name))

    # ── what wakes it ───────────────────────────────────────────────────────────────────────

    def _of_rule(self, delta: Delta) -> Iterator[ObjectName]:
        """Yield the rule, but not for what we have written ourselves into its status."""
        obj = delta.current
        if triggers.is_more_than_status(delta) or not self._reporter.wrote(_read(obj)[0]):
            yield name_of(obj)

    def _unreadable(self) -> ApiError | None:
        errors = (source.informer.unreadable for source in self._sources)
        return next((error for error in errors if error is not None), None)

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


def _opens_behind_known_guards(steps: Plan, found: Sequence[Object]) -> bool:
    """Whether a route is made anew while guards are believed to be there."""
    makes = any(isinstance(change, Create) for change in steps.routes)
    return makes and not all(map(is_route, found))


def _blamed(change: Change) -> str:
    """Return the kind that the description names, where the Kyma operator would know it."""
    kind = change.ref.kind
    unknown = isinstance(change, Create) or (
        isinstance(change, Update) and kind == "AuthorizationPolicy"
    )
    return "ApiRule" if unknown else kind
