"""`make local` and `make invoke`, with the function in a container. Needs Docker."""

import json
import shlex
import subprocess
from collections.abc import Iterator

import pytest

from emulators.aws import EVERY_ADDRESS, ROOT, free_port
from emulators.environment import INHERITED
from events import SAMPLE_STATUSES
from processes import running, sam_commands


@pytest.fixture(scope="module")
def command() -> Iterator[str]:
    """Run `make local` on a free port; return the `sam local` command of `make invoke` for it."""
    port = free_port(0, EVERY_ADDRESS)
    with running("local.py", "--port", str(port)) as local:
        local.read_until("Ctrl-C")
        yield sam_commands(port)[0]


@pytest.fixture(autouse=True)
def _fresh_tables() -> None:
    """Start no DynamoDB in memory, which no test here uses."""


@pytest.mark.parametrize(("name", "status"), SAMPLE_STATUSES.items())
def test_the_function_answers_each_sample_event(command: str, name: str, status: int) -> None:
    arguments = shlex.split(command)
    arguments[arguments.index("--event") + 1] = f"events/{name}.json"

    invoked = subprocess.run(  # noqa: S603 it is ours
        arguments, cwd=ROOT, env=INHERITED, capture_output=True, text=True, check=False
    )

    assert 0 == invoked.returncode, invoked.stderr
    response = json.loads(invoked.stdout.splitlines()[-1])
    assert status == response["statusCode"], invoked.stderr
