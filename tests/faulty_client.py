"""Inject faults into single calls of clients of boto3."""

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError

type Request = dict[str, Any]
type Apply = Callable[..., Any]
type ClientFault = Callable[[Request, Apply], Any]
type Fail = Callable[..., None]


def faults_of(monkeypatch: pytest.MonkeyPatch, *clients: Any) -> Fail:
    """Return a function that injects faults into the next calls of an operation, one each."""

    def fail(operation: str, *faults: ClientFault) -> None:
        (client,) = [each for each in clients if hasattr(each, operation)]
        apply = getattr(type(client), operation).__get__(client)
        queue = iter(faults)

        def call(**request: Any) -> Any:
            return next(queue, pass_on)(request, apply)

        monkeypatch.setattr(client, operation, call)

    return fail


def pass_on(request: Request, apply: Apply) -> Any:
    """Do not fail."""
    return apply(**request)


def error_of(status: int, code: str) -> ClientFault:
    """Return an error; the call has no effect."""
    response: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}

    def fault(_request: Request, _apply: Apply) -> Any:
        raise ClientError(response, "Anything")

    return fault


def drop_call(_request: Request, _apply: Apply) -> Any:
    """Cut the connection before the call has an effect."""
    raise EndpointConnectionError(endpoint_url="https://aws")


def lose_reply(request: Request, apply: Apply) -> Any:
    """Apply the call, then cut the connection."""
    apply(**request)
    raise ConnectionClosedError(endpoint_url="https://aws")


def blank_reply(_request: Request, _apply: Apply) -> Any:
    """Return an empty body with status 200."""
    return {}


def object_errors(codes: dict[str, str]) -> ClientFault:
    """Delete the objects of a call, except those with an error code."""

    def fault(request: Request, apply: Apply) -> Any:
        objects = request["Delete"]["Objects"]
        others = [each for each in objects if each["Key"] not in codes]
        response = apply(**request | {"Delete": {"Objects": others}}) if others else {}
        failed = [each["Key"] for each in objects if each["Key"] in codes]
        return response | {"Errors": [{"Key": key, "Code": codes[key]} for key in failed]}

    return fault


def after(action: Callable[[], object], then: ClientFault = pass_on) -> ClientFault:
    """Run something before the call."""

    def fault(request: Request, apply: Apply) -> Any:
        action()
        return then(request, apply)

    return fault
