"""An HTTP endpoint on 127.0.0.1 that keeps what it is sent."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Webhook(ThreadingHTTPServer):
    """The endpoint.

    Attributes:
        url: where it is, for Apprise.
        sent: the JSON that it was sent, in order of arrival.
        statuses: what it answers next; after that 200.
        answers: without it set, it keeps silent.
    """

    def __init__(self, *statuses: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"json://127.0.0.1:{self.server_address[1]}/hook"
        self.sent: list[dict[str, Any]] = []
        self.statuses = list(statuses)
        self.answers = threading.Event()
        self.answers.set()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        hook = self.server
        assert isinstance(hook, Webhook)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        hook.sent.append(json.loads(body))
        status = hook.statuses.pop(0) if hook.statuses else 200
        hook.answers.wait()
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Say nothing."""


@contextmanager
def webhook(*statuses: int) -> Generator[Webhook]:
    """Serve an endpoint in threads of its own."""
    with Webhook(*statuses) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield server
        finally:
            server.answers.set()
            server.shutdown()
            thread.join()


@contextmanager
def refusing() -> Generator[str]:
    """The URL of an endpoint, for Apprise, where nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"json://127.0.0.1:{bound.getsockname()[1]}/hook"
