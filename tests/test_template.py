"""What the template guarantees for callers and operators."""

import copy
import json
from functools import cache
from typing import Any

import pytest

from checkpoints import dynamodb, reclaim
from emulators.dynamodb import REGION, read_template
from events import Answer, Call
from template_resolver import (
    Json,
    deployed,
    function_of,
    of_type,
    only,
    outputs_of,
    policy_of,
    refusals,
)

BUCKET = "artifacts"
TOPIC = "arn:aws:sns:us-east-1:123456789012:alarms"

STREAM = (
    "ExistingCheckpointsStreamArn"  # it means something only with a table, and has its own test
)

# A value of each other parameter that is not its default.
OTHERS = {
    "Stage": "test",
    "Architecture": "x86_64",
    "DynamoDBEndpoint": "http://127.0.0.1:8000",
    "ThrottlingRateLimit": "5",
    "ThrottlingBurstLimit": "7",
    "LogRetentionDays": "30",
    "MemorySize": "1024",
    "ReservedConcurrency": "20",
    "SnapStart": "true",
    "CanaryDeployment": "true",
    "AlarmTopicArn": TOPIC,
    "WebAclArn": "arn:aws:wafv2:us-east-1:123456789012:regional/webacl/checkpoints/1",
    "AccessLog": "true",
    "ExistingCheckpointsTable": "platform-checkpoints",
    "ArtifactsBucket": "platform-artifacts",
}


@pytest.fixture(scope="module")
def stack() -> Json:
    """Deploy with all defaults."""
    return deployed()


@pytest.fixture(scope="module")
def freeing_stack() -> Json:
    """Deploy with a bucket whose artifacts are deleted, and the defaults for the rest."""
    return deployed(ArtifactsBucket=BUCKET)


@cache
def deployed_with(parameter: str, **parameters: str) -> Json:
    """Deploy with another value of one parameter."""
    return deployed(**parameters | {parameter: OTHERS[parameter]})


def version_of(stack: Json, function: str = "ApiFunction") -> Json:
    """Return the one version; CloudFormation publishes another if any of this changes."""
    versions = of_type(stack, "AWS::Lambda::Version")
    return {name: each for name, each in versions.items() if each["FunctionName"] == function}


def is_retained(resource: Json) -> bool:
    policy = resource["DeletionPolicy"]
    return (
        policy in ("Retain", "RetainExceptOnCreate") and resource["UpdateReplacePolicy"] == "Retain"
    )


# Parameters


@pytest.mark.parametrize("parameter", sorted(set(read_template()["Parameters"]) - {STREAM}))
def test_each_parameter_is_optional_and_has_an_effect(stack: Json, parameter: str) -> None:
    value = OTHERS[parameter]
    other = deployed_with(parameter)

    changed = [resource for name, resource in other.items() if resource != stack.get(name)]
    assert changed or set(other) < set(stack)
    assert value in ("true", "false") or value in json.dumps(changed)


def test_without_an_endpoint_the_function_uses_dynamodb_in_the_cloud(
    stack: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_DYNAMODB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    for name, value in function_of(stack)["Environment"]["Variables"].items():
        if "ENDPOINT" in name:
            monkeypatch.setenv(name, value)

    assert "https://dynamodb.eu-central-1.amazonaws.com" == dynamodb.connect().meta.endpoint_url


def test_deploying_needs_no_permission_to_name_roles(stack: Json) -> None:
    for resources in (stack, deployed(**OTHERS)):
        for role in of_type(resources, "AWS::IAM::Role").values():
            assert "RoleName" not in role


# The function


def test_the_function_may_do_exactly_what_it_does(stack: Json) -> None:
    log_group = function_of(stack)["LoggingConfig"]["LogGroup"]

    assert {
        ("TokensTable.Arn", "dynamodb:GetItem"),
        ("CheckpointsTable.Arn", "dynamodb:Query"),
        ("CheckpointsTable.Arn", "dynamodb:BatchGetItem"),
        ("CheckpointsTable.Arn", "dynamodb:DeleteItem"),
        (f"{log_group}.Arn", "logs:CreateLogStream"),
        (f"{log_group}.Arn", "logs:PutLogEvents"),
        ("*", "xray:PutTraceSegments"),
        ("*", "xray:PutTelemetryRecords"),
    } == {
        (statement["Resource"], action)
        for statement in policy_of(stack)
        for action in statement["Action"]
    }


@pytest.mark.parametrize("canary", ["false", "true"])
def test_requests_go_to_the_version_that_was_published_last(canary: str) -> None:
    stack = deployed(CanaryDeployment=canary)
    (version,) = version_of(stack)
    ((alias, live),) = of_type(stack, "AWS::Lambda::Alias").items()

    assert f"{version}.Version" == live["FunctionVersion"]
    assert f"functions/{alias}/invocations" in json.dumps(stack["Api"])
    permissions = of_type(stack, "AWS::Lambda::Permission").values()
    assert [alias] * 2 == [permission["FunctionName"] for permission in permissions]


@pytest.mark.parametrize("function", ["ApiFunction", "ReclaimFunction"])
@pytest.mark.parametrize("parameter", OTHERS)
def test_a_parameter_that_changes_a_function_publishes_a_version_of_it(
    freeing_stack: Json, parameter: str, function: str
) -> None:
    stacks = [freeing_stack, deployed_with(parameter, ArtifactsBucket=BUCKET)]
    # Concurrency is a matter of the function, not of a version.
    versioned, versioned_other = (
        {k: v for k, v in function_of(s, function).items() if k != "ReservedConcurrentExecutions"}
        for s in stacks
    )
    version, other_version = (version_of(s, function) for s in stacks)

    assert (versioned == versioned_other) == (version == other_version)


def test_a_change_to_the_template_publishes_a_version(stack: Json) -> None:
    template = copy.deepcopy(read_template())
    template["Resources"]["ApiFunction"]["Properties"]["Timeout"] = 28

    assert set(version_of(stack)) != set(version_of(deployed(template)))


def test_a_canary_is_optional_and_rolled_back_on_errors(stack: Json) -> None:
    assert {} == of_type(stack, "AWS::CodeDeploy::DeploymentGroup")

    group = only(deployed(CanaryDeployment="true"), "AWS::CodeDeploy::DeploymentGroup")

    assert "DEPLOYMENT_STOP_ON_ALARM" in group["AutoRollbackConfiguration"]["Events"]
    watched = {alarm["Name"] for alarm in group["AlarmConfiguration"]["Alarms"]}
    assert {"RequestsFailed", "Errors"} == {
        stack[name]["Properties"]["MetricName"] for name in watched
    }


# Freeing storage


def test_without_a_bucket_nothing_is_deployed_that_could_delete_artifacts(
    stack: Json, freeing_stack: Json
) -> None:
    added = {name for name in freeing_stack if name not in stack}

    assert added
    assert all(name.startswith(("Reclaim", "FailedBatchesBucket")) for name in added)
    changed = {name for name in stack if stack[name] != freeing_stack[name]}
    assert {"Dashboard"} == changed  # the API's function and its role stay as they are


def test_the_function_that_frees_storage_may_do_exactly_what_it_does(freeing_stack: Json) -> None:
    table = f"arn:aws:dynamodb:{REGION}:123456789012:table/CheckpointsTable"

    assert {
        (f"{table}/stream/*", "dynamodb:DescribeStream"),
        (f"{table}/stream/*", "dynamodb:GetRecords"),
        (f"{table}/stream/*", "dynamodb:GetShardIterator"),
        (f"{table}/stream/*", "dynamodb:ListStreams"),
        ("CheckpointsTable.Arn", "dynamodb:GetItem"),
        (f"arn:aws:s3:::{BUCKET}", "s3:ListBucket"),
        (f"arn:aws:s3:::{BUCKET}/*", "s3:DeleteObject"),
        (f"arn:aws:s3:::{BUCKET}/*", "s3:GetObject"),
        ("FailedBatchesBucket.Arn", "s3:ListBucket"),
        ("FailedBatchesBucket.Arn/*", "s3:PutObject"),
        ("ReclaimFunctionLogGroup.Arn", "logs:CreateLogStream"),
        ("ReclaimFunctionLogGroup.Arn", "logs:PutLogEvents"),
        ("*", "xray:PutTraceSegments"),
        ("*", "xray:PutTelemetryRecords"),
    } == {
        (statement["Resource"], action)
        for statement in policy_of(freeing_stack, "ReclaimFunction")
        for action in statement["Action"]
    }


def test_no_removed_record_is_lost(freeing_stack: Json) -> None:
    mapping = only(freeing_stack, "AWS::Lambda::EventSourceMapping")

    assert "CheckpointsTable.StreamArn" == mapping["EventSourceArn"]
    assert "ReclaimFunctionAliaslive" == mapping["FunctionName"]
    assert "TRIM_HORIZON" == mapping["StartingPosition"]
    assert ["ReportBatchItemFailures"] == mapping["FunctionResponseTypes"]
    assert "MaximumRetryAttempts" not in mapping  # only its age ends a record
    assert mapping["MaximumRecordAgeInSeconds"] < 24 * 3600  # the stream's own limit
    destination = mapping["DestinationConfig"]["OnFailure"]["Destination"]
    assert "FailedBatchesBucket.Arn" == destination


def test_the_function_that_frees_storage_has_time_to_do_so(freeing_stack: Json) -> None:
    milliseconds = function_of(freeing_stack, "ReclaimFunction")["Timeout"] * 1000

    assert milliseconds > 3 * reclaim.MIN_REMAINING_MS


def test_failed_batches_are_private_encrypted_and_expire(freeing_stack: Json) -> None:
    bucket = freeing_stack["FailedBatchesBucket"]
    properties = bucket["Properties"]

    assert is_retained(bucket)
    assert [True] * 4 == list(properties["PublicAccessBlockConfiguration"].values())
    (rule,) = properties["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert {"SSEAlgorithm": "AES256"} == rule["ServerSideEncryptionByDefault"]
    (rule,) = properties["LifecycleConfiguration"]["Rules"]
    assert ("Enabled", 90) == (rule["Status"], rule["ExpirationInDays"])


def test_frees_the_storage_of_a_table_that_exists_already() -> None:
    table, stream = OTHERS["ExistingCheckpointsTable"], "arn:aws:dynamodb:::table/x/stream/1"
    resources = deployed(ArtifactsBucket=BUCKET, ExistingCheckpointsTable=table, **{STREAM: stream})

    assert stream == only(resources, "AWS::Lambda::EventSourceMapping")["EventSourceArn"]
    variables = function_of(resources, "ReclaimFunction")["Environment"]["Variables"]
    assert {"ARTIFACTS_BUCKET": BUCKET, "CHECKPOINTS_TABLE": table}.items() <= variables.items()
    arn = f"arn:aws:dynamodb:{REGION}:123456789012:table/{table}"
    assert {arn, f"{arn}/stream/*"} == {
        statement["Resource"]
        for statement in policy_of(resources, "ReclaimFunction")
        if "dynamodb" in statement["Action"][0]
    }


def test_freeing_storage_needs_the_stream_of_a_table_that_exists_already() -> None:
    table = {"ExistingCheckpointsTable": OTHERS["ExistingCheckpointsTable"]}
    stream = {STREAM: "arn:aws:dynamodb:::table/x/stream/1"}

    assert [] == refusals(ArtifactsBucket=BUCKET)
    assert [] == refusals(**table)
    assert [] == refusals(ArtifactsBucket=BUCKET, **table, **stream)
    (refusal,) = refusals(ArtifactsBucket=BUCKET, **table)
    assert STREAM in refusal


# What is kept


def test_data_and_the_record_of_who_deleted_what_outlive_the_stack(freeing_stack: Json) -> None:
    log_group = function_of(freeing_stack)["LoggingConfig"]["LogGroup"]

    for name in ("CheckpointsTable", "TokensTable", log_group, "ReclaimFunctionLogGroup"):
        assert is_retained(freeing_stack[name]), name


def test_checkpoints_are_hard_to_lose(stack: Json) -> None:
    table = stack["CheckpointsTable"]["Properties"]

    assert table["DeletionProtectionEnabled"] is True
    assert table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] is True


def test_expired_tokens_are_removed(stack: Json) -> None:
    expiry = stack["TokensTable"]["Properties"]["TimeToLiveSpecification"]

    assert {"AttributeName": "expires_at", "Enabled": True} == expiry


def test_the_access_log_is_off_and_never_holds_what_the_caller_wrote(stack: Json) -> None:
    assert "AccessLogSetting" not in only(stack, "AWS::ApiGateway::Stage")
    stage = only(deployed(AccessLog="true"), "AWS::ApiGateway::Stage")
    log_format = stage["AccessLogSetting"]["Format"]

    assert "\n" not in log_format
    harmless = {
        *("requestId", "extendedRequestId", "xrayTraceId", "requestTime", "identity.sourceIp"),
        *("resourcePath", "status", "error.responseType", "integration.status", "waf.status"),
        *("responseLength", "responseLatency", "integration.latency"),
    }
    for value in json.loads(log_format).values():
        assert value.removeprefix("$context.") in harmless


def test_a_deployment_changes_nothing_outside_its_stack(stack: Json) -> None:
    for resources in (stack, deployed(**OTHERS)):
        assert "AWS::ApiGateway::Account" not in {r["Type"] for r in resources.values()}


def test_a_first_deployment_that_fails_leaves_nothing_but_the_protected_table(stack: Json) -> None:
    versions = version_of(stack)  # they go with their function
    kept = {n for n, r in stack.items() if r.get("DeletionPolicy") == "Retain"} - set(versions)

    assert {"CheckpointsTable"} == kept
    assert stack["CheckpointsTable"]["Properties"]["DeletionProtectionEnabled"] is True


# A table that exists already


def test_uses_a_table_that_exists_already() -> None:
    name = OTHERS["ExistingCheckpointsTable"]
    resources = deployed(ExistingCheckpointsTable=name)

    assert {"TokensTable"} == set(of_type(resources, "AWS::DynamoDB::Table"))
    assert "CheckpointsTable" not in function_of(resources)["Environment"]["Variables"].values()
    assert name == function_of(resources)["Environment"]["Variables"]["CHECKPOINTS_TABLE"]
    arn = f"arn:aws:dynamodb:{REGION}:123456789012:table/{name}"
    assert {"TokensTable.Arn", arn} == {
        statement["Resource"]
        for statement in policy_of(resources)
        if "dynamodb" in statement["Action"][0]
    }
    assert "CheckpointsTable" not in json.dumps(only(resources, "AWS::CloudWatch::Dashboard"))


def test_outputs_name_the_table_and_its_stream_of_what_was_deleted(stack: Json) -> None:
    def of_the_table(**parameters: str) -> list[str | None]:
        outputs = outputs_of(**parameters)
        return [outputs.get(key) for key in ("CheckpointsTableName", "CheckpointsStreamArn")]

    table, stream = OTHERS["ExistingCheckpointsTable"], "arn:aws:dynamodb:::table/x/stream/1"

    view = stack["CheckpointsTable"]["Properties"]["StreamSpecification"]["StreamViewType"]
    assert "OLD_IMAGE" == view
    assert ["CheckpointsTable", "CheckpointsTable.StreamArn"] == of_the_table()
    assert [table, None] == of_the_table(ExistingCheckpointsTable=table)
    assert [table, stream] == of_the_table(ExistingCheckpointsTable=table, **{STREAM: stream})


# What the gateway answers by itself


def test_the_gateway_answers_in_the_shape_of_the_function(stack: Json, call: Call) -> None:
    responses = stack["Api"]["Properties"]["Body"]["x-amazon-apigateway-gateway-responses"]

    def answer(name: str) -> tuple[int, Any]:
        (body,) = responses[name]["responseTemplates"].values()
        return int(responses[name]["statusCode"]), json.loads(body)

    not_found: Answer = call(path="/")
    for name in ("MISSING_AUTHENTICATION_TOKEN", "RESOURCE_NOT_FOUND"):
        assert (not_found.status, not_found.body) == answer(name)
    assert (413, {"detail": "The request is too large. Send fewer steps."}) == answer(
        "REQUEST_TOO_LARGE"
    )
    for name in ("THROTTLED", "QUOTA_EXCEEDED"):
        assert (429, {"detail": "Too Many Requests"}) == answer(name)
    for name in ("THROTTLED", "QUOTA_EXCEEDED", "INTEGRATION_TIMEOUT"):
        headers = {"gatewayresponse.header.Retry-After": "'2'"}
        assert headers == responses[name]["responseParameters"]
    for name, response in responses.items():
        assert '{"detail": ' in response["responseTemplates"]["application/json"], name
    assert {"DEFAULT_4XX", "DEFAULT_5XX"} <= set(responses)
