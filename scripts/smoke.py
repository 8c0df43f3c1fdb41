"""Check that a deployed stack deletes what it should and nothing else, on records of its own."""

import argparse
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

import boto3
import requests
from boto3.dynamodb.conditions import Key
from botocore.exceptions import BotoCoreError, ClientError

from checkpoints.auth import hash_token
from emulators.records import put_checkpoints, put_token
from scripts.deletions import format_steps
from scripts.stacks import UsageError, describe, output_of
from scripts.terminal import run, stop_on_signals

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

TOKEN_SECONDS = 600  # for the case that it cannot be removed
TIMEOUT_SECONDS = (10, 35)  # to connect, and for the answer: API Gateway waits for 29
SHOWN_CHARACTERS = 300

STEPS = range(1, 111)  # without two of them still more than one transaction takes
FOREIGN_STEP = 1_000  # has a checkpoint of another entity
ABSENT_STEP = 2_000

type Check = tuple[str, object, Callable[[], object]]  # what it shows, the expected, the actual


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 0 all is well, 1 it is not, 2 not understood."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="The records are a token, and checkpoints of a model with a random name. They are "
        "removed at the end. The permissions it takes: cloudformation:DescribeStacks; PutItem and "
        "DeleteItem on the tokens table; BatchWriteItem and Query on the checkpoints table.",
    )
    parser.add_argument("--stack", required=True, help="name of the deployed stack")
    parser.add_argument(
        "--url", type=_url, help="where its API answers, if not at its output ApiUrl"
    )
    options = parser.parse_args(arguments)
    stop_on_signals()
    try:
        url = options.url or output_of(options.stack, "ApiUrl")
        tables = [
            output_of(options.stack, f"{kind}TableName") for kind in ("Checkpoints", "Tokens")
        ]
        return int(not Smoke(url, *tables).run())
    except UsageError as error:
        print(f"smoke.py: {error}", file=sys.stderr)
    except (BotoCoreError, ClientError) as error:
        print(f"smoke.py: {describe(error)}", file=sys.stderr)
    return 1


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError("a URL must begin with http:// or https://")
    return text


class Smoke:
    """The checks, and what they are made with."""

    def __init__(self, url: str, checkpoints_table: str, tokens_table: str) -> None:
        self._client: DynamoDBClient = boto3.client("dynamodb")
        self._table = boto3.resource("dynamodb").Table(checkpoints_table)
        self._tokens_table = tokens_table
        self._name = f"smoke test {secrets.token_hex(8)}"  # a space, which the path must encode
        self._token = secrets.token_urlsafe(32)
        model_id = quote(self._name, safe="")
        self._url = f"{url.rstrip('/')}/v1/preview/models/{model_id}/checkpoints"
        self._answered = True

    def run(self) -> bool:
        """Make all checks; tell whether all passed, and nothing is left behind."""
        print(f"Sending requests to {self._url}", flush=True)
        checks = self._checks()
        results: list[bool] = []
        try:
            self._save()
            for check in checks:
                results.append(self._passes(*check))
                if not self._answered:
                    break
        finally:
            removed = self._clean_up()
        left_out = len(checks) - len(results)
        print(
            f"{results.count(True)} checks passed, {results.count(False)} failed"
            f"{f', {left_out} left out' if left_out else ''}."
        )
        return results.count(True) == len(checks) and removed

    def _save(self) -> None:
        put_token(
            self._client,
            self._tokens_table,
            self._token,
            entity=self._name,
            name=self._name,
            expires_at={"N": str(int(time.time()) + TOKEN_SECONDS)},
        )
        for entity, steps in {self._name: STEPS, "another": [FOREIGN_STEP]}.items():
            put_checkpoints(self._client, self._table.name, self._name, steps, entity=entity)

    def _checks(self) -> list[Check]:
        first, second, *others = STEPS
        few = [second, ABSENT_STEP, first, FOREIGN_STEP]
        found = {"deleted_count": 2, "not_found_steps": [ABSENT_STEP, FOREIGN_STEP]}
        no_steps = {"loc": ["body", "steps"], "msg": "Field required", "type": "missing"}
        return [
            (
                "A request without a token is refused",
                (401, {"detail": "Not authenticated"}),
                lambda: self._delete(steps=[first], token=None),
            ),
            (
                "An unknown token is refused",
                (401, {"detail": "Invalid or expired token"}),
                lambda: self._delete(steps=[first], token="unknown"),  # noqa: S106
            ),
            (
                "A body without steps is refused",
                (422, {"detail": [no_steps]}),
                self._delete,
            ),
            (
                "A dry run tells what would be deleted",
                (200, found),
                lambda: self._delete(steps=few, dry_run=True),
            ),
            (
                "Nothing was deleted so far",
                format_steps([*STEPS, FOREIGN_STEP]),
                self._stored_steps,
            ),
            (
                "Two checkpoints are deleted; a step without one, and another's, are not found",
                (200, found),
                lambda: self._delete(steps=few),
            ),
            (
                "The table has exactly the others",
                format_steps([*others, FOREIGN_STEP]),
                self._stored_steps,
            ),
            (
                "The same request again finds nothing",
                (200, {"deleted_count": 0, "not_found_steps": few}),
                lambda: self._delete(steps=few),
            ),
            (
                "More than 100 steps are deleted",
                (200, {"deleted_count": len(others), "not_found_steps": []}),
                lambda: self._delete(steps=others),
            ),
            (
                "The table has only the other entity's checkpoint",
                format_steps([FOREIGN_STEP]),
                self._stored_steps,
            ),
        ]

    def _passes(self, name: str, expected: object, ask: Callable[[], object]) -> bool:
        """Make a check and print its line."""
        start = time.monotonic()
        try:
            actual = ask()
        except requests.RequestException as error:
            actual = f"no answer: {_root_cause(error)}"
            self._answered = False
        milliseconds = (time.monotonic() - start) * 1000
        passed = expected == actual
        print(f"{'ok' if passed else 'FAILED':6} {milliseconds:6.0f} ms  {name}", flush=True)
        if not passed:
            for label, value in (("expected", expected), ("got", actual)):
                # An address that is not the API's could send the token back.
                text = str(value).replace(self._token, "(the token)")[:SHOWN_CHARACTERS]
                print(f"{'':18}{label} {text}", flush=True)
        return passed

    def _delete(self, *, token: str | None = "", **body: object) -> tuple[int, object]:
        """Send a request, with the good token unless another or none is given."""
        headers = {} if token is None else {"Authorization": f"Bearer {token or self._token}"}
        response = requests.delete(
            self._url,
            json=body,
            headers=headers,
            timeout=TIMEOUT_SECONDS,
            allow_redirects=False,
            auth=lambda request: request,  # else requests adds what ~/.netrc has
        )
        try:
            return response.status_code, response.json()
        except ValueError:
            return response.status_code, response.text

    def _stored_steps(self) -> str:
        return format_steps(sorted(self._read_steps()))

    def _read_steps(self) -> list[int]:
        found = self._table.query(  # one page has them all
            KeyConditionExpression=Key("model_id").eq(self._name), ConsistentRead=True
        )
        return [int(str(item["step"])) for item in found["Items"]]

    def _clean_up(self) -> bool:
        """Remove the token and the checkpoints; tell whether that succeeded."""
        removed = True
        for what, remove in (
            (f"the token {self._name!r} from {self._tokens_table}", self._remove_token),
            (
                f"the checkpoints of {self._name!r} from {self._table.name}",
                self._remove_checkpoints,
            ),
        ):
            try:
                remove()
            except (BotoCoreError, ClientError, KeyboardInterrupt) as error:
                why = describe(error) if isinstance(error, Exception) else "interrupted"
                print(f"FAILED to remove {what}: {why}", flush=True)
                removed = False
        return removed

    def _remove_token(self) -> None:
        key = {"token_hash": {"S": hash_token(self._token)}}
        self._client.delete_item(TableName=self._tokens_table, Key=key)

    def _remove_checkpoints(self) -> None:
        with self._table.batch_writer() as batch:
            for step in self._read_steps():
                batch.delete_item(Key={"model_id": self._name, "step": step})


def _root_cause(error: BaseException) -> str:
    """Return the innermost cause, which is the plainest, such as "Connection refused"."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return str(error)


if __name__ == "__main__":
    sys.exit(run(main))
