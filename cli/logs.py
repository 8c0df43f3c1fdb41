"""Read the log of a deployed function."""

import json
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import boto3
from botocore.config import Config

MAX_EVENTS = 10_000  # in one response

type Event = dict[str, Any]


def search(log_group: str, pattern: str, *, since: datetime) -> Iterator[str]:
    """Return the lines that match a filter pattern, oldest first. It can return a line twice.

    The search starts at `since`, because it would take hours to search a large log from its start.
    """
    print(f"Searching {log_group}", file=sys.stderr)
    client = boto3.client("logs", config=Config(retries={"mode": "standard", "max_attempts": 10}))
    milliseconds = max(0, int(since.timestamp() * 1000))
    events = read_events(client, log_group, since=milliseconds, pattern=pattern)
    return (event["message"] for event in events)


def read_events(
    client: Any,  # noqa: ANN401 its types are not installed
    log_group: str,
    *,
    since: int = 0,
    pattern: str = "",
) -> Iterator[Event]:
    """Yield the events of a log from a time in milliseconds, oldest first."""
    request = {"logGroupName": log_group, "filterPattern": pattern, "startTime": since}
    while True:
        response = client.filter_log_events(**request)
        events = response["events"]
        if "nextToken" in response:
            yield from events
            request["nextToken"] = response["nextToken"]
            continue
        if len(events) < MAX_EVENTS:
            yield from events
            return
        # The emulator returns no token. The next window begins with the last millisecond, which
        # can have more events.
        last = events[-1]["timestamp"]
        complete = [event for event in events if event["timestamp"] < last]
        yield from complete or events
        request["startTime"] = last if complete else last + 1
        request.pop("nextToken", None)


def read_fields(line: str) -> dict[str, Any]:
    """Return the fields of a line, or an empty dictionary if it is not JSON of the function."""
    try:
        fields = json.loads(line)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}
