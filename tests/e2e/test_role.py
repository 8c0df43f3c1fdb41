"""The function's role is minimal: without any of its actions, a request fails."""

import pytest

from deployment import Deployment, Role, Send
from emulators.records import put_checkpoints
from events import MODEL


@pytest.mark.parametrize(
    ("action", "steps"),
    [
        ("dynamodb:GetItem", range(101)),
        ("dynamodb:Query", range(101)),
        ("dynamodb:BatchGetItem", range(0, 10_100, 100)),  # as the query takes too many pages
        ("dynamodb:DeleteItem", range(101)),
    ],
)
def test_a_request_needs_each_action(
    deployment: Deployment, send: Send, role: Role, action: str, steps: range
) -> None:
    deployment.put_checkpoints(steps)
    if action == "dynamodb:BatchGetItem":
        put_large_records(deployment, [step + i for step in steps[:5] for i in (1, 2, 3)])
    stored = deployment.stored_steps()

    role.take_away(action)
    response = send(list(steps))

    assert (500, "Internal Server Error") == (response.status, response.body["detail"])
    assert stored == deployment.stored_steps()

    role.give_back()
    response = send(list(steps))

    assert (200, {"deleted_count": 101, "not_found_steps": []}) == (response.status, response.body)


def test_a_list_needs_only_the_permission_to_query(
    deployment: Deployment, send: Send, role: Role
) -> None:
    deployment.put_checkpoints(range(2))

    role.take_away("dynamodb:Query")
    response = send(method="GET")

    assert (500, {"detail": "Internal Server Error"}) == (response.status, response.body)

    role.take_away("dynamodb:BatchGetItem", "dynamodb:DeleteItem")
    response = send(method="GET")

    assert (200, ["0", "1"]) == (response.status, [each["id"] for each in response.body["data"]])


@pytest.mark.parametrize("count", [2, 101])
def test_a_dry_run_needs_no_permission_to_delete(
    deployment: Deployment, send: Send, role: Role, count: int
) -> None:
    deployment.put_checkpoints(range(count))

    role.take_away("dynamodb:DeleteItem")
    response = send(list(range(count)), url=f"{deployment.url()}?dry_run=true")

    assert (200, {"deleted_count": count, "not_found_steps": [], "dry_run": True}) == (
        response.status,
        response.body,
    )
    assert set(range(count)) == deployment.stored_steps()


def put_large_records(deployment: Deployment, steps: list[int]) -> None:
    """Save another entity's checkpoints, so large that a page of a query holds three."""
    put_checkpoints(
        deployment.cloud.client("dynamodb"),
        deployment.outputs["CheckpointsTableName"],
        MODEL,
        steps,
        entity="another-team",
        notes={"S": "x" * 390_000},
    )


def test_the_role_allows_dynamodb_nothing_else(role: Role) -> None:
    allowed = [action for s in role.document["Statement"] for action in s["Action"]]

    assert {
        "dynamodb:BatchGetItem",
        "dynamodb:DeleteItem",
        "dynamodb:GetItem",
        "dynamodb:Query",
    } == {action for action in allowed if action.startswith("dynamodb:")}
    assert not any("*" in action for action in allowed)
