"""FastAPI on Lambda by Mangum: single deletes in a thread pool."""

import hashlib
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import boto3
from botocore.exceptions import ClientError
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from mangum import Mangum
from pydantic import BaseModel, StrictInt

CHECKPOINTS_TABLE = os.environ["CHECKPOINTS_TABLE"]
TOKENS_TABLE = os.environ["TOKENS_TABLE"]

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)
dynamodb = boto3.client("dynamodb")
pool = ThreadPoolExecutor(10)  # as many as botocore keeps connections
app = FastAPI()


class DeleteCheckpointsRequest(BaseModel):
    steps: list[StrictInt]


class DeleteCheckpointsResponse(BaseModel):
    deleted_count: int
    not_found_steps: list[int]


def authenticate(
    credentials: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())],
) -> str:
    token_hash = hashlib.sha256(credentials.credentials.encode()).hexdigest()
    answer = dynamodb.get_item(
        TableName=TOKENS_TABLE, Key={"token_hash": {"S": token_hash}}, ConsistentRead=True
    )
    record = answer.get("Item")
    if record is None or (
        "expires_at" in record and float(record["expires_at"]["N"]) <= time.time()
    ):
        raise HTTPException(401, "Invalid or expired token", {"WWW-Authenticate": "Bearer"})
    if "checkpoints:delete" not in record.get("scopes", {}).get("SS", []):
        raise HTTPException(403, "The token lacks the scope checkpoints:delete")
    return record["entity"]["S"]


@app.delete("/v1/preview/models/{model_id}/checkpoints")
def delete_checkpoints(
    model_id: str, request: DeleteCheckpointsRequest, entity: Annotated[str, Depends(authenticate)]
) -> DeleteCheckpointsResponse:
    steps = list(dict.fromkeys(request.steps))
    deleted = list(pool.map(lambda step: delete_one(model_id, step, entity), steps))
    not_found = [step for step, done in zip(steps, deleted, strict=True) if not done]
    logger.info("%s deleted %d checkpoints of %s", entity, sum(deleted), model_id)
    return DeleteCheckpointsResponse(deleted_count=sum(deleted), not_found_steps=not_found)


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


lambda_handler = Mangum(app, lifespan="off")
