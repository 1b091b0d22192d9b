"""validate, on what people copy from tutorials: each mistake has its place and its mend."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from apirule.cli import cli

JWT_RULE = """\
apiVersion: gateway.kyma-project.io/v2
kind: APIRule
metadata:
  name: orders
  namespace: shop
spec:
  hosts:
    - orders.kyma.localhost
  service:
    name: orders
    port: 8000
  gateway: kyma-system/kyma-gateway
  rules:
    - jwt:
        authentications:
          - issuer: https://issuer.example
            jwksUri: https://issuer.example/keys
      methods:
        - GET
      path: /*
"""


def lines(folder: Path, text: str, *flags: str) -> tuple[int, list[str]]:
    file = folder / "rule.yaml"
    file.write_text(text)
    state = str(folder / "state")
    words = ["--state", state, "validate", "-f", str(file), *flags]
    done = CliRunner().invoke(cli, words, standalone_mode=False)
    assert done.exception is None
    return done.return_value, done.stderr.replace(f"{folder}/", "").splitlines()


def test_a_valid_rule_is_accepted_without_a_word(tmp_path: Path) -> None:
    assert lines(tmp_path, JWT_RULE) == (0, [])


@pytest.mark.parametrize(
    ("before", "after", "says", "fix"),
    [
        (
            "            jwksUri:",
            "              jwksUri:",
            (
                "rule.yaml:17:22: error: 'jwksUri' is indented deeper than 'issuer' above it; "
                "both belong to one list item"
            ),
            "Put 'jwksUri' in column 13.",
        ),
        (
            "name: orders\n  namespace",
            "name: {APIRULE_NAME}\n  namespace",
            "rule.yaml:4:9: error: the placeholder {APIRULE_NAME} has not been replaced",
            "Write the real value in place of {APIRULE_NAME}.",
        ),
        (
            "namespace: shop",
            "namespace: $NAMESPACE",
            "rule.yaml:5:14: error: the shell variable $NAMESPACE has not been filled in",
            "Write the value in place of $NAMESPACE, or feed the text through a shell.",
        ),
    ],
    ids=["jwksUri too deep", "a placeholder", "a shell variable"],
)
def test_a_mistake_has_place_and_mend(
    tmp_path: Path, before: str, after: str, says: str, fix: str
) -> None:
    code, said = lines(tmp_path, JWT_RULE.replace(before, after))

    assert code == 1
    assert said == [says, f"    fix: {fix}", "1 error"]


def test_a_swapped_gateway_is_a_warning(tmp_path: Path) -> None:
    text = JWT_RULE.replace("kyma-system/kyma-gateway", "kyma-gateway/kyma-system")

    code, said = lines(tmp_path, text)
    strict, _ = lines(tmp_path, text, "--strict")

    assert (code, strict) == (0, 1)
    assert said == [
        "rule.yaml:12:3: warning: spec.gateway: kyma-gateway/kyma-system looks swapped",
        "    fix: Write the namespace first: kyma-system/kyma-gateway.",
    ]


def test_from_parameters_is_a_warning(tmp_path: Path) -> None:
    keys = "            jwksUri: https://issuer.example/keys\n"
    extra = "            fromParameters:\n              - access_token\n"

    code, said = lines(tmp_path, JWT_RULE.replace(keys, keys + extra))

    assert code == 0
    assert said[0].startswith("rule.yaml:18:13: warning: ")
    assert said[1] == "    fix: Rename it to fromParams."


@pytest.mark.parametrize("version", ["v9", "v3alpha1"])
def test_a_version_that_is_not_served_is_told_what_to_write_instead(
    tmp_path: Path, version: str
) -> None:
    code, said = lines(tmp_path, JWT_RULE.replace("io/v2", f"io/{version}"))

    assert code == 1
    assert said[0].startswith(
        f"rule.yaml:1:1: error: apiVersion: version {version} of APIRule is not served, only "
    )
    assert "Write apiVersion: gateway.kyma-project.io/v2" in said[1]


def test_a_kind_that_nobody_knows_in_the_group_is_named(tmp_path: Path) -> None:
    code, said = lines(tmp_path, JWT_RULE.replace("kind: APIRule", "kind: ApiRule"))

    assert code == 1
    assert "no kind ApiRule in gateway.kyma-project.io/v2 is served" in said[0]


def test_every_mistake_of_a_file_is_reported_at_once(tmp_path: Path) -> None:
    text = JWT_RULE.replace("port: 8000", "port: 99999").replace("- GET", "- GETT")

    code, said = lines(tmp_path, text)

    assert code == 1
    assert any("99999" in line for line in said)
    assert any("GETT" in line for line in said)


def test_a_wrong_field_hides_neither_another_nor_what_the_controller_would_say(
    tmp_path: Path,
) -> None:
    text = JWT_RULE.replace("port: 8000", "port: eighty").replace("path: /*", "path: /.*")
    text = text.replace("hosts:\n    - orders.kyma.localhost", "hosts:\n    - Not a host")
    same = "    - {path: /a, methods: [GET], noAuth: true}\n"

    code, said = lines(tmp_path, text + same + same)

    found = [line.split(": ")[2] for line in said if ": error: " in line]
    assert code == 1
    assert found == [
        *("spec.hosts[0]", "spec.service.port"),
        *("spec.rules", "spec.rules[0].path"),  # two rules for one path; a pattern
    ]
    assert not any("<nil>" in line for line in said)


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (
            "name: orders\n  namespace",
            "name: BAD_NAME\n  namespace",
            "metadata.name: Invalid value",
        ),
        ("name: orders\n  namespace", "namespace", "metadata.name: Required value"),
        (
            "namespace: shop",
            "namespace: shop\n  labels: {a b: c}",
            "metadata.labels: Invalid value",
        ),
    ],
)
def test_metadata_is_judged_as_the_server_does(
    tmp_path: Path, before: str, after: str, says: str
) -> None:
    code, said = lines(tmp_path, JWT_RULE.replace(before, after))

    assert code == 1
    assert any(says in line for line in said)


@pytest.mark.parametrize("value", ["30.0", "30.5", "true", "[]", "{a: 1}", "null", '"30"', "1e400"])
@pytest.mark.parametrize("field", ["timeout: {}", "rules: {}", "hosts: {}", "service: {}"])
def test_no_value_of_any_field_is_taken_for_our_mistake(
    tmp_path: Path, field: str, value: str
) -> None:
    rule = yaml.safe_load(JWT_RULE)
    name = field.partition(":")[0]
    spec = {**rule["spec"], name: "HERE"}
    text = yaml.safe_dump({**rule, "spec": spec}).replace("HERE", value)

    lines(tmp_path, text)  # raises what is not foreseen


def test_a_kind_that_runs_nothing_here_is_told_what_does(tmp_path: Path) -> None:
    text = "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db}}"

    code, said = lines(tmp_path, text)
    strict, _ = lines(tmp_path, text, "--strict")

    assert (code, strict) == (0, 1)
    assert "no StatefulSet runs here, only Deployments and Pods" in said[0]


def test_a_kind_of_a_crd_among_the_files_is_known(tmp_path: Path) -> None:
    crd = """\
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: toys.example.org}
spec:
  group: example.org
  scope: Namespaced
  names: {plural: toys, kind: Toy}
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          {type: object, properties: {spec: {type: object, properties: {size: {type: integer}}}}}
---
apiVersion: example.org/v1
kind: Toy
metadata: {name: ball}
spec: {size: large}
"""

    code, said = lines(tmp_path, crd)

    assert code == 1
    assert 'spec.size: Invalid value: "string"' in said[0]


@pytest.mark.parametrize(
    ("path", "fix"),
    [
        ("headers", "A path begins with a slash: /headers."),
        ("/.*", "Write /*."),
        ("/orders/.*", "Write /orders/{**}."),
        ("/orders/*/items", "Write /orders/{*}/items."),
        (
            "/orders*",
            "An operator stands for a whole segment; write {*} for one, {**} for the rest.",
        ),
        ("/a b", "Write /a%20b."),
    ],
)
def test_a_path_of_another_language_is_translated(tmp_path: Path, path: str, fix: str) -> None:
    _, said = lines(tmp_path, JWT_RULE.replace("path: /*", f"path: {path}"))

    assert said[1] == f"    fix: {fix}"


@pytest.mark.parametrize(
    ("gateway", "fix"),
    [
        (
            "kyma-gateway.kyma-system.svc.cluster.local",
            "Write namespace/name: kyma-system/kyma-gateway.",
        ),
        ("kyma-gateway", "Write the namespace first, such as kyma-system/kyma-gateway."),
    ],
)
def test_a_gateway_by_another_name_is_translated(tmp_path: Path, gateway: str, fix: str) -> None:
    _, said = lines(tmp_path, JWT_RULE.replace("kyma-system/kyma-gateway", gateway))

    assert said[1] == f"    fix: {fix}"


ISTIO = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders}
spec:
  hosts: [orders.kyma.localhost]
  gatways: [kyma-system/kyma-gateway]
  http: [{route: [{destination: {host: orders}}], retries: often}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: orders}
spec:
  targetRefs: [{kind: Service, name: orders}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: "enableTracing: true"}
"""


def test_objects_of_istio_are_looked_at_as_the_engine_will(tmp_path: Path) -> None:
    code, said = lines(tmp_path, ISTIO)

    assert code == 1
    assert [line for line in said if not line.startswith("    fix: ")] == [
        'rule.yaml:6:3: error: spec.gatways: There is no such field. Did you mean "gateways"?',
        (
            'rule.yaml:7:51: error: spec.http[0].retries: Invalid value: "string": '
            'spec.http[0].retries in body must be of type object: "string"'
        ),
        "rule.yaml:13:3: error: spec.targetRefs: It is not implemented here.",
        (
            "rule.yaml:18:8: warning: data.mesh: "
            "enableTracing is not implemented here and has no effect."
        ),
        "3 errors",
    ]
