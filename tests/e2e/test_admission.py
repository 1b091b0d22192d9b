"""What the writer of an APIRule is told at once, and what is noted of the write."""

import json
from typing import Any

import pytest
from instance import Instance
from tests.e2e.gateway import kubectl

OPEN = {"path": "/headers", "methods": ["GET"], "noAuth": True}


def manifest(name: str, version: str = "v2", **spec: Any) -> str:
    return json.dumps(
        {
            "apiVersion": f"gateway.kyma-project.io/{version}",
            "kind": "APIRule",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "hosts": [name],
                "gateway": "kyma-system/kyma-gateway",
                "service": {"name": "httpbin", "port": 8000},
                "rules": [OPEN],
                **spec,
            },
        }
    )


def warnings(instance: Instance, *words: str, text: str | None = None) -> list[str]:
    return kubectl(instance, *words, text=text).stderr.splitlines()


@pytest.mark.parametrize(
    ("spec", "warning"),
    [
        (
            {"rules": [OPEN, OPEN]},
            "spec.rules: Path /headers with method GET conflicts with at least one of the",
        ),
        (
            {"gateway": "kyma-system/other"},
            "spec.gateway: Could not get specified Gateway.",
        ),
        (
            {"service": {"name": "missing", "port": 80}},
            "spec.rules[0]: Failed to execute sidecar injection validation, err: Service",
        ),
        (
            {"service": {"name": "httpbin", "port": 80}},
            "spec.service.port: Service default/httpbin has no port 80,",
        ),
        (
            {"hosts": ["httpbin"]},
            "spec.hosts[0]: Host is occupied by another Virtual Service.",
        ),
        (
            {"corsPolicy": {"allowOrigins": [{"regex": "("}]}},
            "spec.corsPolicy.allowOrigins[0].regex: '(' is not a regular expression:",
        ),
    ],
)
def test_kubectl_apply_tells_what_keeps_a_rule_from_being_served(
    instance: Instance, spec: dict[str, Any], warning: str
) -> None:
    text = manifest("warned", **spec)

    told = warnings(instance, "apply", "--dry-run=server", "-f", "-", text=text)

    assert [line for line in told if line.startswith(f"Warning: {warning}")]


def test_only_a_change_of_the_spec_is_warned_of(instance: Instance) -> None:
    conflict = manifest("again", rules=[OPEN, OPEN])

    created = warnings(instance, "apply", "-f", "-", text=conflict)
    labelled = warnings(instance, "label", "apirule", "again", "a=b")
    mended = warnings(instance, "apply", "-f", "-", text=manifest("again"))

    assert len(created) == 1
    assert labelled == mended == []


@pytest.mark.parametrize("version", ["v2", "v2alpha1"])
def test_the_version_somebody_wrote_is_noted_and_either_can_be_read(
    instance: Instance, version: str
) -> None:
    name = f"written-in-{version}"
    kubectl(instance, "apply", "-f", "-", text=manifest(name, version))

    read = {
        one: json.loads(
            kubectl(
                instance, "get", f"apirules.{one}.gateway.kyma-project.io", name, "-o", "json"
            ).stdout
        )
        for one in ("v2", "v2alpha1")
    }

    for one, rule in read.items():
        annotations = rule["metadata"]["annotations"]
        assert rule["apiVersion"] == f"gateway.kyma-project.io/{one}"
        assert annotations["gateway.kyma-project.io/original-version"] == version
        assert rule["spec"]["rules"] == [OPEN]


def test_a_rule_without_spec_is_in_error_and_can_be_labelled(instance: Instance) -> None:
    text = json.dumps(
        {
            "apiVersion": "gateway.kyma-project.io/v2alpha1",
            "kind": "APIRule",
            "metadata": {"name": "bare", "namespace": "default"},
        }
    )
    why = "Either gateway or externalGateway must be specified"

    told = warnings(instance, "apply", "-f", "-", text=text)
    state = "--for=jsonpath={.status.state}=Error"
    kubectl(instance, "wait", "apirule/bare", state, "--timeout=30s")
    kubectl(instance, "label", "apirule", "bare", "a=b")
    rule = json.loads(kubectl(instance, "get", "apirule", "bare", "-o", "json").stdout)

    assert told[0].startswith(f"Warning: spec: {why}.")
    assert rule["status"]["description"] == f"Validation errors: Attribute 'spec': {why}"
    assert "spec" not in rule
    kubectl(instance, "delete", "apirule", "bare", "--timeout=30s")
