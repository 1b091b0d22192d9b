import yaml
from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import TlsCertificate
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret

from apirule.mesh.config import ProxyConfig, TypeUrl
from apirule.mesh.render import render


def test_private_keys_are_redacted_and_certificates_are_not() -> None:
    certificate = TlsCertificate(
        certificate_chain=DataSource(inline_string="CERTIFICATE"),
        private_key=DataSource(inline_string="PRIVATE"),
    )
    secret = Secret(name="gateway", tls_certificate=certificate)

    text = yaml.safe_dump(render(ProxyConfig({TypeUrl.SECRET: {"gateway": secret}})))

    assert "CERTIFICATE" in text
    assert "PRIVATE" not in text


def test_sections_hold_resources_in_the_order_of_their_names() -> None:
    routes = {name: RouteConfiguration(name=name) for name in ("b", "a")}

    rendered = render(ProxyConfig({TypeUrl.ROUTE: routes, TypeUrl.CLUSTER: {}}))

    assert rendered == {"routes": [{"name": "a"}, {"name": "b"}]}


def test_extensions_stand_with_their_type() -> None:
    extension = TypedExtensionConfig(name="allow")
    extension.typed_config.Pack(RBAC(rules_stat_prefix="x"))

    (rendered,) = render(ProxyConfig({TypeUrl.EXTENSION: {"allow": extension}}))["filters"]

    assert rendered["typed_config"] == {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "rules_stat_prefix": "x",
    }
