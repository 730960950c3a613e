"""A server of one file, which breaks off, refuses or lies as real ones do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

CHANGED = 1_500_000_000


class Server(ThreadingHTTPServer):
    """A server of one file; its attributes tell how it behaves."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.changed = CHANGED
        self.breaks: list[int] = []  # the number of bytes after which each answer ends
        self.status = 200
        self.knows_ranges = True
        self.names_length = True
        self.type = "application/octet-stream"
        self.range: str | None = None  # the Content-Range of each answer, whatever was asked
        self.length: str | None = None  # the Content-Length
        self.location: str | None = None  # where each request is sent on to
        self.asked: list[str | None] = []  # the range of each request

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/models/weights.h5"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        start = 0
        if server.location:
            self.send_response(302)
            self.send_header("Location", server.location)
            self.end_headers()
            return
        if server.status != 200:
            self.send_error(server.status)
            return
        modified = formatdate(server.changed, usegmt=True)
        if server.range:
            self.send_response(206)
            self.send_header("Content-Range", server.range)
        elif wanted and server.knows_ranges and self.headers.get("If-Range") == modified:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(server.content):
                self.send_error(416)
                return
            self.send_response(206)
            end = len(server.content) - 1
            self.send_header("Content-Range", f"bytes {start}-{end}/{end + 1}")
        else:
            self.send_response(200)
        if server.names_length:
            length = server.length or str(len(server.content) - start)
            self.send_header("Content-Length", length)
        self.send_header("Content-Type", server.type)
        self.send_header("Last-Modified", modified)
        self.end_headers()
        n_bytes = server.breaks.pop(0) if server.breaks else len(server.content)
        with suppress(OSError):  # the other end need not wait for the end
            self.wfile.write(server.content[start : start + n_bytes])

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(content: bytes) -> Iterator[Server]:
    """Yield a server of some content."""
    with Server(content) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            yield server
        finally:
            server.shutdown()
