"""The template deploys what the function, its callers and its operators rely on."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from checkpoints import dynamodb
from emulators.dynamodb import REGION, STACK, TEMPLATE, read_template
from events import MODEL, Answer, Call, make_event
from faulty_dynamodb import Endpoint, refuse
from function_process import run_in_a_process
from template_resolver import Json, deployed, of_type

TOPIC = "arn:aws:sns:us-east-1:123456789012:alarms"
WEB_ACL = "arn:aws:wafv2:us-east-1:123456789012:regional/webacl/checkpoints/1"

# A value of each parameter that is not its default.
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
    "WebAclArn": WEB_ACL,
    "ApiGatewayLogRole": "false",
}


@pytest.fixture(scope="module")
def stack() -> Json:
    """Deploy with all defaults."""
    return deployed()


def function_of(stack: Json) -> Json:
    """Return the properties of the one function."""
    (function,) = of_type(stack, "AWS::Lambda::Function").values()
    properties: Json = function
    return properties


def api_body(stack: Json) -> Json:
    """Return the OpenAPI document that the API is made from."""
    body: Json = stack["Api"]["Properties"]["Body"]
    return body


def dimensions(alarm: Json) -> dict[str, str]:
    """Return an alarm's dimensions by name."""
    return {dimension["Name"]: dimension["Value"] for dimension in alarm["Dimensions"]}


# The function


def test_the_function_is_set_up_as_it_is_written(stack: Json) -> None:
    function = function_of(stack)

    assert ("checkpoints.app.lambda_handler", "python3.13", ["arm64"], "512", 29) == tuple(
        function[key] for key in ("Handler", "Runtime", "Architectures", "MemorySize", "Timeout")
    )
    assert {
        "CHECKPOINTS_TABLE": "CheckpointsTable",
        "TOKENS_TABLE": "TokensTable",
        "POWERTOOLS_SERVICE_NAME": STACK,
        "AWS_ENDPOINT_URL_DYNAMODB": "",
    } == function["Environment"]["Variables"]
    assert {"LogFormat": "JSON", "LogGroup": "ApiFunctionLogGroup"} == function["LoggingConfig"]
    assert "ReservedConcurrentExecutions" not in function


def test_the_parameters_set_the_function_up() -> None:
    function = function_of(deployed(**OTHERS))

    assert (["x86_64"], "1024", "20") == tuple(
        function[key] for key in ("Architectures", "MemorySize", "ReservedConcurrentExecutions")
    )
    assert (
        "http://127.0.0.1:8000" == function["Environment"]["Variables"]["AWS_ENDPOINT_URL_DYNAMODB"]
    )


def test_without_an_endpoint_the_function_finds_dynamodb_in_the_cloud(
    stack: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_DYNAMODB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    for name, value in function_of(stack)["Environment"]["Variables"].items():
        if "ENDPOINT" in name:
            monkeypatch.setenv(name, value)

    assert "https://dynamodb.eu-central-1.amazonaws.com" == dynamodb.connect().meta.endpoint_url


def test_each_parameter_has_a_default_and_is_tried_here_with_another() -> None:
    defaults = {name: str(kind["Default"]) for name, kind in read_template()["Parameters"].items()}

    assert set(OTHERS) == set(defaults)
    assert not set(OTHERS.items()) & set(defaults.items())


def test_the_function_may_do_exactly_what_it_does(stack: Json) -> None:
    role = stack["ApiFunctionRole"]["Properties"]
    (policy,) = role["Policies"]

    assert [
        ("Allow", ["dynamodb:GetItem"], "TokensTable.Arn"),
        (
            "Allow",
            ["dynamodb:Query", "dynamodb:BatchGetItem", "dynamodb:DeleteItem"],
            "CheckpointsTable.Arn",
        ),
        ("Allow", ["logs:CreateLogStream", "logs:PutLogEvents"], "ApiFunctionLogGroup.Arn"),
        ("Allow", ["xray:PutTraceSegments", "xray:PutTelemetryRecords"], "*"),
    ] == [
        (statement["Effect"], statement["Action"], statement["Resource"])
        for statement in policy["PolicyDocument"]["Statement"]
    ]
    assert "ManagedPolicyArns" not in role
    assert "ApiFunctionRole.Arn" == function_of(stack)["Role"]


def test_requests_are_traced(stack: Json) -> None:
    assert {"Mode": "Active"} == function_of(stack)["TracingConfig"]
    assert stack["ApiStage"]["Properties"]["TracingEnabled"] is True


def test_tracing_costs_the_function_no_import() -> None:
    program = "import sys, checkpoints.app; print(*sys.modules)"
    process = subprocess.run(  # noqa: S603 it is this Python
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    modules = set(process.stdout.split())
    assert "aws_lambda_powertools" in modules
    assert "aws_xray_sdk" not in modules


# Versions of the function


def version_of(stack: Json) -> Json:
    """Return the one version; CloudFormation publishes another if any of this changes."""
    return of_type(stack, "AWS::Lambda::Version")


def test_snap_start_is_off_unless_asked_for(stack: Json) -> None:
    assert {"ApplyOn": "None"} == function_of(stack)["SnapStart"]
    assert {"ApplyOn": "PublishedVersions"} == function_of(deployed(SnapStart="true"))["SnapStart"]


@pytest.mark.parametrize("canary", ["false", "true"])
def test_requests_go_to_the_version_that_was_published_last(canary: str) -> None:
    stack = deployed(CanaryDeployment=canary)
    ((version, published),) = version_of(stack).items()
    ((alias, live),) = of_type(stack, "AWS::Lambda::Alias").items()

    assert "ApiFunction" == published["FunctionName"] == live["FunctionName"]
    assert f"{version}.Version" == live["FunctionVersion"]
    (integration,) = find(api_body(stack), "x-amazon-apigateway-integration")
    assert f"functions/{alias}/invocations" in integration["uri"]
    (permission,) = of_type(stack, "AWS::Lambda::Permission").values()
    assert (alias, "apigateway.amazonaws.com") == (
        permission["FunctionName"],
        permission["Principal"],
    )


@pytest.mark.parametrize("parameter", OTHERS)
def test_a_parameter_that_changes_the_function_publishes_a_version(
    stack: Json, parameter: str
) -> None:
    other = deployed(**{parameter: OTHERS[parameter]})
    # Concurrency is a matter of the function, not of a version.
    versioned, versioned_other = (
        {k: v for k, v in function_of(s).items() if k != "ReservedConcurrentExecutions"}
        for s in (stack, other)
    )

    assert (versioned == versioned_other) == (version_of(stack) == version_of(other))


def test_a_change_to_the_template_publishes_a_version(stack: Json) -> None:
    template = read_template()
    template["Resources"]["ApiFunction"]["Properties"]["Timeout"] = 28

    assert set(version_of(stack)) != set(version_of(deployed(template)))


def test_a_new_version_gets_all_requests_at_once_unless_asked_otherwise(stack: Json) -> None:
    assert not [name for name, r in stack.items() if r["Type"].startswith("AWS::CodeDeploy::")]
    assert "UpdatePolicy" not in stack["ApiFunctionAliaslive"]


def test_a_canary_is_taken_back_on_errors() -> None:
    stack = deployed(CanaryDeployment="true")
    ((name, group),) = of_type(stack, "AWS::CodeDeploy::DeploymentGroup").items()
    (alias,) = (r for r in stack.values() if "AWS::Lambda::Alias" == r["Type"])

    assert name == alias["UpdatePolicy"]["CodeDeployLambdaAliasUpdate"]["DeploymentGroupName"]
    assert "CodeDeployDefault.LambdaCanary10Percent10Minutes" == group["DeploymentConfigName"]
    assert {
        "Enabled": True,
        "Alarms": [{"Name": "ServerErrorsAlarm"}, {"Name": "FunctionErrorsAlarm"}],
    } == group["AlarmConfiguration"]
    assert group["AutoRollbackConfiguration"]["Enabled"] is True
    assert {"DEPLOYMENT_FAILURE", "DEPLOYMENT_STOP_ON_ALARM"} <= set(
        group["AutoRollbackConfiguration"]["Events"]
    )
    for alarm in group["AlarmConfiguration"]["Alarms"]:
        assert "AWS::CloudWatch::Alarm" == stack[alarm["Name"]]["Type"]


def find(document: Any, key: str) -> list[Any]:
    """Return what stands under a key, wherever in the document."""
    if isinstance(document, dict):
        here = [document[key]] if key in document else []
        return here + [found for value in document.values() for found in find(value, key)]
    return []


# The tables


def test_checkpoints_are_hard_to_lose(stack: Json) -> None:
    table = stack["CheckpointsTable"]

    assert ("Retain", "Retain") == (table["DeletionPolicy"], table["UpdateReplacePolicy"])
    assert table["Properties"]["DeletionProtectionEnabled"] is True
    assert {"PointInTimeRecoveryEnabled": True} == table["Properties"][
        "PointInTimeRecoverySpecification"
    ]


def test_tokens_are_kept_until_they_expire(stack: Json) -> None:
    table = stack["TokensTable"]

    assert ("Retain", "Retain") == (table["DeletionPolicy"], table["UpdateReplacePolicy"])
    assert {"AttributeName": "expires_at", "Enabled": True} == table["Properties"][
        "TimeToLiveSpecification"
    ]


@pytest.mark.parametrize("name", ["CheckpointsTable", "TokensTable"])
def test_both_tables_are_encrypted_and_paid_by_use(stack: Json, name: str) -> None:
    table = stack[name]["Properties"]

    assert "PAY_PER_REQUEST" == table["BillingMode"]
    assert {"SSEEnabled": True} == table["SSESpecification"]


# The API


def test_the_one_route_leads_to_the_function(stack: Json) -> None:
    (methods,) = api_body(stack)["paths"].values()

    assert ["/v1/preview/models/{model_id}/checkpoints"] == list(api_body(stack)["paths"])
    assert ["delete"] == list(methods)
    assert "aws_proxy" == methods["delete"]["x-amazon-apigateway-integration"]["type"]


def test_the_gateway_answers_in_the_shape_of_the_function(stack: Json, call: Call) -> None:
    responses = api_body(stack)["x-amazon-apigateway-gateway-responses"]

    def answer(name: str) -> tuple[int, Json]:
        (body,) = responses[name]["responseTemplates"].values()
        return int(responses[name]["statusCode"]), json.loads(body)

    not_found: Answer = call(path="/")
    for name in ("MISSING_AUTHENTICATION_TOKEN", "RESOURCE_NOT_FOUND"):
        assert (not_found.status, not_found.body) == answer(name)
    assert (413, {"detail": "Request Too Large"}) == answer("REQUEST_TOO_LARGE")
    for name in ("THROTTLED", "QUOTA_EXCEEDED"):
        assert (429, {"detail": "Too Many Requests"}) == answer(name)
    for name in ("THROTTLED", "QUOTA_EXCEEDED", "INTEGRATION_TIMEOUT"):
        assert {"gatewayresponse.header.Retry-After": "'2'"} == responses[name][
            "responseParameters"
        ]
    for name, response in responses.items():
        (content_type,) = response["responseTemplates"]
        assert ("application/json", True) == (content_type, "detail" in str(response)), name
    assert {"DEFAULT_4XX", "DEFAULT_5XX"} <= set(responses)


def test_the_throttling_limits_are_parameters(stack: Json) -> None:
    def limits(stack: Json) -> tuple[str, str]:
        (settings,) = stack["ApiStage"]["Properties"]["MethodSettings"]
        assert ("/*", "*") == (settings["ResourcePath"], settings["HttpMethod"])
        return settings["ThrottlingRateLimit"], settings["ThrottlingBurstLimit"]

    assert ("50", "100") == limits(stack)
    assert ("5", "7") == limits(deployed(ThrottlingRateLimit="5", ThrottlingBurstLimit="7"))


def test_the_api_has_one_stage_named_by_the_parameter(stack: Json) -> None:
    stages = of_type(stack, "AWS::ApiGateway::Stage") | of_type(
        stack, "AWS::ApiGateway::Deployment"
    )

    assert ["prod"] == [made["StageName"] for made in stages.values() if "StageName" in made]
    assert "test" == deployed(Stage="test")["ApiStage"]["Properties"]["StageName"]


def test_a_web_acl_guards_the_api_if_there_is_one(stack: Json) -> None:
    kind = "AWS::WAFv2::WebACLAssociation"

    assert {} == of_type(stack, kind)
    assert [
        {
            "WebACLArn": WEB_ACL,
            "ResourceArn": f"arn:aws:apigateway:{REGION}::/restapis/Api/stages/ApiStage",
        }
    ] == list(of_type(deployed(WebAclArn=WEB_ACL), kind).values())


# The logs


def test_both_logs_are_kept_for_as_long_as_was_said(stack: Json) -> None:
    def retention(stack: Json) -> dict[str, str]:
        groups = of_type(stack, "AWS::Logs::LogGroup")
        return {name: group["RetentionInDays"] for name, group in groups.items()}

    assert {"ApiFunctionLogGroup": "365", "AccessLogGroup": "365"} == retention(stack)
    assert {"30"} == set(retention(deployed(LogRetentionDays="30")).values())


def test_the_record_of_who_deleted_what_outlives_the_stack(stack: Json) -> None:
    group = stack["ApiFunctionLogGroup"]

    assert ("Retain", "Retain") == (group["DeletionPolicy"], group["UpdateReplacePolicy"])


def test_the_access_log_holds_nothing_that_the_caller_wrote(stack: Json) -> None:
    setting = stack["ApiStage"]["Properties"]["AccessLogSetting"]

    assert "AccessLogGroup.Arn" == setting["DestinationArn"]
    assert "\n" not in setting["Format"]
    assert {
        "requestId": "$context.requestId",
        "extendedRequestId": "$context.extendedRequestId",
        "xrayTraceId": "$context.xrayTraceId",
        "requestTime": "$context.requestTime",
        "sourceIp": "$context.identity.sourceIp",
        "resourcePath": "$context.resourcePath",
        "status": "$context.status",
        "responseType": "$context.error.responseType",
        "integrationStatus": "$context.integration.status",
        "wafStatus": "$context.waf.status",
        "responseLength": "$context.responseLength",
        "responseLatency": "$context.responseLatency",
        "integrationLatency": "$context.integration.latency",
    } == json.loads(setting["Format"])


def test_a_fresh_account_lets_the_api_write_its_log(stack: Json) -> None:
    account, role = stack["ApiGatewayAccount"], stack["ApiGatewayRole"]

    assert "ApiGatewayRole.Arn" == account["Properties"]["CloudWatchRoleArn"]
    assert ["arn:aws:iam::aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs"] == role[
        "Properties"
    ]["ManagedPolicyArns"]
    assert "ApiGatewayAccount" == stack["Api"]["DependsOn"]


def test_other_apis_of_the_account_keep_their_logs_when_the_stack_is_gone(stack: Json) -> None:
    for name in ("ApiGatewayAccount", "ApiGatewayRole"):
        assert ("Retain", "Retain") == (
            stack[name]["DeletionPolicy"],
            stack[name]["UpdateReplacePolicy"],
        )


def test_an_account_that_is_set_up_already_is_left_alone() -> None:
    stack = deployed(ApiGatewayLogRole="false")

    assert {} == of_type(stack, "AWS::ApiGateway::Account")
    assert ["ApiFunctionRole"] == list(of_type(stack, "AWS::IAM::Role"))


# Alarms and the dashboard


def test_each_alarm_watches_what_it_is_named_for(stack: Json) -> None:
    api = {"ApiName": STACK, "Stage": "prod"}
    function = {"FunctionName": "ApiFunction"}

    assert {
        "ServerErrorsAlarm": ("AWS/ApiGateway", "5XXError", api, "Sum", 1),
        "FunctionErrorsAlarm": ("AWS/Lambda", "Errors", function, "Sum", 1),
        "FunctionThrottlesAlarm": ("AWS/Lambda", "Throttles", function, "Sum", 1),
        "LatencyAlarm": ("AWS/ApiGateway", "Latency", api, "p99", 10_000),
        "IncompleteDeletionsAlarm": (
            "Checkpoints",
            "DeletionsIncomplete",
            {"service": STACK},
            "Sum",
            1,
        ),
        "CheckpointReadsThrottledAlarm": (
            "AWS/DynamoDB",
            "ReadThrottleEvents",
            {"TableName": "CheckpointsTable"},
            "Sum",
            1,
        ),
        "CheckpointWritesThrottledAlarm": (
            "AWS/DynamoDB",
            "WriteThrottleEvents",
            {"TableName": "CheckpointsTable"},
            "Sum",
            1,
        ),
        "TokenReadsThrottledAlarm": (
            "AWS/DynamoDB",
            "ReadThrottleEvents",
            {"TableName": "TokensTable"},
            "Sum",
            1,
        ),
    } == {
        name: (
            alarm["Namespace"],
            alarm["MetricName"],
            dimensions(alarm),
            alarm.get("Statistic") or alarm["ExtendedStatistic"],
            alarm["Threshold"],
        )
        for name, alarm in of_type(stack, "AWS::CloudWatch::Alarm").items()
    }
    assert STACK == stack["Api"]["Properties"]["Name"]


def test_an_alarm_watches_each_way_in_which_dynamodb_can_throttle(stack: Json) -> None:
    (policy,) = stack["ApiFunctionRole"]["Properties"]["Policies"]
    allowed = {
        (action, statement["Resource"].removesuffix(".Arn"))
        for statement in policy["PolicyDocument"]["Statement"]
        for action in statement["Action"]
        if action.startswith("dynamodb:")
    }
    kinds = {
        "dynamodb:GetItem": "ReadThrottleEvents",
        "dynamodb:Query": "ReadThrottleEvents",
        "dynamodb:BatchGetItem": "ReadThrottleEvents",
        "dynamodb:DeleteItem": "WriteThrottleEvents",
    }

    assert {(kinds[action], table) for action, table in allowed} == {
        (alarm["MetricName"], dimensions(alarm)["TableName"])
        for alarm in of_type(stack, "AWS::CloudWatch::Alarm").values()
        if "AWS/DynamoDB" == alarm["Namespace"]
    }


def test_an_alarm_goes_off_above_its_threshold_and_not_for_want_of_requests(stack: Json) -> None:
    for name, alarm in of_type(stack, "AWS::CloudWatch::Alarm").items():
        assert ("GreaterThanOrEqualToThreshold", "notBreaching") == (
            alarm["ComparisonOperator"],
            alarm["TreatMissingData"],
        ), name
        assert alarm["DatapointsToAlarm"] <= alarm["EvaluationPeriods"], name


def test_alarms_are_sent_nowhere_unless_a_topic_is_given(stack: Json) -> None:
    def actions(stack: Json) -> list[tuple[object, object, object]]:
        return [
            (alarm.get("AlarmActions"), alarm.get("OKActions"), alarm.get("ActionsEnabled", True))
            for alarm in of_type(stack, "AWS::CloudWatch::Alarm").values()
        ]

    assert {(None, None, True)} == set(actions(stack))
    assert [([TOPIC], [TOPIC], True)] * len(actions(stack)) == actions(
        deployed(AlarmTopicArn=TOPIC)
    )


def test_each_alarm_tells_what_it_means_and_what_to_do(stack: Json) -> None:
    for name, alarm in of_type(stack, "AWS::CloudWatch::Alarm").items():
        means, what_to_do = alarm["AlarmDescription"].split(". ")
        assert len(means) > 20, name
        assert len(what_to_do) > 20, name
        assert what_to_do.endswith("."), name


def test_the_readme_explains_each_alarm_and_no_other(stack: Json) -> None:
    readme = TEMPLATE.with_name("README.md").read_text()
    explained = re.findall(r"^\| `(\w+Alarm)` \| .+ \| .+ \|$", readme, re.MULTILINE)

    assert sorted(of_type(stack, "AWS::CloudWatch::Alarm")) == sorted(explained)


type Metrics = set[tuple[str, frozenset[tuple[str, str]]]]


def emitted_metrics(endpoint: Endpoint) -> Metrics:
    """Return each metric that the function emits, with its dimensions, from a run that shows all.

    The value of the dimension `reason` is left open.
    """
    good = make_event(steps=[1], model_id=MODEL)
    endpoint.fail("GetItem", refuse(400, "AccessDeniedException"))
    endpoint.fail("TransactWriteItems", refuse(400, "AccessDeniedException"))
    log = run_in_a_process(endpoint, [good, good, good, make_event(token=None)]).log
    emitted = set()
    for line in log.splitlines():
        if '"_aws"' not in line:
            continue
        record, _ = json.JSONDecoder().raw_decode(line)
        for directive in record["_aws"]["CloudWatchMetrics"]:
            assert "Checkpoints" == directive["Namespace"]
            (names,) = directive["Dimensions"]
            dimensions = {name: "*" if "reason" == name else record[name] for name in names}
            emitted |= {(m["Name"], frozenset(dimensions.items())) for m in directive["Metrics"]}
    return emitted


def shown_metrics(body: Json, namespace: str) -> Metrics:
    """Return each metric of a namespace that a dashboard shows, with its dimensions."""
    shown: Metrics = set()
    for widget in body["widgets"]:
        for metric in widget["properties"]["metrics"]:
            words = [word for word in metric if isinstance(word, str)]
            if words[:1] == [namespace]:
                shown.add((words[1], frozenset(zip(words[2::2], words[3::2], strict=True))))
            for search in (word["expression"] for word in metric if "expression" in word):
                match = re.fullmatch(
                    r"SEARCH\('\{(\w+),([\w,]+)\} MetricName=\"(\w+)\" (.*)', 'Sum', \d+\)", search
                )
                assert match, search
                fixed = dict(re.findall(r'(\w+)="(\w+)"', match[4]))
                names = match[2].split(",")
                if namespace == match[1]:
                    shown.add((match[3], frozenset((n, fixed.get(n, "*")) for n in names)))
    return shown


def dashboard_of(stack: Json) -> Json:
    """Return what the dashboard shows."""
    (dashboard,) = of_type(stack, "AWS::CloudWatch::Dashboard").values()
    body: Json = json.loads(dashboard["DashboardBody"])
    return body


def test_the_dashboard_shows_each_metric_that_the_function_emits(
    stack: Json, endpoint: Endpoint
) -> None:
    emitted = emitted_metrics(endpoint)

    assert emitted == shown_metrics(dashboard_of(stack), "Checkpoints")
    assert {
        (alarm["MetricName"], frozenset(dimensions(alarm).items()))
        for alarm in of_type(stack, "AWS::CloudWatch::Alarm").values()
        if "Checkpoints" == alarm["Namespace"]
    } <= emitted


def test_the_dashboard_shows_requests_refusals_deletions_and_latency(stack: Json) -> None:
    body = dashboard_of(stack)
    api = frozenset({("ApiName", STACK), ("Stage", "prod")})

    assert ["Requests", "Refusals by reason", "Deletions", "Latency"] == [
        widget["properties"]["title"] for widget in body["widgets"]
    ]
    assert {REGION} == {widget["properties"]["region"] for widget in body["widgets"]}
    assert {(name, api) for name in ("Count", "4XXError", "5XXError", "Latency")} == shown_metrics(
        body, "AWS/ApiGateway"
    )
    assert {("Duration", frozenset({("FunctionName", "ApiFunction")}))} == shown_metrics(
        body, "AWS/Lambda"
    )


def test_stacks_in_two_regions_have_a_dashboard_each(stack: Json) -> None:
    (dashboard,) = of_type(stack, "AWS::CloudWatch::Dashboard").values()

    assert f"{STACK}-{REGION}" == dashboard["DashboardName"]


# What people see of the template


def test_names_its_outputs() -> None:
    assert {"ApiUrl", "CheckpointsTableName", "TokensTableName"} == set(read_template()["Outputs"])


def test_each_check_that_is_skipped_is_explained() -> None:
    skipped = [
        skip
        for resource in read_template()["Resources"].values()
        for skip in resource.get("Metadata", {}).get("checkov", {}).get("skip", [])
    ]

    assert skipped
    assert [] == [skip["id"] for skip in skipped if len(skip.get("comment", "").split()) < 5]


def test_deploying_needs_no_flags() -> None:
    config = tomllib.loads(Path(TEMPLATE).with_name("samconfig.toml").read_text())["default"]

    assert STACK == config["global"]["parameters"]["stack_name"]
    assert {
        "capabilities": "CAPABILITY_IAM",
        "resolve_s3": True,
        "confirm_changeset": True,
    } == config["deploy"]["parameters"]


def test_the_stack_names_no_role_so_that_the_lesser_capability_will_do() -> None:
    roles = of_type(deployed(**OTHERS), "AWS::IAM::Role") | of_type(deployed(), "AWS::IAM::Role")

    assert len(roles) >= 3
    assert not [name for name, role in roles.items() if "RoleName" in role]
