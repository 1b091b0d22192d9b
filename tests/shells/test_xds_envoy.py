"""The engine and real Envoys: what is pushed is in force, and what is refused harms nobody."""

import itertools
import json
import signal
import socket
import time

import anyio
import anyio.abc
import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from joserfc import jwk, jwt
from tests.conformance import wire
from tests.shells.xds_run import (
    GATEWAY_POD,
    HOST,
    SPOIL,
    Mesh,
    endpoints,
    eventually,
    guard,
    route,
    running,
    spoiling,
)

from apirule.apis.meta import Object, ObjectRef
from apirule.local.xds import engine
from apirule.local.xds.bundle import encode_one
from apirule.mesh.config import ProxyConfig, TypeUrl
from apirule.mesh.memo import Memo
from apirule.mesh.proxy import Proxy
from apirule.mesh.snapshot import Snapshot
from apirule.names import ObjectName

pytestmark = pytest.mark.envoy

OTHER = "other.kyma.localhost"


class KeepAlive:
    """One connection to the gateway, as a client that never lets go of it has."""

    def __init__(self, stream: anyio.abc.SocketStream, host: str) -> None:
        self._stream = stream
        self._host = host
        self._buffered = b""

    @classmethod
    async def open(cls, mesh: Mesh, host: str = HOST) -> "KeepAlive":
        return cls(await anyio.connect_tcp("127.0.0.1", mesh.gateway_port), host)

    async def get(self, path: str) -> int:
        await self._stream.send(f"GET {path} HTTP/1.1\r\nhost: {self._host}\r\n\r\n".encode())
        while b"\r\n\r\n" not in self._buffered:
            self._buffered += await self._stream.receive()
        head, _, body = self._buffered.partition(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        length = next(int(li.split(":")[1]) for li in lines if li.startswith("content-length:"))
        while len(body) < length:
            body += await self._stream.receive()
        self._buffered = body[length:]
        return int(lines[0].split()[1])

    async def aclose(self) -> None:
        await self._stream.aclose()


async def test_request_passes_gateway_and_sidecar_once_all_is_acknowledged() -> None:
    rule, policy = route("app", HOST, "app"), guard("app", "app", "/ok/{**}")
    async with running(rule, policy) as mesh:
        await mesh.reaches(200, "/ok/1")

        assert await mesh.get("/other") == 403
        assert (await mesh.run.status(rule, "True"))["message"] == "1/1 proxies up to date"
        assert (await mesh.run.status(policy, "True"))["message"] == "1/1 proxies up to date"


async def test_changed_policy_reaches_a_connection_that_is_open() -> None:
    async with running(route("app", HOST, "app"), guard("app", "app", "/a")) as mesh:
        await mesh.reaches(200, "/a")
        connection = await KeepAlive.open(mesh)
        before = await connection.get("/a"), await connection.get("/b")

        changed = guard("app", "app", "/b")
        mesh.run.feed.put(changed)
        await mesh.run.status(changed, "True")

        assert before == (200, 403)
        assert (await connection.get("/a"), await connection.get("/b")) == (403, 200)
        await connection.aclose()


async def test_refused_route_is_traced_to_its_object_and_others_go_on() -> None:
    good, bad = route("good", HOST, "app"), route("bad", OTHER, "app", spoil=True)
    async with running(good) as mesh:
        await mesh.reaches(200)
        newer = route("newer", "newer.kyma.localhost", "app")
        mesh.run.feed.put(bad, newer)

        condition = await mesh.run.status(bad, "False")
        await mesh.run.status(newer, "True")

        assert condition["reason"] == "Rejected"
        assert "missing )" in condition["message"]
        assert await mesh.get() == 200
        assert await mesh.get(host="newer.kyma.localhost") == 200
        assert await mesh.get(host=OTHER) == 404

        mended = route("bad", OTHER, "app", prefix="/mended")
        mended["metadata"]["annotations"] = {}
        mesh.run.feed.put(mended)
        await mesh.run.status(mended, "True")
        assert await mesh.get("/mended", OTHER) == 200


async def test_endpoints_nobody_can_mean_take_nothing_but_themselves_out() -> None:
    async with running(route("app", HOST, "app"), guard("app", "app", "/{**}")) as mesh:
        await mesh.reaches(200)
        spoiled = endpoints("app", -1)
        spoiled["metadata"]["name"] = "spoiled"
        deny = guard("deny", "app", "/admin", action="DENY")

        mesh.run.feed.put(spoiled, deny)

        assert (await mesh.run.status(deny, "True"))["message"] == "1/1 proxies up to date"
        assert await mesh.get("/admin") == 403
        assert await mesh.get() == 200


@pytest.mark.parametrize("whose", ["gateway", "sidecar"])
async def test_a_port_that_is_taken_is_nobodys_fault_and_opened_when_it_is_free(
    whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "RETRY_S", 0.2)
    rule, policy = route("app", HOST, "app"), guard("app", "app", "/{**}")
    late = rule if whose == "gateway" else policy
    async with running(rule, policy, start=False) as mesh:
        port = mesh.gateway_port if whose == "gateway" else mesh.sidecar_port
        taken = socket.create_server(("127.0.0.1", port))
        mesh.start_envoy(mesh.gateway_node)
        mesh.start_envoy(mesh.sidecar_node())

        text = f"port {port} of 127.0.0.1 is in use by another program"
        await mesh.run.says(late, "Unknown", text)
        assert mesh.run.engine.rejected() == {}

        taken.close()
        await mesh.run.status(late, "True")
        await mesh.reaches(200)


class Impatient:
    """A client over HTTP/2 that asks and takes it back, again and again."""

    BATCH = 90
    """Of streams at once; a gateway takes a hundred."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self._stream = stream
        self._next = 1

    @classmethod
    async def open(cls, mesh: Mesh) -> "Impatient":
        client = cls(await anyio.connect_tcp("127.0.0.1", mesh.gateway_port))
        await client._stream.send(wire.PREFACE + wire.frame(wire.SETTINGS, 0, 0, b""))
        return client

    async def ask_in_vain(self, times: int) -> None:
        for _ in range(times):
            await self._ask_and_take_back()

    async def _ask_and_take_back(self) -> None:
        ended = wire.END_STREAM | wire.END_HEADERS
        block = wire.header_block(
            [(":method", "GET"), (":scheme", "http"), (":authority", HOST), (":path", "/held")]
        )
        numbers = range(self._next, self._next + 2 * self.BATCH, 2)
        self._next = numbers.stop
        asked = [wire.frame(wire.HEADERS, ended, number, block) for number in numbers]
        await self._stream.send(b"".join(asked))
        await self._seen(numbers.start)
        cancel = (8).to_bytes(4)
        taken = [wire.frame(wire.RESET, 0, number, cancel) for number in numbers]
        await self._stream.send(b"".join(taken))
        await self._seen(numbers.start + 1)

    async def _seen(self, mark: int) -> None:
        """Wait until the gateway has read everything so far."""
        await self._stream.send(wire.frame(wire.PING, 0, 0, mark.to_bytes(8)))
        answer = wire.frame(wire.PING, wire.ACK, 0, mark.to_bytes(8))
        received = b""
        while answer not in received:
            received += await self._stream.receive()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def test_a_client_that_takes_back_what_it_asks_for_harms_no_other_one() -> None:
    async with running(route("app", HOST, "app"), guard("app", "app", "/{**}")) as mesh:
        await mesh.reaches(200)
        patient = await KeepAlive.open(mesh)
        answers: list[int] = []

        async def wait_patiently() -> None:
            answers.append(await patient.get("/held"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_patiently)
            for _ in range(4):
                client = await Impatient.open(mesh)
                # Half of 500 on one connection, and the gateway closes it.
                await client.ask_in_vain(2)
                await client.aclose()
            assert answers == []
            mesh.released.set()

        assert answers == [200]
        assert await patient.get("/") == 200
        await patient.aclose()


async def test_a_client_that_does_so_too_often_is_shown_the_door() -> None:
    async with running(route("app", HOST, "app")) as mesh:
        await mesh.reaches(200)
        client = await Impatient.open(mesh)

        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await client.ask_in_vain(6)

        await client.aclose()
        assert await mesh.get() == 200


async def test_refused_change_of_a_route_is_found_among_many_that_are_new_to_the_proxy() -> None:
    rules = [route(f"r{n}", f"r{n}.kyma.localhost", "app") for n in range(20)]
    bad = route("bad", OTHER, "app", spoil=True)
    async with running(*rules[:10], bad, *rules[10:]) as mesh:
        condition = await mesh.run.status(bad, "False")

        assert "missing )" in condition["message"]
        for rule in rules:
            await mesh.run.status(rule, "True")
            assert await mesh.get(host=rule["spec"]["hosts"][0]) == 200
        assert mesh.run.engine.rejected().keys() == {ObjectRef.of(bad)}


async def test_refused_policy_closes_its_workload_and_no_other() -> None:
    async with running(
        route("app", HOST, "app"), route("two", OTHER, "two"), workloads=("app", "two")
    ) as mesh:
        await mesh.reaches(200)
        await mesh.reaches(200, host=OTHER)
        bad = guard("app", "app", "/{**}", spoil=True)
        mesh.run.feed.put(bad)

        condition = await mesh.run.status(bad, "False")

        assert "missing )" in condition["message"]
        assert await mesh.get() == 403
        assert await mesh.get(host=OTHER) == 200


async def test_refused_policy_is_refused_again_after_a_restart() -> None:
    bad = guard("app", "app", "/{**}", spoil=True)
    async with running(route("app", HOST, "app"), bad) as mesh:
        await mesh.run.status(bad, "False")
        await mesh.run.stop()
        mesh.run.feed.write_status(ObjectRef.of(bad), {})

        await mesh.run.start(mesh.tasks)

        await mesh.run.status(bad, "False")
        assert await mesh.get() == 403


async def test_workload_that_holds_no_guards_gets_no_traffic() -> None:
    def stubborn(snapshot: Snapshot, proxy: Proxy, memo: Memo) -> ProxyConfig:
        """Spoil the filters of a Pod that is marked, whatever is rejected."""
        config = spoiling(snapshot, proxy, memo)
        pod = snapshot.pods[proxy.name]
        if not pod.annotations.get(SPOIL):
            return config
        filters = {}
        for name, message in config.resources[TypeUrl.EXTENSION].items():
            filters[name] = TypedExtensionConfig()
            filters[name].CopyFrom(message)
            filters[name].typed_config.value = b"\xff"
        return ProxyConfig({**config.resources, TypeUrl.EXTENSION: filters}, config.sources)

    async with running(
        route("app", HOST, "app"),
        route("two", OTHER, "two"),
        workloads=("app", "two"),
        build=stubborn,
    ) as mesh:
        await mesh.reaches(200)
        await mesh.reaches(200, host=OTHER)
        pod = mesh.run.feed.objects[ObjectRef("", "Pod", "default", "app")]
        annotations = {**pod["metadata"]["annotations"], SPOIL: "yes"}
        spoiled = {**pod, "metadata": {**pod["metadata"], "annotations": annotations}}

        mesh.run.feed.put(spoiled, guard("app", "app", "/never"))

        await mesh.reaches(503)
        assert await mesh.get(host=OTHER) == 200

        annotations = {**annotations, SPOIL: ""}
        mesh.run.feed.put({**pod, "metadata": {**pod["metadata"], "annotations": annotations}})
        await mesh.reaches(403)
        await mesh.reaches(200, "/never")


async def test_changed_cluster_is_live_at_once_because_its_endpoints_are_sent_again() -> None:
    variants = {"n": 0}

    def varied(snapshot: Snapshot, proxy: Proxy, memo: Memo) -> ProxyConfig:
        config = spoiling(snapshot, proxy, memo)
        clusters = {}
        for name, message in config.resources[TypeUrl.CLUSTER].items():
            clusters[name] = Cluster()
            clusters[name].CopyFrom(message)
            clusters[name].connect_timeout.FromMilliseconds(5000 + variants["n"])
        return ProxyConfig({**config.resources, TypeUrl.CLUSTER: clusters}, config.sources)

    async with running(route("app", HOST, "app"), build=varied) as mesh:
        await mesh.reaches(200)
        variants["n"] = 1
        started = time.monotonic()

        touched = route("app", HOST, "app", prefix="/a")
        mesh.run.feed.put(touched)
        await mesh.run.status(touched, "True")

        assert time.monotonic() - started < 14  # Envoy gives up waiting after 15
        assert await mesh.get("/a") == 200


async def test_control_plane_may_restart_without_a_failed_request() -> None:
    async with running(route("app", HOST, "app")) as mesh:
        await mesh.reaches(200)
        statuses: list[int] = []
        ended = anyio.Event()
        await mesh.run.stop()
        await mesh.run.start(
            mesh.tasks
        )  # at once: sooner than the old one has let go of its socket
        await mesh.run.synced(mesh.gateway_node, mesh.sidecar_node())

        async def load() -> None:
            while not ended.is_set():
                statuses.append(await mesh.get())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load)
            await mesh.run.stop()
            served = len(statuses)
            await eventually(lambda: len(statuses) > served + 20)
            await mesh.run.start(mesh.tasks)
            returned_s = await eventually(
                lambda: all(report.synced for report in mesh.run.engine.report())
            )
            changed = route("app", HOST, "app", prefix="/")
            late = route("late", OTHER, "app")
            mesh.run.feed.put(changed, late)
            await mesh.run.status(late, "True")
            ended.set()

        assert set(statuses) == {200}
        assert await mesh.get(host=OTHER) == 200
        # Started means that whoever was here before has been waited for.
        assert returned_s < 5


async def test_proxy_is_not_served_before_its_pod_exists() -> None:
    async with running(route("app", HOST, "app"), start=False) as mesh:
        pod = mesh.run.feed.objects[ObjectRef("", "Pod", "default", "app")]
        mesh.run.feed.delete(pod)
        await eventually(lambda: [r.proxy.name for r in mesh.run.engine.report()] == [GATEWAY_POD])
        mesh.start_envoy(mesh.sidecar_node())
        mesh.start_envoy(mesh.gateway_node)
        await mesh.run.synced(mesh.gateway_node)
        await eventually(lambda: mesh.sidecar_node() in mesh.run.engine.fleet.connected())
        waiting = mesh.run.engine.fleet.standing(mesh.sidecar_node())

        mesh.run.feed.put(pod)

        assert waiting.connected
        assert not waiting.settled
        await mesh.reaches(200)


async def test_silent_proxy_does_not_hold_up_the_others() -> None:
    rule = route("app", HOST, "app")
    async with running(rule, start=False) as mesh:
        sidecar = mesh.start_envoy(mesh.sidecar_node())
        mesh.start_envoy(mesh.gateway_node)
        await mesh.reaches(200)
        sidecar.send_signal(signal.SIGSTOP)
        try:
            late, policy = route("late", OTHER, "nobody"), guard("app", "app", "/x")
            mesh.run.feed.put(policy, late)

            await mesh.reaches(503, host=OTHER)
            condition = await mesh.run.status(policy, "Unknown")
        finally:
            sidecar.send_signal(signal.SIGCONT)

        assert condition["message"] == "0/1 proxies up to date: default/app has not answered"
        await mesh.run.status(policy, "True")


async def test_route_never_stands_without_its_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    # A proxy that is silent for longer is no longer waited for.
    monkeypatch.setattr(engine, "STEP_S", 30.0)
    made_of: dict[tuple[str, str, str], frozenset[ObjectRef]] = {}
    moments: list[tuple[bool, bool]] = []
    rule, policy = route("secret", OTHER, "app"), guard("secret", "app", "/{**}", action="DENY")

    def recorded(snapshot: Snapshot, proxy: Proxy, memo: Memo) -> ProxyConfig:
        config = spoiling(snapshot, proxy, memo)
        for url, group in config.resources.items():
            for name, message in group.items():
                version = encode_one(url, message).version
                made_of[url, name, version] = config.sources.get((url, name), frozenset())
        return config

    def held(mesh: Mesh, node: str) -> set[ObjectRef]:
        (connection,) = mesh.run.engine.fleet._connections[node]
        return {
            ref
            for url in (TypeUrl.ROUTE, TypeUrl.EXTENSION)
            for name, version in connection.stream.held(url).items()
            for ref in made_of[url, name, version]
        }

    async with running(route("app", HOST, "app"), build=recorded) as mesh:
        await mesh.reaches(200)
        fleet = mesh.run.engine.fleet
        receive = fleet.receive

        def watched(connection: object, request: object) -> None:
            receive(connection, request)  # type: ignore[arg-type]  # handed on as it came
            routed = ObjectRef.of(rule) in held(mesh, mesh.gateway_node)
            guarded = ObjectRef.of(policy) in held(mesh, mesh.sidecar_node())
            moments.append((routed, guarded))

        fleet.receive = watched  # type: ignore[method-assign]  # to see each answer as it comes
        for _ in range(3):
            mesh.run.feed.put(rule, policy)
            await mesh.run.status(rule, "True")
            assert await mesh.get(host=OTHER) == 403
            mesh.run.feed.delete(policy, rule)
            await eventually(lambda: moments[-1] == (False, False))

        steps = [moments[0], *(b for a, b in itertools.pairwise(moments) if a != b)]
        # guard, route, route gone, guard gone; the first answers may come before the first guard
        assert steps[-12:] == [(False, True), (True, True), (False, True), (False, False)] * 3


async def test_token_with_an_unknown_key_is_told_at_once_and_kept_without_its_text() -> None:
    known, unknown = (jwk.RSAKey.generate_key(2048, {"kid": kid}) for kid in ("old", "new"))
    authentication: Object = {
        "apiVersion": "security.istio.io/v1beta1",
        "kind": "RequestAuthentication",
        "metadata": {"namespace": "default", "name": "app"},
        "spec": {
            "selector": {"matchLabels": {"app": "app"}},
            "jwtRules": [
                {
                    "issuer": "https://issuer.test",
                    "jwks": _jwks(known),
                    "fromHeaders": [{"name": "Authorization", "prefix": "Bearer "}],
                }
            ],
        },
    }
    claims = {"iss": "https://issuer.test", "sub": "me", "exp": int(time.time()) + 600}
    token = jwt.encode({"alg": "RS256", "kid": "new"}, claims, unknown, algorithms=["RS256"])
    async with running(route("app", HOST, "app"), authentication) as mesh:
        await mesh.run.status(authentication, "True")
        url = f"http://127.0.0.1:{mesh.gateway_port}/p?access_token=secret"
        headers = {"host": HOST, "authorization": f"Bearer {token}"}

        async with mesh.client.get(url, headers=headers) as response:
            status = response.status
        await eventually(lambda: bool(mesh.run.unknown_keys))

        (denial,) = mesh.run.denials.recent(ObjectName("default", "app"))
        assert status == 401
        assert set(mesh.run.unknown_keys) == {ObjectName("default", "app")}
        assert (denial.path, denial.method, denial.status) == ("/p", "GET", 401)
        assert "secret" not in repr(mesh.run.denials.recent())
        assert token not in repr(mesh.run.denials.recent())
        (used,) = mesh.run.engine.request_authentications(ObjectName("default", "app"))
        assert used.spec.jwt_rules[0].issuer == "https://issuer.test"


def _jwks(key: jwk.RSAKey) -> str:
    return json.dumps({"keys": [key.as_dict(private=False)]})
