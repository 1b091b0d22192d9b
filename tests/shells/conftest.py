"""Fixtures for tests against real servers: a running API server with TLS, and a kubeconfig for it.

The server runs in a thread with an event loop of its own, so that tests may be async or run
subprocesses as they like. Touch ``api_server.app`` only through ``api_server.portal``.
"""

import contextlib
import shutil
import ssl
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml
from anyio.from_thread import BlockingPortal, start_blocking_portal
from tests.shells.certificates import Pem, TestCa
from tests.shells.pods_run import running_cluster  # noqa: F401 - a fixture
from tests.shells.served_issuer import rings, served  # noqa: F401 - fixtures

from apirule.apis.meta import Object
from apirule.local.apiserver.admission import AdmissionHook
from apirule.local.apiserver.app import ApiServer
from apirule.local.apiserver.calls import Call
from apirule.local.apiserver.serving import TlsFiles, serve
from apirule.local.processes import injector
from apirule.local.store import Store
from apirule.schema import bundled_crds

NAMESPACES = ("default", "kube-system", "istio-system", "kyma-system")


@dataclass(frozen=True)
class Pki:
    ca: Path
    server: Pem
    client: Pem


class FileLogs:
    """Log files at FOLDER/NAMESPACE_POD/CONTAINER.log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, namespace: str, pod: str, container: str, *, previous: bool) -> Path | None:
        suffix = ".previous.log" if previous else ".log"
        return self.folder / f"{namespace}_{pod}" / f"{container}{suffix}"


@dataclass(frozen=True)
class RunningApiServer:
    """A server that answers. ``kubeconfig`` is for kubectl, the files are for other clients."""

    url: str
    ca: Path
    certificate: Path
    key: Path
    kubeconfig: Path
    folder: Path
    logs: FileLogs
    app: ApiServer
    portal: BlockingPortal
    stop: Callable[[], None]
    """Ends the server before the test does, for instance to start it again on the same folder."""

    def ssl_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(self.certificate, self.key)
        return context

    def create(self, *objects: Object) -> None:
        """Create objects without going through HTTP."""
        self.portal.call(_create, self.app, objects)


@pytest.fixture(scope="session")
def pki() -> Iterator[Pki]:
    """A CA with one server and one client certificate, for the whole run."""
    folder = Path(tempfile.mkdtemp(prefix="ap", dir="/tmp"))
    ca = TestCa(folder)
    yield Pki(ca.file, ca.server(), ca.client("tester", ("testers",)))
    shutil.rmtree(folder)


@pytest.fixture
def start_api_server(
    pki: Pki,
) -> Iterator[Callable[..., RunningApiServer]]:
    """Start API servers: ``start(admission=…, crds=…, folder=…)``. They end with the test."""
    with contextlib.ExitStack() as stack:
        yield partial(_start, stack, pki)


@pytest.fixture
def api_server(start_api_server: Callable[..., RunningApiServer]) -> RunningApiServer:
    """An API server with the usual namespaces, the injector, and the CRDs of apirule."""
    return start_api_server()


def _start(
    stack: contextlib.ExitStack,
    pki: Pki,
    *,
    admission: tuple[AdmissionHook, ...] = (injector.admit,),
    crds: list[Object] | None = None,
    folder: Path | None = None,
    bookmark_every_s: float = 60,
) -> RunningApiServer:
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="ap", dir="/tmp"))
        stack.callback(shutil.rmtree, folder)
    running = stack.enter_context(contextlib.ExitStack())
    portal = running.enter_context(start_blocking_portal())
    logs = FileLogs(folder / "logs")
    tls = TlsFiles(pki.server.certificate, pki.server.key, pki.ca)
    present = bundled_crds() if crds is None else crds
    new = partial(
        ApiServer, clock=_now, logs=logs, admission=admission, bookmark_every_s=bookmark_every_s
    )
    server = portal.wrap_async_context_manager(_serving(folder, tls, new, present))
    app, port = running.enter_context(server)
    url = f"https://127.0.0.1:{port}"
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(_kubeconfig(url, pki)))
    return RunningApiServer(
        url=url,
        ca=pki.ca,
        certificate=pki.client.certificate,
        key=pki.client.key,
        kubeconfig=kubeconfig,
        folder=folder,
        logs=logs,
        app=app,
        portal=portal,
        stop=running.close,
    )


@contextlib.asynccontextmanager
async def _serving(
    folder: Path,
    tls: TlsFiles,
    new: Callable[[Store], ApiServer],
    crds: list[Object],
) -> Any:
    store = Store.open(folder / "api.db")
    try:
        app = new(store)
        namespaces = [_namespace(name) for name in NAMESPACES]
        if store.revision == 0:
            _create(app, (*namespaces, *crds))
        async with anyio.create_task_group() as tasks:
            port = await tasks.start(partial(serve, app, host="127.0.0.1", port=0, tls=tls))
            yield app, port
            tasks.cancel_scope.cancel()
    finally:
        store.close()


def _create(app: ApiServer, objects: tuple[Object, ...]) -> None:
    for obj in objects:
        kind = app.kinds.of_object(obj["apiVersion"], obj["kind"])
        assert kind is not None, obj["kind"]
        namespace = obj["metadata"].get("namespace", "")
        app.objects.create(kind, namespace, obj, Call(_now(), manager="test"))


def _namespace(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _kubeconfig(url: str, pki: Pki) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [
            {"name": "test", "cluster": {"server": url, "certificate-authority": str(pki.ca)}}
        ],
        "users": [
            {
                "name": "test",
                "user": {
                    "client-certificate": str(pki.client.certificate),
                    "client-key": str(pki.client.key),
                },
            }
        ],
    }


def _now() -> datetime:
    return datetime.now(UTC)
