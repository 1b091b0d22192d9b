"""Discovery: which groups, versions and resources there are, in the three forms clients ask for.

Aggregated (v2 and v2beta1, one request) for kubectl from 1.27 on, the older lists for everybody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from apirule.apis.meta import Object
from apirule.local.apiserver.http import MediaType
from apirule.local.apiserver.kinds import Kind, Kinds, version_rank

_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
_STATUS_VERBS = ("get", "patch", "update")

_AGGREGATED_GROUP = "apidiscovery.k8s.io"

REVIEWS: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("authorization.k8s.io", "v1"): {
        "selfsubjectaccessreviews": "SelfSubjectAccessReview",
        "selfsubjectrulesreviews": "SelfSubjectRulesReview",
    },
    ("authentication.k8s.io", "v1"): {"selfsubjectreviews": "SelfSubjectReview"},
}
"""Resources that can be created and are never stored: group and version, plural, Kind."""


def aggregated_version(accepts: list[MediaType]) -> str | None:
    """Return the version of aggregated discovery a client wants most. None: the older lists."""
    for accepted in accepts:
        parameters = accepted.parameters
        if parameters.get("g") == _AGGREGATED_GROUP and parameters.get("v") in ("v2", "v2beta1"):
            return parameters["v"]
        if not parameters:
            return None
    return None


def aggregated_media_type(version: str) -> str:
    return f"application/json;g={_AGGREGATED_GROUP};v={version};as=APIGroupDiscoveryList"


def aggregated(kinds: Kinds, version: str, *, core: bool) -> Object:
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"{_AGGREGATED_GROUP}/{version}",
        "metadata": {},
        "items": [
            {
                "metadata": {"name": group} if group else {},
                "versions": [
                    {
                        "version": name,
                        "resources": [
                            *(_aggregated_resource(kind) for kind in served),
                            *_aggregated_reviews(group, name),
                        ],
                        "freshness": "Current",
                    }
                    for name, served in versions.items()
                ],
            }
            for group, versions in _groups(kinds).items()
            if (group == "") is core
        ],
    }


def core_versions(address: str) -> Object:
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    }


def group_list(kinds: Kinds) -> Object:
    groups = [_group(name, versions) for name, versions in _groups(kinds).items() if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def group(kinds: Kinds, name: str) -> Object | None:
    versions = _groups(kinds).get(name)
    if not name or versions is None:
        return None
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name, versions)}


def resource_list(kinds: Kinds, group_name: str, version: str) -> Object | None:
    served = _groups(kinds).get(group_name, {}).get(version)
    if served is None:
        return None
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group_name}/{version}" if group_name else version,
        "resources": [
            *(entry for kind in served for entry in _resources(kind)),
            *_review_resources(group_name, version),
        ],
    }


def subresources(kind: Kind) -> Iterator[tuple[str, tuple[str, str, str], tuple[str, ...]]]:
    """Yield name, response kind and verbs of each subresource that is served."""
    own = (kind.info.group, kind.info.version, kind.info.kind)
    if "status" in kind.info.subresources:
        yield "status", own, _STATUS_VERBS
    if scalable(kind):
        yield "scale", ("autoscaling", "v1", "Scale"), _STATUS_VERBS
    if kind.resource == "pods":
        yield "log", own, ("get",)


def scalable(kind: Kind) -> bool:
    return "scale" in kind.info.subresources


def _groups(kinds: Kinds) -> dict[str, dict[str, list[Kind]]]:
    groups = {name: dict(versions) for name, versions in kinds.groups().items()}
    for name, version in REVIEWS:
        groups.setdefault(name, {}).setdefault(version, [])
    return groups


def _group(name: str, versions: Mapping[str, Any]) -> Object:
    ordered = [
        {"groupVersion": f"{name}/{version}", "version": version}
        for version in sorted(versions, key=version_rank)
    ]
    return {"name": name, "versions": ordered, "preferredVersion": ordered[0]}


def _aggregated_resource(kind: Kind) -> Object:
    info = kind.info
    entry: Object = {
        "resource": info.plural,
        "responseKind": _response_kind((info.group, info.version, info.kind)),
        "scope": "Namespaced" if info.namespaced else "Cluster",
        "singularResource": info.singular,
        "verbs": list(_VERBS),
    }
    if info.short_names:
        entry["shortNames"] = list(info.short_names)
    if info.categories:
        entry["categories"] = list(info.categories)
    below = [
        {"subresource": name, "responseKind": _response_kind(response), "verbs": list(verbs)}
        for name, response, verbs in subresources(kind)
    ]
    if below:
        entry["subresources"] = below
    return entry


def _aggregated_reviews(group_name: str, version: str) -> Iterator[Object]:
    for plural, kind in REVIEWS.get((group_name, version), {}).items():
        yield {
            "resource": plural,
            "responseKind": _response_kind((group_name, version, kind)),
            "scope": "Cluster",
            "singularResource": kind.lower(),
            "verbs": ["create"],
        }


def _resources(kind: Kind) -> Iterator[Object]:
    info = kind.info
    entry: Object = {
        "name": info.plural,
        "singularName": info.singular,
        "namespaced": info.namespaced,
        "kind": info.kind,
        "verbs": list(_VERBS),
    }
    if info.short_names:
        entry["shortNames"] = list(info.short_names)
    if info.categories:
        entry["categories"] = list(info.categories)
    yield entry
    for name, (group_name, version, response), verbs in subresources(kind):
        below: Object = {
            "name": f"{info.plural}/{name}",
            "singularName": "",
            "namespaced": info.namespaced,
            "kind": response,
            "verbs": list(verbs),
        }
        if response != info.kind:
            below |= {"group": group_name, "version": version}
        yield below


def _review_resources(group_name: str, version: str) -> Iterator[Object]:
    for plural, kind in REVIEWS.get((group_name, version), {}).items():
        yield {
            "name": plural,
            "singularName": kind.lower(),
            "namespaced": False,
            "kind": kind,
            "verbs": ["create"],
        }


def _response_kind(gvk: tuple[str, str, str]) -> Object:
    return {"group": gvk[0], "version": gvk[1], "kind": gvk[2]}
