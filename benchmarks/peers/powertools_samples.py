"""Powertools as in its samples: validation, Tracer, and one DeleteItem call after the other."""

from typing import Any

from aws_lambda_powertools import Logger, Tracer
from aws_lambda_powertools.event_handler import APIGatewayRestResolver
from aws_lambda_powertools.event_handler.exceptions import UnauthorizedError
from aws_lambda_powertools.logging import correlation_paths
from aws_lambda_powertools.utilities.typing import LambdaContext

from .single_deletes import Request, Response, delete_one, find_entity

tracer = Tracer(service="checkpoints")
logger = Logger(service="checkpoints")
app = APIGatewayRestResolver(enable_validation=True)


@app.delete("/v1/preview/models/<model_id>/checkpoints")
@tracer.capture_method(capture_response=False)
def delete_checkpoints(model_id: str, request: Request) -> Response:
    authorization = app.current_event.headers.get("Authorization", "")
    entity = find_entity(authorization.removeprefix("Bearer "))
    if entity is None:
        raise UnauthorizedError("Invalid or expired token")
    steps = list(dict.fromkeys(request.steps))
    not_found = [step for step in steps if not delete_one(model_id, step, entity)]
    deleted_count = len(steps) - len(not_found)
    logger.info("Checkpoints deleted", model_id=model_id, deleted_count=deleted_count)
    return Response(deleted_count=deleted_count, not_found_steps=not_found)


@logger.inject_lambda_context(correlation_id_path=correlation_paths.API_GATEWAY_REST)
@tracer.capture_lambda_handler(capture_response=False)
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return app.resolve(event, context)
