"""`make deploy` checks its options and the AWS settings before it builds."""

import os
import uuid

import boto3
import pytest

from commands import BUCKET_DENIED, deny, http_server
from scripts import preflight

NO_GENERAL_BUCKET = (
    "It must be the name of a general purpose bucket, not of a directory bucket or an access point."
)


@pytest.fixture(autouse=True)
def _new_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--no-confirm-changeset"],
        ["--parameter-overrides", "Stage=a", "MemorySize=1024", "--no-confirm-changeset"],
        ["--parameter-overrides=ArtifactsBucket=none", "MemorySize=1024"],
        ["--parameter-overrides", "Stage=a  MemorySize=1024"],
        ["--parameter-overrides", "ParameterKey=SnapStart,ParameterValue=true"],
        ["--parameter-overrides", "ReservedConcurrency=-1", "LogRetentionDays=30"],
    ],
)
def test_accepts_valid_settings(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == preflight.main(arguments)
    assert ("", "") == capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "x"], "The AWS profile 'x' is not configured here."),
        (
            ["--parameter-overrides", "SnapStart=true", "ArtifactBucket=a"],
            "There is no parameter 'ArtifactBucket'. Did you mean ArtifactsBucket?",
        ),
        (
            ["--parameter-overrides=SnapStart=true", "X=1"],
            "There is no parameter 'X'.",
        ),
        (
            ["--parameter-overrides", "ParameterKey=X,ParameterValue=1"],
            "There is no parameter 'X'.",
        ),
        (["Stage=x"], "Write the parameter Stage after --parameter-overrides."),
        (
            ["--parameter-overrides", "Stage=a", "--no-confirm-changeset", "MemorySize=512"],
            "Write the parameter MemorySize after --parameter-overrides.",
        ),
        *(
            (
                ["--parameter-overrides", *blank],
                "--parameter-overrides needs parameters, such as ArtifactsBucket=my-weights.",
            )
            for blank in ([" "], ["--no-confirm-changeset"])
        ),
        *(
            (["--parameter-overrides", f"{name}={value}"], f"{name} cannot be {value!r}. {wanted}")
            for name, value, wanted in (
                ("SnapStart", "True", "Use one of true, false."),
                ("MemorySize", "64", "Use a whole number from 256 to 10240."),
                ("MemorySize", "512.5", "Use a whole number from 256 to 10240."),
                ("ReservedConcurrency", "-2", "Use a whole number from -1."),
                ("DynamoDBEndpoint", "none", "It is only for sam local."),
                ("AlarmTopicArn", "alarms", "The ARN of the SNS topic that receives the alarms."),
                *(
                    ("ArtifactsBucket", name, NO_GENERAL_BUCKET)
                    for name in ("weights--usw2-az1--x-s3", "point-1a2b-s3alias", "s3://my-weights")
                ),
            )
        ),
        (
            ["--parameter-overrides", "ArtifactsBucket=my-wieghts"],
            "There is no bucket 'my-wieghts' in S3.",
        ),
        (
            ["--parameter-overrides", "SnapStart=true", "SnapStart=false"],
            "The parameter SnapStart is given twice.",
        ),
        (
            ["--parameter-overrides", "SnapStart=true", "--parameter-overrides", "MemorySize=512"],
            "Give --parameter-overrides once, with all parameters.",
        ),
    ],
)
def test_refuses_wrong_settings(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 1 == preflight.main(arguments)
    assert ("", f"Error: {message}\n") == capsys.readouterr()


@pytest.mark.parametrize(
    "override",
    [
        "ArtifactsBucket=",
        'ArtifactsBucket=""',
        "ParameterKey=ArtifactsBucket,ParameterValue=",
        "ParameterValue=a,ParameterKey=ArtifactsBucket",
        "ParameterKey=SnapStart,ParameterValue=true MemorySize=512",
        "SnapStart=true,Typo=b",
        "SnapStart=true Typo",
        "SnapStart=true\tTypo=x",
        "ExistingCheckpointsTable=None",
        "file://parameters.yaml",
    ],
)
def test_refuses_what_sam_would_misread_and_says_what_to_write(
    override: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 1 == preflight.main(["--parameter-overrides", override])

    expected = (
        f"Error: Could not read the parameter {override!r}. Write Name=Value, without "
        "quotes, such as ArtifactsBucket=my-weights. To turn a feature off, write "
        "ArtifactsBucket=none.\n"
    )
    assert ("", expected) == capsys.readouterr()


def test_needs_a_region_unless_sam_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")

    assert 0 == preflight.main(["--guided"])
    assert 0 == preflight.main(["-g"])
    assert 0 == preflight.main(["--region", "eu-west-1"])
    assert 1 == preflight.main([])
    message = "Error: No AWS region is set. Set AWS_DEFAULT_REGION, or AWS_PROFILE.\n"
    assert ("", message) == capsys.readouterr()


def test_refuses_to_deploy_without_credentials(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)

    message = "Error: No AWS credentials were found. Set AWS_PROFILE, or log in.\n"
    assert 1 == preflight.main([])
    assert ("", message) == capsys.readouterr()


def test_accepts_a_bucket_that_exists(capsys: pytest.CaptureFixture[str]) -> None:
    name = f"artifacts-{uuid.uuid4()}"
    boto3.client("s3").create_bucket(Bucket=name)

    assert 0 == preflight.main(["--parameter-overrides", f"ArtifactsBucket={name}"])
    assert ("", "") == capsys.readouterr()


def test_only_warns_if_the_bucket_cannot_be_seen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who deploys may have no access to the artifacts."""
    with http_server(deny) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)

        assert 0 == preflight.main(["--parameter-overrides", "ArtifactsBucket=my-weights"])

    warning = BUCKET_DENIED.format("my-weights")
    assert ("", f"Warning: {warning}\n") == capsys.readouterr()
