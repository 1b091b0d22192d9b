"""The hash of the Kyma operator, byte for byte."""

import json
from pathlib import Path
from typing import Any

import pytest

from apirule.apis.security import Operation
from apirule.translate.hashing import namespace_hash, policy_hash

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "hash.json").read_text())


@pytest.mark.parametrize("vector", VECTORS)
def test_the_label_is_the_one_of_the_kyma_operator(vector: dict[str, Any]) -> None:
    operation = Operation(
        hosts=tuple(vector["Hosts"]),
        methods=tuple(vector["Methods"]),
        paths=tuple(vector["Paths"]),
        not_paths=tuple(vector["NotPaths"] or ()),
    )

    assert policy_hash(vector["Ns"], vector["Sel"], operation) == vector["Label"]


def test_the_namespace_is_the_first_part() -> None:
    assert namespace_hash("default") == "3dwn0t8m8jhso"
