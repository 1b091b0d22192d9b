"""What a cluster has and one machine has not: each is refused at once, with what to do instead."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import Receive, Send

from apirule.local.apiserver import errors
from apirule.local.apiserver.http import Request, encode
from apirule.local.apiserver.routing import Path, Target

_SUBRESOURCES: Mapping[str, str] = {
    "exec": "exec is offered over WebSockets, and this client came with something else: use"
    " kubectl 1.30 or newer without KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false, or 1.29 with"
    " KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true",
    "attach": "attach is not offered: a Pod is a local process without input here; kubectl logs -f"
    " shows its output, kubectl exec -it runs a shell beside it",
    "portforward": "port-forward is not offered: everything already listens on this machine; use"
    " the host of an APIRule, or the ports in the Pod's annotation apirule.local/ports",
    "proxy": "the proxy of Pods and Services is not offered: use the host of an APIRule, or the"
    " ports in the Pod's annotation apirule.local/ports",
    "token": "tokens of service accounts are not offered: clients of this API use the certificate"
    " of the kubeconfig, and requests to an APIRule a token of its issuer",
    "finalize": "finalize is not offered: a Namespace goes when the last object in it has gone",
    "eviction": "eviction is not offered: there are no disruption budgets here, delete the Pod",
    "binding": "binding is not offered: there is one node, and every Pod runs on it",
    "ephemeralcontainers": "ephemeral containers are not offered: every program of this machine can"
    " look at the process, and kubectl exec runs one in its environment",
    "resize": "resize is not offered: a local process has no resource limits",
}

_ACCESS = "every client certificate of this machine is an administrator"
_WORKLOADS = "run a Deployment or a Pod instead"
_LIMITS = "local processes have no resource limits"
_FILES = "processes use the file system of this machine"
_CERTIFICATE = "clients show the certificate of the kubeconfig, which `apirule kubeconfig` prints"
_WEBHOOKS = "the API server calls no webhooks; test yours on a cluster"
_RESOURCES: Mapping[tuple[str, str], str] = {
    ("batch", "jobs"): _WORKLOADS,
    ("batch", "cronjobs"): _WORKLOADS,
    ("apps", "statefulsets"): _WORKLOADS,
    ("apps", "daemonsets"): _WORKLOADS,
    ("networking.k8s.io", "ingresses"): "write an APIRule instead",
    ("gateway.networking.k8s.io", "httproutes"): "write an APIRule instead",
    ("rbac.authorization.k8s.io", "roles"): _ACCESS,
    ("rbac.authorization.k8s.io", "rolebindings"): _ACCESS,
    ("rbac.authorization.k8s.io", "clusterroles"): _ACCESS,
    ("rbac.authorization.k8s.io", "clusterrolebindings"): _ACCESS,
    ("", "replicationcontrollers"): _WORKLOADS,
    ("autoscaling", "horizontalpodautoscalers"): "scale the Deployment with kubectl scale",
    ("policy", "poddisruptionbudgets"): "nothing here evicts Pods",
    ("scheduling.k8s.io", "priorityclasses"): "all Pods are equal here",
    ("networking.k8s.io", "networkpolicies"): "write an AuthorizationPolicy instead",
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"): _WEBHOOKS,
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"): _WEBHOOKS,
    ("", "resourcequotas"): _LIMITS,
    ("", "limitranges"): _LIMITS,
    ("", "nodes"): "the only node is this machine",
    ("", "persistentvolumeclaims"): _FILES,
    ("", "persistentvolumes"): _FILES,
    ("storage.k8s.io", "storageclasses"): _FILES,
    ("authorization.k8s.io", "subjectaccessreviews"): _ACCESS,
    ("authorization.k8s.io", "localsubjectaccessreviews"): _ACCESS,
    ("authentication.k8s.io", "tokenreviews"): _CERTIFICATE,
    ("certificates.k8s.io", "certificatesigningrequests"): _CERTIFICATE,
    ("events.k8s.io", "events"): "read and write those of the core group, /api/v1/events",
}


def explain_subresource(name: str) -> None:
    """Raise a 501 if the subresource is one that there is on a cluster."""
    message = _SUBRESOURCES.get(name.partition("/")[0])
    if message:
        raise errors.not_offered(message)


def check_user(request: Request) -> None:
    """Raise a 501 for a request in the name of another user."""
    if any(name.startswith("impersonate-") for name in request.headers):
        raise errors.not_offered(
            "impersonation is not offered: every client certificate of this machine is an"
            " administrator; leave out --as, --as-group and --as-uid"
        )


def check_websocket(target: Target) -> None:
    """Raise a 501 for a WebSocket to anything but a command."""
    if target.subresource != "exec" or target.kind.resource != "pods":
        explain_subresource(target.subresource)
        raise errors.not_offered("WebSockets are offered for kubectl exec only")


def explain_missing(path: Path) -> None:
    """Raise a 404 that says what to use instead, where there is something."""
    instead = _RESOURCES.get((path.group, path.plural))
    if instead:
        raise errors.StatusError(
            404,
            "NotFound",
            f"the server could not find the requested resource: {path.plural} are not offered on"
            f" one machine; {instead}",
            {"group": path.group, "kind": path.plural},
        )


async def refuse_websocket(status: errors.StatusError, receive: Receive, send: Send) -> None:
    """Answer a WebSocket handshake with a Status."""
    await receive()
    headers = [(b"content-type", b"application/json")]
    await send({"type": "websocket.http.response.start", "status": status.code, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": encode(status.as_object())})
