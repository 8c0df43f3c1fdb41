"""Save records in the two tables, in memory or deployed."""

import time
from collections.abc import Collection, Iterable, Mapping
from itertools import batched
from typing import TYPE_CHECKING, Any

from checkpoints.api.auth import DELETE_SCOPE, READ_SCOPE, hash_token

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

# The main model of the demo, and the objects that each of its checkpoints has in S3.
ENTITY = "vision-team"
MODEL = "resnet-50"
STEPS = range(100, 1_001, 100)
ARTIFACTS_BUCKET = "training-artifacts"
ARTIFACTS = ("config.json", "model.safetensors", "optimizer.pt")

BATCH_SIZE = 25  # the maximum of BatchWriteItem

type Attribute = Mapping[str, Any]  # in DynamoDB's notation, such as {"S": "x"}


def put_checkpoints(
    client: "DynamoDBClient",
    table: str,
    model_id: str,
    steps: Iterable[int],
    *,
    entity: str,
    **attributes: Attribute,
) -> None:
    """Save a checkpoint at each step. `attributes` are added to its record, or replace its own."""
    for batch in batched(steps, BATCH_SIZE, strict=False):
        items: list[dict[str, Any]] = [
            {"model_id": {"S": model_id}, "step": {"N": str(step)}, "entity": {"S": entity}}
            | attributes
            for step in batch
        ]
        pending: Any = {table: [{"PutRequest": {"Item": item}} for item in items]}
        while pending:
            pending = client.batch_write_item(RequestItems=pending)["UnprocessedItems"]


def put_token(  # noqa: PLR0913 the table, and the fields of a token
    client: "DynamoDBClient",
    table: str,
    token: str,
    *,
    entity: str,
    scopes: Collection[str] = (DELETE_SCOPE,),
    name: str | None = None,
    **attributes: Attribute,
) -> None:
    """Save a token with a known value. `attributes` are added to its record.

    Without a `name`, the token's value is also its name.
    """
    item: dict[str, Any] = {
        "token_hash": {"S": hash_token(token)},
        "entity": {"S": entity},
        "scopes": {"SS": list(scopes)},
        "name": {"S": name or token},
        "created_at": {"N": str(int(time.time()))},
    }
    client.put_item(TableName=table, Item=item | attributes)


def artifact_keys() -> list[str]:
    """Return the keys of the objects in S3 that belong to the checkpoints of `put_demo_model`."""
    return [f"{MODEL}/{step}/{name}" for step in STEPS for name in ARTIFACTS]


def put_demo_model(client: "DynamoDBClient", table: str) -> None:
    """Save the checkpoints of the demo's main model, each with a metric and an artifact URI."""
    for step in STEPS:
        put_checkpoints(
            client,
            table,
            MODEL,
            [step],
            entity=ENTITY,
            metrics={"M": {"loss": {"N": f"{100 / step:.2f}"}}},
            artifact_uri={"S": f"s3://{ARTIFACTS_BUCKET}/{MODEL}/{step}/"},
        )


def put_demo(client: "DynamoDBClient", checkpoints_table: str, tokens_table: str) -> None:
    """Save the records for the sample events: three models of one team, and tokens of two teams.

    One of the models also has a checkpoint that belongs to the other team, and one a protected
    checkpoint.
    """

    def put(model_id: str, steps: Iterable[int], entity: str, **attributes: Attribute) -> None:
        put_checkpoints(client, checkpoints_table, model_id, steps, entity=entity, **attributes)

    put_token(client, tokens_table, "vision-team-demo-token", entity=ENTITY)
    put_token(client, tokens_table, "speech-team-demo-token", entity="speech-team")
    put_token(
        client,
        tokens_table,
        "read-only-demo-token",
        entity=ENTITY,
        scopes=[READ_SCOPE],
    )
    put_demo_model(client, checkpoints_table)
    put(MODEL, [1100], "speech-team")
    put("gpt-small", range(1, 401), ENTITY)
    put("gpt-small", [500], ENTITY, protected={"BOOL": True})
    put("été 2026/a+b", [1, 2], ENTITY)
