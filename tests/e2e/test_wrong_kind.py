"""Every command, given any kind of file where another is needed."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

from cnncodes.evaluate.curve import save_curves
from cnncodes.files import sha256_of
from cnncodes.models.kinds import GENERATOR, KINDS, TABLES, find_kind
from tests.helpers import (
    BACKBONE_INFO,
    CURVES,
    IMAGE,
    append_rows,
    create_journal,
    head_info,
    logits_of,
    run_command,
    write_backbone,
    write_head,
    write_images,
    write_labelled_codes,
)

PREDICTIONS = "path,label,predicted,probability"
QUANTIZED = BACKBONE_INFO.to_metadata() | {"cnncodes.precision": "int8"}


def _write_photograph(path: Path) -> None:
    Image.effect_noise((9, 8), 60).convert("RGB").save(path, "JPEG")


def _write_folder(path: Path) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("no image")


def _write_journal(path: Path) -> None:
    with create_journal(path) as journal:
        append_rows(journal)


def _write_codes(path: Path) -> None:
    labels = [0, 1] * 8
    write_labelled_codes(path, logits_of(labels, 2), labels, ["cat", "dog"])


def _write_head(path: Path) -> None:
    """A head of the backbone, which is beside it."""
    sha256 = sha256_of(path.with_name("backbone"))
    write_head(path, ["cat", "dog", "emu"], backbone=BACKBONE_INFO, sha256=sha256)


def _write_app(path: Path) -> None:
    write_backbone(path, metadata=head_info(["cat", "dog"]).to_metadata("app"))


def _write_onnx(path: Path) -> None:
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Resize", ["x"], ["y"])], "g", [*values[:1]], [])
    graph.output.append(values[1])
    onnx.save(helper.make_model(graph), path)


def _write_hdf5(path: Path, group: str) -> None:
    with h5py.File(path, "w") as file:
        file.create_group(group)["numbers"] = np.zeros(3)


def _write_zip(path: Path, member: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, "content")


# A file of each kind, under a name that gives nothing away where it can be had without.
WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "image": ("photo.jpg", _write_photograph),
    "images": ("photos", lambda path: write_images(path, "cat/a.png", "dog/b.png")),
    "folder": ("folder", _write_folder),
    "table": ("list.csv", lambda path: path.write_text("path,label\na.png,cat\n")),
    "codes": ("codes", _write_codes),
    "journal": ("codes.h5.partial", _write_journal),
    "curve": ("curve", lambda path: save_curves(CURVES, path, overwrite=True)),
    "evaluation": ("evaluation", lambda path: path.write_text('{"kind": "evaluation"}')),
    "report": ("report", lambda path: path.write_text(f"<!DOCTYPE html>\n{GENERATOR}\n")),
    "predictions": ("predictions", lambda path: path.write_text(f"{PREDICTIONS}\na.png,a,b,1\n")),
    "pairs": ("overlap.csv", lambda path: path.write_text("a,b,kind,score\na,b,same,1\n")),
    "converted": ("codes.tab", lambda path: path.write_text("path\tlabel\tcode_0000\n")),
    "parquet": ("codes.parquet", lambda path: path.write_bytes(b"PAR1\0\1")),
    "drawing": ("curve.svg", lambda path: path.write_text("<?xml version='1.0'?>\n<svg></svg>")),
    "backbone": ("backbone", write_backbone),
    "int8": ("quantized", lambda path: write_backbone(path, metadata=QUANTIZED)),
    "head": ("head", _write_head),
    "app": ("app", _write_app),
    "onnx": ("stranger", _write_onnx),
    "weights": ("network.weights", lambda path: _write_hdf5(path, "layers")),
    "keras": ("network", lambda path: _write_zip(path, "model.weights.h5")),
    "hdf5": ("measurements", lambda path: _write_hdf5(path, "results")),
    "zip": ("photos.zip", lambda path: _write_zip(path, "a.png")),
    "text": ("letter", lambda path: path.write_text("Dear reader, größer\n")),
}
OTHERS = {"damaged", "unknown"}  # which only the reader of the right kind can describe

SOURCE = {"images", "folder", *TABLES}
MODELS = {"head", "app"}
# Commands with FILE as one argument, and the kinds that they accept there or explain.
ARGUMENTS = {
    "export vgg16 --weights FILE -o NEW": {"weights", "keras", "zip", "hdf5"},
    "quantize FILE --images images -o NEW": {"backbone"},
    "quantize backbone --images FILE -o NEW": SOURCE,
    "extract FILE images -o NEW": {"backbone", "int8"},
    "extract backbone FILE -o NEW": SOURCE,
    "train FILE -o NEW": {"codes", "journal"},
    "curve FILE -o NEW": {"codes", "journal"},
    "curve codes FILE -o NEW": {"codes", "journal"},
    "evaluate FILE codes": MODELS,
    "evaluate head FILE --backbone backbone": {"codes", "journal", *SOURCE},
    "evaluate head images --backbone FILE": {"backbone", "int8"},
    "evaluate head codes --report NEW --curve FILE": {"curve"},
    "evaluate head codes --report NEW --images FILE": {"images", "folder"},
    "bundle FILE head -o NEW": {"backbone", "int8"},
    "bundle backbone FILE -o NEW": {"head"},
    "predict FILE image": {"app"},
    "bench FILE": {"backbone", "int8", "app"},
    "bench backbone FILE": {"backbone", "int8", "app"},
    "verify FILE": {"codes", "journal", "backbone", "int8", *MODELS},
    "verify codes --source FILE": SOURCE,
    "verify codes --backbone FILE": {"backbone", "int8"},
    "demo FILE": {"images", "folder"},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("kinds")
    paths = {}
    for kind, (name, write) in WRITERS.items():
        paths[kind] = folder / name
        write(paths[kind])
    return paths


def test_there_is_a_file_of_each_kind(files: dict[str, Path]) -> None:
    assert {*files} == {*KINDS} - OTHERS
    for kind, path in files.items():
        assert find_kind(path) == KINDS[kind]


@pytest.mark.parametrize(
    ("argument", "kind"),
    [
        (argument, kind)
        for argument, accepted in ARGUMENTS.items()
        for kind in WRITERS
        if kind not in accepted
    ],
)
def test_wrong_kind_is_named_with_the_command_that_takes_it(
    files: dict[str, Path], tmp_path: Path, argument: str, kind: str
) -> None:
    new = tmp_path / "new"
    paths = {"FILE": files[kind], "NEW": new}
    command, *words = argument.split()
    result = run_command(
        command, *(({**files, **paths}).get(word, word) for word in words), exit_code=1
    )
    (line,) = [each for each in result.stderr.splitlines() if each.startswith("Error: ")]
    described = f"{files[kind]}: is {KINDS[kind].noun} ({KINDS[kind].use}), not "
    assert line.startswith(f"Error: {described}")
    assert line.count("; ") >= 1  # what to do instead
    assert not new.exists()


@pytest.mark.parametrize("kind", sorted({*WRITERS} - SOURCE - {"image", "zip"}))
def test_file_among_images_is_named(files: dict[str, Path], app: Path, kind: str) -> None:
    result = run_command("predict", app, files[kind], exit_code=1)
    assert f"is {KINDS[kind].noun} ({KINDS[kind].use}), not an image" in result.output


@pytest.mark.parametrize("kind", sorted({*WRITERS} - {"images", "folder", "table"}))
def test_info_has_the_same_words(files: dict[str, Path], kind: str) -> None:
    described = json.loads(run_command("info", files[kind], "--json").stdout)
    assert described["what"] == KINDS[kind].noun
    assert described["use"] == KINDS[kind].use


def test_image_instead_of_codes(tmp_path: Path) -> None:
    (tmp_path / "codes.h5").write_bytes(IMAGE)
    line = run_command("train", tmp_path / "codes.h5", "-o", tmp_path / "new", exit_code=1).stderr
    assert line.splitlines()[-1] == (
        f"Error: {tmp_path / 'codes.h5'}: is an image (predict takes it, and extract a folder of "
        "such), not a codes file; make one with: cnncodes extract"
    )
