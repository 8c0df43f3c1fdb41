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
from cli.template import TEMPLATE
from emulators import STACK
from emulators.dynamodb import REGION, put_checkpoints, put_token
from emulators.invocation import lambda_context
from emulators.records import ARTIFACTS_BUCKET
from emulators.storage import put_objects, queue_events
from events import DELETED_AT, ENTITY, MODEL, Call, make_event, make_stream_record
from faulty_dynamodb import Apply, Endpoint, Reply, pass_on, reject
from function_process import run_in_a_process
from logs import Metric, metrics_of
from template_resolver import Json, deployed, of_type, only

BUCKET = {"ArtifactsBucket": "artifacts"}
TOPIC = "arn:aws:sns:us-east-1:123456789012:alarms"

# The metrics of AWS that are used here, with their dimensions, as its documentation has them.
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

# All refused requests, by reason.
SEARCH = (
    'SEARCH(\'{Checkpoints,reason,service} MetricName="RequestsRefused"'
    f" service=\"{STACK}\"', 'Sum', 60)"
)
REFUSALS = ("Checkpoints", "RequestsRefused", frozenset({("reason", "*"), ("service", STACK)}))


def alarms_of(stack: Json) -> Json:
    return of_type(stack, "AWS::CloudWatch::Alarm")


def test_the_docs_explain_each_alarm_and_no_other() -> None:
    page = TEMPLATE.with_name("docs") / "operations.md"
    explained = re.findall(r"^### (\w+Alarm)$", page.read_text(), re.MULTILINE)

    assert sorted(explained) == sorted(alarms_of(deployed(**BUCKET))), "operations.md, Alarms"


def test_alarms_are_sent_to_the_topic_if_there_is_one_and_missing_data_starts_none() -> None:
    for topic in ({}, {"AlarmTopicArn": TOPIC}):
        for name, alarm in alarms_of(deployed(**BUCKET, **topic)).items():
            assert [*topic.values()] == alarm.get("AlarmActions", []) == alarm.get("OKActions", [])
            assert "notBreaching" == alarm["TreatMissingData"], name
            assert alarm["ComparisonOperator"].startswith("GreaterThan"), name
            assert alarm["Threshold"] > 0, name


def test_a_documented_response_triggers_no_alarm_and_no_rollback(
    call: Call, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the alarms on the functions' own metrics can trigger after a single request."""
    alarms = alarms_of(deployed(**BUCKET))
    own = {n: a["MetricName"] for n, a in alarms.items() if a.get("Namespace") == "Checkpoints"}
    gateway = [a for a in alarms.values() if a.get("Namespace") == "AWS/ApiGateway"]

    responses = [call(steps=[1]), call(steps=[1], token=None), call(body="{"), call(path="/")]
    responses += [call(steps=[1], milliseconds=1_000)]  # not enough time to look up the token
    endpoint.keep_failing("TransactWriteItems", reject(400, "ThrottlingException"))
    responses += [call(steps=[1], milliseconds=4_600)]

    assert [200, 401, 422, 404, 503, 503] == [response.status for response in responses]
    names = [name for _, name, _ in metrics_in(capsys.readouterr().out)]
    assert 2 == names.count("RequestsUnavailable")
    assert {"ReclaimConflictAlarm", "RequestsFailedAlarm"} == set(own)
    assert set(own.values()).isdisjoint(names)
    # The errors of the gateway include each 503. Their average is the rate, and it must last.
    assert [("5XXError", "Average", 0.5, 3)] == [
        (a["MetricName"], a["Statistic"], a["Threshold"], a["EvaluationPeriods"]) for a in gateway
    ]
    assert "DatapointsToAlarm" not in gateway[0]  # so in each of the three periods


@pytest.mark.usefixtures("bucket")
def test_the_dashboard_shows_and_the_alarms_watch_what_is_emitted(
    call: Call, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = deployed(**BUCKET)
    emitted = {
        (namespace, name, dimensions)
        for namespace, name, dimensions in emitted_metrics(call, endpoint, capsys)
        if "function_version" not in dict(dimensions)  # only for the alarms of a canary
    }
    dashboard = only(stack, "AWS::CloudWatch::Dashboard")
    widgets = [widget["properties"] for widget in json.loads(dashboard["DashboardBody"])["widgets"]]
    shown = {shown_metric(metric) for widget in widgets for metric in widget["metrics"]}

    assert emitted == {metric for metric in shown if metric[0] == "Checkpoints"}, (
        "Dashboard in template.yaml"
    )
    assert {REGION} == {widget["region"] for widget in widgets}
    assert REGION in dashboard["DashboardName"]  # stacks in two regions have a dashboard each
    values = {STACK, "prod", *stack, "ReclaimQueue.QueueName", "DeadLetterQueue.QueueName"}
    for namespace, name, dimensions in (shown | watched_metrics(stack)) - emitted:
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
    return {
        (
            metric["Namespace"],
            metric["MetricName"],
            frozenset((d["Name"], d["Value"]) for d in metric["Dimensions"]),
        )
        for alarm in alarms_of(stack).values()
        for metric in [
            part["MetricStat"]["Metric"]
            for part in alarm.get("Metrics", [])
            if "MetricStat" in part
        ]
        or [alarm]
    }


def shown_metric(metric: list[Any]) -> Metric:
    """Return the metric of a line of the dashboard; `*` is any value of a dimension."""
    match [word for word in metric if isinstance(word, str)]:
        case [namespace, name, *words]:
            return namespace, name, frozenset(zip(words[::2], words[1::2], strict=True))
    assert SEARCH == metric[0]["expression"]
    return REFUSALS
