"""FastAPI on Lambda with Mangum: one DeleteItem call per step, in a thread pool."""

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from mangum import Mangum

from .single_deletes import Request, Response, delete_one, find_entity

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)
pool = ThreadPoolExecutor(10)  # botocore keeps up to 10 connections open
app = FastAPI()


def authenticate(bearer: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> str:
    entity = find_entity(bearer.credentials)
    if entity is None:
        raise HTTPException(401, "Invalid or expired token", {"WWW-Authenticate": "Bearer"})
    return entity


@app.delete("/v1/preview/models/{model_id}/checkpoints")
def delete_checkpoints(
    model_id: str, request: Request, entity: Annotated[str, Depends(authenticate)]
) -> Response:
    steps = list(dict.fromkeys(request.steps))
    deleted = list(pool.map(lambda step: delete_one(model_id, step, entity), steps))
    not_found = [step for step, done in zip(steps, deleted, strict=True) if not done]
    logger.info("%s deleted %d checkpoints of %s", entity, sum(deleted), model_id)
    return Response(deleted_count=sum(deleted), not_found_steps=not_found)


lambda_handler = Mangum(app, lifespan="off")
