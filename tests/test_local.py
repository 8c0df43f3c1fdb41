"""`make local` prints the next commands, or why it failed."""

import shlex
import socket
from collections.abc import Callable

import pytest

from commands import Result, run_command
from processes import sam_commands
from scripts import local, serve


@pytest.fixture(params=["x86_64", "arm64"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(local, "architecture", lambda: request.param)
    return str(request.param)


@pytest.mark.usefixtures("machine")
def test_prints_commands_that_need_no_more_options() -> None:
    printed = local.instructions(8000)

    assert "\nOthers in your network can reach it too.\n" in printed
    assert (
        """
  make invoke EVENT=events/delete-checkpoints.json

or, to send requests:

  make start-api
  curl -X DELETE http://127.0.0.1:3000/v1/preview/models/resnet-50/checkpoints \\
      -H 'Authorization: Bearer vision-team-demo-token' \\
      -d '{"steps": [100, 200, 999]}' -w '\\n'
"""
        in printed
    )


def test_prints_the_options_for_another_port(machine: str) -> None:
    overrides = {
        "x86_64": "DynamoDBEndpoint=http://host.docker.internal:65535 Architecture=x86_64",
        "arm64": "DynamoDBEndpoint=http://host.docker.internal:65535",
    }[machine]

    invoke, start_api = (shlex.split(command) for command in sam_commands(65_535))

    assert ["local", "invoke", "ApiFunction"] == invoke[invoke.index("local") :][:3]
    assert ["local", "start-api"] == start_api[start_api.index("local") :][:2]
    for command in (invoke, start_api):
        assert ["--parameter-overrides", overrides] == command[-2:]
    assert "make reseed PORT=65535 resets" in local.instructions(65_535)


@pytest.mark.parametrize("main", [local.main, serve.main])
def test_starts_nothing_if_the_port_is_in_use(
    main: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        refused = run_command(main, "--port", str(port), capsys=capsys)

    message = (
        f"Error: Cannot listen on port {port}: Address already in use. "
        "Stop the program that uses it, or set PORT.\n"
    )
    assert Result(1, "", message) == refused


@pytest.mark.parametrize("port", ["1", "99999"])
def test_reseed_fails_if_nothing_is_running(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    message = f"Error: No program listens on port {port}. Run make local first, or set PORT.\n"

    assert Result(1, "", message) == run_command(
        local.main, "--reseed", "--port", port, capsys=capsys
    )
