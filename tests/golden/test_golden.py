"""The one runner of golden pairs: a small commented manifest, and the whole output it gives.

``pytest --update-golden`` writes the outputs and removes stale ones.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from apirule.apis import core, scheme
from apirule.apis.gateway import v1alpha1, v2
from apirule.apis.meta import GroupVersionKind, Resource
from apirule.facts import Facts
from apirule.problem import Severity
from apirule.translate import rate_limit, status, translate
from apirule.validate import admission_warnings, validate

HERE = Path(__file__).parent


def _load(text: str) -> tuple[v2.APIRule, Facts, dict[str, Any]]:
    """Read the one APIRule of a manifest, and all other objects as facts."""
    objects = list(yaml.load_all(text, Loader=yaml.CSafeLoader))
    (obj,) = (o for o in objects if o["kind"] == "APIRule")
    return scheme.decode(obj, v2.APIRule), Facts.of(_decoded(objects)), obj


def _decoded(objects: list[dict[str, Any]]) -> list[Resource]:
    decoded = []
    for obj in objects:
        kind = scheme.type_of(GroupVersionKind.of(obj))
        assert kind is not None, f"no type for {obj['kind']}"
        assert list(scheme.unknown_fields(obj, kind)) == []
        decoded.append(scheme.decode(obj, kind))
    return decoded


def _dump(value: Any) -> str:
    return yaml.dump(value, Dumper=yaml.CSafeDumper, sort_keys=False, width=100, allow_unicode=True)


def _translate(text: str) -> str:
    rule, facts, _ = _load(text)

    outcome = translate(rule, facts)

    assert outcome.resources is not None, [str(problem) for problem in outcome.problems]
    return "---\n".join(_dump(scheme.encode(resource)) for resource in outcome.resources)


def _validate(text: str) -> str:
    """Give the problems, what the status says of them, and what the writer is told at once."""
    rule, facts, obj = _load(text)

    problems = validate(rule, facts)

    errors = [problem for problem in problems if problem.severity is Severity.ERROR]
    return _dump(
        {
            "description": status.describe(errors) if errors else "",
            "problems": [
                {
                    "severity": str(problem.severity),
                    "field": str(problem.field),
                    "reason": str(problem.reason),
                    "message": problem.message,
                    "fix": problem.fix,
                }
                for problem in problems
            ],
            "warnings": admission_warnings(obj, facts=lambda: facts),
        }
    )


def _rate_limit(text: str) -> str:
    """Give the EnvoyFilter of the first RateLimit, or else its status and the problems."""
    resources = _decoded(list(yaml.load_all(text, Loader=yaml.CSafeLoader)))
    limits = [one for one in resources if isinstance(one, v1alpha1.RateLimit)]
    pods = [one for one in resources if isinstance(one, core.Pod)]

    outcome = rate_limit.translate(limits[0], pods, limits)

    if outcome.resource is not None:
        return _dump(scheme.encode(outcome.resource))
    said = rate_limit.status_of(outcome, status.NOT_REPORTED)
    return _dump(
        {
            "state": str(said.state),
            "description": said.description,
            "problems": [
                f"{problem.field}: {problem.reason}. {problem.fix}" for problem in outcome.problems
            ],
        }
    )


PARTS: dict[str, Callable[[str], str]] = {
    "translate": _translate,
    "validate": _validate,
    "rate_limit": _rate_limit,
}
INPUTS = [path for part in PARTS for path in sorted((HERE / part).glob("*.in.yaml"))]


@pytest.mark.parametrize(
    "case", INPUTS, ids=lambda path: f"{path.parent.name}/{path.name.removesuffix('.in.yaml')}"
)
def test_an_input_gives_exactly_its_output(case: Path, pytestconfig: pytest.Config) -> None:
    expected = case.with_name(case.name.replace(".in.", ".out."))

    actual = PARTS[case.parent.name](case.read_text())

    if pytestconfig.getoption("--update-golden"):
        expected.write_text(actual)
    assert actual == expected.read_text()


def test_every_output_has_an_input(pytestconfig: pytest.Config) -> None:
    outputs = [path for part in PARTS for path in (HERE / part).glob("*.out.yaml")]

    stale = [
        path for path in outputs if path.with_name(path.name.replace(".out.", ".in.")) not in INPUTS
    ]

    if pytestconfig.getoption("--update-golden"):
        for path in stale:
            path.unlink()
        stale = []
    assert stale == []
