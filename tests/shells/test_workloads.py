"""Workloads from `kubectl apply` to processes: real API server, supervisor, httpbin and Envoy."""

import json
import os
import signal
import socket
import sys
from collections.abc import Awaitable

import aiohttp
import anyio
import pytest
from ports import free_ports
from tests.shells.pods_run import (
    DEPLOYMENT,
    EVENT,
    NAMESPACE,
    POD,
    SERVE,
    SERVICE,
    SLEEP,
    Cluster,
    Object,
    app_environment,
    container,
    deployment,
    ensure,
    eventually,
    is_ready,
    logs,
    no_processes,
    no_slices,
    now,
    pod,
    process,
    reads,
    service,
    slices,
    status_of,
)

from apirule.local import readiness
from apirule.local.processes.launch import launch
from apirule.local.workloads.run import objects_for
from apirule.names import ObjectName


async def test_a_pod_becomes_a_process_that_listens_where_it_is_told(cluster: Cluster) -> None:
    async with cluster.controllers():
        await cluster.create(pod("web", container(SERVE, 80)))

        ready = await cluster.ready_pod("web")

        (place,) = json.loads(ready["metadata"]["annotations"]["apirule.local/ports"])
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{place['app']}/") as got,
        ):
            assert got.status == 200
        assert place["port"] == 80
        assert ready["status"]["podIP"] == "127.0.0.1"
        assert ready["spec"]["nodeName"] == "apirule"
        for reason in ("Scheduled", "Pulled", "Created", "Started"):
            await cluster.event("web", reason)


async def test_httpbin_serves_a_unix_socket_that_only_its_owner_can_open(cluster: Cluster) -> None:
    image = {"name": "app", "image": "docker.io/kennethreitz/httpbin"}
    async with cluster.controllers():
        await cluster.create(pod("httpbin", image), service("httpbin", 8000, 80))

        ready = await cluster.ready_pod("httpbin")

        (place,) = json.loads(ready["metadata"]["annotations"]["apirule.local/ports"])
        path = place["app"].removeprefix("unix:")
        assert (await anyio.Path(path).stat()).st_mode & 0o777 == 0o600
        connector = aiohttp.UnixConnector(path)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(
                "http://x/headers?show_env=1", headers={"X-Forwarded-For": "1.2.3.4"}
            ) as answer,
        ):
            assert (await answer.json())["headers"]["X-Forwarded-For"] == "1.2.3.4"
        (piece,) = await slices(cluster, "httpbin", ready=True)
        assert piece["metadata"]["annotations"]["apirule.local/app"] == place["app"]


async def test_nothing_outlives_its_namespace(cluster: Cluster) -> None:
    async with cluster.controllers():
        await ensure(cluster.client, "shop", {})
        await cluster.client.create(pod("web", container(SLEEP), namespace="shop"))

        async def runs() -> bool:
            return not await no_processes(cluster)

        await eventually(runs, "it runs", cluster.explain)

        await cluster.client.delete(NAMESPACE, ObjectName("", "shop"))

        await eventually(lambda: no_processes(cluster), "it ends", cluster.explain)


async def test_a_killed_program_is_back_and_its_end_is_remembered(cluster: Cluster) -> None:
    async with cluster.controllers():
        await cluster.create(pod("web", container(SERVE, 80)))
        await cluster.ready_pod("web")
        os.kill((await process(cluster, "default/web/app"))["pid"], signal.SIGKILL)

        async def restarted() -> Object | None:
            found = await cluster.pod("web")
            status = status_of(found)
            return status if status["restartCount"] == 1 and is_ready(found) else None

        status = await eventually(restarted, "it is ready again", cluster.explain)

        assert status["lastState"]["terminated"]["exitCode"] == 137
        assert status["lastState"]["terminated"]["signal"] == 9


async def test_a_crash_loop_is_shown_as_one(cluster: Cluster) -> None:
    async with cluster.controllers():
        await cluster.create(pod("web", container(["sh", "-c", "echo oh no; exit 7"])))

        async def loops() -> Object | None:
            status = status_of(await cluster.pod("web"))
            waiting = status["state"].get("waiting") or {}
            loop = waiting.get("reason") == "CrashLoopBackOff" and status["restartCount"] >= 3
            return status if loop else None

        status = await eventually(loops, "it crash-loops", cluster.explain)

        assert status["lastState"]["terminated"]["exitCode"] == 7
        assert (await cluster.pod("web"))["status"]["phase"] == "Running"
        event = await cluster.event("web", "BackOff")
        assert event["message"].startswith("Back-off restarting failed container app in pod web_")
        # The run of the moment may not have come to it.
        before = await logs(cluster, "web", "--previous")
        assert "oh no" in before


async def test_an_image_that_stands_for_nothing_says_what_to_do(cluster: Cluster) -> None:
    async with cluster.controllers():
        await cluster.create(pod("web", {"name": "app", "image": "nginx:1.27"}))

        event = await cluster.event("web", "ImageNotMapped")

        assert '"nginx:1.27" stands for no program' in event["message"]
        assert "`command`" in event["message"]

        async def waits() -> bool:
            found = await cluster.phase("web", "Pending")
            waiting = status_of(found)["state"].get("waiting") or {}
            return waiting.get("reason") == "ImageNotMapped"

        await eventually(waits, "its status says the same", cluster.explain)


async def test_a_pod_waits_for_its_configmap(cluster: Cluster) -> None:
    reference = {"configMapKeyRef": {"name": "settings", "key": "word"}}
    given = container(
        ["sh", "-c", "echo $(WORD) > word; sleep 1000"],
        env=[{"name": "WORD", "valueFrom": reference}],
        workingDir=str(cluster.state),
    )
    async with cluster.controllers():
        await cluster.create(pod("web", given))
        event = await cluster.event("web", "Failed")
        assert event["message"] == 'Error: configmap "settings" not found'

        metadata = {"name": "settings", "namespace": "default"}
        await cluster.create(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": metadata,
                "data": {"word": "hello"},
            }
        )

        await cluster.ready_pod("web")
        await eventually(lambda: reads(cluster.state / "word", "hello\n"), "it got the word")


async def test_a_host_port_belongs_to_one_pod_at_a_time(cluster: Cluster) -> None:
    number = free_ports(1)[0]
    serve = container([*SERVE[:-1], str(number)])
    serve["ports"] = [{"containerPort": 80, "hostPort": number}]
    async with cluster.controllers():
        await cluster.create(pod("first", serve))
        await cluster.ready_pod("first")
        await cluster.create(pod("second", serve))

        event = await cluster.event("second", "FailedScheduling")
        assert f"Port {number} belongs to Pod default/first" in event["message"]
        await cluster.client.delete(POD, ObjectName("default", "first"))

        await cluster.ready_pod("second")


async def test_a_port_that_a_stranger_has_is_named(cluster: Cluster) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        number = stranger.getsockname()[1]
        serve = container([*SERVE[:-1], str(number)])
        serve["ports"] = [{"containerPort": 80, "hostPort": number}]
        async with cluster.controllers():
            await cluster.create(pod("web", serve))

            event = await cluster.event("web", "FailedScheduling")
            assert f"listens on port {number}" in event["message"]
            assert "containerStatuses" not in (await cluster.phase("web", "Pending"))["status"]
            stranger.close()

            await cluster.ready_pod("web")


async def test_a_new_control_plane_adopts_what_runs(cluster: Cluster) -> None:
    async with cluster.controllers():
        await cluster.create(pod("web", container(SERVE, 80)))
        before = await cluster.ready_pod("web")
        pid = (await process(cluster, "default/web/app"))["pid"]
    async with cluster.controllers():
        await cluster.create(pod("other", container(SERVE, 80)))
        await cluster.ready_pod("other")

        after = await cluster.ready_pod("web")

        assert (await process(cluster, "default/web/app"))["pid"] == pid
        assert after["metadata"]["annotations"] == before["metadata"]["annotations"]
        assert status_of(after)["restartCount"] == 0


async def test_pods_deleted_while_nobody_looked_are_ended(cluster: Cluster) -> None:
    async with cluster.controllers():
        await cluster.create(pod("web", container(SERVE, 80)))
        await cluster.ready_pod("web")
    await cluster.client.delete(POD, ObjectName("default", "web"), grace_period_s=0)

    async with cluster.controllers():
        await eventually(lambda: no_processes(cluster), "its program ends", cluster.explain)


async def test_what_ran_before_the_machine_stopped_runs_again(cluster: Cluster) -> None:
    name = ObjectName("default", "web")
    async with cluster.controllers():
        await cluster.create(pod("web", container(SERVE, 80)), service("web", 80, 80))
        await cluster.ready_pod("web")
        # Who goes on running goes on being ready.
        assert await readiness.withdraw(cluster.client, cluster.supervisor, now=now) == set()
        await cluster.supervisor.shutdown()
        # What the end of all programs looks like must not be taken for crashes.
        assert is_ready(await cluster.pod("web"))
    launch(cluster.state)

    withdrawn = await readiness.withdraw(cluster.client, cluster.supervisor, now=now)

    assert withdrawn == {name}
    assert not is_ready(await cluster.pod("web"))
    async with cluster.controllers():

        async def again() -> Object | None:
            found = await cluster.pod("web")
            return found if is_ready(found) and status_of(found)["restartCount"] == 1 else None

        await eventually(again, "it runs again", cluster.explain)
        await slices(cluster, "web", ready=True)


async def test_a_deleted_pod_ends_gently_and_leaves_nothing(cluster: Cluster) -> None:
    trap = f"trap 'echo bye > {cluster.state}/bye; exit 0' TERM; echo > {cluster.state}/set"
    script = f"{trap}; while :; do sleep 0.05; done"
    async with cluster.controllers():
        await cluster.create(pod("web", container(["sh", "-c", script])))
        await cluster.ready_pod("web")
        await eventually(lambda: reads(cluster.state / "set", "\n"), "it has set its trap")

        await cluster.client.delete(POD, ObjectName("default", "web"))
        await cluster.gone("web")

        assert (cluster.state / "bye").read_text() == "bye\n"
        assert await no_processes(cluster)
        assert not list(cluster.pods_folder.iterdir())
        await cluster.event("web", "Killing")


async def test_a_hook_is_called_before_a_program_is_stopped(cluster: Cluster) -> None:
    log = cluster.state / "order"
    trap = f"trap 'echo stopped >> {log}; exit 0' TERM; echo > {cluster.state}/set"
    script = f"{trap}; while :; do sleep 0.05; done"
    hook = {"preStop": {"exec": {"command": ["sh", "-c", f"echo $WORD >> {log}"]}}}
    word = [{"name": "WORD", "value": "hook"}]
    async with cluster.controllers():
        await cluster.create(pod("web", container(["sh", "-c", script], lifecycle=hook, env=word)))
        await cluster.ready_pod("web")
        await eventually(lambda: reads(cluster.state / "set", "\n"), "it has set its trap")

        await cluster.client.delete(POD, ObjectName("default", "web"))
        await cluster.gone("web")

        assert log.read_text() == "hook\nstopped\n"


@pytest.mark.parametrize(
    ("hook", "wrong", "grace_s"),
    [
        ({"exec": {"command": ["sh", "-c", "echo oh no; exit 3"]}}, "oh no", 10),
        ({"exec": {"command": ["sleep", "1000"]}}, "no answer within 1s", 1),
        ({"httpGet": {"port": "none"}}, 'is named "none"', 10),
    ],
    ids=["it fails", "it takes too long", "it makes no sense"],
)
async def test_a_hook_that_fails_is_told_and_holds_up_nobody(
    cluster: Cluster, hook: Object, wrong: str, grace_s: int
) -> None:
    given = pod("web", container(SLEEP, lifecycle={"preStop": hook}))
    given["spec"]["terminationGracePeriodSeconds"] = grace_s
    async with cluster.controllers():
        await cluster.create(given)
        await cluster.ready_pod("web")

        await cluster.client.delete(POD, ObjectName("default", "web"))

        await cluster.event("web", "FailedPreStopHook", wrong)
        await cluster.gone("web")


async def test_a_pod_made_again_at_once_is_a_new_one(cluster: Cluster) -> None:
    async with cluster.controllers():
        await cluster.create(pod("web", container(SERVE, 80)))
        first = await cluster.ready_pod("web")
        name = ObjectName("default", "web")
        await cluster.client.delete(POD, name, grace_period_s=0)
        await cluster.create(pod("web", container(SERVE, 80)))

        second = await cluster.ready_pod("web")

        assert second["metadata"]["uid"] != first["metadata"]["uid"]
        running = await process(cluster, "default/web/app")
        assert running["meta"]["uid"] == second["metadata"]["uid"]


async def test_init_containers_run_one_after_the_other_and_first(cluster: Cluster) -> None:
    def step(name: str) -> Object:
        return container(
            ["sh", "-c", f"sleep 0.1; echo {name} >> {cluster.state}/order"], name=name
        )

    app = container(["sh", "-c", f"echo app >> {cluster.state}/order; exec sleep 1000"])
    async with cluster.controllers():
        await cluster.create(pod("web", app, initContainers=[step("one"), step("two")]))

        await cluster.ready_pod("web")

        await eventually(lambda: reads(cluster.state / "order", "one\ntwo\napp\n"), "the order")


@pytest.mark.parametrize(
    ("policy", "code", "phase"),
    [("Never", 0, "Succeeded"), ("OnFailure", 0, "Succeeded"), ("Never", 3, "Failed")],
)
async def test_a_pod_that_is_not_restarted_comes_to_an_end(
    cluster: Cluster, policy: str, code: int, phase: str
) -> None:
    async with cluster.controllers():
        await cluster.create(
            pod("job", container(["sh", "-c", f"exit {code}"]), restartPolicy=policy)
        )

        found = await cluster.phase("job", phase)

        assert status_of(found)["state"]["terminated"]["exitCode"] == code
        await eventually(lambda: no_processes(cluster), "nothing is left", cluster.explain)


async def test_what_a_process_cannot_have_is_said(cluster: Cluster) -> None:
    async with cluster.controllers():
        await cluster.create(pod("web", container(SLEEP, securityContext={"runAsUser": 1})))
        await cluster.ready_pod("web")

        await cluster.event("web", "FieldIgnored", "securityContext of container app has no effect")


async def test_a_service_finds_pods_by_the_name_of_their_port(cluster: Cluster) -> None:
    serve = container(SERVE)
    serve["ports"] = [{"name": "web", "containerPort": 8000}]
    async with cluster.controllers():
        await cluster.create(service("web", 80, "web"), pod("web", serve))
        found = await cluster.ready_pod("web")

        (piece,) = await slices(cluster, "web", ready=True)

        (place,) = json.loads(found["metadata"]["annotations"]["apirule.local/ports"])
        assert piece["ports"] == [
            {"name": "", "port": int(place["app"].rpartition(":")[2]), "protocol": "TCP"}
        ]
        assert piece["endpoints"][0]["targetRef"]["name"] == "web"
        await cluster.client.delete(SERVICE, ObjectName("default", "web"))
        await eventually(lambda: no_slices(cluster, "web"), "its slice goes", cluster.explain)


async def test_a_rollout_replaces_all_pods_and_can_be_undone(cluster: Cluster) -> None:
    def kubectl(*arguments: str) -> Awaitable[str]:
        return anyio.to_thread.run_sync(lambda: cluster.kubectl(*arguments))

    async with cluster.controllers():
        template = {"containers": [container(SERVE, 80)]}
        await cluster.create(deployment("web", template, replicas=2), service("web", 80, 80))
        await kubectl("rollout", "status", "deployment/web", "--timeout=20s")
        old = {p["metadata"]["uid"] for p in await cluster.pods("app=web")}
        assert len(old) == 2

        await kubectl("set", "env", "deployment/web", "COLOR=blue")
        await kubectl("rollout", "status", "deployment/web", "--timeout=20s")
        await cluster.rolled_out("web")
        new = {p["metadata"]["uid"] for p in await cluster.pods("app=web") if is_ready(p)}
        assert len(new) == 2
        assert not new & old

        await kubectl("rollout", "undo", "deployment/web")
        await kubectl("rollout", "status", "deployment/web", "--timeout=20s")
        found = await cluster.rolled_out("web")
        assert found["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3"
        assert {c["type"]: c["status"] for c in found["status"]["conditions"]} == {
            "Available": "True",
            "Progressing": "True",
        }

        await kubectl("scale", "deployment/web", "--replicas=1")
        await cluster.rolled_out("web")
        await kubectl("delete", "deployment", "web")
        await eventually(lambda: no_processes(cluster), "all is gone", cluster.explain)


STUBBORN = """\
import signal, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), exit()))
import http.server, sys
http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind="127.0.0.1")
"""


async def test_recreate_ends_the_old_pod_first(cluster: Cluster) -> None:
    number = free_ports(1)[0]
    web = objects_for(
        "web",
        "default",
        port=number,
        service_port=80,
        argv=[sys.executable, "-c", STUBBORN, str(number)],
        cwd=str(cluster.state),
        env={"PRICE": "$(5)"},
        sidecar=False,
    )
    async with cluster.controllers():
        await cluster.create(*web)
        await cluster.rolled_out("web")
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{number}/") as answer,
        ):
            assert "api.db" in await answer.text()
        (piece,) = await slices(cluster, "web", ready=True)
        assert piece["ports"][0]["port"] == number
        (first,) = await cluster.pods("app=web")
        environment = await app_environment(cluster, f"default/{first['metadata']['name']}/web")
        assert environment["PRICE"] == "$(5)"

        await cluster.client.patch(
            DEPLOYMENT,
            ObjectName("default", "web"),
            {"spec": {"template": {"metadata": {"annotations": {"again": "1"}}}}},
        )

        await cluster.rolled_out("web")
        (second,) = await cluster.pods("app=web")
        assert second["metadata"]["uid"] != first["metadata"]["uid"]
        # Its Pod came when the port was free, and not before.
        events = (await cluster.client.list(EVENT, "default")).items
        assert "FailedScheduling" not in {event["reason"] for event in events}


async def test_a_replica_set_replaces_a_deleted_pod(cluster: Cluster) -> None:
    async with cluster.controllers():
        await cluster.create(deployment("web", {"containers": [container(SLEEP)]}, replicas=3))
        await cluster.rolled_out("web")
        before = await cluster.pods("app=web")
        assert len(before) == 3

        await cluster.client.delete(
            POD, ObjectName("default", before[0]["metadata"]["name"]), grace_period_s=0
        )

        async def replaced() -> bool:
            pods = [p for p in await cluster.pods("app=web") if is_ready(p)]
            return len(pods) == 3 and before[0]["metadata"]["uid"] not in {
                p["metadata"]["uid"] for p in pods
            }

        await eventually(replaced, "there are three again", cluster.explain)


async def test_kubectl_shows_logs_of_this_run_and_the_one_before(cluster: Cluster) -> None:
    async with cluster.controllers():
        await cluster.create(pod("web", container(["sh", "-c", "echo $$$$; exec sleep 1000"])))
        await cluster.ready_pod("web")
        first = await process(cluster, "default/web/app")
        log = cluster.pods_folder / "default_web" / "app.log"
        await eventually(lambda: reads(log, f"{first['pid']}\n"), "it wrote its pid")
        os.kill(first["pid"], signal.SIGKILL)

        async def second() -> Object | None:
            found = await process(cluster, "default/web/app")
            return found if found["pid"] not in (0, first["pid"]) else None

        again = await eventually(second, "it runs again", cluster.explain)
        await eventually(lambda: reads(log, f"{again['pid']}\n"), "it wrote its pid again")

        assert await logs(cluster, "web") == f"{again['pid']}\n"
        assert await logs(cluster, "web", "--previous") == f"{first['pid']}\n"
