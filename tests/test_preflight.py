"""`make deploy` checks its options and the AWS settings before it builds."""

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
