"""Real Envoys answer as the first rule that matches path and method says, whatever the rules.

``--rule-lists N`` tries more of them; the same N gives the same lists and requests.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import yaml
from tests.properties.mesh import Answer, World, ask, serving
from tests.properties.oracle import expected
from tests.properties.rule_lists import (
    ISSUERS,
    PLACES,
    SERVICES,
    Request,
    manifest,
    requests,
    rule_list,
    variation,
)

from apirule.apis import scheme
from apirule.apis.gateway import v2
from apirule.facts import Facts

pytestmark = pytest.mark.envoy

BATCH = 200
"""Rule lists that are served at once, all by the same workloads."""
REQUESTS = 200
SHOWN = 5
OVERLAPPING = 8
"""Of so many lists one is for a wildcard host, and a host within it lets in others there."""


def everything_guarded(number: int, place: Mapping[str, Any]) -> v2.APIRule:
    """Make both workloads know both issuers in this place, so that tokens count there everywhere.

    A workload knows issuers, and where to look for their tokens, on all its paths.
    """
    jwt = {
        "authentications": [{"issuer": one, "jwksUri": f"{one}/keys", **place} for one in ISSUERS]
    }
    rules = [
        {
            "path": f"/{name}",
            "methods": ["GET"],
            "jwt": jwt,
            "service": {"name": name, "port": 80},
        }
        for name in SERVICES
    ]
    return scheme.decode(
        {
            "metadata": {"name": f"guarded-{number}", "namespace": "web"},
            "spec": {
                "hosts": [f"guarded-{number}.example.org"],
                "gateway": "kyma-system/kyma-gateway",
                "rules": rules,
            },
        },
        v2.APIRule,
    )


def test_the_first_matching_rule_decides(pytestconfig: pytest.Config) -> None:
    count = pytestconfig.getoption("--rule-lists")
    wrong: list[str] = []
    seen: Counter[int] = Counter()
    for start in range(0, count, BATCH):
        world = World.make()
        facts = world.facts
        seeds = range(start, min(start + BATCH, count))
        called = {caller: rule for seed in seeds for caller, rule in drawn(seed, facts)}
        rules = list(called.values())
        asked = [(host, list(requests(host, rule, REQUESTS))) for host, rule in called.items()]

        guarded = [everything_guarded(*numbered) for numbered in enumerate(PLACES)]
        with serving(world, [*guarded, *rules]):
            answered = ask(world, asked)

        for rule, (_, sent), answers in zip(rules, asked, answered, strict=True):
            wrong += differences(rule, sent, answers)
            seen.update(answer.status for answer in answers)

    assert not wrong, f"{len(wrong)} wrong answers\n" + "\n".join(wrong[:SHOWN])
    # Every sort of answer is among them, so that agreement means something.
    assert set(seen) == {200, 400, 401, 403, 404}
    assert min(seen.values()) > count


def drawn(seed: int, facts: Facts) -> Iterator[tuple[str, v2.APIRule]]:
    """Yield lists of rules, each with the host under which it is called."""
    host = f"h{seed}.example.org"
    if seed % OVERLAPPING:
        yield host, rule_list(seed, host, facts)
        return
    wild = rule_list(seed, f"*.{host}", facts)
    yield f"any.{host}", wild
    yield f"own.{host}", variation(seed, f"own.{host}", wild)


def differences(
    rule: v2.APIRule, sent: Sequence[Request], answers: Sequence[Answer]
) -> Iterator[str]:
    for request, answer in zip(sent, answers, strict=True):
        statuses, service = expected(rule, request)
        if answer.status in statuses and (answer.status != 200 or answer.service == service):
            continue
        token = f"{request.token.name} {dict(request.place)}" if request.token else "none"
        wanted = " or ".join(map(str, sorted(statuses)))
        yield (
            f"{yaml.safe_dump(manifest(rule), sort_keys=False)}"
            f"# {request.method} {request.target}, token: {token}\n"
            f"# is answered {answer.status} {answer.service}, and should be {wanted} {service}\n"
        )
