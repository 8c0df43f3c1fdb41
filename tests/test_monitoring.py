"""The alarms and the dashboard show operators what the function emits, and nothing else."""

import json
import re

import pytest

from emulators import STACK
from emulators.dynamodb import REGION, TEMPLATE
from events import make_event
from faulty_dynamodb import Endpoint, reject
from function_process import run_in_a_process
from template_resolver import Json, deployed, of_type, only, policy_of

TOPIC = "arn:aws:sns:us-east-1:123456789012:alarms"

# AWS's own metrics that are of use here, with their dimensions.
AWS_METRICS = {
    "AWS/ApiGateway": (("ApiName", "Stage"), {"Count", "4XXError", "5XXError", "Latency"}),
    "AWS/DynamoDB": (("TableName",), {"ReadThrottleEvents", "WriteThrottleEvents"}),
    "AWS/Lambda": (("FunctionName",), {"Duration", "Errors", "Throttles"}),
}

type Metric = tuple[str, str, frozenset[tuple[str, str]]]  # namespace, name, dimensions


@pytest.fixture(scope="module")
def stack() -> Json:
    """Deploy with all defaults."""
    return deployed()


def alarms_of(stack: Json) -> Json:
    return of_type(stack, "AWS::CloudWatch::Alarm")


def test_alarms_reach_a_human_if_a_topic_is_given(stack: Json) -> None:
    for alarm in alarms_of(stack).values():
        assert {"AlarmActions", "OKActions"}.isdisjoint(alarm)
    for alarm in alarms_of(deployed(AlarmTopicArn=TOPIC)).values():
        assert [TOPIC] == alarm["AlarmActions"] == alarm["OKActions"]


def test_an_alarm_goes_off_above_its_threshold_and_not_for_want_of_requests(stack: Json) -> None:
    for name, alarm in alarms_of(stack).items():
        assert "GreaterThanOrEqualToThreshold" == alarm["ComparisonOperator"], name
        assert "notBreaching" == alarm["TreatMissingData"], name
        assert alarm["DatapointsToAlarm"] <= alarm["EvaluationPeriods"], name


def test_the_readme_explains_each_alarm_and_no_other(stack: Json) -> None:
    readme = TEMPLATE.with_name("README.md").read_text()
    explained = re.findall(r"^\| `(\w+Alarm)` \| .+ \| .+ \|$", readme, re.MULTILINE)

    assert sorted(alarms_of(stack)) == sorted(explained)


def test_an_alarm_watches_each_way_in_which_dynamodb_can_throttle(stack: Json) -> None:
    used = {
        (statement["Resource"].removesuffix(".Arn"), action)
        for statement in policy_of(stack)
        for action in statement["Action"]
        if action.startswith("dynamodb:")
    }

    assert {
        ("WriteThrottleEvents" if action == "dynamodb:DeleteItem" else "ReadThrottleEvents", table)
        for table, action in used
    } == {
        (name, dict(dimensions)["TableName"])
        for namespace, name, dimensions in watched_metrics(stack)
        if namespace == "AWS/DynamoDB"
    }


def test_the_dashboard_shows_and_the_alarms_watch_what_is_emitted(
    stack: Json, endpoint: Endpoint
) -> None:
    emitted = emitted_metrics(endpoint)
    shown = shown_metrics(stack)

    assert emitted == {metric for metric in shown if metric[0] == "Checkpoints"}
    values = {STACK, "prod", *stack}
    for metric in (shown | watched_metrics(stack)) - emitted:
        namespace, name, dimensions = metric
        keys, names = AWS_METRICS[namespace]
        assert name in names
        assert sorted(keys) == sorted(key for key, _ in dimensions)
        assert values >= {value for _, value in dimensions}


def test_stacks_in_two_regions_have_a_dashboard_each(stack: Json) -> None:
    dashboard = only(stack, "AWS::CloudWatch::Dashboard")

    assert REGION in dashboard["DashboardName"]
    widgets = json.loads(dashboard["DashboardBody"])["widgets"]
    assert {REGION} == {widget["properties"]["region"] for widget in widgets}


def emitted_metrics(endpoint: Endpoint) -> set[Metric]:
    """Return each metric that the function emits, from requests that show all.

    The value of the dimension `reason` is left open.
    """
    good = make_event(steps=[1])
    endpoint.fail("GetItem", reject(400, "AccessDeniedException"))
    endpoint.fail("TransactWriteItems", reject(400, "AccessDeniedException"))
    events = [good, good, good, make_event(token=None)]
    log = run_in_a_process(endpoint, events, POWERTOOLS_SERVICE_NAME=STACK).log
    emitted: set[Metric] = set()
    for line in log.splitlines():
        if '"_aws"' not in line:
            continue
        record, _ = json.JSONDecoder().raw_decode(line)
        for directive in record["_aws"]["CloudWatchMetrics"]:
            (keys,) = directive["Dimensions"]
            dimensions = frozenset((k, "*" if k == "reason" else record[k]) for k in keys)
            names = [metric["Name"] for metric in directive["Metrics"]]
            emitted |= {(directive["Namespace"], name, dimensions) for name in names}
            assert set(names) <= set(record)
    return emitted


def watched_metrics(stack: Json) -> set[Metric]:
    return {
        (
            alarm["Namespace"],
            alarm["MetricName"],
            frozenset((d["Name"], d["Value"]) for d in alarm["Dimensions"]),
        )
        for alarm in alarms_of(stack).values()
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
