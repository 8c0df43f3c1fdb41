"""A DynamoDB endpoint over HTTP that injects faults, so that botocore handles real errors."""

import json
import sys
import threading
import time
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests
from botocore.awsrequest import AWSPreparedRequest
from botocore.compat import HTTPHeaders
from moto.core.models import botocore_stubber

from emulators.dynamodb import REGION
from emulators.stack import serving


@dataclass(frozen=True)
class Reply:
    """A response. Its headers describe `announced`, if it is not empty, instead of the body."""

    status: int
    body: bytes
    announced: bytes = b""


type Apply = Callable[[], Reply]
type Fault = Callable[[dict[str, Any], Apply], Reply]

CUT = Reply(status=0, body=b"")  # close the connection without a response


def reject(status: int, code: str) -> Fault:
    """Return an error; the request has no effect."""
    body = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "on command"}
    return lambda _request, _apply: Reply(status, json.dumps(body).encode())


def cancel(*codes: str) -> Fault:
    """Cancel a transaction with these codes for its first actions; it has no effect."""

    def fault(request: dict[str, Any], _apply: Apply) -> Reply:
        others = len(request["TransactItems"]) - len(codes)
        body = {
            "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
            "message": "on command",
            "CancellationReasons": [{"Code": code} for code in codes] + [{"Code": "None"}] * others,
        }
        return Reply(400, json.dumps(body).encode())

    return fault


def pass_on(_request: dict[str, Any], apply: Apply) -> Reply:
    """Do not fail."""
    return apply()


def drop_request(_request: dict[str, Any], _apply: Apply) -> Reply:
    """Cut the connection before the request has an effect."""
    return CUT


def stall(seconds: float) -> Fault:
    """Wait, then cut the connection; the request has no effect."""

    def fault(_request: dict[str, Any], _apply: Apply) -> Reply:
        time.sleep(seconds)
        return CUT

    return fault


def tear_response(_request: dict[str, Any], apply: Apply) -> Reply:
    """Apply the request, then cut the connection in the middle of the response."""
    reply = apply()
    return Reply(reply.status, reply.body[: len(reply.body) // 2], announced=reply.body)


def garble_response(_request: dict[str, Any], apply: Apply) -> Reply:
    """Apply the request, then return a different body of the same length."""
    reply = apply()
    return Reply(reply.status, b" " * len(reply.body), announced=reply.body)


def after_effect(fault: Fault) -> Fault:
    """Apply the request, then fail."""

    def apply_and_fail(request: dict[str, Any], apply: Apply) -> Reply:
        apply()
        return fault(request, apply)

    return apply_and_fail


lose_response = after_effect(drop_request)
blank_response = after_effect(lambda _request, _apply: Reply(200, b""))
fail_after_effect = after_effect(reject(500, "InternalServerError"))


class Server(ThreadingHTTPServer):
    """An HTTP server whose callers may stop waiting."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the error, unless the caller closed the connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Endpoint:
    """Forwards requests to a DynamoDB, by default to moto in this process.

    For moto it adds what DynamoDB does and moto does not: it takes one request at a time, and a
    transaction that is sent again with the token of one that succeeded succeeds too, and changes
    nothing.
    """

    def __init__(self, upstream: str | None = None) -> None:
        self._upstream = upstream
        self.calls: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self._faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._lasting: dict[str, Fault] = {}
        self._completed: dict[str, tuple[Any, Reply]] = {}
        self._lock = threading.Lock()
        self._server = Server(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def fail(self, operation: str, *faults: Fault) -> None:
        """Inject these faults into the next calls of an operation, one each."""
        self._faults[operation].extend(faults)

    def keep_failing(self, operation: str, fault: Fault) -> None:
        """Inject this fault into every call of an operation."""
        self._lasting[operation] = fault

    def heal(self) -> None:
        """Remove all faults, and forget the recorded calls."""
        self._faults.clear()
        self._lasting.clear()
        self.calls.clear()
        self.requests.clear()

    @contextmanager
    def running(self) -> Iterator["Endpoint"]:
        """Serve while the block runs."""
        with serving(self._server):
            yield self

    def reply(self, headers: dict[str, str], body: bytes) -> Reply:
        """Answer one request, or fail it."""
        operation = headers["X-Amz-Target"].partition(".")[2]
        request = json.loads(body)
        self.calls.append(operation)
        self.requests.append(request)
        queued = self._faults[operation]
        fault = queued.popleft() if queued else self._lasting.get(operation)

        def apply() -> Reply:
            if self._upstream:
                passed = requests.post(self._upstream, data=body, headers=headers, timeout=60)
                return Reply(passed.status_code, passed.content)
            with self._lock:
                return self._apply(headers, body, request)

        return fault(request, apply) if fault else apply()

    def _apply(self, headers: dict[str, str], body: bytes, request: dict[str, Any]) -> Reply:
        token = request.get("ClientRequestToken")
        if token in self._completed:
            earlier, reply = self._completed[token]
            if earlier != request:
                return reject(400, "IdempotentParameterMismatchException")(request, lambda: reply)
            return reply
        url = f"https://dynamodb.{REGION}.amazonaws.com/"  # to moto, without a client between
        answered: Any = botocore_stubber.process_request(
            AWSPreparedRequest(
                "POST", url, HTTPHeaders.from_dict(headers), body, stream_output=False
            )
        )
        reply = Reply(answered[0], answered[2].encode())
        if token and reply.status == HTTPStatus.OK:
            self._completed[token] = (request, reply)
        return reply

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                reply = endpoint.reply(dict(self.headers), body)
                if reply is CUT:
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                self.send_header("Content-Type", "application/x-amz-json-1.0")
                announced = reply.announced or reply.body
                self.send_header("Content-Length", str(len(announced)))
                self.send_header("x-amz-crc32", str(zlib.crc32(announced)))
                self.end_headers()
                self.wfile.write(reply.body)
                self.close_connection = len(reply.body) < len(announced)

            def log_message(self, *_: object) -> None:
                """Keep the output of the tests free of it."""

        return Handler
