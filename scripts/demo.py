"""Send sample events through the function, on a DynamoDB in memory, and show what happens."""

import argparse
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

from emulators.dynamodb import (
    Table,
    embedded_dynamodb,
    put_demo,
    stored_checkpoints,
)
from emulators.invocation import lambda_context

EVENTS = Path(__file__).parents[1] / "events"
WIDTH = 100


def main() -> int:
    """Run the events named on the command line, or all there are."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Each event finds the same tables: three models, and a token each of two teams.",
    )
    parser.add_argument(
        "event",
        nargs="*",
        type=Path,
        help="a file with a REST API proxy event, such as events/delete-checkpoints.json; "
        "by default every file in events/",
    )
    paths = parser.parse_args().event or sorted(EVENTS.glob("*.json"))
    try:
        events = [(path, json.loads(path.read_bytes())) for path in paths]
    except (OSError, ValueError) as error:
        parser.error(f"cannot read an event: {error}")

    log = io.StringIO()
    failed = False
    with embedded_dynamodb():
        with contextlib.redirect_stdout(log):  # the function's log goes where its prints go
            from checkpoints.app import lambda_handler  # noqa: PLC0415 needs the environment
        print("Seeding three models and the tokens of two teams", file=sys.stderr)
        for path, event in events:
            put_demo()
            before = stored_checkpoints()
            log.truncate(0)
            with contextlib.redirect_stdout(log):
                answer = lambda_handler(event, lambda_context())
            show(path, event, before, answer, stored_checkpoints())
            if answer["statusCode"] == 500:  # noqa: PLR2004
                failed = True
                print(log.getvalue())
    return int(failed)


def show(
    path: Path,
    event: dict[str, Any],
    before: Table,
    answer: dict[str, Any],
    after: Table,
) -> None:
    """Print one request, its answer, and what the table held before and holds after it."""
    gone = {model_id: sorted(before[model_id] - after.get(model_id, set())) for model_id in before}
    lines = {
        "request": f"{event.get('httpMethod')} {event.get('path')} {event.get('body') or ''}",
        "answer": f"{answer['statusCode']} {answer['body']}",
        "before": summary(before),
        "after": summary(after),
        "deleted": ", ".join(f"{model_id}: {steps}" for model_id, steps in gone.items() if steps)
        or "nothing",
    }
    print(f"\n{path.name}")
    for name, line in lines.items():
        print(f"  {name:8} {line if len(line) <= WIDTH else line[: WIDTH - 1] + '…'}")


def summary(table: Table) -> str:
    """Tell how many checkpoints each model has."""
    return ", ".join(f"{model_id}: {len(steps)}" for model_id, steps in table.items())


if __name__ == "__main__":
    sys.exit(main())
