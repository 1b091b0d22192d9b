from collections.abc import AsyncIterator

import pytest
from tests.unit.kube.fake_api import FakeApi

from apirule.kube.client import Client


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with FakeApi().serve() as api:
        yield api


@pytest.fixture
async def client(api: FakeApi) -> AsyncIterator[Client]:
    async with Client(api.config) as client:
        yield client
