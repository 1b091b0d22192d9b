from datetime import UTC, datetime

from tests.unit.kube.fake_api import FakeApi

from apirule.apis.meta import GroupVersionKind
from apirule.kube.client import Client
from apirule.kube.events import EventRecorder

RULE = {
    "apiVersion": "gateway.kyma-project.io/v2",
    "kind": "APIRule",
    "metadata": {"namespace": "shop", "name": "orders", "uid": "u1", "resourceVersion": "7"},
}


def recorder(client: Client) -> EventRecorder:
    return EventRecorder(client, "apirule", now=lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))


async def test_an_event_names_its_object(api: FakeApi, client: Client) -> None:
    await recorder(client).normal(RULE, "Ready", "All is well")

    [event] = api.objects.values()
    assert event["involvedObject"] == {
        "apiVersion": "gateway.kyma-project.io/v2",
        "kind": "APIRule",
        "namespace": "shop",
        "name": "orders",
        "uid": "u1",
        "resourceVersion": "7",
    }
    assert (event["type"], event["reason"], event["message"], event["count"]) == (
        "Normal",
        "Ready",
        "All is well",
        1,
    )
    assert event["lastTimestamp"] == "2026-01-02T03:04:05Z"


async def test_the_same_event_again_raises_the_count(api: FakeApi, client: Client) -> None:
    events = recorder(client)

    for _ in range(3):
        await events.warning(RULE, "Invalid", "broken")
    await events.warning(RULE, "Invalid", "broken otherwise")

    assert sorted(event["count"] for event in api.objects.values()) == [1, 3]


async def test_a_repeated_event_the_server_forgot_is_written_anew(
    api: FakeApi, client: Client
) -> None:
    events = recorder(client)
    await events.normal(RULE, "Ready", "ok")
    api.objects.clear()

    await events.normal(RULE, "Ready", "ok")

    assert [event["count"] for event in api.objects.values()] == [1]


async def test_a_failure_to_record_does_not_stop_the_caller(api: FakeApi, client: Client) -> None:
    await client.resource(GroupVersionKind("", "v1", "Event"))
    api.refuse(403, "Forbidden")

    await recorder(client).normal(RULE, "Ready", "ok")

    assert api.objects == {}


async def test_events_of_one_moment_are_named_in_their_order(api: FakeApi, client: Client) -> None:
    events = recorder(client)

    for reason in ("Scheduled", "Created", "Started", "Ready"):
        await events.normal(RULE, reason, reason)

    listed = sorted(api.objects.values(), key=lambda event: event["metadata"]["name"])
    assert [event["reason"] for event in listed] == ["Scheduled", "Created", "Started", "Ready"]
