"""The folder sorter on handwritten digits, in a process of its own as a person would run it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from cnncodes import Classifier
from tests.examples.conftest import EXAMPLES

LEAST = 0.8  # as in the program


def sort_photos(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / "sort_photos.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def content_of(folder: Path) -> dict[str, bytes]:
    """Return each file and folder but the undo list."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
        if path.name != ".sorted.jsonl"
    }


@pytest.fixture
def folder(photos: Path, tmp_path: Path) -> Path:
    """Photos of all classes, a text, a folder and a hidden file."""
    folder = tmp_path / "unsorted"
    (folder / "other").mkdir(parents=True)
    for number, path in enumerate(sorted(photos.rglob("*.png"))[::5]):
        shutil.copy(path, folder / f"photo {number}.png")
    (folder / "notes.txt").write_text("not a photo")
    (folder / ".hidden.png").write_bytes((folder / "photo 0.png").read_bytes())
    return folder


@pytest.fixture
def labels(app: Path, folder: Path) -> dict[str, str]:
    """The label of each photo that is to be moved."""
    paths = sorted(folder.glob("photo*.png"))
    best = {each.path.name: each.predictions[0] for each in Classifier(app).predict_files(paths)}
    labels = {name: each.label for name, each in best.items() if each.probability >= LEAST}
    assert 0 < len(labels) < len(paths)
    return labels


def test_dry_run_moves_nothing(app: Path, folder: Path, labels: dict[str, str]) -> None:
    before = content_of(folder)
    done = sort_photos(app, folder)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert {line for line in lines if " -> " in line} == {f"{a} -> {b}" for a, b in labels.items()}
    assert len(lines) == len(list(folder.glob("*.*"))) - 1  # not the hidden one
    assert any(line.startswith("notes.txt stays (not a JPEG") for line in lines)
    assert any(" stays (perhaps " in line for line in lines)
    assert content_of(folder) == before
    assert not (folder / ".sorted.jsonl").exists()


def test_undo_restores_what_was_moved(app: Path, folder: Path, labels: dict[str, str]) -> None:
    before = content_of(folder)
    done = sort_photos(app, folder, "--move")
    assert done.returncode == 0, done.stderr
    moved = {str(path.relative_to(folder)): path for path in folder.glob("*/*.png")}
    assert moved.keys() == {f"{label}/{name}" for name, label in labels.items()}
    assert all(path.read_bytes() == before[path.name] for path in moved.values())
    for _ in range(2):  # the second time there is nothing to do
        done = sort_photos("undo", folder)
        assert done.returncode == 0, done.stderr
        assert content_of(folder) == before
    assert done.stdout == ""


def test_no_file_is_overwritten(app: Path, folder: Path, labels: dict[str, str]) -> None:
    (taken, label), (moved, other), *_ = labels.items()
    (folder / label).mkdir()
    (folder / label / taken).write_text("older")
    done = sort_photos(app, folder, "--move")
    assert f"{taken} stays (File exists: {folder / label / taken})" in done.stdout
    assert (folder / label / taken).read_text() == "older"
    assert (folder / taken).exists()
    (folder / moved).write_text("newer")  # while the first one of this name was away
    done = sort_photos("undo", folder)
    assert f"{other}/{moved}: File exists: {folder / moved}" in done.stdout
    assert (folder / moved).read_text() == "newer"
    (line,) = (folder / ".sorted.jsonl").read_text().splitlines()
    assert json.loads(line) == [other, moved]  # the rest is done
    (folder / moved).unlink()
    sort_photos("undo", folder)
    assert (folder / moved).exists()
    assert (folder / label / taken).read_text() == "older"


def test_file_named_as_a_class_is_kept(app: Path, folder: Path, labels: dict[str, str]) -> None:
    name, label = next(iter(labels.items()))
    (folder / label).write_text("a file")
    done = sort_photos(app, folder, "--move")
    assert done.returncode == 0, done.stderr
    assert f"{name} stays (File exists: {folder / label})" in done.stdout
    assert (folder / label).read_text() == "a file"


@pytest.mark.parametrize("label", ["../elsewhere", "/elsewhere", "a/b"])
def test_class_that_is_a_path_is_refused(
    app: Path, folder: Path, labels: dict[str, str], tmp_path: Path, label: str
) -> None:
    model = onnx.load(app)
    for entry in model.metadata_props:
        if entry.key == "cnncodes.labels":
            entry.value = json.dumps([label, *json.loads(entry.value)[1:]])
    onnx.save(model, tmp_path / "strange.onnx")
    before = content_of(tmp_path)
    done = sort_photos(tmp_path / "strange.onnx", folder, "--move")
    assert done.returncode == 1
    assert f"{label!r} cannot be the name of a file or folder" in done.stderr
    assert content_of(tmp_path) == before


def test_list_that_names_files_elsewhere_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    (folder / ".sorted.jsonl").write_text('["..", "secret"]\n')
    done = sort_photos("undo", folder)
    assert done.returncode == 1
    assert (tmp_path / "secret").exists()


def test_usage_is_printed() -> None:
    done = sort_photos()
    assert done.returncode == 1
    assert "--move" in done.stderr
