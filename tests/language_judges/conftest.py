"""A server of chat completions, played by a thread."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.asking.conftest import ask as ask, caller as caller


class Server:
    """Answers with `handler(how often this was asked before, the last message of the user, body)`: a text, or (status,
    text, headers) as they are sent."""

    def __init__(self) -> None:
        self.handler: Callable[[int, str, dict[str, Any]], Any] = lambda count, asked, body: ""
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.busy, self.busiest, self.lock = 0, 0, threading.Lock()
        outer = self

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    count = sum(other == body for other in outer.bodies)
                    outer.bodies.append(body)
                    outer.headers.append({**dict(self.headers), "path": self.path})
                    outer.busy += 1
                    outer.busiest = max(outer.busiest, outer.busy)
                said = outer.handler(count, body["messages"][-1]["content"], body)
                with outer.lock:
                    outer.busy -= 1
                if isinstance(said, str):
                    usage = {"prompt_tokens": 10, "completion_tokens": 3}
                    message = {"role": "assistant", "content": said}
                    said = (200, json.dumps({"choices": [{"message": message}], "usage": usage}), {})
                status, text, headers = said
                with contextlib.suppress(OSError):  # the client waits no longer
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(text.encode())))
                    self.end_headers()
                    self.wfile.write(text.encode())

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()
