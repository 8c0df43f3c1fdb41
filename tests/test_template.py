"""What the template guarantees for callers and operators."""

import copy
import importlib
import json
import re
from functools import cache

import pytest

import template_resolver
from checkpoints import dynamodb
from checkpoints.api.responses import RETRY_LATER
from checkpoints.reclaim import app as reclaim
from emulators.aws import ROOT
from emulators.dynamodb import REGION
from emulators.template import read_template
from events import Call
from template_resolver import (
    Json,
    allowed,
    deployed,
    function_of,
    of_type,
    only,
    outputs_of,
    refusals,
)

BUCKET = "artifacts"
MAKEFILE = ROOT / "src" / "Makefile"
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
    "ReclaimDelaySeconds": "60",
}
TABLE = {"ExistingCheckpointsTable": OTHERS["ExistingCheckpointsTable"]}
TABLE_ARN = f"arn:aws:dynamodb:{REGION}:123456789012:table/{OTHERS['ExistingCheckpointsTable']}"
TABLE_STREAM = TABLE | {STREAM: f"{TABLE_ARN}/stream/1"}
ALL = OTHERS | TABLE_STREAM
OPTIONAL = [
    name for name, each in read_template()["Parameters"].items() if each["Default"] == "none"
]


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


def version_of(stack: Json) -> Json:
    """Return the version of the API's function. CloudFormation publishes another if it changes."""
    return of_type(stack, "AWS::Lambda::Version")


def is_retained(resource: Json) -> bool:
    is_kept = resource["DeletionPolicy"] in ("Retain", "RetainExceptOnCreate")
    return is_kept and resource["UpdateReplacePolicy"] == "Retain"


# Parameters


@pytest.mark.parametrize("parameter", sorted(set(read_template()["Parameters"]) - {STREAM}))
def test_each_parameter_is_optional_and_has_an_effect(stack: Json, parameter: str) -> None:
    value = OTHERS[parameter]
    needed = {"ArtifactsBucket": BUCKET} if parameter.startswith("Reclaim") else {}
    stack = deployed(**needed) if needed else stack
    other = deployed_with(parameter, **needed)

    changed = [resource for name, resource in other.items() if resource != stack.get(name)]
    assert changed or set(other) < set(stack)
    assert value in ("true", "false") or value in json.dumps(changed)


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


def test_the_longest_values_of_all_parameters_can_be_deployed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    longest = {name: longest_value(each) for name, each in read_template()["Parameters"].items()}
    monkeypatch.setitem(template_resolver.PSEUDO_PARAMETERS, "AWS::StackName", "s" * 128)
    resources = deployed(**longest)

    assert 255 > len(longest["ExistingCheckpointsTable"]) >= 200
    for kind, names in LIMITS.items():
        for properties in of_type(resources, kind).values():
            for name, limit in names.items():
                assert len(properties.get(name, "")) <= limit, (kind, name)


# Limits of AWS in characters, for what depends on parameters.
LIMITS = {
    "AWS::Lambda::Version": {"Description": 256},
    "AWS::ApiGateway::RestApi": {"Name": 1024},
    "AWS::ApiGateway::Stage": {"StageName": 128},
    "AWS::CloudWatch::Alarm": {"AlarmName": 255, "AlarmDescription": 1024},
    "AWS::CloudWatch::Dashboard": {"DashboardName": 255},
    "AWS::Logs::QueryDefinition": {"Name": 255},
}


def longest_value(parameter: Json) -> str:
    """Return a value of a parameter with the maximum length."""
    if "AllowedValues" in parameter:
        return max(map(str, parameter["AllowedValues"]), key=len)
    if parameter["Type"] == "Number":
        return str(parameter.get("MaxValue", 10**6))
    pattern = parameter.get("AllowedPattern", "")
    (length,) = re.findall(r"\{\d+,(\d+)\}", pattern) or [parameter.get("MaxLength", 2_000)]
    value = ("arn:" if "arn:" in pattern else "") + "a" * int(length)
    assert re.fullmatch(pattern or ".*", value)
    return value


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


def test_a_deployment_names_no_roles_and_changes_nothing_outside_its_stack(stack: Json) -> None:
    for resources in (stack, deployed(**OTHERS)):
        assert {} == of_type(resources, "AWS::ApiGateway::Account")
        for role in of_type(resources, "AWS::IAM::Role").values():
            assert "RoleName" not in role


# The function


def test_the_role_of_the_api_allows_exactly_what_it_needs(stack: Json) -> None:
    log_group = function_of(stack)["LoggingConfig"]["LogGroup"]

    assert {
        "TokensTable.Arn": {"dynamodb:GetItem"},
        "CheckpointsTable.Arn": {"dynamodb:Query", "dynamodb:BatchGetItem", "dynamodb:DeleteItem"},
        f"{log_group}.Arn": {"logs:CreateLogStream", "logs:PutLogEvents"},
    } == allowed(stack)


def test_lambda_keeps_the_lines_of_who_deleted_what(freeing_stack: Json) -> None:
    for function in FUNCTIONS:
        logging = function_of(freeing_stack, function)["LoggingConfig"]
        assert ("JSON", "INFO") == (logging["LogFormat"], logging["ApplicationLogLevel"])


@pytest.mark.parametrize("canary", ["false", "true"])
def test_requests_go_to_the_version_that_was_published_last(canary: str) -> None:
    stack = deployed(CanaryDeployment=canary)
    (version,) = version_of(stack)
    ((alias, live),) = of_type(stack, "AWS::Lambda::Alias").items()

    assert f"{version}.Version" == live["FunctionVersion"]
    assert f"functions/{alias}/invocations" in json.dumps(stack["Api"])
    permissions = of_type(stack, "AWS::Lambda::Permission").values()
    assert {alias} == {permission["FunctionName"] for permission in permissions}


def test_all_requests_reach_the_function(stack: Json) -> None:
    """For an unknown route, API Gateway would return 403 if the request has a bearer token."""
    body = stack["Api"]["Properties"]["Body"]

    for path in ("/", "/{proxy+}"):
        assert ["x-amazon-apigateway-any-method"] == [*body["paths"][path]]
    allowed_calls = {
        permission["SourceArn"].partition("/")[2]
        for permission in of_type(stack, "AWS::Lambda::Permission").values()
    }
    assert {"*/*/", "*/*/*"} <= allowed_calls


@pytest.mark.parametrize("function", FUNCTIONS)
def test_each_function_has_all_its_parts(freeing_stack: Json, function: str) -> None:
    properties = function_of(freeing_stack, function)
    module, _, handler = properties["Handler"].rpartition(".")
    log_group = freeing_stack[properties["LoggingConfig"]["LogGroup"]]
    (targets,) = re.findall(r"^((?:build-\w+ ?)+):", MAKEFILE.read_text(), re.MULTILINE)

    assert callable(getattr(importlib.import_module(module), handler))
    assert f"build-{function}" in targets.split(), "add the target to src/Makefile"
    assert f"subgraph {function}\n" in (ROOT / "README.md").read_text(), "the picture in README.md"
    assert function in (ROOT / "docs" / "operations.md").read_text(), "docs/operations.md"
    assert f"{function}Name" in read_template()["Outputs"], "Outputs in template.yaml"
    assert function in json.dumps(of_type(freeing_stack, "AWS::CloudWatch::Alarm")), "an alarm"
    assert ("RetainExceptOnCreate", "365") == (
        log_group["DeletionPolicy"],
        str(log_group["Properties"]["RetentionInDays"]),
    )


@pytest.mark.parametrize("parameter", OTHERS)
def test_a_parameter_that_changes_the_function_publishes_a_version(
    stack: Json, parameter: str
) -> None:
    stacks = [stack, deployed_with(parameter)]
    # The concurrency is a property of the function, not of a version.
    versioned, versioned_other = (
        {k: v for k, v in function_of(s).items() if k != "ReservedConcurrentExecutions"}
        for s in stacks
    )
    version, other_version = (version_of(s) for s in stacks)

    assert (versioned == versioned_other) == (version == other_version)


def test_a_deployment_keeps_the_version_to_roll_back_to(freeing_stack: Json) -> None:
    """CloudFormation replaces a version if its description changes, or if SAM renames it."""
    (version,) = version_of(freeing_stack)

    assert is_retained(freeing_stack[version])


def test_a_function_behind_a_stream_or_a_queue_leaves_no_second_reader(freeing_stack: Json) -> None:
    """It has no versions, whose replacement policy SAM would also give to the mapping."""
    for each in ("AWS::Lambda::Version", "AWS::Lambda::Alias"):
        assert "ApiFunction" == only(freeing_stack, each)["FunctionName"]
    for function, event in (("QueueFunction", "RemovedRecords"), ("ReclaimFunction", "Messages")):
        mapping = freeing_stack[f"{function}{event}"]
        assert function == mapping["Properties"]["FunctionName"]
        assert "UpdateReplacePolicy" not in mapping
        assert "SnapStart" not in function_of(freeing_stack, function)


def test_a_change_to_the_template_publishes_a_version(stack: Json) -> None:
    template = copy.deepcopy(read_template())
    template["Resources"]["ApiFunction"]["Properties"]["Timeout"] = 28

    assert set(version_of(stack)) != set(version_of(deployed(template)))


# Freeing storage


def test_without_a_bucket_nothing_is_deployed_that_could_delete_artifacts(
    stack: Json, freeing_stack: Json
) -> None:
    added = {name for name in freeing_stack if name not in stack}

    assert added
    assert all(name.startswith(("Reclaim", "Queue", "DeadLetterQueue")) for name in added)
    changed = {name for name in stack if stack[name] != freeing_stack[name]}
    assert {"Dashboard"} == changed  # the API's function and its role stay as they are


@pytest.mark.parametrize(
    ("bucket", "is_allowed"),
    [
        *((name, True) for name in ("abc", "my-weights.eu", "a" * 63, "x-s3", "s3alias", "mrap")),
        *(
            (name, False)
            for name in ("ab", "My-weights", "a_b", "a" * 64, "xn--weights", "sthree-a")
        ),
        *((f"weights{end}", False) for end in ("--usw2-az1--x-s3", "--usw2-az1--xa-s3", ".mrap")),
        *((f"weights{end}", False) for end in ("-123-s3alias", "-123--ol-s3", "--table-s3")),
        ("arn:aws:s3:us-east-1:123456789012:accesspoint/weights", False),
    ],
)
def test_only_a_general_purpose_bucket_can_be_freed(bucket: str, is_allowed: bool) -> None:
    """A delete with an ETag, and the order of a list, are others in directory buckets."""
    pattern = read_template()["Parameters"]["ArtifactsBucket"]["AllowedPattern"]

    assert is_allowed == bool(re.fullmatch(pattern, bucket))


def test_the_roles_that_free_storage_allow_exactly_what_they_need(freeing_stack: Json) -> None:
    logs = {"logs:CreateLogStream", "logs:PutLogEvents"}

    assert {
        f"arn:aws:dynamodb:{REGION}:123456789012:table/CheckpointsTable/stream/*": {
            *("dynamodb:DescribeStream", "dynamodb:GetRecords"),
            *("dynamodb:GetShardIterator", "dynamodb:ListStreams"),
        },
        "ReclaimQueue.Arn": {"sqs:SendMessage"},
        "QueueFunctionLogGroup.Arn": logs,
    } == allowed(freeing_stack, "QueueFunction")
    assert {
        "ReclaimQueue.Arn": {
            *("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"),
            "sqs:SendMessage",
        },
        "CheckpointsTable.Arn": {"dynamodb:GetItem", "dynamodb:Query"},
        f"arn:aws:s3:::{BUCKET}": {"s3:ListBucket"},
        f"arn:aws:s3:::{BUCKET}/*": {"s3:DeleteObject", "s3:GetObject"},
        "ReclaimFunctionLogGroup.Arn": logs,
    } == allowed(freeing_stack, "ReclaimFunction")


def test_no_deleted_record_is_lost_on_the_way_to_the_queue(freeing_stack: Json) -> None:
    """Lambda sends each removal until it is in the queue, or no longer in the stream."""
    mapping = freeing_stack["QueueFunctionRemovedRecords"]["Properties"]

    assert {
        "EventSourceArn": "CheckpointsTable.StreamArn",
        "FunctionName": "QueueFunction",
        "StartingPosition": "TRIM_HORIZON",
        "FilterCriteria": {"Filters": [{"Pattern": '{"eventName": ["REMOVE"]}'}]},
        "BatchSize": 100,
        "MetricsConfig": {"Metrics": ["EventCount"]},
    } == {name: value for name, value in mapping.items() if name != "Tags"}


def test_no_message_loses_an_attempt_to_a_neighbour_or_to_throttling(freeing_stack: Json) -> None:
    mapping = freeing_stack["ReclaimFunctionMessages"]["Properties"]
    queue, dead_letters = (
        freeing_stack[name]["Properties"] for name in ("ReclaimQueue", "DeadLetterQueue")
    )
    function = function_of(freeing_stack, "ReclaimFunction")

    assert ("ReclaimQueue.Arn", 1) == (mapping["EventSourceArn"], mapping["BatchSize"])
    assert {"MaximumConcurrency": 5} == mapping["ScalingConfig"]
    assert "ReservedConcurrentExecutions" not in function
    assert function["Timeout"] * 6 <= queue["VisibilityTimeout"]
    assert function["Timeout"] * 1_000 - reclaim.MIN_REMAINING_MS >= 120_000  # to do the work
    assert {"deadLetterTargetArn": "DeadLetterQueue.Arn", "maxReceiveCount": 5} == (
        queue["RedrivePolicy"]
    )
    # The time to live of a dead letter counts from when it was first sent.
    day = 24 * 3_600
    assert (10 * day, 14 * day) == tuple(
        each["MessageRetentionPeriod"] for each in (queue, dead_letters)
    )
    assert "Allow" == function["RecursiveLoop"]  # a large prefix takes many messages


def test_the_alarm_for_delays_is_above_what_retries_explain(freeing_stack: Json) -> None:
    queue = freeing_stack["ReclaimQueue"]["Properties"]
    alarm = freeing_stack["ReclaimDelayedAlarm"]["Properties"]

    longest = read_template()["Parameters"]["ReclaimDelaySeconds"]["MaxValue"]
    longest += queue["VisibilityTimeout"] * queue["RedrivePolicy"]["maxReceiveCount"]
    assert longest < alarm["Threshold"] < 24 * 3_600  # which is how long the stream keeps records


@pytest.mark.parametrize("queue", ["ReclaimQueue", "DeadLetterQueue"])
def test_the_queues_are_encrypted_and_accept_only_tls(freeing_stack: Json, queue: str) -> None:
    assert freeing_stack[queue]["Properties"]["SqsManagedSseEnabled"] is True
    policy = freeing_stack[f"{queue}Policy"]["Properties"]
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


def test_the_outputs_name_what_operators_and_commands_need() -> None:
    outputs = outputs_of(ArtifactsBucket=BUCKET)

    assert {
        "ArtifactsBucketName": BUCKET,
        "ReclaimQueueUrl": "ReclaimQueue",
        "DeadLetterQueueUrl": "DeadLetterQueue",
        "QueueMappingId": "QueueFunctionRemovedRecords",
        "ReclaimMappingId": "ReclaimFunctionMessages",
        "ReclaimRoleArn": "ReclaimFunctionRole.Arn",
    }.items() <= outputs.items()


def test_frees_the_storage_of_an_existing_table() -> None:
    resources = deployed(ArtifactsBucket=BUCKET, **TABLE_STREAM)

    mapping = resources["QueueFunctionRemovedRecords"]["Properties"]
    assert TABLE_STREAM[STREAM] == mapping["EventSourceArn"]
    variables = function_of(resources, "ReclaimFunction")["Environment"]["Variables"]
    name = TABLE["ExistingCheckpointsTable"]
    assert {"ARTIFACTS_BUCKET": BUCKET, "CHECKPOINTS_TABLE": name}.items() <= variables.items()
    queue, reclaim = (allowed(resources, f"{each}Function") for each in ("Queue", "Reclaim"))
    assert f"{TABLE_ARN}/stream/*" in queue
    assert TABLE_ARN in reclaim
    assert "CheckpointsTable" not in f"{queue}{reclaim}"


def test_freeing_the_storage_of_an_existing_table_needs_its_stream() -> None:
    assert [] == refusals(ArtifactsBucket=BUCKET)
    assert [] == refusals(**TABLE)
    assert [] == refusals(ArtifactsBucket=BUCKET, **TABLE_STREAM)
    (refusal,) = refusals(ArtifactsBucket=BUCKET, **TABLE)
    assert STREAM in refusal


# What is kept


def test_the_tables_and_logs_remain_after_the_stack_is_deleted(freeing_stack: Json) -> None:
    log_group = function_of(freeing_stack)["LoggingConfig"]["LogGroup"]

    others = ("QueueFunctionLogGroup", "ReclaimFunctionLogGroup")
    for name in ("CheckpointsTable", "TokensTable", log_group, *others):
        assert is_retained(freeing_stack[name]), name


def test_a_first_deployment_that_fails_leaves_only_the_protected_table(stack: Json) -> None:
    versions = version_of(stack)  # they are deleted together with their function
    kept = {n for n, r in stack.items() if r.get("DeletionPolicy") == "Retain"} - set(versions)

    assert {"CheckpointsTable"} == kept


def test_checkpoints_are_protected_and_expired_tokens_are_removed(stack: Json) -> None:
    table, tokens = (stack[name]["Properties"] for name in ("CheckpointsTable", "TokensTable"))

    assert table["DeletionProtectionEnabled"] is True
    assert table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] is True
    expiry = {"AttributeName": "expires_at", "Enabled": True}
    assert expiry == tokens["TimeToLiveSpecification"]


def test_the_access_log_is_off_by_default_and_has_no_input_of_the_caller(stack: Json) -> None:
    assert "AccessLogSetting" not in only(stack, "AWS::ApiGateway::Stage")
    stage = only(deployed(AccessLog="true"), "AWS::ApiGateway::Stage")
    log_format = stage["AccessLogSetting"]["Format"]

    assert "\n" not in log_format
    harmless = {
        *("requestId", "extendedRequestId", "requestTime", "identity.sourceIp"),
        *("resourcePath", "status", "error.responseType", "integration.status", "waf.status"),
        *("responseLength", "responseLatency", "integration.latency"),
    }
    for value in json.loads(log_format).values():
        assert value.removeprefix("$context.") in harmless


# An existing table


def test_uses_an_existing_table(stack: Json) -> None:
    resources = deployed(**TABLE)

    assert {"TokensTable"} == set(of_type(resources, "AWS::DynamoDB::Table"))
    variables = function_of(resources)["Environment"]["Variables"]
    assert TABLE["ExistingCheckpointsTable"] == variables["CHECKPOINTS_TABLE"]
    assert set(allowed(stack)) - {"CheckpointsTable.Arn"} | {TABLE_ARN} == set(allowed(resources))
    assert "CheckpointsTable" not in json.dumps(only(resources, "AWS::CloudWatch::Dashboard"))


def test_outputs_name_the_table_and_the_stream_of_its_deleted_records(stack: Json) -> None:
    def table_and_stream(**parameters: str) -> list[str | None]:
        outputs = outputs_of(**parameters)
        return [outputs.get(key) for key in ("CheckpointsTableName", "CheckpointsStreamArn")]

    view = stack["CheckpointsTable"]["Properties"]["StreamSpecification"]["StreamViewType"]
    assert "OLD_IMAGE" == view
    assert ["CheckpointsTable", "CheckpointsTable.StreamArn"] == table_and_stream()
    assert [*TABLE.values(), None] == table_and_stream(**TABLE)
    assert [*TABLE_STREAM.values()] == table_and_stream(**TABLE_STREAM)


# API Gateway's own responses

WORTH_A_RETRY = {
    *("THROTTLED", "QUOTA_EXCEEDED"),
    *("INTEGRATION_FAILURE", "INTEGRATION_TIMEOUT", "DEFAULT_5XX"),
}


def test_the_gateway_responds_in_the_format_of_the_function(stack: Json, call: Call) -> None:
    responses = stack["Api"]["Properties"]["Body"]["x-amazon-apigateway-gateway-responses"]
    bodies = {n: each["responseTemplates"]["application/json"] for n, each in responses.items()}
    not_found = call(path="/")
    expected = {
        "MISSING_AUTHENTICATION_TOKEN": (not_found.status, not_found.body),
        "RESOURCE_NOT_FOUND": (not_found.status, not_found.body),
        "REQUEST_TOO_LARGE": (413, {"detail": "The request is too large. Send fewer steps."}),
        "THROTTLED": (429, {"detail": "Too Many Requests"}),
        "QUOTA_EXCEEDED": (429, {"detail": "Too Many Requests"}),
        "INTEGRATION_FAILURE": (
            503,
            {"detail": "The API is busy or not available. Send the request again."},
        ),
    }

    for name, response in expected.items():
        assert response == (int(responses[name]["statusCode"]), json.loads(bodies[name]))
    (seconds,) = RETRY_LATER.values()
    headers = {"gatewayresponse.header.Retry-After": f"'{seconds}'"}
    assert dict.fromkeys(WORTH_A_RETRY, headers) == {
        name: response["responseParameters"]
        for name, response in responses.items()
        if response["responseParameters"]
    }, "RETRY_LATER in responses.py, GatewayResponses in template.yaml"
    for name, body in bodies.items():
        assert '{"detail": ' in body, name
    assert {"DEFAULT_4XX", "DEFAULT_5XX"} <= set(responses)
