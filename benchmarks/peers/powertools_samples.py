"""Powertools as its samples have it: its validation, its tracer, and single deletes in a row."""

import hashlib
import os
import time
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Tracer
from aws_lambda_powertools.event_handler import APIGatewayRestResolver
from aws_lambda_powertools.event_handler.exceptions import ForbiddenError, UnauthorizedError
from aws_lambda_powertools.logging import correlation_paths
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.exceptions import ClientError
from pydantic import BaseModel, StrictInt

CHECKPOINTS_TABLE = os.environ["CHECKPOINTS_TABLE"]
TOKENS_TABLE = os.environ["TOKENS_TABLE"]

tracer = Tracer(service="checkpoints")
logger = Logger(service="checkpoints")
dynamodb = boto3.client("dynamodb")
app = APIGatewayRestResolver(enable_validation=True)


class DeleteCheckpointsRequest(BaseModel):
    steps: list[StrictInt]


class DeleteCheckpointsResponse(BaseModel):
    deleted_count: int
    not_found_steps: list[int]


@app.delete("/v1/preview/models/<model_id>/checkpoints")
@tracer.capture_method(capture_response=False)
def delete_checkpoints(
    model_id: str, request: DeleteCheckpointsRequest
) -> DeleteCheckpointsResponse:
    entity = authenticate()
    steps = list(dict.fromkeys(request.steps))
    not_found = [step for step in steps if not delete_one(model_id, step, entity)]
    deleted_count = len(steps) - len(not_found)
    logger.info("Checkpoints deleted", model_id=model_id, deleted_count=deleted_count)
    return DeleteCheckpointsResponse(deleted_count=deleted_count, not_found_steps=not_found)


@tracer.capture_method(capture_response=False)
def authenticate() -> str:
    scheme, _, token = app.current_event.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise UnauthorizedError("Not authenticated")
    answer = dynamodb.get_item(
        TableName=TOKENS_TABLE,
        Key={"token_hash": {"S": hashlib.sha256(token.encode()).hexdigest()}},
        ConsistentRead=True,
    )
    record = answer.get("Item")
    if record is None or (
        "expires_at" in record and float(record["expires_at"]["N"]) <= time.time()
    ):
        raise UnauthorizedError("Invalid or expired token")
    if "checkpoints:delete" not in record.get("scopes", {}).get("SS", []):
        raise ForbiddenError("The token lacks the scope checkpoints:delete")
    return record["entity"]["S"]


def delete_one(model_id: str, step: int, entity: str) -> bool:
    try:
        answer = dynamodb.delete_item(
            TableName=CHECKPOINTS_TABLE,
            Key={"model_id": {"S": model_id}, "step": {"N": str(step)}},
            ConditionExpression="attribute_not_exists(entity) OR entity = :entity",
            ExpressionAttributeValues={":entity": {"S": entity}},
            ReturnValues="ALL_OLD",
        )
    except ClientError as error:
        if error.response["Error"]["Code"] == "ConditionalCheckFailedException":
            return False
        raise
    return "Attributes" in answer


@logger.inject_lambda_context(correlation_id_path=correlation_paths.API_GATEWAY_REST)
@tracer.capture_lambda_handler(capture_response=False)
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return app.resolve(event, context)
