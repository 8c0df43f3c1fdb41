"""A misconfigured function logs the cause, and returns only 500 to the caller."""

import pytest

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
