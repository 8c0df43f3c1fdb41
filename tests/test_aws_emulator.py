"""The local AWS emulator starts only if the port is free."""

import socket

import pytest

from cli.proxies import LOOPBACK
from emulators.aws import EVERY_ADDRESS, AwsEmulatorError, aws_emulator
from processes import own_address


@pytest.mark.parametrize("host", [LOOPBACK, EVERY_ADDRESS])
def test_fails_if_the_port_is_in_use_at_an_address_where_it_would_listen(host: str) -> None:
    address = own_address() if host == EVERY_ADDRESS else host
    with socket.create_server((address, 0)) as other:
        port = other.getsockname()[1]

        with (
            pytest.raises(AwsEmulatorError, match=f"port {port}: .*in use"),
            aws_emulator(port, host=host),
        ):
            pass


def test_fails_if_the_port_is_out_of_range() -> None:
    with pytest.raises(AwsEmulatorError, match="99999 is not a port"), aws_emulator(99_999):
        pass
