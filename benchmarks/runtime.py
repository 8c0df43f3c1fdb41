"""Run a package as Lambda does: with Lambda's runtime client, in its own process."""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from packages import BUILD, HANDLERS, RUNTIME
from server import Response, serving

MEMORY_MB = 512  # as in template.yaml
TIMEOUT_SECONDS = 29  # of the function and of API Gateway

ENVIRONMENT = {
    "PATH": os.defpath,
    "PYTHONPATH": str(RUNTIME),
    "LAMBDA_TASK_ROOT": "/var/task",
    "PYTHONDONTWRITEBYTECODE": "1",  # /var/task is read-only
    "AWS_LAMBDA_FUNCTION_NAME": "benchmark",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(MEMORY_MB),
    "AWS_LAMBDA_LOG_FORMAT": "JSON",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "benchmark",
    "AWS_SECRET_ACCESS_KEY": "benchmark",
    "CHECKPOINTS_TABLE": "checkpoints",
    "TOKENS_TABLE": "tokens",
    "POWERTOOLS_SERVICE_NAME": "benchmark",
    "POWERTOOLS_METRICS_NAMESPACE": "Checkpoints",
}


@dataclass(frozen=True)
class Invocation:
    """A response of the function, its time and CPU time, and its usage of DynamoDB."""

    status: int  # as API Gateway returns it: 502 after a crash, 504 after a timeout
    body: str
    seconds: float
    cpu_seconds: float = 0
    seconds_since_start: float = 0  # from the start of the process to the response
    usage: Counter[str] = field(default_factory=Counter)  # see Stub


class Function:
    """A running function. This class serves its runtime API."""

    process: subprocess.Popen[bytes]

    def __init__(self) -> None:
        self.events: SimpleQueue[tuple[object, float] | None] = SimpleQueue()
        self._responses: SimpleQueue[Invocation] = SimpleQueue()
        self._start = time.perf_counter()
        self._usage_before = (0.0, 0.0)  # `_usage()` when the event was sent

    def invoke(self, event: object, seconds: float = TIMEOUT_SECONDS) -> Invocation:
        """Send an event to the function. Kill the function at the timeout, as Lambda does."""
        self.events.put((event, seconds))
        try:
            return self._responses.get(timeout=seconds)
        except Empty:
            self.process.kill()
            return Invocation(504, "", seconds)

    def peak_bytes(self) -> int:
        """Return the peak memory of the function's process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024

    def respond(self, path: str, _headers: Message, body: bytes) -> Response:
        """Handle a request to the runtime API: send the next event, or receive a response."""
        if not path.endswith("/next"):
            now, cpu = self._usage()
            start, cpu_before = self._usage_before
            taken = (now - start, cpu - cpu_before, now - self._start)
            response: Any = {"statusCode": 502, "body": body.decode()}  # the function failed
            if path.endswith("/response"):
                response = json.loads(body)
            self._responses.put(Invocation(response["statusCode"], response["body"], *taken))
            return 202, {}, b""
        entry = self.events.get()
        if entry is None:  # the process was killed
            return 410, {}, b""
        event = json.dumps(entry[0]).encode()
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": "8476a536-e9f4-11e8-9739-2dfe598c3fcd",
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + entry[1]) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-east-1:1:function:benchmark",
            "Lambda-Runtime-Trace-Id": "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=0",
        }
        self._usage_before = self._usage()
        return 200, headers, event

    def _usage(self) -> tuple[float, float]:
        """Return the time, and the CPU time of the process."""
        cpu_clock = ~self.process.pid << 3 | 2  # the same as clock_getcpuclockid(3)
        return time.perf_counter(), time.clock_gettime(cpu_clock)


@contextmanager
def running(name: str, endpoint: str) -> Iterator[Function]:
    """Start a package as a function that uses DynamoDB at this endpoint. Kill it at the end."""
    function = Function()
    with serving(function.respond) as address:
        endpoints = {
            "AWS_LAMBDA_RUNTIME_API": address,
            "AWS_ENDPOINT_URL_DYNAMODB": f"http://{endpoint}",
        }
        # Do not use the virtual environment: Lambda has only the package and its own libraries.
        python = str(Path(sys.executable).resolve())
        function.process = subprocess.Popen(  # noqa: S603 Lambda's runtime client
            [python, "-S", "-m", "awslambdaric", HANDLERS[name]],
            cwd=BUILD / name,
            env=ENVIRONMENT | endpoints,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        try:
            # Use one core: in AWS, the function has less than one.
            os.sched_setaffinity(function.process.pid, {min(os.sched_getaffinity(0))})
            yield function
        finally:
            function.process.kill()
            function.process.wait()
            function.events.put(None)
