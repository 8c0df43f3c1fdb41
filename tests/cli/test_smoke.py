"""The smoke test, run against the function behind a local server."""

import json
import os
import signal
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import boto3
import pytest

from cli import smoke
from cli.template import read_template
from commands import BUCKET_DENIED, Respond, Result, Run, deny, http_server, run_on_stack
from emulators.dynamodb import stored_checkpoints
from emulators.records import ARTIFACTS_BUCKET
from events import TOKEN, Invoke, make_event
from faulty_dynamodb import Apply, Endpoint, Reply, pass_on, reject


class Api:
    """Responds as API Gateway with the function does, or as `respond` says."""

    def __init__(self, invoke: Invoke) -> None:
        self.url = ""
        self.requests = 0
        self.respond: Respond = self.invoke
        self._invoke = invoke

    def handle(self, path: str, headers: dict[str, str], body: str) -> tuple[int, str]:
        """Count the request, and respond."""
        self.requests += 1
        return self.respond(path, headers, body)

    def invoke(self, path: str, headers: dict[str, str], body: str) -> tuple[int, str]:
        """Respond as the function does."""
        path = path.removeprefix("/prod")
        model_id = unquote(path.split("/")[4])
        response = self._invoke(
            make_event(path=path, model_id=model_id, headers=headers, body=body)
        )
        return response.status, json.dumps(response.body)


@pytest.fixture
def api(invoke: Invoke) -> Iterator[Api]:
    api = Api(invoke)
    with http_server(api.handle) as url:
        api.url = f"{url}/prod"
        yield api


@pytest.fixture
def run(endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str, bucket: str | None = None) -> Result:
        outputs = {"ArtifactsBucketName": bucket} if bucket else {}
        return run_on_stack("smoke", *arguments, endpoint=endpoint, capsys=capsys, outputs=outputs)

    return run


def assert_nothing_is_left() -> None:
    items = boto3.client("dynamodb").scan(TableName=os.environ["TOKENS_TABLE"])["Items"]
    assert [TOKEN] == [item["name"]["S"] for item in items]
    assert {} == stored_checkpoints()


def outcomes(result: Result) -> list[str]:
    """Return the first word of each check's line."""
    return [line.split()[0] for line in result.stdout.splitlines() if " ms  " in line]


@pytest.mark.usefixtures("bucket")
def test_passes_on_a_good_stack_and_leaves_nothing(run: Run, api: Api, endpoint: Endpoint) -> None:
    """Each run uses another name, so that two can run at the same time."""
    results = [run("--url", f"{api.url}/", bucket=ARTIFACTS_BUCKET) for _ in range(2)]

    for result in results:
        assert (0, "") == (result.returncode, result.stderr), result.stdout
        assert ["ok"] * 11 == outcomes(result)
        assert result.stdout.endswith("\n11 checks passed, 0 failed.\n")
    first, second = (result.stdout.splitlines()[0] for result in results)
    assert first.startswith(f"Sending requests to {api.url}/v1/preview/models/smoke%20test%20")
    assert first != second
    assert_nothing_is_left()
    items = [request.get("Item", {}) for request in endpoint.requests]
    tokens = [item for item in items if "token_hash" in item]
    assert 2 == len(tokens)
    for token in tokens:
        assert 0 < int(token["expires_at"]["N"]) - int(token["created_at"]["N"]) <= 600


def test_detects_an_api_that_returns_200_and_deletes_nothing(run: Run, api: Api) -> None:
    responses: list[tuple[int, str]] = []

    def record(path: str, headers: dict[str, str], body: str) -> tuple[int, str]:
        responses.append(api.invoke(path, headers, body))
        return responses[-1]

    api.respond = record
    run("--url", api.url)
    api.respond = lambda *_: responses.pop(0)

    result = run("--url", api.url)

    assert 1 == result.returncode
    assert ["ok"] * 6 + ["FAILED", "ok", "ok", "FAILED"] == outcomes(result)
    assert "  expected 3-110,1000,3000\n                  got 1-110,1000,3000\n" in result.stdout
    assert result.stdout.endswith("\n8 checks passed, 2 failed.\n")
    assert {} == stored_checkpoints()


@pytest.mark.parametrize(
    ("status", "body", "hint"),
    [
        (200, "{}", ""),
        (307, "", ""),
        (403, '{"detail":"Invalid key=value"}', "Check the URL: it must include the stage.\n"),
        (403, "<html>", "Check the URL: it must include the stage.\n"),
        (404, '{"detail":"Not Found"}', "Check the URL: it must include the stage.\n"),
        (403, '{"detail":"The token lacks the scope checkpoints:x"}', ""),
        (401, '{"detail":"No."}', "Check the URL: it may be the API of another stack.\n"),
    ],
)
def test_detects_a_url_that_is_not_the_api(
    run: Run, api: Api, status: int, body: str, hint: str
) -> None:
    api.respond = lambda *_: (status, body)

    result = run("--url", api.url)

    assert (1, "") == (result.returncode, result.stderr)
    assert 7 == api.requests  # none was sent elsewhere
    assert 9 == outcomes(result).count("FAILED")  # that nothing was deleted yet is true
    assert ("Check the URL" in result.stdout) == bool(hint)
    assert hint in result.stdout
    assert_nothing_is_left()


def test_fails_if_the_artifacts_bucket_does_not_exist(run: Run, api: Api) -> None:
    result = run("--url", api.url, bucket="no-such-bucket")

    assert (1, ["ok"] * 10 + ["FAILED"]) == (result.returncode, outcomes(result)), result
    assert "got There is no bucket 'no-such-bucket' in S3.\n" in result.stdout


def test_passes_if_who_tests_has_no_access_to_the_artifacts_bucket(
    run: Run, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    with http_server(deny) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)

        result = run("--url", api.url, bucket="my-weights")

    assert (0, ["ok"] * 11) == (result.returncode, outcomes(result)), result
    assert f"\n{BUCKET_DENIED.format('my-weights')}\n" in result.stdout


KEY = "arn:aws:kms:us-east-1:123456789012:key/1"
UNSUPPORTED = {"MultiRegionConsistency": "STRONG", "SSEDescription": {"KMSMasterKeyArn": KEY}}
HINTS = (
    "The table CheckpointsTable is a global table with strong consistency between regions. Such a "
    "table has no transactions, which ApiFunction needs.\n"
    f"The table CheckpointsTable is encrypted with {KEY}. If this is a customer managed key, the "
    "role of ApiFunction needs kms:Decrypt on it.\n"
)


@pytest.mark.parametrize(
    ("table", "hints"),
    [({}, ""), (None, ""), (UNSUPPORTED, HINTS)],
    ids=["plain", "not allowed", "strong and encrypted"],
)
def test_names_what_the_function_cannot_do_with_a_table(
    run: Run, api: Api, endpoint: Endpoint, table: dict[str, Any] | None, hints: str
) -> None:
    def describe(request: dict[str, Any], apply: Apply) -> Reply:
        if table is None:
            return reject(400, "AccessDeniedException")(request, apply)
        response = json.loads(apply().body)
        return Reply(200, json.dumps({"Table": response["Table"] | table}).encode())

    endpoint.keep_failing("DescribeTable", describe)
    endpoint.keep_failing("TransactWriteItems", reject(400, "ValidationException"))

    result = run("--url", api.url)

    assert (1, "") == (result.returncode, result.stderr)
    _, _, after = result.stdout.rpartition("expected 1000,3000\n")
    assert hints == "".join(after.splitlines(keepends=True)[1:-1])


def test_never_prints_the_token(run: Run, api: Api) -> None:
    api.respond = lambda _path, headers, _body: (200, headers.get("Authorization", "none"))

    result = run("--url", api.url)

    assert "got (200, 'Bearer (the token)')" in result.stdout


@pytest.mark.parametrize(
    ("url", "settings", "told"),
    [
        ([], {}, "Connection refused"),
        (["--url", "http://name.invalid"], {}, "no response: "),
        (
            ["--url", "https://192.0.2.1"],
            {"REQUESTS_CA_BUNDLE": "/absent", "HTTPS_PROXY": "socks5://a"},
            "Also check HTTPS_PROXY, REQUESTS_CA_BUNDLE.\n",
        ),
    ],
    ids=["refused", "unknown host", "wrong settings"],
)
def test_stops_if_there_is_no_response_and_names_the_settings_to_check(
    run: Run, url: list[str], settings: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    result = run(*url)

    assert (1, "") == (result.returncode, result.stderr)
    assert ["FAILED"] == outcomes(result)
    assert told in result.stdout
    assert ("Also check" in result.stdout) == bool(settings)
    assert result.stdout.endswith("\n0 checks passed, 1 failed, 9 skipped.\n")
    assert_nothing_is_left()


def test_cleans_up_when_it_is_interrupted(run: Run, api: Api) -> None:
    def interrupt(path: str, headers: dict[str, str], body: str) -> tuple[int, str]:
        if api.requests == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return api.invoke(path, headers, body)

    api.respond = interrupt

    result = run("--url", api.url)

    assert (130, "\nStopped.\n") == (result.returncode, result.stderr)
    assert_nothing_is_left()


@pytest.mark.parametrize("operation", ["PutItem", "BatchWriteItem", "Query"])
def test_says_what_it_may_not_do_and_leaves_nothing(
    run: Run, api: Api, endpoint: Endpoint, operation: str
) -> None:
    endpoint.fail(operation, *[pass_on] * (operation == "BatchWriteItem"))
    endpoint.fail(operation, reject(400, "AccessDeniedException"))

    result = run("--url", api.url)

    assert 1 == result.returncode
    assert "Error: The AWS credentials lack a permission." in result.stderr
    assert_nothing_is_left()


def test_says_what_it_could_not_delete(run: Run, api: Api, endpoint: Endpoint) -> None:
    def refuse_deletes(request: dict[str, Any], apply: Apply) -> Reply:
        refused = "DeleteRequest" in json.dumps(request)
        return reject(400, "AccessDeniedException")(request, apply) if refused else apply()

    endpoint.keep_failing("DeleteItem", reject(400, "AccessDeniedException"))
    endpoint.keep_failing("BatchWriteItem", refuse_deletes)

    result = run("--url", api.url)

    assert 1 == result.returncode
    (model_id,) = stored_checkpoints()
    for left in (f"the token {model_id!r} from TokensTable", f"{model_id!r} from CheckpointsTable"):
        assert f"{left}: The AWS credentials lack a permission." in result.stdout


def test_waits_longer_than_the_api_can_take() -> None:
    function = read_template()["Resources"]["ApiFunction"]["Properties"]

    assert function["Timeout"] < smoke.TIMEOUT_SECONDS[1]
