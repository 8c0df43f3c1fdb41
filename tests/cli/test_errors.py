"""Every command turns an error of AWS or a wrong setting into one sentence and exit code 1."""

import os
from datetime import UTC, datetime
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.stub import Stubber

from cli.errors import EXPIRED_CREDENTIALS, INVALID_CREDENTIALS
from cli.main import app
from cli.runner import report
from commands import Result, run_command
from faulty_dynamodb import Endpoint, reject


@pytest.fixture(autouse=True)
def _new_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the settings again."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)


def failure(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the sentence with which a command fails that calls AWS."""

    def call_aws() -> None:
        config = Config(connect_timeout=1, read_timeout=1, retries={"total_max_attempts": 1})
        boto3.client("dynamodb", config=config).list_tables()

    result = run_command(call_aws, capsys=capsys)
    assert (1, "", 1) == (result.returncode, result.stdout, result.stderr.count("\n"))
    return result.stderr.removeprefix("Error: ").rstrip()


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("AccessDeniedException", "The AWS credentials lack a permission. on command"),
        ("ExpiredTokenException", EXPIRED_CREDENTIALS),
        ("UnrecognizedClientException", INVALID_CREDENTIALS),
    ],
)
def test_says_what_is_wrong_with_the_credentials(
    code: str,
    sentence: str,
    endpoint: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", endpoint.url)
    endpoint.keep_failing("ListTables", reject(400, code))

    assert sentence == failure(capsys)


NOT_VALID = "An AWS setting is not valid:"
KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"AWS_ENDPOINT_URL": "localhost:4566"},
            f"{NOT_VALID} Invalid endpoint: localhost:4566. Check AWS_ENDPOINT_URL.",
        ),
        (
            {"AWS_WEB_IDENTITY_TOKEN_FILE": "/absent", "AWS_ROLE_ARN": "arn:aws:iam::1:role/x"},
            (
                f"{NOT_VALID} [Errno 2] No such file or directory: '/absent'. "
                "Check AWS_WEB_IDENTITY_TOKEN_FILE."
            ),
        ),
        (  # "base 10" in the message is no value of a setting
            {"AWS_MAX_ATTEMPTS": "10", "AWS_METADATA_SERVICE_TIMEOUT": "x"},
            (
                f"{NOT_VALID} invalid literal for int() with base 10: 'x'. "
                "Check AWS_METADATA_SERVICE_TIMEOUT."
            ),
        ),
        (
            {"AWS_ENDPOINT_URL": "http://[::1"},
            (
                f"{NOT_VALID} Invalid IPv6 URL. Check AWS_CONFIG_FILE, AWS_DEFAULT_REGION, "
                "AWS_EC2_METADATA_DISABLED, AWS_ENDPOINT_URL, and the AWS configuration files."
            ),
        ),
        (  # without the password
            KEYS | {"AWS_ENDPOINT_URL": "http://user:s3cret@127.0.0.1:1"},
            (
                'Could not connect to the endpoint URL: "http://127.0.0.1:1/". Check the network, '
                "AWS_DEFAULT_REGION, and AWS_ENDPOINT_URL if set."
            ),
        ),
        (
            {"AWS_DEFAULT_REGION": " "},
            "No AWS region is set. Set AWS_DEFAULT_REGION, or AWS_PROFILE.",
        ),
        (  # as the AWS CLI exports them, with the time when they expire
            KEYS | {"AWS_SESSION_TOKEN": "c", "AWS_CREDENTIAL_EXPIRATION": "2020-01-01T00:00:00Z"},
            EXPIRED_CREDENTIALS,
        ),
        (  # without the credentials
            KEYS | {"AWS_SESSION_TOKEN": "secret\n", "AWS_ENDPOINT_URL": "http://127.0.0.1:1"},
            "The AWS credentials contain a line break or another invalid character.",
        ),
    ],
)
def test_names_the_settings_that_can_be_wrong_and_no_secret(
    settings: dict[str, str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_only(monkeypatch, settings)

    assert sentence == failure(capsys)


def set_only(monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]) -> None:
    """Make these the only AWS settings, besides a region."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    defaults = {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in (defaults | settings).items():
        monkeypatch.setenv(name, value)


def test_does_not_hide_an_error_of_the_command() -> None:
    with pytest.raises(ValueError, match="abc"):
        report(lambda: int("abc"))


def test_credentials_of_aws_login_can_be_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the library awscrt, boto3 says that a dependency is missing."""
    config = tmp_path / "config"
    config.write_text("[profile x]\nlogin_session = arn:aws:iam::123456789012:user/x\n")
    cache = {"AWS_LOGIN_CACHE_DIRECTORY": str(tmp_path)}
    set_only(monkeypatch, cache | {"AWS_CONFIG_FILE": str(config), "AWS_PROFILE": "x"})

    assert (
        "Error loading login session token: Unable to load a existing login session for session "
        "arn:aws:iam::123456789012:user/x. Please reauthenticate with 'aws login'."
    ) == failure(capsys)


def test_finds_the_table_among_the_outputs_of_a_stack(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", endpoint.url)
    cloudformation = boto3.client("cloudformation")
    output = {"OutputKey": "TokensTableName", "OutputValue": os.environ["TOKENS_TABLE"]}
    status = {"CreationTime": datetime.now(UTC), "StackStatus": "CREATE_COMPLETE"}
    stack = status | {"StackName": "deployed", "Outputs": [output]}
    clients = {"cloudformation": cloudformation, "dynamodb": boto3.client("dynamodb")}
    monkeypatch.setattr(boto3, "client", clients.get)
    with Stubber(cloudformation) as stubber:
        stubber.add_response("describe_stacks", {"Stacks": [stack]}, {"StackName": "deployed"})
        listed = run_command(app, "tokens", "list", "--stack", "deployed", capsys=capsys)
        stubber.add_client_error(
            "describe_stacks", "ValidationError", "Stack with id absent does not exist"
        )
        failed = run_command(app, "tokens", "list", capsys=capsys, CHECKPOINTS_STACK="absent")
        stubber.add_response("describe_stacks", {"Stacks": [stack]}, {"StackName": "deployed"})
        other = run_command(app, "smoke", "--stack", "deployed", capsys=capsys)

    assert (0, "ENTITY", "") == (listed.returncode, listed.stdout[:6], listed.stderr)
    told = (
        "Error: There is no stack 'absent' in the region us-east-1. Name another stack, or set "
        "AWS_DEFAULT_REGION or AWS_PROFILE.\n"
    )
    assert Result(1, "", told) == failed
    told = "Error: The stack 'deployed' has no output ApiUrl. Is it a checkpoints stack?\n"
    assert Result(1, "", told) == other
