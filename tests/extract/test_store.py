"""The codes file: what any HDF5 reader finds in it, and which files are refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnncodes import CodeStore
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
    refusal_of_store,
    run_command,
    write_store,
)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A complete codes file, alone in its folder."""
    return write_store(tmp_path / "codes.h5", source="my/phötos")


def test_is_laid_out_as_written_down(written: Path) -> None:
    with h5py.File(written) as file:
        assert set(file) == {"codes", "checksums", "labels", "paths", "digests", "skipped"}
        assert set(file["skipped"]) == {"paths", "reasons"}
        assert file["codes"].dtype == np.float32
        assert file["codes"].compression == "gzip"
        assert not file["codes"].shuffle
        assert file["codes"].chunks == (1, 2, 2, 3)
        assert (file["codes"][:] == CODES).all()
        assert file["checksums"].dtype == np.uint32
        assert file["checksums"][:].tolist() == [zlib.adler32(row.tobytes()) for row in CODES]
        assert file["labels"].dtype == np.int32
        assert file["labels"][:].tolist() == LABELS
        assert h5py.check_string_dtype(file["paths"].dtype).encoding == "utf-8"
        assert file["paths"].asstr()[:].tolist() == PATHS
        assert file["digests"].asstr()[:].tolist() == DIGESTS
        assert file["skipped/paths"].asstr()[:].tolist() == [path for path, _ in SKIPPED]
        assert file["skipped/reasons"].asstr()[:].tolist() == [reason for _, reason in SKIPPED]
        attributes = dict(file.attrs)
    assert attributes["complete"]
    assert json.loads(attributes.pop("class_names")) == ["cat", "dog"]
    assert json.loads(attributes.pop("backbone")) == BACKBONE_INFO.to_metadata()
    assert attributes.pop("max_pixels") == 1000
    names = ["cnncodes", "onnxruntime", "pillow"]
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    assert attributes.pop("created_with").lower() == versions
    assert {key: str(value) for key, value in attributes.items() if key != "complete"} == {
        "format": "1",
        "kind": "codes",
        "backbone_sha256": "ab" * 32,
        "source": "my/phötos",
    }


def test_gives_back_what_was_stored(written: Path) -> None:
    with CodeStore.open(str(written)) as store:
        assert (store.codes[:] == CODES).all()
        assert store.labels.tolist() == LABELS
        assert store.paths == PATHS
        assert store.digests == DIGESTS
        assert store.skipped == SKIPPED
        assert store.class_names == ["cat", "dog"]
        assert store.class_names is store.class_names  # parsed once, however many classes ask
        assert store.backbone == BACKBONE_INFO
        assert store.backbone_sha256 == "ab" * 32
        assert store.source == "my/phötos"
        assert store.max_pixels == 1000
        assert len(store) == N_ROWS
    with h5py.File(written, "r+"):  # closed, or it would be locked
        pass


def test_groups_are_read_where_there_are_any(written: Path) -> None:
    with CodeStore.open(written) as store:
        assert store.groups == []
    groups = ["Müller", "", "Müller", "\udcff", "2"]
    with h5py.File(written, "r+") as file:
        stored = [group.encode("utf-8", "surrogateescape") for group in groups]
        file.create_dataset("groups", data=stored, dtype=h5py.string_dtype())
    with CodeStore.open(written) as store:
        assert store.groups == groups


def test_reads_a_file_without_checksums(tmp_path: Path) -> None:
    """As cnncodes wrote them before each row had one; with groups, and a white of its own."""
    path = Path(__file__).parents[1] / "data" / "codes_without_checksums.h5"
    with CodeStore.open(path) as store:
        assert store.checksums is None
        assert store.codes.shape == (20, 4, 4, 4)
        assert (store.labels.tolist()[:4], store.white) == ([0, 0, 1, 1], 4095)
        assert (store.paths[0], store.groups[:3]) == ("photos/0/digit_0000.png", ["0", "0", "1"])
        assert store.skipped == [("absent.png", "cannot be read: No such file or directory")]
        rows = list(store.rows(range(20)))
        assert (np.stack(rows) == store.codes[:].reshape(20, 64)).all()
    assert "stored with it" not in run_command("verify", path).stdout
    assert "images skipped   1" in run_command("info", path).stdout
    run_command("train", path, "-o", tmp_path / "head.onnx", "--C", 1)
    run_command("evaluate", tmp_path / "head.onnx", path, "--include-training")


def test_stores_half_precision_within_rounding(tmp_path: Path) -> None:
    with CodeStore.open(write_store(tmp_path / "codes.h5", dtype="float16")) as store:
        assert store.codes.dtype == np.float16
        np.testing.assert_allclose(store.codes[:], CODES, rtol=2**-11)


# Names as a file system gives them: any bytes but these two.
file_names = st.one_of(
    st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1),
    st.binary(min_size=1).filter(lambda name: not {0, 47} & set(name)).map(os.fsdecode),
)


@settings(max_examples=50)
@given(st.lists(st.tuples(file_names, file_names), min_size=1, max_size=10), file_names)
def test_keeps_every_file_name(
    tmp_path_factory: pytest.TempPathFactory, names: list[tuple[str, str]], source: str
) -> None:
    path = tmp_path_factory.mktemp("names") / "codes.h5"
    class_names = sorted({name for name, _ in names})
    journal = create_journal(
        path.with_suffix(".partial"), source=source, class_names=tuple(class_names)
    )
    n = len(names)
    paths = [f"{folder}/{name}" for folder, name in names]
    codes = np.zeros((n, 2, 2, 3), np.float32)
    digests = ["0" * 64] * n
    append_rows(journal, codes, labels=[0] * n, paths=paths, digests=digests, skipped=names)
    journal.finish(path)
    with CodeStore.open(path) as store:
        assert store.paths == paths
        assert store.skipped == names
        assert store.class_names == class_names
        assert store.source == source


def test_holds_thousands_of_classes(tmp_path: Path) -> None:
    names = [f"class number {number:06}" for number in range(20_000)]
    with create_journal(tmp_path / "codes.h5.partial", class_names=tuple(names)) as journal:
        append_rows(journal, labels=[0, 1, 19_999, -1, 7])
        journal.finish(tmp_path / "codes.h5")
    with CodeStore.open(tmp_path / "codes.h5") as store:
        assert store.class_names == names


def test_refuses_what_is_no_codes_file(tmp_path: Path) -> None:
    assert "no such file; make one with: cnncodes extract" in refusal_of_store(tmp_path / "missing")
    assert "is a folder without images (" in refusal_of_store(tmp_path)
    (tmp_path / "empty").touch()
    empty = "is an empty file; make one with: cnncodes extract"
    assert empty in refusal_of_store(tmp_path / "empty")
    (tmp_path / "bytes").write_bytes(b"no codes\0")
    assert "cannot be opened as HDF5" in refusal_of_store(tmp_path / "bytes")
    with h5py.File(tmp_path / "foreign", "w") as file:
        file["codes"] = CODES
        file.attrs["format"] = "1"
    assert "is an HDF5 file of another program (no command takes it)" in refusal_of_store(
        tmp_path / "foreign"
    )


def test_reads_a_file_that_is_open_elsewhere(written: Path) -> None:
    """As in a notebook that has not closed it."""
    with held_elsewhere(written), CodeStore.open(written) as store:
        assert len(store) == N_ROWS


def test_names_what_is_open_elsewhere_where_locks_are_asked_for(written: Path) -> None:
    environment = {**os.environ, "HDF5_USE_FILE_LOCKING": "TRUE"}
    for words in (["verify", str(written)], ["info", str(written)]):
        with held_elsewhere(written):
            done = subprocess.run(
                [sys.executable, "-m", "cnncodes", *words],
                capture_output=True,
                text=True,
                env=environment,
                check=False,
            )
        assert "is open in another program; close it there" in done.stdout + done.stderr


@contextmanager
def held_elsewhere(path: Path) -> Iterator[None]:
    """Let another process have an HDF5 file open for writing."""
    code = "import sys, h5py\nfile = h5py.File(sys.argv[1], 'r+')\nprint(flush=True)\ninput()"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.stdin.close()


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.999])
def test_refuses_a_truncated_file(written: Path, share: float) -> None:
    content = written.read_bytes()
    written.write_bytes(content[: int(share * len(content))])
    assert "cannot be opened as HDF5" in refusal_of_store(written)


def test_names_the_bytes_that_a_copy_lacks(written: Path) -> None:
    content = written.read_bytes()
    written.write_bytes(content[:-1000])
    assert refusal_of_store(written).endswith(
        f"cannot be opened as HDF5 (cut off after {len(content) - 1000:,} of {len(content):,} "
        "bytes: wait until it is copied, copy it again or make it again)"
    )


def test_refuses_a_file_whose_texts_are_lost(written: Path) -> None:
    content = written.read_bytes()
    assert content.count(b"GCOL"), "the heap of texts must have this mark to lose it"
    written.write_bytes(content.replace(b"GCOL", b"GONE"))
    assert "is damaged (" in refusal_of_store(written)


def test_refuses_an_unfinished_file(tmp_path: Path) -> None:
    with create_journal(tmp_path / "codes.h5.partial") as journal:
        append_rows(journal)
    message = refusal_of_store(tmp_path / "codes.h5.partial")
    assert "is unfinished; run the same cnncodes extract again" in message


def shorten(file: h5py.File, name: str) -> None:
    values, dtype = file[name][:-1], file[name].dtype
    layout = {"chunks": file[name].chunks, "compression": file[name].compression}
    del file[name]
    file.create_dataset(name, data=values, dtype=dtype, **layout)


def swap(file: h5py.File, name: str, value: object) -> None:
    """Replace a dataset by something else, or remove it."""
    del file[name]
    if value is h5py.Group:
        file.create_group(name)
    elif value is not None:
        file[name] = value


def add_groups(file: h5py.File, groups: list[object]) -> None:
    file.create_dataset("groups", data=groups)


DAMAGE: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "later format": (lambda file: file.attrs.update(format="2"), "is in format '2'"),
    "later format, release named": (
        lambda file: file.attrs.update(format="2", created_with="cnncodes 7.1.0, onnxruntime 3"),
        "install cnncodes 7.1.0, with which it was made, or later",
    ),
    "no format": (lambda file: file.attrs.pop("format"), "is in format ''"),
    "too large a label": (
        lambda file: file["labels"].write_direct(np.int32([0, 1, 2, 0, 0])),
        "contradicts itself",
    ),
    "too small a label": (
        lambda file: file["labels"].write_direct(np.int32([0, 1, -2, 0, 0])),
        "contradicts itself",
    ),
    "one class too few": (
        lambda file: file.attrs.update(class_names='["cat"]'),
        "contradicts itself",
    ),
    "another network": (lambda file: file.attrs.update(backbone="{}"), "contradicts itself"),
    "no classes": (lambda file: file.attrs.pop("class_names"), "is damaged"),
    "classes not JSON": (lambda file: file.attrs.update(class_names="cat"), "is damaged"),
    "classes no list": (lambda file: file.attrs.update(class_names="5"), ""),
    "backbone not JSON": (lambda file: file.attrs.update(backbone="vgg16"), "is damaged"),
    "backbone no mapping": (lambda file: file.attrs.update(backbone="5"), ""),
    "JSON without end": (lambda file: file.attrs.update(class_names="[" * 20_000), "is damaged"),
    "white of 17 bits": (lambda file: file.attrs.update(white=70_000), "contradicts itself"),
    "white a text": (lambda file: file.attrs.update(white="4095"), "is damaged"),
    "no pixels": (lambda file: file.attrs.update(max_pixels=-1), "contradicts itself"),
    "not so many pixels": (lambda file: file.attrs.update(max_pixels="many"), "is damaged"),
    "codes a folder": (lambda file: swap(file, "codes", h5py.Group), ""),
    "codes in one piece": (lambda file: swap(file, "codes", CODES), "is stored in a way"),
    "codes elsewhere": (
        lambda file: (
            swap(file, "codes", None)
            or file.create_dataset("codes", CODES.shape, "f4", external="/dev/zero")
        ),
        "the values of 'codes' are in another file",
    ),
    "codes larger than the file": (
        lambda file: (
            swap(file, "codes", None)
            or file.create_dataset("codes", (5, 10**7), "f2", chunks=(1, 10**7), compression="gzip")
        ),
        "contradicts itself",
    ),
    "codes of no number": (
        lambda file: (
            swap(file, "codes", None)
            or file.create_dataset("codes", (5, 0), "f2", chunks=(1, 1), maxshape=(5, None))
        ),
        "is damaged",
    ),
    "codes of too many numbers": (
        lambda file: (
            swap(file, "codes", None)
            or file.create_dataset("codes", (5, 10**8), "f2", chunks=(1, 10**8), compression="gzip")
        ),
        "a row of 'codes' is empty or too large",
    ),
    "no source": (lambda file: file.attrs.pop("source"), "contradicts itself"),
    "labels of 64 bits": (lambda file: swap(file, "labels", LABELS), "'labels' has another type"),
    "checksums too few": (lambda file: shorten(file, "checksums"), "contradicts itself"),
    "checksums a folder": (lambda file: swap(file, "checksums", h5py.Group), "is no dataset"),
    "labels one number": (lambda file: swap(file, "labels", 3), ""),
    "labels text": (lambda file: swap(file, "labels", [b"cat"] * 5), ""),
    "digest no SHA-256": (lambda file: file["digests"].__setitem__(2, b"ab" * 31 + b"zz"), ""),
    "paths numbers": (lambda file: swap(file, "paths", [1, 2, 3, 4, 5]), "is damaged"),
    "reasons numbers": (lambda file: swap(file, "skipped/reasons", [1, 2]), "is damaged"),
    "groups too few": (lambda file: add_groups(file, [b"x"] * 4), "contradicts itself"),
    "groups numbers": (lambda file: add_groups(file, [1, 2, 3, 4, 5]), "is damaged"),
    "groups a folder": (lambda file: file.create_group("groups"), "is damaged"),
    "skipped no folder": (lambda file: swap(file, "skipped", [1, 2]), ""),
}
for _name in ("codes", "labels", "paths", "digests", "skipped/paths", "skipped/reasons"):
    DAMAGE |= {
        f"{_name} too short": (lambda file, name=_name: shorten(file, name), "contradicts itself"),
        f"{_name} missing": (lambda file, name=_name: swap(file, name, None), "is damaged"),
    }


@pytest.mark.parametrize("damage", DAMAGE)
def test_refuses_a_file_that_contradicts_itself(written: Path, damage: str) -> None:
    change, reason = DAMAGE[damage]
    with h5py.File(written, "r+") as file:
        change(file)
    assert reason in refusal_of_store(written)
    with h5py.File(written, "r+"):  # closed in spite of it, or it would be locked
        pass


def test_is_shown_in_one_line_when_closed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_store(Path("codes.h5"))
    with CodeStore.open("codes.h5") as store:
        assert repr(store) == (
            "<CodeStore 'codes.h5': 5 images, 2 classes, codes (2, 2, 3) float32 of vgg16>"
        )
    assert repr(store) == "<CodeStore 'codes.h5': closed>"
