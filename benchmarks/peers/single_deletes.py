"""Shared code of the two peers that delete each checkpoint with its own call."""

import hashlib
import os
import time

import boto3
from pydantic import BaseModel, StrictInt

dynamodb = boto3.client("dynamodb")


class Request(BaseModel):
    steps: list[StrictInt]


class Response(BaseModel):
    deleted_count: int
    not_found_steps: list[int]


def find_entity(token: str) -> str | None:
    key = {"token_hash": {"S": hashlib.sha256(token.encode()).hexdigest()}}
    response = dynamodb.get_item(TableName=os.environ["TOKENS_TABLE"], Key=key, ConsistentRead=True)
    record = response.get("Item", {})
    is_expired = float(record.get("expires_at", {"N": "inf"})["N"]) <= time.time()
    if is_expired or "checkpoints:delete" not in record.get("scopes", {}).get("SS", []):
        return None
    return record["entity"]["S"]


def delete_one(model_id: str, step: int, entity: str) -> bool:
    try:
        response = dynamodb.delete_item(
            TableName=os.environ["CHECKPOINTS_TABLE"],
            Key={"model_id": {"S": model_id}, "step": {"N": str(step)}},
            ConditionExpression="attribute_not_exists(entity) OR entity = :entity",
            ExpressionAttributeValues={":entity": {"S": entity}},
            ReturnValues="ALL_OLD",
        )
    except dynamodb.exceptions.ConditionalCheckFailedException:
        return False
    return "Attributes" in response
