"""Send sample events through the functions, with DynamoDB and S3 in memory, and show results."""

import contextlib
import io
import json
import re
import sys
import textwrap
from collections import Counter
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from itertools import batched
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

import typer

from cli.runner import run
from cli.terminal import say
from emulators.environment import isolate

if TYPE_CHECKING:
    from emulators.dynamodb import Table

EVENTS = Path(__file__).parents[1] / "events"
FIRST_EVENT = "delete-checkpoints.json"  # the demo lists its model before and after the request
WIDTH = 80
STEPS_PER_LINE = 4

type Event = dict[str, Any]


def main(
    event: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="EVENT",
            help="File with a REST API proxy event, such as events/no-token.json. By default, all "
            "files in events/.",
        ),
    ] = None,
) -> int:
    """Send sample events through the functions, with DynamoDB and S3 in memory, and show results.

    Each event starts with the same tables: three models, and the tokens of two teams.
    """
    paths = event or sorted(
        EVENTS.glob("*.json"), key=lambda path: (path.name != FIRST_EVENT, path.name)
    )
    try:
        events = [(path.name, read_event(path)) for path in paths]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return send(events)


def read_event(path: Path) -> Event:
    """Read an event from a file.

    Raises:
        ValueError: the file cannot be read, or is not an event; the message says why.

    """
    try:
        event = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"Cannot read {str(path)!r}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ValueError(f"{str(path)!r} is not UTF-8.") from None
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}.") from None
    except RecursionError:
        raise ValueError(f"{str(path)!r} is nested too deeply.") from None
    if not isinstance(event, dict) or not all(
        isinstance(event.get(key), str) for key in ("httpMethod", "path")
    ):
        raise ValueError(
            f"{str(path)!r} is not the event of a REST API: it lacks 'httpMethod' or 'path'."
        )
    return event


def send(events: list[tuple[str, Event]]) -> int:
    """Send each event to the same tables, and show it; return 1 if the function failed."""
    # These imports take a second. Here, they do not delay the error messages about event files, and
    # Ctrl-C while they run prints no traceback.
    from emulators.dynamodb import (  # noqa: PLC0415
        checkpoint_owners,
        embedded_dynamodb,
        put_demo,
        stored_checkpoints,
        stored_tokens,
    )
    from emulators.invocation import lambda_context  # noqa: PLC0415
    from emulators.records import artifact_keys  # noqa: PLC0415
    from emulators.storage import (  # noqa: PLC0415
        embedded_bucket,
        free_storage,
        put_objects,
        stored_objects,
    )

    sample_listing = read_event(EVENTS / "list-checkpoints.json")
    log = io.StringIO()
    statuses: Counter[int] = Counter()
    deleted = freed = 0
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    with embedded_dynamodb(), embedded_bucket():
        with contextlib.redirect_stdout(log):  # the functions log to standard output
            from checkpoints.api.app import lambda_handler  # noqa: PLC0415 needs the environment

        def respond(event: Event) -> Event:
            with contextlib.redirect_stdout(log):
                return lambda_handler(event, lambda_context())

        put_demo()
        before, tokens = stored_checkpoints(), stored_tokens()
        print("Each request starts with the same tables.")
        show("models", *(f"{model}: {owners}" for model, owners in checkpoint_owners().items()))
        show("tokens", *tokens.values())
        for name, event in events:
            put_demo()
            put_objects(*artifact_keys(), saved_at=an_hour_ago)
            objects = stored_objects()
            log.seek(0)
            log.truncate()
            print()
            say(name)
            listing = sample_listing | {"path": event["path"]}
            if name == FIRST_EVENT:
                show("before", *list_of(respond(listing)))
            show("request", f"{event['httpMethod']} {event['path']}{query_of(event)}")
            show("body", body_of(event))
            show("caller", caller_of(event, tokens))
            response = respond(event)
            show("response", f"{response['statusCode']} {response['body']}")
            gone = difference(before, stored_checkpoints())
            show("deleted", *[f"{model}: {steps}" for model, steps in gone.items()] or ["nothing"])
            with contextlib.redirect_stdout(log):
                free_storage()
            left = stored_objects()
            show("storage", *changes_of(objects, left))
            if name == FIRST_EVENT:
                show("after", *list_of(respond(listing)))
            statuses[response["statusCode"]] += 1
            deleted += sum(map(len, gone.values()))
            freed += len(objects - left)
            if response["statusCode"] == HTTPStatus.INTERNAL_SERVER_ERROR:
                print(log.getvalue(), end="")
    print()
    say(summary_of(statuses, deleted, freed))
    return int(HTTPStatus.INTERNAL_SERVER_ERROR in statuses)


def summary_of(statuses: Counter[int], deleted: int, freed: int) -> str:
    """Return the totals of all requests. Lines are broken only between the items."""
    returned = ", ".join(f"{count} returned {status}" for status, count in sorted(statuses.items()))
    text = (
        f"{count_of(statuses.total(), 'request')}: {returned}; "
        f"{count_of(deleted, 'checkpoint')} and {count_of(freed, 'object')} deleted in total."
    )
    items = re.split("(?<=[:,;]) ", text)
    lines = textwrap.fill(" ".join(item.replace(" ", "\xa0") for item in items), WIDTH)
    return lines.replace("\xa0", " ")


def show(name: str, *lines: str) -> None:
    """Print lines with a label, truncated to `WIDTH`, with control characters escaped."""
    for line in lines:
        text = line if line.isprintable() else repr(line)[1:-1]
        room = WIDTH - len(f"  {name:8}  ")
        print(f"  {name:8}  {text if len(text) <= room else text[: room - 1] + '…'}")
        name = ""


def list_of(response: Event) -> list[str]:
    """Return lines with the checkpoints that a GET listed: each step with its metrics."""
    if response["statusCode"] != HTTPStatus.OK:
        return [f"GET returns {response['statusCode']} {response['body']}"]
    listed = [
        " ".join([found["id"], *(f"{name}={value:g}" for name, value in found["metrics"].items())])
        for found in json.loads(response["body"])["data"]
    ]
    rows = map(", ".join, batched(listed, STEPS_PER_LINE, strict=False))
    return f"GET lists {',\n'.join(rows) or 'nothing'}".splitlines()


def query_of(event: Event) -> str:
    """Return the query, with its question mark, if the event has one."""
    query = event.get("multiValueQueryStringParameters") or event.get("queryStringParameters")
    if not query or not isinstance(query, dict):
        return ""
    return f"?{urlencode(query, doseq=True, errors='replace')}"


def body_of(event: Event) -> str:
    """Return the body of the event, without decoding it."""
    return f"{event.get('body') or 'none'}{' (base64)' if event.get('isBase64Encoded') else ''}"


def caller_of(event: Event, tokens: dict[str, str]) -> str:
    """Return the owner of the event's token."""
    from checkpoints.api.auth import NotAuthenticatedError, bearer_token, hash_token  # noqa: PLC0415

    try:
        return tokens.get(hash_token(bearer_token(event)), "unknown token")
    except NotAuthenticatedError as error:
        return error.reason.replace("_credentials", " token")
    except (AttributeError, TypeError):
        return "malformed headers"


def difference(before: "Table", after: "Table") -> dict[str, list[int]]:
    """Return the deleted steps of each model that lost any."""
    gone = {model: sorted(steps - after.get(model, set())) for model, steps in before.items()}
    return {model: steps for model, steps in gone.items() if steps}


def changes_of(before: set[str], after: set[str]) -> list[str]:
    """Return a line for each folder that lost objects."""
    counts, left = (Counter(key.rpartition("/")[0] for key in keys) for keys in (before, after))
    return [
        f"{folder}/: {count_of(count, 'object')} before, {left[folder]} after"
        for folder, count in sorted(counts.items())
        if left[folder] < count
    ]


def count_of(number: int, noun: str) -> str:
    """Return the number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    isolate()
    sys.exit(run(main))
