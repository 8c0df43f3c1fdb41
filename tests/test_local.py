"""`make local` prints the next commands, or why it failed."""

import socket
import sys
from types import ModuleType

import pytest

from scripts import local, serve


@pytest.fixture(params=["x86_64", "arm64"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(local, "architecture", lambda: request.param)
    return str(request.param)


def commands(port: int) -> list[str]:
    return [line.strip() for line in local.instructions(port).splitlines() if line[:2] == "  "]


def test_prints_commands_that_need_no_more_options(machine: str) -> None:
    option = {"x86_64": " --config-env x86_64", "arm64": ""}[machine]

    assert [
        "sam build",
        f"sam local invoke ApiFunction -e events/delete-checkpoints.json{option}",
        f"sam local start-api{option}",
        "curl -X DELETE http://127.0.0.1:3000/v1/preview/models/resnet-50/checkpoints \\",
        """-H 'Authorization: Bearer vision-team-demo-token' -d '{"steps": [100, 200, 999]}'""",
    ] == commands(8000)


def test_prints_the_options_for_another_port(machine: str) -> None:
    options = {
        "x86_64": " --config-env x86_64 --parameter-overrides "
        '"DynamoDBEndpoint=http://host.docker.internal:9000 Architecture=x86_64"',
        "arm64": ' --parameter-overrides "DynamoDBEndpoint=http://host.docker.internal:9000"',
    }[machine]

    assert [
        f"sam local invoke ApiFunction -e events/delete-checkpoints.json{options}",
        f"sam local start-api{options}",
    ] == commands(9000)[1:3]
    assert "make reseed PORT=9000 resets" in local.instructions(9000)


def test_says_that_others_can_reach_it() -> None:
    lines = local.instructions(8000).splitlines()

    assert "Others in your network can reach it too." in lines


@pytest.mark.parametrize("script", [local, serve])
def test_starts_nothing_if_the_port_is_in_use(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = {local: "local.py", serve: "serve.py"}[script]
    monkeypatch.setattr(script, "stop_on_signals", lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setattr(sys, "argv", [name, "--port", str(port)])

        assert 1 == script.main()

    assert (
        "",
        f"{name}: cannot listen on port {port}: Address already in use\n",
    ) == capsys.readouterr()


@pytest.mark.parametrize("port", [1, 99_999])
def test_reseed_fails_if_nothing_is_running(
    port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local, "stop_on_signals", lambda: None)
    monkeypatch.setattr(sys, "argv", ["local.py", "--reseed", "--port", str(port)])

    assert 1 == local.main()

    assert (
        "",
        f"local.py: nothing listens on port {port}; run make local first, or set PORT\n",
    ) == capsys.readouterr()
