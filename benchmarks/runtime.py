"""A package run the way Lambda runs it: by Lambda's runtime client, in a process of its own."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryFile
from typing import IO, Any

from packages import BUILD, HANDLERS, RUNTIME
from server import Response, serving
from stub import CHECKPOINTS_TABLE, TOKENS_TABLE

MEMORY_MB = 512  # as in template.yaml
LIMIT_SECONDS = 29  # the function's time-out, and the longest that API Gateway waits

ENVIRONMENT = {
    "PATH": os.defpath,
    "LANG": "en_US.UTF-8",
    "TZ": ":UTC",
    "PYTHONPATH": str(RUNTIME),
    "PYTHONDONTWRITEBYTECODE": "1",  # /var/task is read-only
    "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
    "AWS_LAMBDA_FUNCTION_NAME": "benchmark",
    "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(MEMORY_MB),
    "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
    "AWS_LAMBDA_LOG_FORMAT": "JSON",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "benchmark",
    "AWS_SECRET_ACCESS_KEY": "benchmark",
    "CHECKPOINTS_TABLE": CHECKPOINTS_TABLE,
    "TOKENS_TABLE": TOKENS_TABLE,
    "POWERTOOLS_SERVICE_NAME": "benchmark",
    "POWERTOOLS_METRICS_NAMESPACE": "Benchmark",
}


@dataclass(frozen=True)
class Invocation:
    """One answer of the function, and what it took."""

    status: int
    body: str
    seconds: float
    cpu_seconds: float
    log_bytes: int
    seconds_since_start: float  # of the process


class Function:
    """A running function. It gets its events from the runtime API that this class answers."""

    process: subprocess.Popen[bytes]

    def __init__(self, log: IO[bytes]) -> None:
        self.events: SimpleQueue[tuple[object, float] | None] = SimpleQueue()
        self._answers: SimpleQueue[Invocation] = SimpleQueue()
        self._log = log
        self._begin = (0.0, 0.0, 0)
        self._start = time.perf_counter()

    def invoke(self, event: object, seconds: float = LIMIT_SECONDS) -> Invocation:
        """Have the function answer an event. If its time runs out, kill it, as Lambda does."""
        self.events.put((event, seconds))
        try:
            return self._answers.get(timeout=seconds)
        except Empty:
            self.process.kill()
            return Invocation(504, "no answer in time", seconds, 0, 0, 0)

    def peak_bytes(self) -> int:
        """Return the most memory that the process has had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024

    def respond(self, path: str, _headers: Mapping[str, str], body: bytes) -> Response:
        """Answer a request to the runtime API."""
        if path.endswith("/next"):
            return self._next_event()
        end, cpu_end, log_end = self._usage()
        begin, cpu_begin, log_begin = self._begin
        answer: dict[str, Any] = {"statusCode": 502, "body": body.decode()}  # it crashed
        if path.endswith("/response"):
            answer = json.loads(body)
        self._answers.put(
            Invocation(
                answer["statusCode"],
                answer["body"],
                end - begin,
                cpu_end - cpu_begin,
                log_end - log_begin,
                end - self._start,
            )
        )
        return 202, {}, b""

    def _next_event(self) -> Response:
        entry = self.events.get()
        if entry is None:  # the process was killed
            return 410, {}, b""
        event, seconds = entry
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": "8476a536-e9f4-11e8-9739-2dfe598c3fcd",
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + seconds) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-east-1:1234:function:f",
            "Lambda-Runtime-Trace-Id": "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=0",
        }
        payload = json.dumps(event).encode()
        self._begin = self._usage()
        return 200, headers, payload

    def _usage(self) -> tuple[float, float, int]:
        """Return the time, the CPU time of the process, and the size of its log."""
        cpu_clock = ~self.process.pid << 3 | 2  # as clock_getcpuclockid(3) makes it
        now = time.perf_counter()
        return now, time.clock_gettime(cpu_clock), os.fstat(self._log.fileno()).st_size


@contextmanager
def running(name: str, endpoint: str, handler: str | None = None) -> Iterator[Function]:
    """Start a package as a function that calls DynamoDB at an endpoint; kill it at the end."""
    with TemporaryFile() as log:
        function = Function(log)
        with serving(function.respond) as address:
            variables = {
                "LAMBDA_TASK_ROOT": str(BUILD / name),
                "AWS_LAMBDA_RUNTIME_API": address,
                "AWS_ENDPOINT_URL_DYNAMODB": f"http://{endpoint}",
            }
            # Without the virtual environment: nothing but the standard library.
            python = Path(sys.executable).resolve()
            function.process = subprocess.Popen(  # noqa: S603 Lambda's runtime client
                [str(python), "-S", "-m", "awslambdaric", handler or HANDLERS[name]],
                cwd=BUILD / name,
                env=ENVIRONMENT | variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
            try:
                # In the cloud the function has less than one core.
                os.sched_setaffinity(function.process.pid, {min(os.sched_getaffinity(0))})
                yield function
            finally:
                function.process.kill()
                function.process.wait()
                function.events.put(None)
