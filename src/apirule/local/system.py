"""The objects a fresh instance starts with: what a cluster with Kyma's modules would already hold.

Namespaces, the ingress gateway (a Deployment like any other), the default Gateway with its
certificate, and the issuer published under its host. Pure: settings in, objects out.
"""

from __future__ import annotations

import base64
from importlib import resources

import yaml

from apirule import providers
from apirule.apis.meta import Object
from apirule.names import ObjectName
from apirule.settings import Settings

GATEWAY = ObjectName("istio-system", "istio-ingressgateway")
DEFAULT_GATEWAY = ObjectName("kyma-system", "kyma-gateway")
HEALTH = ObjectName("istio-system", "istio-healthz")
API_GATEWAY = ObjectName("", "default")
CREDENTIAL = "kyma-gateway-certs"
ISSUER = ObjectName("kyma-system", "apirule-issuer")
LABELS = {"app": "istio-ingressgateway", "istio": "ingressgateway"}
MANAGED = {"app.kubernetes.io/managed-by": "apirule"}
HTTPS, HTTP = 443, 80


def namespaces() -> list[Object]:
    return [_object("v1", "Namespace", ObjectName("", name)) for name in _NAMESPACES]


_NAMESPACES = ("kyma-system", "istio-system")


def mesh_config() -> Object:
    """Return Istio's ConfigMap with a mesh configuration that knows no authorizers yet."""
    config_map = _object("v1", "ConfigMap", providers.CONFIG_MAP)
    return config_map | {"data": {providers.KEY: f"{providers.FIELD}: []\n"}}


def gateway_certificate(certificate_pem: bytes, key_pem: bytes) -> Object:
    """Return the Secret that Gateways name as ``kyma-gateway-certs``."""
    secret = _object("v1", "Secret", ObjectName(GATEWAY.namespace, CREDENTIAL))
    return secret | {
        "type": "kubernetes.io/tls",
        "data": {
            "tls.crt": base64.b64encode(certificate_pem).decode(),
            "tls.key": base64.b64encode(key_pem).decode(),
        },
    }


def ingress_gateway(settings: Settings) -> list[Object]:
    """Return Deployment, Service and ServiceAccount of the gateway Envoy.

    The Service says 443 and 80 as in a cluster; the ports of the Pod are where it really listens.
    """
    account = f"{GATEWAY.name}-service-account"
    ports = {"https": (HTTPS, settings.https_port), "http2": (HTTP, settings.http_port)}
    container = {
        "name": "istio-proxy",
        "image": "docker.io/istio/proxyv2",
        "ports": [
            {"name": name, "containerPort": port, "hostPort": port, "protocol": "TCP"}
            for name, (_, port) in ports.items()
        ],
    }
    deployment = _object("apps/v1", "Deployment", GATEWAY, LABELS) | {
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": LABELS},
            # The ports are this machine's own: the old one must be gone before the new one starts.
            "strategy": {"type": "Recreate"},
            "template": {
                "metadata": {"labels": LABELS},
                "spec": {"serviceAccountName": account, "containers": [container]},
            },
        }
    }
    service = _object("v1", "Service", GATEWAY, LABELS) | {
        "spec": {
            "selector": LABELS,
            "ports": [
                {"name": name, "port": port, "targetPort": target, "protocol": "TCP"}
                for name, (port, target) in ports.items()
            ],
        }
    }
    return [
        _object("v1", "ServiceAccount", ObjectName(GATEWAY.namespace, account)),
        service,
        deployment,
    ]


def default_gateway(settings: Settings) -> Object:
    """Return ``kyma-system/kyma-gateway``: TLS for ``*.<domain>``, plain http redirected to it."""
    hosts = [f"*.{settings.domain}"]
    return _object("networking.istio.io/v1beta1", "Gateway", DEFAULT_GATEWAY) | {
        "spec": {
            "selector": LABELS,
            "servers": [
                {
                    "port": {"number": HTTPS, "name": "https", "protocol": "HTTPS"},
                    "tls": {"mode": "SIMPLE", "credentialName": CREDENTIAL},
                    "hosts": hosts,
                },
                {
                    "port": {"number": HTTP, "name": "http", "protocol": "HTTP"},
                    "tls": {"httpsRedirect": True},
                    "hosts": hosts,
                },
            ],
        }
    }


def health(settings: Settings) -> Object:
    """Return ``istio-system/istio-healthz``: ``healthz.<domain>/healthz/ready`` answers 200."""
    return _object("networking.istio.io/v1beta1", "VirtualService", HEALTH) | {
        "spec": {
            "hosts": [f"healthz.{settings.domain}"],
            "gateways": [str(DEFAULT_GATEWAY)],
            "http": [
                {
                    "match": [{"uri": {"exact": "/healthz/ready"}}],
                    # The gateway answers itself: what is asked is whether it serves requests.
                    "directResponse": {"status": 200},
                }
            ],
        }
    }


def api_gateway() -> Object:
    """Return the APIGateway that asks for the default Gateway."""
    return _object("operator.kyma-project.io/v1alpha1", "APIGateway", API_GATEWAY) | {
        "spec": {"enableKymaGateway": True}
    }


def published_issuer(settings: Settings, port: int) -> list[Object]:
    """Publish the issuer, which listens on a loopback port, as plain http under its host.

    Browsers treat http on ``*.localhost`` as secure, and nobody meets a certificate warning at the
    first login.
    """
    slice_ = _object("discovery.k8s.io/v1", "EndpointSlice", ISSUER)
    slice_["metadata"]["labels"]["kubernetes.io/service-name"] = ISSUER.name
    return [
        _object("v1", "Service", ISSUER)
        | {"spec": {"ports": [{"name": "http", "port": HTTP, "targetPort": port}]}},
        slice_
        | {
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}],
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        },
        _object("networking.istio.io/v1beta1", "Gateway", ISSUER)
        | {
            "spec": {
                "selector": LABELS,
                "servers": [
                    {
                        "port": {"number": HTTP, "name": "http-issuer", "protocol": "HTTP"},
                        "hosts": [settings.issuer_host],
                    }
                ],
            }
        },
        _object("networking.istio.io/v1beta1", "VirtualService", ISSUER)
        | {
            "spec": {
                "hosts": [settings.issuer_host],
                "gateways": [str(ISSUER)],
                "http": [
                    {
                        "route": [
                            {
                                "destination": {
                                    "host": f"{ISSUER.name}.{ISSUER.namespace}.svc.cluster.local",
                                    "port": {"number": HTTP},
                                }
                            }
                        ]
                    }
                ],
            }
        },
    ]


def demo(settings: Settings) -> tuple[list[Object], list[Object]]:
    """Return the demo: httpbin behind a sidecar, and an APIRule that asks for a token."""
    text = resources.files("apirule.local.demo").joinpath("httpbin.yaml").read_text()
    text = text.replace("DOMAIN", settings.domain).replace("ISSUER", settings.issuer_url)
    *workload, rule = yaml.safe_load_all(text)
    return workload, [rule]


def _object(
    api_version: str, kind: str, name: ObjectName, labels: dict[str, str] | None = None
) -> Object:
    metadata: Object = {"name": name.name, "labels": {**MANAGED, **(labels or {})}}
    if name.namespace:
        metadata["namespace"] = name.namespace
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}
