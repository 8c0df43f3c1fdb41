"""DynamoDB fails between the deployed function and its tables."""

import pytest

from deployment import Deployment, Send
from faulty_dynamodb import (
    Fault,
    cancel,
    drop_request,
    fail_after_effect,
    lose_response,
    reject,
    tear_response,
)

SHORT = {
    "response lost": lose_response,
    "response torn": tear_response,
    "response a server error": fail_after_effect,
    "connection cut": drop_request,
    "throttled": reject(400, "ThrottlingException"),
    "conflict": cancel("TransactionConflict"),
}


@pytest.mark.parametrize("fault", SHORT.values(), ids=SHORT.keys())
def test_a_short_fault_does_not_change_the_response(
    deployment: Deployment, send: Send, fault: Fault
) -> None:
    deployment.put_checkpoints(range(250))
    deployment.endpoint.fail("TransactWriteItems", fault, fault)

    response = send(list(range(255)))

    assert (200, {"deleted_count": 250, "not_found_steps": list(range(250, 255))}) == (
        response.status,
        response.body,
    )
    assert set() == deployment.stored_steps()


@pytest.mark.parametrize("operation", ["GetItem", "Query", "TransactWriteItems"])
def test_a_lasting_fault_is_reported_and_a_retry_finishes(
    deployment: Deployment, send: Send, operation: str
) -> None:
    deployment.put_checkpoints(range(120))
    deployment.endpoint.keep_failing(operation, reject(503, "ServiceUnavailable"))

    refused = send(list(range(120)))

    assert (503, "2") == (refused.status, refused.headers["Retry-After"])
    unconfirmed = 120 if operation == "TransactWriteItems" else 0
    counts = {"deleted_count": 0, "unconfirmed_count": unconfirmed}
    assert counts == {name: refused.body[name] for name in counts}

    deployment.endpoint.heal()
    response = send(list(range(120)))

    assert (200, {"deleted_count": 120, "not_found_steps": []}) == (response.status, response.body)
