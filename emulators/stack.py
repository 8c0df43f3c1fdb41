"""The deployed stack in this process: its tables, bucket and queues, and its API over HTTP.

For the demo. Call `isolate` first.
"""

import importlib
import io
import json
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest import mock
from urllib.parse import parse_qs, urlsplit

import boto3

from cli import stacks
from emulators.dynamodb import embedded_dynamodb
from emulators.invocation import lambda_context
from emulators.records import ARTIFACTS_BUCKET
from emulators.storage import embedded_bucket

# Functions write their metrics to standard output, where they would be between other lines.
NO_METRICS = {
    "POWERTOOLS_METRICS_DISABLED": "true",
    "AWS_LAMBDA_INITIALIZATION_TYPE": "provisioned-concurrency",  # for the metric of cold starts
}


@contextmanager
def embedded_stack(name: str) -> Iterator[str]:
    """Run the block with a stack of this name, and yield the URL of its API.

    Nobody sees the logs of its functions.
    """
    with embedded_dynamodb(), embedded_bucket(), mock.patch.dict(os.environ, NO_METRICS):
        with redirect_stdout(io.StringIO()):  # where the logger, which is created now, writes to
            importlib.import_module("checkpoints.telemetry")
        queue = boto3.client("sqs").create_queue(QueueName="DeadLetterQueue")
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Gateway)
        url = f"http://127.0.0.1:{server.server_port}"
        with serving(server):
            outputs = {
                "ApiUrl": url,
                "ArtifactsBucketName": ARTIFACTS_BUCKET,
                "CheckpointsTableName": os.environ["CHECKPOINTS_TABLE"],
                "DeadLetterQueueUrl": queue["QueueUrl"],
                "QueueMappingId": str(uuid.uuid4()),
                "ReclaimQueueUrl": os.environ["RECLAIM_QUEUE_URL"],
                "TokensTableName": os.environ["TOKENS_TABLE"],
            }
            settings = {"AWS_ENDPOINT_URL_LAMBDA": url, "CHECKPOINTS_STACK": name}
            with (
                mock.patch.dict(os.environ, settings),
                # An emulated CloudFormation would take seconds.
                mock.patch.object(stacks, "read_outputs", return_value=outputs),
            ):
                yield url


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[None]:
    """Serve while the block runs."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Gateway(BaseHTTPRequestHandler):
    """Serves the API as API Gateway does, and what Lambda says of an event source mapping."""

    protocol_version = "HTTP/1.1"

    def _respond(self) -> None:
        if "/event-source-mappings/" in self.path:
            mapping = {"State": "Enabled", "LastProcessingResult": "OK"}
            self._send(HTTPStatus.OK, {}, json.dumps(mapping))
            return
        from checkpoints.api.app import RESOURCE, lambda_handler  # noqa: PLC0415 as above

        parts = urlsplit(self.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        request_id = str(uuid.uuid4())
        response = lambda_handler(
            {
                "resource": RESOURCE,
                "path": parts.path,
                "httpMethod": self.command,
                "multiValueHeaders": {name: self.headers.get_all(name) for name in self.headers},
                "multiValueQueryStringParameters": query or None,
                "requestContext": {"requestId": request_id},
                "body": self.rfile.read(int(self.headers.get("Content-Length", 0))).decode(),
                "isBase64Encoded": False,
            },
            lambda_context(),
        )
        headers = response["multiValueHeaders"] | {"x-amzn-RequestId": [request_id]}
        self._send(response["statusCode"], headers, response["body"])

    do_GET = do_DELETE = _respond  # noqa: N815 names of http.server

    def _send(self, status: int, headers: dict[str, list[str]], body: str) -> None:
        content = body.encode()
        self.send_response(status)
        for name, values in headers.items():
            for value in values:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Print nothing about the requests."""
