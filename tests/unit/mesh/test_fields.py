from typing import Any

import pytest

from apirule.apis import networking, traffic
from apirule.mesh import fields
from apirule.problem import Problem, Reason


def found(spec: dict[str, Any], kind: Any = networking.VirtualService) -> list[Problem]:
    return list(fields.problems({"spec": spec}, kind))


def test_what_istio_has_and_we_have_not_is_told_from_what_nobody_has() -> None:
    delegated, misspelt = found({"http": [{"delegate": {"name": "x"}, "timeot": "3s"}]})

    assert (str(delegated.field), delegated.reason) == (
        "spec.http[0].delegate",
        Reason.NOT_IMPLEMENTED,
    )
    assert (str(misspelt.field), misspelt.reason) == ("spec.http[0].timeot", Reason.UNKNOWN_FIELD)
    assert '"timeout"' in misspelt.message


@pytest.mark.parametrize(
    "spec",
    [
        {"trafficPolicy": {"tunnel": {}}},
        {"subsets": [{"trafficPolicy": {"tls": {"caCrl": "/a"}}}]},
        {"trafficPolicy": {"portLevelSettings": [{"loadBalancer": {"warmup": {}}}]}},
        {
            "subsets": [
                {
                    "trafficPolicy": {
                        "portLevelSettings": [{"connectionPool": {"tcp": {"idleTimeout": 1}}}]
                    }
                }
            ]
        },
    ],
)
def test_a_policy_of_a_port_or_a_subset_has_the_same_fields(spec: dict[str, Any]) -> None:
    (problem,) = found(spec, traffic.DestinationRule)

    assert problem.reason is Reason.NOT_IMPLEMENTED


def test_a_field_like_no_other_is_not_guessed_at() -> None:
    (problem,) = found({"colour": "red"})

    assert problem.message == "There is no such field."
