"""The function's role is minimal: without any one action of it, a request fails."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from deployment import Deployment, Send
from emulators.records import put_checkpoints
from events import MODEL


class Role:
    """The role of the deployed function, and its one policy."""

    def __init__(self, deployment: Deployment) -> None:
        stack = deployment.cloud.client("cloudformation")
        resource = stack.describe_stack_resource(
            StackName="checkpoints", LogicalResourceId="ApiFunctionRole"
        )
        self._iam = deployment.cloud.client("iam")
        self._name = resource["StackResourceDetail"]["PhysicalResourceId"]
        (self._policy,) = self._iam.list_role_policies(RoleName=self._name)["PolicyNames"]
        document = self._iam.get_role_policy(RoleName=self._name, PolicyName=self._policy)
        self.document: dict[str, Any] = document["PolicyDocument"]

    def without(self, action: str) -> dict[str, Any]:
        """Return the policy without one action."""
        lesser = copy.deepcopy(self.document)
        for statement in lesser["Statement"]:
            statement["Action"] = [other for other in statement["Action"] if other != action] or [
                "dynamodb:ListTables"
            ]
        assert lesser != self.document
        return lesser

    def put(self, document: dict[str, Any]) -> None:
        """Replace the policy."""
        self._iam.put_role_policy(
            RoleName=self._name, PolicyName=self._policy, PolicyDocument=json.dumps(document)
        )


@pytest.fixture
def role(deployment: Deployment) -> Iterator[Role]:
    role = Role(deployment)
    yield role
    role.put(role.document)


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

    role.put(role.without(action))
    answer = send(list(steps))

    assert (500, "Internal Server Error") == (answer.status, answer.body["detail"])
    assert stored == deployment.stored_steps()

    role.put(role.document)
    answer = send(list(steps))

    assert (200, {"deleted_count": 101, "not_found_steps": []}) == (answer.status, answer.body)


@pytest.mark.parametrize("count", [2, 101])
def test_a_dry_run_needs_no_right_to_delete(
    deployment: Deployment, send: Send, role: Role, count: int
) -> None:
    deployment.put_checkpoints(range(count))

    role.put(role.without("dynamodb:DeleteItem"))
    answer = send(list(range(count)), url=f"{deployment.url()}?dry_run=true")

    assert (200, {"deleted_count": count, "not_found_steps": []}) == (answer.status, answer.body)
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
