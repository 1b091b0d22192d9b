"""Leader election over a coordination.k8s.io Lease: one of several replicas does the work.

Other replicas' clocks are not believed: a lease counts as expired when *we* have not seen it
change for its duration. The resourceVersion is the lock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime

import anyio
import structlog
from anyio.abc import TaskStatus

from apirule.apis.meta import GroupVersionKind, Object
from apirule.kube.client import Client
from apirule.kube.errors import ApiError, Conflict, NotFound
from apirule.names import ObjectName

log = structlog.get_logger(__name__)

LEASE = GroupVersionKind("coordination.k8s.io", "v1", "Lease")


class LeaderElection:
    """Takes a lease, keeps it, and stops the work as soon as it cannot be kept."""

    def __init__(
        self,
        client: Client,
        name: ObjectName,
        identity: str,
        *,
        now: Callable[[], datetime],
        lease_duration_s: float = 15.0,
        renew_deadline_s: float = 10.0,
        retry_period_s: float = 2.0,
    ) -> None:
        if not retry_period_s < renew_deadline_s < lease_duration_s:
            raise ValueError("it must hold: retry period < renew deadline < lease duration")
        self._client = client
        self._name = name
        self._identity = identity
        self._now = now
        self._lease_duration_s = lease_duration_s
        self._renew_deadline_s = renew_deadline_s
        self._retry_period_s = retry_period_s
        self._seen: tuple[str, str] | None = None
        self._seen_at = 0.0
        self.leading = False

    async def run(
        self,
        work: Callable[[], Awaitable[None]],
        *,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Wait for the lease, then do ``work`` while we hold it. Returns when it was lost or done.

        Started: the election runs. A caller whose lease was lost should end its process.
        """
        task_status.started()
        while True:
            if await self._try():
                break
            await anyio.sleep(self._retry_period_s)
        log.info("leadership gained", name=str(self._name), identity=self._identity)
        self.leading = True
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep, tasks.cancel_scope)
                await work()
                tasks.cancel_scope.cancel()
        finally:
            self.leading = False
            with anyio.CancelScope(shield=True), anyio.move_on_after(self._retry_period_s):
                await self._release()

    async def _keep(self, work: anyio.CancelScope) -> None:
        renewed = anyio.current_time()
        while anyio.current_time() - renewed < self._renew_deadline_s:
            await anyio.sleep(self._retry_period_s)
            remaining = renewed + self._renew_deadline_s - anyio.current_time()
            with anyio.move_on_after(max(remaining, 0.0)):
                if await self._try():
                    renewed = anyio.current_time()
                elif self._held_by_other():
                    break
        log.error("leadership lost", name=str(self._name), identity=self._identity)
        work.cancel()

    async def _try(self) -> bool:
        """Take or renew the lease; False when somebody else has it or the server fails."""
        try:
            return await self._take_or_renew()
        except Conflict:
            return False
        except ApiError as error:
            log.warning("lease not written", name=str(self._name), error=str(error))
            return False

    async def _take_or_renew(self) -> bool:
        try:
            lease = await self._client.get(LEASE, self._name)
        except NotFound:
            lease = await self._client.create(self._new())
            self._observe(lease)
            return True
        self._observe(lease)
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder not in ("", self._identity) and not self._expired(spec):
            return False
        lease["spec"] = self._spec(spec, transition=holder != self._identity)
        self._observe(await self._client.update(lease))
        return True

    def _observe(self, lease: Object) -> None:
        spec = lease.get("spec") or {}
        seen = (str(spec.get("holderIdentity") or ""), str(spec.get("renewTime") or ""))
        if seen != self._seen:
            self._seen, self._seen_at = seen, anyio.current_time()

    def _held_by_other(self) -> bool:
        return self._seen is not None and self._seen[0] not in ("", self._identity)

    def _expired(self, spec: Object) -> bool:
        duration = float(spec.get("leaseDurationSeconds") or self._lease_duration_s)
        return anyio.current_time() - self._seen_at > duration

    def _new(self) -> Object:
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": {"namespace": self._name.namespace, "name": self._name.name},
            "spec": self._spec({}, transition=False) | {"leaseTransitions": 0},
        }

    def _spec(self, old: Object, *, transition: bool) -> Object:
        now = self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "holderIdentity": self._identity,
            # Whole seconds on the wire; rounded up, as too long is the safe side.
            "leaseDurationSeconds": max(1, -int(-self._lease_duration_s // 1)),
            "acquireTime": now if transition else old.get("acquireTime", now),
            "renewTime": now,
            "leaseTransitions": int(old.get("leaseTransitions") or 0) + transition,
        }

    async def _release(self) -> None:
        """Hand the lease back, so that the next replica need not wait for it to expire."""
        try:
            lease = await self._client.get(LEASE, self._name)
            if (lease.get("spec") or {}).get("holderIdentity") == self._identity:
                lease["spec"]["holderIdentity"] = ""
                await self._client.update(lease)
        except ApiError as error:
            log.warning("lease not released", name=str(self._name), error=str(error))
