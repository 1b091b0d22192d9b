"""The small parts of a request: selectors, bodies, protobuf, media types; and what is printed."""

from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from tests.hostile import TEXTS

from apirule.local.apiserver import protobuf
from apirule.local.apiserver.ages import age
from apirule.local.apiserver.bodies import decode, decode_patch
from apirule.local.apiserver.errors import StatusError
from apirule.local.apiserver.http import MediaType, warning_header, warning_headers
from apirule.local.apiserver.jsonpath import PathError, parse
from apirule.local.apiserver.kinds import version_rank
from apirule.local.apiserver.routing import Path, split
from apirule.local.apiserver.selectors import Selection, parse_fields, parse_labels
from apirule.local.store import Record
from apirule.names import ObjectName
from apirule.schema import builtin_kinds, from_crd

NOW = datetime(2026, 1, 10, tzinfo=UTC)
GADGETS = yaml.safe_load("""
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Gadget, plural: gadgets}
  versions:
  - name: v1
    served: true
    storage: true
    selectableFields: [{jsonPath: .spec.color}, {jsonPath: .spec.big}]
""")
KINDS = {kind.kind: kind for kind in (*builtin_kinds(), *from_crd(GADGETS))}
JSON = MediaType("application/json", {})
YAML = MediaType("application/yaml", {})
APPLY = MediaType("application/apply-patch+yaml", {})


@pytest.mark.parametrize(
    ("selector", "labels", "matches"),
    [
        ("a=b", {"a": "b"}, True),
        ("a==b", {"a": "c"}, False),
        ("a!=b", {}, True),
        ("a in (b, c)", {"a": "c"}, True),
        ("a notin (b,c)", {"a": "c"}, False),
        ("a notin (b,c)", {}, True),
        ("a", {"a": ""}, True),
        ("!a", {"a": ""}, False),
        ("a=,b", {"a": "", "b": "1"}, True),
        ("x.y/z=1,a!=b", {"x.y/z": "1"}, True),
        ("a>1", {"a": "2"}, True),
        ("a > 1,b", {"a": "2"}, False),
        ("a<-1", {"a": "-2"}, True),
        ("a<1", {"a": "1"}, False),
        ("a>1", {"a": "x"}, False),
        ("a>1", {}, False),
        ("", {}, True),
    ],
)
def test_a_label_selector_matches(selector: str, labels: dict[str, str], matches: bool) -> None:
    assert all(r.met_by(labels) for r in parse_labels(selector)) is matches


@pytest.mark.parametrize(
    "selector", ["a in (", "a in b", "=b", "a=b c", "a <> b", ",", "!", "a>b", "a>"]
)
def test_a_malformed_label_selector_is_400(selector: str) -> None:
    with pytest.raises(StatusError) as refused:
        parse_labels(selector)

    assert refused.value.code == 400


def test_a_field_selector_knows_the_fields_of_its_kind() -> None:
    record = Record(1, ObjectName("n", "p"), b'{"metadata":{},"status":{"phase":"Running"}}')

    running = Selection((), parse_fields("status.phase=Running", KINDS["Pod"]))
    others = Selection((), parse_fields("status.phase!=Running", KINDS["Pod"]))
    named = Selection((), parse_fields("metadata.name=q", KINDS["Pod"]))

    assert running.matches(record)
    assert not others.matches(record)
    assert not named.matches(record)
    for kind in ("Gadget", "ConfigMap"):
        with pytest.raises(StatusError, match="not supported"):
            parse_fields("spec.x=1", KINDS[kind])


def test_a_field_selector_knows_the_fields_that_a_crd_names() -> None:
    record = Record(1, ObjectName("n", "g"), b'{"metadata":{},"spec":{"big":true,"color":"red"}}')

    fields = parse_fields("spec.color=red,spec.big=true", KINDS["Gadget"])
    others = parse_fields("spec.color!=red", KINDS["Gadget"])

    assert Selection((), fields).matches(record)
    assert not Selection((), others).matches(record)


def test_a_repeated_key_is_reported_with_its_path_and_the_last_one_counts() -> None:
    body = b'{"a": 1, "spec": {"x": [{"b": 1, "b": 2}]}, "a": 3}'

    obj, duplicates = decode(body, JSON, "Thing")

    assert obj == {"a": 3, "spec": {"x": [{"b": 2}]}}
    assert duplicates == ["a", "spec.x[0].b"]


def test_yaml_is_read_as_kubernetes_does() -> None:
    body = b"metadata: {name: a}\nday: 2026-01-01\nyes: on\n1: x\nday: 2026-01-02\n"

    obj, duplicates = decode(body, YAML, "Thing")

    assert obj == {"metadata": {"name": "a"}, "day": "2026-01-02", "true": True, "1": "x"}
    assert duplicates == ["day"]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("media_type", [JSON, YAML, APPLY], ids=lambda m: m.name)
def test_a_body_that_would_exhaust_the_process_is_400(media_type: MediaType, text: str) -> None:
    with pytest.raises(StatusError) as refused:
        decode(text.encode(), media_type, "Thing")
    with pytest.raises(StatusError) as also_refused:
        decode_patch(text.encode())

    assert (refused.value.code, also_refused.value.code) == (400, 400)
    assert len(refused.value.message) < 1000


@pytest.mark.parametrize("body", [b"[1]", b"{", b'{"a": NaN}', b"\xff", rb'{"a":"\ud800"}'])
def test_a_body_that_is_no_object_is_400(body: bytes) -> None:
    with pytest.raises(StatusError) as refused:
        decode(body, JSON, "Thing")

    assert refused.value.code == 400


def field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return bytes((number << 3,)) + varint(value)
    return bytes((number << 3 | 2,)) + varint(len(value)) + value


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = b""
    while value >= 0x80:
        out += bytes((value & 0x7F | 0x80,))
        value >>= 7
    return out + bytes((value,))


def envelope(api_version: str, kind: str, raw: bytes) -> bytes:
    type_meta = field(1, api_version.encode()) + field(2, kind.encode())
    return b"k8s\0" + field(1, type_meta) + field(2, raw)


def test_protobuf_gives_the_object_that_json_would_give() -> None:
    port = field(2, b"TCP") + field(3, 80) + field(4, field(1, 1) + field(3, b"http"))
    spec = field(1, port) + field(2, field(1, b"app") + field(2, b"x"))
    meta = field(1, b"s") + field(2, b"") + field(8, field(1, 1_767_225_600))

    service = protobuf.decode(envelope("v1", "Service", field(1, meta) + field(2, spec)))

    assert service == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "ports": [{"protocol": "TCP", "port": 80, "targetPort": "http"}],
            "selector": {"app": "x"},
        },
    }


def test_protobuf_keeps_a_zero_that_was_written_on_purpose() -> None:
    deployment = protobuf.decode(envelope("apps/v1", "Deployment", field(2, field(1, 0))))

    assert deployment["spec"] == {"replicas": 0}


def test_protobuf_reads_negative_numbers_and_bytes() -> None:
    event = protobuf.decode(envelope("v1", "Event", field(8, -1)))
    secret = protobuf.decode(
        envelope("v1", "Secret", field(2, field(1, b"k") + field(2, b"\x00\xff")))
    )

    assert event["count"] == -1
    assert secret["data"] == {"k": "AP8="}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"k8s\0\xff",
        b"{}",
        envelope("v1", "Unicorn", b""),
        envelope("v1", "Service", b"\x0a\xff\x01"),
        envelope("v1", "Service", b"\x0b"),
        envelope("v1", "Service", field(1, 7)),
        envelope("v1", "Service", b"\x08" + b"\xff" * 11),
    ],
)
def test_protobuf_that_is_broken_or_unknown_is_refused(body: bytes) -> None:
    with pytest.raises(protobuf.ProtobufError):
        protobuf.decode(body)


def test_parameters_of_a_media_type_come_in_any_order() -> None:
    one = MediaType.parse("application/json;as=Table;v=v1;g=meta.k8s.io")
    two = MediaType.parse("application/json; g=meta.k8s.io; v=v1; as=Table")

    assert one == two


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ('say "x"\r\nSet-Cookie: y', r'299 - "say \"x\" Set-Cookie: y"'),
        ("a\x00b\x7f c", '299 - "a b c"'),
        ("cut off … ü", '299 - "cut off … ü"'),
    ],
)
def test_a_warning_stays_one_header_line(text: str, header: str) -> None:
    assert warning_header(text).decode() == header


@pytest.mark.parametrize("length", [10, 100, 5000])
def test_an_answer_has_no_more_warnings_than_clients_bear(length: int) -> None:
    texts = [f"{n} ".ljust(length, "x") for n in range(300)]

    *told, (_, last) = warning_headers([*texts, *texts])

    assert len(told) <= 64
    assert sum(len(text) for text in texts[: len(told)]) <= 4096
    assert last.decode() == f'299 - "{300 - len(told)} more warnings"'


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("api/v1/pods", Path("", "v1", "", "pods", "", "")),
        ("api/v1/namespaces", Path("", "v1", "", "namespaces", "", "")),
        ("api/v1/namespaces/n", Path("", "v1", "", "namespaces", "n", "")),
        ("api/v1/namespaces/n/status", Path("", "v1", "", "namespaces", "n", "status")),
        ("api/v1/namespaces/n/pods", Path("", "v1", "n", "pods", "", "")),
        ("api/v1/namespaces/n/pods/p/log", Path("", "v1", "n", "pods", "p", "log")),
        ("apis/g.io/v2/things/t", Path("g.io", "v2", "", "things", "t", "")),
        ("metrics", None),
        ("api/v1", None),
    ],
)
def test_a_path_is_taken_apart(path: str, found: Path | None) -> None:
    assert split(tuple(path.split("/"))) == found


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".a.b", [1]),
        (".list[0].v", ["x"]),
        (".list[*].v", ["x", "y"]),
        ('.list[?(@.t=="B")].v', ["y"]),
        (".map['k.l']", [2]),
        (".nothing.here", []),
    ],
)
def test_a_printer_column_finds_its_value(path: str, found: list[Any]) -> None:
    items = [{"t": "A", "v": "x"}, {"t": "B", "v": "y"}]

    assert parse(path).find({"a": {"b": 1}, "list": items, "map": {"k.l": 2}}) == found


def test_a_path_that_is_not_understood_is_refused() -> None:
    with pytest.raises(PathError):
        parse(".a..b")


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        ("2026-01-09T23:59:15Z", "45s"),
        ("2026-01-09T23:56:40Z", "3m20s"),
        ("2026-01-09T23:15:00Z", "45m"),
        ("2026-01-09T19:00:00Z", "5h"),
        ("2026-01-09T18:30:00Z", "5h30m"),
        ("2026-01-09T01:00:00Z", "23h"),
        ("2026-01-06T20:00:00Z", "3d4h"),
        ("2025-12-01T00:00:00Z", "40d"),
        ("2023-01-10T00:00:00Z", "3y1d"),
        ("", "<unknown>"),
        (None, "<unknown>"),
        ("2027-01-01T00:00:00Z", "<invalid>"),
    ],
)
def test_an_age_is_short(moment: object, text: str) -> None:
    assert age(moment, NOW) == text


def test_versions_are_ordered_by_how_stable_they_are() -> None:
    versions = ["v1alpha1", "v1beta1", "foo", "v1", "v2", "v1beta2", "v2alpha1"]

    ordered = sorted(versions, key=version_rank)

    assert ordered == ["v2", "v1", "v1beta2", "v1beta1", "v2alpha1", "v1alpha1", "foo"]
