"""A bare handler: deletes and counts correctly, without routing, authentication or logs."""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import batched
from typing import Any

import boto3
from pydantic import BaseModel, StrictInt

TABLE = os.environ["CHECKPOINTS_TABLE"]
ENTITY = "vision-team"

dynamodb = boto3.client("dynamodb")


class Request(BaseModel):
    steps: list[StrictInt]


def lambda_handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    model_id: str = event["pathParameters"]["model_id"]
    steps = list(dict.fromkeys(Request.model_validate_json(event["body"]).steps))
    chunks = batched(steps, 100, strict=False)
    with ThreadPoolExecutor(4) as pool:
        deleted = set().union(*pool.map(lambda chunk: delete(model_id, chunk), chunks))
    not_found = [step for step in steps if step not in deleted]
    response = {"deleted_count": len(deleted), "not_found_steps": not_found}
    return {"statusCode": 200, "body": json.dumps(response)}


def delete(model_id: str, steps: Sequence[int]) -> Sequence[int]:
    condition = {
        "TableName": TABLE,
        "ConditionExpression": "entity = :entity",
        "ExpressionAttributeValues": {":entity": {"S": ENTITY}},
    }
    while steps:
        keys = [{"model_id": {"S": model_id}, "step": {"N": str(step)}} for step in steps]
        deletes: Any = [{"Delete": {"Key": key, **condition}} for key in keys]
        try:
            dynamodb.transact_write_items(TransactItems=deletes)
        except dynamodb.exceptions.TransactionCanceledException as error:
            codes = [reason["Code"] for reason in error.response["CancellationReasons"]]
            if set(codes) - {"None"} != {"ConditionalCheckFailed"}:
                raise
            steps = [step for step, code in zip(steps, codes, strict=True) if code == "None"]
        else:
            break
    return steps
