"""What the template guarantees for callers and operators."""

import copy
import importlib
import json
import re

import pytest

import template_resolver
from checkpoints import dynamodb
from checkpoints.api.responses import RETRY_LATER
from checkpoints.reclaim import app as reclaim
from cli.template import read_template
from emulators.aws import ROOT
from emulators.dynamodb import REGION
from events import Call
from template_resolver import (
    Json,
    allowed,
    deployed,
    of_type,
    only,
    outputs_of,
    refusals,
)

PARAMETERS = read_template()["Parameters"]
FUNCTIONS = [*of_type(read_template()["Resources"], "AWS::Serverless::Function")]
STREAM = "ExistingCheckpointsStreamArn"  # has an effect only together with a table

# A value that is not the default, for each other parameter.
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
    "AlarmTopicArn": "arn:aws:sns:us-east-1:123456789012:alarms",
    "WebAclArn": "arn:aws:wafv2:us-east-1:123456789012:regional/webacl/checkpoints/1",
    "AccessLog": "true",
    "ExistingCheckpointsTable": "platform-checkpoints",
    "ArtifactsBucket": "platform-artifacts",
    "ExpireCheckpoints": "true",
    "ReclaimDelaySeconds": "60",
}
BUCKET = {"ArtifactsBucket": OTHERS["ArtifactsBucket"]}
TABLE = {"ExistingCheckpointsTable": OTHERS["ExistingCheckpointsTable"]}
TABLES = f"arn:aws:dynamodb:{REGION}:123456789012:table"
TABLE_ARN = f"{TABLES}/{OTHERS['ExistingCheckpointsTable']}"
TABLE_STREAM = TABLE | {STREAM: f"{TABLE_ARN}/stream/1"}
ALL = OTHERS | TABLE_STREAM
OPTIONAL = [name for name, parameter in PARAMETERS.items() if parameter["Default"] == "none"]


def version_of(stack: Json) -> Json:
    """Return the version of the API's function. CloudFormation publishes another if it changes."""
    return of_type(stack, "AWS::Lambda::Version")


# Parameters


@pytest.mark.parametrize("parameter", sorted(set(PARAMETERS) - {STREAM}))
def test_each_parameter_has_an_effect_and_publishes_a_version_if_it_changes_the_function(
    parameter: str,
) -> None:
    value = OTHERS[parameter]
    needed = BUCKET if parameter.startswith("Reclaim") else {}
    stack, other = deployed(**needed), deployed(**needed | {parameter: value})
    # The concurrency is a property of the function, not of a version.
    function, other_function = (
        each["ApiFunction"]["Properties"] | {"ReservedConcurrentExecutions": None}
        for each in (stack, other)
    )

    changed = [resource for name, resource in other.items() if resource != stack.get(name)]
    assert changed or set(other) < set(stack)
    assert value in ("true", "false") or value in json.dumps(changed)
    assert (function == other_function) == (version_of(stack) == version_of(other))


@pytest.mark.parametrize("parameter", OPTIONAL)
def test_none_turns_a_feature_off_and_so_does_the_empty_value_of_older_stacks(
    parameter: str,
) -> None:
    def effects(value: str) -> list[object]:
        chosen = {name: ALL[name] for name in OPTIONAL} | {parameter: value}
        if refused := refusals(**chosen):
            return list(refused)
        return [deployed(**chosen), outputs_of(**chosen)]

    assert effects("none") == effects("") != effects(ALL[parameter])
    assert "none" not in json.dumps(effects("none"))


def test_the_description_of_a_version_has_room_for_the_longest_values() -> None:
    longest = {"Architecture": "x86_64", "MemorySize": "10240", "SnapStart": "false"}
    longest["ExistingCheckpointsTable"] = "t" * 200  # as its pattern allows
    longest["DynamoDBEndpoint"] = "u" * PARAMETERS["DynamoDBEndpoint"]["MaxLength"]

    assert 256 >= len(only(deployed(**longest), "AWS::Lambda::Version")["Description"])


def test_without_an_endpoint_the_function_uses_dynamodb_in_the_cloud(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    variables = deployed()["ApiFunction"]["Properties"]["Environment"]["Variables"]
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", variables["AWS_ENDPOINT_URL_DYNAMODB"])

    assert "https://dynamodb.eu-central-1.amazonaws.com" == dynamodb.connect().meta.endpoint_url


def test_a_deployment_names_no_roles_and_changes_nothing_outside_its_stack() -> None:
    for resources in (deployed(), deployed(**OTHERS)):
        assert {} == of_type(resources, "AWS::ApiGateway::Account")
        for role in of_type(resources, "AWS::IAM::Role").values():
            assert "RoleName" not in role


# The functions


@pytest.mark.parametrize("function", FUNCTIONS)
def test_each_function_has_all_its_parts(function: str) -> None:
    stack = deployed(**BUCKET)
    properties = stack[function]["Properties"]
    module, _, handler = properties["Handler"].rpartition(".")
    logging = properties["LoggingConfig"]

    assert callable(getattr(importlib.import_module(module), handler))
    assert f"subgraph {function}\n" in (ROOT / "README.md").read_text(), "the picture in README.md"
    assert function in (ROOT / "docs" / "operations.md").read_text(), "docs/operations.md"
    assert f"{function}Name" in read_template()["Outputs"], "Outputs in template.yaml"
    assert function in json.dumps(of_type(stack, "AWS::CloudWatch::Alarm")), "an alarm"
    assert 365 == int(stack[logging["LogGroup"]]["Properties"]["RetentionInDays"])
    # Lambda would drop the lines of who deleted what at a higher level.
    assert ("JSON", "INFO") == (logging["LogFormat"], logging["ApplicationLogLevel"])


LOGS = {"logs:CreateLogStream", "logs:PutLogEvents"}


@pytest.mark.parametrize(
    ("parameters", "table", "stream"),
    [
        (BUCKET, "CheckpointsTable.Arn", f"{TABLES}/CheckpointsTable"),
        (BUCKET | TABLE_STREAM, TABLE_ARN, TABLE_ARN),
    ],
)
def test_each_role_allows_exactly_what_its_function_needs(
    parameters: dict[str, str], table: str, stream: str
) -> None:
    stack = deployed(**parameters)

    assert {
        "TokensTable.Arn": {"dynamodb:GetItem"},
        table: {"dynamodb:Query", "dynamodb:BatchGetItem", "dynamodb:DeleteItem"},
        "ApiFunctionLogGroup.Arn": LOGS,
    } == allowed(stack, "ApiFunction")
    assert {
        f"{stream}/stream/*": {
            *("dynamodb:DescribeStream", "dynamodb:GetRecords"),
            *("dynamodb:GetShardIterator", "dynamodb:ListStreams"),
        },
        "ReclaimQueue.Arn": {"sqs:SendMessage"},
        "QueueFunctionLogGroup.Arn": LOGS,
    } == allowed(stack, "QueueFunction")
    assert {
        "ReclaimQueue.Arn": {
            *("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"),
            "sqs:SendMessage",
        },
        table: {"dynamodb:GetItem", "dynamodb:Query"},
        f"arn:aws:s3:::{BUCKET['ArtifactsBucket']}": {"s3:ListBucket"},
        f"arn:aws:s3:::{BUCKET['ArtifactsBucket']}/*": {"s3:DeleteObject", "s3:GetObject"},
        "ReclaimFunctionLogGroup.Arn": LOGS,
    } == allowed(stack, "ReclaimFunction")


@pytest.mark.parametrize("canary", ["false", "true"])
def test_all_requests_reach_the_version_that_was_published_last(canary: str) -> None:
    """For an unknown route, API Gateway would return 403 if the request has a bearer token."""
    stack = deployed(CanaryDeployment=canary)
    (version,) = version_of(stack)
    ((alias, live),) = of_type(stack, "AWS::Lambda::Alias").items()
    permissions = of_type(stack, "AWS::Lambda::Permission").values()
    body = stack["Api"]["Properties"]["Body"]

    assert f"{version}.Version" == live["FunctionVersion"]
    assert f"functions/{alias}/invocations" in json.dumps(body)
    for path in ("/", "/{proxy+}"):
        assert ["x-amazon-apigateway-any-method"] == [*body["paths"][path]]
    assert {alias} == {permission["FunctionName"] for permission in permissions}
    sources = {permission["SourceArn"].partition("/")[2] for permission in permissions}
    assert {"*/*/", "*/*/*"} <= sources


def test_a_change_to_the_template_publishes_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    template = copy.deepcopy(read_template())
    template["Resources"]["ApiFunction"]["Properties"]["Timeout"] = 28
    monkeypatch.setattr(template_resolver, "read_template", lambda: template)
    changed = template_resolver.resolved.__wrapped__()  # not from the cache

    assert set(version_of(deployed())) != set(version_of(changed["Resources"]))


def test_a_function_behind_a_stream_or_a_queue_leaves_no_second_reader() -> None:
    """It has no versions, whose replacement policy SAM would also give to the mapping."""
    stack = deployed(**BUCKET)

    for each in ("AWS::Lambda::Version", "AWS::Lambda::Alias"):
        assert "ApiFunction" == only(stack, each)["FunctionName"]
    for function, event in (("QueueFunction", "RemovedRecords"), ("ReclaimFunction", "Messages")):
        mapping = stack[f"{function}{event}"]
        assert function == mapping["Properties"]["FunctionName"]
        assert "UpdateReplacePolicy" not in mapping


# Freeing storage


def test_without_a_bucket_nothing_is_deployed_that_could_delete_artifacts() -> None:
    stack, freeing = deployed(), deployed(**BUCKET)
    added = {name for name in freeing if name not in stack}

    assert added
    assert all(name.startswith(("Reclaim", "Queue", "DeadLetterQueue")) for name in added)
    changed = {name for name in stack if stack[name] != freeing[name]}
    assert {"Dashboard"} == changed  # the API's function and its role stay as they are


def test_only_a_general_purpose_bucket_can_be_freed() -> None:
    """A delete with an ETag, and the order of a list, are others in directory buckets."""
    good = ["my-weights.eu", "a" * 63, "x-s3", "s3alias", "mrap"]
    bad = ["My-weights", "a" * 64, "weights.mrap", "w--usw2-az1--x-s3", "w--usw2-az1--xa-s3"]
    bad += ["w-123-s3alias", "w-123--ol-s3", "weights--table-s3", "arn:aws:s3:::weights"]
    bad += ["xn--weights", "sthree-a"]
    pattern = PARAMETERS["ArtifactsBucket"]["AllowedPattern"]

    assert good == [name for name in good + bad if re.fullmatch(pattern, name)]


def test_no_deleted_record_is_lost_on_the_way_to_the_queue() -> None:
    """Lambda sends each removal until it is in the queue, or no longer in the stream."""
    mapping = deployed(**BUCKET)["QueueFunctionRemovedRecords"]["Properties"]

    assert {
        "EventSourceArn": "CheckpointsTable.StreamArn",
        "FunctionName": "QueueFunction",
        "StartingPosition": "TRIM_HORIZON",
        "FilterCriteria": {"Filters": [{"Pattern": '{"eventName": ["REMOVE"]}'}]},
        "BatchSize": 100,
        "MetricsConfig": {"Metrics": ["EventCount"]},
    } == {name: value for name, value in mapping.items() if name != "Tags"}


def test_no_message_loses_an_attempt_to_a_neighbour_or_to_throttling() -> None:
    stack = deployed(**BUCKET)
    mapping = stack["ReclaimFunctionMessages"]["Properties"]
    queue, dead_letters = (
        stack[name]["Properties"] for name in ("ReclaimQueue", "DeadLetterQueue")
    )
    function = stack["ReclaimFunction"]["Properties"]
    in_queue, in_stream = (
        stack[f"Reclaim{name}DelayedAlarm"]["Properties"]["Threshold"] for name in ("", "Stream")
    )
    day = 24 * 3_600

    assert ("ReclaimQueue.Arn", 1) == (mapping["EventSourceArn"], mapping["BatchSize"])
    assert {"MaximumConcurrency": 5} == mapping["ScalingConfig"]
    assert "ReservedConcurrentExecutions" not in function
    assert function["Timeout"] * 6 <= queue["VisibilityTimeout"]
    assert function["Timeout"] * 1_000 - reclaim.MIN_REMAINING_MS >= 120_000  # to do the work
    redrive = queue["RedrivePolicy"]
    assert {"deadLetterTargetArn": "DeadLetterQueue.Arn", "maxReceiveCount": 5} == redrive
    # The time to live of a dead letter counts from when it was first sent.
    assert queue["MessageRetentionPeriod"] + 4 * day <= dead_letters["MessageRetentionPeriod"]
    assert "Allow" == function["RecursiveLoop"]  # a large prefix takes many messages
    # The alarms are above what retries explain, and below how long the stream keeps records.
    longest = PARAMETERS["ReclaimDelaySeconds"]["MaxValue"]
    longest += queue["VisibilityTimeout"] * redrive["maxReceiveCount"]
    assert longest < in_queue < day
    assert in_queue * 1_000 == in_stream  # which is in milliseconds


@pytest.mark.parametrize("queue", ["ReclaimQueue", "DeadLetterQueue"])
def test_the_queues_are_encrypted_and_accept_only_tls(queue: str) -> None:
    stack = deployed(**BUCKET)
    policy = stack[f"{queue}Policy"]["Properties"]

    assert stack[queue]["Properties"]["SqsManagedSseEnabled"] is True
    assert [queue] == policy["Queues"]
    assert [
        {
            "Effect": "Deny",
            "Principal": "*",
            "Action": "sqs:*",
            "Resource": f"{queue}.Arn",
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }
    ] == policy["PolicyDocument"]["Statement"]


# What is kept


def test_tables_logs_and_versions_are_kept() -> None:
    """A first deployment that fails leaves only the protected table."""
    stack = deployed(**BUCKET)
    versions, tables, log_groups = (
        set(of_type(stack, f"AWS::{kind}"))
        for kind in ("Lambda::Version", "DynamoDB::Table", "Logs::LogGroup")
    )
    kept = {name: r["DeletionPolicy"] for name, r in stack.items() if "DeletionPolicy" in r}

    assert (
        dict.fromkeys(versions, "Retain")
        | dict.fromkeys(tables | log_groups, "RetainExceptOnCreate")
        | {"CheckpointsTable": "Retain"}
        == kept
    )
    assert {"Retain"} == {stack[name]["UpdateReplacePolicy"] for name in kept}


def test_checkpoints_are_protected_and_expired_tokens_are_removed() -> None:
    table, tokens = (deployed()[name]["Properties"] for name in ("CheckpointsTable", "TokensTable"))

    assert table["DeletionProtectionEnabled"] is True
    assert {"PointInTimeRecoveryEnabled": True} == table["PointInTimeRecoverySpecification"]
    assert {"StreamViewType": "OLD_IMAGE"} == table["StreamSpecification"]
    expiry = {"AttributeName": "expires_at", "Enabled": True}
    assert expiry == tokens["TimeToLiveSpecification"]


@pytest.mark.parametrize(
    ("parameters", "enabled"),
    [
        ({}, "false"),
        ({"ExpireCheckpoints": "false"}, "false"),
        ({"ExpireCheckpoints": "true"}, "true"),
    ],
)
def test_checkpoints_expire_only_if_told_and_can_stop_to_expire(
    parameters: dict[str, str], enabled: str
) -> None:
    """DynamoDB switches time to live off only if the property is there and says so."""
    table = deployed(**parameters)["CheckpointsTable"]["Properties"]

    assert {"AttributeName": "expires_at", "Enabled": enabled} == table["TimeToLiveSpecification"]


@pytest.mark.parametrize("value", ["true", "false"])
@pytest.mark.parametrize("table", ["none", "", "platform-checkpoints"])
def test_the_expiry_of_an_existing_table_is_left_to_its_owner(table: str, value: str) -> None:
    refused = refusals(ExpireCheckpoints=value, ExistingCheckpointsTable=table)

    assert (table == "platform-checkpoints" and value == "true") == bool(refused)
    assert all("ExpireCheckpoints" in refusal for refusal in refused)


def test_the_access_log_is_off_by_default_and_has_no_input_of_the_caller() -> None:
    assert "AccessLogSetting" not in only(deployed(), "AWS::ApiGateway::Stage")
    stage = only(deployed(AccessLog="true"), "AWS::ApiGateway::Stage")
    log_format = stage["AccessLogSetting"]["Format"]

    assert "\n" not in log_format
    harmless = {
        *("requestId", "extendedRequestId", "requestTime", "identity.sourceIp"),
        *("resourcePath", "status", "error.responseType", "integration.status", "waf.status"),
        *("responseLength", "responseLatency", "integration.latency"),
    }
    assert {f"$context.{name}" for name in harmless} >= set(json.loads(log_format).values())


# An existing table, and outputs


def test_uses_an_existing_table() -> None:
    stack = deployed(**BUCKET, **TABLE_STREAM)

    assert {"TokensTable"} == set(of_type(stack, "AWS::DynamoDB::Table"))
    mapping = stack["QueueFunctionRemovedRecords"]["Properties"]
    assert TABLE_STREAM[STREAM] == mapping["EventSourceArn"]
    for function in ("ApiFunction", "ReclaimFunction"):
        variables = stack[function]["Properties"]["Environment"]["Variables"]
        assert TABLE["ExistingCheckpointsTable"] == variables["CHECKPOINTS_TABLE"]
    assert BUCKET["ArtifactsBucket"] == variables["ARTIFACTS_BUCKET"]
    assert "CheckpointsTable" not in json.dumps(only(stack, "AWS::CloudWatch::Dashboard"))
    assert [] == refusals(**BUCKET) == refusals(**TABLE) == refusals(**BUCKET, **TABLE_STREAM)
    (refusal,) = refusals(**BUCKET, **TABLE)
    assert STREAM in refusal


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, ["CheckpointsTable", "CheckpointsTable.StreamArn", None]),
        (TABLE, [*TABLE.values(), None, None]),
        (BUCKET | TABLE_STREAM, [*TABLE_STREAM.values(), *BUCKET.values()]),
    ],
)
def test_the_outputs_name_what_operators_and_commands_need(
    parameters: dict[str, str], expected: list[str | None]
) -> None:
    names = ("CheckpointsTableName", "CheckpointsStreamArn", "ArtifactsBucketName")

    assert expected == [outputs_of(**parameters).get(name) for name in names]


# API Gateway's own responses


def test_the_gateway_responds_in_the_format_of_the_function(call: Call) -> None:
    responses = deployed()["Api"]["Properties"]["Body"]["x-amazon-apigateway-gateway-responses"]
    not_found = call(path="/")

    for name in ("MISSING_AUTHENTICATION_TOKEN", "RESOURCE_NOT_FOUND"):
        body = json.loads(responses[name]["responseTemplates"]["application/json"])
        assert (not_found.status, not_found.body) == (int(responses[name]["statusCode"]), body)
    assert {"DEFAULT_4XX", "DEFAULT_5XX"} <= set(responses)
    for name, response in responses.items():
        assert '{"detail": ' in response["responseTemplates"]["application/json"], name
    (seconds,) = RETRY_LATER.values()
    headers = {"gatewayresponse.header.Retry-After": f"'{seconds}'"}
    worth_a_retry = ("THROTTLED", "QUOTA_EXCEEDED", "INTEGRATION_FAILURE", "INTEGRATION_TIMEOUT")
    assert dict.fromkeys((*worth_a_retry, "DEFAULT_5XX"), headers) == {
        name: response["responseParameters"]
        for name, response in responses.items()
        if response["responseParameters"]
    }, "RETRY_LATER in responses.py, GatewayResponses in template.yaml"
