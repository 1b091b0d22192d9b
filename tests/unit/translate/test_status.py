"""State, description and conditions."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from tests.unit.translate.build import JWT, apirule, facts, rule

from apirule.apis.gateway import v2
from apirule.apis.meta import Condition, Object
from apirule.translate import Outcome, translate
from apirule.translate.status import (
    NOT_REPORTED,
    Enforcement,
    Failure,
    Verdict,
    enforcement,
    is_served,
    missing_dependency,
    status_of,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = datetime(2026, 1, 2, 4, 0, 0, tzinfo=UTC)
VALID = Outcome((), ())
ENFORCED = Enforcement(Verdict.TRUE, "UpToDate", "")
WAITING = Enforcement(Verdict.FALSE, "Waiting", "VirtualService web/shop: 1/2 proxies up to date")


def outcome(rule_: v2.APIRule) -> Outcome:
    return translate(rule_, facts())


def broken() -> v2.APIRule:
    return apirule(rule("/a/{**}/{**}"), generation=2)


def condition(status: v2.APIRuleStatus, kind: str) -> Condition:
    return next(one for one in status.conditions if one.type == kind)


def reported(generation: int = 1, **said: Any) -> Object:
    return {
        "apiVersion": "networking.istio.io/v1beta1",
        "kind": "VirtualService",
        "metadata": {"namespace": "web", "name": "shop", "generation": generation},
        "status": {"conditions": [{"type": "Reconciled", **said}]},
    }


def test_a_rule_that_is_enforced_is_ready() -> None:
    status = status_of(apirule(generation=3), VALID, ENFORCED, now=NOW)

    assert (status.state, status.description) == ("Ready", "Reconciled successfully")
    assert status.last_processed_time == "2026-01-02T03:04:05Z"
    assert status.observed_generation == 3
    assert [(one.type, one.status) for one in status.conditions] == [
        ("Accepted", "True"),
        ("Enforced", "True"),
        ("Ready", "True"),
        ("Serving", "True"),
    ]


def test_a_rule_is_processing_until_the_proxies_have_it() -> None:
    status = status_of(apirule(), VALID, WAITING, now=NOW)

    assert status.state == "Processing"
    assert "1/2 proxies up to date" in status.description
    assert condition(status, "Ready").status == "False"
    assert condition(status, "Serving").status == "False"


def test_a_rule_is_ready_at_once_where_the_engine_reports_nothing() -> None:
    status = status_of(apirule(), VALID, NOT_REPORTED, now=NOW)

    assert status.state == "Ready"
    assert condition(status, "Enforced").status == "Unknown"


def test_the_description_has_three_errors_and_the_condition_has_all() -> None:
    bad = {"authentications": [{"issuer": "", "jwksUri": ""}], "authorizations": []}
    rule_ = apirule(rule("/a", jwt=bad), rule("/b/{**}/{**}"), rule("/c/{**}/{*}"))

    status = status_of(rule_, outcome(rule_), ENFORCED, now=NOW)

    assert status.state == "Error"
    assert status.description.startswith(
        "Validation errors: Attribute '.spec.rules[0].jwt.authorizations': "
    )
    assert status.description.splitlines()[3:] == ["2 more error(s)..."]
    assert len(condition(status, "Accepted").message.splitlines()) >= 5
    assert condition(status, "Enforced").reason == "NotAccepted"


def test_a_missing_gateway_is_all_the_description_says() -> None:
    rule_ = apirule(rule("/a/{**}/{**}"), gateway="web/none")

    status = status_of(rule_, outcome(rule_), ENFORCED, now=NOW)

    assert status.description == (
        "Validation errors: Attribute 'spec.gateway': Could not get specified Gateway"
    )
    assert "Only one {**} operator" in condition(status, "Accepted").message


def test_advice_leaves_a_rule_ready_and_stands_in_the_condition() -> None:
    rule_ = apirule(rule("/admin", jwt=JWT), rule("/*"))

    status = status_of(rule_, outcome(rule_), ENFORCED, now=NOW)

    accepted = condition(status, "Accepted")
    assert status.state == "Ready"
    assert (accepted.status, accepted.reason) == ("True", "Advice")
    assert "warning: spec.rules[0].path: /admin needs a token" in accepted.message


def test_refused_writes_are_named_by_their_kind() -> None:
    failures = [
        Failure("VirtualService", "a"),
        Failure("AuthorizationPolicy", "b"),
        Failure("VirtualService", "c"),
    ]

    status = status_of(apirule(), VALID, ENFORCED, now=NOW, failures=failures)

    assert status.state == "Error"
    assert status.description == "VirtualServiceErrors: a, c\nAuthorizationPolicyErrors: b"
    assert condition(status, "Enforced").reason == "WriteFailed"


@pytest.mark.parametrize("reason", ["Rejected", "Conflict", "NotFound", "UnknownField", "Invalid"])
def test_an_object_that_the_engine_refuses_is_an_error(reason: str) -> None:
    route = reported(status="False", reason=reason, message="bad regex", observedGeneration=1)
    refused = enforcement([route])

    status = status_of(apirule(), VALID, refused, now=NOW)

    assert status.state == "Error"
    assert status.description == "VirtualServiceErrors: web/shop: bad regex"
    assert not is_served([route])


def test_progress_that_istio_reports_is_waited_for() -> None:
    late = reported(status="False", message="1/2 proxies up to date.", observedGeneration=1)

    assert (enforcement([late]).reason, enforcement([late]).refusals) == ("Waiting", ())
    assert is_served([late])


def test_every_object_must_be_reported_at_its_generation() -> None:
    current = reported(2, status="True", observedGeneration=2)
    old = reported(2, status="True", observedGeneration=1)
    silent = reported(2) | {"status": {}}

    assert enforcement([current]).verdict is Verdict.TRUE
    assert enforcement([current, old]).verdict is Verdict.FALSE
    assert enforcement([current, silent]).verdict is Verdict.FALSE
    assert enforcement([]).verdict is Verdict.FALSE


def test_a_refusal_of_an_earlier_generation_is_waited_over() -> None:
    old = reported(2, status="False", reason="Rejected", observedGeneration=1)

    assert enforcement([old]).refusals == ()
    assert enforcement([old]).reason == "Waiting"


def test_an_invalid_update_says_which_generation_still_serves() -> None:
    ready = status_of(apirule(generation=1), VALID, ENFORCED, now=NOW)
    updated = msgspec.structs.replace(broken(), status=ready)

    status = status_of(updated, outcome(updated), ENFORCED, now=LATER)

    serving = condition(status, "Serving")
    assert status.observed_generation == 2
    assert (serving.status, serving.reason) == ("True", "EarlierGeneration")
    assert (serving.message, serving.observed_generation) == ("generation 1", 1)


def test_a_rule_that_never_was_ready_serves_nothing() -> None:
    status = status_of(broken(), outcome(broken()), ENFORCED, now=NOW)

    assert condition(status, "Serving").reason == "NeverReady"


def test_a_condition_keeps_its_time_until_it_changes() -> None:
    first = status_of(apirule(), VALID, WAITING, now=NOW)
    again = msgspec.structs.replace(apirule(), status=first)

    second = status_of(again, VALID, ENFORCED, now=LATER)

    assert condition(second, "Accepted").last_transition_time == "2026-01-02T03:04:05Z"
    assert condition(second, "Enforced").last_transition_time == "2026-01-02T04:00:00Z"


def test_a_missing_crd_is_a_warning() -> None:
    crd = "virtualservices.networking.istio.io"

    status = missing_dependency(apirule(), crd, now=NOW)

    assert status.state == "Warning"
    assert status.description == (
        f"CRD {crd} is not present. Make sure to install required dependencies for the component"
    )
