"""`make local` prints the next commands, or why it failed."""

import shlex
import socket
from types import ModuleType

import pytest

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
    printed = local.instructions(65_535)
    assert "make reseed PORT=65535 resets" in printed
    assert 80 >= max(len(line) for line in printed.splitlines() if "ARGS=" not in line)


@pytest.mark.parametrize("script", [local, serve])
def test_starts_nothing_if_the_port_is_in_use(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = {local: "local.py", serve: "serve.py"}[script]
    monkeypatch.setattr(script, "stop_on_signals", lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        assert 1 == script.main(["--port", str(port)])

    message = (
        f"{name}: Cannot listen on port {port}: Address already in use. "
        "Stop the program that uses it, or set PORT.\n"
    )
    assert ("", message) == capsys.readouterr()


@pytest.mark.parametrize("port", [1, 99_999])
def test_reseed_fails_if_nothing_is_running(
    port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local, "stop_on_signals", lambda: None)

    assert 1 == local.main(["--reseed", "--port", str(port)])

    assert (
        "",
        f"local.py: No program listens on port {port}. Run make local first, or set PORT.\n",
    ) == capsys.readouterr()
