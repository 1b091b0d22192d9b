"""103 requests that were put to two real API servers: ours gives the same answers.

What differs is listed in ``known_differences.yaml`` with its reason. A difference that is not
listed fails the test, and so does a listed one that is gone.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from tests.shells.conftest import RunningApiServer
from tests.shells.http_client import Client
from tests.shells.recorded import differences, normalised

_HERE = Path(__file__).parent
_RECORDED = _HERE.parent / "vectors" / "kubernetes-answers.json"
_KNOWN = _HERE / "known_differences.yaml"


def test_answers_are_those_of_real_servers_but_for_the_listed_differences(
    start_api_server: Callable[..., RunningApiServer],
) -> None:
    recorded = json.loads(_RECORDED.read_text())
    known = {
        (entry["server"], entry["step"]): entry["differs"]
        for entry in yaml.safe_load(_KNOWN.read_text())
    }

    found = {}
    for number, recording in enumerate(recorded["sets"]):
        name = ("core", "custom")[number]
        for step, places in _replay(start_api_server(), recording["steps"]):
            if places:
                found[name, step] = places

    assert found == known


def test_every_known_difference_says_why() -> None:
    entries = yaml.safe_load(_KNOWN.read_text())

    assert all(len(entry["reason"]) > 20 for entry in entries)


def _replay(server: RunningApiServer, steps: list[Any]) -> list[tuple[str, list[str]]]:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "dt"}}
    server.create(namespace)
    client = Client(server.url, server.ssl_context())
    result = []
    for number, step in enumerate(steps):
        answer = client.send(
            step["method"],
            step["path"],
            step["body"],
            content_type=step["contentType"],
            Accept=step["accept"],
            User_Agent="apirule/1",
        )
        if answer.status != step["status"]:
            places = [f"status {answer.status} instead of {step['status']}"]
        else:
            places = list(differences(normalised(step["answer"]), normalised(answer.json)))
        result.append((f"{number} {step['name']}", places))
    client.close()
    return result
