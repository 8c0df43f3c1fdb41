"""The command `checkpoints`, with its sub-commands and their options.

Each sub-command imports what does the work only when it runs, so that --help and completion are
fast. Only prune does not: it is one file, with its options.
"""

import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any
from uuid import UUID

import typer
from typer.core import TyperGroup

from cli import prune
from cli.layouts import Pattern
from cli.options import (
    STANDARD_INPUT,
    Location,
    Scope,
    Stack,
    parse_duration,
    parse_label,
    parse_location,
    parse_model_id,
    parse_period,
    parse_request_id,
    parse_url,
)
from cli.runner import Command, run
from cli.steps import parse_steps

FREE_TEXT_OPTIONS = ("--stack", "--entity", "--name")  # values may look like a token
# Also in quotes or in a pasted header, but not in a hash, which is longer.
LOOKS_LIKE_A_TOKEN = re.compile(r"(?<![A-Za-z0-9_-])[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])")


class TokensGroup(TyperGroup):
    """Refuses a token on the command line, and does not repeat it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 Typer's is private
        """Read the arguments."""
        if any(
            LOOKS_LIKE_A_TOKEN.search(argument)
            and before not in FREE_TEXT_OPTIONS
            and argument.partition("=")[0] not in FREE_TEXT_OPTIONS
            for before, argument in pairwise(["", *args])
        ):
            ctx.fail(
                "Do not put a token on the command line, where the shell's history and the list of "
                f"processes show it. Revoke it now: run `{ctx.command_path} revoke --stack STACK "
                f"{STANDARD_INPUT}`, and paste the token at the prompt."
            )
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="checkpoints",
    help="Commands for people who use or operate the API.",
    epilog="Set the account and the region with AWS_PROFILE and AWS_DEFAULT_REGION. prune does not "
    "use AWS: it needs the URL of the API and a token. Exit codes: 0 done, 1 failed or only partly "
    "done, 2 wrong usage, 130 interrupted.",
    # Help is plain text: it starts faster, and no bracket in a text is taken for markup.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # they could print a token
)
tokens_app = typer.Typer(
    cls=TokensGroup,
    help="Issue, list and revoke the bearer tokens of the API.",
)
app.add_typer(tokens_app, name="tokens")
records_app = typer.Typer(help="Import, see, protect and forget the records of checkpoints.")
app.add_typer(records_app, name="records")
app.add_typer(prune.app)


@tokens_app.command(cls=Command)
def issue(
    stack: Stack,
    entity: Annotated[
        str,
        typer.Option(
            parser=parse_label,
            metavar="NAME",
            help="Entity that the token belongs to, such as a team: the owner of the checkpoints "
            "that it can list and delete.",
        ),
    ],
    name: Annotated[
        str,
        typer.Option(
            parser=parse_label,
            metavar="NAME",
            help="Name of the token, which `tokens list` and the log of ApiFunction show.",
        ),
    ],
    scope: Annotated[
        list[Scope],
        typer.Option(
            metavar="SCOPE",
            help=f"What the token allows: {' or '.join(Scope)}. Repeat the option for both.",
        ),
    ],
    expires: Annotated[
        int | None,
        typer.Option(
            parser=parse_duration,
            metavar="DURATION",
            help="How long the token is valid, such as 90d, 12h or 30m. By default, it never "
            "expires.",
        ),
    ] = None,
) -> None:
    """Create a token, and print it. It cannot be shown again later."""
    from cli import tokens

    tokens.issue_and_print(stack, entity=entity, name=name, scopes=scope, seconds=expires)


@tokens_app.command("list", cls=Command)
def list_tokens(stack: Stack) -> None:
    """List the tokens.

    Each line has the entity, the name, the scopes, the dates and the id, but not the token itself.
    """
    from cli import tokens

    tokens.print_all(stack)


@tokens_app.command(cls=Command)
def revoke(
    stack: Stack,
    token: Annotated[
        str,
        typer.Argument(
            metavar=f"NAME|ID|{STANDARD_INPUT}",
            help="Name or id of the token, as `tokens list` shows them, or "
            f"{STANDARD_INPUT} to read the token itself from standard input.",
        ),
    ],
) -> None:
    """Make a token invalid immediately."""
    from cli import tokens

    tokens.revoke(stack, token)


Model = Annotated[
    str, typer.Argument(parser=parse_model_id, metavar="MODEL", help="Id of the model.")
]
STEPS = typer.Argument(
    parser=parse_steps, metavar="STEPS", help="Steps and ranges, such as 100,200-203."
)
Steps = Annotated[Sequence[int], STEPS]


@records_app.command(
    "import",
    cls=Command,
    epilog="This command never changes a record, so it is safe to run it again. You need these "
    "permissions: cloudformation:DescribeStacks; Scan and PutItem on the checkpoints table; "
    "s3:ListBucket and s3:GetObject on the bucket; and, if the stack frees storage, "
    "sqs:GetQueueAttributes on its queues and lambda:GetEventSourceMapping. docs/records.md "
    "explains what is recognised, and what is left out.",
)
def import_records(  # noqa: PLR0913, PLR0917 one for each option
    location: Annotated[
        Location,
        typer.Argument(
            parser=parse_location, metavar="s3://BUCKET/PREFIX/", help="Where the checkpoints are."
        ),
    ],
    stack: Stack,
    entity: Annotated[
        str,
        typer.Option(
            parser=parse_label,
            metavar="NAME",
            help="Owner of the checkpoints: the `entity` of their records, such as a team.",
        ),
    ],
    pattern: Annotated[
        Pattern | None,
        typer.Option(
            parser=Pattern,
            metavar="PATTERN",
            help="Instead of the known names, find keys like this one, such as "
            "'{model}/ckpt_{step}.pt', or folders, such as '{model}/{step}/'. {model} is the id: "
            "one or more segments of the key. {step} is digits. * is any text within a segment.",
        ),
    ] = None,
    min_age: Annotated[
        int,
        typer.Option(
            parser=parse_period,
            metavar="DURATION",
            help="Leave out checkpoints whose newest object is younger than this, because they may "
            "be incomplete.",
        ),
    ] = "1h",  # type: ignore[assignment] # Typer parses it
    settle: Annotated[
        int,
        typer.Option(
            parser=parse_period,
            metavar="DURATION",
            help="Wait this long before writing, because the counts of the queues can be late. The "
            "time begins when the table has been read or, if the command asks, with your answer.",
        ),
    ] = "60s",  # type: ignore[assignment] # Typer parses it
    without_freeing: Annotated[
        bool,
        typer.Option(
            "--without-freeing",
            help="Import a bucket in which the stack frees no storage. Then checkpoints that are "
            "deleted later are registered again by the next import.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the plan.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before writing.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the plan and the result as JSON.")
    ] = False,
) -> int:
    """Register the checkpoints that are in a bucket.

    The command finds checkpoints by the names that training libraries give them. It shows a plan,
    asks, and writes a record for each checkpoint that has none.
    """
    from cli import record_import

    return record_import.import_records(
        stack,
        location,
        entity=entity,
        pattern=pattern,
        min_age=min_age,
        settle=settle,
        without_freeing=without_freeing,
        dry_run=dry_run,
        yes=yes,
        as_json=as_json,
    )


@records_app.command(
    cls=Command,
    epilog="Sizes and dates are those in the records. The warnings go to standard error. You need "
    "these permissions: cloudformation:DescribeStacks; Scan on the checkpoints table.",
)
def summary(
    stack: Stack,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, also with the warnings.")
    ] = False,
) -> None:
    """Show what each entity and model has, and warn of wrong records.

    This reads the whole table.
    """
    from cli import summary

    summary.summarise(stack, as_json=as_json)


@records_app.command(
    cls=Command,
    epilog="The exit code is 1 if a step has no record. The command reads the records from the "
    "first to the last step. You need these permissions: cloudformation:DescribeStacks; Query and "
    "UpdateItem on the checkpoints table.",
)
def protect(stack: Stack, model: Model, steps: Steps) -> int:
    """Protect checkpoints: no request to the API deletes them.

    Time to live ignores the protection, so this also removes `expires_at`.
    """
    from cli import records

    return records.protect(stack, model, steps)


@records_app.command(
    cls=Command,
    epilog="The exit code is 1 if a step has no record. You need the same permissions as for "
    "protect.",
)
def unprotect(stack: Stack, model: Model, steps: Steps) -> int:
    """Remove the protection of checkpoints."""
    from cli import records

    return records.unprotect(stack, model, steps)


@records_app.command(
    cls=Command,
    epilog="It is safe to interrupt this command, and to run it again. The exit code is 1 if a "
    "record is left because it is protected or was saved again. You need these permissions: "
    "cloudformation:DescribeStacks; Query, UpdateItem and DeleteItem on the checkpoints table.",
)
def forget(  # noqa: PLR0913, PLR0917 one for each option
    ctx: typer.Context,
    stack: Stack,
    model: Model,
    steps: Annotated[Sequence[int] | None, STEPS] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Forget all checkpoints of the model.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be forgotten.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before removing.")] = False,
) -> int:
    """Remove records, but free no storage: the artifacts stay.

    Use it to undo an import. Protected checkpoints are left. The command shows what it would do,
    and asks.
    """
    if (steps is None) != everything:
        ctx.fail("Use either STEPS or --all.")
    from cli import records

    return records.forget(stack, model, steps, dry_run=dry_run, yes=yes)


@app.command(
    cls=Command,
    epilog="This command never overwrites a record, so it is safe to run it again. The exit code "
    "is 1 if a checkpoint has no record at the end or, with --artifacts, if a checkpoint with a "
    "valid artifact_uri has no object in the bucket.",
)
def restore(  # noqa: PLR0913, PLR0917 one for each option
    ctx: typer.Context,
    stack: Stack,
    source: Annotated[
        str,
        typer.Option("--from", metavar="TABLE", help="The table that AWS restored."),
    ],
    request: Annotated[
        list[UUID],
        typer.Option(
            parser=parse_request_id,
            metavar="ID",
            help="Copy what this request deleted. The id is the header x-amzn-RequestId of its "
            "response. In the log of ApiFunction, it is the correlation_id. The "
            "function_request_id there also works. Repeat the option for several requests.",
            default_factory=list,
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            parser=parse_model_id,
            metavar="ID",
            help="Copy the checkpoints of this model at --steps.",
        ),
    ] = None,
    steps: Annotated[
        Sequence[int] | None,
        typer.Option(
            parser=parse_steps, metavar="STEPS", help="Steps and ranges, such as 100,200-203."
        ),
    ] = None,
    artifacts: Annotated[
        bool,
        typer.Option(
            "--artifacts",
            help="Also recover the artifacts, if the bucket keeps versions: remove the delete "
            "markers that are newer than the time to which the table was restored.",
        ),
    ] = False,
    records_only: Annotated[
        bool,
        typer.Option(
            "--records-only",
            help="Copy only the records, and do not print the reminder of their artifacts.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what the command would do.")
    ] = False,
) -> int:
    """Copy deleted records back from a restored table.

    First let AWS restore the checkpoints table to a time before the deletion, as a new table;
    docs/operations.md shows how. Then choose what to copy: --request, or --model and --steps.
    """
    if bool(request) == (model is not None) or (model is None) != (steps is None):
        ctx.fail("Use either --request, or --model and --steps.")
    if artifacts and records_only:
        ctx.fail("Use either --artifacts or --records-only.")
    from cli import restore

    return restore.restore(
        stack,
        source=source,
        requests=request,
        model_id=model,
        steps=steps,
        artifacts=artifacts,
        records_only=records_only,
        dry_run=dry_run,
    )


@app.command(
    cls=Command,
    epilog="The command reads the log of ApiFunction, which goes back as far as LogRetentionDays. "
    "The log does not show what other programs or time to live deleted. The exit code is 0 even if "
    "the command finds no request.",
)
def deletions(
    stack: Stack,
    model: Model,
    step: Annotated[
        int | None,
        typer.Option(
            metavar="STEP",
            help="Show only requests that deleted, or may have deleted, the checkpoint at this "
            "step.",
        ),
    ] = None,
    since: Annotated[
        int | None,
        typer.Option(
            parser=parse_duration,
            metavar="DURATION",
            help="How far to look back, such as 30d, 12h or 30m. By default 7d.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all steps.")] = False,
) -> None:
    """Show who deleted checkpoints of a model, newest first.

    For each request: the time, the entity, the token's name and id, how many checkpoints the
    request deleted, their steps, and the ids that `restore --request` takes. Dry runs are left out.
    """
    from cli import deletions

    seconds = since or deletions.DEFAULT_PERIOD
    deletions.show(stack, model, step=step, seconds=seconds, as_json=as_json)


@app.command(
    cls=Command,
    epilog="The temporary records are a token, and checkpoints of a model with a random name. They "
    "are deleted at the end. You need these permissions: cloudformation:DescribeStacks; PutItem "
    "and DeleteItem on the tokens table; BatchWriteItem and Query on the checkpoints table. With "
    "DescribeTable, the command can say more about errors.",
)
def smoke(
    stack: Stack,
    url: Annotated[
        str | None,
        typer.Option(
            parser=parse_url,
            metavar="URL",
            help="URL of the API. By default, the output ApiUrl of the stack.",
        ),
    ] = None,
) -> int:
    """Test a deployed stack.

    The test sends requests about temporary records, and checks that the API deletes what it should,
    and nothing else.
    """
    from cli import smoke

    return int(not smoke.passes(stack, url))


def main() -> int:
    """Run the command, and return its exit code."""
    return run(app)


if __name__ == "__main__":
    sys.exit(main())
