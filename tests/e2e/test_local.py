"""`make local`, and how `sam local` reads `samconfig.toml`: everything except the container."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployment import Deployment
from emulators.aws import EVERY_ADDRESS, ROOT, architecture, free_port
from events import SAMPLE_STATUSES
from package import InvokePackage, package_running
from processes import Command, own_address, running, sam_commands

# Runs commands of the SAM CLI, and prints what it would start the container with.
RESOLVE = """
import json, sys
from unittest import mock
from samcli.local.docker import utils
utils.get_validated_container_client = mock.Mock()
from samcli.cli.main import cli
from samcli.commands.local.lib.local_api_service import LocalApiService
from samcli.local.lambdafn.runtime import LambdaRuntime

def show(self, function, event, *arguments, **options):
    print(json.dumps({
        "architecture": function.architecture,
        "environment": function.env_vars.resolve(),
        "handler": function.handler,
        "hosts": options["extra_hosts"],
    }))

LambdaRuntime.invoke = show
LocalApiService.start = lambda self: self.lambda_runner.invoke("ApiFunction", "{}")
for command in json.loads(sys.argv[1]):
    cli(["local", *command, "--template", "template.yaml"], standalone_mode=False)
"""


@pytest.fixture(scope="module")
def containers() -> list[dict[str, Any]]:
    """Return the settings of each SAM CLI command, on a machine with another region.

    First those with each environment of samconfig.toml, then those for port 9000.
    """
    commands = [
        [*command, *environment]
        for command in (["invoke", "ApiFunction", "--no-event"], ["start-api"])
        for environment in ([], ["--config-env", "x86_64"])
    ]
    commands += [shlex.split(command.partition(" local ")[2]) for command in sam_commands(9000)]
    (tool,) = shlex.split(os.environ["SAM"])
    found = subprocess.run(  # noqa: S603 the Makefile names it
        [Path(tool).with_name("python"), "-c", RESOLVE, json.dumps(commands)],
        cwd=ROOT,
        env=os.environ | {"AWS_DEFAULT_REGION": "eu-west-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return [json.loads(line) for line in found.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def local() -> Iterator[tuple[Command, int]]:
    """Run `make local` on a free port."""
    port = free_port(0, EVERY_ADDRESS)
    with running("local.py", "--port", str(port)) as command:
        command.read_until("Ctrl-C")
        yield command, port


@pytest.fixture(scope="module")
def invoke(
    deployment: Deployment,  # noqa: ARG001 it builds
    containers: list[dict[str, Any]],
    local: tuple[Command, int],
) -> Iterator[InvokePackage]:
    """Run the package in the container's environment, with another name of the host."""
    _, port = local
    container = containers[0]
    environment = container["environment"] | {
        "AWS_ENDPOINT_URL_DYNAMODB": f"http://{own_address()}:{port}"
    }
    with package_running(container["handler"], environment) as invoke:
        yield invoke


def test_sam_local_points_the_function_to_the_dynamodb_of_make_local(
    containers: list[dict[str, Any]],
) -> None:
    expected = {
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "CHECKPOINTS_TABLE": "CheckpointsTable",
        "TOKENS_TABLE": "TokensTable",
    }

    assert ["arm64", "x86_64"] * 2 + [architecture()] * 2 == [
        container["architecture"] for container in containers
    ]
    assert [f"http://host.docker.internal:{port}" for port in [8000] * 4 + [9000] * 2] == [
        container["environment"]["AWS_ENDPOINT_URL_DYNAMODB"] for container in containers
    ]
    for container in containers:
        assert expected.items() <= container["environment"].items()
        assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= container["environment"].keys()
        assert {"host.docker.internal": "host-gateway"} == container["hosts"]


def test_answers_every_sample_event(invoke: InvokePackage) -> None:
    assert SAMPLE_STATUSES == {name: invoke(read_event(name)).status for name in SAMPLE_STATUSES}


def test_can_be_reseeded(invoke: InvokePackage, local: tuple[Command, int]) -> None:
    _, port = local
    event = read_event("delete-checkpoints")

    for _ in range(2):
        reseeded = subprocess.run(  # noqa: S603 it is ours
            [sys.executable, ROOT / "scripts" / "local.py", "--reseed", "--port", str(port)],
            capture_output=True,
            text=True,
            check=False,
        )

        assert (0, "") == (reseeded.returncode, reseeded.stderr)
        assert {"deleted_count": 2, "not_found_steps": [999]} == invoke(event).body
        assert {"deleted_count": 0, "not_found_steps": [100, 200, 999]} == invoke(event).body


def read_event(name: str) -> Any:
    return json.loads((ROOT / "events" / f"{name}.json").read_bytes())


def test_leaves_nothing_running() -> None:
    port = free_port(0, EVERY_ADDRESS)
    with running("local.py", "--port", str(port)) as command:
        command.read_until("Ctrl-C")
        command.stop(signal.SIGINT)

    assert port == free_port(port, EVERY_ADDRESS)
