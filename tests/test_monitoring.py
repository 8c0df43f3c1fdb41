"""The alarms and the dashboard show operators what the function emits, and nothing else."""

import contextlib
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from checkpoints.api.auth import READ_SCOPE
from checkpoints.reclaim import app as reclaim
from checkpoints.reclaim import queue
from emulators import STACK
from emulators.dynamodb import REGION, put_checkpoints, put_token
from emulators.invocation import lambda_context
from emulators.records import ARTIFACTS_BUCKET
from emulators.storage import put_objects, queue_events
from emulators.template import TEMPLATE
from events import DELETED_AT, ENTITY, MODEL, Call, make_event, make_stream_record
from faulty_dynamodb import Apply, Endpoint, Reply, pass_on, reject
from function_process import run_in_a_process
from logs import Metric, metrics_of
from template_resolver import Json, allowed, deployed, of_type, only

TOPIC = "arn:aws:sns:us-east-1:123456789012:alarms"

# The metrics of AWS that are used here, with their dimensions.
AWS_METRICS = {
    ("AWS/ApiGateway", ("ApiName", "Stage")): {"Count", "4XXError", "5XXError", "Latency"},
    ("AWS/DynamoDB", ("TableName",)): {"ReadThrottleEvents", "WriteThrottleEvents"},
    ("AWS/Lambda", ("FunctionName",)): {"Duration", "Errors", "IteratorAge", "Throttles"},
    ("AWS/Lambda", ("EventSourceMappingUUID",)): {"PolledEventCount"},
    ("AWS/SQS", ("QueueName",)): {
        *("ApproximateNumberOfMessagesDelayed", "ApproximateNumberOfMessagesVisible"),
        "ApproximateAgeOfOldestMessage",
    },
}


@pytest.fixture(scope="module")
def stack() -> Json:
    """Deploy the stack with all optional resources."""
    return deployed(ArtifactsBucket="artifacts")


def alarms_of(stack: Json) -> Json:
    return of_type(stack, "AWS::CloudWatch::Alarm")


def test_alarms_are_sent_to_the_topic_if_there_is_one(stack: Json) -> None:
    for alarm in alarms_of(stack).values():
        assert {"AlarmActions", "OKActions"}.isdisjoint(alarm)
    for alarm in alarms_of(deployed(ArtifactsBucket="artifacts", AlarmTopicArn=TOPIC)).values():
        assert [TOPIC] == alarm["AlarmActions"] == alarm["OKActions"]


def test_an_alarm_triggers_above_its_threshold_and_not_without_requests(stack: Json) -> None:
    for name, alarm in alarms_of(stack).items():
        assert "GreaterThanOrEqualToThreshold" == alarm["ComparisonOperator"], name
        assert "notBreaching" == alarm["TreatMissingData"], name
        assert alarm["DatapointsToAlarm"] <= alarm["EvaluationPeriods"], name


def test_one_slow_request_among_a_few_triggers_no_alarm(stack: Json) -> None:
    for alarm in alarms_of(stack).values():
        percentile = alarm.get("ExtendedStatistic")
        assert (percentile and "ignore") == alarm.get("EvaluateLowSampleCountPercentile")


def test_the_docs_explain_each_alarm_and_no_other(stack: Json) -> None:
    page = TEMPLATE.with_name("docs") / "operations.md"
    explained = re.findall(r"^### (\w+Alarm)$", page.read_text(), re.MULTILINE)

    assert sorted(alarms_of(stack)) == sorted(explained), "docs/operations.md, Alarms"


def test_a_documented_response_triggers_no_alarm_and_no_rollback(
    stack: Json, call: Call, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the alarms on the functions' own metrics can trigger after a single request."""
    alarms = {n: a for n, a in alarms_of(stack).items() if a.get("Namespace") == "Checkpoints"}

    responses = [call(steps=[1]), call(steps=[1], token=None), call(body="{"), call(path="/")]
    responses += [call(steps=[1], milliseconds=1_000)]  # not enough time to look up the token
    endpoint.keep_failing("TransactWriteItems", reject(400, "ThrottlingException"))
    responses += [call(steps=[1], milliseconds=4_600)]

    assert [200, 401, 422, 404, 503, 503] == [response.status for response in responses]
    names = [name for _, name, _ in metrics_in(capsys.readouterr().out)]
    assert 2 == names.count("RequestsUnavailable")
    assert {"ReclaimConflictAlarm", "RequestsFailedAlarm"} == set(alarms)
    assert {alarm["MetricName"] for alarm in alarms.values()}.isdisjoint(names)
    assert "4XXError" not in json.dumps(alarms_of(stack)), (
        "docs/operations.md, Alarms, says that a refused request triggers none"
    )


OUTAGE = {"5XXError": 3, "RequestsUnavailable": 3}


@pytest.mark.parametrize(
    ("values", "triggered"),
    [
        ({}, []),
        (OUTAGE, ["DatabaseUnavailableAlarm"]),
        (OUTAGE | {"CheckpointsDeleted": 9, "PolledEventCount": 9}, []),
        (OUTAGE | {"StepsNotFound": 1}, []),
        (OUTAGE | {"CheckpointsListed": 1}, []),
        ({"5XXError": 3, "RequestsFailed": 3}, []),  # RequestsFailedAlarm is triggered
        ({"5XXError": 3, "Errors": 3}, []),  # FunctionErrorsAlarm is triggered
        ({"5XXError": 3}, ["GatewayErrorsAlarm"]),
        ({"5XXError": 3, "CheckpointsDeleted": 9, "PolledEventCount": 9}, ["GatewayErrorsAlarm"]),
        ({"CheckpointsDeleted": 1, "PolledEventCount": 1}, []),
        ({"CheckpointsDeleted": 1}, ["ReclaimStoppedAlarm"]),
        ({"ApproximateAgeOfOldestMessage": 14_399, "IteratorAge": 14_399_000}, []),
        ({"ApproximateAgeOfOldestMessage": 14_400}, ["ReclaimDelayedAlarm"]),
        ({"IteratorAge": 14_400_000}, ["ReclaimDelayedAlarm"]),
    ],
)
def test_alarms_on_several_metrics_cover_what_no_other_alarm_covers(
    stack: Json, values: dict[str, int], triggered: list[str]
) -> None:
    def is_above(alarm: Json) -> bool:
        (expression,) = [m["Expression"] for m in alarm["Metrics"] if "Expression" in m]
        names = {
            m["Id"]: values.get(m["MetricStat"]["Metric"]["MetricName"], 0)
            for m in alarm["Metrics"]
            if "MetricStat" in m
        }
        functions: dict[str, object] = {
            "IF": lambda condition, then, otherwise: then if condition else otherwise,
            "FILL": lambda value, _absent: value,
        }
        code = expression.replace(" AND ", " and ")
        value: int = eval(code, functions, names)  # noqa: S307 it is our template's
        return value >= int(alarm["Threshold"])

    several = {n: alarm for n, alarm in alarms_of(stack).items() if "Metrics" in alarm}
    assert triggered == [name for name, alarm in several.items() if is_above(alarm)]
    at_once = {name for name, alarm in several.items() if alarm["DatapointsToAlarm"] == 1}
    assert {"ReclaimDelayedAlarm", "ReclaimStoppedAlarm"} == at_once  # the others must last


def test_the_dashboard_shows_each_way_in_which_dynamodb_can_throttle(stack: Json) -> None:
    assert {
        (
            "WriteThrottleEvents" if action == "dynamodb:DeleteItem" else "ReadThrottleEvents",
            resource.removesuffix(".Arn"),
        )
        for resource, actions in allowed(stack).items()
        for action in actions
        if action.startswith("dynamodb:")
    } == {
        (name, dict(dimensions)["TableName"])
        for namespace, name, dimensions in shown_metrics(stack)
        if namespace == "AWS/DynamoDB"
    }


@pytest.mark.usefixtures("bucket")
def test_the_dashboard_shows_and_the_alarms_watch_what_is_emitted(
    stack: Json, call: Call, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    emitted = {
        (namespace, name, dimensions)
        for namespace, name, dimensions in emitted_metrics(call, endpoint, capsys)
        if "function_version" not in dict(dimensions)  # only for the alarms of a canary
    }
    shown = shown_metrics(stack)

    assert emitted == {metric for metric in shown if metric[0] == "Checkpoints"}, (
        "Dashboard in template.yaml"
    )
    values = {STACK, "prod", *stack, "ReclaimQueue.QueueName", "DeadLetterQueue.QueueName"}
    for metric in (shown | watched_metrics(stack)) - emitted:
        namespace, name, dimensions = metric
        keys = tuple(sorted(key for key, _ in dimensions))
        assert name in AWS_METRICS[namespace, keys]
        assert values >= {value for _, value in dimensions}


def test_a_canary_is_rolled_back_on_errors_of_the_new_version_alone(
    call: Call,
    endpoint: Endpoint,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """New versions have new alarms, because an alarm that is already red refuses a deployment."""
    stack = deployed(CanaryDeployment="true")
    group = only(stack, "AWS::CodeDeploy::DeploymentGroup")
    watched = [alarm["Name"] for alarm in group["AlarmConfiguration"]["Alarms"]]
    ((version, _),) = of_type(stack, "AWS::Lambda::Version").items()
    number = f"{version}.Version"
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_VERSION", number)
    endpoint.fail("GetItem", reject(400, "AccessDeniedException"))
    call(steps=[1])
    emitted = set(metrics_in(capsys.readouterr().out))

    assert {} == of_type(deployed(), "AWS::CodeDeploy::DeploymentGroup")
    assert "DEPLOYMENT_STOP_ON_ALARM" in group["AutoRollbackConfiguration"]["Events"]
    by_lambda = {"FunctionName": "ApiFunction", "Resource": "ApiFunction:live"}
    crashes = ("AWS/Lambda", "Errors", frozenset((by_lambda | {"ExecutedVersion": number}).items()))
    by_us = {"service": STACK, "function_version": number}
    failures = ("Checkpoints", "RequestsFailed", frozenset(by_us.items()))
    assert failures in emitted
    alarms = {name: stack[name] for name in watched}
    assert {crashes, failures} == watched_metrics(alarms)
    for alarm in alarms_of(alarms).values():
        assert alarm["AlarmName"].startswith(STACK)
        assert alarm["AlarmName"].endswith(number)


def test_stacks_in_two_regions_have_a_dashboard_each(stack: Json) -> None:
    dashboard = only(stack, "AWS::CloudWatch::Dashboard")

    assert REGION in dashboard["DashboardName"]
    widgets = json.loads(dashboard["DashboardBody"])["widgets"]
    assert {REGION} == {widget["properties"]["region"] for widget in widgets}


def emitted_metrics(
    call: Call, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> set[Metric]:
    """Return each metric that the functions emit, from requests and records that show all."""
    capsys.readouterr()
    put_objects("a", saved_at=DELETED_AT - timedelta(days=1))
    uris = [f"s3://{ARTIFACTS_BUCKET}/{key}" for key in ("a", "nothing", "a ")]
    records = [make_stream_record(uri, step=step) for step, uri in enumerate(uris)]
    queue.lambda_handler({"Records": records}, lambda_context())
    endpoint.fail("GetItem", pass_on, save_again)  # which is a conflict
    for event in queue_events():
        with contextlib.suppress(reclaim.NotFreedError):
            reclaim.lambda_handler(event, lambda_context(300_000))
    good = make_event(steps=[1])
    endpoint.fail("GetItem", reject(400, "AccessDeniedException"))
    endpoint.fail("TransactWriteItems", reject(400, "AccessDeniedException"))
    put_token("reader", entity=ENTITY, scopes=[READ_SCOPE])
    events = [good, good, good, make_event(token=None), make_event(method="GET", token="reader")]
    call(steps=[1], milliseconds=1_000)  # returns 503
    log = run_in_a_process(endpoint, events, POWERTOOLS_SERVICE_NAME=STACK).log
    return set(metrics_in(f"{log}\n{capsys.readouterr().out}"))


def save_again(_request: dict[str, Any], apply: Apply) -> Reply:
    """Save the checkpoint before the call."""
    put_checkpoints(MODEL, [0], entity=ENTITY, artifact_uri={"N": "1"})
    return apply()


def metrics_in(log: str) -> Iterator[Metric]:
    """Yield each metric in a log, including duplicates."""
    for text in log.splitlines():
        if '"_aws"' in text:
            line, _ = json.JSONDecoder().raw_decode(text)
            yield from metrics_of(line)


def watched_metrics(stack: Json) -> set[Metric]:
    """Return each metric that an alarm watches."""
    alarms = alarms_of(stack).values()
    parts = [part for alarm in alarms for part in alarm.get("Metrics", [])]
    watched = [part["MetricStat"]["Metric"] for part in parts if "MetricStat" in part]
    return {
        (
            metric["Namespace"],
            metric["MetricName"],
            frozenset((d["Name"], d["Value"]) for d in metric["Dimensions"]),
        )
        for metric in watched + [alarm for alarm in alarms if "Metrics" not in alarm]
    }


def shown_metrics(stack: Json) -> set[Metric]:
    """Return each metric that the dashboard shows; `*` is any value of a dimension."""
    shown: set[Metric] = set()
    body = json.loads(only(stack, "AWS::CloudWatch::Dashboard")["DashboardBody"])
    for metric in [m for widget in body["widgets"] for m in widget["properties"]["metrics"]]:
        words = [word for word in metric if isinstance(word, str)]
        if words:
            dimensions = frozenset(zip(words[2::2], words[3::2], strict=True))
            shown.add((words[0], words[1], dimensions))
        for search in (word["expression"] for word in metric if "expression" in word):
            match = re.fullmatch(
                r"SEARCH\('\{(\w+),([\w,]+)\} MetricName=\"(\w+)\" (.*)', 'Sum', \d+\)", search
            )
            assert match, search
            fixed = dict(re.findall(r'(\w+)="(\w+)"', match[4]))
            dimensions = frozenset((key, fixed.get(key, "*")) for key in match[2].split(","))
            shown.add((match[1], match[3], dimensions))
    return shown
