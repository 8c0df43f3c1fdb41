"""Build the functions, deploy the template to a local AWS emulator, and keep it running."""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from emulators import STACK
from emulators.cloud import LocalCloud, LocalCloudError, build, free_port, local_cloud
from emulators.records import ARTIFACTS_BUCKET, ENTITY, MODEL, STEPS, artifact_keys, put_run
from scripts import tokens
from scripts.terminal import say, stop_on_signals


def main() -> int:
    """Serve until interrupted; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="default: a free port")
    parser.add_argument(
        "--verbose", action="store_true", help="show all log lines of the functions, unformatted"
    )
    options = parser.parse_args()
    stop_on_signals()
    try:
        port = free_port(options.port)  # before the build, which takes a while
        say("Building the functions")
        build()
        say("Starting the local AWS emulator")
        with local_cloud(port) as cloud:
            _serve(cloud, verbose=options.verbose)
    except KeyboardInterrupt:
        say("Stopped. No process is left running.")
    except (LocalCloudError, BotoCoreError, ClientError) as error:
        print(f"serve.py: {error}", file=sys.stderr)
        return 1
    return 0


def _serve(cloud: LocalCloud, *, verbose: bool) -> None:
    say("Deploying the template")
    dynamodb, s3 = cloud.client("dynamodb"), cloud.client("s3")
    s3.create_bucket(Bucket=ARTIFACTS_BUCKET)
    outputs = cloud.deploy(ArtifactsBucket=ARTIFACTS_BUCKET)
    say("Creating a token, and checkpoints with three objects each")
    for key in artifact_keys():
        s3.put_object(Bucket=ARTIFACTS_BUCKET, Key=key, Body=bytes(1_000))
    put_run(dynamodb, outputs["CheckpointsTableName"])
    token = tokens.issue(
        dynamodb, outputs["TokensTableName"], entity=ENTITY, name="local", scopes=tokens.SCOPES
    )
    print(instructions(cloud, outputs, token), flush=True)
    for message in log_messages(cloud):
        line = message if verbose else format_outcome(message)
        if line is not None:
            print(line, flush=True)


def instructions(cloud: LocalCloud, outputs: dict[str, str], token: str) -> str:
    """Return what is deployed, with commands to paste."""
    api = outputs["ApiUrl"]
    settings = " ".join(
        f"{name}={value}"
        for name, value in cloud.environment.items()
        if "FILE" not in name  # only tests need these, to ignore a developer's own settings
    )
    return f"""
The API answers at {api}
{MODEL} of {ENTITY} has a checkpoint every {STEPS.step} steps, up to step {STEPS[-1]}.
Delete some:

  curl -X DELETE {api}/v1/preview/models/{MODEL}/checkpoints \\
      -H 'Authorization: Bearer {token}' -d '{{"steps": [100, 200, 999]}}'

Or delete all checkpoints except some:

  export CHECKPOINTS_API_URL={api} CHECKPOINTS_TOKEN={token}
  .venv/bin/python scripts/prune.py {MODEL} --keep-last 2 --keep-best loss:min=3

To use AWS tools and this project's commands with it, run the first line first:

  export {settings}
  .venv/bin/python scripts/tokens.py list --stack {STACK}
  aws dynamodb scan --table-name {outputs["CheckpointsTableName"]}
  aws dynamodb scan --table-name {outputs["TokensTableName"]}
  aws s3 ls --recursive s3://{ARTIFACTS_BUCKET}
  make smoke STACK={STACK} URL={api}
  make deploy ARGS=--no-confirm-changeset

Unlike AWS, it returns 403 instead of 404 for unknown routes, does not throttle,
and ignores the filters of log queries. For a / in a model_id, write %252F in the
path instead of %2F.

Below is one line for each request, and one for each deleted checkpoint whose
storage was freed. Ctrl-C stops everything.
"""


def format_outcome(message: str) -> str | None:
    """Format a line of a function's log for people, or return None to skip it.

    An unknown line, such as the error of a crash, is returned unchanged.
    """
    if message.startswith(("INIT_START ", "START ", "END ", "REPORT ")):
        return None
    try:
        record = json.loads(message)
    except ValueError:
        return message
    if not isinstance(record, dict):
        return message
    if "_aws" in record or str(record.get("message")).endswith(" continued"):
        return None
    if "status" in record:
        return _format_request(record)
    return _format_reclaim(record) if "outcome" in record else message


def _format_request(record: dict[str, Any]) -> str:
    counts = [
        f"{name.removesuffix('_count').replace('_', ' ')} {value}"
        for name, value in record.items()
        if name.endswith("_count")
    ]
    parts = [
        record["timestamp"][11:19],
        f"{record['status']} {record['message']}",
        f"{record.get('entity', '-')} {record.get('model_id', '-')}",
        ", ".join(filter(None, [*counts, _reason(record)])),
        f"{record['duration_ms']} ms",
    ]
    return "  ".join(filter(None, parts))


def _format_reclaim(record: dict[str, Any]) -> str:
    verb = "would delete" if record.get("dry_run") else "deleted"
    counts = [f"{verb} {record['objects_deleted']} objects"] if "objects_deleted" in record else []
    parts = [
        record["timestamp"][11:19],
        record["message"],
        f"{record['entity']} {record['model_id']} {record['step']}",
        ", ".join(filter(None, [*counts, _reason(record)])),
    ]
    return "  ".join(parts)


def _reason(record: dict[str, Any]) -> str:
    # The last line of an exception is its type and message.
    reason: str = record.get("reason") or record.get("exception", "").rpartition("\n")[2]
    return reason


def log_messages(cloud: LocalCloud) -> Iterator[str]:
    """Yield the log messages of the functions as they arrive, without end."""
    logs = cloud.client("logs")
    shown: dict[str, int] = {}
    while True:
        for group in logs.describe_log_groups()["logGroups"]:
            name = group["logGroupName"]
            pages = logs.get_paginator("filter_log_events").paginate(logGroupName=name)
            events = [event for page in pages for event in page["events"]]
            for event in events[shown.get(name, 0) :]:
                yield event["message"].rstrip()
            shown[name] = len(events)
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())
