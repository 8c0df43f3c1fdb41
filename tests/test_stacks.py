"""`make deploy` checks the AWS settings before it builds."""

import runpy

import boto3
import pytest

from emulators.aws import ROOT


def check(capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """Run the check; return its exit code and what it prints."""
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / "stacks.py"), run_name="__main__")
    printed = capsys.readouterr()
    return ended.value.code, printed.out + printed.err


@pytest.fixture(autouse=True)
def _new_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)


def test_accepts_valid_credentials(capsys: pytest.CaptureFixture[str]) -> None:
    assert (0, "") == check(capsys)


def test_refuses_to_deploy_without_a_region(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")

    message = "make deploy: No AWS region is set. Set AWS_DEFAULT_REGION, or AWS_PROFILE.\n"
    assert (1, message) == check(capsys)
