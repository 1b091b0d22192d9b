"""What tests of controllers have in common."""

from collections.abc import AsyncIterator

import pytest
from tests.unit.controllers.fake_cluster import FakeCluster

from apirule.kube import informer as informer_module


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with FakeCluster().serve() as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(informer_module, "FIRST_DELAY_S", 0.002)
