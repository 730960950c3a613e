"""The journal of an extraction: what is in it after anything that may have happened to it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnncodes import CodeStore
from cnncodes.errors import OutputError
from cnncodes.extract.journal import Journal
from tests.helpers import (
    BACKBONE_INFO,
    CODES,
    DIGESTS,
    LABELS,
    N_ROWS,
    PATHS,
    SKIPPED,
    append_rows,
    create_journal,
)

N_BATCHES = 4


def write_batches(path: Path, n_batches: int = N_BATCHES) -> list[int]:
    """Add the same images some times; return where the header and each record end."""
    ends = []
    with create_journal(path) as journal:
        ends.append(path.stat().st_size)
        for _ in range(n_batches):
            append_rows(journal)
            ends.append(path.stat().st_size)
    return ends


def finished(path: Path) -> bytes:
    """Finish a journal; return what is in the codes file."""
    output = path.with_suffix(".h5")
    with create_journal(path) as journal:
        journal.finish(output)
    assert not path.exists()
    return output.read_bytes()


def test_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "codes.partial"
    for n_batches in range(N_BATCHES):
        with create_journal(path) as journal:
            assert journal.n_images == n_batches * N_ROWS
            assert journal.label_counts[-1] == n_batches * LABELS.count(-1)
            assert journal.n_seen == n_batches * (N_ROWS + len(SKIPPED))
            assert journal.skipped == n_batches * SKIPPED
            append_rows(journal)
    finished(path)
    with CodeStore.open(tmp_path / "codes.h5") as store:
        assert (store.codes[:] == np.concatenate(N_BATCHES * [CODES])).all()
        assert store.labels.tolist() == N_BATCHES * LABELS
        assert (store.paths, store.digests) == (N_BATCHES * PATHS, N_BATCHES * DIGESTS)
        assert store.skipped == N_BATCHES * SKIPPED


def test_file_does_not_depend_on_how_the_images_came(tmp_path: Path) -> None:
    write_batches(tmp_path / "interrupted.partial", 1)
    write_batches(tmp_path / "interrupted.partial", 1)
    write_batches(tmp_path / "at once.partial", 2)
    with create_journal(tmp_path / "one batch.partial") as journal:
        twice = {"labels": 2 * LABELS, "paths": 2 * PATHS, "digests": 2 * DIGESTS}
        append_rows(journal, np.concatenate([CODES, CODES]), **twice, skipped=2 * SKIPPED)
    made = {finished(path) for path in tmp_path.glob("*.partial")}
    assert len(made) == 1


def is_refused(path: Path) -> bool:
    """Whether a file begins as no journal, or as one of another release; it stays.

    It may end where that is cut off, and have zeros from there on.
    """
    content, signature = path.read_bytes(), b"cnncodes-j1\n"
    begins = content[: len(signature)]
    begins = begins.rstrip(b"\0") or begins
    is_ours = begins.startswith(b"cnncodes-j") or signature.startswith(begins)
    if is_ours and (len(begins) < len(signature) or begins == signature):
        return False
    with pytest.raises(OutputError) as caught:
        create_journal(path)
    if not is_ours:
        problem = "is no journal of cnncodes extract, and unfinished work is kept under that name"
        assert str(caught.value) == f"{path}: {problem}; move it away"
    else:
        assert "keeps codes of an extraction by another release of cnncodes" in str(caught.value)
    assert path.read_bytes() == content
    return True


@settings(max_examples=100)
@given(data=st.data())
def test_torn_at_any_byte_keeps_all_whole_records(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """As a kill or a full disk leaves it, or a power failure, with anything behind the tear."""
    path = tmp_path_factory.mktemp("torn") / "codes.partial"
    ends = write_batches(path)
    cut = data.draw(st.integers(0, ends[-1]))
    behind = data.draw(st.one_of(st.binary(max_size=50), st.just(b"\0" * 64)))
    path.write_bytes(path.read_bytes()[:cut] + behind)
    n_whole = max(0, sum(end <= cut for end in ends) - 1)
    if is_refused(path):
        assert n_whole == 0
        return
    with create_journal(path) as journal:
        assert journal.n_images == n_whole * N_ROWS
        for _ in range(N_BATCHES - n_whole):
            append_rows(journal)
    other = path.with_name("other.partial")
    write_batches(other)
    assert finished(path) == finished(other)


@settings(max_examples=100)
@given(data=st.data())
def test_damage_of_any_bit_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "codes.partial"
    ends = write_batches(path)
    content = bytearray(path.read_bytes())
    index = data.draw(st.integers(0, len(content) - 1))
    content[index] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    n_before = max(0, sum(end <= index for end in ends) - 1)
    if is_refused(path):
        assert index < len(b"cnncodes-j1\n")
        return
    with create_journal(path) as journal:
        assert journal.n_images == n_before * N_ROWS


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"class_names": ("cat",)}, "of other images, changed ones or with another provider"),
        ({"dtype": "float16"}, "with another dtype (float32, not float16)"),
        ({"backbone_sha256": "cd" * 32}, "with another backbone"),
        ({"source": "elsewhere"}, "with another source (photos, not elsewhere)"),
        ({"max_pixels": 7}, "with another max_pixels (1000, not 7)"),
        ({"white": 7}, "with another white (None, not 7)"),
    ],
    ids=str,
)
def test_codes_of_another_extraction_are_kept_unless_overwritten(
    tmp_path: Path, change: dict[str, object], difference: str
) -> None:
    path = tmp_path / "codes.partial"
    write_batches(path)
    before = path.read_bytes()
    with create_journal(path) as journal:
        n_images, info = journal.n_images, replace(journal.info, **change)
    codes = f"the codes of {n_images} images, of an interrupted extraction {difference}"
    with pytest.raises(OutputError) as caught:
        Journal.open(path, info, "the request")
    assert str(caught.value) == (
        f"{path}: keeps {codes}; finish that one with the same command, choose another output, "
        "or pass overwrite=True to discard them"
    )
    assert path.read_bytes() == before
    with Journal.open(path, info, "the request", overwrite=True) as journal:
        assert (journal.n_seen, journal.discarded) == (0, codes)
    with create_journal(path) as journal:  # nothing is lost of one that has no codes
        assert (journal.n_seen, journal.discarded) == (0, "")


def test_codes_of_other_images_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "codes.partial"
    write_batches(path)
    with create_journal(path) as journal:
        info = journal.info
    with pytest.raises(OutputError, match="of an interrupted extraction of other images"):
        Journal.open(path, info, "another request")


def test_codes_of_another_release_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "codes.partial"
    path.write_bytes(b"cnncodes-j7\n of later")
    with pytest.raises(OutputError, match="keeps codes of an extraction by another release"):
        create_journal(path)
    assert path.read_bytes() == b"cnncodes-j7\n of later"


@pytest.mark.parametrize(
    "content", [b"text", b"cnncodes-", b"cnncodes notes", b"\0" * 12, b"\x89HDF\r\n\x1a\n" * 99]
)
def test_anything_else_at_its_path_is_refused_and_stays(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "codes.partial"
    path.write_bytes(content)
    assert is_refused(path) == (content != b"cnncodes-")


@pytest.mark.skipif(os.name != "posix", reason="Windows has no FIFOs")
@pytest.mark.parametrize("kind", ["link", "dangling link", "FIFO", "folder"])
def test_no_link_is_followed_and_nothing_special_is_opened(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "codes.partial", tmp_path / "other"
    write_batches(other)  # even a journal
    before = other.read_bytes()
    if kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to("other" if kind == "link" else "absent")
    mode = path.lstat().st_mode
    with pytest.raises(OutputError, match="and unfinished work is kept under that name; move it"):
        create_journal(path)
    assert path.lstat().st_mode == mode
    assert other.read_bytes() == before
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("content", [b"", b"cnnco", b"cnncodes-j", b"cnncodes-j1\n"])
def test_what_is_left_of_a_journal_starts_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "codes.partial"
    path.write_bytes(content)
    with create_journal(path) as journal:
        assert journal.n_seen == 0
        append_rows(journal)
    with create_journal(path) as journal:
        assert journal.n_images == N_ROWS


HOLD = """
import sys
from dataclasses import replace
from pathlib import Path
from tests.helpers import append_rows, create_journal
journal = create_journal(Path(sys.argv[1]))
append_rows(journal)
print("held", flush=True)
input()
"""


def test_lets_only_one_write(tmp_path: Path) -> None:
    path = tmp_path / "codes.partial"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], **pipes) as other:
        assert other.stdout.readline() == "held\n"
        before = path.read_bytes()
        for change in ({}, {"source": "elsewhere"}):
            with pytest.raises(OutputError) as caught:
                create_journal(path, **change)
            assert str(caught.value) == f"{path}: another process is writing it; wait for it"
        assert path.read_bytes() == before
        other.kill()  # the lock goes with the process
    with create_journal(path) as journal:
        assert journal.n_images == N_ROWS


def test_is_gone_when_discarded(tmp_path: Path) -> None:
    journal = create_journal(tmp_path / "codes.partial")
    append_rows(journal)
    journal.discard()
    assert not list(tmp_path.iterdir())


def test_cannot_be_started_where_nothing_can_be(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder"):
        create_journal(tmp_path)
    with pytest.raises(OutputError, match="cannot be written"):
        create_journal(tmp_path / "missing" / "codes.partial")


def test_stays_when_it_cannot_be_finished(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    write_batches(tmp_path / "codes.partial")
    with create_journal(tmp_path / "codes.partial") as journal:
        with pytest.raises(OutputError, match="is a folder"):
            journal.finish(tmp_path / "folder")
        with pytest.raises(OutputError, match="exists already"):
            journal.finish(tmp_path / "file", overwrite=False)
    assert (tmp_path / "file").read_text() == "mine"
    with create_journal(tmp_path / "codes.partial") as journal:
        assert journal.n_images == N_BATCHES * N_ROWS
    names = sorted(each.name for each in tmp_path.iterdir())
    assert names == ["codes.partial", "file", "folder"]


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be removed there")
def test_journal_that_was_removed_meanwhile_is_finished_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "codes.partial"
    write_batches(path)
    with create_journal(path) as journal:
        path.unlink()
        append_rows(journal)
        journal.finish(tmp_path / "codes.h5")
    with CodeStore.open(tmp_path / "codes.h5") as store:
        assert len(store) == (N_BATCHES + 1) * N_ROWS
    assert os.listdir(tmp_path) == ["codes.h5"]  # noqa: PTH208


@pytest.mark.parametrize("largest", [65_504, 65_505, 1e6, -1e6])
def test_refuses_codes_that_half_precision_cannot_hold(tmp_path: Path, largest: float) -> None:
    codes = CODES.copy()
    codes[1, 0, 1, 2] = largest
    with create_journal(tmp_path / "half.partial", dtype="float16") as journal:
        if abs(largest) > 65_519:  # what lies nearer to the largest float16 is rounded to it
            with pytest.raises(OutputError) as caught:
                append_rows(journal, codes)
            message = "codes up to 1000000 do not fit float16; store them with dtype='float32'"
            assert message in str(caught.value)
            assert journal.n_images == 0
        else:
            append_rows(journal, codes)
            journal.finish(tmp_path / "half.h5")
            with CodeStore.open(tmp_path / "half.h5") as store:
                assert store.codes[1, 0, 1, 2] == 65_504
    with create_journal(tmp_path / "single.partial") as journal:
        append_rows(journal, codes)
        journal.finish(tmp_path / "single.h5")
    with CodeStore.open(tmp_path / "single.h5") as store:
        assert (store.codes[:] == codes).all()


def test_keeps_a_path_with_a_null_byte_and_one_that_is_no_utf8(tmp_path: Path) -> None:
    path = tmp_path / "codes.partial"
    odd = [("a\0b.jpg", "cannot be read"), ("\udcff\n.jpg", "empty file")]
    with create_journal(path) as journal:
        append_rows(journal, skipped=odd)
    with create_journal(path) as journal:
        assert journal.skipped == odd
        journal.finish(tmp_path / "codes.h5")
    with CodeStore.open(tmp_path / "codes.h5") as store:
        assert store.skipped == [("a\\0b.jpg", "cannot be read"), odd[1]]
        assert store.backbone == BACKBONE_INFO


def test_refuses_codes_that_half_precision_makes_zero(tmp_path: Path) -> None:
    tiny = CODES * 1e-10 / np.abs(CODES).max()
    with create_journal(tmp_path / "half.partial", dtype="float16") as journal:
        with pytest.raises(
            OutputError, match=r"at most 1.0e-10 all become 0 in float16; store them with dtype"
        ):
            append_rows(journal, tiny)
        assert journal.n_images == 0
        append_rows(journal, np.zeros_like(CODES))  # zeros are no loss
    with create_journal(tmp_path / "single.partial", dtype="float32") as journal:
        append_rows(journal, tiny)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no permission bits")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_is_private_and_leaves_the_mode_of_the_file_it_replaces(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "codes.partial"
    (tmp_path / "codes.h5").touch()
    (tmp_path / "codes.h5").chmod(mode)
    write_batches(path)
    assert path.stat().st_mode & 0o777 == 0o600
    finished(path)
    assert (tmp_path / "codes.h5").stat().st_mode & 0o777 == mode
