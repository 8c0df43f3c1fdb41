"""The template deploys what the function, its callers and its operators rely on."""

import json
from typing import Any

import pytest
from embedded import read_template
from function import Answer, Call

Json = dict[str, Any]


@pytest.fixture(scope="module")
def resources() -> Json:
    template: Json = read_template()["Resources"]
    return template


def test_the_function_is_set_up_as_it_is_written(resources: Json) -> None:
    function = resources["DeleteCheckpointsFunction"]["Properties"]

    assert "checkpoints.app.lambda_handler" == function["Handler"]
    assert ("python3.13", [{"Ref": "Architecture"}], 512, 29) == tuple(
        function[key] for key in ("Runtime", "Architectures", "MemorySize", "Timeout")
    )
    assert {
        "CHECKPOINTS_TABLE": {"Ref": "CheckpointsTable"},
        "TOKENS_TABLE": {"Ref": "TokensTable"},
        "AWS_ENDPOINT_URL_DYNAMODB": {
            "Fn::If": ["HasDynamoDBEndpoint", {"Ref": "DynamoDBEndpoint"}, {"Ref": "AWS::NoValue"}]
        },
    } == function["Environment"]["Variables"]
    assert "JSON" == function["LoggingConfig"]["LogFormat"]


def test_the_one_route_leads_to_the_function(resources: Json) -> None:
    (event,) = resources["DeleteCheckpointsFunction"]["Properties"]["Events"].values()

    assert {
        "RestApiId": {"Ref": "Api"},
        "Method": "DELETE",
        "Path": "/v1/preview/models/{model_id}/checkpoints",
    } == event["Properties"]


def test_the_function_may_do_exactly_what_it_does(resources: Json) -> None:
    (policy,) = resources["DeleteCheckpointsRole"]["Properties"]["Policies"]

    def arn(resource: str) -> Json:
        return {"Fn::GetAtt": f"{resource}.Arn"}

    assert [
        ("Allow", ["dynamodb:GetItem"], arn("TokensTable")),
        ("Allow", ["dynamodb:Query", "dynamodb:DeleteItem"], arn("CheckpointsTable")),
        (
            "Allow",
            ["logs:CreateLogStream", "logs:PutLogEvents"],
            arn("DeleteCheckpointsLogGroup"),
        ),
    ] == [
        (statement["Effect"], statement["Action"], statement["Resource"])
        for statement in policy["PolicyDocument"]["Statement"]
    ]
    assert "ManagedPolicyArns" not in resources["DeleteCheckpointsRole"]["Properties"]


def test_checkpoints_are_hard_to_lose(resources: Json) -> None:
    table = resources["CheckpointsTable"]

    assert ("Retain", "Retain") == (table["DeletionPolicy"], table["UpdateReplacePolicy"])
    assert table["Properties"]["DeletionProtectionEnabled"] is True
    assert {"PointInTimeRecoveryEnabled": True} == table["Properties"][
        "PointInTimeRecoverySpecification"
    ]


def test_tokens_are_kept_until_they_expire(resources: Json) -> None:
    table = resources["TokensTable"]

    assert ("Retain", "Retain") == (table["DeletionPolicy"], table["UpdateReplacePolicy"])
    assert {"AttributeName": "expires_at", "Enabled": True} == table["Properties"][
        "TimeToLiveSpecification"
    ]


@pytest.mark.parametrize("name", ["CheckpointsTable", "TokensTable"])
def test_both_tables_are_encrypted_and_paid_by_use(resources: Json, name: str) -> None:
    table = resources[name]["Properties"]

    assert "PAY_PER_REQUEST" == table["BillingMode"]
    assert {"SSEEnabled": True} == table["SSESpecification"]


def test_the_gateway_answers_in_the_shape_of_the_function(resources: Json, call: Call) -> None:
    responses = resources["Api"]["Properties"]["GatewayResponses"]

    def answer(name: str) -> tuple[int, Json]:
        (body,) = responses[name]["ResponseTemplates"].values()
        return responses[name]["StatusCode"], json.loads(body)

    not_found: Answer = call(path="/")
    for name in ("MISSING_AUTHENTICATION_TOKEN", "RESOURCE_NOT_FOUND"):
        assert (not_found.status, not_found.body) == answer(name)
    assert (413, {"detail": "Request Too Large"}) == answer("REQUEST_TOO_LARGE")
    for name in ("THROTTLED", "QUOTA_EXCEEDED"):
        assert (429, {"detail": "Too Many Requests"}) == answer(name)
        assert {"Retry-After": "'2'"} == responses[name]["ResponseParameters"]["Headers"]
    for name, response in responses.items():
        (content_type,) = response["ResponseTemplates"]
        assert ("application/json", True) == (content_type, "detail" in str(response)), name
    assert {"DEFAULT_4XX", "DEFAULT_5XX"} <= set(responses)


def test_the_throttling_limits_are_parameters(resources: Json) -> None:
    (settings,) = resources["Api"]["Properties"]["MethodSettings"]

    assert ({"Ref": "ThrottlingRateLimit"}, {"Ref": "ThrottlingBurstLimit"}) == (
        settings["ThrottlingRateLimit"],
        settings["ThrottlingBurstLimit"],
    )


def test_the_log_is_kept_for_as_long_as_was_said(resources: Json) -> None:
    assert {"Ref": "LogRetentionDays"} == resources["DeleteCheckpointsLogGroup"]["Properties"][
        "RetentionInDays"
    ]


def test_names_its_outputs() -> None:
    assert {"ApiUrl", "CheckpointsTableName", "TokensTableName"} == set(read_template()["Outputs"])
