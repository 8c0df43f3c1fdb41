"""The local AWS emulator starts only if the port is free."""

import socket

import pytest

from emulators.aws import EVERY_ADDRESS, AwsEmulatorError, aws_emulator
from processes import own_address


def test_fails_if_the_port_is_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        with (
            pytest.raises(AwsEmulatorError, match=f"port {port}: .*in use"),
            aws_emulator(port),
        ):
            pass


def test_fails_if_the_port_is_in_use_at_another_address_of_this_machine() -> None:
    with socket.create_server((own_address(), 0)) as other:
        port = other.getsockname()[1]

        with (
            pytest.raises(AwsEmulatorError, match=f"port {port}: .*in use"),
            aws_emulator(port, host=EVERY_ADDRESS),
        ):
            pass


def test_fails_if_the_port_is_out_of_range() -> None:
    with (
        pytest.raises(AwsEmulatorError, match="99999 is not a port"),
        aws_emulator(99_999),
    ):
        pass
