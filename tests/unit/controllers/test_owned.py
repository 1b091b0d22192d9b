"""What a controller has written itself is no reason to look again; what others write is."""

from typing import cast

import pytest

from apirule.apis.meta import Object
from apirule.controllers.owned import Owned
from apirule.kube.client import Client
from apirule.kube.informer import Delta, Informers
from apirule.translate.plan import Create, Delete, Update


class Server:
    """Takes everything, and counts versions."""

    version = 1

    def _stored(self, obj: Object) -> Object:
        self.version += 1
        return policy(str(self.version), obj["spec"])

    async def create(self, obj: Object) -> Object:
        return self._stored(obj)

    async def update(self, obj: Object) -> Object:
        return self._stored(obj)

    async def delete(self, *_: object, **__: object) -> None:
        """Forget it."""


def policy(version: str, spec: Object | None = None) -> Object:
    meta = {"namespace": "shop", "name": "a", "uid": "1", "resourceVersion": version}
    api_version = "security.istio.io/v1"
    return {
        "apiVersion": api_version,
        "kind": "AuthorizationPolicy",
        "metadata": meta,
        "spec": spec or {},
    }


@pytest.fixture
def owned() -> Owned:
    server = cast("Client", Server())
    return Owned(server, Informers(server))


async def test_our_own_write_is_no_news_and_whatever_follows_is(owned: Owned) -> None:
    made = cast("Object", await owned.write(Create(policy(""))))
    edited = cast("Object", await owned.write(Update(policy("2"))))

    assert owned.is_news(Delta(None, made)), "a later write has taken its place"
    assert not owned.is_news(Delta(made, edited))
    assert owned.is_news(Delta(edited, edited)), "told once"
    assert owned.is_news(Delta(edited, policy("9")))


async def test_a_deletion_is_news_whoever_asked_for_it(owned: Owned) -> None:
    made = cast("Object", await owned.write(Create(policy(""))))
    await owned.write(Delete(made))

    assert owned.is_news(Delta(made, None))
    assert owned.is_news(Delta(None, made)), "what has gone is forgotten"
