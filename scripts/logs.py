"""Search the log of a deployed function."""

import json
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import boto3
from botocore.config import Config


def search(log_group: str, pattern: str, *, since: datetime) -> Iterator[str]:
    """Return the lines that match a filter pattern, oldest first. It can return a line twice.

    The search starts at `since`, because it would take hours to search a large log from its start.
    """
    print(f"Searching {log_group}", file=sys.stderr)
    client = boto3.client("logs", config=Config(retries={"mode": "standard", "max_attempts": 10}))
    pages = client.get_paginator("filter_log_events").paginate(
        logGroupName=log_group,
        filterPattern=pattern,
        startTime=max(0, int(since.timestamp() * 1000)),
    )
    return (event["message"] for page in pages for event in page["events"])


def read_fields(line: str) -> dict[str, Any]:
    """Return the fields of a line, or an empty dictionary if it is not JSON of the function."""
    try:
        fields = json.loads(line)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}
