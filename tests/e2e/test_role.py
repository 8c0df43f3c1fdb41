"""The function's role is minimal: without any of its actions, a request fails."""

import pytest

from deployment import Deployment, Role, Send


@pytest.mark.parametrize(
    ("action", "count", "query"),
    [
        ("dynamodb:GetItem", 1, ""),
        ("dynamodb:Query", 101, ""),  # as these are too many for one batch
        ("dynamodb:BatchGetItem", 1, "?dry_run=true"),
        ("dynamodb:DeleteItem", 1, ""),
    ],
)
def test_a_request_needs_each_action(
    deployment: Deployment, send: Send, action: str, count: int, query: str
) -> None:
    steps = list(range(count))
    deployment.put_checkpoints(steps)

    role = Role(deployment, "ApiFunctionRole")
    role.take_away(action)
    try:
        response = send(steps, url=deployment.url() + query)
    finally:
        role.give_back()

    assert (500, "Internal Server Error") == (response.status, response.body["detail"])
    assert set(steps) == deployment.stored_steps()

    response = send(steps, url=deployment.url() + query)

    assert (200, count) == (response.status, response.body["deleted_count"])
