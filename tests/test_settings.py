"""A misconfigured function logs the cause, and returns only 500 to the caller."""

import pytest

from events import INTERNAL_SERVER_ERROR, make_event
from faulty_dynamodb import Endpoint
from function_process import run_in_a_process


@pytest.mark.parametrize(("name", "value"), [("CHECKPOINTS_TABLE", None), ("TOKENS_TABLE", "")])
def test_a_missing_setting_is_named_in_the_log(
    endpoint: Endpoint, name: str, value: str | None
) -> None:
    outcome = run_in_a_process(
        endpoint,
        [make_event(steps=[1])] * 2,
        **({name: value} if value is not None else {}),
        without=[name],
    )

    assert [INTERNAL_SERVER_ERROR] * 2 == outcome.answers
    assert 2 == outcome.log.count(f'The environment variable {name} is not set"')


def test_a_missing_region_is_named_in_the_log(endpoint: Endpoint) -> None:
    outcome = run_in_a_process(endpoint, [make_event(steps=[1])], without=["AWS_DEFAULT_REGION"])

    assert [INTERNAL_SERVER_ERROR] == outcome.answers
    assert "NoRegionError" in outcome.log


@pytest.mark.parametrize(
    ("environment", "cause"),
    [
        ({"CHECKPOINTS_TABLE": "absent"}, "ResourceNotFoundException"),
        ({"AWS_ENDPOINT_URL_DYNAMODB": "nonsense"}, "Invalid endpoint"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "NoCredentialsError"),
    ],
    ids=["table", "endpoint", "credentials"],
)
def test_anything_else_that_is_wrong_is_named_too(
    endpoint: Endpoint, environment: dict[str, str], cause: str
) -> None:
    outcome = run_in_a_process(
        endpoint, [make_event(steps=[1])], AWS_EC2_METADATA_DISABLED="true", **environment
    )

    (answer,) = outcome.answers
    assert INTERNAL_SERVER_ERROR.body["detail"] == answer.body["detail"]
    assert 500 == answer.status
    assert cause in outcome.log
