"""What Kubernetes refuses of its own kinds beyond their schema, by looking at one object alone.

A table by resource of functions from objects to problems. They run when every value has its type,
whatever else is wrong, so that all problems come in one answer. What depends on the object before,
or on other objects, is the business of the API server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from apirule.apis.meta import Object
from apirule.problem import Problem
from apirule.schema.checks import data, pods, services, workloads

_CHECKS: Mapping[str, Callable[[Object], Iterator[Problem]]] = {
    "configmaps": data.config_map,
    "deployments.apps": workloads.deployment,
    "endpoints": services.endpoints,
    "endpointslices.discovery.k8s.io": services.endpoint_slice,
    "pods": pods.pod,
    "replicasets.apps": workloads.replica_set,
    "secrets": data.secret,
    "services": services.service,
}


def check(resource: str, obj: Object) -> list[Problem]:
    """Return what is wrong with an object of a built-in kind whose values have their types."""
    found = _CHECKS.get(resource)
    return list(found(obj)) if found else []
