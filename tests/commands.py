"""Run a command on a stack that has the embedded tables."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple

import boto3
import pytest

from cli import stacks, terminal
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
    main: Callable[[Sequence[str]], int],
    *arguments: str,
    endpoint: Endpoint,
    capsys: pytest.CaptureFixture[str],
    outputs: Mapping[str, str] | None = None,
) -> Result:
    """Run a command for the stack; it finds DynamoDB at the endpoint.

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

    capsys.readouterr()  # what others printed before
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_DYNAMODB", endpoint.url)
        patch.setattr(stacks, "read_outputs", read_outputs)  # an emulated stack takes seconds
        try:
            code: object = terminal.run(lambda: main(["--stack", STACK, *arguments]))
        except SystemExit as error:
            code = error.code
    return Result(code, *capsys.readouterr())


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
