"""The least that deletes exactly: a bare handler, without routing, authentication or a log."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import batched
from typing import Any

import boto3
from pydantic import BaseModel, StrictInt, ValidationError

TABLE = os.environ["CHECKPOINTS_TABLE"]
ENTITY = "vision-team"

dynamodb = boto3.client("dynamodb")


class DeleteCheckpointsRequest(BaseModel):
    steps: list[StrictInt]


class DeleteCheckpointsResponse(BaseModel):
    deleted_count: int
    not_found_steps: list[int]


def lambda_handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    model_id: str = event["pathParameters"]["model_id"]
    try:
        request = DeleteCheckpointsRequest.model_validate_json(event["body"] or "")
    except ValidationError as error:
        return {"statusCode": 422, "body": error.json(include_url=False, include_input=False)}
    steps = list(dict.fromkeys(request.steps))
    deleted = delete(model_id, steps if len(steps) <= 100 else present(model_id, steps))
    response = DeleteCheckpointsResponse(
        deleted_count=len(deleted), not_found_steps=[step for step in steps if step not in deleted]
    )
    return {"statusCode": 200, "body": response.model_dump_json()}


def present(model_id: str, steps: list[int]) -> list[int]:
    pages = dynamodb.get_paginator("query").paginate(
        TableName=TABLE,
        KeyConditionExpression="model_id = :model_id AND #step BETWEEN :first AND :last",
        FilterExpression="entity = :entity",
        ProjectionExpression="#step",
        ExpressionAttributeNames={"#step": "step"},
        ExpressionAttributeValues={
            ":model_id": {"S": model_id},
            ":first": {"N": str(min(steps))},
            ":last": {"N": str(max(steps))},
            ":entity": {"S": ENTITY},
        },
        ConsistentRead=True,
    )
    found = {int(item["step"]["N"]) for page in pages for item in page["Items"]}
    return [step for step in steps if step in found]


def delete(model_id: str, steps: list[int]) -> set[int]:
    def delete_together(chunk: Sequence[int]) -> Sequence[int]:
        condition = {
            "TableName": TABLE,
            "ConditionExpression": "entity = :entity",
            "ExpressionAttributeValues": {":entity": {"S": ENTITY}},
        }
        while chunk:
            keys = [{"model_id": {"S": model_id}, "step": {"N": str(step)}} for step in chunk]
            deletes: Any = [{"Delete": {"Key": key, **condition}} for key in keys]
            try:
                dynamodb.transact_write_items(TransactItems=deletes)
            except dynamodb.exceptions.TransactionCanceledException as error:
                codes = [reason["Code"] for reason in error.response["CancellationReasons"]]
                if set(codes) - {"None"} != {"ConditionalCheckFailed"}:
                    raise
                missing = {step for step, code in zip(chunk, codes, strict=True) if code != "None"}
                chunk = [step for step in chunk if step not in missing]
            else:
                break
        return chunk

    if len(steps) <= 100:
        return set(delete_together(steps))
    with ThreadPoolExecutor(4) as pool:
        return set().union(*pool.map(delete_together, batched(steps, 100, strict=False)))
