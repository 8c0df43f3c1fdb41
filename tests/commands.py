"""Run a command in this process, by default on a stack that has the embedded tables."""

import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple

import boto3
import pytest
from typer import Typer

from cli import stacks
from cli.main import app
from cli.runner import run
from emulators.stack import serving
from faulty_dynamodb import Endpoint, Server

STACK = "deployed"
LOG_GROUP = "ApiFunctionLogGroup"

BUCKET_DENIED = (
    "S3 denies access to the bucket {!r}. Either the AWS credentials lack the permission "
    "s3:ListBucket on it, or it belongs to another account. In that case, its bucket policy must "
    "allow the role of ReclaimFunction to list and delete objects."
)


type Respond = Callable[[str, dict[str, str], str], tuple[int, str]]  # path, headers, body


@contextmanager
def http_server(respond: Respond) -> Iterator[str]:
    """Answer each request with the status and the body that `respond` returns; yield the URL."""

    class Handler(BaseHTTPRequestHandler):
        def handle_request(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            status, response = respond(self.path, dict(self.headers), body)
            self.send_response(status)
            self.send_header("Content-Type", "text/html")
            self.send_header("Location", "http://127.0.0.1:1/")
            self.end_headers()
            self.wfile.write(response.encode())

        do_GET = do_HEAD = do_DELETE = handle_request  # noqa: N815 names of http.server

        def log_message(self, *_: object) -> None:
            """Keep the output of the tests free of it."""

    server = Server(("127.0.0.1", 0), Handler)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}"


def deny(*_: object) -> tuple[int, str]:
    """Respond as S3 does if it denies access."""
    return 403, ""


class Result(NamedTuple):
    """The exit code and the output of a command."""

    returncode: object
    stdout: str
    stderr: str


type Run = Callable[..., Result]
type Delete = Callable[..., str]


def gateway(request: str) -> dict[str, Any]:
    """Return the part of an event with the id of API Gateway."""
    return {"requestContext": {"requestId": request, "stage": "prod", "path": "/"}}


def log(lines: Iterable[str], *, at: int | None = None) -> None:
    """Put lines into the log of ApiFunction, by default now; `at` is in milliseconds."""
    timestamp = int(1_000 * time.time()) if at is None else at
    events: Any = [{"timestamp": timestamp, "message": line} for line in lines]
    boto3.client("logs").put_log_events(
        logGroupName=LOG_GROUP, logStreamName="stream", logEvents=events
    )


def run_command(
    command: Typer | Callable[..., int | None],
    *arguments: str,
    capsys: pytest.CaptureFixture[str],
    stdin: bytes = b"",
    **environment: str | None,
) -> Result:
    """Run a command, or a function as one, with these changes of the environment."""
    capsys.readouterr()  # what others printed before
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        for name, value in environment.items():
            patch.delenv(name) if value is None else patch.setenv(name, value)
        try:
            code: object = run(command, arguments)
        except SystemExit as error:
            code = error.code
    return Result(code, *capsys.readouterr())


def run_on_stack(
    *arguments: str,
    endpoint: Endpoint,
    capsys: pytest.CaptureFixture[str],
    outputs: Mapping[str, str] | None = None,
    **others: Any,
) -> Result:
    """Run `checkpoints` on the stack, whose DynamoDB is the endpoint.

    The stack has more `outputs` if told.
    """

    def read_outputs(stack: str) -> dict[str, str]:
        assert stack == STACK
        return {
            "ApiFunctionLogGroupName": LOG_GROUP,
            "ApiUrl": "http://127.0.0.1:1",  # no program listens there
            "CheckpointsTableName": os.environ["CHECKPOINTS_TABLE"],
            "TokensTableName": os.environ["TOKENS_TABLE"],
        } | dict(outputs or {})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stacks, "read_outputs", read_outputs)  # an emulated stack takes seconds
        patch.setenv("CHECKPOINTS_STACK", STACK)
        patch.setenv("AWS_ENDPOINT_URL_DYNAMODB", endpoint.url)
        return run_command(app, *arguments, capsys=capsys, **others)
