"""The deletions command says who deleted which checkpoints of a model, and when."""

import json
import re
import time
import uuid
from collections.abc import Callable
from itertools import pairwise
from unittest import mock

import boto3
import pytest

from checkpoints.api import audit
from checkpoints.api.auth import TOKEN_ID_DIGITS, hash_token
from checkpoints.records import batches
from cli.template import read_template
from commands import LOG_GROUP, Delete, Result, gateway, log, run_on_stack
from emulators.dynamodb import put_checkpoints, put_token
from events import ENTITY, TOKEN, Call
from faulty_dynamodb import Endpoint, lose_response, pass_on
from logs import Lines

SEARCHING = f"Searching {LOG_GROUP}\n"
OTHER = "speech-team"
TOKEN_ID = hash_token(TOKEN)[:TOKEN_ID_DIGITS]
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"

type Show = Callable[..., str]


@pytest.fixture
def model() -> str:
    """Return a model of its own, because the log keeps the lines of other tests."""
    return f"team/run {uuid.uuid4()}"


@pytest.fixture
def show(
    model: str, _log_group: None, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> Show:
    """Run the command, and return what it printed, with each time as TIME."""

    def show(*arguments: str, model_id: str = model) -> str:
        result = run_on_stack("deletions", model_id, *arguments, endpoint=endpoint, capsys=capsys)
        assert Result(0, result.stdout, SEARCHING) == result
        return re.sub(TIME, "TIME", result.stdout)

    return show


def put(model: str, *steps: int, entity: str = ENTITY) -> None:
    put_checkpoints(model, steps, entity=entity)


def entry(request: str, *lines: str, who: str = f"{ENTITY}  {TOKEN} ({TOKEN_ID})") -> str:
    """Return what the command prints for a request."""
    ids = (f"function_request_id: {request}", "correlation_id: gateway-request-1")
    return f"TIME  {who}\n" + "".join(f"  {line}\n" for line in (*lines, *ids))


def test_shows_who_deleted_checkpoints_of_a_model_newest_first(
    show: Show, delete: Delete, model: str
) -> None:
    """And neither requests that deleted nothing, nor those of other models."""
    put_token("other", entity=OTHER)
    put(model, 1, 2, 3, 7)
    put(model, 4, entity=OTHER)
    put(f"{model}2", 1)
    first = delete([1, 2, 3, 4], model_id=model)
    second = delete([4], model_id=model, token="other")
    delete([1], model_id=f"{model}2")
    delete([1, 2], model_id=model)
    delete(body='{"steps": [7], "dry_run": true}', model_id=model)
    delete([7], model_id=model, token="unknown")
    delete(body="{}", model_id=model)

    who = f"{OTHER}  other ({hash_token('other')[:TOKEN_ID_DIGITS]})"
    one = entry(first, "Deleted: 3 (1-3)")
    two = entry(second, "Deleted: 1 (4)", who=who)
    assert two + one == show()
    assert entry(first, "Step 2: deleted", "Deleted: 3 (1-3)") == show("--step", "2")
    assert show("--step", "7").startswith(
        f"{LOG_GROUP} shows no deletion of {model} at step 7 since TIME. "
    )


def test_joins_the_lines_of_a_request_and_shows_its_first_steps(
    show: Show, delete: Delete, model: str, endpoint: Endpoint
) -> None:
    """CloudWatch can return a line twice."""
    steps = [*range(0, 220, 2)]
    put(model, *steps)
    endpoint.fail("TransactWriteItems", pass_on)
    endpoint.keep_failing("TransactWriteItems", lose_response)
    with (
        mock.patch.object(audit, "MAX_RANGES_BYTES", 30),
        mock.patch.object(batches, "CONCURRENT_BATCHES", 1),
    ):
        request = delete(steps, model_id=model)
    endpoint.heal()
    log(lines_of(request))

    shown = ",".join(map(str, steps[:20]))
    told = (
        f"Deleted: 100 ({shown} and 80 more ranges)",
        f"Unconfirmed: 10 ({','.join(map(str, steps[100:]))})",
    )
    sure, unsure = "Step 0: deleted", "Step 218: unconfirmed, so it may have been deleted"
    assert entry(request, *told) == show()
    assert entry(request, sure, *told) == show("--step", "0")
    assert entry(request, unsure, *told) == show("--step", "218")
    (found,) = json.loads(show("--json"))
    assert (100, 10, True) == tuple(
        found[name] for name in ("deleted_count", "unconfirmed_count", "complete")
    )
    assert [[step, step] for step in steps] == found["deleted_steps"] + found["unconfirmed_steps"]


def test_escapes_what_could_change_the_terminal(show: Show, delete: Delete, model: str) -> None:
    put_token("red", entity="\x1b[31m", name="\x1b[0m")
    put(model, 1, entity="\x1b[31m")
    request = delete([1], model_id=model, token="red")

    who = rf"'\x1b[31m'  '\x1b[0m' ({hash_token('red')[:TOKEN_ID_DIGITS]})"
    assert entry(request, "Deleted: 1 (1)", who=who) == show()


@pytest.mark.parametrize(("lost", "told"), [(0, "unknown number (4)"), (1, "2 (2)")])
def test_says_if_the_log_does_not_have_all_lines_of_a_request(
    show: Show, delete: Delete, model: str, lost: int, told: str
) -> None:
    """Then it may have deleted the step that is asked for."""
    put(model, 2, 4)
    with mock.patch.object(audit, "MAX_RANGES_BYTES", 10):
        lines = lines_of(delete([2, 4], model_id=model))
    del lines[lost]
    other, request = f"{model} 2", str(uuid.uuid4())
    of_request = '(?<="function_request_id":")[^"]*'
    log(re.sub(of_request, request, line.replace(model, other)) for line in lines)

    shown = show("--step", "3", model_id=other)

    missing = "Some lines of this request are not in the log yet, or are older than --since."
    assert entry(request, "Step 3: unknown", f"Deleted: {told}", missing) == shown


def test_shows_a_request_of_which_the_log_has_only_unconfirmed_steps(
    show: Show, delete: Delete, model: str, endpoint: Endpoint
) -> None:
    put(model, 1)
    endpoint.keep_failing("TransactWriteItems", lose_response)
    *_, line = lines_of(delete([1], model_id=model))
    endpoint.heal()
    log([line.replace(model, f"{model} 2")])

    assert "  Unconfirmed: unknown number (1)\n" in show(model_id=f"{model} 2")


def test_prints_json_for_other_programs(show: Show, delete: Delete, model: str) -> None:
    put(model, -1, 0, 5)
    gateway_id = str(uuid.uuid4())
    request = delete([-1, 0, 5, 6], model_id=model, **gateway(gateway_id))

    (found,) = json.loads(show("--json"))

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+00:00", found.pop("time"))
    assert {
        "function_request_id": request,
        "correlation_id": gateway_id,
        "model_id": model,
        "entity": ENTITY,
        "token_name": TOKEN,
        "token_id": TOKEN_ID,
        "status": 200,
        "deleted_count": 3,
        "unconfirmed_count": 0,
        "protected_count": 0,
        "deleted_steps": [[-1, 0], [5, 5]],
        "unconfirmed_steps": [],
        "complete": True,
    } == found
    assert [] == json.loads(show("--json", "--step=-2"))


@pytest.mark.parametrize(
    "suffix", ['"', "\\", "模型", '" || $.status = "200', "%a%", "*", "x" * 600]
)
def test_finds_any_model_and_lets_cloudwatch_leave_out_other_lines(
    show: Show, delete: Delete, model: str, suffix: str
) -> None:
    """Only a plain id is in the filter pattern: AWS does not say how it escapes others."""
    put(model, 1)
    put(model + suffix, 1)
    plain, other = delete([1], model_id=model), delete([1], model_id=model + suffix)
    session = boto3.Session()
    patterns: list[str] = []
    session.events.register(
        "provide-client-params.cloudwatch-logs.FilterLogEvents",
        lambda params, **_: patterns.append(params["filterPattern"]),
    )

    with mock.patch.object(boto3, "DEFAULT_SESSION", session):
        assert [plain, other] == [
            json.loads(show("--json", model_id=each))[0]["function_request_id"]
            for each in (model, model + suffix)
        ]

    base, condition = patterns[-1].removesuffix(" }"), f' && $.model_id = "{model}" }}'
    assert base + condition == patterns[0]
    messages = set(re.findall(r'\$\.message = "(.*?)"', base))
    assert {each for each in audit.Line if each.startswith("Deletion")} == messages
    assert all(len(pattern) <= 1_024 for pattern in patterns)  # the limit of CloudWatch


def test_looks_back_as_far_as_asked_and_a_week_by_default(
    show: Show, delete: Delete, model: str
) -> None:
    put(model, 1, 2)
    request = delete([1], model_id=model)
    hour, day = 3_600_000, 86_400_000
    (line,) = lines_of(request)
    now = int(time.time() * 1_000)
    for age, number in ((2 * hour, 2), (6 * day, 3), (7 * day + hour, 4)):
        log([line.replace(request, f"request-{number}")], at=now - age)

    assert [1, 2, 3, 4] == [
        show(*since).count("TIME")
        for since in (("--since", "90m"), ("--since", "3h"), (), ("--since", "9d"))
    ]


@pytest.mark.parametrize("argument", ["--since=soon", "--step=x", "--step="])
def test_refuses_what_it_cannot_read(
    endpoint: Endpoint, capsys: pytest.CaptureFixture[str], argument: str
) -> None:
    result = run_on_stack("deletions", "m", argument, endpoint=endpoint, capsys=capsys)

    assert (2, "") == (result.returncode, result.stdout)


def test_prints_no_control_characters(show: Show, delete: Delete, model: str) -> None:
    """A caller can choose the id of the gateway."""
    put(model, 1)
    delete([1], model_id=model, **gateway("\x1b]0;x\x07"))

    assert "  correlation_id: '\\x1b]0;x\\x07'\n" in show()


def test_the_saved_query_shows_the_steps_of_each_line(
    call: Call, lines: Lines, model: str, endpoint: Endpoint
) -> None:
    """CloudWatch splits a list into a field for each element, so the query reads the text."""
    query = read_template()["Resources"]["DeletionsQuery"]["Properties"]["QueryString"]
    (pattern,) = re.findall(r"parse @message /(.*)/", query)
    (shown,) = re.findall(r"\| fields (.*)", query)
    assert {"function_request_id", "correlation_id", "token_id", "kind", "steps"} <= set(
        shown.split(", ")
    )
    put(model, 1, 2, 5)
    call(steps=[1, 2, 5, 6], model_id=model)
    call(steps=[6], model_id=model)
    put(model, *range(110))
    endpoint.keep_failing("TransactWriteItems", lose_response)
    call(steps=[*range(110)], model_id=model)
    endpoint.heal()

    texts = [json.dumps(line, separators=(",", ":")) for line in lines() if "_aws" not in line]

    groups = pattern.replace("?<", "?P<")
    assert [
        ("deleted", "[[1,2],[5,5]]"),
        ("deleted", "[]"),
        ("deleted", "[]"),
        ("unconfirmed", "[[0,109]]"),
    ] == [match.group("kind", "steps") for match in map(re.compile(groups).search, texts) if match]


def lines_of(request: str) -> list[str]:
    """Return the lines of a request, in the order of the log."""
    events = boto3.client("logs").filter_log_events(logGroupName=LOG_GROUP)["events"]
    assert all(one["timestamp"] <= other["timestamp"] for one, other in pairwise(events))
    return [event["message"] for event in events if request in event["message"]]
