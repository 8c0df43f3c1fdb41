"""The deployed stack, for the end-to-end tests."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from checkpoints.api.auth import DELETE_SCOPE
from cli import tokens
from cli.logs import read_events
from emulators import STACK, records
from emulators.aws import AwsEmulator
from emulators.records import ARTIFACTS_BUCKET
from events import ENTITY, MODEL, Response
from faulty_dynamodb import Endpoint

type Send = Callable[..., Response]


@dataclass
class Deployment:
    """The deployed stack, its function talking to DynamoDB through an endpoint that can fail."""

    cloud: AwsEmulator
    endpoint: Endpoint
    outputs: dict[str, str]

    def put_checkpoints(
        self,
        steps: Iterable[int],
        *,
        model_id: str = MODEL,
        entity: str = ENTITY,
        **attributes: records.Attribute,
    ) -> None:
        """Save a checkpoint at each step."""
        client = self.cloud.client("dynamodb")
        table = self.outputs["CheckpointsTableName"]
        records.put_checkpoints(client, table, model_id, steps, entity=entity, **attributes)

    def stored_steps(self, model_id: str = MODEL) -> set[int]:
        """Return the steps at which a model has checkpoints."""
        query = self.cloud.client("dynamodb").get_paginator("query")
        pages = query.paginate(
            TableName=self.outputs["CheckpointsTableName"],
            KeyConditionExpression="model_id = :model_id",
            ExpressionAttributeValues={":model_id": {"S": model_id}},
            ConsistentRead=True,
        )
        return {int(record["step"]["N"]) for page in pages for record in page["Items"]}

    def issue_token(
        self, name: str, *, entity: str = ENTITY, scopes: Collection[str] = (DELETE_SCOPE,)
    ) -> str:
        """Issue a token."""
        client = self.cloud.client("dynamodb")
        table = self.outputs["TokensTableName"]
        return tokens.issue(client, table, entity=entity, name=name, scopes=scopes)

    def put_objects(self, *keys: str, body: bytes = b"weights") -> None:
        """Save an object at each key of the artifacts bucket."""
        client = self.cloud.client("s3")
        for key in keys:
            client.put_object(Bucket=ARTIFACTS_BUCKET, Key=key, Body=body)

    def stored_objects(self) -> set[str]:
        """Return the keys of all objects in that bucket."""
        pages = self.cloud.client("s3").get_paginator("list_objects_v2")
        return {
            each["Key"]
            for page in pages.paginate(Bucket=ARTIFACTS_BUCKET)
            for each in page.get("Contents", [])
        }

    def outcomes(self, model_id: str) -> dict[int, str]:
        """Return the last logged outcome of freeing the storage of each step."""
        log_group = self.outputs["ReclaimFunctionLogGroupName"]
        lines = [
            json.loads(event["message"])
            for event in read_events(self.cloud.client("logs"), log_group)
            if '"outcome"' in event["message"]
        ]
        return {each["step"]: each["outcome"] for each in lines if each["model_id"] == model_id}

    def url(self, model_id: str = MODEL) -> str:
        """Return the URL of the checkpoints of a model."""
        return f"{self.outputs['ApiUrl']}/v1/preview/models/{quote(model_id, safe='')}/checkpoints"


def run_checkpoints(
    deployment: Deployment, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `checkpoints` on the deployed stack."""
    return subprocess.run(  # noqa: S603 it is ours
        [sys.executable, "-W", "error", "-m", "cli.main", *arguments],
        env=os.environ
        | deployment.cloud.environment
        | {"CHECKPOINTS_API_URL": deployment.outputs["ApiUrl"], "CHECKPOINTS_STACK": STACK}
        | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


class Role:
    """The role of a deployed function, and its one policy."""

    def __init__(self, deployment: Deployment, name: str) -> None:
        stack = deployment.cloud.client("cloudformation")
        resource = stack.describe_stack_resource(StackName=STACK, LogicalResourceId=name)
        self._iam = deployment.cloud.client("iam")
        self._name = resource["StackResourceDetail"]["PhysicalResourceId"]
        (self._policy,) = self._iam.list_role_policies(RoleName=self._name)["PolicyNames"]
        document = self._iam.get_role_policy(RoleName=self._name, PolicyName=self._policy)
        self.document: dict[str, Any] = document["PolicyDocument"]

    def take_away(self, *actions: str) -> None:
        """Remove these actions from the policy."""
        lesser = copy.deepcopy(self.document)
        for statement in lesser["Statement"]:
            statement["Action"] = [
                other for other in statement["Action"] if other not in actions
            ] or ["dynamodb:ListTables"]
        assert lesser != self.document
        self._put(lesser)

    def give_back(self) -> None:
        """Restore the original policy."""
        self._put(self.document)

    def _put(self, document: dict[str, Any]) -> None:
        self._iam.put_role_policy(
            RoleName=self._name, PolicyName=self._policy, PolicyDocument=json.dumps(document)
        )
