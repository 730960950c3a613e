"""The same inputs, seed and threads give the same files, byte for byte.

The second time each command runs in a process of its own, whose sets of texts have another order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import run_command, run_process

# Of the machine, and never twice the same.
MEASURED = ("seconds", "images_per_second", "images_per_second_spread")


def commands(backbone: Path, photos: Path, folder: Path) -> Iterator[tuple[object, ...]]:
    """Give the whole chain behind the export, with heads of three kinds."""
    int8, codes, head, app = (folder / name for name in ("b.onnx", "c.h5", "h.onnx", "a.onnx"))
    yield ("quantize", backbone, "--images", photos, "--n-images", 8, "-o", int8)
    yield ("extract", int8, photos, "-o", folder / "int8.h5")
    yield ("extract", backbone, photos, "-o", codes, "--threads", 2)
    for ending in ("csv", "npz", "parquet", "tab"):
        yield ("convert", codes, "-o", folder / f"codes.{ending}")
    yield ("train", codes, "-o", head)
    for estimator in ("sgd", "knn"):
        yield ("train", codes, "-o", folder / f"{estimator}.onnx", "--estimator", estimator)
    yield ("bundle", backbone, head, "-o", app)
    yield ("curve", codes, "-o", folder / "curve.json", "--per-class", "2,4")
    yield ("evaluate", app, photos)
    yield ("verify", codes, "--source", photos, "--backbone", backbone)


def in_this_process(*arguments: object) -> str:
    return run_command(*arguments).stdout


def in_its_own_process(*arguments: object) -> str:
    done = run_process(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def make_all(
    backbone: Path, photos: Path, folder: Path, run: Callable[..., str]
) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Run the chain; return what is printed but for what is measured, and all files."""
    folder.mkdir()
    printed = []
    for command in commands(backbone, photos, folder):
        result = json.loads(run(*command, "--json"))
        printed.append({key: result[key] for key in result if key not in MEASURED})
    made = {path.name: path.read_bytes() for path in folder.iterdir()}
    folder.rename(folder.with_name(run.__name__))  # files and texts name their inputs
    return printed, made


def test_chain_gives_the_same_bytes_twice(
    small_backbone: Path, photos: Path, tmp_path: Path
) -> None:
    first, second = (
        make_all(small_backbone, photos, tmp_path / "made", run)
        for run in (in_this_process, in_its_own_process)
    )
    assert first[0] == second[0]
    assert [name for name in first[1] if first[1][name] != second[1][name]] == []
    assert len(first[1]) == len(second[1]) == 12


def test_export_gives_the_same_bytes_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for number in (1, 2):
        monkeypatch.setenv("PYTHONHASHSEED", str(number))  # the order of sets of texts
        path = tmp_path / f"{number}.onnx"
        options = ("--weights", "random", "--input-size", 32, "--seed", 5)
        in_its_own_process("export", "mobilenet_v2", *options, "-o", path)
        made.append(path.read_bytes())
    assert made[0] == made[1]


@pytest.mark.parametrize("threads", [1, 3])
def test_codes_do_not_depend_on_the_number_of_threads(
    small_backbone: Path, photos: Path, codes: Path, tmp_path: Path, threads: int
) -> None:
    path = tmp_path / "codes.h5"
    run_command("extract", small_backbone, photos, "-o", path, "--threads", threads)
    assert path.read_bytes() == codes.read_bytes()
