"""The commands in the docs print the output that the docs show."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from deployment import Deployment, run_checkpoints
from docs import API
from emulators.aws import ROOT
from emulators.environment import INHERITED
from emulators.records import ARTIFACTS_BUCKET, put_demo_model
from emulators.training import LOSSES, MODEL, training_runs
from events import ENTITY

# `uv run` downloads libraries, for which the user may need a proxy and other settings.
DOWNLOAD_SETTINGS = re.compile("(?i)UV_|SSL_CERT_|.*_PROXY$")
END = "--- end of a command ---"


def commands_of(page: str) -> Iterator[tuple[str, str]]:
    """Yield each command of the console blocks of a page, with what it prints."""
    for block in re.findall(r"^```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        yield from re.findall(r"^\$ ((?:.*\\\n)*.*\n)((?:(?!\$ ).*\n)*)", block, re.MULTILINE)


def trim(text: str) -> list[str]:
    """Return the lines without trailing blanks, and with the same time in all of them."""
    text = re.sub(r'"created_at":\d{10}', '"created_at":0', text)
    return [line.rstrip() for line in text.rstrip().splitlines()]


@pytest.fixture
def _imported(deployment: Deployment) -> None:
    """Import the bucket that the README shows, as if nothing had been deleted before."""
    s3, sqs = deployment.cloud.client("s3"), deployment.cloud.client("sqs")
    for key, content in training_runs():
        s3.put_object(Bucket=ARTIFACTS_BUCKET, Key=key, Body=content)
    location = f"s3://{ARTIFACTS_BUCKET}/{MODEL}/"
    options = ["--entity", ENTITY, "--min-age", "0s", "--settle", "0s", "--yes"]
    for _ in range(30):  # while there are messages of what other tests deleted
        sqs.purge_queue(QueueUrl=deployment.outputs["ReclaimQueueUrl"])
        done = run_checkpoints(deployment, "records", "import", location, *options)
        if "Registered: 8." in done.stdout:
            return
    pytest.fail(done.stderr)


@pytest.mark.usefixtures("_imported")
def test_the_code_of_the_page_for_clients_lists_and_deletes(
    deployment: Deployment, token: str
) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", API.read_text(), re.MULTILINE | re.DOTALL)
    settings = {"API_URL": deployment.outputs["ApiUrl"], "TOKEN": token}

    done = subprocess.run(  # noqa: S603 it is ours
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        env=os.environ | settings,
        text=True,
        check=False,
    )

    deleted = "Deletion(deleted_count=1, not_found_steps=[], protected_steps=[])\n"
    assert deleted == done.stdout, done.stderr
    assert {*LOSSES} - {500} == deployment.stored_steps(MODEL)


@pytest.mark.usefixtures("_imported")
@pytest.mark.parametrize("name", ["README.md", "docs/api.md"])
def test_the_commands_of_a_page_print_what_it_shows(
    deployment: Deployment, token: str, name: str
) -> None:
    put_demo_model(deployment.cloud.client("dynamodb"), deployment.outputs["CheckpointsTableName"])
    commands = list(commands_of((ROOT / name).read_text()))
    script = "".join(f"{command}echo '{END}'\n" for command, _ in commands)

    process = subprocess.run(
        ["bash", "-e"],  # noqa: S607 it has another place on each system
        input=script,
        capture_output=True,
        cwd=ROOT,
        env=os.environ
        | {name: value for name, value in INHERITED.items() if DOWNLOAD_SETTINGS.match(name)}
        | {
            "API_URL": deployment.outputs["ApiUrl"],
            "PATH": f"{ROOT / '.tools' / 'bin'}:{os.environ['PATH']}",
            "TOKEN": token,
        },
        text=True,
        timeout=120,
        check=False,
    )

    printed = process.stdout.split(f"{END}\n")[:-1]
    assert len(commands) > 1, name
    shown = [output for _, output in commands]
    assert list(map(trim, shown)) == list(map(trim, printed)), process.stderr
