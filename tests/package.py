"""The package as it was built, run by Lambda's own runtime client.

This is all of `sam local invoke` but the container.
"""

import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from emulators.aws import BUILD, architecture, free_port
from events import Response, read_response

PACKAGE = BUILD / "ApiFunction"

type InvokePackage = Callable[[Any], Response]


@contextmanager
def package_running(handler: str, environment: Mapping[str, str]) -> Iterator[InvokePackage]:
    """Run the package by the runtime interface emulator that the SAM CLI has for its container."""
    emulator = _rapid_folder() / f"aws-lambda-rie-{architecture()}"
    address = f"127.0.0.1:{free_port(0)}"
    process = subprocess.Popen(  # noqa: S603 it comes with the SAM CLI
        [
            *(emulator, "--runtime-interface-emulator-address", address),
            *("--runtime-api-address", f"127.0.0.1:{free_port(0)}"),
            *(sys.executable, "-m", "awslambdaric", handler),
        ],
        cwd=PACKAGE,
        env={
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            "AWS_LAMBDA_FUNCTION_NAME": "ApiFunction",
            "AWS_LAMBDA_FUNCTION_TIMEOUT": "29",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
            **environment,
            "PYTHONPATH": str(PACKAGE),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://{address}/2015-03-31/functions/function/invocations"

    def invoke(event: Any) -> Response:
        return read_response(requests.post(url, json=event, timeout=60).json())

    try:
        _wait_until_listening(int(address.rpartition(":")[2]))
        yield invoke
    finally:
        process.terminate()
        process.wait(10)


def _rapid_folder() -> Path:
    """Return where the SAM CLI keeps what it puts into its containers."""
    (tool,) = shlex.split(os.environ["SAM"])
    locate = "import pathlib, samcli; print(pathlib.Path(samcli.__file__).parent / 'local/rapid')"
    found = subprocess.run(  # noqa: S603 the Makefile names it
        [Path(tool).with_name("python"), "-c", locate], capture_output=True, text=True, check=True
    )
    return Path(found.stdout.strip())


def _wait_until_listening(port: int) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with socket.socket() as connection:
            if connection.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(port)
