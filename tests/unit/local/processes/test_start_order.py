from typing import Any

from apirule.local.processes.start_order import due, stop_order

DONE = {"state": "exited", "last": {"code": 0}}
FAILED = {"state": "exited", "last": {"code": 1}}
RUNS = {"state": "running", "last": None}


def pod(*containers: str, inits: tuple[str, ...] = (), sidecars: tuple[str, ...] = ()) -> Any:
    def init(name: str) -> dict[str, Any]:
        return {"name": name} | ({"restartPolicy": "Always"} if name in sidecars else {})

    given = [{"name": name} for name in containers]
    return {"spec": {"containers": given, "initContainers": [init(name) for name in inits]}}


def names(
    given: Any,
    processes: dict[str, Any],
    started: tuple[str, ...] = (),
    ready: tuple[str, ...] = (),
    **more: Any,
) -> list[str]:
    found = due(given, processes.get, started=started, ready=ready, **more)
    return [container["name"] for container, _ in found]


def test_nothing_starts_before_the_proxy_is_ready() -> None:
    given = pod("app", "istio-proxy", inits=("first",))

    assert names(given, {}) == ["istio-proxy"]
    assert names(given, {"istio-proxy": RUNS}) == ["istio-proxy"]
    assert names(given, {"istio-proxy": RUNS}, ready=("istio-proxy",)) == ["istio-proxy", "first"]


def test_a_proxy_that_takes_too_long_is_not_waited_for() -> None:
    assert names(pod("app", "istio-proxy"), {}, without_proxy=True) == ["istio-proxy", "app"]


def test_a_program_that_calls_nobody_need_not_wait() -> None:
    given = pod("app", "web", "istio-proxy")

    assert names(given, {}, calling_nobody=("web",)) == ["istio-proxy", "web"]
    with_step = pod("web", "istio-proxy", inits=("first",))
    assert names(with_step, {}, calling_nobody=("web",)) == ["istio-proxy"]


def test_a_gateway_is_its_proxy() -> None:
    assert names(pod("istio-proxy"), {}, ready=("istio-proxy",)) == ["istio-proxy"]


def test_init_containers_wait_for_the_success_of_the_one_before() -> None:
    given = pod("app", inits=("one", "two"))

    assert names(given, {}) == ["one"]
    assert names(given, {"one": RUNS}) == ["one"]
    assert names(given, {"one": FAILED}) == ["one"]
    assert names(given, {"one": DONE}) == ["one", "two"]
    assert names(given, {"one": DONE, "two": DONE}) == ["one", "two", "app"]


def test_a_sidecar_among_init_containers_only_has_to_start() -> None:
    given = pod("app", inits=("logs", "two"), sidecars=("logs",))

    assert names(given, {"logs": RUNS}) == ["logs"]
    assert names(given, {"logs": RUNS}, started=("logs",)) == ["logs", "two"]
    assert names(given, {"logs": RUNS, "two": DONE}, started=("logs",)) == ["logs", "two", "app"]


def test_a_proxy_among_init_containers_is_first_all_the_same() -> None:
    given = pod("app", inits=("one", "istio-proxy"), sidecars=("istio-proxy",))

    assert names(given, {}) == ["istio-proxy"]
    assert names(given, {"one": DONE}, ready=("istio-proxy",)) == ["istio-proxy", "one", "app"]


def test_the_end_goes_the_other_way_round() -> None:
    given = pod("app", "istio-proxy", "web", inits=("one", "logs", "two"), sidecars=("one", "two"))

    assert list(stop_order(given)) == [["app", "web", "logs"], ["two"], ["one"], ["istio-proxy"]]
