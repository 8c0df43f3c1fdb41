"""The local cloud starts only if the port is free."""

import socket

import pytest

from emulators.cloud import EVERY_ADDRESS, LocalCloudError, local_cloud
from processes import own_address


def test_fails_if_the_port_is_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        with (
            pytest.raises(LocalCloudError, match=f"port {port}: .*in use"),
            local_cloud(port),
        ):
            pass


def test_fails_if_the_port_is_in_use_at_another_address_of_this_machine() -> None:
    with socket.create_server((own_address(), 0)) as other:
        port = other.getsockname()[1]

        with (
            pytest.raises(LocalCloudError, match=f"port {port}: .*in use"),
            local_cloud(port, host=EVERY_ADDRESS),
        ):
            pass


def test_fails_if_the_port_is_out_of_range() -> None:
    with (
        pytest.raises(LocalCloudError, match="99999 is not a port"),
        local_cloud(99_999),
    ):
        pass
