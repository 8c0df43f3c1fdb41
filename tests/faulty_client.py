"""Inject faults into single calls of a client of boto3."""

from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError

type Request = dict[str, Any]
type Apply = Callable[..., Any]
type ClientFault = Callable[[Request, Apply], Any]


class FaultyClient:
    """Replaces the calls of a client, and forwards those without a fault."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._replaced: set[str] = set()

    def fail(self, operation: str, *faults: ClientFault) -> None:
        """Inject these faults into the next calls of an operation, one each."""
        queue = iter(faults)

        def call(**request: Any) -> Any:
            fault = next(queue, pass_on)
            return fault(request, getattr(type(self._client), operation).__get__(self._client))

        self._replaced.add(operation)
        setattr(self._client, operation, call)

    def heal(self) -> None:
        """Remove all faults."""
        for operation in self._replaced:
            vars(self._client).pop(operation, None)


def pass_on(request: Request, apply: Apply) -> Any:
    """Do not fail."""
    return apply(**request)


def s3_error(status: int, code: str) -> ClientFault:
    """Return an error; the call has no effect."""
    response: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}

    def fault(_request: Request, _apply: Apply) -> Any:
        raise ClientError(response, "Anything")

    return fault


def drop_call(_request: Request, _apply: Apply) -> Any:
    """Cut the connection before the call has an effect."""
    raise EndpointConnectionError(endpoint_url="https://s3")


def lose_reply(request: Request, apply: Apply) -> Any:
    """Apply the call, then cut the connection."""
    apply(**request)
    raise ConnectionClosedError(endpoint_url="https://s3")


def blank_reply(_request: Request, _apply: Apply) -> Any:
    """Return an empty body with status 200."""
    return {}


def object_errors(codes: dict[str, str]) -> ClientFault:
    """Delete the objects of a call, except those with an error code."""

    def fault(request: Request, apply: Apply) -> Any:
        others = [each for each in request["Delete"]["Objects"] if each["Key"] not in codes]
        response = apply(**request | {"Delete": {"Objects": others}})
        return response | {"Errors": [{"Key": key, "Code": code} for key, code in codes.items()]}

    return fault


def after(action: Callable[[], object]) -> ClientFault:
    """Run something before the call takes effect."""

    def fault(request: Request, apply: Apply) -> Any:
        action()
        return apply(**request)

    return fault
