"""Run a command on a stack that has the embedded tables."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pytest

from faulty_dynamodb import Endpoint
from scripts import stacks, terminal

STACK = "deployed"
LOG_GROUP = "ApiFunctionLogGroup"
# Additional outputs of a stack that was deployed with ArtifactsBucket.
RECLAIM_OUTPUTS = {
    "ArtifactsBucketName": "artifacts",
    "FailedBatchesBucketName": "failed-batches",
    "ReclaimFunctionLogGroupName": "ReclaimFunctionLogGroup",
    "ReclaimFunctionName": "ReclaimFunction",
}


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
    """Run a command that finds DynamoDB at the endpoint, and the tables by the stack.

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
            code: object = terminal.run(lambda: main(arguments))
        except SystemExit as error:
            code = error.code
    return Result(code, *capsys.readouterr())
