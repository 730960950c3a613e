"""An extraction that is killed again and again loses nothing that was written.

``CNNCODES_KILLS=50`` kills it as often as that; by default a few times, which takes seconds.
"""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from cnncodes import CodeStore
from cnncodes.demo import write_digits
from tests.conftest import Run

N_KILLS = int(os.environ.get("CNNCODES_KILLS", "4"))
N_IMAGES = 600


def whole_records(journal: bytes) -> tuple[int, list[str]]:
    """Read a journal as docs/file-formats.md says; return where it ends whole, and its paths."""
    paths: list[str] = []
    place = len(b"cnncodes-j1\n")
    while place + 12 <= len(journal):
        length, checksum = struct.unpack_from("<QI", journal, place)
        record = journal[place + 12 : place + 12 + length]
        if len(record) < length or zlib.crc32(journal[place : place + 8] + record) != checksum:
            break
        place += 12 + length
        paths += json.loads(record.partition(b"\n")[0]).get("paths", [])
    return place, paths


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_killed_extraction_loses_nothing(run: Run, small_backbone: Path, tmp_path: Path) -> None:
    generator = random.Random(0)
    source = tmp_path / "photos"
    write_digits(source, N_IMAGES)
    output, partial = tmp_path / "codes.h5", tmp_path / "codes.h5.partial"
    arguments = ("extract", small_backbone, source, "-o", output, "--threads", "2")
    kept = b""
    for number in range(1, N_KILLS + 1):
        command = [sys.executable, "-m", "cnncodes", *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            # A share of the images each time, and then any moment.
            n_wanted = (number - 1) * (N_IMAGES - 100) // N_KILLS
            while child.poll() is None and n_kept(partial) <= n_wanted:
                time.sleep(0.005)
            time.sleep(generator.uniform(0, 0.05))
            child.kill()
            child.communicate()
        assert child.returncode == -signal.SIGKILL, "it must not come to its end"
        content = partial.read_bytes()
        assert content.startswith(kept), "what was whole must stay"
        end, paths = whole_records(content)
        kept = content[:end]
        assert paths == sorted(set(paths)), "each image once, in order"
    result = run(*arguments).output
    assert f"\n  went on after {len(paths)} images of an earlier run\n" in result
    fresh = tmp_path / "fresh.h5"
    run("extract", small_backbone, source, "-o", fresh, "--threads", "2")
    assert output.read_bytes() == fresh.read_bytes()
    with CodeStore.open(output) as store:
        assert len(store) == len(set(store.paths)) == N_IMAGES


def n_kept(partial: Path) -> int:
    return len(whole_records(partial.read_bytes())[1]) if partial.exists() else 0
