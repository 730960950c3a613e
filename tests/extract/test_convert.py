"""Codes for other programs, read back as those programs read them."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from cnncodes.errors import FileFormatError, ParameterError
from cnncodes.extract import convert
from cnncodes.extract.convert import convert_codes
from cnncodes.models.pooling import pool_codes
from tests.helpers import (
    append_rows,
    create_journal,
    error_of,
    names_in,
    run_command,
    write_labelled_codes,
)

SHAPE = (2, 3, 4)
CODES = np.random.default_rng(0).normal(size=(5, *SHAPE)).astype(np.float16).astype(np.float32)
PATHS = ["cat/a,b.png", 'cat/"q".png', "dog/tab\there.png", "dog/line\nfeed.png", " 日本.png"]
NAMES = ["cat", "Zürich dog"]
LABELS = [0, 0, 1, 1, -1]
ENDINGS = ("npz", "csv", "parquet", "tab")


@pytest.fixture
def codes(tmp_path: Path) -> Path:
    return write_labelled_codes(tmp_path / "codes.h5", CODES, LABELS, NAMES, paths=PATHS)


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """Codes of float16, and groups."""
    info = {"dtype": "float16", "code_shape": SHAPE}
    with create_journal(tmp_path / "half.partial", **info) as journal:
        append_rows(journal, CODES, groups=["left", "left", "", "right", "right"], skipped=[])
        journal.finish(tmp_path / "half.h5")
    return tmp_path / "half.h5"


def read_text(path: Path) -> list[list[str]]:
    delimiter = "\t" if path.suffix == ".tab" else ","
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file, delimiter=delimiter))


def read_parquet(path: Path) -> tuple[dict[str, list[str | None]], np.ndarray]:
    """Return the columns of text and the codes, a row an image."""
    columns = parquet.read_table(path).to_pydict()
    texts = {name: columns.pop(name) for name in ("path", "label", "group") if name in columns}
    if "codes" in columns:
        return texts, np.array(columns["codes"], np.float32)
    assert [*columns] == [f"code_{number:04}" for number in range(len(columns))]
    return texts, np.array([*columns.values()], np.float32).T


def test_npz_is_read_by_numpy(codes: Path, half: Path, tmp_path: Path) -> None:
    convert_codes(codes, tmp_path / "codes.npz")
    with np.load(tmp_path / "codes.npz") as arrays:  # unpickles nothing
        assert {*arrays} == {"codes", "labels", "digests", "class_names", "paths"}
        np.testing.assert_array_equal(arrays["codes"], CODES)
        assert arrays["codes"].dtype == np.float32
        assert arrays["labels"].tolist() == LABELS
        assert arrays["class_names"].tolist() == NAMES
        assert arrays["paths"].tolist() == PATHS
        assert all(len(digest) == 64 for digest in arrays["digests"].tolist())
    convert_codes(half, tmp_path / "half.npz")
    with np.load(tmp_path / "half.npz") as arrays:
        assert arrays["codes"].dtype == np.float16
        np.testing.assert_array_equal(arrays["codes"], CODES)
        assert arrays["groups"].tolist() == ["left", "left", "", "right", "right"]


@pytest.mark.parametrize("name", ["codes.h5", "half.h5"])
def test_csv_has_a_row_an_image(codes: Path, half: Path, tmp_path: Path, name: str) -> None:
    converted = convert_codes(tmp_path / name, tmp_path / "codes.csv")
    header, *rows = read_text(tmp_path / "codes.csv")
    texts = ["path", "label", *(["group"] if name == "half.h5" else [])]
    assert header == [*texts, *(f"code_{number:04}" for number in range(24))]
    numbers = np.array([row[len(texts) :] for row in rows], np.float64)
    # In its own type each number is exactly the stored one.
    np.testing.assert_array_equal(numbers.astype(converted.dtype), CODES.reshape(5, -1))
    np.testing.assert_allclose(numbers, CODES.reshape(5, -1), rtol=1e-4)
    if name == "codes.h5":
        labels = ["cat", "cat", "Zürich dog", "Zürich dog", ""]
        assert [row[:2] for row in rows] == [list(row) for row in zip(PATHS, labels, strict=True)]
    else:
        assert [row[2] for row in rows] == ["left", "left", "", "right", "right"]


def test_tab_has_the_three_header_lines_of_orange(codes: Path, half: Path, tmp_path: Path) -> None:
    convert_codes(codes, tmp_path / "codes.tab")
    names, types, roles, *rows = read_text(tmp_path / "codes.tab")
    assert names == ["path", "label", *(f"code_{number:04}" for number in range(24))]
    assert types == ["string", "discrete", *["continuous"] * 24]
    assert roles == ["meta", "class", *[""] * 24]
    assert [row[0] for row in rows] == PATHS
    assert rows[-1][1] == ""  # a missing value there
    found = np.array([row[2:] for row in rows], np.float32)
    np.testing.assert_array_equal(found, CODES.reshape(5, -1))
    # By its first bytes Orange knows the encoding, where there is more than ASCII.
    assert (tmp_path / "codes.tab").read_bytes().startswith(b"\xef\xbb\xbfpath\tlabel\t")
    convert_codes(half, tmp_path / "half.tab")
    assert (tmp_path / "half.tab").read_bytes().startswith(b"path\tlabel\tgroup\t")
    assert read_text(tmp_path / "half.tab")[2][:4] == ["meta", "class", "meta", ""]


def test_parquet_is_read_by_pyarrow(codes: Path, half: Path, tmp_path: Path) -> None:
    convert_codes(codes, tmp_path / "codes.parquet")
    texts, numbers = read_parquet(tmp_path / "codes.parquet")
    np.testing.assert_array_equal(numbers, CODES.reshape(5, -1))
    labels = ["cat", "cat", "Zürich dog", "Zürich dog", None]
    assert texts == {"path": PATHS, "label": labels}
    convert_codes(half, tmp_path / "half.parquet")
    assert {*parquet.read_schema(tmp_path / "half.parquet").types[3:]} == {"float"}
    texts, numbers = read_parquet(tmp_path / "half.parquet")
    np.testing.assert_array_equal(numbers, CODES.reshape(5, -1))
    assert texts["group"] == ["left", "left", None, "right", "right"]


def test_codes_of_many_columns_are_a_list_in_parquet(tmp_path: Path) -> None:
    """Each column costs memory while the file is written."""
    X = np.random.default_rng(0).normal(size=(3, 9, 9, 60)).astype(np.float32)
    codes = write_labelled_codes(tmp_path / "codes.h5", X, [0, 0, -1], ["cat"])
    converted = convert_codes(codes, tmp_path / "codes.parquet")
    assert converted.notes == (
        "the 4,860 codes of an image are a list in the column codes; pooling makes 60 columns",
    )
    texts, numbers = read_parquet(tmp_path / "codes.parquet")
    np.testing.assert_array_equal(numbers, X.reshape(3, -1))
    assert texts["label"] == ["cat", "cat", None]


def read_codes(path: Path) -> np.ndarray:
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return arrays["codes"]
    if path.suffix == ".parquet":
        return read_parquet(path)[1]
    rows = read_text(path)[1 if path.suffix == ".csv" else 3 :]
    return np.array([row[2:] for row in rows], np.float64)


@pytest.mark.parametrize("ending", ENDINGS)
def test_pools_on_request(codes: Path, tmp_path: Path, ending: str) -> None:
    mean, largest = CODES.mean(axis=(1, 2)), CODES.max(axis=(1, 2))
    quarters = np.stack([pool_codes(each, "grid2") for each in CODES])
    for pool, wanted in (
        ("avg", mean),
        ("max", largest),
        ("avg+max", np.hstack([mean, largest])),
        ("grid2", quarters),
    ):
        output = tmp_path / f"{pool}.{ending}"
        run_command("convert", codes, "-o", output, "--pool", pool)
        np.testing.assert_allclose(read_codes(output), wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("ending", ENDINGS)
def test_blocks_join_without_a_seam(
    codes: Path, tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "_BLOCK_BYTES", 2 * 4 * 24)
    convert_codes(codes, tmp_path / f"codes.{ending}")
    found = read_codes(tmp_path / f"codes.{ending}")
    np.testing.assert_array_equal(found.astype(np.float32).reshape(5, -1), CODES.reshape(5, -1))


@pytest.mark.parametrize("ending", ENDINGS)
def test_images_without_labels(tmp_path: Path, ending: str) -> None:
    codes = write_labelled_codes(tmp_path / "codes.h5", CODES, [-1] * 5, [])
    result = json.loads(
        run_command("convert", codes, "-o", tmp_path / f"codes.{ending}", "--json").stdout
    )
    assert (result["n_images"], result["code_shape"], result["notes"]) == (5, [*SHAPE], [])
    found = read_codes(tmp_path / f"codes.{ending}").astype(np.float32)
    np.testing.assert_array_equal(found.reshape(5, -1), CODES.reshape(5, -1))


def test_names_that_others_may_misread_are_reported(tmp_path: Path) -> None:
    paths = ["old\udcff.png", "b.png"]
    codes = write_labelled_codes(tmp_path / "codes.h5", CODES[:2], [0, 1], ["NA", "b"], paths=paths)
    printed = run_command("convert", codes, "-o", tmp_path / "codes.csv").stdout
    assert "note: 1 name not in UTF-8, written with \\x: old\\xff.png" in printed.splitlines()[1]
    assert "may read these class names as missing values: 'NA'" in printed
    assert [row[0] for row in read_text(tmp_path / "codes.csv")[1:]] == ["old\\xff.png", "b.png"]
    for ending in ("npz", "parquet"):
        (note,) = convert_codes(codes, tmp_path / f"codes.{ending}").notes
        assert "not in UTF-8" in note
    assert read_parquet(tmp_path / "codes.parquet")[0]["label"] == ["NA", "b"]


@settings(max_examples=30)
@given(
    st.lists(st.text(st.characters(exclude_characters="\0"), min_size=1), min_size=1, max_size=4)
)
def test_any_name_comes_back(tmp_path_factory: pytest.TempPathFactory, paths: list[str]) -> None:
    paths = [path for path in paths if path.encode("utf-8", "replace").decode() == path] or ["a"]
    folder = tmp_path_factory.mktemp("names")
    labels = [0] * len(paths)
    codes = write_labelled_codes(folder / "c.h5", CODES[: len(paths)], labels, ["a"], paths=paths)
    for ending in ENDINGS:
        convert_codes(codes, folder / f"c.{ending}")
    assert [row[0] for row in read_text(folder / "c.csv")[1:]] == paths
    assert [row[0] for row in read_text(folder / "c.tab")[3:]] == paths
    assert read_parquet(folder / "c.parquet")[0]["path"] == paths
    with np.load(folder / "c.npz") as arrays:
        assert arrays["paths"].tolist() == paths


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("ending", ENDINGS)
def test_codes_that_are_not_finite_are_refused(tmp_path: Path, ending: str, value: float) -> None:
    X = CODES.copy()
    X[3, 0, 0, 0] = value
    codes = write_labelled_codes(tmp_path / "codes.h5", X, LABELS, NAMES)
    before = names_in(tmp_path)
    message = error_of("convert", codes, "-o", tmp_path / f"codes.{ending}")
    assert message == f"Error: {codes}: the codes of 3.png are not finite; extract them again"
    assert names_in(tmp_path) == before


def test_damaged_codes_leave_what_was_there(codes: Path, tmp_path: Path) -> None:
    output = tmp_path / "codes.csv"
    output.write_text("mine")
    assert "exists already" in error_of("convert", codes, "-o", output)
    with h5py.File(codes, "r+") as file:
        file["checksums"][2] ^= 1
    with pytest.raises(FileFormatError, match="row 2"):
        convert_codes(codes, output, overwrite=True)
    assert output.read_text() == "mine"
    assert names_in(tmp_path) == ["codes.csv", "codes.h5"]


def test_what_cannot_be_converted_is_refused_before_it_is_read(tmp_path: Path) -> None:
    absent = tmp_path / "absent.h5"
    for name in ("codes", "codes.xlsx", "codes.h5"):
        with pytest.raises(ParameterError, match=r"choose one of \.npz, \.csv, \.parquet, \.tab"):
            convert_codes(absent, tmp_path / name)
    with pytest.raises(ParameterError, match="pool"):
        convert_codes(absent, tmp_path / "codes.npz", pool="min")


def test_codes_that_are_pooled_already_say_so(tmp_path: Path) -> None:
    codes = write_labelled_codes(tmp_path / "codes.h5", CODES[:, 0, 0], LABELS, NAMES)
    assert error_of("convert", codes, "-o", tmp_path / "codes.csv", "--pool", "max") == (
        f"Error: {codes}: its codes have no height and width to pool; leave out --pool max"
    )


def test_parquet_without_pyarrow_names_the_extra(codes: Path, tmp_path: Path) -> None:
    """As where it is not installed, in a process of its own."""
    code = (
        "import importlib.util, sys\nfind = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'pyarrow' else find(name)\n"
        "from cnncodes.cli import main\nmain()"
    )
    command = [sys.executable, "-c", code, "convert", str(codes), "-o", str(tmp_path / "c.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: {tmp_path / 'c.parquet'}: .parquet needs pyarrow; "
        "pip install 'cnncodes[parquet]'\n"
    )
