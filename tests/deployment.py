"""The stack as it is deployed."""

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

import serve
import tokens
from endpoint import Endpoint
from function import MODEL, Answer

from checkpoints.auth import DELETE_SCOPE, hash_token

type Send = Callable[..., Answer]


@dataclass
class Deployment:
    """The deployed stack, its function talking to DynamoDB through an endpoint that can fail."""

    cloud: serve.LocalCloud
    endpoint: Endpoint
    outputs: dict[str, str]

    def put_checkpoints(self, steps: range, *, model_id: str = MODEL) -> None:
        """Keep a checkpoint at each step."""
        client = self.cloud.client("dynamodb")
        serve.put_checkpoints(client, self.outputs["CheckpointsTableName"], model_id, steps)

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
        self, name: str, *, entity: str = serve.ENTITY, scope: str = DELETE_SCOPE
    ) -> str:
        """Issue a token."""
        client = self.cloud.client("dynamodb")
        table = self.outputs["TokensTableName"]
        return tokens.issue(client, table, entity=entity, name=name, scopes=[scope])

    def put_token(self, token: str, *, scope: str) -> None:
        """Keep a token that is known beforehand."""
        self.cloud.client("dynamodb").put_item(
            TableName=self.outputs["TokensTableName"],
            Item={
                "token_hash": {"S": hash_token(token)},
                "entity": {"S": serve.ENTITY},
                "name": {"S": token},
                "scopes": {"SS": [scope]},
            },
        )

    def url(self, model_id: str = MODEL) -> str:
        """Return where to delete checkpoints of a model."""
        return f"{self.outputs['ApiUrl']}/v1/preview/models/{quote(model_id, safe='')}/checkpoints"
