"""A package run as Lambda runs it: by the runtime client, in a process that is yet to start."""

import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from packages import ROOT, Package, build_runtime
from stub import CHECKPOINTS_TABLE, TOKENS_TABLE

# That of the virtual environment, without the environment: nothing but the standard library.
PYTHON = Path(sys.executable).resolve()
TIMEOUT_SECONDS = 60

# Whose a module is, by the beginning of its name.
PARTS = {
    "aws_lambda_powertools": "Powertools",
    "aws_xray_sdk": "X-Ray SDK",
    "wrapt": "X-Ray SDK",
    "boto3": "botocore, boto3",
    "botocore": "botocore, boto3",
    "dateutil": "botocore, boto3",
    "jmespath": "botocore, boto3",
    "s3transfer": "botocore, boto3",
    "urllib3": "botocore, boto3",
    "checkpoints": "own code, client set-up",
    "fastapi": "FastAPI, Mangum",
    "starlette": "FastAPI, Mangum",
    "mangum": "FastAPI, Mangum",
    "anyio": "FastAPI, Mangum",
    "pydantic": "pydantic",
    "pydantic_core": "pydantic",
    "typing_inspection": "pydantic",
    "annotated_types": "pydantic",
}
OTHERS = "standard library, others"


@dataclass(frozen=True)
class Start:
    """A cold start: from the start of the process to its first answer."""

    seconds: float
    answer: Any
    peak_bytes: int


@contextmanager
def running_stub() -> Iterator[str]:
    """Run the stub of DynamoDB in a process of its own; yield its URL."""
    with subprocess.Popen(  # noqa: S603 it is ours
        [sys.executable, str(ROOT / "benchmarks" / "stub.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,  # an interrupt is for this process, which ends the others
    ) as process:
        assert process.stdout is not None  # noqa: S101 it is a pipe
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.communicate()


def function_environment(package: Package, endpoint: str | None) -> dict[str, str]:
    """Return the environment of the function, with no trace of this process's own."""
    return {
        "PATH": os.defpath,
        "LANG": "en_US.UTF-8",
        "TZ": ":UTC",
        "LAMBDA_TASK_ROOT": str(package.path),
        "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
        "AWS_LAMBDA_FUNCTION_NAME": "benchmark",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_XRAY_DAEMON_ADDRESS": "127.0.0.1:2000",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_SESSION_TOKEN": "benchmark",
        "CHECKPOINTS_TABLE": CHECKPOINTS_TABLE,
        "TOKENS_TABLE": TOKENS_TABLE,
        "PYTHONDONTWRITEBYTECODE": "1",  # /var/task cannot be written to
    } | ({"AWS_ENDPOINT_URL_DYNAMODB": endpoint} if endpoint else {})


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Take no notice: each function is killed while it waits for a second event."""


class RuntimeApi:
    """Lambda's runtime API: hands an event to each function that asks, and takes the answer."""

    def __init__(self) -> None:
        self._event = b""
        self._answers: queue.SimpleQueue[tuple[float, str, bytes]] = queue.SimpleQueue()
        self._served = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def start(self, package: Package, endpoint: str, event: Mapping[str, Any]) -> Start:
        """Start a package and have it answer an event.

        Raises:
            RuntimeError: it failed, or did not answer in time.

        """
        self._event = json.dumps(event).encode()
        self._served.clear()
        begin = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 it is Lambda's own client
            [str(PYTHON), "-S", "-m", "awslambdaric", "checkpoints.app.lambda_handler"],
            cwd=package.path,
            env=function_environment(package, endpoint)
            | {
                "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._server.server_port}",
                "PYTHONPATH": str(build_runtime()),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        try:
            end, path, answer = self._answers.get(timeout=TIMEOUT_SECONDS)
            peak_bytes = _peak_bytes(process.pid)
        except queue.Empty:
            raise RuntimeError(f"{package.path.name} does not answer") from None
        finally:
            process.kill()
            process.wait()
        if not path.endswith("/response"):
            raise RuntimeError(f"{package.path.name} failed: {answer.decode()}")
        return Start(end - begin, json.loads(answer), peak_bytes)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                if api._served.is_set():  # one invocation each; it waits for the next in vain
                    time.sleep(TIMEOUT_SECONDS)
                    return
                api._served.set()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(api._event)))
                self.send_header("Lambda-Runtime-Aws-Request-Id", "benchmark")
                self.send_header(
                    "Lambda-Runtime-Invoked-Function-Arn",
                    "arn:aws:lambda:us-east-1:123456789012:function:benchmark",
                )
                self.send_header(
                    "Lambda-Runtime-Trace-Id",
                    "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=0",
                )
                deadline = int((time.time() + 29) * 1000)
                self.send_header("Lambda-Runtime-Deadline-Ms", str(deadline))
                self.end_headers()
                self.wfile.write(api._event)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                api._answers.put((time.perf_counter(), self.path, body))
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Keep the progress lines clean."""

        return Handler


def import_seconds(package: Package) -> dict[str, float]:
    """Return what importing the function takes, by whose modules they are."""
    done = subprocess.run(  # noqa: S603
        [str(PYTHON), "-S", "-X", "importtime", "-c", "import checkpoints.app"],
        cwd=package.path,
        env=function_environment(package, None),
        capture_output=True,
        text=True,
        check=True,
    )
    parts: defaultdict[str, float] = defaultdict(float)
    for own, name in re.findall(r"import time: +(\d+) \| +\d+ \| +(\S+)", done.stderr):
        parts[PARTS.get(name.partition(".")[0], OTHERS)] += int(own) / 1e6
    return parts


def _peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(kilobytes) * 1024
