"""The life of a CRD: accepted with its names, refused where it would break what is stored."""

import copy
from typing import Any

import pytest

from apirule.local.apiserver import crds
from apirule.local.apiserver.errors import StatusError
from apirule.local.apiserver.kinds import Kinds
from apirule.schema import builtin_kinds

NOW = "2026-01-01T00:00:00Z"


def version(name: str, *, storage: bool) -> dict[str, Any]:
    schema = {"openAPIV3Schema": {"type": "object"}}
    return {"name": name, "served": True, "storage": storage, "schema": schema}


def definition(kind: str = "Gadget", plural: str = "gadgets") -> dict[str, Any]:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural},
            "versions": [version("v1", storage=True)],
        },
    }


def conditions(crd: dict[str, Any]) -> dict[str, str]:
    return {c["type"]: c["status"] for c in crd["status"]["conditions"]}


@pytest.fixture
def kinds() -> Kinds:
    return Kinds(builtin_kinds(), ())


def test_a_new_crd_is_established_and_its_names_complete(kinds: Kinds) -> None:
    settled = crds.settle(definition(), None, kinds, NOW)

    assert conditions(settled) == {"NamesAccepted": "True", "Established": "True"}
    assert settled["status"]["acceptedNames"] == {
        "kind": "Gadget",
        "plural": "gadgets",
        "singular": "gadget",
        "listKind": "GadgetList",
    }
    assert settled["status"]["storedVersions"] == ["v1"]


def test_settling_again_changes_nothing(kinds: Kinds) -> None:
    first = crds.settle(definition(), None, kinds, NOW)

    again = crds.settle(copy.deepcopy(first), first, kinds, "2027-01-01T00:00:00Z")

    assert again == first


def test_a_kind_that_another_crd_has_is_not_established(kinds: Kinds) -> None:
    kinds.replace_crds([crds.settle(definition(), None, kinds, NOW)])

    second = crds.settle(definition(plural="contraptions"), None, kinds, NOW)

    assert conditions(second) == {"NamesAccepted": "False", "Established": "False"}
    kinds.replace_crds([second])
    assert kinds.at("example.com", "v1", "contraptions") is None


def test_a_version_in_which_objects_are_stored_cannot_go(kinds: Kinds) -> None:
    old = crds.settle(definition(), None, kinds, NOW)
    new = copy.deepcopy(old)
    new["spec"]["versions"] = [version("v2", storage=True)]

    with pytest.raises(StatusError, match=r"must appear in spec\.versions"):
        crds.settle(new, old, kinds, NOW)


def test_a_new_storage_version_is_remembered_beside_the_old(kinds: Kinds) -> None:
    old = crds.settle(definition(), None, kinds, NOW)
    new = copy.deepcopy(old)
    new["spec"]["versions"] = [version("v1", storage=False), version("v2", storage=True)]

    settled = crds.settle(new, old, kinds, NOW)

    assert settled["status"]["storedVersions"] == ["v1", "v2"]
    kinds.replace_crds([settled])
    first = kinds.at("example.com", "v1", "gadgets")
    assert first is not None
    assert first.storage.version == "v2"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"scope": "Cluster"}, "spec.scope"),
        ({"group": "other.com"}, "spec.group"),
        ({"names": {"kind": "Widget", "plural": "gadgets"}}, "spec.names.kind"),
        ({"names": {"kind": "Gadget", "plural": "widgets"}}, "spec.names.plural"),
    ],
)
def test_what_objects_are_stored_under_cannot_be_changed(
    kinds: Kinds, changes: dict[str, Any], field: str
) -> None:
    old = crds.settle(definition(), None, kinds, NOW)
    new = {**old, "spec": {**old["spec"], **changes}}

    with pytest.raises(StatusError) as refused:
        crds.settle(new, old, kinds, NOW)

    assert refused.value.code == 422
    assert f"{field}: Invalid value" in refused.value.message
    assert "field is immutable" in refused.value.message


def test_a_crd_that_is_not_established_can_be_given_another_kind(kinds: Kinds) -> None:
    kinds.replace_crds([crds.settle(definition(), None, kinds, NOW)])
    taken = crds.settle(definition(plural="contraptions"), None, kinds, NOW)
    names = {"kind": "Contraption", "plural": "contraptions"}

    mended = crds.settle({**taken, "spec": {**taken["spec"], "names": names}}, taken, kinds, NOW)

    assert conditions(mended) == {"NamesAccepted": "True", "Established": "True"}


def test_a_conversion_webhook_is_remarked_on() -> None:
    webhook = {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"]}}
    crd = definition()

    assert list(crds.remarks(crd)) == []
    crd["spec"]["conversion"] = webhook
    assert "webhooks are not called" in next(crds.remarks(crd))
