"""One implementation in a process of its own, measured from inside: requests in, figures out.

It is started on a package, with the environment of a Lambda function. Standard input has one
`Request` a line, as JSON; each is answered by one line of figures. A request that takes longer than
API Gateway would wait ends the process.
"""

import hashlib
import http.client
import importlib
import json
import logging
import os
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any, TextIO
from unittest import mock
from urllib.parse import urlsplit

from botocore.session import Session
from function import ENTITY, MODEL, TOKEN, make_event
from stub import Tables

# What template.yaml gives the function.
MEMORY_MB = 512
LIMIT_SECONDS = 29  # as long as API Gateway waits

BAD_BODY_BYTES = 5_000_000

FUNCTION_ARN = "arn:aws:lambda:us-east-1:123456789012:function:benchmark"
TRACE = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=0"


@dataclass(frozen=True)
class Request:
    """What to send, to tables that hold what, and for how long to repeat it."""

    kind: str = "accepted"  # or no_token, bad_token, bad_body
    asked: int = 1  # steps, from 0 on
    repeats: int = 1  # of each step in the body
    present: tuple[int, int, int] = (0, 1, 1)  # the range of steps that have checkpoints
    foreign: tuple[int, ...] = ()  # those of them that are another entity's
    latency_seconds: float = 0.0  # of each call
    lost_answers: int = 0  # of deletes that were carried out, at the endpoint
    seconds: float = 0.0  # to go on for; it is sent once at least


@dataclass(frozen=True)
class Figures:
    """What one request took, on average, and what it asked of DynamoDB."""

    cpu_seconds: float
    wall_seconds: float
    calls: int
    read_units: int
    write_units: int
    log_bytes: int


def make_request(request: Request) -> tuple[dict[str, Any], int, dict[str, Any] | None]:
    """Return the event, and the status and body of a right answer; the words of errors vary."""
    asked = list(range(request.asked))
    match request.kind:
        case "accepted":
            mine = set(range(*request.present)) - set(request.foreign)
            not_found = [step for step in asked if step not in mine]
            body = {"deleted_count": len(asked) - len(not_found), "not_found_steps": not_found}
            return make_event(steps=asked * request.repeats), 200, body
        case "no_token":
            return make_event(steps=asked, token=None), 401, None
        case "bad_token":
            return make_event(steps=asked, token="unknown"), 401, None  # noqa: S106 it opens nothing
        case "bad_body":
            text = f'{{"steps": [{"1234567, " * (BAD_BODY_BYTES // 9)}"7"]}}'
            return make_event(body=text), 422, None
    raise ValueError(request.kind)


def make_context() -> SimpleNamespace:
    """Return what Lambda hands over with an event, of an invocation that begins now."""
    end = time.monotonic() + LIMIT_SECONDS
    return SimpleNamespace(
        function_name="benchmark",
        function_version="$LATEST",
        memory_limit_in_mb=str(MEMORY_MB),
        invoked_function_arn=FUNCTION_ARN,
        aws_request_id="8476a536-e9f4-11e8-9739-2dfe598c3fcd",
        get_remaining_time_in_millis=lambda: int((end - time.monotonic()) * 1000),
    )


class LocalTables:
    """The tables in this process, in the place of a client."""

    def __init__(self) -> None:
        self._tables = Tables()
        self._tables.put_token(hash_token(TOKEN), ENTITY)
        mock.patch.object(Session, "create_client", return_value=self._tables).start()

    def prepare(self, request: Request) -> None:
        """Have what the request says is present."""
        self._tables.put_checkpoints(MODEL, range(*request.present), ENTITY, request.foreign)

    def report(self) -> dict[str, Any]:
        """Return the usage since the last report, and the checkpoints that are left."""
        return {"usage": self._tables.take_usage(), "remaining": self._tables.steps(MODEL)}


class RemoteTables:
    """The tables behind the endpoint that botocore is told of."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc)
        self._ask("put_token", token_hash=hash_token(TOKEN), entity=ENTITY)

    def prepare(self, request: Request) -> None:
        """Have what the request says is present, as far away as it says."""
        self._ask(
            "prepare",
            model_id=MODEL,
            steps=request.present,
            entity=ENTITY,
            foreign=request.foreign,
            latency_seconds=request.latency_seconds,
            lost_answers=request.lost_answers,
        )

    def report(self) -> dict[str, Any]:
        """Return the usage since the last report, and the checkpoints that are left."""
        return self._ask("report", model_id=MODEL)

    def _ask(self, operation: str, **parameters: object) -> dict[str, Any]:
        headers = {"X-Amz-Target": f"Stub.{operation}"}
        self._connection.request("POST", "/", json.dumps(parameters), headers)
        answer: dict[str, Any] = json.loads(self._connection.getresponse().read())
        return answer


def hash_token(token: str) -> str:
    """Return the key of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


class Worker:
    """The implementation, and the tables it works on."""

    def __init__(self) -> None:
        url = os.environ.get("AWS_ENDPOINT_URL_DYNAMODB")
        self._tables = RemoteTables(url) if url else LocalTables()
        os.environ["_X_AMZN_TRACE_ID"] = TRACE
        self._handler = importlib.import_module("checkpoints.app").lambda_handler
        if concurrency := os.environ.get("CONCURRENT_TRANSACTIONS"):
            store: Any = importlib.import_module("checkpoints.store")
            store.CONCURRENT_TRANSACTIONS = int(concurrency)

    def measure(self, request: Request) -> Figures:
        """Send a request, again and again until it was long enough.

        Raises:
            AssertionError: an answer or the table is wrong, so no figure would be worth anything.

        """
        event, status, body = make_request(request)
        right = set(range(*request.present))
        if request.kind == "accepted":
            right -= set(range(request.asked)) - set(request.foreign)
        cpu = wall = 0.0
        count = 0
        while count == 0 or wall < request.seconds:
            self._tables.prepare(request)
            self._tables.report()
            context = make_context()
            log_bytes = self._logged_bytes()
            signal.alarm(LIMIT_SECONDS)
            begin_cpu, begin = time.process_time(), time.perf_counter()
            answer = self._handler(event, context)
            end, end_cpu = time.perf_counter(), time.process_time()
            signal.alarm(0)
            cpu += end_cpu - begin_cpu
            wall += end - begin
            count += 1
            log_bytes = self._logged_bytes() - log_bytes
            report = self._tables.report()
            if (
                answer["statusCode"] != status
                or (body is not None and json.loads(answer["body"]) != body)
                or set(report["remaining"]) != right
            ):
                raise AssertionError(f"{request}: {answer['statusCode']} {answer['body'][:1000]}")
        return Figures(
            cpu_seconds=cpu / count,
            wall_seconds=wall / count,
            log_bytes=log_bytes,
            **report["usage"],
        )

    @staticmethod
    def _logged_bytes() -> int:
        return os.lseek(1, 0, os.SEEK_CUR)


class Unbuffered:
    """Standard output as Lambda's runtime has it: each write goes out at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write out a text."""
        self._stream.write(text)
        self._stream.flush()

    def flush(self) -> None:
        """Do nothing, as nothing is held back."""


def main() -> None:
    """Measure what comes, with the log going where its size can be seen."""
    # On several cores FastAPI's threads vary by a half.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with os.fdopen(os.dup(1), "w") as figures, tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 1)
        sys.stdout = Unbuffered(sys.stdout)
        logging.getLogger().addHandler(logging.StreamHandler(sys.stdout))  # as Lambda's runtime has
        worker = Worker()
        for line in sys.stdin:
            figures.write(json.dumps(asdict(worker.measure(Request(**json.loads(line))))) + "\n")
            figures.flush()


if __name__ == "__main__":
    main()
