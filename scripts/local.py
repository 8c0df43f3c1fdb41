"""Run a DynamoDB on this machine for `make invoke` and `make start-api`, with the demo's data."""

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from cli.runner import run
from cli.terminal import say
from emulators.aws import (
    EVERY_ADDRESS,
    MAX_PORT,
    AwsEmulator,
    AwsEmulatorError,
    architecture,
    aws_emulator,
)
from emulators.dynamodb import create_tables
from emulators.environment import direct_export, isolate
from emulators.records import MODEL, put_demo

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

DEFAULT_PORT = 8000  # the same as in samconfig.toml
TABLES = ("CheckpointsTable", "TokensTable")  # `sam local` replaces their !Ref with these names


def main(
    port: Annotated[int, typer.Option(help="Port that DynamoDB listens on.")] = DEFAULT_PORT,
    reseed: Annotated[
        bool,
        typer.Option(
            "--reseed",
            help="Reset the records and tokens of the DynamoDB that is running on this port.",
        ),
    ] = False,
) -> None:
    """Run a DynamoDB on this machine for make invoke and make start-api, with the demo's data."""
    try:
        if reseed:
            _reseed(port)
        else:
            _serve(port)
    except KeyboardInterrupt:
        say("Stopped. No process is left running.")


def _serve(port: int) -> None:
    # Only DynamoDB, because other machines in the network can reach it, and must not run code here.
    with aws_emulator(port, host=EVERY_ADDRESS, services="dynamodb") as emulator:
        _seed(emulator.client("dynamodb"))
        print(instructions(emulator.port, direct_export()), flush=True)
        while emulator.is_listening():
            time.sleep(1)
        raise AwsEmulatorError("DynamoDB stopped unexpectedly.")


def _reseed(port: int) -> None:
    emulator = AwsEmulator(port)
    if not 0 < port <= MAX_PORT or not emulator.is_listening():
        raise AwsEmulatorError(
            f"No program listens on port {port}. Run make local first, or set PORT."
        )
    client = emulator.client("dynamodb")
    for table in client.list_tables()["TableNames"]:
        if table in TABLES:
            client.delete_table(TableName=table)
    _seed(client)
    print(f"The DynamoDB on port {port} has the records and tokens of make demo again.")


def _seed(client: "DynamoDBClient") -> None:
    create_tables(client)
    put_demo(client, *TABLES)


def instructions(port: int, export: str = "") -> str:
    """Return the commands for another terminal, for this port and this processor."""
    options, reseed = "", "make reseed"
    if port != DEFAULT_PORT:
        # The option replaces all overrides of samconfig.toml, so it must name the processor too.
        overrides = f"DynamoDBEndpoint=http://host.docker.internal:{port}"
        overrides += " Architecture=x86_64" if architecture() == "x86_64" else ""
        options = f""" \\\n      ARGS='--parameter-overrides "{overrides}"'"""
        reseed = f"make reseed PORT={port}"
    return f"""\
DynamoDB listens on port {port}, with the demo's tables, records and tokens.
It listens on all addresses, because a container must reach it.
Other machines in your network can reach it too.

In another terminal (needs Docker):

  make invoke EVENT=events/delete-checkpoints.json{options}

or, to send requests:

  make start-api{options}
{export}  curl -X DELETE http://127.0.0.1:3000/v1/preview/models/{MODEL}/checkpoints \\
      -H 'Authorization: Bearer vision-team-demo-token' \\
      -d '{{"steps": [100, 200, 999]}}' -w '\\n'

{reseed} resets the data. Ctrl-C stops everything.
"""


if __name__ == "__main__":
    isolate()
    sys.exit(run(main))
