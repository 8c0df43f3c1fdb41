"""The demo shows what the function does, with every sample event."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from events import SAMPLE_STATUSES
from scripts.demo import main

ROOT = Path(__file__).parents[1]


def demo(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 it is ours
        [sys.executable, "-W", "error", ROOT / "scripts" / "demo.py", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_sends_every_sample_event() -> None:
    shown = demo()

    assert 0 == shown.returncode
    sections = dict(section.split("\n", 1) for section in shown.stdout.strip().split("\n\n"))
    assert {f"{name}.json" for name in SAMPLE_STATUSES} == set(sections)
    for name, status in SAMPLE_STATUSES.items():
        assert f"answer   {status} " in sections[f"{name}.json"]
    assert "deleted  resnet-50: [100, 200]" in sections["delete-checkpoints.json"]
    assert 'answer   200 {"deleted_count":2,"not_found_steps":[999]}' in sections["dry-run.json"]
    for name in ("dry-run", "no-token"):
        assert "deleted  nothing" in sections[f"{name}.json"]


@pytest.mark.parametrize("content", [None, "not JSON"], ids=["absent", "not JSON"])
def test_says_what_is_wrong_with_an_event(
    tmp_path: Path,
    content: str | None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "event.json"
    if content is not None:
        path.write_text(content)
    monkeypatch.setattr(sys, "argv", ["demo.py", str(path)])

    with pytest.raises(SystemExit) as stop:
        main()

    assert 2 == stop.value.code
    shown = capsys.readouterr()
    assert "" == shown.out
    assert "cannot read an event" in shown.err


def test_sends_chosen_events_and_shows_the_log_if_the_function_fails(tmp_path: Path) -> None:
    path = tmp_path / "event.json"
    path.write_text(json.dumps({"neither": "method nor path"}))

    shown = demo(ROOT / "events" / "no-token.json", path)

    assert 1 == shown.returncode
    assert ["no-token.json", "event.json"] == [
        line for line in shown.stdout.splitlines() if line.endswith(".json")
    ]
    assert "answer   500" in shown.stdout
    assert "KeyError" in shown.stdout
