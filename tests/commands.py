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
from typer.main import get_command

from cli import stacks
from cli.main import app
from cli.runner import run
from faulty_dynamodb import Endpoint, Server, serving

STACK = "deployed"
LOG_GROUP = "ApiFunctionLogGroup"

BUCKET_DENIED = (
    "S3 denies access to the bucket {!r}. Either the AWS credentials lack the permission "
    "s3:ListBucket on it, or it belongs to another account. In that case, its bucket policy must "
    "allow the role of ReclaimFunction to list and delete objects."
)


@contextmanager
def denied_s3() -> Iterator[str]:
    """Serve an S3 that denies access to everything; return its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(403)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep the output of the tests free of it."""

    server = Server(("127.0.0.1", 0), Handler)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}"


class Result(NamedTuple):
    """The exit code and the output of a command."""

    returncode: object
    stdout: str
    stderr: str


type Run = Callable[..., Result]


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


def subcommands(group: Any, path: str = "") -> dict[str, Any]:
    """Return each command below a group by what to type for it, such as "tokens list"."""
    found: dict[str, Any] = {}
    for name, command in getattr(group, "commands", {}).items():
        found |= {f"{path}{name}": command} | subcommands(command, f"{path}{name} ")
    return found


COMMANDS = subcommands(get_command(app))


def create_log(log_group: str) -> None:
    client = boto3.client("logs")
    client.create_log_group(logGroupName=log_group)
    client.create_log_stream(logGroupName=log_group, logStreamName="stream")


def log(log_group: str, lines: Iterable[str], *, age_hours: int = 0) -> None:
    """Put lines into the log of a function."""
    timestamp = int(1_000 * (time.time() - 3_600 * age_hours))
    events: Any = [{"timestamp": timestamp, "message": line} for line in lines]
    if events:
        client = boto3.client("logs")
        client.put_log_events(logGroupName=log_group, logStreamName="stream", logEvents=events)
