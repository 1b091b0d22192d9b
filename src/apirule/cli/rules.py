"""The APIRules of the instance, read by whoever explains what they do to a request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from apirule.apis import scheme
from apirule.apis.gateway import v2
from apirule.apis.meta import Object
from apirule.cli import instance
from apirule.cli.asked import Known
from apirule.problem import SetupError
from apirule.settings import Settings

if TYPE_CHECKING:
    from apirule.kube.client import Client


def of_instance() -> list[v2.APIRule]:
    """Return the APIRules. SetupError, ApiError: the API server does not answer."""

    async def work(client: Client) -> list[Object]:
        return (await client.list(v2.APIRule.gvk)).items

    return list(typed(instance.with_client(work)))


def known(settings: Settings) -> Known | None:
    """Return what requests can be compared with; None: nobody can tell now."""
    from apirule.kube.errors import ApiError

    if not instance.is_running(settings):
        return None
    try:
        return Known(of_instance(), settings.domain)
    except (SetupError, ApiError):
        return None


def typed(objects: Iterable[Object]) -> Iterator[v2.APIRule]:
    for obj in objects:
        try:
            yield scheme.decode(obj, v2.APIRule)
        except msgspec.ValidationError:
            continue  # its status says so
