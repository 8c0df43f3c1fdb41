"""`make local` prints the next commands, or why it failed."""

import shlex
import socket
from collections.abc import Callable

import pytest

from cli.proxies import LOOPBACK
from commands import Result, run_command
from processes import own_address, sam_commands
from scripts import local, serve


@pytest.fixture(params=["x86_64", "arm64"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(local, "architecture", lambda: request.param)
    return str(request.param)


@pytest.mark.usefixtures("machine")
def test_prints_commands_that_need_no_more_options() -> None:
    printed = local.instructions(8000)

    assert "\nOther machines in your network can reach it too.\n" in printed
    assert "\n  make invoke EVENT=events/delete-checkpoints.json\n" in printed
    assert "\n  make start-api\n  curl -X DELETE http://127.0.0.1:3000/v1/" in printed


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


@pytest.mark.parametrize(
    ("main", "in_network"), [(local.main, False), (local.main, True), (serve.main, False)]
)
def test_starts_nothing_if_the_port_is_in_use_at_an_address_where_it_would_listen(
    main: Callable[..., None], in_network: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    address = own_address() if in_network else LOOPBACK
    with socket.create_server((address, 0)) as other:
        port = other.getsockname()[1]

        refused = run_command(main, "--port", str(port), capsys=capsys)

    message = (
        f"Error: Cannot listen on port {port}: Address already in use. "
        "Stop the program that uses it, or set PORT.\n"
    )
    assert Result(1, "", message) == refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--port 99999", "99999 is not a port. Use 0 to 65535."),
        *(
            (
                f"--reseed --port {port}",
                f"No program listens on port {port}. Run make local first, or set PORT.",
            )
            for port in (1, 99_999)
        ),
    ],
)
def test_refuses_a_port_that_it_cannot_use(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = run_command(local.main, *arguments.split(), capsys=capsys)

    assert Result(1, "", f"Error: {message}\n") == refused
