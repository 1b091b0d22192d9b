from decimal import Decimal
from typing import Any

import pytest

from apirule.local.processes.quantities import read, resource

CAPACITY = {"cpu": 4, "memory": 8 << 30}
RESOURCES = {"limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("250m", "0.25"),
        ("2", "2"),
        (3, "3"),
        ("1.5Gi", "1610612736"),
        ("64Mi", "67108864"),
        ("1k", "1000"),
        ("2e3", "2000"),
        (".5", "0.5"),
    ],
)
def test_quantities(text: str | int, number: str) -> None:
    assert read(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "much", "1 Gi", "1Gib", "1i"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        read(text)


@pytest.mark.parametrize(
    ("reference", "resources", "value"),
    [
        ({"resource": "limits.cpu"}, RESOURCES, "2"),
        ({"resource": "limits.cpu", "divisor": "1m"}, RESOURCES, "1500"),
        ({"resource": "requests.cpu", "divisor": "1m"}, RESOURCES, "250"),
        ({"resource": "limits.memory", "divisor": "1Mi"}, RESOURCES, "64"),
        ({"resource": "limits.memory", "divisor": "0"}, RESOURCES, "67108864"),
        ({"resource": "requests.memory", "divisor": "1Mi"}, RESOURCES, "64"),
        ({"resource": "limits.cpu"}, {}, "4"),
        ({"resource": "requests.cpu"}, {}, "0"),
    ],
)
def test_what_a_container_may_use_as_text(
    reference: dict[str, str], resources: dict[str, Any], value: str
) -> None:
    assert resource(reference, resources, CAPACITY) == value


def test_a_resource_that_nobody_has_cannot_be_given() -> None:
    with pytest.raises(ValueError, match=r"limits\.gpu cannot be given"):
        resource({"resource": "limits.gpu"}, {}, CAPACITY)
