"""Run a local DynamoDB for `sam local`, with the data of the demo."""

import argparse
import sys
import time
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from emulators.cloud import (
    EVERY_ADDRESS,
    LAST_PORT,
    LocalCloud,
    LocalCloudError,
    architecture,
    local_cloud,
)
from emulators.dynamodb import create_tables
from emulators.records import put_demo
from scripts.terminal import say, stop_on_signals

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

DEFAULT_PORT = 8000  # the same as in samconfig.toml
TABLES = ("CheckpointsTable", "TokensTable")  # `sam local` replaces their !Ref with these names


def main() -> int:
    """Serve until interrupted, or reset the data; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="default: %(default)s")
    parser.add_argument(
        "--reseed",
        action="store_true",
        help="reset the records and tokens of the DynamoDB that is running on this port",
    )
    options = parser.parse_args()
    stop_on_signals()
    try:
        if options.reseed:
            _reseed(options.port)
        else:
            _serve(options.port)
    except KeyboardInterrupt:
        say("Stopped. No process is left running.")
    except (LocalCloudError, BotoCoreError, ClientError) as error:
        print(f"local.py: {error}", file=sys.stderr)
        return 1
    return 0


def _serve(port: int) -> None:
    # Only DynamoDB, because other machines in the network can reach it, and must not run code here.
    with local_cloud(port, host=EVERY_ADDRESS, services="dynamodb") as cloud:
        _seed(cloud.client("dynamodb"))
        print(instructions(cloud.port), flush=True)
        while cloud.is_listening():
            time.sleep(1)
        raise LocalCloudError("DynamoDB stopped unexpectedly")


def _reseed(port: int) -> None:
    cloud = LocalCloud(port)
    if not 0 < port <= LAST_PORT or not cloud.is_listening():
        raise LocalCloudError(f"nothing listens on port {port}; run make local first, or set PORT")
    client = cloud.client("dynamodb")
    for table in client.list_tables()["TableNames"]:
        if table in TABLES:
            client.delete_table(TableName=table)
    _seed(client)
    print(f"The DynamoDB on port {port} has the records and tokens of make demo again.")


def _seed(client: "DynamoDBClient") -> None:
    create_tables(client)
    put_demo(client, *TABLES)


def instructions(port: int) -> str:
    """Return the commands for another terminal, for this port and this processor."""
    options = ""
    overrides = ""
    if architecture() == "x86_64":
        options = " --config-env x86_64"
        overrides = " Architecture=x86_64"
    if port != DEFAULT_PORT:
        endpoint = f"DynamoDBEndpoint=http://host.docker.internal:{port}"
        options += f' --parameter-overrides "{endpoint}{overrides}"'
    reseed = "make reseed" if port == DEFAULT_PORT else f"make reseed PORT={port}"
    return f"""\
DynamoDB listens on port {port}, with the tables, records and tokens of make demo.
It listens on all addresses, because a container must reach it.
Others in your network can reach it too.

In another terminal:

  sam build
  sam local invoke ApiFunction -e events/delete-checkpoints.json{options}

or, to send requests:

  sam local start-api{options}
  curl -X DELETE http://127.0.0.1:3000/v1/preview/models/resnet-50/checkpoints \\
      -H 'Authorization: Bearer vision-team-demo-token' -d '{{"steps": [100, 200, 999]}}'

{reseed} resets the data. Ctrl-C stops everything.
"""


if __name__ == "__main__":
    sys.exit(main())
