from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path

import h5py
import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from cnncodes import CodeStore
from cnncodes.inspect.verify import verify
from tests.conftest import Run
from tests.helpers import (
    BACKBONE_SIZE,
    append_rows,
    create_journal,
    error_of,
    run_command,
    write_backbone,
)


@pytest.fixture
def copied(codes: Path, photos: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A codes file and its images, to damage."""
    shutil.copytree(photos, tmp_path / "photos")
    shutil.copy(codes, tmp_path / "codes.h5")
    return tmp_path / "codes.h5", tmp_path / "photos"


def faults(*arguments: object) -> list[tuple[str, str]]:
    """Verify what must fail; return all that is wrong."""
    result = run_command("verify", *arguments, "--json", exit_code=1)
    actual = [(each["subject"], each["problem"]) for each in json.loads(result.stdout)["faults"]]
    message = result.stderr.splitlines()[-1]
    noun = "fault" if len(actual) == 1 else "faults"
    assert message == f"Error: {arguments[0]}: has {len(actual)} {noun}, listed above"
    return actual


def test_codes_images_and_network_that_belong_together(
    run: Run, codes: Path, photos: Path, small_backbone: Path
) -> None:
    options = ("--source", photos, "--backbone", small_backbone, "--sample", 5)
    result = json.loads(run("verify", codes, *options, "--json").stdout)
    assert (result["kind"], result["faults"]) == ("codes", [])
    assert 0 < result["largest_difference"] < 0.001, "float16 rounds"
    printed = run("verify", codes, *options).stdout
    assert "the codes of 5 images, computed again" in printed
    assert printed.endswith("  nothing is wrong\n")


@pytest.mark.parametrize("kind", ["small_backbone", "head", "app"])
def test_models_of_cnncodes(
    kind: str, run: Run, small_backbone: Path, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(kind)
    printed = run(
        "verify", path, *([] if "back" in kind else ["--backbone", small_backbone])
    ).stdout
    assert printed.startswith(f"{path}: {kind.removeprefix('small_')}\n")
    assert printed.endswith("  nothing is wrong\n")


@pytest.mark.parametrize("kind", ["small_backbone", "head", "app"])
def test_model_is_opened_once(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    class Counted(onnxruntime.InferenceSession):
        def __init__(self, path: str, *arguments: object, **options: object) -> None:
            opened.append(path)
            super().__init__(path, *arguments, **options)

    path = request.getfixturevalue(kind)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Counted)
    assert verify(path).faults == []
    assert opened == [str(path)]


def test_model_that_cannot_be_run(tmp_path: Path) -> None:
    path = write_backbone(tmp_path / "x.onnx", shape=(300, BACKBONE_SIZE, BACKBONE_SIZE, 3))
    (problem,) = (each.problem for each in verify(path).faults)
    assert problem.startswith("cannot be run (")
    assert "\n" not in problem


def test_images_that_are_not_those_of_the_codes(copied: tuple[Path, Path]) -> None:
    codes, photos = copied
    changed, missing, moved = (sorted((photos / name).iterdir())[0] for name in "123")
    changed.write_bytes(changed.read_bytes() + b"\0")
    missing.unlink()
    moved.rename(photos / "4" / "new.png")
    names = [path.relative_to(photos).as_posix() for path in (changed, missing, moved)]
    assert faults(codes, "--source", photos) == [
        (names[0], "has changed"),
        (names[1], "is not in the source"),
        (names[2], "is not in the source"),
        ("4/new.png", "is in the source only"),
    ]
    lines = run_command("verify", codes, "--source", photos, exit_code=1).stdout.splitlines()
    assert [line for line in lines if "same images" in line] == [
        "  checked: that the source has the same images with the same labels"
    ]
    assert sum("has changed" in line for line in lines) == 1


def test_image_with_another_label(copied: tuple[Path, Path], tmp_path: Path) -> None:
    codes, photos = copied
    with CodeStore.open(codes) as store:
        rows = [
            f"{path},{store.class_names[label]}"
            for path, label in zip(store.paths, store.labels, strict=True)
        ]
    rows[0] = rows[0][:-1] + "9"
    (photos / "list.csv").write_text("\n".join(["path,label", *rows]))
    (actual,) = faults(codes, "--source", photos / "list.csv")
    assert actual[1] == "is labelled '9' in the source, '0' in the codes"


@pytest.fixture
def listed(tmp_path: Path) -> tuple[Path, Path]:
    """A network, and a CSV file that lists images several times, with one label or with two."""
    for name in "abc":
        Image.new("RGB", (6, 6), (ord(name), 0, 0)).save(tmp_path / f"{name}.png")
    rows = ["a.png,x", "a.png,y", "b.png,y", "b.png,y", "c.png,x", "a.png,x"]
    table = tmp_path / "list.csv"
    table.write_text("\n".join(["path,label", *rows]))
    network = write_backbone(tmp_path / "mean.onnx")
    run_command("extract", network, table, "-o", tmp_path / "listed.h5")
    return tmp_path / "listed.h5", table


def test_image_that_is_listed_several_times_is_no_fault(
    run: Run, listed: tuple[Path, Path]
) -> None:
    codes, table = listed
    assert run("verify", codes, "--source", table).stdout.endswith("  nothing is wrong\n")
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([header, *reversed(rows)]))
    assert run("verify", codes, "--source", table).stdout.endswith("  nothing is wrong\n")


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("a.png,y", "a.png,x", "'x', 'x', 'x' in the source, 'x', 'x', 'y' in the codes"),
        ("a.png,y", "", "'x', 'x' in the source, 'x', 'x', 'y' in the codes"),
        ("c.png,x", "c.png,x\nc.png,x", "'x', 'x' in the source, 'x' in the codes"),
        ("c.png,x", "c.png,y", "'y' in the source, 'x' in the codes"),
    ],
)
def test_other_labels_of_an_image_that_is_listed_several_times(
    listed: tuple[Path, Path], old: str, new: str, fault: str
) -> None:
    codes, table = listed
    table.write_text(table.read_text().replace(old, new))
    actual = faults(codes, "--source", table)
    assert actual == [(old[:5], f"is labelled {fault}")]


def test_changed_image_that_is_listed_several_times(listed: tuple[Path, Path]) -> None:
    codes, table = listed
    (table.parent / "b.png").write_bytes(b"another")
    assert faults(codes, "--source", table) == 2 * [("b.png", "has changed")]


def test_skipped_image_is_no_news(
    run: Run, small_backbone: Path, copied: tuple[Path, Path]
) -> None:
    codes, photos = copied
    (photos / "3" / "broken.jpg").write_text("no image")
    run("extract", small_backbone, photos, "-o", codes, "--overwrite")
    run("verify", codes, "--source", photos)


def test_codes_that_are_damaged(copied: tuple[Path, Path], small_backbone: Path) -> None:
    codes, photos = copied
    with h5py.File(codes, "r+") as file:
        del file["checksums"]
        paths = [path.decode() for path in file["paths"][:]]
        file["codes"][3, 0] = np.nan
        file["codes"].id.write_direct_chunk((5, 0), b"no gzip")
        file["codes"].id.write_direct_chunk((7, 0), zlib.compress(bytes(10)))
    actual = faults(codes)
    assert [subject for subject, _ in actual] == [paths[3], paths[5], paths[7]]
    problems = [problem for _, problem in actual]
    assert problems[0] == "its codes are not finite"
    assert problems[1].startswith("its codes are damaged (Error -3 while decompressing data")
    assert problems[2] == "its codes are damaged (it holds more or fewer numbers than it should)"
    # They are not compared with new ones.
    assert faults(codes, "--source", photos, "--backbone", small_backbone) == actual


def test_codes_of_other_images(copied: tuple[Path, Path]) -> None:
    """Swapped rows, as after a mistake with another HDF5 program."""
    codes, _ = copied
    with h5py.File(codes, "r+") as file:
        paths = file["paths"].asstr()[:]
        file["codes"][[3, 8]] = file["codes"][[3, 8]][::-1]
    fault = "its codes are damaged (not those that were stored there)"
    assert faults(codes) == [(paths[3], fault), (paths[8], fault)]
    message = error_of("train", codes, "-o", codes.with_name("head.onnx"))
    assert f"the codes of {paths[3]} in row 3 are damaged (not those that were stored" in message


def test_codes_that_were_never_written(copied: tuple[Path, Path]) -> None:
    """HDF5 would give zeros."""
    codes, _ = copied
    with h5py.File(codes, "r+") as file:
        del file["checksums"]
        dataset = file["codes"]
        shape, dtype = dataset.shape, dataset.dtype
        del file["codes"]
        file.create_dataset("codes", shape, dtype, chunks=(1, shape[1]), compression="gzip")
        file["codes"][:100] = 1
    actual = faults(codes)
    assert len(actual) == 20
    assert all(problem.startswith("its codes are damaged (") for _, problem in actual)


def test_codes_that_the_network_does_not_give(
    copied: tuple[Path, Path], small_backbone: Path
) -> None:
    codes, photos = copied
    with h5py.File(codes, "r+") as file:
        path = file["paths"][7].decode()
        file["codes"][7] = file["codes"][7] * np.float16(1.01)
        del file["checksums"]  # as in files made by an earlier release
    options = ("--source", photos, "--backbone", small_backbone, "--sample", 120)
    ((subject, problem),) = faults(codes, *options)
    assert subject == path
    assert problem.startswith("its codes differ by 0.0")


def test_another_network(
    copied: tuple[Path, Path], small_backbone: Path, head: Path, app: Path, tmp_path: Path
) -> None:
    model = onnx.load(str(small_backbone))
    model.doc_string = "another"
    onnx.save(model, str(tmp_path / "other.onnx"))
    for file in (copied[0], head, app):
        ((subject, problem),) = faults(file, "--backbone", tmp_path / "other.onnx")
        assert subject == str(file)
        assert problem.startswith(
            f"is of another network than {tmp_path / 'other.onnx'} (inception_v3"
        )


@pytest.mark.parametrize("kind", ["small_backbone", "head", "app"])
def test_model_that_gives_no_numbers(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model = onnx.load(str(request.getfixturevalue(kind)))
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims):
            nothing = np.full(tensor.dims, np.nan, np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(nothing, tensor.name))
    path = tmp_path / "model.onnx"
    onnx.save(model, str(path))
    (_, altered), (_, problem) = faults(path)
    assert altered.startswith("its weights, operators or metadata are not those")
    assert problem in (
        "computes codes that are not finite",
        "computes numbers that are not probabilities",
    )


def test_what_cannot_be_verified(app: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("a text")
    assert "is a text (no command takes it)" in error_of("verify", tmp_path / "text")
    assert "absent: no such file; name a codes file" in error_of("verify", tmp_path / "absent")
    with create_journal(tmp_path / "codes.h5.partial") as journal:
        append_rows(journal)
    unfinished = "is an unfinished codes file (the same cnncodes extract, run again, ends it), not"
    assert unfinished in error_of("verify", tmp_path / "codes.h5.partial")
    assert "is a folder without images (no command takes it), not" in error_of("verify", tmp_path)
    assert ": source is for a codes file" in error_of("verify", app, "--source", photos)


def test_codes_without_a_difference_are_called_equal(run: Run, tmp_path: Path) -> None:
    """The mean of one colour is exact, in half precision too."""
    backbone, codes = write_backbone(tmp_path / "mean.onnx"), tmp_path / "codes.h5"
    (tmp_path / "photos").mkdir()
    for grey in (3, 200):
        Image.new("RGB", (9, 9), (grey, 7, 0)).save(tmp_path / "photos" / f"{grey}.png")
    run("extract", backbone, tmp_path / "photos", "-o", codes)
    options = ("--source", tmp_path / "photos", "--backbone", backbone)
    assert (
        "\n  those computed again are equal to the stored codes\n"
        in run("verify", codes, *options).stdout
    )
