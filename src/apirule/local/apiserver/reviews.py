"""Questions about access: everybody who gets through TLS may do everything here."""

from __future__ import annotations

from apirule.apis.meta import Object

ADMIN_GROUPS = ("system:masters", "system:authenticated")


def answer(kind: str, obj: Object, user: str, groups: tuple[str, ...]) -> Object:
    """Return a review object with its status."""
    return {
        "kind": kind,
        "apiVersion": obj.get("apiVersion"),
        "metadata": {"creationTimestamp": None},
        **({"spec": obj["spec"]} if obj.get("spec") else {}),
        "status": _status(kind, user, groups),
    }


def _status(kind: str, user: str, groups: tuple[str, ...]) -> Object:
    if kind == "SelfSubjectAccessReview":
        return {"allowed": True, "reason": "a client certificate of this machine may do everything"}
    if kind == "SelfSubjectRulesReview":
        return {
            "incomplete": False,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }
    return {"userInfo": {"username": user, "groups": list(groups)}}
