"""What a server does when much arrives, when little arrives, and when it ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from cnncodes.serve.limits import Limits
from tests.serve.servers import Server, client_of, form_of, running


def request_of(content: bytes, *lines: str) -> bytes:
    """Return a request that predicts one image."""
    request = httpx.Request("POST", "http://localhost/api/predict", files=form_of(content))
    lines = ("POST /api/predict?top=1 HTTP/1.1", *lines)
    lines += tuple(f"{name}: {value}" for name, value in request.headers.items())
    return "\r\n".join([*lines, "", ""]).encode() + request.read()


def receive(connection: socket.socket) -> bytes:
    """Return what arrives until the other side closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


@contextmanager
def occupied(server: Server, content: bytes) -> Iterator[tuple[socket.socket, bytes]]:
    """Begin a request; when the server waits for its body, yield the connection and the body."""
    head, end, body = request_of(content, "Expect: 100-continue").partition(b"\r\n\r\n")
    with server.connect() as connection:
        connection.sendall(head + end)
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        yield connection, body


def assert_busy(answer: httpx.Response) -> None:
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert "try again" in answer.json()["error"]


def test_request_too_many_is_refused_until_another_is_answered(
    app: Path, images: list[Path]
) -> None:
    content = images[0].read_bytes()
    with running(app, limits={"max_requests": 1}) as server:
        with occupied(server, content) as (connection, body):
            assert_busy(server.client.post("/api/predict", files=form_of(content)))
            assert server.is_alive()
            connection.sendall(body)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert server.client.post("/api/predict", files=form_of(content)).status_code == 200


def test_memory_of_all_bodies_is_bounded(app: Path, images: list[Path]) -> None:
    content = images[0].read_bytes()
    form = form_of(content + bytes(200_000))
    with running(app, limits={"max_held": 1_000_000}) as server:
        assert_busy(server.client.post("/api/predict", files=form_of(bytes(1_000_001))))
        with occupied(server, bytes(900_000)):
            assert_busy(server.client.post("/api/predict", files=form))
        while server.client.post("/api/predict", files=form).status_code == 503:
            pass  # until the server knows that the connection was closed


def test_images_that_wait_are_bounded(app: Path, images: list[Path]) -> None:
    content = images[0].read_bytes()
    with running(app, limits={"max_waiting": 2}) as server:
        assert_busy(server.client.post("/api/predict", files=form_of(*[content] * 3)))
        assert server.client.post("/api/predict", files=form_of(content)).status_code == 200


def test_answer_that_takes_too_long_is_given_up(app: Path, images: list[Path]) -> None:
    content = images[0].read_bytes()
    with running(app, limits={"seconds_to_answer": 0.001}) as server:
        for path in ("/api/predict", "/api/explain"):
            assert_busy(server.client.post(path, files=form_of(content)))
        assert server.is_alive()


def test_requests_at_a_time_get_their_own_answers(server: Server, photos: Path) -> None:
    paths = sorted(photos.rglob("*.png"))[:40]

    def classify(path: Path) -> object:
        form = form_of(path.read_bytes(), name=path.name)
        (result,) = server.client.post("/api/predict?top=1", files=form).json()["results"]
        assert result["name"] == path.name
        return result["predictions"][0]["label"]

    with ThreadPoolExecutor(20) as pool:
        together = list(pool.map(classify, paths))
    assert together == [classify(path) for path in paths]
    assert len(set(together)) > 1


def test_slow_sender_is_cut_off(app: Path, images: list[Path]) -> None:
    request = request_of(images[0].read_bytes())
    head = request.index(b"\r\n\r\n")
    with running(app, limits={"seconds_to_send": 0.3}) as server:
        for n_bytes in (0, 1, head, head + 4, len(request) - 1):
            with server.connect() as connection:
                connection.sendall(request[:n_bytes])
                assert receive(connection).startswith(b"HTTP/1.1 408 ")
        with server.connect() as connection:  # the head of a second request
            connection.sendall(request + request[:10])
            answer = receive(connection)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.count(b"HTTP/1.1") == 1
        assert server.is_alive()


@pytest.mark.parametrize(
    "content",
    [
        b"\x00" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: elsewhere.org\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
        b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\nzz\r\n",
    ],
    ids=lambda content: repr(content[:40]),
)
def test_bytes_that_are_no_http_are_refused(server: Server, content: bytes) -> None:
    with server.connect() as connection, suppress(ConnectionError):
        connection.sendall(content)
        assert connection.recv(65536).startswith(b"HTTP/1.1 4")
    assert server.is_alive()


def test_connections_that_end_early_leave_the_server_alive(
    server: Server, images: list[Path]
) -> None:
    request = request_of(images[0].read_bytes())
    for n_bytes in range(0, len(request), len(request) // 20):
        with server.connect() as connection:
            connection.sendall(request[:n_bytes])
    for _ in range(20):  # without waiting for the answer
        with server.connect() as connection:
            connection.sendall(request)
    assert server.is_alive()


def test_interrupt_lets_a_request_finish(app: Path, images: list[Path]) -> None:
    content = images[0].read_bytes()
    with running(app) as server, occupied(server, content) as (connection, body):
        server.interrupt()
        with suppress(ConnectionError):  # from then on it listens no longer
            while True:
                server.connect().close()
        connection.sendall(body)
        answer = receive(connection)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b'"predictions":[{' in answer
        server.process.wait(60)  # without another signal; `running` looks at how it ended


def test_interrupt_ends_a_server_with_idle_connections(app: Path) -> None:
    with running(app) as server, server.connect() as connection:
        connection.sendall(b"GET /api/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        server.interrupt()
        server.process.wait(60)


def test_command_prints_the_address_and_ends_well(app: Path) -> None:
    command = [sys.executable, "-m", "cnncodes", "serve", str(app), "--port", "0", "--no-open"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url, _, hint = line.partition("  ")
        assert hint == "(Ctrl-C stops the server)\n"
        with client_of(url) as client:
            assert client.get("/").text.startswith("<!doctype html>")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert errors == "note: stopped\n"
    assert process.returncode == 0


def test_all_that_may_be_received_fits_into_the_bound_of_memory() -> None:
    limits = Limits()
    assert limits.max_body <= limits.max_held
    assert limits.max_files <= limits.max_waiting
