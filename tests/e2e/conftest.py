"""One instance, started as a user starts it, for all tests of this folder."""

from collections.abc import Iterator

import pytest
from instance import Instance, running


@pytest.fixture(scope="session")
def instance() -> Iterator[Instance]:
    with running("--demo") as started:
        yield started
