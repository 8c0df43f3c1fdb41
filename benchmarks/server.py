"""A local HTTP server for one function. It serves the DynamoDB stub and Lambda's runtime API."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

type Response = tuple[int, dict[str, str], bytes]  # status, headers, body
type Respond = Callable[[str, Message, bytes], Response]  # path, headers, body


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Print a traceback, unless the client was killed during a request."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def serving(respond: Respond) -> Iterator[str]:
    """Serve on a free port, with one thread per connection. Yield `host:port`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1  # buffered, so that headers and body are sent together

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            request = self.rfile.read(length)
            if len(request) < length:
                raise ConnectionResetError
            status, headers, body = respond(self.path, self.headers, request)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST  # noqa: N815 http.server requires this name

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with _Server(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
