"""render without an instance: what the files leave out is taken for granted, and said."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from apirule.cli import cli

README = Path(__file__).parents[3] / "README.md"
RULE = README.read_text().partition("```yaml\n")[2].partition("```")[0]
"""The first manifest that a newcomer sees."""

WORKLOAD = """\
apiVersion: v1
kind: Service
metadata: {name: orders}
spec: {selector: {app: own}, ports: [{port: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: orders}
spec:
  selector: {matchLabels: {app: own}}
  template:
    metadata: {labels: {app: own}}
    spec: {containers: [{name: main, image: example}]}
"""


def rendered(folder: Path, text: str, *flags: str) -> tuple[int, list[dict[str, Any]], str]:
    file = folder / "rule.yaml"
    file.write_text(text)
    words = ["--state", str(folder / "state"), "render", "-f", str(file), *flags]
    done = CliRunner().invoke(cli, words, standalone_mode=False)
    assert done.exception is None
    code: int = done.return_value
    return code, [one for one in yaml.safe_load_all(done.stdout) if one], done.stderr


def test_the_rule_of_the_readme_is_rendered_as_it_stands(tmp_path: Path) -> None:
    code, resources, said = rendered(tmp_path, RULE)

    assert code == 0
    assert [one["kind"] for one in resources] == [
        *("RequestAuthentication", "AuthorizationPolicy", "AuthorizationPolicy", "VirtualService")
    ]
    assert {str(one["spec"].get("selector")) for one in resources[:3]} == {
        "{'matchLabels': {'app': 'orders'}}"
    }
    assert said == (
        "warning: Service shop/orders is not among the files; taken for granted with the selector "
        "app: orders. Give it with another -f.\n"
    )


def test_a_service_among_the_files_counts_whether_or_not_they_name_a_namespace(
    tmp_path: Path,
) -> None:
    text = f"{RULE.replace(', namespace: shop', '')}---\n{WORKLOAD}"

    code, resources, said = rendered(tmp_path, text, "-n", "shop")

    assert (code, said) == (0, "")
    assert resources[0]["spec"]["selector"] == {"matchLabels": {"app": "own"}}
    assert {one["metadata"]["namespace"] for one in resources} == {"shop"}


def test_a_deployment_is_injected_as_its_namespace_says(tmp_path: Path) -> None:
    plain = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\n"
    text = f"{plain}{RULE}---\n{WORKLOAD}"

    code, resources, said = rendered(tmp_path, text, "-n", "shop")

    assert (code, resources) == (1, [])
    assert "Pod shop/orders does not have an injected istio sidecar" in said


@pytest.mark.parametrize(
    ("host", "gateway", "becomes"),
    [
        ("orders", "kyma-system/kyma-gateway", "orders.kyma.localhost"),
        ("orders", "kyma-gateway/kyma-system", "orders.kyma.localhost"),
        ("orders.example.com", "kyma-system/kyma-gateway", "orders.example.com"),
        ("orders.example.com", "shop/own", "orders.example.com"),
    ],
)
def test_gateways_are_there_as_far_as_hosts_tell(
    tmp_path: Path, host: str, gateway: str, becomes: str
) -> None:
    text = RULE.replace("orders.kyma.localhost", host).replace("kyma-system/kyma-gateway", gateway)

    code, resources, said = rendered(tmp_path, text)

    assert code == 0
    assert resources[-1]["spec"]["hosts"] == [becomes]
    assert "does not serve" not in said


def test_a_short_host_needs_its_gateway(tmp_path: Path) -> None:
    text = RULE.replace("orders.kyma.localhost", "orders").replace(
        "kyma-system/kyma-gateway", "a/b"
    )

    code, _, said = rendered(tmp_path, text)

    assert code == 1
    assert "Could not get specified Gateway" in said


def test_authorizers_are_taken_for_granted_too(tmp_path: Path) -> None:
    text = RULE.replace("noAuth: true", "extAuth: {authorizers: [sign-in]}")

    code, resources, _ = rendered(tmp_path, text)

    assert code == 0
    assert {"name": "sign-in"} in [one["spec"].get("provider") for one in resources]


def test_other_kinds_do_not_keep_a_rule_from_being_rendered(tmp_path: Path) -> None:
    other = "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db}\n"

    code, resources, said = rendered(tmp_path, f"{other}---\n{RULE}")

    assert (code, len(resources)) == (0, 4)
    assert "no StatefulSet runs here" in said


def test_mistakes_come_in_the_order_of_the_text(tmp_path: Path) -> None:
    text = "kind: Service\nmetadata: {name: Bad_}\napiVersion: v1\nspec: {ports: x}\n"

    code, _, said = rendered(tmp_path, text)

    places = [line.split(":")[1] for line in said.splitlines() if ": error: " in line]
    assert (code, places) == (1, ["2", "4"])
