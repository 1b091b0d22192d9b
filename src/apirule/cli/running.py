"""What runs: whether the control plane, the gateway, the issuer, key sets and sidecars answer."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from apirule.apis import core, scheme
from apirule.apis.gateway import v2
from apirule.apis.meta import Object
from apirule.cli import instance, issuing, output
from apirule.cli.findings import Finding, fail, ok, warn
from apirule.cli.rules import typed
from apirule.local.processes import listening, ports
from apirule.local.processes.launch import SupervisorConnection
from apirule.mesh.proxy import PROXY_CONTAINER
from apirule.problem import SetupError
from apirule.settings import Settings

if TYPE_CHECKING:
    from apirule.kube.client import Client

ANSWER_WITHIN_S = 5.0
READY_PATH = "/healthz/ready"


def findings(settings: Settings) -> Iterator[Finding]:
    yield from _gateway(settings)
    try:
        pods, rules = _objects()
    except SetupError as error:
        yield fail(
            f"the control plane does not answer: {error.message}",
            "apirule restart control-plane, and see apirule logs",
        )
        return
    yield ok(f"the control plane answers: {output.plural(len(pods), 'Pod')}")
    yield from _key_sets(settings, rules)
    yield from _pods(pods)
    yield from _open_doors(settings)


def _objects() -> tuple[list[Object], list[Object]]:
    from apirule.kube.errors import ApiError

    async def work(client: Client) -> tuple[list[Object], list[Object]]:
        pods = await client.list(core.Pod.gvk)
        rules = await client.list(v2.APIRule.gvk)
        return pods.items, rules.items

    try:
        return instance.with_client(work)
    except ApiError as error:
        raise SetupError(error.message, "") from error


def _gateway(settings: Settings) -> Iterator[Finding]:
    """Ask the gateway for itself, by TLS and our CA, as anybody does."""
    host = f"healthz.{settings.domain}"
    try:
        context = ssl.create_default_context(cafile=str(settings.folder.ca_certificate))
        connection = _Gateway(settings.https_port, host, context)
        try:
            connection.request("GET", READY_PATH)
            status = connection.getresponse().status
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        yield fail(f"the gateway does not answer: {error}", "apirule logs gateway")
        return
    if status == http.client.OK:
        yield ok("the gateway answers")
    else:
        yield fail(f"the gateway answers {status} to {host}{READY_PATH}", "apirule logs gateway")


class _Gateway(http.client.HTTPSConnection):
    """A connection to the gateway of this machine, whatever the resolver knows of the host."""

    def __init__(self, port: int, host: str, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=ANSWER_WITHIN_S, context=context)

    def connect(self) -> None:
        import socket

        plain = socket.create_connection(("127.0.0.1", self.port), ANSWER_WITHIN_S)
        self.sock = self._context.wrap_socket(plain, server_hostname=self.host)  # type: ignore[attr-defined]  # set by the base class


def _key_sets(settings: Settings, rules: list[Object]) -> Iterator[Finding]:
    """Look whether the key sets that rules name can be had from here."""
    uris = {uri for rule in typed(rules) for uri in _jwks_uris(rule)}
    for uri in sorted({f"{settings.issuer_url}/oauth2/certs", *uris}):
        try:
            keys = _key_set(settings, uri).get("keys")
        except (SetupError, OSError) as error:
            yield fail(f"the key set {uri} cannot be had: {error}", "correct the jwksUri, or wait")
            continue
        if isinstance(keys, list) and keys:
            yield ok(f"the key set {uri} has {output.plural(len(keys), 'key')}")
        else:
            yield fail(f"the key set {uri} has no keys", "correct the jwksUri")


def _key_set(settings: Settings, uri: str) -> dict[str, Any]:
    parts = urlsplit(uri)
    if parts.hostname == settings.issuer_host:
        return issuing.local(settings, "GET", parts.path).json
    return issuing.fetch(uri)


def _jwks_uris(rule: v2.APIRule) -> Iterator[str]:
    for one in rule.spec.rules:
        if one.required_token is not None:
            yield from (known.jwks_uri for known in one.required_token.authentications)


def _pods(pods: list[Object]) -> Iterator[Finding]:
    guarded = 0
    for obj in pods:
        pod = scheme.decode(obj, core.Pod)
        name = pod.object_name
        states = {one.get("name"): one for one in pod.status.container_statuses}
        proxy = states.get(PROXY_CONTAINER)
        if proxy is not None and proxy.get("ready"):
            guarded += 1
        elif any(one.name == PROXY_CONTAINER for one in pod.spec.containers):
            yield fail(
                f"the Envoy of Pod {name} is not ready", f"apirule logs {name} -c {PROXY_CONTAINER}"
            )
        placement = ports.read(pod)
        for place in placement.places if placement is not None else ():
            if place.sidecar and ports.tcp_port(place.app):
                yield warn(
                    f"Pod {name} listens on plain {place.app}: programs of this machine reach it"
                    " without its sidecar",
                    "keep other users off this machine, see docs/security.md",
                )
    yield ok(f"{output.plural(guarded, 'Envoy')} of Pods ready")


def _open_doors(settings: Settings) -> Iterator[Finding]:
    """Look for programs that other machines can call, around every sidecar and policy."""
    with SupervisorConnection(settings.folder.run) as supervisor:
        processes = supervisor.ask("list")["processes"]
    for process in processes:
        pod, slash, container = process["name"].rpartition("/")
        # What a gateway listens on is meant for others.
        if not slash or container == PROXY_CONTAINER or not process["pid"]:
            continue
        found = listening.beyond_loopback(process["pid"])
        if found:
            yield warn(
                f"Pod {pod} listens on {', '.join(map(str, found))}: other machines can call it"
                " there, around its sidecar and all policies",
                "let it listen on 127.0.0.1 only",
            )
