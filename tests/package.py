"""The package as it was built, run by Lambda's own runtime client.

This is all of `sam local invoke` but the container.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from emulators.aws import BUILD, architecture, free_port
from events import Response
from published import read_response

PACKAGE = BUILD / "ApiFunction"

type InvokePackage = Callable[[Any], Response]


@contextmanager
def package_running(handler: str, environment: Mapping[str, str]) -> Iterator[InvokePackage]:
    """Run the package by the runtime interface emulator that the SAM CLI has for its container."""
    (tool,) = shlex.split(os.environ["SAM"])
    name = f"samcli/local/rapid/aws-lambda-rie-{architecture()}"
    (emulator,) = Path(tool).parents[1].glob(f"lib/python*/site-packages/{name}")
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
    session = requests.Session()
    session.mount("http://", HTTPAdapter(max_retries=Retry(connect=8, backoff_factor=0.1)))
    url = f"http://{address}/2015-03-31/functions/function/invocations"

    def invoke(event: Any) -> Response:
        return read_response(event, session.post(url, json=event, timeout=60).json())

    try:
        yield invoke
    finally:
        process.terminate()
        process.wait(10)
