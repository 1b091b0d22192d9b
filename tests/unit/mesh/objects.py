"""Small resources for the tests of the mesh: only what a test is about has to be said."""

from collections.abc import Iterable

import yaml

from apirule.apis import scheme
from apirule.apis.meta import GroupVersionKind, Resource
from apirule.ownership import OWNER_NAME, OWNER_NAMESPACE

GATEWAY_POD = """
apiVersion: v1
kind: Pod
metadata: {name: gw, namespace: istio-system, labels: {istio: ingressgateway}}
spec:
  containers:
    - name: istio-proxy
      ports:
        - {containerPort: 8443, hostPort: 18443}
        - {name: http2, containerPort: 8080, hostPort: 18080}
---
apiVersion: v1
kind: Service
metadata: {name: istio-ingressgateway, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  ports: [{name: https, port: 443, targetPort: 8443}, {name: http, port: 80, targetPort: http2}]
---
apiVersion: networking.istio.io/v1beta1
kind: Gateway
metadata: {name: edge, namespace: web}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*.example.com"]}]
---
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: web}
spec: {selector: {app: shop}, ports: [{name: http, port: 80}]}
"""


def decode(text: str) -> list[Resource]:
    resources = []
    for document in yaml.safe_load_all(text):
        kind = scheme.type_of(GroupVersionKind.of(document))
        assert kind is not None
        resources.append(scheme.decode(document, kind))
    return resources


def virtual_service(
    name: str,
    *,
    hosts: Iterable[str] = ("shop.example.com",),
    gateways: str = "[edge]",
    http: str = "[{route: [{destination: {host: shop}}]}]",
    generation: int = 1,
    created: str = "2026-01-01T00:00:00Z",
    namespace: str = "web",
    rule: str = "",
) -> list[Resource]:
    """``rule``: the APIRule it was made from."""
    owner = f"{{{OWNER_NAME}: {rule}, {OWNER_NAMESPACE}: {namespace}}}" if rule else "{}"
    return decode(
        f"""
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata:
  name: {name}
  namespace: {namespace}
  uid: uid-{name}
  generation: {generation}
  labels: {owner}
  creationTimestamp: "{created}"
spec:
  hosts: [{", ".join(repr(host) for host in hosts)}]
  gateways: {gateways}
  http: {http}
"""
    )


def pod(name: str, *, sidecar: int = 0, labels: str = "{app: shop}", account: str = "x") -> str:
    proxy = ", {name: istio-proxy}" if sidecar else ""
    ports = f'[{{"port": 80, "app": "127.0.0.1:1", "sidecar": {sidecar}}}]'
    return f"""
---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: web
  labels: {labels}
  annotations: {{apirule.local/ports: '{ports}'}}
spec: {{serviceAccountName: {account}, containers: [{{name: app}}{proxy}]}}
"""


def endpoints(name: str, port: int, *, ready: str = "true", service: str = "shop") -> str:
    return f"""
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: web, labels: {{kubernetes.io/service-name: {service}}}}}
ports: [{{name: http, port: {port}}}]
endpoints:
  - addresses: [127.0.0.1]
    conditions: {{ready: {ready}}}
    targetRef: {{kind: Pod, name: {name}}}
"""
