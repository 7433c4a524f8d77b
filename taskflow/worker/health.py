"""A worker's readiness, liveness and metrics, on a port of its own, answered even while a handler blocks its loop."""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec

from taskflow import metrics


@contextmanager
def serve_health(host: str, port: int, is_ready: Callable[[], bool], measure: Callable[[], bytes]) -> Generator[int]:
    """Serve ``/readiness``, ``/liveness``, and as ``/metrics`` what *measure* gives, until the context ends.

    Yields the port. Raises OSError if it is taken.
    """

    class Health(BaseHTTPRequestHandler):
        timeout = 5  # seconds that a client may take for its request

        def do_GET(self) -> None:
            match self.path.partition("?")[0]:
                case "/liveness":
                    self._tell(HTTPStatus.OK, "up")
                case "/readiness":
                    ready = is_ready()
                    status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
                    self._tell(status, "ready" if ready else "not ready")
                case "/metrics":
                    self._answer(HTTPStatus.OK, metrics.MEDIA_TYPE, measure())
                case _:
                    self._tell(HTTPStatus.NOT_FOUND, "not found")

        def _tell(self, status: HTTPStatus, word: str) -> None:
            self._answer(status, "application/json", msgspec.json.encode({"status": word}))

        def _answer(self, status: HTTPStatus, media_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Probes come every few seconds; they are not worth a line."""

    server = ThreadingHTTPServer((host, port), Health)
    thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
