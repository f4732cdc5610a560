"""A real local server that answers a remote reward's requests in any way, and remembers what it was asked."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Handler", Any], None]


class Handler(BaseHTTPRequestHandler):
    """Hands each request to its server's `answer`."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, dict(self.headers), json.loads(body)))
        with contextlib.suppress(OSError):  # the client has hung up
            self.server.answer(self, json.loads(body))

    def do_GET(self) -> None:
        raise AssertionError("only POST is asked for")

    def say(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Answers on a free port, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self, answer: Answer):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.requests = answer, list[tuple[str, dict[str, str], Any]]()
        self.url = f"http://127.0.0.1:{self.server_port}/score"
        self.over = threading.Event()  # lets what waits go on when the test is over


def lengths(handler: Handler, asked: Any) -> None:
    """The right answer: the length of each completion."""
    texts = asked["completions"] if "completions" in asked else asked["query"]
    scores = [float(len(text)) for text in texts]
    handler.say(200, json.dumps({"rewards": scores, "parts": {"half": [each / 2 for each in scores]}}).encode())


def fixed(status: int, body: bytes, **headers: str) -> Answer:
    return lambda handler, asked: handler.say(status, body, **headers)


@contextlib.contextmanager
def reward_servers() -> Iterator[Callable[[Answer], Server]]:
    """Yield a function that starts a server; all of them end with the block."""
    servers: list[Server] = []

    def start(answer: Answer) -> Server:
        server = Server(answer)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    try:
        yield start
    finally:
        for server in servers:
            server.over.set()
            server.shutdown()
            server.server_close()
