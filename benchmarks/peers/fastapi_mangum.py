"""FastAPI on Lambda by Mangum: single deletes in a thread pool."""

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from mangum import Mangum
from pydantic import BaseModel, StrictInt

from .one_by_one import delete_one, find_token

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)
pool = ThreadPoolExecutor(10)  # as many as botocore keeps connections
app = FastAPI()


class DeleteCheckpointsRequest(BaseModel):
    steps: list[StrictInt]


class DeleteCheckpointsResponse(BaseModel):
    deleted_count: int
    not_found_steps: list[int]


def authenticate(bearer: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> str:
    found = find_token(bearer.credentials)
    if found is None:
        raise HTTPException(401, "Invalid or expired token", {"WWW-Authenticate": "Bearer"})
    entity, scopes = found
    if "checkpoints:delete" not in scopes:
        raise HTTPException(403, "The token lacks the scope checkpoints:delete")
    return entity


@app.delete("/v1/preview/models/{model_id}/checkpoints")
def delete_checkpoints(
    model_id: str, request: DeleteCheckpointsRequest, entity: Annotated[str, Depends(authenticate)]
) -> DeleteCheckpointsResponse:
    steps = list(dict.fromkeys(request.steps))
    deleted = list(pool.map(lambda step: delete_one(model_id, step, entity), steps))
    not_found = [step for step, done in zip(steps, deleted, strict=True) if not done]
    logger.info("%s deleted %d checkpoints of %s", entity, sum(deleted), model_id)
    return DeleteCheckpointsResponse(deleted_count=sum(deleted), not_found_steps=not_found)


lambda_handler = Mangum(app, lifespan="off")
