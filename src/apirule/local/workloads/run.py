"""What `apirule run` makes: an ordinary Deployment and an ordinary Service.

Pure. The program listens on a port of its own choice, so the container port is a host port, and
the old Pod has to be gone before a new one can have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from apirule import names
from apirule.apis.meta import Object
from apirule.problem import SetupError

IMAGE = "apirule.local/run"
RUN_LABEL = "apirule.local/run"
_MAX_NAME = 63


def objects_for(
    name: str,
    namespace: str,
    *,
    port: int,
    argv: Sequence[str],
    cwd: str,
    service_port: int | None = None,
    env: Mapping[str, str] | None = None,
    sidecar: bool = True,
) -> list[Object]:
    """Return Service and Deployment for a program that listens on 127.0.0.1:``port``.

    ``service_port`` is the port of the Service; by default the same. SetupError: a word is wrong.
    """
    _check(name, port, service_port, argv)
    labels = labels_of(name)
    container: Object = {
        "name": name,
        "image": IMAGE,
        # Dollars are kept: only in a manifest `$(NAME)` means a variable.
        "command": [_literal(word) for word in argv],
        "workingDir": cwd,
        "ports": [{"name": "http", "containerPort": port, "hostPort": port, "protocol": "TCP"}],
    }
    if env:
        container["env"] = [{"name": k, "value": _literal(v)} for k, v in sorted(env.items())]
    # A word to the injector either way, so that the namespace does not have to be labelled.
    inject = {"sidecar.istio.io/inject": "true" if sidecar else "false"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {
                "selector": {"app": name},
                "ports": [
                    {
                        "name": "http",
                        "port": service_port or port,
                        "targetPort": port,
                        "protocol": "TCP",
                    }
                ],
            },
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"app": name}},
                "strategy": {"type": "Recreate"},
                "template": {
                    "metadata": {"labels": labels | inject},
                    "spec": {"containers": [container], "terminationGracePeriodSeconds": 5},
                },
            },
        },
    ]


def labels_of(name: str) -> dict[str, str]:
    """Return the labels of all that `run` makes under a name, its Pods among them."""
    return {"app": name, RUN_LABEL: "true"}


def made_by_run(obj: Object) -> bool:
    """Tell what `run` made from a user's own Deployment or Service of the same name."""
    return RUN_LABEL in (obj["metadata"].get("labels") or {})


def _check(name: str, port: int, service_port: int | None, argv: Sequence[str]) -> None:
    if not names.DNS_LABEL.fullmatch(name) or len(name) > _MAX_NAME:
        raise SetupError(
            f"{name!r} cannot be the name of a workload.",
            "Use lower-case letters, digits and hyphens, such as orders-api.",
        )
    for number in (port, service_port if service_port is not None else port):
        if not 0 < number < 1 << 16:
            raise SetupError(f"{number} is not a port.", "Choose one between 1 and 65535.")
    if not argv:
        raise SetupError("There is no command to run.", "Write it after --, as: -- python app.py")


def _literal(text: str) -> str:
    return text.replace("$", "$$")
