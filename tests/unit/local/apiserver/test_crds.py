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
