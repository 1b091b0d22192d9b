"""What Kubernetes refuses of its own kinds beyond their schema: the cases of checks.yaml."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from apirule import schema
from apirule.apis.meta import Object

KINDS = {kind.kind: kind for kind in schema.builtin_kinds()}
CASES = [
    (kind, fields, says)
    for case in yaml.safe_load(Path(__file__).with_name("checks.yaml").read_text())
    for says in [case.pop("says")]
    for kind, fields in case.items()
]


def problems(kind: str, fields: Any, old: Any = None) -> list[str]:
    admission = schema.admit(thing(kind, fields), KINDS[kind], old=old and thing(kind, old))
    return [str(problem) for problem in admission.problems]


def thing(kind: str, fields: Object) -> Object:
    if container := fields.get("container"):
        fields = {"spec": {"containers": [{"name": "a", "image": "a", **container}]}}
    return {"kind": kind, "metadata": {"name": "a"}, **fields}


@pytest.mark.parametrize(
    ("kind", "fields", "says"), CASES, ids=lambda value: json.dumps(value)[:60]
)
def test_an_object_is_refused_with_field_and_reason(
    kind: str, fields: Object, says: list[str]
) -> None:
    assert problems(kind, fields) == says


GOOD = """
- Pod:
    container:
      name: web-1
      image: docker.io/a/b:1
      command: [sh, -c, 'echo "$A" é']
      workingDir: /tmp
      env:
      - {name: A.b-c d, value: ''}
      - {name: A}
      - {name: A, valueFrom: {secretKeyRef: {key: k}}}
      envFrom: [{prefix: A_, configMapRef: {name: a}}]
      ports: [{containerPort: 1, name: http}, {containerPort: 1, name: http2}]
      readinessProbe: {httpGet: {port: http, httpHeaders: [{name: Host, value: a}]}}
      livenessProbe: {exec: {command: [a]}, periodSeconds: 0, successThreshold: 0}
      startupProbe: {grpc: {port: 1}, initialDelaySeconds: 0}
      lifecycle: {preStop: {sleep: {seconds: 1}}}
- Service: {spec: {clusterIP: None}}
- Service: {spec: {type: ExternalName, externalName: a.example.com.}}
- Service:
    spec:
      ports:
      - {name: a, port: 1, targetPort: 0}
      - {name: b, port: 1, protocol: UDP, targetPort: http}
- Service: {spec: {type: LoadBalancer, ports: [{port: 1, nodePort: 30000}], clusterIP: 'fd00::1'}}
- EndpointSlice:
    addressType: IPv4
    endpoints: [{addresses: [127.0.0.1]}]
    ports: [{port: 65535}, {name: a}]
- EndpointSlice: {addressType: IPv6, endpoints: [{addresses: ['::1']}]}
- EndpointSlice: {addressType: FQDN, endpoints: [{addresses: [a.example.com]}]}
- ConfigMap: {data: {.a: '', A_b-c.d: '', a..b: ''}}
- Secret: {type: kubernetes.io/tls, data: {tls.crt: '', tls.key: ''}}
- Secret: {type: kubernetes.io/tls, stringData: {tls.crt: a, tls.key: b}}
- Secret: {type: kubernetes.io/basic-auth, data: {password: ''}}
- Secret: {type: kubernetes.io/dockerconfigjson, data: {.dockerconfigjson: e30=}}
- Secret: {type: example.com/own}
"""


@pytest.mark.parametrize("case", yaml.safe_load(GOOD), ids=lambda case: json.dumps(case)[:60])
def test_an_object_as_people_write_it_is_good(case: Object) -> None:
    ((kind, fields),) = case.items()

    assert problems(kind, fields) == []


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("ConfigMap", {"data": {"a": "x" * 2**20}}),
        ("ConfigMap", {"binaryData": {"a": b64("x" * 2**20)}}),
        ("Secret", {"data": {"a": b64("x" * 2**19), "b": b64("x" * (2**19 + 9))}}),
        ("Secret", {"stringData": {"a": "é" * (2**19 + 1)}}),
    ],
)
def test_more_than_a_mebibyte_is_refused(kind: str, fields: Object) -> None:
    assert problems(kind, fields) == ["data: Too long: may not be more than 1048576 bytes"]


def test_a_mebibyte_is_good() -> None:
    assert problems("ConfigMap", {"data": {"a": "x" * (2**20 - 1)}}) == []
    assert problems("Secret", {"stringData": {"a": "x" * 2**20}, "data": {"a": b64("xx")}}) == []


def test_what_was_wrong_before_does_not_stand_in_the_way_of_an_update() -> None:
    probe = {"tcpSocket": {"port": 1}, "periodSeconds": -1}
    old = {"container": {"name": "A", "readinessProbe": probe}}
    same = {**old, "status": {"phase": "Running"}}
    worse = {"container": {"name": "../b", "readinessProbe": probe}}

    assert problems("Pod", same, old) == []
    (problem,) = problems("Pod", worse, old)
    assert problem.startswith('spec.containers[0].name: Invalid value: "../b"')
