"""Composition: everything of one machine in one process, wired together and started in order.

The supervisor runs this as its first child, and again when it dies. Envoys and workloads are the
supervisor's children too, so they go on meanwhile; all state is in the state folder.
"""

from __future__ import annotations

import base64
import gc
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import anyio
import structlog
import yaml
from anyio.abc import TaskGroup, TaskStatus
from prometheus_client import CollectorRegistry

from apirule import logs
from apirule.apis import core
from apirule.apis.gateway import v2
from apirule.apis.meta import GroupVersionKind, Object, ObjectRef
from apirule.apis.operator import APIGateway
from apirule.apis.security import RequestAuthentication
from apirule.controllers.apigateway import APIGatewayController
from apirule.controllers.apirule import APIRuleController
from apirule.controllers.authorizers import AuthorizerController
from apirule.controllers.keysets import KeySetController, named_in
from apirule.controllers.ratelimit import RateLimitController
from apirule.jwks import KeySetFetcher
from apirule.kube.client import Client
from apirule.kube.config import KubeConfig
from apirule.kube.controller import ControllerMetrics
from apirule.kube.errors import AlreadyExists
from apirule.kube.informer import Informer, Informers, name_of
from apirule.local import istio_admission, readiness, system
from apirule.local.apiserver.app import ApiServer
from apirule.local.apiserver.serving import TlsFiles, serve
from apirule.local.ca import CertificateAuthority
from apirule.local.issuer.app import Issuer
from apirule.local.issuer.serving import serve_issuer
from apirule.local.mesh_settings import mesh_settings
from apirule.local.processes import injector
from apirule.local.processes.client import SupervisorClient
from apirule.local.processes.containers import PodLogs
from apirule.local.processes.kubelet import Kubelet
from apirule.local.processes.pod_status import is_ready
from apirule.local.processes.sessions import Sessions
from apirule.local.rule_admission import RuleAdmission
from apirule.local.store import Store
from apirule.local.workloads.deployment import Deployments
from apirule.local.workloads.endpoints import EndpointSlices
from apirule.local.workloads.replicaset import ReplicaSets
from apirule.local.xds.accesslog import DenialLog
from apirule.local.xds.engine import Engine
from apirule.local.xds.server import XdsServer
from apirule.names import ObjectName
from apirule.problem import SetupError
from apirule.schema import bundled_crds
from apirule.settings import Settings, StateFolder

log = structlog.get_logger()

DEPLOYMENT = GroupVersionKind("apps", "v1", "Deployment")
CONTEXT = "apirule"
NAME = "control-plane"
"""What the supervisor calls this process."""
HANGS_AFTER_S = 30.0
ISSUER = "OIDC issuer"
"""The name of this step of the start."""
READY_WITHIN_S = 45.0
BACK_WITHIN_S = 20.0
DEMO = {"app": "httpbin"}
POD = core.Pod.gvk


def run(settings: Settings, *, demo: bool) -> int:
    """Run until told to stop. Returns the exit code; what failed is published and logged."""
    logs.configure(level=settings.log_level, form=settings.log_format)
    progress = Progress(SupervisorClient(settings.folder.run))
    lacking: list[SetupError] = []
    try:
        anyio.run(_main, settings, demo, progress, backend_options={"use_uvloop": True})
    except* SetupError as group:
        lacking = _leaves(group)
    if not lacking:
        return 0
    for one in lacking:
        log.error("start failed", step=progress.current, error=one.message, fix=one.fix)
    anyio.run(progress.failed, f"{lacking[0].message} {lacking[0].fix}")
    return 3


def now() -> datetime:
    """Tell the time: the one clock that everything here is given."""
    return datetime.now(UTC)  # noqa: TID251 - this is the one real clock


class Progress:
    """Tells whoever watches `apirule up` how far the start is."""

    def __init__(self, supervisor: SupervisorClient) -> None:
        self._supervisor = supervisor
        self.current = ""

    @asynccontextmanager
    async def step(self, name: str, detail: str) -> AsyncIterator[None]:
        self.current = name
        began = time.monotonic()
        yield
        took = round(time.monotonic() - began, 3)
        await self._tell({"step": name, "detail": detail, "seconds": took})
        log.info("step finished", step=name, detail=detail, duration_s=took)

    async def ready(self) -> None:
        await self._tell({"state": "ready"})

    async def failed(self, detail: str) -> None:
        await self._tell({"state": "failed", "step": self.current, "detail": detail})

    async def _tell(self, progress: dict[str, Any]) -> None:
        try:
            await self._supervisor.publish(progress)
        except (OSError, anyio.EndOfStream):
            log.debug("nobody to tell", progress=progress)


async def _main(settings: Settings, demo: bool, progress: Progress) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_on_signal, tasks.cancel_scope)
        supervisor = SupervisorClient(settings.folder.run)
        tasks.start_soon(partial(supervisor.say_alive, NAME, within_s=HANGS_AFTER_S))
        machine = Machine(settings, tasks, progress)
        await machine.start(demo=demo)
        _spare_what_stays()
        await progress.ready()
        await anyio.sleep_forever()


def _spare_what_stays() -> None:
    """Let the garbage collector work, leave alone what is here to stay, and look less often.

    Otherwise a full collection walks over every imported module and stored object, and holds up
    whatever is being enforced for a tenth of a second. Of what a start makes one object in fifty
    is garbage: it stays, as finding it takes that pause too.
    """
    gc.freeze()
    gc.set_threshold(10_000, 100, 50)
    gc.enable()


async def _stop_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            log.info("stopping")
            scope.cancel()
            return


@dataclass
class Machine:
    """The parts, in the order in which each can be used."""

    settings: Settings
    tasks: TaskGroup
    progress: Progress

    async def start(self, *, demo: bool) -> None:
        settings, folder = self.settings, self.settings.folder
        step = self.progress.step
        async with step("certificates", f"own CAs, *.{settings.domain}"):
            authority = await anyio.to_thread.run_sync(_open_authority, folder)
        async with anyio.create_task_group() as beside:
            # To make RSA keys takes half as long as the API server; another core does it meanwhile.
            beside.start_soon(self._open_issuer)
            async with step("API server", f"https://127.0.0.1:{settings.api_port}"):
                store = await self._serve_api(authority)
                client = await self._client(authority)
        async with step(ISSUER, settings.issuer_url):
            self._issuer_port: int = await self.tasks.start(serve_issuer, self._issuer.app)
        async with step("control plane", "xDS, controllers"):
            # Before anybody looks: what an earlier life left behind says that it is ready.
            supervisor = SupervisorClient(folder.run)
            self._earlier = await readiness.withdraw(client, supervisor, now=now)
            workload, rules = system.demo(settings) if demo else ([], [])
            # All before the controllers start: what they find at once they do in one go.
            for obj in (*self._system_objects(authority), *workload):
                await client.apply(obj)
            # Whoever switched the default Gateway off finds it switched off.
            await _create(client, system.api_gateway())
            informers = await self._control(authority, store, client)
        async with step("gateway", f"https://*.{settings.domain}:{settings.https_port}"):
            # Whatever it says: that it has been looked at. The rule names the Gateway it makes.
            await _first(informers.of(APIGateway.gvk), lambda one: bool(_state(one)))
            for obj in rules:
                await client.apply(obj)
            await _first(
                informers.of(POD), lambda pod: _labelled(pod, system.LABELS) and is_ready(pod)
            )
        if earlier := [
            name for name in self._earlier if name.namespace != system.GATEWAY.namespace
        ]:
            async with step("workloads", "those that were ready before"):
                await readiness.until_back(earlier, informers, self._engine, within_s=BACK_WITHIN_S)
        if demo:
            async with step("demo", f"httpbin with sidecar, APIRule for httpbin.{settings.domain}"):
                await self._demo_is_served(informers)

    async def _serve_api(self, authority: CertificateAuthority) -> Store:
        folder = self.settings.folder
        store = Store.open(folder.database)
        self._rule_admission = RuleAdmission()
        pair = authority.api_server_pair()
        if pair.certificate_file is None or pair.key_file is None:
            raise SetupError("The API server's certificate has no files.", "Run apirule doctor.")
        app = ApiServer(
            store,
            clock=now,
            logs=PodLogs(folder.pods),
            executor=Sessions(SupervisorClient(folder.run), folder.run),
            admission=(
                injector.admit,
                self._rule_admission,
                istio_admission.hook(mesh_settings(self.settings)),
            ),
        )
        tls = TlsFiles(pair.certificate_file, pair.key_file, authority.client_ca_file)
        await self.tasks.start(
            partial(serve, app, host="127.0.0.1", port=self.settings.api_port, tls=tls)
        )
        return store

    async def _client(self, authority: CertificateAuthority) -> Client:
        """Return a client as any other has it: by the kubeconfig, over TLS."""
        folder = self.settings.folder
        _write_private(folder.kubeconfig, kubeconfig(self.settings, authority))
        config = KubeConfig.load(folder.kubeconfig)
        client: Client = await self.tasks.start(_hold_client, config)
        for crd in bundled_crds():
            await client.apply(crd)
        for obj in (_default_namespace(), *system.namespaces(), system.mesh_config()):
            await _create(client, obj)
        return client

    async def _open_issuer(self) -> None:
        settings = self.settings
        try:
            self._issuer = await Issuer.open(
                settings.issuer_url,
                settings.folder.issuer,
                domain=settings.domain,
                now=now,
                on_rotated=lambda: self._refetch(settings.issuer_url),
            )
        except SetupError:
            self.progress.current = ISSUER
            raise

    def _system_objects(self, authority: CertificateAuthority) -> list[Object]:
        domain = self.settings.domain
        pair = authority.gateway_pair([f"*.{domain}", domain])
        return [
            system.gateway_certificate(pair.certificate, pair.key),
            *system.ingress_gateway(self.settings),
            *system.published_issuer(self.settings, self._issuer_port),
        ]

    async def _control(
        self, authority: CertificateAuthority, store: Store, client: Client
    ) -> Informers:
        settings, folder, start = self.settings, self.settings.folder, self.tasks.start
        metrics = ControllerMetrics(CollectorRegistry())
        engine = self._engine = Engine(
            store,
            authority,
            client,
            clock=now,
            settings=mesh_settings(settings),
        )
        denials = DenialLog(self._kick)
        await start(XdsServer(folder.xds_socket, engine.fleet, denials).run)
        informers = Informers(client)
        issuer_address = f"127.0.0.1:{self._issuer_port}"
        own_issuer = {(settings.issuer_host, settings.http_port): issuer_address}
        fetcher: KeySetFetcher = await start(_hold_fetcher, own_issuer)
        supervisor = SupervisorClient(folder.run)
        self._keysets = KeySetController(client, informers, fetcher, now=now, metrics=metrics)
        self._policies = informers.of(RequestAuthentication.gvk)
        kubelet = Kubelet(
            client,
            informers,
            supervisor,
            pods=folder.pods,
            run=folder.run,
            xds_socket=folder.xds_socket,
            domain=settings.domain,
            now=now,
            metrics=metrics,
        )
        rules = APIRuleController(client, informers, now=now, metrics=metrics)
        parts: Sequence[_Part] = [
            Deployments(client, informers, now=now, metrics=metrics),
            ReplicaSets(client, informers, now=now, metrics=metrics),
            EndpointSlices(client, informers, metrics=metrics),
            self._keysets,
            AuthorizerController(client, informers, now=now, metrics=metrics),
            rules,
            APIGatewayController(
                client,
                informers,
                objects=[system.default_gateway(settings), system.health(settings)],
                now=now,
                metrics=metrics,
            ),
            RateLimitController(client, informers, now=now, metrics=metrics),
            kubelet,
        ]
        await start(informers.run)
        self._rule_admission.facts = rules.facts
        await start(engine.run)
        for part in parts:
            await start(part.run)
        return informers

    async def _demo_is_served(self, informers: Informers) -> None:
        await _first(
            informers.of(v2.APIRule.gvk),
            lambda rule: _named(rule, "default", "httpbin") and _state(rule) == "Ready",
        )
        pods = informers.of(POD)
        await _first(pods, lambda pod: _labelled(pod, DEMO) and is_ready(pod))
        demo = [name_of(pod) for pod in pods if _labelled(pod, DEMO)]
        await readiness.until_served(demo, informers, self._engine, within_s=BACK_WITHIN_S)

    def _kick(self, proxy: ObjectName) -> None:
        """Look for new keys: a token named one that a proxy does not know."""
        for policy in self._policies:
            if policy["metadata"]["namespace"] in (proxy.namespace, system.GATEWAY.namespace):
                for wanted in named_in(policy):
                    self._keysets.kick(wanted.issuer)

    def _refetch(self, issuer: str) -> None:
        self._keysets.refresh(issuer)


class _Part(Protocol):
    async def run(self, *, task_status: TaskStatus[None] = ...) -> None: ...


async def _first(informer: Informer, condition: Callable[[Object], bool]) -> None:
    """Wait until an object of the informer meets a condition. SetupError: it takes too long."""
    if not await readiness.until(
        informer, lambda: any(map(condition, informer)), within_s=READY_WITHIN_S
    ):
        raise SetupError(
            f"It was not ready within {READY_WITHIN_S:.0f} s.",
            "See what it wrote.",
        )


def kubeconfig(settings: Settings, authority: CertificateAuthority) -> Object:
    """Return a kubeconfig that holds all it needs, so that it can be copied."""
    pair = authority.client_pair()
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": CONTEXT,
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT}}],
        "clusters": [
            {
                "name": CONTEXT,
                "cluster": {
                    "server": f"https://127.0.0.1:{settings.api_port}",
                    "certificate-authority-data": _base64(authority.roots.server),
                },
            }
        ],
        "users": [
            {
                "name": CONTEXT,
                "user": {
                    "client-certificate-data": _base64(pair.certificate),
                    "client-key-data": _base64(pair.key),
                },
            }
        ],
    }


def _open_authority(folder: StateFolder) -> CertificateAuthority:
    authority = CertificateAuthority.open(folder.pki, clock=now)
    folder.ca_certificate.write_bytes(authority.roots.server)
    return authority


def _default_namespace() -> Object:
    labels = {"kubernetes.io/metadata.name": "default", "istio-injection": "enabled"}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "default", "labels": labels},
    }


async def _create(client: Client, obj: Object) -> None:
    """Create an object, unless it is there: then it is the user's."""
    try:
        await client.create(obj)
    except AlreadyExists:
        return


async def _hold_client(
    config: KubeConfig, *, task_status: TaskStatus[Client] = anyio.TASK_STATUS_IGNORED
) -> None:
    async with Client(config, field_manager="apirule") as client:
        task_status.started(client)
        await anyio.sleep_forever()


async def _hold_fetcher(
    hosts: dict[tuple[str, int], str],
    *,
    task_status: TaskStatus[KeySetFetcher] = anyio.TASK_STATUS_IGNORED,
) -> None:
    async with KeySetFetcher(hosts=hosts) as fetcher:
        task_status.started(fetcher)
        await anyio.sleep_forever()


def _write_private(path: Path, document: Object) -> None:
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(document, sort_keys=False))


def _labelled(obj: Object, labels: dict[str, str]) -> bool:
    return labels.items() <= (obj["metadata"].get("labels") or {}).items()


def _named(obj: Object, namespace: str, name: str) -> bool:
    ref = ObjectRef.of(obj)
    return (ref.namespace, ref.name) == (namespace, name)


def _state(obj: Object) -> str:
    return str((obj.get("status") or {}).get("state", ""))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _leaves(group: BaseExceptionGroup[SetupError]) -> list[SetupError]:
    found: list[SetupError] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
