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
from worker import FUNCTION_ARN, LIMIT_SECONDS, MEMORY_MB, TRACE

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
        port = process.stdout.readline().strip()
        if not port:
            raise RuntimeError("the stub of DynamoDB does not start")
        yield f"http://127.0.0.1:{port}"
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
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(MEMORY_MB),
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


class _RuntimeApi(ThreadingHTTPServer):
    """Lambda's runtime API for one invocation: hands out the event, and takes the answer."""

    daemon_threads = True

    def __init__(self, event: Mapping[str, Any], seconds: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.event = json.dumps(event).encode()
        self.seconds = seconds
        self.begun = threading.Event()
        self.over = threading.Event()
        self.answers: queue.SimpleQueue[tuple[float, str, bytes]] = queue.SimpleQueue()

    def handle_error(self, *_: object) -> None:
        """Take no notice: the function is killed while it waits for a second event."""


class _Handler(BaseHTTPRequestHandler):
    server: _RuntimeApi
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.server.begun.is_set():  # there is one invocation; the next is waited for in vain
            self.server.over.wait()
            return
        self.server.begun.set()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.server.event)))
        self.send_header("Lambda-Runtime-Aws-Request-Id", "benchmark")
        self.send_header("Lambda-Runtime-Invoked-Function-Arn", FUNCTION_ARN)
        self.send_header("Lambda-Runtime-Trace-Id", TRACE)
        deadline = int((time.time() + self.server.seconds) * 1000)
        self.send_header("Lambda-Runtime-Deadline-Ms", str(deadline))
        self.end_headers()
        self.wfile.write(self.server.event)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.answers.put((time.perf_counter(), self.path, body))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep the progress lines clean."""


@contextmanager
def _serving(event: Mapping[str, Any], seconds: float) -> Iterator[_RuntimeApi]:
    with _RuntimeApi(event, seconds) as api:
        threading.Thread(target=api.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            yield api
        finally:
            api.over.set()
            api.shutdown()


def start(
    package: Package, endpoint: str, event: Mapping[str, Any], seconds: float = LIMIT_SECONDS
) -> Start:
    """Start a package and have it answer an event in so many seconds, as Lambda would.

    Raises:
        RuntimeError: it failed, or did not answer in time.

    """
    runtime = str(build_runtime())
    with _serving(event, seconds) as api:
        environment = function_environment(package, endpoint) | {
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{api.server_port}",
            "PYTHONPATH": runtime,
        }
        begin = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 it is Lambda's own client
            [str(PYTHON), "-S", "-m", "awslambdaric", "checkpoints.app.lambda_handler"],
            cwd=package.path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        try:
            end, path, answer = api.answers.get(timeout=TIMEOUT_SECONDS)
            peak_bytes = _peak_bytes(process.pid)
        except queue.Empty:
            raise RuntimeError(f"{package.path.name} does not answer") from None
        finally:
            process.kill()
            process.wait()
    if not path.endswith("/response"):
        raise RuntimeError(f"{package.path.name} failed: {answer.decode()}")
    return Start(end - begin, json.loads(answer), peak_bytes)


def import_seconds(package: Package) -> dict[str, float]:
    """Return what importing the function takes, by whose modules they are."""
    done = subprocess.run(  # noqa: S603
        [str(PYTHON), "-S", "-X", "importtime", "-c", "import checkpoints.app"],
        cwd=package.path,
        env=function_environment(package, None),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{package.path.name} cannot be imported:\n{done.stderr}")
    parts: defaultdict[str, float] = defaultdict(float)
    for own, name in re.findall(r"import time: +(\d+) \| +\d+ \| +(\S+)", done.stderr):
        parts[PARTS.get(name.partition(".")[0], OTHERS)] += int(own) / 1e6
    return parts


def _peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(kilobytes) * 1024
