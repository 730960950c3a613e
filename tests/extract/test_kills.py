"""An extraction that is killed again and again loses nothing, and computes little twice.

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
N_THREADS = 2
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
UNDER_WAY = 5 * N_THREADS  # batches of one image, at most: docs/reliability.md promises it
# As `python -m cnncodes`, but the interpreter itself notes each image that is opened to be read,
# before it is. (What only has the system read ahead is no file of Python's, and has no mode.)
WATCHED = r"""
import os, sys
log = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def note(event, arguments):
    if event == "open" and arguments[1] and str(arguments[0]).endswith(".png"):
        os.write(log, os.fsencode(arguments[0]) + b"\n")
sys.addaudithook(note)
from cnncodes.cli import main
main(prog_name="cnncodes")
"""


def whole_records(journal: bytes) -> tuple[int, list[str]]:
    """Read a journal by docs/file-formats.md; return the end of its records, and its paths."""
    paths: list[str] = []
    position = len(b"cnncodes-j1\n")
    while position + 12 <= len(journal):
        length, checksum = struct.unpack_from("<QI", journal, position)
        record = journal[position + 12 : position + 12 + length]
        if (
            len(record) < length
            or zlib.crc32(journal[position : position + 8] + record) != checksum
        ):
            break
        position += 12 + length
        paths += json.loads(record.partition(b"\n")[0]).get("paths", [])
    return position, paths


class Watched:
    """The command, in a process whose reading of images is noted."""

    def __init__(self, source: Path, log: Path, *arguments: object) -> None:
        self._source = source
        self._log = log
        self.command = [sys.executable, "-c", WATCHED, *map(str, (log, *arguments))]

    def kill(self, partial: Path, n_wanted: int, seconds: float) -> None:
        """Run until more than `n_images` images are stored, and a little longer."""
        with subprocess.Popen(self.command, **PIPES) as child:
            while child.poll() is None and n_kept(partial) <= n_wanted:
                time.sleep(0.005)
            time.sleep(seconds)
            child.kill()
            child.communicate()
        assert child.returncode == -signal.SIGKILL, "it must not come to its end"

    def images_read(self) -> list[str]:
        """Return the images that were read since the last call."""
        lines = self._log.read_text().splitlines()
        self._log.unlink()
        return [str(Path(line).relative_to(self._source)) for line in lines]


def n_kept(partial: Path) -> int:
    return len(whole_records(partial.read_bytes())[1]) if partial.exists() else 0


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_killed_extraction_loses_nothing(run: Run, small_backbone: Path, tmp_path: Path) -> None:
    generator = random.Random(0)
    source = tmp_path / "photos"
    write_digits(source, N_IMAGES)
    everything = sorted(str(path.relative_to(source)) for path in source.rglob("*.png"))
    output, partial = tmp_path / "codes.h5", tmp_path / "codes.h5.partial"
    arguments = ("extract", small_backbone, source, "-o", output, "--threads", N_THREADS)
    watched = Watched(source, tmp_path / "log", *arguments)
    content, kept, n_read = b"", [], 0
    for number in range(N_KILLS):
        # A share of the images each time, and then any moment.
        n_wanted = number * (N_IMAGES - 100) // N_KILLS
        watched.kill(partial, n_wanted, generator.uniform(0, 0.05))
        assert partial.read_bytes().startswith(content), "what was whole must stay"
        end, paths = whole_records(partial.read_bytes())
        content = partial.read_bytes()[:end]
        assert paths == everything[: len(paths)], "each image once, in order, none left out"
        read = watched.images_read()
        assert len(set(read)) == len(read), "no image twice in a run"
        assert set(read).isdisjoint(kept), "what is kept is not computed again"
        assert len(set(read) - set(paths)) <= UNDER_WAY
        kept, n_read = paths, n_read + len(read)
    done = subprocess.run(watched.command, capture_output=True, text=True, check=True)
    assert f"\n  went on after {len(kept)} images of an earlier run\n" in done.stdout
    read = watched.images_read()
    assert sorted(read) == everything[len(kept) :]
    assert n_read + len(read) <= N_IMAGES + N_KILLS * UNDER_WAY
    fresh = tmp_path / "fresh.h5"
    run("extract", small_backbone, source, "-o", fresh, "--threads", N_THREADS)
    assert output.read_bytes() == fresh.read_bytes()
    with CodeStore.open(output) as store:
        assert store.paths == everything
