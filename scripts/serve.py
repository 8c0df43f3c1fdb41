"""Build the functions, deploy the template to a local AWS emulator, and keep it running."""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from checkpoints.api.auth import DELETE_SCOPE, READ_SCOPE
from cli import tokens
from cli.logs import read_events
from cli.runner import run
from cli.terminal import say
from emulators import STACK
from emulators.aws import AwsEmulator, aws_emulator, build, free_port
from emulators.environment import direct_export, isolate
from emulators.records import ARTIFACTS_BUCKET, ENTITY
from emulators.training import MODEL, OTHER_MODEL, training_runs

OVERLAP_MILLISECONDS = 5_000  # an event can appear in the log some time after its timestamp
EXPECTED_MESSAGES = ("Deletion completed", "Checkpoints listed")  # the counts say the same


def main(
    port: Annotated[int, typer.Option(help="Port to listen on. 0 is a free port.")] = 0,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", help="Show all log lines of the functions, unformatted."),
    ] = False,
) -> None:
    """Build the functions, deploy the template to a local AWS emulator, and keep it running."""
    try:
        port = free_port(port)  # before the build, which takes a while
        say("Building the functions")
        build()
        say("Starting the local AWS emulator")
        with aws_emulator(port) as emulator:
            _serve(emulator, verbose=verbose)
    except KeyboardInterrupt:
        say("Stopped. No process is left running.")


def _serve(emulator: AwsEmulator, *, verbose: bool) -> None:
    say("Deploying the template")
    dynamodb, s3 = emulator.client("dynamodb"), emulator.client("s3")
    s3.create_bucket(Bucket=ARTIFACTS_BUCKET)
    outputs = emulator.deploy(ArtifactsBucket=ARTIFACTS_BUCKET, ReclaimDelaySeconds="0")
    say("Creating a token, and the checkpoints of two training runs in a bucket")
    for key, content in training_runs():
        s3.put_object(Bucket=ARTIFACTS_BUCKET, Key=key, Body=content)
    scopes = [READ_SCOPE, DELETE_SCOPE]
    table = outputs["TokensTableName"]
    token = tokens.issue(dynamodb, table, entity=ENTITY, name="local", scopes=scopes)
    print(instructions(emulator, outputs, token, direct_export()), flush=True)
    for message in log_messages(emulator.client("logs")):
        line = message if verbose else format_outcome(message)
        if line is not None:
            print(line, flush=True)


def instructions(
    emulator: AwsEmulator, outputs: dict[str, str], token: str, export: str = ""
) -> str:
    """Return what is deployed, with commands to paste."""
    settings = emulator.environment
    return f"""
In another terminal, in this folder, set these variables:

  export {_assign(settings, "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")}
  export {_assign(settings, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
  export CHECKPOINTS_STACK={STACK} API_URL={outputs["ApiUrl"]}
  export TOKEN={token}
  export CHECKPOINTS_API_URL=$API_URL CHECKPOINTS_TOKEN=$TOKEN
{export}
Register the checkpoints that are in the bucket, and look at them:

  .venv/bin/checkpoints records import s3://{ARTIFACTS_BUCKET}/ \\
      --entity {ENTITY} --min-age 0s --settle 0s
  .venv/bin/checkpoints records summary

Delete all checkpoints of a model except some, or those at some steps:

  .venv/bin/checkpoints prune {MODEL} --keep-last 2 --keep-best eval_loss:min
  curl -X DELETE "$API_URL/v1/preview/models/{OTHER_MODEL}/checkpoints" \\
      -H "Authorization: Bearer $TOKEN" -d '{{"steps": [200, 999]}}' -w '\\n'

Or try other commands, and the AWS CLI:

  .venv/bin/checkpoints deletions {MODEL}
  .venv/bin/checkpoints tokens list
  aws dynamodb scan --table-name {outputs["CheckpointsTableName"]}
  aws dynamodb scan --table-name {outputs["TokensTableName"]}
  aws s3 ls --recursive s3://{ARTIFACTS_BUCKET}
  make smoke STACK={STACK} URL="$API_URL"
  AWS_ENDPOINT_URL={emulator.endpoint} \\
      make deploy ARGS=--no-confirm-changeset

Unlike AWS, the emulator has no alarms, does not throttle, and does not check
permissions. It ignores the policies of buckets and most filters of log queries.
Storage is freed at once, not after 15 minutes. When the emulator restores a
table, the new table has the records of now, not of an earlier time. So to try
checkpoints restore, restore the table before you delete something.

Below is one line for each request, and one for each deleted checkpoint that had
artifacts. Ctrl-C stops everything.
"""


def _assign(settings: dict[str, str], *names: str) -> str:
    return " ".join(f"{name}={settings[name]}" for name in names)


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
    counts = ", ".join(
        f"{name.removesuffix('_count').replace('_', ' ')} {value:,}"
        for name, value in record.items()
        if name.endswith("_count") and (value or name != "protected_count")  # almost always 0
    )
    message = "" if record["message"] in EXPECTED_MESSAGES else record["message"]
    parts = [
        record["timestamp"][11:19],
        str(record["status"]),
        f"{round(record['duration_ms']):>5,} ms",
        ": ".join(filter(None, [message, counts, _reason(record)])),
        _name(record),
    ]
    return "  ".join(filter(None, parts))


def _format_reclaim(record: dict[str, Any]) -> str:
    objects = (
        f"deleted {record['objects_deleted']:,} objects" if "objects_deleted" in record else ""
    )
    parts = [
        record["timestamp"][11:19],
        ": ".join(filter(None, [record["message"], objects, _reason(record)])),
        f"{_name(record)}/{record['step']}",
    ]
    return "  ".join(parts)


def _name(record: dict[str, Any]) -> str:
    """Return the entity and the model, as far as they are known."""
    return "/".join(record[key] for key in ("entity", "model_id") if record.get(key))


def _reason(record: dict[str, Any]) -> str:
    # The last line of an exception is its type and message.
    exception: str = record.get("exception", "").rpartition("\n")[2]
    return record.get("reason", "").replace("_", " ") or exception


def log_messages(client: Any) -> Iterator[str]:  # noqa: ANN401 its types are not installed
    """Yield the log messages of the functions as they arrive, without end."""
    # Once, because for this call the emulator reads the whole logs.
    groups = client.describe_log_groups()["logGroups"]
    logs = [Log(client, group["logGroupName"]) for group in groups]
    while True:
        for log in logs:
            yield from log.new_messages()
        time.sleep(0.5)


class Log:
    """Yields each message of a log once."""

    def __init__(self, client: Any, name: str) -> None:  # noqa: ANN401 as above
        self._client = client
        self._name = name
        self._since = 0
        self._shown: Counter[tuple[str, int, str]] = Counter()

    def new_messages(self) -> Iterator[str]:
        """Yield the messages that arrived since the last call."""
        now = int(time.time() * 1000)
        found: Counter[tuple[str, int, str]] = Counter()
        for event in read_events(self._client, self._name, since=self._since):
            key = (event["logStreamName"], event["timestamp"], event["message"])
            found[key] += 1  # a function can log the same twice
            if found[key] > self._shown[key]:
                yield event["message"].rstrip()
        self._shown = found
        self._since = now - OVERLAP_MILLISECONDS


if __name__ == "__main__":
    isolate()
    sys.exit(run(main))
