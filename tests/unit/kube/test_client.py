import socket
from pathlib import Path

import pytest
from tests.unit.kube.fake_api import FakeApi

from apirule.apis.meta import GroupVersionKind
from apirule.kube.client import Client, PatchType
from apirule.kube.config import KubeConfig
from apirule.kube.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NoKindMatch,
    NotFound,
    TooManyRequests,
    Unauthorized,
    Unreachable,
)
from apirule.kube.wire import warnings
from apirule.names import ObjectName

CONFIG_MAP = GroupVersionKind("", "v1", "ConfigMap")
WIDGET = GroupVersionKind("test.io", "v1", "Widget")
NAME = ObjectName("shop", "orders")


async def test_an_object_is_created_read_replaced_and_deleted(api: FakeApi, client: Client) -> None:
    made = await client.create(
        {
            "apiVersion": "test.io/v1",
            "kind": "Widget",
            "metadata": {"namespace": "shop", "name": "orders"},
            "spec": {"size": 1},
        }
    )
    read = await client.get(WIDGET, NAME)
    replaced = await client.update(
        {"apiVersion": "test.io/v1", "kind": "Widget", **read, "spec": {"size": 2}}
    )
    await client.delete(WIDGET, NAME, uid=made["metadata"]["uid"])

    assert read["spec"] == {"size": 1}
    assert replaced["spec"] == {"size": 2}
    assert api.objects == {}
    assert api.bodies[-1]["preconditions"] == {"uid": made["metadata"]["uid"]}


async def test_a_list_is_read_page_by_page_and_its_items_know_their_kind(
    api: FakeApi, client: Client
) -> None:
    api.page_size = 2
    for index in range(5):
        api.put("configmaps", "shop", f"c{index}")

    listing = await client.list(CONFIG_MAP, "shop")

    assert [item["metadata"]["name"] for item in listing.items] == ["c0", "c1", "c2", "c3", "c4"]
    assert {(item["apiVersion"], item["kind"]) for item in listing.items} == {("v1", "ConfigMap")}
    assert listing.resource_version == str(api.revision)
    assert sum("/configmaps" in path for _, path in api.requests) == 3


async def test_discovery_is_asked_once_per_group_version(api: FakeApi, client: Client) -> None:
    api.put("configmaps", "shop", "orders")

    await client.get(CONFIG_MAP, NAME)
    await client.get(CONFIG_MAP, NAME)

    assert [path for _, path in api.requests].count("/api/v1") == 1


async def test_a_kind_that_is_not_served_is_found_when_its_crd_comes(
    api: FakeApi, client: Client
) -> None:
    api.widgets_served = False

    with pytest.raises(NoKindMatch, match=r"Widget in test\.io/v1"):
        await client.list(WIDGET)
    api.widgets_served = True
    listing = await client.list(WIDGET)

    assert listing.items == []


async def test_a_list_of_a_kind_whose_crd_was_removed_is_no_match(
    api: FakeApi, client: Client
) -> None:
    await client.list(WIDGET)
    api.widgets_served = False

    with pytest.raises(NoKindMatch):
        await client.list(WIDGET)


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (401, "Unauthorized", Unauthorized),
        (403, "Forbidden", Forbidden),
        (404, "NotFound", NotFound),
        (409, "Conflict", Conflict),
        (409, "AlreadyExists", AlreadyExists),
        (410, "Expired", Gone),
        (422, "Invalid", Invalid),
        (429, "TooManyRequests", TooManyRequests),
        (500, "InternalError", ApiError),
    ],
)
async def test_a_refusal_becomes_the_error_of_its_kind(
    api: FakeApi, client: Client, status: int, reason: str, kind: type[ApiError]
) -> None:
    await client.resource(CONFIG_MAP)
    api.refuse(status, reason, "because")

    with pytest.raises(ApiError) as caught:
        await client.get(CONFIG_MAP, NAME)

    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.reason) == (status, reason)
    assert str(caught.value) == "because"


async def test_no_answer_is_unreachable(api: FakeApi) -> None:
    async with FakeApi().serve() as other:
        config = other.config
    async with Client(config) as client:
        with pytest.raises(Unreachable):
            await client.get(CONFIG_MAP, NAME)


@pytest.mark.parametrize(
    ("kind", "content_type"),
    [
        (PatchType.MERGE, "application/merge-patch+json"),
        (PatchType.JSON, "application/json-patch+json"),
        (PatchType.STRATEGIC, "application/strategic-merge-patch+json"),
    ],
)
async def test_a_patch_says_its_type(
    api: FakeApi, client: Client, kind: PatchType, content_type: str
) -> None:
    api.put("configmaps", "shop", "orders")

    await client.patch(CONFIG_MAP, NAME, {"data": {"a": "b"}}, type=kind)

    assert api.headers[-1]["Content-Type"] == content_type
    assert api.requests[-1] == (
        "PATCH",
        "/api/v1/namespaces/shop/configmaps/orders?fieldManager=apirule",
    )


async def test_apply_forces_and_names_its_manager(api: FakeApi, client: Client) -> None:
    await client.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"namespace": "shop", "name": "orders"},
        },
        field_manager="jwks",
    )

    assert api.headers[-1]["Content-Type"] == "application/apply-patch+yaml"
    assert api.requests[-1][1].endswith("?fieldManager=jwks&force=true")


async def test_status_is_patched_on_its_own_path(api: FakeApi, client: Client) -> None:
    api.put("widgets", "shop", "orders")

    await client.patch_status(WIDGET, NAME, {"state": "Ready"})

    assert api.requests[-1][1].startswith("/apis/test.io/v1/namespaces/shop/widgets/orders/status")
    assert api.bodies[-1] == {"status": {"state": "Ready"}}


async def test_a_dry_run_is_asked_for(api: FakeApi, client: Client) -> None:
    api.put("widgets", "shop", "orders")

    await client.patch(WIDGET, NAME, {"spec": {}}, dry_run=True)

    assert "dryRun=All" in api.requests[-1][1]


async def test_an_object_larger_than_a_chunk_arrives_whole_in_a_watch(
    api: FakeApi, client: Client
) -> None:
    since = str(api.revision)
    api.put("configmaps", "shop", "orders", data={"blob": "x" * 900_000})

    async with client.watch(CONFIG_MAP, resource_version=since) as events:
        event = await anext(events)

    assert event.type == "ADDED"
    assert len(event.object["data"]["blob"]) == 900_000


async def test_an_expired_watch_is_gone_in_the_stream_and_as_a_status(
    api: FakeApi, client: Client
) -> None:
    api.put("configmaps", "shop", "orders")
    api.compact()

    with pytest.raises(Gone):
        async with client.watch(CONFIG_MAP, resource_version="1") as events:
            await anext(events)
    api.gone_as_http_status = True
    with pytest.raises(Gone):
        async with client.watch(CONFIG_MAP, resource_version="1"):
            pass


async def test_a_client_that_is_not_open_says_so() -> None:
    client = Client(KubeConfig(server="http://127.0.0.1:1"))

    with pytest.raises(RuntimeError, match="async with"):
        await client.get(CONFIG_MAP, NAME)


async def test_a_replaced_token_file_is_read_again_after_a_401(tmp_path: Path) -> None:
    # The token must not be sent in the clear, so only the reading is exercised here.
    token = tmp_path / "token"
    token.write_text("first\n")
    config = KubeConfig(server="https://127.0.0.1:1", token_file=token)
    async with Client(config) as client:
        first = await client._bearer()
        token.write_text("second\n")
        kept = await client._bearer()
        client._token_until = 0.0
        renewed = await client._bearer()

    assert (first, kept, renewed) == ("first", "first", "second")


@pytest.mark.parametrize(
    ("header", "texts"),
    [
        ('299 - "spec.x is old"', ["spec.x is old"]),
        ('299 - "say \\"yes\\" to a \\\\"', ['say "yes" to a \\']),
        ('299 - "one", 299 agent "two" "Sun, 29 Nov 2026 12:00:00 GMT"', ["one", "two"]),
        ('299 - "größer als 3 \u20ac"', ["größer als 3 €"]),
        ('299 - "gr\udcf6\udcdfer"', ["größer"]),
        ("something else", ["something else"]),
        ('299 - "one", and more', ["one", "and more"]),
    ],
    ids=["plain", "quotes", "two in one", "UTF-8", "Latin-1", "no warning", "a rest"],
)
def test_warnings_are_read_as_they_were_meant(header: str, texts: list[str]) -> None:
    assert list(warnings([header])) == texts


async def test_an_answer_may_have_any_number_of_warnings(api: FakeApi, client: Client) -> None:
    api.put("configmaps", "shop", "orders")
    api.warnings = [f'299 - "number {number}"' for number in range(1000)]

    assert (await client.get(CONFIG_MAP, NAME))["metadata"]["name"] == "orders"


async def test_a_strict_apply_says_so(api: FakeApi, client: Client) -> None:
    await client.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "a", "name": "b"}},
        strict=True,
    )

    assert "fieldValidation=Strict" in api.requests[-1][1]


async def test_who_does_not_answer_is_given_up() -> None:
    """A server that is stopped still has its connections accepted, by the system."""
    with socket.socket() as hung:
        hung.bind(("127.0.0.1", 0))
        hung.listen()
        config = KubeConfig(server=f"http://127.0.0.1:{hung.getsockname()[1]}")

        async with Client(config, answer_within_s=0.1) as client:
            with pytest.raises(Unreachable, match=r"no answer within 0\.1 s"):
                await client.version()
