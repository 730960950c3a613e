"""Downloads from a server of our own, which breaks off, refuses or lies as real ones do."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from cnncodes.download import download, fault_of
from cnncodes.errors import OutputError, WeightsError
from cnncodes.output import open_unfinished
from cnncodes.progress import NoProgress
from tests.file_server import CHANGED, Server, serving

CONTENT = bytes(range(256)) * 20_000  # 5 MB
CHECKSUM = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(CONTENT) as server:
        yield server


class Counted(NoProgress):
    """Keeps what is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[tuple[int, int]] = []
        self.counted = 0

    def begin(self, total: int, done: int = 0, unit: str | None = None) -> None:
        assert unit == "MB"
        self.begun.append((total, done))
        self.counted = done

    def advance(self, amount: int) -> None:
        self.counted += amount


def fetch(server: Server, path: Path, progress: NoProgress | None = None) -> None:
    download(
        server.address,
        path,
        size=len(CONTENT),
        checksum=CHECKSUM,
        remedy="use a browser",
        error=WeightsError,
        progress=progress,
    )


def refusal(server: Server, path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        fetch(server, path)
    assert not path.exists()
    message = str(caught.value)
    assert message.startswith(f"{server.address}: ")
    assert message.endswith("; use a browser")
    assert "\n" not in message
    return message


def test_file_is_whole_and_nothing_else_is_left(server: Server, tmp_path: Path) -> None:
    path, progress = tmp_path / "new folder" / "weights.h5", Counted()
    fetch(server, path, progress)
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]
    assert progress.begun == [(5, 0)]
    assert progress.counted == 5


def test_connection_that_breaks_off_is_taken_up_again(server: Server, tmp_path: Path) -> None:
    path, progress = tmp_path / "weights.h5", Counted()
    server.breaks = [1_300_000, 1_200_000]
    fetch(server, path, progress)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1300000-", "bytes=2500000-"]
    assert progress.begun == [(5, 0), (5, 1), (5, 2)]


def test_what_has_arrived_is_kept_for_the_next_run(server: Server, tmp_path: Path) -> None:
    path, part = tmp_path / "weights.h5", tmp_path / "weights.h5.part"
    server.breaks = [2_000_000, 0]
    message = refusal(server, path)
    assert "cannot be downloaded (the connection ended after 2,000,000 of 5,120,000" in message
    assert "; the same command goes on after 2.0 MB; " in message
    assert part.read_bytes() == CONTENT[:2_000_000]
    server.asked.clear()
    fetch(server, path)
    assert path.read_bytes() == CONTENT
    assert server.asked == ["bytes=2000000-"]
    assert not part.exists()


def test_rest_of_a_file_that_has_changed_is_not_appended(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    server.content, server.breaks = CONTENT[::-1], [2_000_000, 0]
    refusal(server, path)
    server.content, server.changed = CONTENT, CHANGED + 1
    fetch(server, path)
    assert path.read_bytes() == CONTENT


def test_server_without_ranges_begins_again(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    server.knows_ranges, server.breaks = False, [2_000_000, 0]
    refusal(server, path)
    fetch(server, path)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("size", [len(CONTENT), len(CONTENT) + 7])
def test_part_that_is_complete_or_longer(server: Server, tmp_path: Path, size: int) -> None:
    path, part = tmp_path / "weights.h5", tmp_path / "weights.h5.part"
    part.write_bytes((CONTENT + bytes(7))[:size])
    download(server.address, path, checksum=CHECKSUM)  # of no known size
    assert path.read_bytes() == CONTENT
    server.asked.clear()
    path.rename(part)
    fetch(server, path)
    assert not server.asked  # nothing is missing


def test_length_that_is_not_named(server: Server, tmp_path: Path) -> None:
    path, server.names_length = tmp_path / "weights.h5", False
    fetch(server, path)
    assert path.read_bytes() == CONTENT


def test_another_file_is_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    server.content = CONTENT[:-1]
    assert "is not the expected file (it has 5,119,999 bytes, not 5,120,000)" in refusal(
        server, path
    )
    server.content = CONTENT[:-1] + b"x"
    assert "is not the expected file (its MD5 is " in refusal(server, path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("status", "reason"), [(404, "Not Found"), (503, "Service Unavailable")])
def test_server_that_refuses(server: Server, tmp_path: Path, status: int, reason: str) -> None:
    server.status = status
    message = refusal(server, tmp_path / "weights.h5")
    assert f"cannot be downloaded (the server answers {status} {reason})" in message


def test_no_server(server: Server, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(WeightsError, match=r"cannot be downloaded \(.*[Rr]efused"):
        download(f"http://127.0.0.1:{port}/x", tmp_path / "x", error=WeightsError)
    with pytest.raises(WeightsError, match=r"name\.invalid/x: cannot be downloaded \("):
        download("http://name.invalid/x", tmp_path / "x", error=WeightsError)
    assert list(tmp_path.iterdir()) == []


def test_server_that_does_not_speak_http(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 mail ready\r\n")

        Thread(target=answer).start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/x"
        with pytest.raises(WeightsError, match=r"cannot be downloaded \(220 mail ready"):
            download(address, tmp_path / "x", error=WeightsError)


def test_folder_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    path = tmp_path / "models" / "weights.h5"
    with pytest.raises(WeightsError, match=r"weights\.h5\.part: cannot be written \(.*exists"):
        fetch(server, path)


def write_part(server: Server, path: Path, content: bytes = CONTENT[:2_000_000]) -> Path:
    """Write what has arrived of the file before."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    os.utime(part, (server.changed, server.changed))
    return part


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (
            {"type": "text/html", "content": b"<html>" * 9, "knows_ranges": False},
            "cannot be downloaded (a web page came in its place",
        ),
        (
            {"content": b"{}", "knows_ranges": False},
            "expected file (it has 2 bytes, not 5,120,000)",
        ),
        ({"range": "bytes 100-5119999/5120000"}, "(the server sends another part than it was"),
        ({"range": "bytes 2000000-2000001/2000002"}, "file (it has 2,000,002 bytes, not 5,120,000"),
        ({"range": "lines 1-2"}, "(the server sends another part than it was asked for)"),
        ({"status": 416}, "(the server answers 416 "),
        ({"status": 204}, "(the server answers 204 "),
        (
            {"range": "bytes 2000000-/*", "content": bytes(9_000_000), "names_length": False},
            "(the server sends another part",
        ),
        (
            {
                "range": "bytes 2000000-5119999/*",
                "content": bytes(9_000_000),
                "names_length": False,
            },
            "is not the expected file (it has more than 5,120,000 bytes)",
        ),
    ],
)
def test_answer_of_another_kind_leaves_what_has_arrived(
    server: Server, tmp_path: Path, answer: dict[str, object], problem: str
) -> None:
    path = tmp_path / "weights.h5"
    part = write_part(server, path)
    usual = dict(vars(server))
    vars(server).update(answer)
    assert problem in refusal(server, path)
    assert part.read_bytes() == CONTENT[:2_000_000]
    vars(server).update(usual)
    server.asked.clear()
    fetch(server, path)
    assert path.read_bytes() == CONTENT
    assert server.asked == ["bytes=2000000-"]


@pytest.mark.parametrize("n_bytes", [len(CONTENT), 2_000_000])
def test_part_of_another_content_is_begun_again(
    server: Server, tmp_path: Path, n_bytes: int
) -> None:
    path = tmp_path / "weights.h5"
    write_part(server, path, bytes(n_bytes))
    fetch(server, path)
    assert path.read_bytes() == CONTENT
    assert server.asked[-1] is None


def test_body_without_an_end_is_not_read_on(server: Server, tmp_path: Path) -> None:
    path, server.names_length, server.content = tmp_path / "x", False, bytes(50_000_000)
    most, kept = 0, Counted()

    def advance(amount: int) -> None:
        nonlocal most
        most += amount

    kept.advance = advance  # type: ignore[method-assign]
    with pytest.raises(WeightsError, match=r"\(it has more than 5,120,000 bytes\)"):
        fetch(server, path, kept)
    assert most <= 6
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", ["9" * 5000, "9" * 4000, str(1 << 50), "-5", "x"])
@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_length_that_cannot_be(
    server: Server, tmp_path: Path, length: str, size: int | None
) -> None:
    path, server.length = tmp_path / "weights.h5", length
    try:
        download(server.address, path, size=size, checksum=CHECKSUM, error=WeightsError)
    except WeightsError as error:
        assert len(str(error)) < 200  # noqa: PT017
        assert list(tmp_path.iterdir()) == []
    else:
        assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "location", ["http://[::1/x", "file:///etc/passwd", "data:,x", "http://a b/\x01", "http:///"]
)
def test_redirect_that_is_not_followed(server: Server, tmp_path: Path, location: str) -> None:
    server.location = location
    assert "cannot be downloaded (" in refusal(server, tmp_path / "weights.h5")
    assert list(tmp_path.iterdir()) == []


def test_redirect_that_is_followed(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    with Server(CONTENT) as first:
        Thread(target=first.serve_forever, kwargs={"poll_interval": 0.01}).start()
        first.location = server.address
        fetch(first, path)
        first.shutdown()
    assert path.read_bytes() == CONTENT


def test_redirect_to_ftp_is_not_followed(server: Server, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        server.location = f"ftp://127.0.0.1:{listening.getsockname()[1]}/x"
        assert "(the server answers 302 Found: ftp:" in refusal(server, tmp_path / "weights.h5")
        with pytest.raises(BlockingIOError):
            listening.accept()  # nobody came


@pytest.mark.parametrize("kind", ["link", "FIFO", "folder"])
def test_part_that_is_no_regular_file(server: Server, tmp_path: Path, kind: str) -> None:
    path, part, precious = (tmp_path / each for each in ("x", "x.part", "precious"))
    precious.write_text("mine")
    if kind == "link":
        part.symlink_to(precious)
    elif kind == "FIFO":
        os.mkfifo(part)
    else:
        part.mkdir()
    with pytest.raises(OutputError, match=r"x\.part: is a .*; move it away$"):
        fetch(server, path)
    assert precious.read_text() == "mine"
    assert os.path.lexists(part)
    assert not server.asked


@pytest.mark.parametrize("kind", ["FIFO", "folder"])
def test_path_that_is_taken_is_noticed_before_the_download(
    server: Server, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "x"
    (os.mkfifo if kind == "FIFO" else os.mkdir)(path)
    with pytest.raises(OutputError, match=r"x: is a .*; move it away$"):
        fetch(server, path)
    assert list(tmp_path.iterdir()) == [path]
    assert not server.asked


def test_two_at_once(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "x"
    with (
        open_unfinished(path.with_name("x.part")),
        pytest.raises(OutputError, match="another process is writing it; wait for it"),
    ):
        fetch(server, path)
    fetch(server, path)
    assert path.read_bytes() == CONTENT


def test_ctrl_c_keeps_what_has_arrived(server: Server, tmp_path: Path) -> None:
    class Interrupted(NoProgress):
        def advance(self, amount: int) -> None:
            if amount:
                raise KeyboardInterrupt

    path, part = tmp_path / "weights.h5", tmp_path / "weights.h5.part"
    with pytest.raises(KeyboardInterrupt, match=r"weights\.h5\.part holds what has arrived"):
        fetch(server, path, Interrupted())
    kept = part.read_bytes()
    assert kept
    assert kept == CONTENT[: len(kept)]
    server.asked.clear()
    fetch(server, path)
    assert path.read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(kept)}-"]


def test_proxy_of_the_environment(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    download("http://name.invalid/x", tmp_path / "x", checksum=CHECKSUM)
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_fault_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert fault_of(path, 3, f"sha256:{hashlib.sha256(b'abc').hexdigest()}") == ""
    assert fault_of(path, None, "") == ""
    assert fault_of(path, 4, "") == "it has 3 bytes, not 4"
    assert fault_of(path, 3, "sha256:00").startswith("its SHA256 is ba7816bf")
