from typing import Any

import pytest

from apirule.local.istio_admission import remarks
from apirule.mesh.config import MeshSettings


def said(kind: str, group: str, spec: Any, **more: Any) -> list[str]:
    obj = {
        "apiVersion": f"{group}/v1",
        "kind": kind,
        "metadata": {"namespace": "default", "name": "x"},
        "spec": spec,
    }
    return list(remarks(obj, MeshSettings()))


NETWORKING, SECURITY = "networking.istio.io", "security.istio.io"


@pytest.mark.parametrize(
    ("kind", "group", "spec", "texts"),
    [
        (
            "VirtualService",
            NETWORKING,
            {"hosts": ["a"], "tcp": [], "http": [{"redirect": {"uri": "/"}, "timeot": "3s"}]},
            ["spec.tcp: It is not implemented", "spec.http[0].timeot: There is no such field"],
        ),
        ("AuthorizationPolicy", SECURITY, {"action": "PERMIT"}, ["spec.action: "]),
        ("DestinationRule", NETWORKING, {"host": "a_b"}, ["spec.host: "]),
        (
            "ServiceEntry",
            NETWORKING,
            {"hosts": ["a"]},
            ["spec.hosts[0]", "spec.ports", "spec.reso"],
        ),
        ("PeerAuthentication", SECURITY, {"mtls": {"mode": "STRICT"}}, []),
        ("PeerAuthentication", SECURITY, {"mtls": []}, ["spec.mtls: Expected"]),
        ("Gateway", "gateway.networking.k8s.io", {"colour": 1}, []),
    ],
)
def test_the_writer_of_an_object_hears_what_the_engine_will_say(
    kind: str, group: str, spec: Any, texts: list[str]
) -> None:
    found = said(kind, group, spec)

    assert len(found) == len(texts)
    assert all(one.startswith(text) for one, text in zip(found, texts, strict=True))


def test_what_has_no_effect_in_the_mesh_configuration_is_remarked() -> None:
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": "istio-system", "name": "istio"},
        "data": {"mesh": "enableTracing: true"},
    }
    other = {**config, "metadata": {"namespace": "default", "name": "istio"}}

    assert list(remarks(config, MeshSettings())) == [
        "data.mesh: enableTracing is not implemented here and has no effect."
    ]
    assert list(remarks(other, MeshSettings())) == []
