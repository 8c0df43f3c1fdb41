"""The local cloud goes where nothing else is."""

import socket

import pytest
import serve


def test_does_not_deploy_to_whoever_has_the_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        with (
            pytest.raises(serve.LocalCloudError, match=f"port {port} is not to be had"),
            serve.local_cloud(port),
        ):
            pass


def test_knows_what_is_no_port() -> None:
    with (
        pytest.raises(serve.LocalCloudError, match="99999 is no port"),
        serve.local_cloud(99_999),
    ):
        pass
