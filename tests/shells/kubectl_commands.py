"""The kubectl commands that must work, in the order in which a user might give them.

``exit_code`` is the same for all versions unless ``exceptions`` names one; ``says`` must stand in
the output.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import yaml

RULE = """\
apiVersion: gateway.kyma-project.io/v2
kind: APIRule
metadata: {name: shop, namespace: default}
spec:
  hosts: [shop.example.com]
  gateway: kyma-system/kyma-gateway
  service: {name: shop, port: 80}
  rules: [{path: /*, methods: [GET], noAuth: true}]
"""
WORKLOAD = """\
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: default}
spec: {selector: {app: shop}, ports: [{port: 80, name: http, targetPort: 8000}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop, namespace: default}
spec:
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec: {containers: [{name: shop, image: httpbin}]}
"""
POD = """\
apiVersion: v1
kind: Pod
metadata: {name: talk, namespace: default}
spec: {containers: [{name: main, image: httpbin}]}
"""
EVENT = """\
apiVersion: v1
kind: Event
metadata: {name: shop.1, namespace: default}
involvedObject:
  {apiVersion: gateway.kyma-project.io/v2, kind: APIRule, name: shop, namespace: default}
type: Warning
reason: Conflict
message: the host is taken
lastTimestamp: "2026-01-01T00:00:00Z"
"""
GADGETS = yaml.safe_dump(
    {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "gadgets.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "gadgets", "kind": "Gadget", "shortNames": ["gd"]},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "properties": {
                                "spec": {
                                    "type": "object",
                                    "properties": {"size": {"type": "integer", "default": 3}},
                                }
                            },
                        }
                    },
                }
            ],
        },
    }
)
SETTINGS = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: first, namespace: default, labels: {set: one}}
data: {a: b}
"""
GADGET = """\
apiVersion: example.com/v1
kind: Gadget
metadata: {name: one, namespace: default}
spec: {}
"""


@dataclass(frozen=True)
class Command:
    line: str
    """The arguments, separated by blanks; ``'`` keeps together what has blanks in it."""
    stdin: str = ""
    exit_code: int = 0
    says: str = ""
    exceptions: Mapping[str, int] = field(default_factory=dict)
    note: str = ""
    runs_on: bool = False
    """It does not end by itself: it is ended when it has said ``says``."""


def _changed(manifest: str, old: str, new: str) -> str:
    assert old in manifest
    return manifest.replace(old, new)


COMMANDS = (
    Command("version", says="+apirule"),
    Command("api-versions", says="gateway.kyma-project.io/v2"),
    Command("api-resources", says="apirules"),
    Command("get ns", says="Active"),
    Command("create ns extra", says="created"),
    Command("apply -f -", RULE, says="created", note="a new APIRule"),
    Command("apply -f -", WORKLOAD, says="deployment.apps/shop created", note="a workload"),
    Command("apply -f -", RULE, says="unchanged", note="again"),
    Command("diff -f -", RULE, note="no difference"),
    Command(
        "diff -f -",
        _changed(WORKLOAD, "8000", "9000"),
        exit_code=1,
        says="+    targetPort: 9000",
        note="a difference",
    ),
    Command(
        "apply -f -",
        _changed(WORKLOAD, "8000", "9000"),
        says="service/shop configured",
        note="a change",
    ),
    Command("apply --dry-run=server -f -", WORKLOAD, says="configured (server dry run)"),
    Command("apply --server-side -f -", WORKLOAD, exit_code=1, says="conflict", note="a conflict"),
    Command("apply --server-side --force-conflicts -f -", WORKLOAD, says="serverside-applied"),
    Command(
        "apply --server-side --force-conflicts --validate=warn -f -",
        _changed(RULE, "noAuth: true", "noAuth: true, surprise: 1"),
        says='unknown field "spec.rules[0].surprise"',
        note="an unknown field, told",
    ),
    Command("diff --server-side --force-conflicts -f -", WORKLOAD, note="server side"),
    Command("get apirules", says="shop.example.com"),
    Command("get apirule/shop -o wide", says="shop"),
    Command("get apirule shop -o yaml", says="shop.example.com"),
    Command("get apirule shop -o json", says='"kind": "APIRule"'),
    Command("get apirule shop -o name", says="apirule.gateway.kyma-project.io/shop"),
    Command("get apirule shop -o jsonpath={.spec.hosts[0]}", says="shop.example.com"),
    Command("get svc,deploy -A", says="deployment.apps/shop"),
    Command("get all", says="service/shop"),
    Command("get apirules --sort-by=.metadata.name", says="shop"),
    Command("get apirule nothing", exit_code=1, says="not found"),
    Command("get unicorns", exit_code=1, says="doesn't have a resource type"),
    Command("describe apirule shop", says="shop.example.com"),
    Command("describe svc shop", says="Endpoints:"),
    Command("describe deploy shop", says="RollingUpdateStrategy"),
    Command("describe ns default", says="Active"),
    Command("explain apirule.spec.rules", says="noAuth"),
    Command("explain deployment.spec.template", says="template"),
    Command("get apirules -w", says="shop.example.com", runs_on=True),
    Command("label apirule shop team=blue", says="labeled"),
    Command("annotate apirule shop note=hello", says="annotate"),
    Command("get apirules -A -l team=blue", says="shop"),
    Command("get apirules -l team=red", says=""),
    Command('patch apirule shop --type=merge -p \'{"spec":{"timeout":7}}\'', says="patched"),
    Command(
        'patch apirule shop --type=json -p \'[{"op":"replace","path":"/spec/timeout","value":8}]\'',
        says="patched",
    ),
    Command(
        "patch deployment shop -p"
        ' \'{"spec":{"template":{"spec":{"containers":[{"name":"shop","image":"other"}]}}}}\'',
        says="patched",
        note="strategic",
    ),
    Command(
        'patch apirule shop --type=strategic -p \'{"spec":{"timeout":7}}\'',
        exit_code=1,
        note="custom resources have no strategic merge",
    ),
    Command(
        'patch apirule shop --subresource=status --type=merge -p \'{"status":{"state":"Ready"}}\'',
        says="patched",
    ),
    Command("wait --for=jsonpath={.status.state}=Ready apirule/shop --timeout=5s", says="met"),
    Command("edit apirule shop", says="edited", note="KUBE_EDITOR sets the timeout to 9"),
    Command("get apirule shop -o jsonpath={.spec.timeout}", says="9"),
    Command("scale deployment shop --replicas=3", says="scaled"),
    Command("get deployment shop -o jsonpath={.spec.replicas}", says="3"),
    Command("rollout history deployment shop", says="shop", note="no revisions yet"),
    Command("rollout restart deployment shop", says="restarted"),
    Command("rollout pause deployment shop", says="paused"),
    Command("rollout resume deployment shop", says="resumed"),
    Command("create -f -", POD, says="pod/talk created", note="a Pod"),
    Command("get pods -o wide", says="Pending"),
    Command("logs talk", says="hello from the pod"),
    Command("logs talk --tail=1", says="second line"),
    Command(
        "exec talk -- true",
        exit_code=1,
        says="is not running",
        note="here nothing runs; where something does, it works from 1.30 on",
    ),
    Command("cp talk:/etc/hostname copy", exit_code=1, says="is not running", note="the same"),
    Command(
        'patch pod talk --subresource=status -p \'{"status":{"phase":"Running"}}\'', says="patched"
    ),
    Command("port-forward talk :8000", exit_code=1, says="port-forward is not offered"),
    Command("attach talk", exit_code=1, says="attach is not offered"),
    Command("create -f -", EVENT, says="created", note="an Event"),
    Command("events", says="the host is taken"),
    Command("events --for=apirule/shop", says="the host is taken"),
    Command("get events", says="apirule/shop"),
    Command("create deployment web --image=httpbin --replicas=2", says="created"),
    Command("create secret generic key --from-literal=a=b", says="created"),
    Command("create configmap settings --from-literal=a=b", says="created"),
    Command(
        "wait --for=create configmap/settings --timeout=5s",
        says="condition met",
        exceptions=dict.fromkeys(("1.27", "1.28", "1.29", "1.30"), 1),
        note="known since 1.31",
    ),
    Command("create serviceaccount robot", says="created"),
    Command("create service clusterip inner --tcp=80:8080", says="created"),
    Command("run runner --image=httpbin", says="created"),
    Command("expose deployment web --port=80", says="exposed"),
    Command("set image deployment/web httpbin=httpbin:2", says="image updated"),
    Command(
        "create -f -", WORKLOAD, exit_code=1, says="already exists", note="objects that are there"
    ),
    Command("replace --force -f -", POD, says="replaced", note="deleted and made anew"),
    Command(
        "replace -f -", _changed(RULE, "[GET]", "[GET, POST]"), says="replaced", note="an APIRule"
    ),
    Command(
        "apply -f -",
        _changed(_changed(RULE, "port: 80", "port: 99999"), "[GET]", "[GETT]"),
        exit_code=1,
        says="spec.rules[0].methods[0]: Unsupported value",
        note="invalid twice: both problems, with their fields",
    ),
    Command(
        "apply -f -",
        _changed(RULE, "noAuth: true", "noAuth: true, surprise: 1"),
        exit_code=1,
        says='unknown field "spec.rules[0].surprise"',
        note="an unknown field",
    ),
    Command(
        "apply -f -",
        _changed(RULE, "APIRule", "Unicorn"),
        exit_code=1,
        says='no matches for kind "Unicorn"',
        note="an unknown kind",
    ),
    Command("auth can-i create apirules", says="yes"),
    Command("get apirules --as=nobody", exit_code=1, says="impersonation is not offered"),
    Command("auth can-i --list", says="*.*"),
    Command(
        "auth whoami",
        says="tester",
        exceptions={"1.27": 1},
        note="1.27 asks for a version of before 1.28",
    ),
    Command("apply -f -", GADGETS, says="created", note="a CustomResourceDefinition"),
    Command("wait --for=condition=Established crd/gadgets.example.com --timeout=5s", says="met"),
    Command("apply -f -", GADGET, says="gadget.example.com/one created", note="of the new kind"),
    Command("get gd one -o jsonpath={.spec.size}", says="3", note="a default of the schema"),
    Command("explain gadget.spec", says="size"),
    Command("delete crd gadgets.example.com", says="deleted"),
    Command("get gd", exit_code=1, note="gone with its CRD"),
    Command("delete pod talk", says="deleted"),
    Command("delete deployment web --cascade=orphan", says="deleted"),
    Command("delete svc inner --cascade=foreground", says="deleted"),
    Command("delete apirules --all", says="deleted"),
    Command("delete -f -", WORKLOAD, says="deleted"),
    Command("delete svc nothing", exit_code=1, says="not found"),
    Command("delete svc nothing --ignore-not-found"),
    Command("delete ns extra", says="deleted"),
    Command("wait --for=delete ns/extra --timeout=5s"),
    Command(
        "apply --prune --all -f -",
        RULE,
        exit_code=1,
        says="prun",
        note="it asks for kinds that are not there",
    ),
    Command("apply -f -", SETTINGS, says="configmap/first created", note="to be pruned"),
    Command(
        "apply --prune --prune-allowlist=core/v1/ConfigMap -l set=one -f -",
        _changed(SETTINGS, "first", "second"),
        says="configmap/first pruned",
        note="only kinds that are there",
    ),
    Command("get nodes", exit_code=1, says="resource type"),
    Command("cordon here", exit_code=1, says="resource type"),
    Command("top pods", exit_code=1, says="Metrics API not available"),
    Command("create token default", exit_code=1, says="tokens of service accounts are not offered"),
    Command("create job once --image=httpbin", exit_code=1, says="run a Deployment or a Pod"),
    Command("create ingress web --rule=a.b/c=web:80", exit_code=1, says="write an APIRule"),
    Command("create role reader --verb=get --resource=pods", exit_code=1, says="administrator"),
    Command("create quota little", exit_code=1, says="local processes have no resource limits"),
    Command("cluster-info", says="is running at"),
    Command("get --raw /readyz?verbose", says="readyz check passed"),
)
