"""Servers in processes of their own, which may not write to any file."""

from __future__ import annotations

import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

PROGRAM = """
import sys
from cnncodes.serve.limits import Limits
from cnncodes.serve.server import serve
serve(
    sys.argv[1], port=0, open_page=False, limits=Limits(**{limits}), **{options},
    on_ready=lambda url: print(url, flush=True),
)
"""


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    process: subprocess.Popen[str]
    url: str
    client: httpx.Client

    @property
    def address(self) -> tuple[str, int]:
        url = httpx.URL(self.url)
        return "127.0.0.1", url.port or 80

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=60)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def is_alive(self) -> bool:
        return self.client.get("/api/health").json() == {"status": "ok"}


def write_nothing() -> None:
    """Let every write to a file of this process fail, also to one without a name."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


@contextmanager
def running(
    app: Path, *, limits: dict[str, float] | None = None, **options: object
) -> Iterator[Server]:
    """Run a server; at the end it must stop at Ctrl-C, with exit code 0 and without a word."""
    program = PROGRAM.format(limits=limits or {}, options=options)
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(app)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=write_nothing,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, process.communicate()[1]
        with client_of(url) as client:
            yield Server(process, url, client)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert errors == "", errors
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


def client_of(url: str) -> httpx.Client:
    """Return a client that opens a connection for each request: idle ones are closed."""
    limits = httpx.Limits(max_keepalive_connections=0)
    base = httpx.URL(url, query=None)
    return httpx.Client(base_url=base, timeout=60, trust_env=False, limits=limits)


def form_of(*contents: bytes, name: str = "image.png") -> list[tuple[str, tuple[str, bytes]]]:
    """Return files as httpx wants them."""
    return [("file", (name, content)) for content in contents]
