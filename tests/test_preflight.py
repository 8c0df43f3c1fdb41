"""`make deploy` checks its options and the AWS settings before it builds."""

import os

import boto3
import pytest

from scripts import preflight


@pytest.fixture(autouse=True)
def _new_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)


@pytest.mark.parametrize(
    "arguments",
    [
        "--no-confirm-changeset",
        "--parameter-overrides ArtifactsBucket=a MemorySize=1024 --no-confirm-changeset",
        "--parameter-overrides ParameterKey=SnapStart,ParameterValue=true",
    ],
)
def test_accepts_valid_settings(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == preflight.main(arguments.split())
    assert ("", "") == capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "No AWS region is set. Set AWS_DEFAULT_REGION, or AWS_PROFILE."),
        ("--profile x", "The AWS profile 'x' is not configured here."),
        (
            "--parameter-overrides SnapStart=true ArtifactBucket=a",
            "There is no parameter 'ArtifactBucket'. Did you mean ArtifactsBucket?",
        ),
        ("--parameter-overrides ParameterKey=X,ParameterValue=1", "There is no parameter 'X'."),
    ],
)
def test_refuses_wrong_settings(
    arguments: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")

    assert 1 == preflight.main(arguments.split())
    assert ("", f"make deploy: {message}\n") == capsys.readouterr()


def test_lets_sam_ask_for_the_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")

    assert 0 == preflight.main(["--guided"])
    assert 0 == preflight.main(["--region", "eu-west-1"])


def test_refuses_to_deploy_without_credentials(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)

    message = "make deploy: No AWS credentials were found. Set AWS_PROFILE, or log in.\n"
    assert 1 == preflight.main([])
    assert ("", message) == capsys.readouterr()
