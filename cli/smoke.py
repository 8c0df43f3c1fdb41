"""Check with temporary records that a deployed stack deletes what it should, and nothing else."""

import os
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import boto3
import requests
from boto3.dynamodb.conditions import Key
from botocore.exceptions import BotoCoreError, ClientError

from checkpoints.api.auth import DELETE_SCOPE, hash_token
from cli import stacks, tokens
from cli.errors import CommandError, describe
from cli.stacks import BucketAccessError, check_bucket, output_of
from cli.steps import format_steps

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

TOKEN_SECONDS = 600  # the token expires even if the command cannot delete it
TIMEOUT_SECONDS = (10, 35)  # to connect, and for the response: API Gateway's timeout is 29
SHOWN_CHARACTERS = 300

# They can keep requests from reaching the API.
HTTP_SETTINGS = (
    *("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"),
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
)

STEPS = range(1, 111)  # even without the first two, too many for one transaction
FOREIGN_STEP = 1_000  # has a checkpoint of another entity
ABSENT_STEP = 2_000
PROTECTED_STEP = 3_000

type Check = tuple[str, object, Callable[[], object]]  # description, expected, actual


def passes(stack: str, url: str | None) -> bool:
    """Return whether the stack passes all checks."""
    url = url or output_of(stack, "ApiUrl")
    checkpoints, tokens_table = (
        output_of(stack, f"{kind}TableName") for kind in ("Checkpoints", "Tokens")
    )
    bucket = stacks.read_outputs(stack).get("ArtifactsBucketName")
    return Smoke(url, checkpoints, tokens_table, bucket).run()


class Smoke:
    """Runs the checks with a temporary token and temporary checkpoints."""

    def __init__(
        self, url: str, checkpoints_table: str, tokens_table: str, bucket: str | None
    ) -> None:
        self._client: DynamoDBClient = boto3.client("dynamodb")
        self._table = boto3.resource("dynamodb").Table(checkpoints_table)
        self._tokens_table = tokens_table
        self._bucket = bucket
        self._name = f"smoke test {secrets.token_hex(8)}"  # a space, which the path must encode
        self._token = secrets.token_urlsafe(tokens.TOKEN_BYTES)
        model_id = quote(self._name, safe="")
        self._url = f"{url.rstrip('/')}/v1/preview/models/{model_id}/checkpoints"
        self._has_response = True
        self._hint = ""

    def run(self) -> bool:
        """Run all checks; return whether all passed, and all temporary records were deleted."""
        print(f"Sending requests to {self._url}", flush=True)
        checks = self._checks()
        results: list[bool] = []
        try:
            self._save()
            for check in checks:
                results.append(self._run_check(*check))
                if not self._has_response:
                    break
        finally:
            is_clean = self._clean_up()
        if self._hint:
            print(self._hint)
        skipped = len(checks) - len(results)
        print(
            f"{results.count(True)} checks passed, {results.count(False)} failed"
            f"{f', {skipped} skipped' if skipped else ''}."
        )
        return results.count(True) == len(checks) and is_clean

    def _save(self) -> None:
        tokens.issue(
            self._client,
            self._tokens_table,
            entity=self._name,
            name=self._name,
            scopes=[DELETE_SCOPE],
            expires_at=int(time.time()) + TOKEN_SECONDS,
            token=self._token,  # known before, so that it can be deleted after any failure
        )
        with self._table.batch_writer() as batch:
            for step in (*STEPS, FOREIGN_STEP, PROTECTED_STEP):
                entity = "another" if step == FOREIGN_STEP else self._name
                record = {"model_id": self._name, "step": step, "entity": entity}
                batch.put_item(record | ({"protected": True} if step == PROTECTED_STEP else {}))

    def _checks(self) -> list[Check]:
        first, second, *others = STEPS
        few = [second, ABSENT_STEP, first, PROTECTED_STEP, FOREIGN_STEP]
        protected = {"protected_steps": [PROTECTED_STEP]}
        found = {"deleted_count": 2, "not_found_steps": [ABSENT_STEP, FOREIGN_STEP]} | protected
        gone = [second, ABSENT_STEP, first, FOREIGN_STEP]
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
                "A dry run reports what would be deleted",
                (200, found | {"dry_run": True}),
                lambda: self._delete(steps=few, dry_run=True),
            ),
            (
                "Nothing has been deleted so far",
                format_steps([*STEPS, FOREIGN_STEP, PROTECTED_STEP]),
                self._stored_steps,
            ),
            (
                "Two checkpoints are deleted, one is protected, and two steps are not found",
                (200, found),
                lambda: self._delete(steps=few),
            ),
            (
                "The table still has all other checkpoints",
                format_steps([*others, FOREIGN_STEP, PROTECTED_STEP]),
                self._stored_steps,
            ),
            (
                "The same request again deletes nothing",
                (200, {"deleted_count": 0, "not_found_steps": gone} | protected),
                lambda: self._delete(steps=few),
            ),
            (
                "More than 100 steps are deleted, but not the protected one",
                (200, {"deleted_count": len(others), "not_found_steps": []} | protected),
                lambda: self._delete(steps=[*others, PROTECTED_STEP]),
            ),
            (
                "The table has only the other entity's checkpoint and the protected one",
                format_steps([FOREIGN_STEP, PROTECTED_STEP]),
                self._stored_steps,
            ),
            *([("The artifacts bucket exists", "", self._bucket_problem)] if self._bucket else []),
        ]

    def _run_check(self, name: str, expected: object, act: Callable[[], object]) -> bool:
        """Run a check, print its result, and return whether it passed."""
        start = time.monotonic()
        try:
            actual = act()
        except OSError as error:  # those of requests, and a missing file of certificates
            actual = f"no response: {_root_cause(error)}"
            self._has_response = False
            self._hint = "If the API has another URL, give it with --url (in make smoke: URL=...)."
            if is_set := [name for name in HTTP_SETTINGS if os.environ.get(name)]:
                self._hint += f" Also check {', '.join(is_set)}."
        milliseconds = (time.monotonic() - start) * 1000
        match actual:
            case (403, {"detail": str(detail)}) if detail.startswith("The token lacks the scope"):
                pass
            case (403, _):
                self._hint = (
                    "The 403 is from API Gateway or a WAF, not from ApiFunction. Check the URL: "
                    "it must include the stage."
                )
            case (404, _):
                self._hint = "Check the URL: it must include the stage."
            case (401, _) if expected != actual:
                self._hint = "Check the URL: it may be the API of another stack."
            case (500, _) if not self._hint:
                self._hint = self._describe_table()
        passed = expected == actual
        print(f"{'ok' if passed else 'FAILED':6} {milliseconds:6.0f} ms  {name}", flush=True)
        if not passed:
            for label, value in (("expected", expected), ("got", actual)):
                # A wrong URL could send the token back.
                text = str(value).replace(self._token, "(the token)")[:SHOWN_CHARACTERS]
                print(f"{'':18}{label} {text}", flush=True)
        return passed

    def _describe_table(self) -> str:
        """Return what ApiFunction may not be able to do with the table, if anything."""
        try:
            table: Any = self._client.describe_table(TableName=self._table.name)["Table"]
        except (BotoCoreError, ClientError):  # there are other places to find the cause
            return ""
        hints = []
        if table.get("MultiRegionConsistency") == "STRONG":
            hints.append(
                f"The table {self._table.name} is a global table with strong consistency between "
                "regions. Such a table has no transactions, which ApiFunction needs."
            )
        if key := table.get("SSEDescription", {}).get("KMSMasterKeyArn"):
            hints.append(
                f"The table {self._table.name} is encrypted with {key}. If this is a customer "
                "managed key, the role of ApiFunction needs kms:Decrypt on it."
            )
        return "\n".join(hints)

    def _bucket_problem(self) -> str:
        try:
            check_bucket(boto3.client("s3"), self._bucket or "")
        except BucketAccessError as error:  # it exists, and who tests may have no access to it
            self._hint = str(error)
        except CommandError as error:
            return str(error)
        return ""

    def _delete(self, *, token: str | None = "", **body: object) -> tuple[int, object]:
        """Send a request, by default with the valid token."""
        headers = {} if token is None else {"Authorization": f"Bearer {token or self._token}"}
        response = requests.delete(
            self._url,
            json=body,
            headers=headers,
            timeout=TIMEOUT_SECONDS,
            allow_redirects=False,
            auth=lambda request: request,  # otherwise requests adds credentials from ~/.netrc
        )
        try:
            return response.status_code, response.json()
        except ValueError:
            return response.status_code, response.text

    def _stored_steps(self) -> str:
        return format_steps(sorted(self._read_steps()))

    def _read_steps(self) -> list[int]:
        found = self._table.query(  # they fit on one page
            KeyConditionExpression=Key("model_id").eq(self._name), ConsistentRead=True
        )
        return [int(str(item["step"])) for item in found["Items"]]

    def _clean_up(self) -> bool:
        """Delete the token and the checkpoints; return whether this succeeded."""
        is_clean = True
        for what, delete in (
            (f"the token {self._name!r} from {self._tokens_table}", self._delete_token),
            (
                f"the checkpoints of {self._name!r} from {self._table.name}",
                self._delete_checkpoints,
            ),
        ):
            try:
                delete()
            except (BotoCoreError, ClientError, KeyboardInterrupt) as error:
                why = describe(error) if isinstance(error, Exception) else "interrupted"
                print(f"FAILED to delete {what}: {why}", flush=True)
                is_clean = False
        return is_clean

    def _delete_token(self) -> None:
        key = {"token_hash": {"S": hash_token(self._token)}}
        self._client.delete_item(TableName=self._tokens_table, Key=key)

    def _delete_checkpoints(self) -> None:
        with self._table.batch_writer() as batch:
            for step in self._read_steps():
                batch.delete_item(Key={"model_id": self._name, "step": step})


def _root_cause(error: BaseException) -> str:
    """Return the innermost cause, which is the clearest, such as "Connection refused"."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return str(error)
