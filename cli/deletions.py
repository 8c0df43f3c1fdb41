"""Read from ApiFunction's log which requests deleted checkpoints, and show them."""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self
from uuid import UUID

from cli import logs
from cli.errors import CommandError
from cli.options import SECONDS
from cli.stacks import output_of
from cli.steps import expand
from cli.terminal import printable

DEFAULT_PERIOD = 7 * SECONDS["d"]
MAX_SHOWN_RANGES = 20  # of the steps of a request

# `checkpoints.api.audit` has the messages. To import them from there takes half a second.
DELETION_LINES = " || ".join(
    f'$.message = "Deletion {outcome}"' for outcome in ("completed", "incomplete", "continued")
)
# AWS does not say how a filter pattern escapes other characters, and some have a meaning in it.
PLAIN_MODEL_ID = re.compile(r"[A-Za-z0-9 ._/:@=+,-]{1,500}")

UNSURE = "unconfirmed, so it may have been deleted"

type Ranges = list[list[int]]  # of steps, as `[first, last]`


class Deleted(NamedTuple):
    """The checkpoints whose records to copy back."""

    model_id: str
    steps: list[int]
    entity: str | None = None  # the owner, if that is known
    complete: bool = True  # False: the log does not show all steps yet


class Request(NamedTuple):
    """What the log says about a request. Only a deletion has steps and counts.

    The counts are `None` without the line that has them. The time is that of this line.
    """

    time: str  # in ISO 8601
    function_request_id: str
    correlation_id: str | None  # the caller can choose it
    model_id: str | None
    entity: str | None
    token_name: str | None
    token_id: str | None
    status: int | None
    deleted_count: int | None
    unconfirmed_count: int | None
    protected_count: int | None
    deleted_steps: Ranges
    unconfirmed_steps: Ranges
    dry_run: bool

    @classmethod
    def from_lines(cls, lines: Sequence[dict[str, Any]]) -> Self:
        """Read the lines of one request. A long list of steps goes over several lines."""
        outcome = next((line for line in lines if "status" in line), lines[0])
        values: dict[str, Any] = {name: outcome.get(name) for name in cls._fields}
        for name in ("deleted_steps", "unconfirmed_steps"):
            values[name] = sorted(pair for line in lines for pair in line.get(name, []))
        if values["deleted_count"] is not None and values["unconfirmed_count"] is None:
            values["unconfirmed_count"] = 0
        values |= {"time": outcome["timestamp"], "dry_run": bool(outcome.get("dry_run"))}
        return cls(**values)

    @property
    def may_have_deleted(self) -> bool:
        """Whether the request deleted, or may have deleted, any checkpoint."""
        return bool(
            self.deleted_count
            or self.unconfirmed_count
            or self.deleted_steps
            or self.unconfirmed_steps
        )

    @property
    def complete(self) -> bool:
        """Whether the log shows all lines of the request."""
        return (self.deleted_count or 0, self.unconfirmed_count or 0) == (
            _count(self.deleted_steps),
            _count(self.unconfirmed_steps),
        )

    def outcome_of(self, step: int) -> str | None:
        """Return what became of the checkpoint at a step, or None if it was not deleted."""
        for steps, outcome in ((self.deleted_steps, "deleted"), (self.unconfirmed_steps, UNSURE)):
            if any(first <= step <= last for first, last in steps):
                return outcome
        return None if self.complete else "unknown"

    def describe(self) -> str:
        """Return when the request was, and who sent it."""
        who = f"{printable(str(self.entity))}  {printable(str(self.token_name))} ({self.token_id})"
        return f"{_format_time(datetime.fromisoformat(self.time))}  {who}"


def find_in_log(log_group: str, request: UUID, *, since: datetime) -> Deleted:
    """Return the checkpoints that a request deleted or may have deleted, from ApiFunction's log.

    The id is Lambda's `function_request_id` or API Gateway's `correlation_id`. The search starts
    at `since`.

    Raises:
        CommandError: the log has no line of the request, or several requests have this id.

    """
    wanted = str(request)
    names = ("function_request_id", "correlation_id")
    # The fields decide, because a caller can put the id into another field of the line.
    found = _search(
        log_group,
        f'"{wanted}"',
        lambda line: wanted in (line.get(name) for name in names),
        since=since,
    )
    # A caller can choose the correlation_id, but not Lambda's id, which therefore comes first.
    chosen = [each for each in found if each.function_request_id == wanted]
    others = [each for each in found if each.may_have_deleted and each not in chosen]
    if not found:
        raise CommandError(
            f"{log_group} shows no line with the function_request_id or the correlation_id "
            f"{request} since {since.astimezone(UTC):%Y-%m-%d %H:%M} UTC. Lines appear some "
            "seconds after the request. If the request is older, restore the table to an earlier "
            "time."
        )
    if not chosen and len(others) > 1:
        candidates = [f"\n  {each.function_request_id}  {each.describe()}" for each in others]
        raise CommandError(
            f"Several requests have the correlation_id {request}, because a caller can choose it. "
            f"Name the request by its function_request_id:{''.join(candidates)}"
        )
    if chosen and others:
        print(
            f"Other requests have {request} as their correlation_id, because a caller can choose "
            "it. They are ignored.",
            file=sys.stderr,
        )
    (only, *_) = chosen or others or found
    if only.dry_run:
        print(f"The request {request} was a dry run.")
        return Deleted("", [])
    steps = expand([*only.deleted_steps, *only.unconfirmed_steps])
    # A refused request may have no model.
    return Deleted(only.model_id or "", steps, only.entity, complete=only.complete)


def show(stack: str, model_id: str, *, step: int | None, seconds: int, as_json: bool) -> None:
    """Print the requests of the last seconds that deleted checkpoints of a model, newest first.

    With a step, only those that deleted, or may have deleted, this checkpoint.
    """
    log_group = output_of(stack, "ApiFunctionLogGroupName")
    since = datetime.now(UTC) - timedelta(seconds=seconds)
    condition = f"({DELETION_LINES})"
    if PLAIN_MODEL_ID.fullmatch(model_id):
        condition += f' && $.model_id = "{model_id}"'
    found = _search(
        log_group,
        f"{{ {condition} }}",
        lambda line: line.get("model_id") == model_id,
        since=since,
    )
    found = [
        each
        for each in sorted(found, key=lambda each: each.time, reverse=True)
        if each.may_have_deleted and (step is None or each.outcome_of(step))
    ]
    if as_json:
        print(json.dumps([_as_json(each) for each in found], indent=2))
        return
    for each in found:
        _print(each, step)
    if not found:
        what = printable(model_id) + ("" if step is None else f" at step {step}")
        print(
            f"{log_group} shows no deletion of {what} since {_format_time(since)}. It shows only "
            "what the API deleted: other programs and time to live can delete, too."
        )


def _search(
    log_group: str,
    pattern: str,
    is_wanted: Callable[[dict[str, Any]], bool],
    *,
    since: datetime,
) -> list[Request]:
    """Return the requests with these lines, in the order of the log."""
    # Each line once: CloudWatch can return a line twice.
    lines = {
        text: line
        for text in logs.search(log_group, pattern, since=since)
        if is_wanted(line := logs.read_fields(text)) and "function_request_id" in line
    }
    requests: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in lines.values():
        requests[line["function_request_id"]].append(line)
    return [Request.from_lines(each) for each in requests.values()]


def _as_json(request: Request) -> dict[str, object]:
    fields = request._asdict() | {"complete": request.complete}
    del fields["dry_run"]
    return fields


def _print(request: Request, step: int | None) -> None:
    print(request.describe())
    if step is not None:
        print(f"  Step {step}: {request.outcome_of(step)}")
    for headline, count, ranges in (
        ("Deleted", request.deleted_count, request.deleted_steps),
        ("Unconfirmed", request.unconfirmed_count, request.unconfirmed_steps),
    ):
        if count or ranges:
            number = "unknown number" if count is None else f"{count:,}"
            print(f"  {headline}: {number} ({_format_ranges(ranges)})")
    if not request.complete:
        print("  Some lines of this request are not in the log yet, or are older than --since.")
    print(f"  function_request_id: {request.function_request_id}")
    print(f"  correlation_id: {printable(str(request.correlation_id))}")


def _format_ranges(ranges: Ranges) -> str:
    """Format the first ranges as `100,200-203`, and say how many more there are."""
    shown = ",".join(
        str(first) if first == last else f"{first}-{last}"
        for first, last in ranges[:MAX_SHOWN_RANGES]
    )
    more = len(ranges) - MAX_SHOWN_RANGES
    return f"{shown} and {more:,} more ranges" if more > 0 else shown


def _count(ranges: Iterable[Sequence[int]]) -> int:
    return sum(last - first + 1 for first, last in ranges)


def _format_time(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
