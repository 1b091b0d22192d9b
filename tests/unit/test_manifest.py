"""Manifests: what is read, where it stands, and what is said about mistakes."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.hostile import TEXTS

from apirule import manifest
from apirule.manifest import Position
from apirule.problem import ROOT, SPEC, FieldPath, Reason, Severity

HEAD = "apiVersion: v1\nkind: Thing\n"

# The example of a published tutorial, wrong as it stands there.
TUTORIAL = """\
apiVersion: gateway.kyma-project.io/v2
kind: APIRule
metadata:
  name: {APIRULE_NAME}
  namespace: {APIRULE_NAMESPACE}
spec:
  hosts:
    - {SUBDOMAIN}.{DOMAIN_NAME}
  service:
    name: {SERVICE_NAME}
    port: {SERVICE_PORT}
  gateway: {GATEWAY_NAME}/{GATEWAY_NAMESPACE}
  rules:
    - jwt:
        authentications:
          -  issuer: {ISSUER}
              jwksUri: {JWKS_URI}
      methods:
        - GET
      path: /*
"""


def findings(text: str) -> list[str]:
    return [str(finding) for finding in manifest.load(text, source="f.yaml").findings]


def value_of(text: str) -> Any:
    """Read `a: text` and return what a is."""
    (obj,) = manifest.load(f"{HEAD}a: {text}\n").objects
    return obj["a"]


def test_documents_and_lists_are_taken_apart() -> None:
    text = """\
# a comment
---
apiVersion: v1
kind: A
---
---
apiVersion: v1
kind: List
items:
  - {apiVersion: v1, kind: B}
  - {apiVersion: v1, kind: C}
---
apiVersion: v1
kind: DList
items: [{metadata: {name: d}}]
"""

    loaded = manifest.load(text)

    assert [obj["kind"] for obj in loaded.objects] == ["A", "B", "C", "D"]
    assert loaded.findings == ()


def test_json_is_read_with_tabs_and_all() -> None:
    text = '{\n\t"apiVersion": "v1",\n\t"kind": "A",\n\t"n": "a\\tb"\n}'

    (one,) = manifest.load(text).manifests

    assert one.object == {"apiVersion": "v1", "kind": "A", "n": "a\tb"}
    assert one.position(FieldPath("n")) == Position(4, 2)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True),
        ("Off", False),
        ("y", True),
        ("'yes'", "yes"),
        ("2026-01-31", "2026-01-31"),
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
        ("20:30", "20:30"),
        ("0644", 420),
        ("0o644", 420),
        ("0x1F", 31),
        ("-12", -12),
        ("1_000", 1000),
        ("1e3", 1000.0),
        ("1.5", 1.5),
        ("1.2.3", "1.2.3"),
        ("~", None),
        ("", None),
        ("100m", "100m"),
        ("{1: a, true: b, 1.5: c}", {"1": "a", "true": "b", "1.5": "c"}),
        ("{b: &x {c: 1}, d: {<<: *x, e: 2}}", {"b": {"c": 1}, "d": {"c": 1, "e": 2}}),
        ("{b: &x {c: 1}, d: {c: 3, <<: *x}}", {"b": {"c": 1}, "d": {"c": 3}}),
    ],
)
def test_values_are_read_as_kubectl_reads_them(text: str, value: object) -> None:
    read = value_of(text)

    assert read == value
    assert type(read) is type(value)


def test_a_field_has_a_place() -> None:
    text = """\
---
apiVersion: v1
kind: Thing
---
apiVersion: v1
kind: Thing
spec:
  hosts:
    - a
    - b
  rules:
    - path: /
"""
    _, second = manifest.load(text).manifests

    assert second.position(ROOT) == Position(5, 1)
    assert second.position(SPEC / "hosts") == Position(8, 3)
    assert second.position(SPEC / "hosts" / 1) == Position(10, 7)
    assert second.position(SPEC / "rules" / 0 / "path") == Position(12, 7)
    assert second.position(SPEC / "rules" / 0 / "methods") == Position(12, 7)
    assert second.position(FieldPath("<nil>")) == Position(5, 1)


def test_the_tutorial_is_told_all_its_mistakes_at_once() -> None:
    found = findings(TUTORIAL)

    assert (
        "f.yaml:17:22: error: 'jwksUri' is indented deeper than 'issuer' above it; "
        "both belong to one list item"
    ) in found
    assert "f.yaml:8:19: error: the placeholder {DOMAIN_NAME} has not been replaced" in found
    assert len(found) == 11
    assert manifest.load(TUTORIAL).objects == []


def test_the_tutorial_can_be_read_once_it_is_mended() -> None:
    text = TUTORIAL.replace("              jwksUri", "             jwksUri")
    for name in ("{SERVICE_PORT}", "{JWKS_URI}"):
        text = text.replace(name, "1")

    mended = text.replace("{", "x").replace("}", "x")

    assert findings(mended) == []
    assert findings(text) != []


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("spec:\n\thost: a\n", (2, 1), "indented with a tab; YAML allows only spaces"),
        ("a: 1\n\tb: 2\n", (2, 1), "indented with a tab; YAML allows only spaces"),
        ("hosts:\n- *.local\n", (2, 3), "a value that begins with '*' must stand in quotes"),
        ("a: @b\n", (1, 4), "a value that begins with '@' must stand in quotes"),
        ("a: 'b\nc: 1\n", (1, 4), "this quote is never closed"),
        ("a: [1, 2\nb: 3\n", (1, 4), "'[' is never closed by ']'"),
        ("a: b: c\n", (1, 5), "a value that contains ': ' must stand in quotes"),
        ("s:\n  a: 1\n b: 2\n", (3, 2), "'b' does not line up with any key above it"),
        ("s:\n  - a\n - b\n", (3, 2), "'- b' does not line up with the list it belongs to"),
        ("a: 1\nEOF\n", (2, 1), "'EOF' ends a here-document of the shell; it is no YAML"),
        ("name:a\nb: 1\n", (1, 1), "'name:a' is neither 'key: value' nor '- item'"),
        ('a: "\\q"\n', (1, 5), "a backslash in double quotes begins an escape"),
        (
            "a: 1\n  b: 2\n",
            (2, 4),
            "'b' is indented deeper than 'a' above it; both belong to one mapping",
        ),
        ("a: !!binary aGk=\n", (1, 4), "the tag binary is not allowed"),
        ("a: .nan\n", (1, 4), "'.nan' is no float that JSON can hold"),
        ("? [a]\n: b\n", (1, 3), "a list or a mapping cannot be a key"),
        ("- a\n", (1, 1), "a manifest is a mapping of fields"),
        ("apiVersion: v1\n", (1, 1), "kind: Required value"),
        ("a: \x01\n", (1, 4), "a character that YAML does not allow: control characters are not"),
    ],
)
def test_a_mistake_is_told_in_plain_words(text: str, place: tuple[int, int], message: str) -> None:
    loaded = manifest.load(text)

    (finding,) = loaded.findings
    assert finding.position == place
    assert finding.problem.message.startswith(message)
    assert finding.problem.fix
    assert loaded.objects == []


def test_a_broken_document_does_not_hide_the_others() -> None:
    text = f"{HEAD}a: [\n---\n{HEAD}---\n{HEAD}b: {{c: 1, c: 2}}\n"

    loaded = manifest.load(text)

    assert len(loaded.objects) == 1
    assert [(f.position.line, f.problem.reason) for f in loaded.findings] == [
        (4, Reason.MALFORMED),
        (10, Reason.DUPLICATE),
    ]
    assert loaded.has_errors


def test_a_key_given_twice_names_its_path_and_the_first() -> None:
    assert findings(f"{HEAD}spec:\n  timeout: 1\n  x: 1\n  timeout: 2\n") == [
        'f.yaml:6:3: error: duplicate field "spec.timeout", first given in line 4'
    ]


def test_keys_given_twice_are_found_in_json() -> None:
    text = '{"spec": {"timeout": 1, "timeout": 2, "l": [{"a": 1, "a": 2}]}, "spec2": 1, "kind": 1}'

    value, duplicates = manifest.read_json(text)

    assert duplicates == ["spec.timeout", "spec.l[0].a"]
    assert value == json.loads(text)
    assert manifest.read_json(b'{"a": 1}') == ({"a": 1}, [])


@pytest.mark.parametrize("text", ["{", "NaN", '{"a": Infinity}', "[" * 100_000])
def test_what_is_no_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        manifest.read_json(text)


@pytest.mark.parametrize("text", [r'"\ud800"', r'{"\uDFFF": 1}', "1e400", "9" * 5000])
def test_json_that_no_string_or_number_can_hold_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        manifest.read_json(text)


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert manifest.read_json(r'["\ud83d\ude00"]') == (["\U0001f600"], [])


def test_a_whole_number_beyond_64_bits_is_a_float_as_in_kubernetes() -> None:
    text = "[18446744073709551615, 99999999999999999999999]"

    assert manifest.read_json(text) == ([2**64 - 1, 1e23], [])
    assert manifest.read_yaml(text) == ([2**64 - 1, 1e23], [])


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_text_that_would_exhaust_the_process_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        manifest.read_yaml(text)
    loaded = manifest.load(text)
    assert loaded.has_errors
    assert loaded.objects == []
    with contextlib.suppress(ValueError):
        manifest.read_json(text)


def test_nesting_is_limited_alike_in_json_and_yaml() -> None:
    deep, too_deep = "[" * 150 + "]" * 150, "[" * 151 + "]" * 151

    assert manifest.read_json(deep) == manifest.read_yaml(deep)
    for read in (manifest.read_json, manifest.read_yaml):
        with pytest.raises(manifest.TooMuchError, match="nested deeper than 150"):
            read(too_deep)


def test_one_document_of_yaml_is_read_with_its_duplicates() -> None:
    assert manifest.read_yaml("") == (None, [])
    assert manifest.read_yaml(b"a: {b: 1, b: 2}\n1: yes") == ({"a": {"b": 2}, "1": True}, ["a.b"])


@pytest.mark.parametrize(
    "text", ["a: 1\n---\nb: 2\n", "a: !!binary eA==", "a: [", b"\xff", "a: .inf"]
)
def test_what_is_no_single_document_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        manifest.read_yaml(text)


HERE_DOCUMENT = "cat <<EOF | kubectl apply -f -\napiVersion: v1\nkind: A\nspec:\n  a: 1\n"


def test_a_here_document_without_an_end_is_told_and_not_applied() -> None:
    loaded = manifest.load(HERE_DOCUMENT + "```\nSome text: here.\n", source="f")

    assert [str(finding) for finding in loaded.findings] == [
        "f:1:5: error: the here-document <<EOF is never ended"
    ]
    assert loaded.objects == []


def test_a_here_document_with_its_end_is_read() -> None:
    loaded = manifest.load(HERE_DOCUMENT + "EOF\n")

    (one,) = loaded.manifests
    assert [finding.problem.severity for finding in loaded.findings] == [Severity.WARNING]
    assert one.object["kind"] == "A"
    assert one.position(SPEC / "a") == Position(5, 3)


def test_a_script_in_a_broken_manifest_is_no_here_document() -> None:
    text = f"{HEAD}data:\n  run: |\n    cat <<EOF\n    x\n    EOF\nspec:\n\ta: 1\n"

    assert findings(text) == ["f.yaml:9:1: error: indented with a tab; YAML allows only spaces"]


def test_an_indented_here_document_keeps_its_places() -> None:
    text = "".join(f"   {line}\n" for line in f"{HERE_DOCUMENT}EOF".splitlines())

    (one,) = manifest.load(text).manifests

    assert one.position(SPEC / "a") == Position(5, 6)


@pytest.mark.parametrize(
    ("line", "column", "left"),
    [
        ("namespace: $NAMESPACE", 12, "the shell variable $NAMESPACE has not been filled in"),
        ("host: httpbin.${DOMAIN}", 15, "the shell variable ${DOMAIN} has not been filled in"),
        ("name: {NAME}", 7, "the placeholder {NAME} has not been replaced"),
        ("name: '{NAME}.x'", 8, "the placeholder {NAME} has not been replaced"),
        ("name: <YOUR_NAME>", 7, "the placeholder <YOUR_NAME> has not been replaced"),
        ("url: {A}/{B}", 6, "the placeholder {A} has not been replaced"),
    ],
)
def test_a_placeholder_must_be_replaced(line: str, column: int, left: str) -> None:
    loaded = manifest.load(f"{HEAD}{line}\n")

    assert loaded.findings[0].position == Position(3, column)
    assert loaded.findings[0].problem.message == left
    assert loaded.objects == []


@pytest.mark.parametrize(
    "line",
    [
        "path: /a/{*}/{**}",
        "command: [sh, -c, $HOME]",
        "env: [{name: A, value: $HOME}]",
        "data: {script: '{NAME} $HOME'}",
        "text: costs $FIVE and more",
        "host: '%REQ(:AUTHORITY)%'",
        "selector: {app: A}",
        "price: $5",
    ],
)
def test_what_only_looks_like_a_placeholder_is_left_alone(line: str) -> None:
    assert findings(f"{HEAD}{line}\n") == []


def test_placeholders_can_be_taken_as_they_stand() -> None:
    text = f"{HEAD}namespace: $NAMESPACE\n"

    assert manifest.load(text, placeholders=False).objects[0]["namespace"] == "$NAMESPACE"


@given(
    st.text(alphabet=st.sampled_from("ab:-{}[]*&!|>'\"#%@ \n\t\r\x85\u2028$<EOF,?"), max_size=60)
)
def test_no_text_raises(text: str) -> None:
    loaded = manifest.load(text)

    assert all(finding.problem.message for finding in loaded.findings)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]))
    | st.sampled_from(["yes", "1e3", "0o7", "0644", "20:30", "2026-01-31", "<<", "=", "a\nb", "~"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abyn1", min_size=1), inner)
    ),
    max_leaves=8,
)


@given(JSON_VALUES)
def test_what_is_written_reads_back_the_same(value: Any) -> None:
    objects = [{"apiVersion": "v1", "kind": "K", "v": value}] * 2

    loaded = manifest.load(manifest.dump(objects), placeholders=False)

    assert loaded.objects == objects


def test_type_and_metadata_are_written_first_and_status_last() -> None:
    obj = {
        "status": {},
        "spec": {"b": 1, "a": 2},
        "metadata": {"labels": {"z": "1"}, "namespace": "ns", "name": "m"},
        "kind": "K",
        "apiVersion": "v1",
    }

    assert manifest.dump([obj]) == (
        "apiVersion: v1\nkind: K\nmetadata:\n  name: m\n  namespace: ns\n  labels:\n    z: '1'\n"
        "spec:\n  b: 1\n  a: 2\nstatus: {}\n"
    )


def test_text_we_wrote_must_be_right() -> None:
    assert manifest.documents("a: 1\n---\nb: 2\n") == [{"a": 1}, {"b": 2}]
    with pytest.raises(ValueError, match="duplicate field"):
        manifest.documents("a: 1\na: 2\n")


SEED = """\
    7.  To expose and secure your Service, replace all placeholders:

        ```
        cat <<EOF | kubectl apply -f -
        apiVersion: gateway.kyma-project.io/v2
        kind: APIRule
        spec:
          rules:
            - jwt:
                authentications:
                  -  issuer: {ISSUER}
                      jwksUri: {JWKS_URI}
              methods:
                - GET
        EOF
        ```
"""
"""The block of a tutorial as it stands there: indented, and with its mistake."""


def test_columns_of_an_indented_block_are_those_of_the_file() -> None:
    found = {finding.position: finding.problem.fix for finding in manifest.load(SEED).findings}

    lines = SEED.splitlines()
    colon = Position(12, lines[11].index(":") + 1)
    assert found[colon] == f"Put 'jwksUri' in column {lines[10].index('issuer') + 1}."
    mended = SEED.replace("    jwksUri", "   jwksUri").replace("{", "").replace("}", "")
    assert not manifest.load(mended).has_errors


@pytest.mark.parametrize(
    ("text", "column", "fix"),
    [
        ("hosts: [*.example.org]", 9, 'Write "*.example.org".'),
        ("hosts: [a.org, *.example.org, b.org]", 16, 'Write "*.example.org".'),
        ("a: {b: *.example.org, c: 1}", 8, 'Write "*.example.org".'),
        ("hosts: [\n  *.example.org,\n]", 3, 'Write "*.example.org".'),
        ("rules: [{path: /a/{*}, methods: [GET]}]", 16, 'Write "/a/{*}".'),
        ("rules: [{methods: [GET], path: /a/{*}/b/{**}}]", 32, 'Write "/a/{*}/b/{**}".'),
        ("hosts:\n  - *.example.org, b", 5, 'Write "*.example.org, b".'),
    ],
)
def test_a_value_within_brackets_ends_where_they_say(text: str, column: int, fix: str) -> None:
    (finding,) = manifest.load(text).findings

    assert (finding.position.column, finding.problem.fix) == (column, fix)
