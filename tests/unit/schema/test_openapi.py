"""The documents kubectl reads: every reference leads somewhere, every kind can be found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from apirule import schema
from apirule.schema import KindInfo, openapi


def _group_versions() -> dict[tuple[str, str], list[KindInfo]]:
    found = defaultdict(list)
    kinds = list(schema.builtin_kinds())
    for crd in schema.bundled_crds():
        kinds += schema.from_crd(crd)
    for kind in kinds:
        found[kind.group, kind.version].append(kind)
    return found


GROUPS = _group_versions()
DOCUMENTS = {group: openapi.document(kinds) for group, kinds in GROUPS.items()}


def _values(value: Any, key: str) -> Iterator[Any]:
    if isinstance(value, dict):
        if key in value and not isinstance(value[key], dict):
            yield value[key]
        for item in value.values():
            yield from _values(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from _values(item, key)


@pytest.mark.parametrize("group", DOCUMENTS, ids=lambda group: openapi.path_of(*group))
def test_every_reference_leads_to_a_component(group: tuple[str, str]) -> None:
    document = DOCUMENTS[group]
    components = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}

    references = set(_values(document, "$ref"))

    assert references
    assert references <= components


@pytest.mark.parametrize("group", DOCUMENTS, ids=lambda group: openapi.path_of(*group))
def test_a_kind_is_found_by_the_path_of_its_resource(group: tuple[str, str]) -> None:
    document = DOCUMENTS[group]
    named = {
        tuple(gvk[key] for key in ("group", "version", "kind"))
        for component in document["components"]["schemas"].values()
        for gvk in component.get("x-kubernetes-group-version-kind", ())
    }

    for kind in GROUPS[group]:
        scope = "/namespaces/{namespace}" if kind.namespaced else ""
        path = f"/{openapi.path_of(*group)}{scope}/{kind.plural}"
        gvk = document["paths"][path]["post"]["x-kubernetes-group-version-kind"]
        assert gvk == {"group": kind.group, "version": kind.version, "kind": kind.kind}
        assert tuple(kind.gvk) in named


def test_patch_takes_field_validation_so_that_kubectl_leaves_it_to_the_server() -> None:
    document = DOCUMENTS["gateway.kyma-project.io", "v2"]
    path = "/apis/gateway.kyma-project.io/v2/namespaces/{namespace}/apirules/{name}"

    patch = document["paths"][path]["patch"]

    assert {"fieldValidation", "dryRun"} <= {item["name"] for item in patch["parameters"]}
    assert "application/strategic-merge-patch+json" not in patch["requestBody"]["content"]
    assert f"{path}/status" in document["paths"]


def test_our_own_keywords_stay_at_home() -> None:
    assert "x-apirule-" not in str(DOCUMENTS["", "v1"])


def test_a_component_is_named_as_on_a_real_cluster() -> None:
    components = DOCUMENTS["apps", "v1"]["components"]["schemas"]

    assert "io.k8s.api.apps.v1.Deployment" in components
    assert "io.k8s.api.core.v1.PodTemplateSpec" in components
    assert (
        "io.kyma-project.gateway.v2.APIRule"
        in (DOCUMENTS["gateway.kyma-project.io", "v2"]["components"]["schemas"])
    )


def test_every_field_of_a_component_is_explained() -> None:
    missing = {
        f"{name}.{field}"
        for document in DOCUMENTS.values()
        for name, component in document["components"]["schemas"].items()
        for field, child in component.get("properties", {}).items()
        if not child.get("description")
    }

    assert missing == set()


def test_list_keys_and_patch_strategies_are_published() -> None:
    pod = DOCUMENTS["", "v1"]["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]

    assert pod["containers"]["x-kubernetes-list-map-keys"] == ["name"]
    assert pod["containers"]["x-kubernetes-patch-merge-key"] == "name"
    assert pod["volumes"]["x-kubernetes-patch-strategy"] == "merge,retainKeys"


@pytest.mark.parametrize("group", DOCUMENTS, ids=lambda group: openapi.path_of(*group))
def test_explain_lists_each_field_with_a_text_and_says_none_twice(group: tuple[str, str]) -> None:
    components = DOCUMENTS[group]["components"]["schemas"]

    for name, component in components.items():
        for field, child in component.get("properties", {}).items():
            # kubectl prints the text of a field, and after it that of its type.
            (reference,) = [part["$ref"] for part in child.get("allOf", ())] or [""]
            kind = components.get(reference.rpartition("/")[2], {})
            assert child.get("description"), f"{name}.{field}"
            assert child["description"] != kind.get("description"), f"{name}.{field}"


def test_a_number_or_a_name_is_a_type_of_its_own() -> None:
    components = DOCUMENTS["", "v1"]["components"]["schemas"]

    target = components["io.k8s.api.core.v1.ServicePort"]["properties"]["targetPort"]

    # kubectl shows the last part of the name: <IntOrString>.
    (reference,) = target["allOf"]
    assert reference["$ref"].endswith("/io.k8s.apimachinery.pkg.util.intstr.IntOrString")
