"""What a RateLimit waits for, in the words that people search for; golden pairs show the rest."""

import pytest

from apirule.apis.operator import APIGateway, APIGatewayStatus
from apirule.translate.rate_limit import awaited_gateway


@pytest.mark.parametrize("state", ["Warning", "Error", "Deleting", "Processing"])
def test_a_limit_waits_for_a_gateway_that_is_not_ready(state: str) -> None:
    status = awaited_gateway(APIGateway(status=APIGatewayStatus(state=state)))

    assert status is not None
    assert (status.state, status.description) == (
        "Warning",
        f"failed to create RateLimit CR because APIGateway CR is in {state} state",
    )


def test_a_gateway_without_a_state_is_processed_still() -> None:
    status = awaited_gateway(APIGateway())

    assert status is not None
    assert status.description.endswith("is in Processing state")


def test_a_limit_waits_for_no_gateway_that_is_ready() -> None:
    assert awaited_gateway(APIGateway(status=APIGatewayStatus(state="Ready"))) is None
