"""Read from ApiFunction's log which steps a request deleted."""

from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from cli import logs
from cli.errors import CommandError
from cli.steps import expand


class Deleted(NamedTuple):
    """The checkpoints to restore."""

    model_id: str
    steps: list[int]
    entity: str | None = None  # the owner, if that is known
    complete: bool = True  # False: the log does not have all steps yet


def find_in_log(log_group: str, request: UUID, *, since: datetime) -> Deleted:
    """Return the checkpoints that a request deleted or may have deleted, from ApiFunction's log.

    The search starts at `since`.

    Raises:
        CommandError: the log has no line of the request.

    """
    # CloudWatch can return a line twice.
    messages = dict.fromkeys(logs.search(log_group, f'"{request}"', since=since))
    fields = map(logs.read_fields, messages)
    # Filter the lines, because a caller can put the id of another request into its own log lines.
    lines = [line for line in fields if line.get("function_request_id") == str(request)]
    if not lines:
        raise CommandError(
            f"{log_group} has no line with the function_request_id {request} since "
            f"{since.astimezone(UTC):%Y-%m-%d %H:%M} UTC. Lines appear some seconds after the "
            "request. If the request is older, restore the table to an earlier time."
        )
    if any(line.get("dry_run") for line in lines):
        print(f"The request {request} was a dry run.")
        return Deleted("", [])
    steps = expand(
        pair
        for line in lines
        for key in ("deleted_steps", "unconfirmed_steps")
        for pair in line.get(key, [])
    )
    counts = ("deleted_count", "unconfirmed_count")
    expected = sum(line.get(key, 0) for line in lines for key in counts)
    return Deleted(
        lines[0].get("model_id", ""),  # a refused request may have none
        steps,
        lines[0].get("entity"),
        complete=len(steps) == expected,
    )
