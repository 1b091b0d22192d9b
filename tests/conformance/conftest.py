"""One witness and one set of rules for all cases."""

from collections.abc import Iterator

import pytest
from instance import Instance
from tests.conformance.lab import Lab, opened


@pytest.fixture(scope="session")
def lab(instance: Instance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with opened(instance, tmp_path_factory.mktemp("lab")) as made:
        yield made
