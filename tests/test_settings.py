"""A misconfigured function logs the cause, and returns only 500 to the caller.

And the settings of the project agree on the version of Python.
"""

import re

import pytest

from emulators.aws import ROOT
from events import INTERNAL_SERVER_ERROR, make_event
from faulty_dynamodb import Endpoint
from function_process import run_in_a_process


@pytest.mark.parametrize(
    ("without", "environment", "cause"),
    [
        ("CHECKPOINTS_TABLE", {}, 'The environment variable CHECKPOINTS_TABLE is not set"'),
        ("", {"TOKENS_TABLE": ""}, 'The environment variable TOKENS_TABLE is not set"'),
        ("AWS_DEFAULT_REGION", {}, "NoRegionError"),
        ("", {"CHECKPOINTS_TABLE": "absent"}, "ResourceNotFoundException"),
        ("", {"AWS_ENDPOINT_URL_DYNAMODB": "nonsense"}, "Invalid endpoint"),
        ("", {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "NoCredentialsError"),
    ],
    ids=["no table", "empty table", "no region", "unknown table", "endpoint", "no credentials"],
)
def test_each_request_returns_500_and_logs_the_wrong_setting(
    endpoint: Endpoint, without: str, environment: dict[str, str], cause: str
) -> None:
    outcome = run_in_a_process(
        endpoint,
        [make_event(steps=[1])] * 2,
        without=[without],
        AWS_EC2_METADATA_DISABLED="true",
        **environment,
    )

    for response in outcome.responses:
        assert 500 == response.status
        assert INTERNAL_SERVER_ERROR.body["detail"] == response.body["detail"]
    lines = [line for line in outcome.log.splitlines() if '"status":500' in line]
    assert [True, True] == [cause in line for line in lines]


PYTHON_PLACES = {
    ".python-version": r"^(.+)$",
    "CONTRIBUTING.md": r"Python (\d+\.\d+)",
    "README.md": r"Python (\d+\.\d+) \(from GitHub",
    "docs/operations.md": r"Python (\d+\.\d+)",
    "pyproject.toml": r'requires-python = ">=(\d+\.\d+),<',
    "src/Makefile": r"^version := (.*)$",
    "tools/pyproject.toml": r'requires-python = ">=(\d+\.\d+),',
}


def test_every_place_names_the_python_of_the_runtime() -> None:
    """Another one passes the other tests, and fails in the cloud: the package is built for it."""
    (runtime,) = re.findall("Runtime: python(.*)", (ROOT / "template.yaml").read_text())

    found = {
        place: set(re.findall(pattern, (ROOT / place).read_text(), re.MULTILINE))
        for place, pattern in PYTHON_PLACES.items()
    }

    differ = {place: names for place, names in found.items() if names != {runtime}}
    assert {} == differ, f"template.yaml has {runtime}. Change {', '.join(differ)}."
