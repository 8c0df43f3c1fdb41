"""Show the product in memory: from a bucket of checkpoints to a pruned model and freed storage."""

import os
import shlex
import sys
import textwrap
from collections import Counter
from datetime import UTC, datetime, timedelta

from cli.runner import run
from cli.terminal import say
from emulators.environment import isolate

PROTECTED = "1000"
TOKEN = "demo-token"  # noqa: S105 of the stack in memory


def main() -> int:
    """Import a bucket of checkpoints, look at them, prune a model, and free the storage.

    The commands and the functions are the real ones. Everything else is in memory.
    """
    # These imports take a second. Ctrl-C while they run prints no traceback.
    from checkpoints.api.auth import DELETE_SCOPE, READ_SCOPE  # noqa: PLC0415
    from emulators import STACK  # noqa: PLC0415
    from emulators.dynamodb import put_token  # noqa: PLC0415
    from emulators.records import ARTIFACTS_BUCKET, ENTITY  # noqa: PLC0415
    from emulators.stack import embedded_stack  # noqa: PLC0415
    from emulators.storage import free_storage, put_objects  # noqa: PLC0415
    from emulators.training import MODEL, training_runs  # noqa: PLC0415

    with embedded_stack(STACK) as url:
        put_token(TOKEN, entity=ENTITY, scopes=[READ_SCOPE, DELETE_SCOPE], name="demo")
        os.environ |= {"CHECKPOINTS_API_URL": url, "CHECKPOINTS_TOKEN": TOKEN}

        explain("Two training runs have left their checkpoints in a bucket.")
        saved_at = datetime.now(UTC) - timedelta(hours=1)
        for key, content in training_runs():
            put_objects(key, content=content, saved_at=saved_at)
        show_bucket()
        explain("Register them. Nobody else writes to this bucket, so there is no need to wait.")
        bucket = f"s3://{ARTIFACTS_BUCKET}/"
        no_wait = ("--min-age", "0s", "--settle", "0s")
        codes = [show("records", "import", bucket, "--entity", ENTITY, *no_wait, "--yes")]
        explain(f"Step {PROTECTED} is deployed, so nobody should delete it.")
        codes.append(show("records", "protect", MODEL, PROTECTED))
        codes.append(show("records", "summary"))
        explain("Keep the two newest and the best one.")
        rules = ("--keep-last", "2", "--keep-best", "eval_loss:min")
        codes.append(show("prune", MODEL, *rules, "--yes"))
        explain("15 minutes later, the storage of the deleted checkpoints is free.")
        free_storage()
        show_bucket()
    return int(any(codes))


def explain(text: str) -> None:
    """Print what comes next, like a comment in a shell."""
    print()
    say(f"# {text}")


def show(*arguments: str) -> int:
    """Run `checkpoints`, as if it was typed in a terminal; return its exit code."""
    from cli.main import app  # noqa: PLC0415 as in `main`

    lines = textwrap.wrap(f"$ checkpoints {shlex.join(arguments)}", 76, break_on_hyphens=False)
    print(" \\\n    ".join(lines), flush=True)
    code = run(app, arguments)
    sys.stdout.flush()
    return code


def show_bucket() -> None:
    """Print how many objects of each run the bucket has."""
    from emulators.records import ARTIFACTS_BUCKET  # noqa: PLC0415 as in `main`
    from emulators.storage import stored_objects  # noqa: PLC0415

    runs = Counter(key.partition("/")[0] for key in stored_objects())
    for name, count in sorted(runs.items()):
        print(f"s3://{ARTIFACTS_BUCKET}/{name}/  {count} objects")


if __name__ == "__main__":
    isolate()
    sys.exit(run(main))
