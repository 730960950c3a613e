"""Paths are looked at before they are opened."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import stat
from pathlib import Path

import pytest

from cnncodes.errors import FileFormatError
from cnncodes.files import check_regular, kind_of, readable_sha256


def test_regular_file_passes_also_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    assert check_regular(tmp_path / "file").st_size == 5
    assert check_regular(tmp_path / "link").st_size == 5


@pytest.mark.skipif(os.name != "posix", reason="Windows has no FIFOs")
def test_special_files_are_named_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for path, kind in (
            *((tmp_path, "a folder"), (tmp_path / "pipe", "a named pipe (FIFO)")),
            *((tmp_path / "socket", "a socket"), (Path(os.devnull), "a character device")),
        ):
            with pytest.raises(FileFormatError, match=re.escape(f"is {kind},")) as caught:
                check_regular(path, "make one with: cnncodes curve")
            if path != tmp_path:
                assert str(caught.value) == f"{path}: is {kind}, but a regular file is needed"
    assert kind_of(stat.S_IFBLK) == "a block device"
    assert kind_of(stat.S_IFREG) == "a regular file"


def test_absent_and_impossible_paths_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"no such file; make it$"):
        check_regular(tmp_path / "absent", "make it")
    with pytest.raises(FileFormatError, match=r"no such file$"):
        check_regular(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(FileFormatError, match="no such file"):
        check_regular(tmp_path / "file" / "below")
    with pytest.raises(FileFormatError, match="cannot be read"):
        check_regular(tmp_path / ("x" * 5000))
    with pytest.raises(FileFormatError, match="cannot be read"):
        check_regular(tmp_path / "a\0b")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(FileFormatError, match="cannot be read"):
        check_regular(tmp_path / "loop")


def test_digest_of_what_cannot_be_read_is_empty(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert readable_sha256(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()
    os.mkfifo(tmp_path / "pipe")
    for path in ("absent", "pipe", ".", "null\0byte", "x" * 300):
        assert readable_sha256(tmp_path / path) == ""
