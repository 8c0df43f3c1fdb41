"""`make demo EVENTS=...` shows what the functions do with events."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from commands import run_command
from events import SAMPLE_STATUSES
from scripts.send_events import main

ROOT = Path(__file__).parents[1]


def send(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 it is ours
        [sys.executable, "-W", "error", ROOT / "scripts" / "send_events.py", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_sends_every_sample_event_and_sums_up() -> None:
    shown = send()

    assert (0, "") == (shown.returncode, shown.stderr)
    header, *sections, summary = shown.stdout.strip().split("\n\n")
    assert (
        "Each request starts with the same tables.\n"
        "  models    gpt-small: 401 of vision-team\n"
        "            resnet-50: 10 of vision-team, 1 of speech-team\n"
        "            été 2026/a+b: 2 of vision-team\n"
        "  tokens    read-only-demo-token of vision-team, for checkpoints:read\n"
        "            speech-team-demo-token of speech-team, for checkpoints:delete\n"
        "            vision-team-demo-token of vision-team, for checkpoints:delete"
    ) == header
    assert (
        "delete-checkpoints.json\n"
        "  before    GET lists 100 loss=1, 200 loss=0.5, 300 loss=0.33, 400 loss=0.25,\n"
        "            500 loss=0.2, 600 loss=0.17, 700 loss=0.14, 800 loss=0.12,\n"
        "            900 loss=0.11, 1000 loss=0.1\n"
        "  request   DELETE /v1/preview/models/resnet-50/checkpoints\n"
        '  body      {"steps": [100, 200, 999]}\n'
        "  caller    vision-team-demo-token of vision-team, for checkpoints:delete\n"
        '  response  200 {"deleted_count":2,"not_found_steps":[999]}\n'
        "  deleted   resnet-50: [100, 200]\n"
        "  storage   resnet-50/100/: 3 objects before, 0 after\n"
        "            resnet-50/200/: 3 objects before, 0 after\n"
        "  after     GET lists 300 loss=0.33, 400 loss=0.25, 500 loss=0.2, 600 loss=0.17,\n"
        "            700 loss=0.14, 800 loss=0.12, 900 loss=0.11, 1000 loss=0.1"
    ) == sections[0]
    by_name = dict(section.split("\n", 1) for section in sections)
    assert {f"{name}.json" for name in SAMPLE_STATUSES} == set(by_name)
    for name, status in SAMPLE_STATUSES.items():
        assert f"\n  response  {status} " in by_name[f"{name}.json"]
    assert "\n  caller    no token\n" in by_name["no-token.json"]
    assert "\n  caller    unknown token\n" in by_name["unknown-token.json"]
    page = '\n  response  200 {"object":"list","data":[{"id":"800","step":800,"metrics":{"lo'
    assert page in by_name["list-next-page.json"]
    assert (
        '  response  200 {"deleted_count":2,"not_found_steps":[],"protected_steps":[500]}\n'
        "  deleted   gpt-small: [399, 400]"
    ) in by_name["protected-step.json"]
    for name in ("dry-run", "list-checkpoints", "no-token"):
        assert by_name[f"{name}.json"].endswith("\n  deleted   nothing")
    returned = ", ".join(
        f"{count} returned {status}"
        for status, count in sorted(Counter(SAMPLE_STATUSES.values()).items())
    )
    assert (
        f"{len(SAMPLE_STATUSES)} requests: {returned}; "
        "209 checkpoints and 12 objects deleted in total."
    ) == " ".join(summary.split())
    assert all(line[-1] in ",;." for line in summary.splitlines())  # broken between the items


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not JSON", "{} is not JSON: Expecting value: line 1 column 1 (char 0)."),
        (b'"\xff"', "{} is not UTF-8."),
        (b"[" * 100_000, "{} is nested too deeply."),
        *(
            (content, "{} is not the event of a REST API: it lacks 'httpMethod' or 'path'.")
            for content in (b"[]", b'{"httpMethod": "GET", "path": null}')
        ),
        (None, "Cannot read {}: No such file or directory."),
    ],
    ids=["text", "not UTF-8", "deep", "a list", "no path", "no file"],
)
def test_explains_why_a_file_is_not_an_event(
    tmp_path: Path,
    content: bytes | None,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "event.json"
    if content is not None:
        path.write_bytes(content)

    code, sent, told = run_command(main, str(path), capsys=capsys)

    assert (2, "") == (code, sent)
    assert told.endswith(f"\n\nError: Invalid value: {message.format(repr(str(path)))}\n")


def test_sends_chosen_events_and_shows_the_log_if_the_function_fails(tmp_path: Path) -> None:
    event = json.loads((ROOT / "events" / "delete-checkpoints.json").read_bytes())
    event |= {"queryStringParameters": {"a": "b"}, "multiValueHeaders": 5, "body": "two\nlines"}
    path = tmp_path / "event.json"
    path.write_text(json.dumps(event))
    first = tmp_path / "delete-checkpoints.json"  # the demo lists the model of this event
    first.write_text('{"httpMethod": "DELETE", "path": "/nowhere"}')

    shown = send(ROOT / "events" / "no-token.json", path, first)

    assert 1 == shown.returncode
    _, no_token, failed, unknown, summary = shown.stdout.strip().split("\n\n")
    assert "no-token.json" == no_token.splitlines()[0]
    assert [
        "event.json",
        "  request   DELETE /v1/preview/models/resnet-50/checkpoints?a=b",
        r"  body      two\nlines",
        "  caller    malformed headers",
        '  response  500 {"detail":"Internal Server Error"}',
        "  deleted   nothing",
    ] == failed.splitlines()[:6]
    assert "AttributeError" in json.loads(failed.splitlines()[6])["exception"]
    for when in ("before", "after "):
        assert f'\n  {when}    GET returns 404 {{"detail":"Not Found"}}' in unknown
    assert (
        "3 requests: 1 returned 401, 1 returned 404, 1 returned 500; "
        "0 checkpoints and 0 objects deleted in total."
    ) == " ".join(summary.split())
