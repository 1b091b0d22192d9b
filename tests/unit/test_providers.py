"""The mesh configuration: what is read from it, and what is said of the rest."""

import pytest
from tests.hostile import TEXTS

from apirule import providers
from apirule.apis.core import ConfigMap
from apirule.apis.mesh_config import ExtAuthzGrpc, ExtAuthzHttp
from apirule.apis.meta import ObjectMeta
from apirule.providers import Fault, Provider


def read(mesh: str | None, key: str = "mesh") -> providers.Providers:
    data = None if mesh is None else {key: mesh}
    return providers.read(ConfigMap(metadata=ObjectMeta(name="istio"), data=data))


def one(entry: str) -> Provider:
    (found,) = read(f"extensionProviders: [{entry}]").by_name.values()
    return found


def test_http_and_grpc_authorizers_are_read() -> None:
    found = read("""
extensionProviders:
  - {name: a, envoyExtAuthzHttp: {service: a.b, port: "80", pathPrefix: /x}}
  - {name: b, envoyExtAuthzGrpc: {service: c.d, port: 9000, failOpen: true}}
""").by_name

    assert found["a"].config == ExtAuthzHttp(service="a.b", port=80, path_prefix="/x")
    assert found["b"].config == ExtAuthzGrpc(service="c.d", port=9000, fail_open=True)
    assert (found["a"].is_http, found["b"].is_http) == (True, False)


def test_of_two_with_one_name_the_first_counts() -> None:
    found = read("""
extensionProviders:
  - {name: a, zipkin: {}}
  - {name: a, envoyExtAuthzHttp: {service: a.b, port: 80}}
""").by_name

    assert found == {"a": Provider("a", None, is_http=False)}


@pytest.mark.parametrize(
    ("mesh", "fault"),
    [
        (None, Fault.NO_KEY),
        ("extensionProviders: [", Fault.NOT_YAML),
        ("- a", Fault.NOT_YAML),
        ("text", Fault.NOT_YAML),
        ("2026-99-99", Fault.NOT_YAML),
        ("!!python/object:os.system {}", Fault.NOT_YAML),
    ],
)
def test_a_configuration_that_cannot_be_read_has_a_fault(mesh: str | None, fault: Fault) -> None:
    assert read(mesh) == providers.Providers(fault=fault)


def test_without_the_config_map_there_is_a_fault_too() -> None:
    assert providers.read(None).fault is Fault.MISSING


@pytest.mark.parametrize(
    "mesh",
    ["", "{}", "extensionProviders:", "extensionProviders: 1", "extensionProviders: [1, {}]"],
)
def test_a_configuration_without_providers_knows_none(mesh: str) -> None:
    assert read(mesh) == providers.Providers()


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ("{name: a, envoyExtAuthzHttp: {service: 1}}", "cannot be read"),
        ("{name: a, envoyExtAuthzHttp: 1}", "cannot be read"),
        ("{name: a, envoyExtAuthzHttp: {port: 1.5}}", "cannot be read"),
        ("{name: a, envoyExtAuthzHttp: {retries: 1}}", "envoyExtAuthzHttp.retries"),
        ("{name: a, envoyExtAuthzHttp: {}, other: 1}", "other"),
        ("{name: a, envoyExtAuthzHttp: {}, envoyExtAuthzGrpc: {}}", "at once"),
    ],
)
def test_an_authorizer_that_is_not_understood_cannot_be_used(entry: str, fault: str) -> None:
    provider = one(entry)

    assert provider.config is None
    assert fault in provider.fault


def test_other_names_of_the_mesh_are_read_as_far_as_they_are_names() -> None:
    text = "trustDomainAliases: [old.mesh, 'a/b', 3, old.mesh, older]"

    assert providers.trust_domain_aliases(text) == ("old.mesh", "older")
    assert providers.trust_domain_aliases("- x") == ()
    assert providers.trust_domain_aliases("trustDomainAliases: x") == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", []),
        ("trustDomain: cluster.local\nrootNamespace: istio-system", []),
        ("trustDomain: my.mesh", ["trustDomain"]),
        ("accessLogFile: /dev/stdout\nextensionProviders: []", ["accessLogFile"]),
        ("trustDomainAliases: [a, 'b/c']", ["'b/c' in trustDomainAliases"]),
        ("trustDomainAliases: a", ["trustDomainAliases is not a list"]),
        ("[", ["The key"]),
    ],
)
def test_what_has_no_effect_is_remarked(text: str, said: list[str]) -> None:
    found = list(providers.remarks(text))

    assert len(found) == len(said)
    assert all(sentence.startswith(start) for sentence, start in zip(found, said, strict=True))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_configuration_that_would_exhaust_the_process_is_no_yaml(text: str) -> None:
    assert read(text).fault is Fault.NOT_YAML
