"""The prune command, with an in-memory API that injects faults."""

import io
import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints.api import auth, requests
from cli import prune
from cli.main import app as checkpoints
from cli.options import parse_duration
from cli.template import read_template
from commands import http_server
from emulators.aws import ROOT
from events import AUTH_ERRORS, MODEL, TOKEN

SCRIPT = ROOT / "cli" / "prune.py"
README = (ROOT / "README.md").read_text()
URL = "https://api.example.com/Prod"
CLIENT = httpx2.Client
NUMBERS = dict.fromkeys(range(10))
NOW = 1_900_000_000.5

type Respond = Callable[["FakeApi", httpx2.Request], httpx2.Response]


class FakeApi:
    """One model. For each method, `responses` come first.

    `attributes` has the optional ones, such as `size_bytes`, by name and step. The steps in
    `hidden` are protected, although the list does not say so.
    """

    def __init__(self, checkpoints: dict[int, Any], **attributes: dict[int, Any]) -> None:
        self.checkpoints = {step: metrics or {} for step, metrics in checkpoints.items()}
        self.attributes = attributes
        self.hidden: set[int] = set()
        self.responses: dict[str, list[Respond]] = defaultdict(list)
        self.paths: list[str] = []
        self.sent: list[list[int]] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        assert f"Bearer {os.environ['CHECKPOINTS_TOKEN']}" == request.headers["Authorization"]
        self.paths.append(request.url.raw_path.decode())
        if request.method == "DELETE":
            assert len(request.content) < 8_000  # a web ACL can refuse a larger body
            self.sent.append(json.loads(request.content)["steps"])
        responses = self.responses[request.method]
        return (responses.pop(0) if responses else FakeApi.serve)(self, request)

    def serve(self, request: httpx2.Request) -> httpx2.Response:
        """Handle the request."""
        if request.method == "DELETE":
            wanted = set(self.sent[-1])
            protected = wanted & self.checkpoints.keys() & (self.protected | self.hidden)
            found = wanted & self.checkpoints.keys() - protected
            for step in found:
                del self.checkpoints[step]
            absent = sorted(wanted - found - protected)
            body: Any = {"deleted_count": len(found), "not_found_steps": absent}
            body |= {"protected_steps": sorted(protected)} if protected else {}
        else:
            after = request.url.params.get("after")
            steps = [s for s in sorted(self.checkpoints) if not after or s > int(after[1:])]
            page = steps[: int(request.url.params["limit"])]
            data = [
                {"id": f"c{s}", "step": s, "metrics": self.checkpoints[s]}
                | {name: values[s] for name, values in self.attributes.items() if s in values}
                for s in page
            ]
            last = data[-1]["id"] if data else ""
            body = {"data": data, "has_more": len(steps) > len(page), "last_id": last}
        return httpx2.Response(200, json=body)

    @property
    def protected(self) -> set[int]:
        """The steps that the list shows as protected."""
        values = self.attributes.get("protected", {})
        return {step for step, value in values.items() if value is not False}

    def lose(self, request: httpx2.Request) -> httpx2.Response:
        """Handle the request, and lose the response."""
        self.serve(request)
        raise httpx2.ReadTimeout("timed out")

    def break_off(self, request: httpx2.Request) -> httpx2.Response:
        """Handle the request, but a gateway has timed out."""
        self.serve(request)
        return httpx2.Response(504)

    def overtake(self, request: httpx2.Request) -> httpx2.Response:
        """Let another run delete two of the steps first, and the largest step."""
        for step in (*self.sent[-1][:2], max(self.checkpoints)):
            del self.checkpoints[step]
        return self.serve(request)

    def save_anew(self, request: httpx2.Request) -> httpx2.Response:
        """Handle the request, and save a checkpoint again."""
        response = self.serve(request)
        self.checkpoints[4] = {}
        return response

    def delete_some(self, request: httpx2.Request) -> httpx2.Response:
        """Delete three, and then the database is not available."""
        del request
        for step in [step for step in self.sent[-1] if step in self.checkpoints][:3]:
            del self.checkpoints[step]
        body = {"detail": "Not available.", "deleted_count": 3, "unconfirmed_count": 0}
        return httpx2.Response(503, json=body, headers={"Retry-After": "2"})


def respond(status: int, body: Any = None, **headers: str) -> Respond:
    content = body if isinstance(body, str) else json.dumps(body)
    return lambda *_: httpx2.Response(status, content=content, headers=headers)


def named(request_id: str, respond: Respond = FakeApi.serve) -> Respond:
    """Respond as API Gateway, which adds its id of the request."""

    def respond_with_id(api: FakeApi, request: httpx2.Request) -> httpx2.Response:
        response = respond(api, request)
        response.headers["x-amzn-RequestId"] = request_id
        return response

    return respond_with_id


A, B, C, D = (f"{n}a7eb2de-99e8-4C37-bb50-d435662eb245" for n in range(4))


class FakeApis(dict[str, FakeApi]):
    """Several models."""

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        return self[request.url.path.split("/")[-2]](request)

    def serve_http(self, path: str, headers: dict[str, str], body: str) -> tuple[int, str]:
        """Handle a request to an HTTP server."""
        method = "DELETE" if body else "GET"
        response = self(httpx2.Request(method, URL + path, headers=headers, content=body))
        return response.status_code, response.text


class Result(NamedTuple):
    """The exit code and the output of a command, and how long it waited."""

    code: object
    stdout: str
    stderr: str
    waits: list[float]


class Terminal(io.StringIO):
    """Someone at the keyboard."""

    def isatty(self) -> bool:
        return True


class Output(io.StringIO):
    """The output of the command, whose reader can close the pipe, or whose disk can be full."""

    def __init__(self, error: OSError | None = None) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        if text and self.error:
            raise self.error
        return super().write(text)

    def fileno(self) -> int:
        return os.open(os.devnull, os.O_WRONLY)


class Encoded(io.TextIOWrapper):
    """Redirected output in an encoding that lacks most characters."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding)

    def getvalue(self) -> str:
        self.seek(0)
        return self.read()


def run(
    api: FakeApi | FakeApis | None,
    *arguments: str,
    environment: dict[str, str] | None = None,
    width: int = 80,
    **streams: Any,
) -> Result:
    """Run the command, by default without a terminal; without an API, over HTTP.

    The streams are `stdin`, `stdout` and `stderr`; None is one that is closed.
    """
    for console in (prune.OUTPUT, prune.RESULTS, prune.ERRORS):
        vars(console)["_thread_locals"].buffer.clear()  # what could not be written before
    usual = {name: io.StringIO() for name in ("stdin", "stdout", "stderr")}
    waits: list[float] = []
    variables = {"CHECKPOINTS_API_URL": URL, "CHECKPOINTS_TOKEN": TOKEN}
    transport = {"transport": httpx2.MockTransport(api)} if api else {}
    with (
        mock.patch.dict(os.environ, variables | (environment or {})),
        mock.patch.multiple(sys, **(usual | streams)),
        mock.patch.object(prune, "sleep", waits.append),
        mock.patch.object(prune, "time", return_value=NOW),
        mock.patch.object(httpx2, "Client", lambda **options: CLIENT(**(options | transport))),
        mock.patch.object(prune.OUTPUT, "_width", width),
        mock.patch.object(prune.OUTPUT, "quiet", False),  # it is, once its pipe was closed
        mock.patch.object(prune.RESULTS, "quiet", False),
        mock.patch.object(prune.ERRORS, "quiet", False),
        pytest.raises(SystemExit) as exited,
    ):
        prune.app(arguments, prog_name="prune")
    stdout, stderr = (
        (usual | streams)[name].getvalue() if (usual | streams)[name] else ""
        for name in ("stdout", "stderr")
    )
    assert TOKEN not in stdout + stderr
    assert "\x1b" not in stdout + stderr
    return Result(exited.value.code, stdout, stderr, waits)


def test_shows_the_plan_and_deletes_the_rest() -> None:
    api = FakeApi({step: {"val/loss": 100 / step, "lr": 1e-3} for step in range(100, 1_001, 100)})
    del api.checkpoints[300]["val/loss"]

    result = run(api, MODEL, "--keep-last=2", "--keep-best=val/loss:min", "--keep=200,250", "--yes")

    assert (0, []) == (result.code, result.waits)
    assert {200, 900, 1_000} == api.checkpoints.keys()
    assert [[100, 300, 400, 500, 600, 700, 800]] == api.sent
    assert """\
Checkpoints of resnet-50: 10. To keep: 3.

  Step   Kept by              val/loss      lr
 ──────────────────────────────────────────────
   200   listed                    0.5   0.001
   900   last                 0.111111   0.001
  1000   last, min val/loss        0.1   0.001

To delete: 7, at steps 100, 300, 400, 500, 600, 700, 800.
Deleted: 7. Kept: 3.
Request ids: 1 unknown
""" == re.sub(" +$", "", result.stdout, flags=re.MULTILINE)
    assert (
        "--keep-best val/loss:min: Checkpoints without the metric: 1 of 10.\n"
        "--keep 200,250: There is no checkpoint at 250.\n"
    ) == result.stderr


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("first_step", [1, 4_200_000, 10**38 - 9], ids=["small", "usual", "huge"])
@pytest.mark.parametrize("name", ["loss", "validation/retrieval/mean_reciprocal_rank"])
def test_shows_every_digit_of_each_step_in_any_width(
    width: int, first_step: int, name: str
) -> None:
    steps = [first_step + i for i in range(3)]
    values = {step: {f"{i}/{name}": -1.23456e100 for i in range(3)} for step in steps}

    result = run(FakeApi(values), MODEL, "--keep-last=9", f"--keep-best=0/{name}:min", width=width)

    table = result.stdout.partition("─")[2].partition("\n\n")[0]
    assert (0, width) >= (result.code, max(map(len, result.stdout.splitlines()[1:-2])))
    assert "".join(map(str, steps)) in re.sub(r"[^0-9]", "", re.sub(r"\S*[a-z]\S*", "", table))
    assert ["-1.23456e+100"] * table.count("e+100") == re.findall(r"\S*e\+100", table)


def test_shows_a_name_as_it_is_but_escaped_and_only_the_end_of_a_long_one() -> None:
    names = ["eval/retrieval/mean_reciprocal", "[bold]:smile:[/]", "a\x1b"]
    api = FakeApi({1: dict.fromkeys(names, 1)})

    result = run(api, "[red]:x:[/red]", *(f"--keep-best={name}:max" for name in names))

    first, _, heading, _, *row = result.stdout.splitlines()[:8]
    shown = ["…mean_reciprocal", "[bold]:smile:[/]", r"'a\x1b'"]
    assert "Checkpoints of [red]:x:[/red]: 1. To keep: 1." == first
    assert ["Step", "Kept by", *shown] == re.split(" {2,}", heading.strip())
    assert all(f"max {name}" in " ".join(" ".join(row).split()) for name in shown)


def test_has_room_for_the_plan_even_if_the_terminal_says_that_it_has_no_columns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "0")

    assert prune.MIN_WIDTH == runpy.run_path(str(SCRIPT))["OUTPUT"].width


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("utf-8", "模型"), ("cp1252", r"\u6a21\u578b")],
)
def test_prints_an_escape_for_a_character_that_the_encoding_lacks(encoding: str, name: str) -> None:
    api = FakeApi({step: {"模型": step, "eval/retrieval/模型": 1} for step in range(3)})

    result = run(api, "模型", "--keep-best=模型:max", "--yes", stdout=Encoded(encoding))

    assert (0, "", [2]) == (result.code, result.stderr, [*api.checkpoints])
    lines = result.stdout.splitlines()
    assert f"Checkpoints of {name}: 3. To keep: 1." == lines[0]
    assert f"max {name}" in result.stdout
    assert "Deleted: 2. Kept: 1." == lines[-2]


def without_ids(stdout: str) -> str:
    """Remove the lines with request ids, which have a test of their own."""
    return re.sub("^(.: )?Request ids: .*\n", "", stdout, flags=re.MULTILINE)


DISK_FULL = OSError("Disk full")


@pytest.mark.parametrize(
    ("error", "message"),
    [(BrokenPipeError(), ""), (DISK_FULL, "prune: Disk full. Nothing was deleted.\n")],
)
def test_deletes_nothing_if_nobody_can_read_the_plan(error: OSError, message: str) -> None:
    api = FakeApi(NUMBERS)

    result = run(api, MODEL, "--keep-last=2", "--yes", stdout=Output(error))

    assert (1, message, []) == (result.code, result.stderr, api.sent)


@pytest.mark.parametrize("error", [BrokenPipeError(), DISK_FULL])
@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_finishes_and_says_so_where_somebody_can_read_it(error: OSError, closed: str) -> None:
    api = FakeApi(NUMBERS)
    streams: dict[str, Any] = {"stdout": Output(), "stderr": Output()}

    def close(api: FakeApi, request: httpx2.Request) -> httpx2.Response:
        streams[closed].error = error
        return DOWN(api, request)

    api.responses["DELETE"] = [close]

    result = run(api, MODEL, "--keep-last=2", "--yes", **streams)

    assert (0, [8, 9]) == (result.code, [*api.checkpoints])
    told = result.stdout if closed == "stderr" else result.stderr
    assert told.endswith("Deleted: 8. Kept: 2.\nRequest ids: 1 unknown\n")


@pytest.mark.parametrize(
    ("options", "reason", "left"),
    [([], ". Nothing was deleted.", 10), (["--json"], "", 1)],
    ids=["plan", "json"],
)
def test_ends_with_its_own_exit_code_if_the_disk_is_full(
    options: list[str], reason: str, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's own would be 120, for what it cannot write at exit."""
    apis = FakeApis({MODEL: FakeApi(NUMBERS)})
    monkeypatch.setenv("CHECKPOINTS_TOKEN", TOKEN)
    monkeypatch.setenv("PYTHONUNBUFFERED", "")
    with http_server(apis.serve_http) as url, Path("/dev/full").open("w") as full:
        monkeypatch.setenv("CHECKPOINTS_API_URL", url)
        process = subprocess.run(  # noqa: S603 it is ours
            [sys.executable, SCRIPT, MODEL, "--keep-last=1", "--yes", *options],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )

    assert (1, left) == (process.returncode, len(apis[MODEL].checkpoints))
    message = process.stderr.splitlines()[-1]
    assert f"prune: [Errno 28] No space left on device{reason}" == message


HUGE = 10**38 - 1
MEASURED: dict[int, Any] = {
    -HUGE: {"loss": 0.5, "a=3": 1},
    -2: {"loss": 0.1, "a:min:x": 1},
    0: None,
    3: {"loss": 0.1, "count": HUGE},
    HUGE: {"loss": -0.1, "count": HUGE - 1},
}


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ("--keep-last=9", MEASURED.keys()),
        ("--keep-best=loss:max=2", {-HUGE, 3}),  # of equal ones the later
        ("--keep-best=count:max", {3}),  # where a float would see no difference
        ("--keep-best=a=3:max", {-HUGE}),
        ("--keep-best=a:min:x:min=1", {-2}),
        ("--keep=-2-0,3,7", {-2, 0, 3}),
        (f"--keep=-{HUGE}--1", {-HUGE, -2}),
        ("--all", set()),
        # Twice
        ("--keep-last=1 --keep-last 2", {3, HUGE}),
        ("--keep-best=loss:min --keep-best=count:max", {3, HUGE}),
        ("--keep-every=2 --keep-every=9", {-HUGE, -2, 0, HUGE}),
        ("--keep -2,0 --keep=3", {-2, 0, 3}),
    ],
)
def test_reads_each_rule(rules: str, kept: set[int]) -> None:
    api = FakeApi(MEASURED)
    options = ["--delete-unscored"] if "best" in rules else []

    assert 0 == run(api, MODEL, *rules.split(), *options, "--yes").code
    assert kept == api.checkpoints.keys()


def best(found: dict[int, Any], metric: str, choose: Callable[..., Any]) -> set[int]:
    values = {step: found[step][metric] for step in found if metric in found[step]}
    if not values:
        return set()
    winner = max(step for step in values if values[step] == choose(values.values()))
    return {winner, *(step for step in found if step > max(values))}


RULES: dict[str, Callable[[dict[int, Any], dict[int, Any]], set[int]]] = {
    "--keep-last=2": lambda found, _: set(sorted(found, reverse=True)[:2]),
    "--keep-best=a:max": lambda found, _: best(found, "a", max),
    "--keep-best=b:min": lambda found, _: best(found, "b", min),
    "--keep-every=3": lambda found, _: {step for step in found if step % 3 == 0},
    "--keep=-1,5-9": lambda found, _: found.keys() & {-1, 5, 6, 7, 8, 9},
    "--keep-newer-than=1m": lambda found, times: {s for s in found if times.get(s, 0) > NOW - 60},
}
STEPS = st.integers(-10, 10) | st.integers(-HUGE, HUGE)
METRICS = st.dictionaries(st.sampled_from("ab"), st.integers(-2, 2) | st.floats(-1, 1))


TIMES = st.sampled_from([int(NOW) - 60, int(NOW) - 59, int(NOW) + 99])
CHECKPOINTS = st.dictionaries(
    STEPS, st.tuples(METRICS, TIMES | st.none(), st.booleans()), min_size=1
)


@settings(deadline=None)
@given(CHECKPOINTS, st.sets(st.sampled_from([*RULES]), min_size=1))
def test_deletes_exactly_what_no_rule_keeps_and_is_not_protected(
    checkpoints: dict[int, Any], rules: set[str]
) -> None:
    found = {step: metrics for step, (metrics, _, _) in checkpoints.items()}
    times = {step: time for step, (_, time, _) in checkpoints.items() if time is not None}
    protected = {step for step, (_, _, is_protected) in checkpoints.items() if is_protected}
    kept = {rule: RULES[rule](found, times) for rule in rules}
    api = FakeApi(found, created_at=times, protected=dict.fromkeys(protected, True))

    result = run(api, MODEL, *rules, "--yes")

    may_keep_nothing = {"--keep-every=3"} if max(found) < 3 else set()
    may_keep_nothing |= {"--keep-newer-than=1m"} if not kept.get("--keep-newer-than=1m") else set()
    fails = any(not steps and rule not in may_keep_nothing for rule, steps in kept.items())
    stays = set().union(*kept.values()) | protected
    fails |= "--keep-newer-than=1m" in rules and not found.keys() <= times.keys() | stays
    if fails or rules <= may_keep_nothing:
        stays = set(found)
    assert int(fails) == result.code
    assert stays == api.checkpoints.keys()
    assert sorted(found.keys() - stays) == [step for steps in api.sent for step in steps]


@pytest.mark.parametrize(
    ("first", "sizes"),
    [(0, [1_000, 1_000, 10]), (10**7, [887, 887, 236]), (-HUGE, [199] * 10 + [20])],
)
def test_lists_all_pages_and_deletes_in_batches(first: int, sizes: list[int]) -> None:
    api = FakeApi(dict.fromkeys(range(first, first + 2_015)))

    result = run(api, MODEL, "--keep-last=5", "--yes")

    assert (0, 5) == (result.code, len(api.checkpoints))
    last = first + 2_009
    assert (
        f"\nTo delete: 2,010, the first at step {first}, the last at step {last}.\n"
        in result.stdout
    )
    assert sizes == [len(steps) for steps in api.sent]
    path = f"/Prod/v1/preview/models/{MODEL}/checkpoints"
    assert [f"{path}?limit=100", f"{path}?limit=100&after=c{first + 99}"] == api.paths[:2]
    assert 21 + len(sizes) + 1 == len(api.paths)


def test_never_sends_a_step_that_was_saved_while_it_runs() -> None:
    class Training(FakeApi):
        def __call__(self, request: httpx2.Request) -> httpx2.Response:
            self.checkpoints[10_000 + len(self.paths)] = {}
            return super().__call__(request)

    api = Training(dict.fromkeys(range(1_500)))

    result = run(api, MODEL, "--keep-every=100", "--yes")

    assert 0 == result.code
    sent = {step for steps in api.sent for step in steps}
    assert all(step % 100 and step not in api.checkpoints for step in sent)
    assert "Saved at new steps meanwhile, and kept: " in result.stdout


def kept_by(stdout: str) -> dict[int, str]:
    """Return the column "Kept by" of the table."""
    rows = re.findall(r"^ +(-?\d+) {3}(\S+(?: \S+)*)", stdout, re.MULTILINE)
    return {int(step): reasons for step, reasons in rows}


@pytest.mark.parametrize(
    ("losses", "value", "kept", "note"),
    [
        (
            [None, 0.1, 0.3, None, 0.2, None, None],
            "loss:min",
            {1: "min loss", 5: "no loss yet", 6: "no loss yet"},
            "Checkpoints without the metric: 4 of 7.",
        ),
        (
            [None, 0.1, None, None],
            "loss:min=3",
            {0: "no loss", 1: "min loss", 2: "no loss yet", 3: "no loss yet"},
            "Fewer than 3 checkpoints have the metric: 1 of 4.",
        ),
    ],
)
@pytest.mark.parametrize("options", [[], ["--delete-unscored"]])
def test_keeps_checkpoints_that_may_not_be_evaluated_yet(
    losses: list[float | None], value: str, kept: dict[int, str], note: str, options: list[str]
) -> None:
    api = FakeApi({i: None if loss is None else {"loss": loss} for i, loss in enumerate(losses)})

    result = run(api, MODEL, f"--keep-best={value}", *options, "--yes")

    if options:
        kept = {step: reason for step, reason in kept.items() if "no loss" not in reason}
    elif note.startswith("Fewer"):
        note += " So this rule keeps every checkpoint."
    assert 0 == result.code
    assert kept == kept_by(result.stdout)
    assert kept.keys() == api.checkpoints.keys()
    assert f"--keep-best {value}: {note}\n" == result.stderr


@pytest.mark.parametrize(
    ("rule", "note"),
    [
        ("--keep-best val/los:min=3", " The metrics are: lr, val/loss."),
        ("--keep 20-30,99", " There is no checkpoint at 20-30, 99."),
        ("--keep-every 51", ""),
    ],
)
@pytest.mark.parametrize("best", [[], ["--keep-best=lr:max", "--delete-unscored"]])
def test_refuses_a_rule_that_keeps_nothing(rule: str, note: str, best: list[str]) -> None:
    api = FakeApi({1: {"val/loss": 1}, 52: {"lr": 1}})

    result = run(api, MODEL, "--keep-last=1", *rule.split(), *best, "--yes")

    assert (1, "", 1) == (result.code, result.stdout, len(api.paths))
    reason = f"{rule} keeps nothing.{note} Change or remove this rule."
    assert f"prune: {reason} Nothing was deleted.\n" == result.stderr


def test_says_until_when_keep_every_alone_deletes_nothing() -> None:
    api = FakeApi(NUMBERS, protected={8: True})

    result = run(api, MODEL, "--keep-every=10", "--yes")
    as_json = run(api, MODEL, "--keep-every=10", "--yes", "--json")

    assert (0, []) == (result.code, api.sent)
    assert result.stderr == (
        "--keep-every 10: This rule alone deletes nothing until a step reaches 10. "
        "The largest step is 9.\n"
    )
    assert result.stdout.startswith("Checkpoints of resnet-50: 10. To keep: 10.\n")
    assert result.stdout.endswith(
        "The rules keep nothing, so nothing is deleted. To delete everything, use --all.\n"
    )
    reasons = {step: ["no rule keeps anything"] for step in NUMBERS}
    reasons[8] = ["no rule keeps anything", "protected"]
    assert {step: ", ".join(each) for step, each in reasons.items()} == kept_by(result.stdout)
    (model,) = json.loads(as_json.stdout)["models"]
    assert [{"step": step, "reasons": each} for step, each in reasons.items()] == model["keep"]
    assert [] == model["delete"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["", "--all"],
        ["a\x1bb", "--all"],
        [MODEL, "", "--all"],
        ["\udcff", "--all"],
        [MODEL],
        [MODEL, "--all", "--keep-last=1"],
        [MODEL, "--keep-last=1", "--token=s3cret"],
        [MODEL, "--keep-last=1", "--delete-unscored"],
        *([MODEL, f"--keep-last={text}"] for text in ["0", "-1", "x", "1.5", "", "9" * 5_000]),
        [MODEL, "--keep-every=0"],
        *([MODEL, f"--keep-best={text}"] for text in ["", ":min", "=3", "loss:min=", "a:min=b"]),
        *([MODEL, f"--keep-best={text}"] for text in ["loss", "loss:MAX=3", "loss:", "a:min:x"]),
        *([MODEL, f"--keep-best=loss:min={text}"] for text in ["0", "-1", "1.5", "٣"]),
        *([MODEL, f"--keep-newer-than={text}"] for text in ["", "0h", "1", "1w", "-1d", "36501d"]),
        *([MODEL, f"--keep={text}"] for text in ["", "1,", "2-1", "1-2-3", "a", "٣", "9" * 5_000]),
    ],
    ids=lambda arguments: ascii(arguments)[:40],
)
@pytest.mark.parametrize("json_option", [[], ["--json"]], ids=["", "json"])
def test_refuses_invalid_arguments(arguments: list[str], json_option: list[str]) -> None:
    api = FakeApi(NUMBERS)

    result = run(api, *arguments, *json_option)

    assert (2, "", []) == (result.code, result.stdout, api.paths)
    assert "Error" in result.stderr
    assert "s3cret" not in result.stderr


@pytest.mark.parametrize(
    ("value", "metric"),
    [
        ("loss:min", "loss:min"),
        ("loss:min=3", "loss:min"),
        ("loss:min=3", "loss:min=3"),
        ("a b:max:max", "a b:max:max"),
    ],
)
@pytest.mark.parametrize("other", ["loss", "lr"])
def test_does_not_guess_whether_the_direction_is_a_part_of_the_name(
    value: str, metric: str, other: str
) -> None:
    api = FakeApi({1: {metric: 1}, 2: {other: 2, "a b:max": 1}, 3: {}})

    result = run(api, MODEL, f"--keep-best={value}", "--keep-last=1", "--yes")

    assert (1, "", 1) == (result.code, result.stdout, len(api.paths))
    assert result.stderr == (
        f"prune: --keep-best {value} is not clear, because there is a metric {metric}. For that "
        f"metric, write {metric}:min or {metric}:max. Nothing was deleted.\n"
    )


TOKENS = ["", " ", "s3cret\ns3cret", "s3crét", "s3cret s", "s3cret\\", "s3cret'"]
URLS = ["", "api.example.com", "ftp://a", "https://", "http://[::1", "https://a b"]
URLS += ["https://a..b", "https://a:65536"]
URLS += ["https://a/?s3cret", "https://a/#s3cret", "https://user:s3cret@a"]
SETTINGS = {"CHECKPOINTS_TOKEN": TOKENS, "CHECKPOINTS_API_URL": URLS}


@pytest.mark.parametrize(
    ("variable", "value"), [(name, value) for name in SETTINGS for value in SETTINGS[name]]
)
def test_says_which_setting_is_wrong_without_printing_it(variable: str, value: str) -> None:
    api = FakeApi(NUMBERS)

    result = run(api, MODEL, "--all", "--yes", environment={variable: value})

    assert (2, "", []) == (result.code, result.stdout, api.paths)
    assert f"Set {variable} to" in result.stderr
    assert "s3cr" not in result.stderr


@pytest.mark.parametrize(
    "settings",
    [
        {"ALL_PROXY": "socks5://s3cret@a:1"},
        {"https_proxy": "ftp://s3cret@a"},
        {"https_proxy": "a:s3cret"},
        {"SSL_CERT_FILE": str(SCRIPT)},
        {"SSL_CERT_FILE": "/missing", "CHECKPOINTS_API_URL": "https://localhost"},
    ],
    ids=str,
)
def test_names_the_settings_that_keep_the_http_client_from_starting(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if re.search("(?i)_proxy$|^SSL", name)]:
        monkeypatch.delenv(name)

    result = run(None, MODEL, "--all", "--yes", environment=settings)

    assert (1, "") == (result.code, result.stdout)
    hints = f"{prune.PROXY_HINT} {prune.CERTIFICATE_HINT}"
    assert f"prune: The HTTP client cannot start. {hints} Nothing was deleted.\n" == result.stderr


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (httpx2.ProxyError("407 Proxy Authentication Required"), 1),
        (httpx2.ProxyError("502 No"), 6),
        (httpx2.ConnectError("Connection refused"), 6),
        (UnicodeError("label empty"), 6),  # in the name of the proxy
    ],
)
def test_names_the_settings_of_the_proxy_if_there_is_no_connection(
    error: Exception, attempts: int
) -> None:
    api = FakeApi(NUMBERS)
    api.responses["DELETE"] = [mock.Mock(side_effect=error)] * attempts

    result = run(api, MODEL, "--keep-last=1", "--yes")

    assert (1, attempts) == (result.code, len(result.waits) + 1)
    hints = f"{prune.URL_HINT} {prune.PROXY_HINT}"
    assert f"No response: {error}. {hints} Deleted: 0 of 9." in result.stderr


@pytest.mark.parametrize(
    ("model", "segment"),
    [("a/b é", "a%2Fb%20%C3%A9"), (".", "%2E"), ("..", "%2E%2E"), ("%2e?#", "%252e%3F%23")],
)
def test_asks_for_the_model_that_was_named(model: str, segment: str) -> None:
    api = FakeApi({})

    result = run(api, model, "--all", environment={"CHECKPOINTS_API_URL": f" {URL}/ "})

    assert 0 == result.code
    assert f"{model} has no checkpoints that this token can see.\n" == result.stdout
    assert [f"/Prod/v1/preview/models/{segment}/checkpoints?limit=100"] == api.paths


def interrupted() -> Terminal:
    """Return a keyboard where somebody presses Ctrl-C."""
    keyboard = Terminal()
    vars(keyboard)["readline"] = mock.Mock(side_effect=KeyboardInterrupt)
    return keyboard


NOT_CONFIRMED = "prune: Not confirmed. Nothing was deleted.\n"
NO_TERMINAL = "prune: Without a terminal, add --yes to confirm. Nothing was deleted.\n"


@pytest.mark.parametrize(
    ("streams", "options", "code", "message"),
    [
        ({"stdin": Terminal("y\n")}, [], 0, ""),
        ({"stdin": Terminal(" YES \n")}, [], 0, ""),
        ({"stdin": Terminal("n\n")}, [], 1, NOT_CONFIRMED),
        ({"stdin": Terminal("\n")}, [], 1, NOT_CONFIRMED),
        ({"stdin": Terminal("")}, [], 1, f"\n{NOT_CONFIRMED}"),  # Ctrl-D
        ({"stdin": interrupted()}, [], 130, "\nprune: Interrupted. Nothing was deleted.\n"),
        ({"stdin": io.StringIO("y\n")}, [], 1, NO_TERMINAL),
        ({"stdin": None}, [], 1, NO_TERMINAL),
        ({"stdin": Terminal("y\n"), "stdout": None}, [], 1, NO_TERMINAL),
        ({}, ["--yes"], 0, ""),
        ({"stdin": Terminal("y\n")}, ["--dry-run", "--yes"], 0, ""),
    ],
)
def test_shows_the_plan_and_deletes_only_after_a_yes(
    streams: dict[str, Any], options: list[str], code: int, message: str
) -> None:
    api = FakeApi(NUMBERS)

    result = run(api, MODEL, "--keep-last=1", *options, **streams)

    assert (code, message) == (result.code, result.stderr)
    assert (1 if code == 0 and "--dry-run" not in options else 10) == len(api.checkpoints)
    if "stdout" not in streams:
        assert "To delete: 9, the first at step 0, the last at step 8.\n" in result.stdout
        asks = not options and message != NO_TERMINAL
        assert asks == ("Delete them? [y/N]" in result.stdout)


NO_SCOPE = "The token lacks the scope checkpoints:delete"
NOT_RESPONSES = [
    "<html>",
    '{"data": [], "deleted_count": -1}',
    *(
        f'{{"data": [{{"step": {step}, "metrics": {{"a": {metric}}}}}], "has_more": false}}'
        for step, metric in [
            *(("1.5", 1), ('"1"', 1)),
            *(("1", metric) for metric in ("NaN", "1e999", 10**400, "true")),
        ]
    ),
]
NO_RESPONSE = "This is not a response of the checkpoints API. Set CHECKPOINTS_API_URL to"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (respond(401, {"detail": "Invalid token"}), "401 Invalid token. Set CHECKPOINTS_TOKEN to"),
        (respond(403, {"detail": NO_SCOPE}), f"403 {NO_SCOPE}. Ask for a token with the scopes"),
        *(
            (respond(403, body), f"403 Forbidden. {prune.URL_HINT} {prune.BLOCKED_HINT}")
            for body in ({"message": "Forbidden"}, {"detail": "Forbidden"}, "<html>")
        ),
        (respond(404, {"detail": "Not Found"}), "404 Not Found. Set CHECKPOINTS_API_URL to"),
        (
            mock.Mock(side_effect=httpx2.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] Oops")),
            f"CERTIFICATE_VERIFY_FAILED] Oops. {prune.CERTIFICATE_HINT}",
        ),
        (respond(413, {"detail": "Too large."}), "413 Too large."),
        (respond(422, {"detail": [{"msg": "a\x1b[2J"}]}), "422 [{'msg': 'a\\x1b[2J'}]."),
        (respond(400, {"detail": "x" * 9_999}), "400 xxx"),
        (respond(302, "", Location="https://elsewhere.example.com"), "302 Found. Set CHECKPOINTS_"),
        *((respond(200, body), NO_RESPONSE) for body in NOT_RESPONSES),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_stops_at_a_refusal_and_says_what_to_do(
    method: str, refusal: Respond, message: str
) -> None:
    api = FakeApi(NUMBERS)
    api.responses[method] = [refusal]

    result = run(api, MODEL, "--keep-last=1", "--yes")

    assert (1, 10, []) == (result.code, len(api.checkpoints), result.waits)
    assert {"GET": 1, "DELETE": 2}[method] == len(api.paths)
    assert message in result.stderr[:500] == result.stderr
    assert ("Deleted: 0 of 9" in result.stderr) == (method == "DELETE")
    assert "run the command again" not in result.stderr


LONG_TOKEN = "Zq3-_xYv" * 5 + "Zq="


@pytest.mark.parametrize(
    "text",
    [
        *(f"{'x' * before}{LONG_TOKEN}" for before in (0, 290)),
        f"Bearer {LONG_TOKEN[:8]}",
        f"Bearer {LONG_TOKEN[-8:]}",
        LONG_TOKEN.lower(),
        LONG_TOKEN.upper(),
        "\r\n".join(LONG_TOKEN),
        LONG_TOKEN.replace("-", "").replace("_", " "),
    ],
)
@pytest.mark.parametrize(
    "answer",
    [
        lambda text: respond(400, {"detail": text}),
        lambda text: lambda *_: httpx2.Response(403, extensions={"reason_phrase": text.encode()}),
        lambda text: mock.Mock(side_effect=httpx2.ReadError(text)),
    ],
    ids=["detail", "reason phrase", "no response"],
)
def test_prints_no_message_with_a_part_of_the_token(
    text: str, answer: Callable[[str], Respond]
) -> None:
    api = FakeApi(NUMBERS)
    api.responses["GET"] = [answer(text)] * prune.MAX_ATTEMPTS

    result = run(
        api, MODEL, "--keep-last=1", "--yes", environment={"CHECKPOINTS_TOKEN": LONG_TOKEN}
    )

    assert 1 == result.code
    assert "[a message with the token]." in result.stderr
    assert not re.search("zq|xx", result.stderr, re.IGNORECASE)


@pytest.mark.parametrize("token", ["-._~+/", "Bad-reqs-token"])
def test_prints_a_message_without_the_token(token: str) -> None:
    api = FakeApi(NUMBERS)
    api.responses["GET"] = [respond(422, {"detail": "Bad request: token"})]

    result = run(api, MODEL, "--keep-last=1", "--yes", environment={"CHECKPOINTS_TOKEN": token})

    assert result.stderr == "prune: 422 Bad request: token. Nothing was deleted.\n"


DETAIL = {"detail": "No"}
PERHAPS = ", and perhaps some more"


@pytest.mark.parametrize(
    ("response", "perhaps"),
    [
        *((respond(status, DETAIL), "") for status in (401, 404, 413, 422, 429)),
        (respond(403, {"detail": NO_SCOPE}), ""),
        (respond(503, {**DETAIL, "unconfirmed_count": 0}), ""),
        *((respond(status), PERHAPS) for status in (202, 302, 401, 404, 413, 422, 429, 500)),
        *((respond(status, DETAIL), PERHAPS) for status in (202, 204, 302, 403, 408, 409, 499)),
        *((respond(422, body), PERHAPS) for body in ({"message": "No"}, "<html>", {"detail": ""})),
        (respond(408, {**DETAIL, "unconfirmed_count": 0}), PERHAPS),
    ],
)
def test_says_that_nothing_was_deleted_only_if_the_api_refused(
    response: Respond, perhaps: str
) -> None:
    api = FakeApi(NUMBERS)
    api.responses["DELETE"] = [response] * prune.MAX_ATTEMPTS

    result = run(api, MODEL, "--keep-last=1", "--yes")

    assert 1 == result.code
    assert f" Deleted: 0 of 9{perhaps}." in result.stderr


def test_agrees_with_the_api() -> None:
    """The script is a single file, so it repeats these facts."""
    assert {kind.status for kind in AUTH_ERRORS} <= prune.HINTS.keys(), "HINTS in cli/prune.py"
    for scope in (auth.READ_SCOPE, auth.DELETE_SCOPE):
        refusal = auth.InsufficientScopeError(scope)
        assert refusal.detail.startswith(prune.LACKS_SCOPE)
        assert scope in prune.HINTS[403]
        assert scope in str(prune.prune.__doc__)
    assert requests.MAX_PAGE_SIZE == prune.PAGE_SIZE
    function = read_template()["Resources"]["ApiFunction"]["Properties"]
    assert function["Timeout"] < prune.TIMEOUT.read


def more(last_id: str, *steps: int) -> Respond:
    """Respond with a page that is not the last one."""
    data = [{"step": step, "metrics": {}} for step in steps]
    return respond(200, {"data": data, "has_more": True, "last_id": last_id})


@pytest.mark.parametrize(
    "pages",
    [
        [more("c1", 1), more("c1", 1)],
        [more("c1", 1), more("c1", 2)],
        [more("c2", 1, 2), more("c3", 2, 3)],
        [more("c2", 1, 2), more("c0", 0)],
        [more("c2", 1, 2), more("c3")],
        [more("c2", 2, 1)],
        [more("c2", 2, 2)],
        [more("", 1), more("", 2)],
        [more("")],
    ],
)
def test_stops_at_a_list_that_does_not_end(pages: list[Respond]) -> None:
    api = FakeApi(NUMBERS)
    api.responses["GET"] = [*pages]

    result = run(api, MODEL, "--keep-last=1", "--yes")

    assert (1, len(pages), []) == (result.code, len(api.paths), api.sent)
    assert result.stderr == (
        "prune: The API's list of checkpoints does not end. Nothing was deleted.\n"
    )


REFUSED = mock.Mock(side_effect=httpx2.ConnectError("Connection refused"))
INTERRUPTED = mock.Mock(side_effect=KeyboardInterrupt)
BUSY = respond(429, {"detail": "Busy"}, **{"Retry-After": "0.5"})
DOWN = respond(503, {"detail": "Down", "deleted_count": 0, "unconfirmed_count": 0})
LATE = [respond(504, "", **{"Retry-After": text}) for text in ["9999", "Fri, 1", "nan"]]
LOST = "Already deleted, or deleted by a request that failed"


@pytest.mark.parametrize(
    ("responses", "waits", "outcome"),
    [
        ([DOWN, FakeApi.overtake], [2], "Deleted: 6. Kept: 1.\nAlready deleted: 2.\n"),
        ([BUSY, DOWN, REFUSED], [0.5, 4, 8], "Deleted: 8. Kept: 2.\n"),
        ([respond(408)], [2], "Deleted: 8. Kept: 2.\n"),
        ([FakeApi.delete_some] * 2, [2, 2], "Deleted: 8. Kept: 2.\n"),
        ([FakeApi.lose], [2], f"Deleted: 0. Kept: 2.\n{LOST}: 8.\n"),
        ([FakeApi.delete_some, FakeApi.lose], [2, 4], f"Deleted: 3. Kept: 2.\n{LOST}: 5.\n"),
        (LATE, [60, 4, 8], "Deleted: 8. Kept: 2.\n"),
    ],
)
def test_retries_after_a_pause_and_counts_correctly(
    responses: list[Respond], waits: list[float], outcome: str
) -> None:
    api = FakeApi(NUMBERS)
    api.responses["GET"] = [LATE[0]]
    api.responses["DELETE"] = [*responses]

    result = run(api, MODEL, "--keep-last=2", "--yes")

    assert (0, [60, *waits]) == (result.code, result.waits)
    assert without_ids(result.stdout).endswith(f"at steps 0, 1, 2, 3, 4, 5, 6, 7.\n{outcome}")
    assert all(list(range(8)) == steps for steps in api.sent)


EXPIRED = respond(401, {"detail": "No"})
NO_TOKEN = "401 No. Set CHECKPOINTS_TOKEN to a token that is not revoked or expired."
LISTED = [FakeApi.serve] * 15  # all pages
RUN_AGAIN = "To finish, run the command again."
MORE = f"and perhaps some more. {RUN_AGAIN}"
ALL = "All 1,499 checkpoints in the plan are deleted, but this could not be checked."
GAVE_UP = "Gave up after 6 attempts. 500 Oops."
OOPS = [respond(500, {"detail": "Oops"})] * prune.MAX_ATTEMPTS


@pytest.mark.parametrize(
    ("gets", "deletes", "code", "left", "message"),
    [
        ([INTERRUPTED], [], 130, 1_500, "Interrupted. Nothing was deleted."),
        (OOPS, [], 1, 1_500, f"{GAVE_UP} Nothing was deleted."),
        # A list that counts deletions makes no progress.
        (
            [respond(500, {"detail": "Oops", "deleted_count": 3})] * 6,
            [],
            1,
            1_500,
            f"{GAVE_UP} Nothing was deleted.",
        ),
        (
            [],
            [FakeApi.serve, INTERRUPTED],
            130,
            500,
            f"Interrupted. Deleted: 1,000 of 1,499, {MORE}",
        ),
        ([], [FakeApi.serve, EXPIRED], 1, 500, f"{NO_TOKEN} Deleted: 1,000 of 1,499."),
        ([], [FakeApi.delete_some] * 9 + OOPS, 1, 1_473, f"{GAVE_UP} Deleted: 27 of 1,499, {MORE}"),
        # More than the request can delete is no progress.
        (
            [],
            [respond(503, {"detail": "Oops", "deleted_count": 400, "unconfirmed_count": 0})] * 99,
            1,
            1_500,
            f"Gave up after 6 attempts. 503 Oops. Deleted: 1,000 of 1,499. {RUN_AGAIN}",
        ),
        ([*LISTED, INTERRUPTED], [], 130, 1, f"Interrupted. {ALL}"),
        ([*LISTED, EXPIRED], [], 1, 1, f"{NO_TOKEN} {ALL}"),
        (
            [],
            [FakeApi.save_anew],
            1,
            2,
            "Not deleted, or saved again: 1, the first at step 4. Run the command again.",
        ),
    ],
)
def test_says_how_much_is_deleted_if_not_everything_is_done(
    gets: list[Respond], deletes: list[Respond], code: int, left: int, message: str
) -> None:
    api = FakeApi(dict.fromkeys(range(1_500)))
    api.responses |= {"GET": [*gets], "DELETE": [*deletes]}

    result = run(api, MODEL, "--keep-last=1", "--yes")

    assert (code, left) == (result.code, len(api.checkpoints))
    assert f"prune: {message}" == result.stderr.splitlines()[-1]


SIZED = {step: {"loss": 1} for step in range(100, 501, 100)}
SIZES = dict.fromkeys(SIZED, 3100000000)


@pytest.mark.parametrize(
    ("sizes", "kept", "deleted"),
    [
        (SIZES, " (6.2 GB)", " (9.3 GB)"),
        (
            {100: 999, 500: 1_000},
            " (1.0 kB, size known for 1 of 2)",
            " (999 bytes, size known for 1 of 3)",
        ),
        ({100: 0, 200: 0, 300: 0}, " (size known for 0 of 2)", " (0 bytes)"),
        # A wrong type is no size.
        (dict.fromkeys(SIZED, "3"), "", ""),
        (dict(zip(SIZED, [-1, 1.5, None, True, 10**38], strict=True)), "", ""),
    ],
)
def test_shows_the_size_of_what_is_kept_and_deleted_as_far_as_it_is_known(
    sizes: dict[int, Any], kept: str, deleted: str
) -> None:
    result = run(FakeApi(SIZED, size_bytes=sizes), MODEL, "--keep-last=2", "--dry-run")

    lines = result.stdout.splitlines()
    assert f"Checkpoints of resnet-50: 5. To keep: 2{kept}." == lines[0]
    assert f"To delete: 3{deleted}, at steps 100, 200, 300." == lines[-1]
    has_column = {400, 500} & sizes.keys() and kept
    heading = f"Step   Kept by {'    Size' if has_column else ''}   loss"
    assert re.split(" +", heading) == re.split(" +", lines[2].strip())


def test_drops_the_column_with_sizes_only_after_all_metrics() -> None:
    api = FakeApi({10**37: {"loss": 1}}, size_bytes={10**37: 12_400_000_000})

    outputs = [run(api, MODEL, "--keep-last=1", width=width).stdout for width in range(80, 40, -1)]

    shown = [("  12.4 GB" in each, "Metrics not shown: 1." not in each) for each in outputs]
    assert [(True, True), (True, False), (False, False)] == [*dict.fromkeys(shown)]


@pytest.mark.parametrize(
    ("rules", "reasons"),
    [
        (["--keep-last=1"], {3: "protected", 8: "protected", 9: "last"}),
        (["--keep-every=3"], {0: "every 3", 3: "every 3, protected", 8: "protected"}),
        (["--all"], {3: "protected", 8: "protected"}),
    ],
)
def test_keeps_protected_checkpoints_whatever_the_rules_say(
    rules: list[str], reasons: dict[int, str]
) -> None:
    api = FakeApi(NUMBERS, protected={3: True, 8: "yes", 9: False})

    result = run(api, MODEL, *rules, "--yes")

    assert 0 == result.code
    assert reasons.items() <= kept_by(result.stdout).items()
    assert {3, 8} <= api.checkpoints.keys()
    assert kept_by(result.stdout).keys() == api.checkpoints.keys()


@pytest.mark.parametrize(
    ("rules", "outcome"),
    [
        (["--all"], "There is nothing to delete.\n"),
        (["--keep-every=10"], "nothing is deleted. To delete everything, use --all.\n"),
    ],
)
def test_deletes_nothing_if_everything_is_protected(rules: list[str], outcome: str) -> None:
    api = FakeApi(NUMBERS, protected=dict.fromkeys(NUMBERS, True))

    result = run(api, MODEL, *rules, "--yes")

    assert (0, []) == (result.code, api.sent)
    assert result.stdout.endswith(outcome)


PROTECTED = "Protected, so not deleted: 2, at steps 0, 4.\n"


@pytest.mark.parametrize(
    ("responses", "code", "outcome"),
    [
        ([], 0, f"Deleted: 6. Kept: 2.\n{PROTECTED}"),
        ([FakeApi.lose], 0, f"Deleted: 0. Kept: 2.\n{PROTECTED}{LOST}: 6.\n"),
        # Neither steps that were not in the request, nor any twice
        (
            [respond(200, {"deleted_count": 0, "protected_steps": [0, 4, 4, 0, 8, 99]})],
            1,
            f"Deleted: 0. Kept: 2.\n{PROTECTED}",
        ),
        # A step that is gone in the end
        (
            [lambda api, request: (api.serve(request), api.checkpoints.pop(0))[0]],
            0,
            "Deleted: 6. Kept: 2.\nProtected, so not deleted: 1, at step 4.\nAlready deleted: 1.\n",
        ),
    ],
)
def test_says_which_checkpoints_became_protected_after_the_plan(
    responses: list[Respond], code: int, outcome: str
) -> None:
    api = FakeApi(NUMBERS)
    api.hidden = {0, 4, 8}
    api.responses["DELETE"] = [*responses]

    result = run(api, MODEL, "--keep-last=2", "--yes")

    assert code == result.code
    assert {4, 8, 9} <= api.checkpoints.keys()
    assert without_ids(result.stdout).partition("at steps 0, 1, 2, 3, 4, 5, 6, 7.\n")[2] == outcome
    assert ("Not deleted, or saved again: 6, the first at step 1." in result.stderr) == bool(code)


def test_says_that_it_could_not_check_whether_the_rest_is_protected() -> None:
    api = FakeApi(NUMBERS)
    api.hidden = {4}
    api.responses["GET"] = [FakeApi.serve, EXPIRED]

    result = run(api, MODEL, "--keep-last=1", "--yes", "--json")

    message = (
        "All 9 checkpoints in the plan are deleted or protected, but this could not be checked."
    )
    assert result.stderr.endswith(f" {message}\n")
    (model,) = json.loads(result.stdout)["models"]
    assert (1, 8, [4], False) == (
        result.code,
        model["deleted_count"],
        model["protected_steps"],
        "left" in model,
    )


HOUR = 3_600


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ("--keep-newer-than=90m", {3, 4, 5}),
        ("--keep-newer-than=2h", {2, 3, 4, 5}),
        ("--keep-newer-than=1d", {1, 2, 3, 4, 5}),
        ("--keep-newer-than=1m --keep-newer-than=90m", {3, 4, 5}),
        ("--keep-newer-than=60m --keep=0", {0, 4, 5}),
        ("--keep-newer-than=60m --keep-every=100", {0, 4, 5}),
    ],
)
def test_keeps_what_was_saved_since_and_what_has_a_time_in_the_future(
    rules: str, kept: set[int]
) -> None:
    ages = {0: 24 * HOUR + 1, 1: 24 * HOUR, 2: 2 * HOUR, 3: 90 * 60, 4: HOUR, 5: -9 * HOUR}
    times = {step: int(NOW) + 1 - age for step, age in ages.items()}
    api = FakeApi(dict.fromkeys(times), created_at=times)

    assert 0 == run(api, MODEL, *rules.split(), "--yes").code
    assert kept == api.checkpoints.keys()


@pytest.mark.parametrize("rules", [[], ["--keep-every=10"]])
def test_deletes_nothing_if_no_checkpoint_is_new_and_there_is_no_other_rule(
    rules: list[str],
) -> None:
    api = FakeApi(NUMBERS, created_at=dict.fromkeys(NUMBERS, 1))

    result = run(api, MODEL, "--keep-newer-than=30d", *rules, "--yes")

    assert (0, []) == (result.code, api.sent)
    note = "--keep-newer-than 30d: No checkpoint is that new, so this rule alone deletes nothing."
    assert note in result.stderr.splitlines()
    assert result.stdout.endswith("so nothing is deleted. To delete everything, use --all.\n")


@pytest.mark.parametrize(
    ("times", "rules", "steps"),
    [
        ({}, [], "10 of the checkpoints, the first at step 0, the last at step 9"),
        (dict.fromkeys(range(7), 1), ["--keep=9"], "2 of the checkpoints, at steps 7, 8"),
        ({step: int(NOW) for step in range(9)}, [], "1 of the checkpoints, at step 9"),
        (dict.fromkeys(range(9), 1), ["--keep=9"], ""),
        (dict.fromkeys(NUMBERS, "1"), ["--keep=1-9"], "1 of the checkpoints, at step 0"),
        (dict.fromkeys(NUMBERS, 1.0), ["--keep=1-9"], "1 of the checkpoints, at step 0"),
        (dict.fromkeys(range(1, 9), 1), ["--keep-every=10"], "1 of the checkpoints, at step 9"),
    ],
)
def test_does_not_guess_when_a_checkpoint_was_saved(
    times: dict[int, Any], rules: list[str], steps: str
) -> None:
    api = FakeApi(NUMBERS, created_at=times)

    result = run(api, MODEL, "--keep-newer-than=24h", *rules, "--yes")

    if not steps:
        assert (0, [9]) == (result.code, [*api.checkpoints])
    else:
        assert (1, "", []) == (result.code, result.stdout, api.sent)
        assert result.stderr == (
            f"prune: --keep-newer-than 24h cannot know whether to keep {steps}: they have no "
            "created_at. Keep them with --keep, or with another rule, or remove this rule. "
            "Nothing was deleted.\n"
        )


@pytest.mark.parametrize("text", ["1m", "24h", "30d", "36500d"])
def test_reads_a_duration_as_the_other_commands_do(text: str) -> None:
    rule = prune.keep_newer_than(text)
    oldest = int(NOW) + 1 - parse_duration(text)
    api = FakeApi({1: {}, 2: {}}, created_at={1: oldest - 1, 2: oldest})

    assert f"--keep-newer-than {text}" == rule.option
    assert 0 == run(api, MODEL, f"--keep-newer-than={text}", "--yes").code
    assert [2] == [*api.checkpoints]


NEWEST = "The newest checkpoint is among them. A run that resumes from it would fail, and files "


@pytest.mark.parametrize(
    ("options", "protected", "is_deleted"),
    [
        (["--keep-last=1"], [], False),
        (["--keep=0-8"], [], True),
        (["--keep=0-8"], [9], False),
        (["--all"], [], True),
    ],
)
def test_warns_before_it_deletes_the_newest_checkpoint(
    options: list[str], protected: list[int], is_deleted: bool
) -> None:
    api = FakeApi(NUMBERS, protected=dict.fromkeys(protected, True))

    result = run(api, MODEL, *options, "--dry-run")

    assert is_deleted == (NEWEST in result.stdout)


def models() -> FakeApis:
    return FakeApis({name: FakeApi(NUMBERS, size_bytes={0: 5_000}) for name in "abc"})


def test_shows_the_plan_of_each_model_and_asks_once() -> None:
    apis = models()
    apis["b"].checkpoints = {9: {}}

    dry = run(apis, "a", "b", "a", "c", "--keep=7-9", "--dry-run")
    result = run(apis, "a", "b", "a", "c", "--keep=7-9", stdin=Terminal("y\n"))

    assert (0, "", 0, "") == (dry.code, dry.stderr, result.code, result.stderr)
    assert dry.stdout == result.stdout.partition("Delete them?")[0]
    plan = "To delete: 7 (5.0 kB, size known for 1 of 7), at steps 0, 1, 2, 3, 4, 5, 6."
    assert [line for line in result.stdout.splitlines() if re.search("[.?]", line)] == [
        "Checkpoints of a: 10. To keep: 3 (size known for 0 of 3).",
        plan,
        "Checkpoints of b: 1. To keep: 1.",
        "There is nothing to delete.",
        "Checkpoints of c: 10. To keep: 3 (size known for 0 of 3).",
        plan,
        "To delete in total: 14 (10.0 kB, size known for 2 of 14), from 2 of 3 models.",
        "Delete them? [y/N]: a: Deleted: 7. Kept: 3.",
        "c: Deleted: 7. Kept: 3.",
    ]
    assert ", 6.\n\nCheckpoints of b: 1." in result.stdout
    assert [[*range(7)]] == apis["a"].sent == apis["c"].sent
    assert [] == apis["b"].sent


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("GET", f"{NO_TOKEN} Nothing was deleted."),
        ("DELETE", f"{NO_TOKEN} Deleted: 0 of 9."),
        (None, "--keep-best loss:min keeps nothing. The metrics are: none. Change or remove this"),
    ],
)
def test_goes_on_with_the_other_models_if_one_fails(method: str | None, message: str) -> None:
    apis = models()
    rules = ["--keep-last=1"]
    if method:
        apis["b"].responses[method] = [EXPIRED]
    else:
        rules.append("--keep-best=loss:min")
        for name in "ac":
            apis[name].checkpoints[9] = {"loss": 1}

    result = run(apis, *"abc", *rules, "--yes")

    assert (1, [1, 10, 1]) == (result.code, [len(api.checkpoints) for api in apis.values()])
    assert f"prune: b: {message}" in result.stderr
    assert ["a: Deleted: 9. Kept: 1.", "c: Deleted: 9. Kept: 1."] == (
        without_ids(result.stdout).splitlines()[-2:]
    )


@pytest.mark.parametrize("value", ["5000-5100", "200", "-3", "loss:min", "a:b:max=3", "24h"])
def test_takes_no_value_that_a_blank_cut_off_for_a_model(value: str) -> None:
    """As in `--keep 4200 5000-5100`: the steps after the blank would be deleted."""
    apis = models() | {value: FakeApi(NUMBERS)}

    many = run(FakeApis(apis), "a", "--keep-last=1", "--yes", "--", value)
    alone = run(FakeApis(apis), "--keep-last=1", "--yes", "--", value)

    assert (2, "", 10) == (many.code, many.stdout, len(apis["a"].checkpoints))
    assert "looks like a value of an option" in " ".join(many.stderr.split())
    assert (0, 1) == (alone.code, len(apis[value].checkpoints))


def test_prints_nothing_but_json_on_standard_output() -> None:
    name = "eval/retrieval/mean_reciprocal_rank\x1b"
    apis = FakeApis(
        a=FakeApi({1: {name: 1}, 2: {}, 3: {}}, size_bytes={1: 5, 2: 7}, protected={2: True}),
        b=FakeApi({}),
        c=FakeApi({5: {}}),
    )
    apis["a"].responses["DELETE"] = [named(A, DOWN), named(B)]
    rules = [*[f"--keep-best={name}:min"] * 2, "--delete-unscored"]

    result = run(apis, *"abc", *rules, "--json", stdin=Terminal("y\n"))

    assert 1 == result.code
    assert json.loads(result.stdout) == {
        "models": [
            {
                "model": "a",
                "keep": [
                    {"step": 1, "reasons": [f"min {name}"]},
                    {"step": 2, "reasons": ["protected"]},
                ],
                "delete": [3],
                "keep_size_bytes": 12,
                "keep_sizes_known": 2,
                "delete_size_bytes": 0,
                "delete_sizes_known": 0,
                "deleted_count": 1,
                "protected_steps": [],
                "request_ids": [B],
                "unknown_request_ids": 0,
                "left": [],
            },
            {
                "model": "b",
                "keep": [],
                "delete": [],
                "keep_size_bytes": 0,
                "keep_sizes_known": 0,
                "delete_size_bytes": 0,
                "delete_sizes_known": 0,
            },
            {"model": "c", "error": mock.ANY},
        ]
    }
    assert 1 == result.stdout.count("\n")
    for text in (
        "Checkpoints of a: 3.",
        NEWEST,
        "Delete them? [y/N]: ",
        "\na: Deleted: 1. Kept: 2.\n",
        f"\na: Request ids: {B}\n",
    ):
        assert text in result.stderr


NOT_BEGUN = (None, None)
DONE: Any = (9, [])
UNASKED = "Without a terminal, add --yes to confirm. Nothing was deleted."
REFUSAL = "Not confirmed. Nothing was deleted."
FULL = "Disk full. Nothing was deleted."
STOPPED = "Interrupted. Nothing was deleted."
CUT = "Interrupted. Deleted: 0 of 9, and perhaps some more. To finish, run the command again."
AGAIN = "Not deleted, or saved again: 1, the first at step 4. Run the command again."


@pytest.mark.parametrize(
    ("method", "response", "options", "streams", "code", "outcomes"),
    [
        ("", None, ["--dry-run"], {}, 0, [(None, *NOT_BEGUN)] * 2),
        ("", None, [], {}, 1, [(UNASKED, *NOT_BEGUN)] * 2),
        ("", None, [], {"stdin": None}, 1, [(UNASKED, *NOT_BEGUN)] * 2),
        ("", None, [], {"stdin": Terminal("y"), "stderr": None}, 1, [(UNASKED, *NOT_BEGUN)] * 2),
        ("", None, [], {"stdin": Terminal("n\n")}, 1, [(REFUSAL, *NOT_BEGUN)] * 2),
        ("", None, [], {"stdin": Terminal("")}, 1, [(REFUSAL, *NOT_BEGUN)] * 2),
        ("", None, [], {"stdin": interrupted()}, 130, [(STOPPED, *NOT_BEGUN)] * 2),
        ("", None, ["--yes"], {"stderr": None, "stdin": None}, 0, [(None, *DONE)] * 2),
        ("", None, ["--yes"], {"stderr": Output(DISK_FULL)}, 1, [(FULL, *NOT_BEGUN)] * 2),
        ("GET", INTERRUPTED, ["--yes"], {}, 130, [(STOPPED, *NOT_BEGUN)] * 2),
        ("DELETE", INTERRUPTED, ["--yes"], {}, 130, [(CUT, 0, None), (STOPPED, *NOT_BEGUN)]),
        ("DELETE", FakeApi.save_anew, ["--yes"], {}, 1, [(AGAIN, 9, [4]), (None, *DONE)]),
    ],
)
def test_prints_one_json_document_however_it_ends(  # noqa: PLR0913, PLR0917 the parameters
    method: str,
    response: Any,
    options: list[str],
    streams: dict[str, Any],
    code: int,
    outcomes: list[Any],
) -> None:
    apis = FakeApis(a=FakeApi(NUMBERS), b=FakeApi(NUMBERS))
    apis["a"].responses[method] = [response]

    result = run(apis, "a", "b", "--keep-last=1", "--json", *options, **streams)

    results = json.loads(result.stdout)["models"]
    assert (code, ["a", "b"]) == (result.code, [each["model"] for each in results])
    keys = ("error", "deleted_count", "left")
    assert outcomes == [tuple(map(each.get, keys)) for each in results]
    if "stderr" not in streams:
        errors = [f"prune: {name}: {each[0]}" for name, each in zip("ab", outcomes, strict=True)]
        assert [error for error in errors if not error.endswith("None")] == re.findall(
            "prune: .*", result.stderr
        )


def test_prints_json_if_the_client_cannot_start() -> None:
    proxy = {"HTTPS_PROXY": "s3cret://a", "NO_PROXY": "", "no_proxy": ""}

    result = run(None, "a", "b", "--all", "--yes", "--json", environment=proxy)

    error = f"The HTTP client cannot start. {prune.PROXY_HINT} {prune.CERTIFICATE_HINT} "
    error += "Nothing was deleted."
    failures = [{"model": name, "error": error} for name in "ab"]
    assert (1, {"models": failures}) == (result.code, json.loads(result.stdout))


@pytest.mark.parametrize("error", [BrokenPipeError(), DISK_FULL])
@pytest.mark.parametrize(
    ("closed", "code"), [("stdout", 1), ("stderr", 0)], ids=["stdout", "stderr"]
)
def test_finishes_with_json_if_nobody_reads_a_stream_and_fails_if_it_is_the_json(
    closed: str, code: int, error: OSError
) -> None:
    api = FakeApi(NUMBERS)
    streams: dict[str, Any] = {"stdout": Output(), "stderr": Output()}

    def close(api: FakeApi, request: httpx2.Request) -> httpx2.Response:
        streams[closed].error = error
        return DOWN(api, request)

    api.responses["DELETE"] = [close]

    result = run(api, MODEL, "--keep-last=2", "--yes", "--json", **streams)

    assert (code, [8, 9]) == (result.code, [*api.checkpoints])
    if code == 0:
        assert 8 == json.loads(result.stdout)["models"][0]["deleted_count"]
    else:
        assert "Deleted: 8. Kept: 2.\n" in result.stderr


@pytest.mark.parametrize(
    ("responses", "code", "line"),
    [
        ([named(A), named(B)], 0, f"{A}, {B}"),
        ([named(A), named(A)], 0, A),
        ([], 0, "2 unknown"),
        ([named(A, DOWN), named(B), named(C)], 0, f"{B}, {C}"),
        (
            [named(A, BUSY), named(B, FakeApi.delete_some), named(C), named(D)],
            0,
            f"{B}, {C}, {D}",
        ),
        ([named(A, respond(500)), named(B), named(C)], 0, f"{A}, {B}, {C}"),
        ([REFUSED, named(B), named(C)], 0, f"{B}, {C}"),
        # The second request finds nothing to delete.
        ([named(A, FakeApi.break_off), named(B), named(C)], 0, f"{A}, {C}"),
        ([FakeApi.lose, named(B), named(C)], 0, f"{C}, and 1 unknown"),
        ([named(A), INTERRUPTED], 130, f"{A}, and 1 unknown"),
        ([INTERRUPTED], 130, "1 unknown"),
        ([named(A, EXPIRED)], 1, None),
        ([named(A), named(B, EXPIRED)], 1, A),
        ([named(A, respond(200, "<html>"))], 1, A),
        # Not a UUID
        ([named("\x1b[2J"), named(TOKEN)], 0, "2 unknown"),
        ([named(f"{A}0"), named(A.replace("-", "g"))], 0, "2 unknown"),
        ([named(f"{{{A}}}"), named(A.replace("-", ""))], 0, "2 unknown"),
    ],
)
def test_names_each_request_that_may_have_deleted_something(
    responses: list[Respond], code: int, line: str | None
) -> None:
    results = []
    for option in ([], ["--json"]):
        api = FakeApi(dict.fromkeys(range(1_500)))
        api.responses["DELETE"] = [*responses]
        results.append(run(api, MODEL, "--keep-last=1", "--yes", *option))
    text, as_json = results

    assert (code, code) == (text.code, as_json.code)
    lines = [each for each in text.stdout.splitlines() if each.startswith("Request ids")]
    assert ([f"Request ids: {line}"] if line else []) == lines
    (model,) = json.loads(as_json.stdout)["models"]
    known, unknown = ", ".join(model["request_ids"]), model["unknown_request_ids"]
    more = f"{', and ' if known else ''}{unknown} unknown" if unknown else ""
    assert (line or "") == known + more


API_DOCS = (ROOT / "docs" / "api.md").read_text().partition("## Prune checkpoints")[2]


def test_prints_the_json_of_the_docs() -> None:
    apis = FakeApis(
        {
            MODEL: FakeApi(
                {200: {}, 800: {"loss": 0.12}, 900: {"loss": 0.11}, 1000: {"loss": 0.1}},
                size_bytes={200: 3_800_000, 800: 3_700_000, 1000: 3_700_000},
                protected={200: True},
            ),
            "gpt-small": FakeApi({}),
        }
    )
    apis[MODEL].hidden = {900}
    apis["gpt-small"].responses["GET"] = [respond(503, {"detail": "Busy"})] * prune.MAX_ATTEMPTS
    apis[MODEL].responses["DELETE"] = [named("0a7eb2de-99e8-4c37-bb50-d435662eb245")]
    rules = ["--keep-last=1", "--keep-best=loss:min"]

    result = run(apis, *apis, *rules, "--yes", "--json")

    example = json.loads(re.findall(r"^```json\n(.*?)^```", API_DOCS, re.MULTILINE | re.DOTALL)[0])
    assert example == json.loads(result.stdout)
    rows = re.findall(r"^\| (`.*`) \|", API_DOCS, re.MULTILINE)
    assert {key for model in example["models"] for key in model} <= {
        "model",
        *re.findall(r"`(\w+)`", " ".join(rows)),
    }


def test_the_script_for_cron_prints_something_only_if_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHECKPOINTS_TOKEN", TOKEN)
    apis = FakeApis(
        {name: FakeApi(SIZED, created_at=dict.fromkeys(SIZED, 1)) for name in (MODEL, "gpt-small")}
    )
    (script,) = re.findall(r"^```sh\n(.*?)^```", API_DOCS, re.MULTILINE | re.DOTALL)
    (tmp_path / "cli").mkdir()
    (tmp_path / "cli" / "prune.py").write_bytes(SCRIPT.read_bytes())
    (tmp_path / "uv").write_text(f'#!/bin/sh\nshift; exec {sys.executable} "$@"\n')
    (tmp_path / "uv").chmod(0o755)

    def run_script(url: str) -> tuple[int, str, int]:
        exports = f"export CHECKPOINTS_API_URL={url} CHECKPOINTS_TOKEN={TOKEN}\n"
        (tmp_path / "prune.env").write_text(exports)
        process = subprocess.run(
            ["sh"],  # noqa: S607 it has another place on each system
            input=script,
            cwd=tmp_path,
            env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        results = (tmp_path / "prune.jsonl").read_text().splitlines()
        assert all(json.loads(line)["models"] for line in results)
        return process.returncode, process.stdout + process.stderr, len(results)

    with http_server(apis.serve_http) as url:
        done = run_script(url)
        apis["gpt-small"].responses["GET"] = [EXPIRED]
        failed = run_script(url)
        unusable = run_script("api.example.com")

    assert (0, "", 1) == done
    assert [[300, 400, 500]] * 2 == [[*api.checkpoints] for api in apis.values()]
    assert (1, 2) == (failed[0], failed[2])
    assert failed[1].startswith("prune: exit code 1\n")
    assert f"prune: gpt-small: {NO_TOKEN} Nothing was deleted.\n" in failed[1]
    assert (2, 2) == (unusable[0], unusable[2])
    assert "Set CHECKPOINTS_API_URL to the URL of the API" in " ".join(unusable[1].split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        [MODEL, "--keep-last=x"],
        [MODEL, "--keep-last=1", "--keep=2", "--yes"],
        [MODEL, "--keep=10", "--yes"],
        [MODEL, "--keep=10", "--yes", "--json"],
    ],
    ids=" ".join,
)
def test_is_the_same_as_the_command_checkpoints_prune(arguments: list[str]) -> None:
    apis = FakeApi(NUMBERS), FakeApi(NUMBERS)

    alone = run(apis[0], *arguments)
    with mock.patch.object(prune, "app", checkpoints):
        together = run(apis[1], "prune", *arguments)

    usage = [text.replace("prune prune", "prune") for text in together[1:3]]
    assert (alone, apis[0].sent) == ((together.code, *usage, together.waits), apis[1].sent)
    assert alone.stdout or alone.stderr


def test_is_one_file_that_names_the_libraries_it_needs(tmp_path: Path) -> None:
    without_the_project = (
        "import runpy, sys; sys.argv = [*sys.argv[1:], '--help'];"
        "sys.modules |= dict.fromkeys(['cli', 'checkpoints', 'emulators', 'scripts']);"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    process = subprocess.run(  # noqa: S603 it is ours
        [sys.executable, "-P", "-W", "error", "-c", without_the_project, SCRIPT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    header = re.search(r"^# /// script\n((?:# .*\n)+)# ///$", SCRIPT.read_text(), re.MULTILINE)
    assert header
    script = tomllib.loads(header[1].replace("# ", ""))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    tested = project["project"]["dependencies"] + project["dependency-groups"]["dev"]

    assert "Examples of MODEL and options:" in process.stdout
    assert all(library in tested for library in script["dependencies"])
