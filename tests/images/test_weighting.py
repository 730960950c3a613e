"""The columns weight and probability of a CSV source, on their way into a codes file."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import pytest
from PIL import Image

from cnncodes import CodeStore
from cnncodes.errors import FileFormatError, SourceError
from cnncodes.extract.pipeline import extract as run_extract
from cnncodes.head.joined import open_codes
from cnncodes.images.sources import find_images
from cnncodes.progress import NoProgress
from tests.helpers import (
    BACKBONE_INFO,
    error_of,
    refusal_of_store,
    run_command,
    write_backbone,
    write_images,
    write_table,
)

NAMES = ("a.png", "b.png", "c.png", "d.png")
OTHER = {"cnncodes.backbone": "other", "cnncodes.weights": "random:1"}
HEADER = "path,label,weight,probability"


def table(folder: Path, *values: str, header: str = HEADER) -> Path:
    labels = ("cat", "dog", "cat", "dog")
    rows = [
        f"{name},{label},{each}" for name, label, each in zip(NAMES, labels, values, strict=False)
    ]
    return write_table(folder, "\n".join([header, *rows]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        Image.new("RGB", (4, 4), (40 * number, 0, 200)).save(tmp_path / name)
    write_backbone(tmp_path / "backbone.onnx")
    return tmp_path


def extract(folder: Path, source: Path, *options: str) -> str:
    output = folder / "codes.h5"
    return run_command("extract", folder / "backbone.onnx", source, "-o", output, *options).output


def stored(folder: Path) -> tuple[list[float], list[float]]:
    with CodeStore.open(folder / "codes.h5") as store:
        return store.weights.tolist(), store.probabilities.tolist()


@pytest.mark.parametrize(
    ("header", "value"),
    [("path,label,weight", "1,5"), (HEADER, "1,0,9"), (f"{HEADER},", "1,0,9"), (HEADER, "1,5,0,9")],
)
def test_decimal_commas_between_commas_are_refused(tmp_path: Path, header: str, value: str) -> None:
    source = table(write_images(tmp_path, *NAMES), "1", value, header=header)
    with pytest.raises(SourceError, match=", line 3: has more values than columns; write decimals"):
        find_images(source)


def test_values_are_read_and_1_where_there_are_none(tmp_path: Path) -> None:
    source = find_images(table(write_images(tmp_path, *NAMES), "2,1", " , 0.25", "0,", "1e-3,"))
    assert source.weights == (2, 1, 0, 0.001)
    assert source.probabilities == (1, 0.25, 1, 1)
    assert not any("not used" in note for note in source.notes)
    empty = find_images(table(tmp_path, *[","] * 4))
    assert (empty.weights, empty.probabilities) == ((), ())


def test_decimal_commas_of_other_locales(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    content = "path;label;weight;probability\na.png;cat;2,5;0,75\n"
    source = find_images(write_table(tmp_path, content))
    assert (source.weights, source.probabilities) == ((2.5,), (0.75,))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("-1,1", "weight must be a number from 0 to 1,000,000, not -1"),
        ("nan,1", "weight must be a number from 0 to 1,000,000, not nan"),
        ("inf,1", "weight must be"),
        ("1e7,1", "weight must be"),
        ("much,1", "weight must be a number from 0 to 1,000,000, not much"),
        ("1,1.5", "probability must be a number above 0 and at most 1, not 1.5"),
        ("1,0.0", "not 0.0; it is that of the image's own label, so label it with another class"),
        ("1,67 %", "probability must be a number above 0 and at most 1, not 67 %"),
    ],
)
def test_other_values_are_refused_with_their_line(
    tmp_path: Path, values: str, message: str
) -> None:
    source = table(write_images(tmp_path, *NAMES), "1,1", values)
    with pytest.raises(SourceError) as caught:
        find_images(source)
    assert str(caught.value).startswith(f"{source}, line 3: ")
    assert message in str(caught.value)


def test_columns_twice_are_refused(tmp_path: Path) -> None:
    source = table(write_images(tmp_path, *NAMES), "1,2", header="path,label,weight,Weight")
    with pytest.raises(SourceError, match="has 2 columns weight; leave one"):
        find_images(source)


@pytest.mark.parametrize("augment", ["none", "hflip"])
def test_are_stored_for_each_row(folder: Path, augment: str) -> None:
    values = ("2,1", "1,0.25", "0,", "1e-3,")
    printed = extract(folder, table(folder, *values), "--augment", augment)
    assert "weights in training, of 3 images other than 1" in printed
    assert "labels that are doubtful, of 1 image\n" in printed
    n_views = 1 if augment == "none" else 2
    weights = [each for each in (2, 1, 0, 0.001) for _ in range(n_views)]
    probabilities = [each for each in (1, 0.25, 1, 1) for _ in range(n_views)]
    assert stored(folder) == (weights, probabilities)
    described = json.loads(run_command("info", folder / "codes.h5", "--json").stdout)
    assert described["images_of_another_weight_than_1"] == 3
    assert described["images_of_a_probability_below_1"] == 1
    run_command("verify", folder / "codes.h5", "--source", folder / "list.csv")


def test_source_without_leaves_the_file_as_it_was(folder: Path) -> None:
    contents = []
    for header, value in (("path,label", ""), (HEADER, ",")):
        rows = [f"{name},cat{value and ','}{value}" for name in NAMES]
        write_table(folder, "\n".join([header, *rows]))
        extract(folder, folder / "list.csv", "--overwrite")
        contents.append((folder / "codes.h5").read_bytes())
    assert contents[0] == contents[1]
    with h5py.File(folder / "codes.h5") as file:
        assert not {"weights", "probabilities"} & {*file}


def test_other_values_replace_old_ones_without_computing_codes(folder: Path) -> None:
    source = table(folder, *["1,0.5"] * 4)
    extract(folder, source)
    assert "nothing to do" in extract(folder, source)
    for values, what in (("2,0.5", "weight"), ("1,0.6", "probability")):
        table(folder, values, *["1,0.5"] * 3)
        output = folder / "codes.h5"
        said = error_of("extract", folder / "backbone.onnx", source, "-o", output)
        assert f"with other images (1 image of another {what})" in said
        printed = run_command("verify", output, "--source", source, exit_code=1).output
        assert f"a.png: has the {what} {values.split(',')[what == 'probability']}" in printed
    printed = extract(folder, source, "--update")
    assert "kept the codes of 4 images" in printed
    assert stored(folder) == ([1] * 4, [0.6, 0.5, 0.5, 0.5])
    write_table(folder, "\n".join(["path,label", *(f"{name},cat" for name in NAMES)]))
    printed = extract(folder, source, "--update")
    assert "weights and probabilities of the file that was there not kept" in printed
    assert stored(folder) == ([], [])


class Interrupting(NoProgress):
    """Ctrl-C after two images."""

    n_images = 0

    def advance(self, amount: int) -> None:
        self.n_images += amount
        if self.n_images >= 2:
            raise KeyboardInterrupt


def test_interrupted_extraction_goes_on_with_the_same_values_only(folder: Path) -> None:
    values = ["2,0.5", "3,0.6", "4,0.7", "5,0.8"]
    source, output = table(folder, *values), folder / "codes.h5"
    with pytest.raises(KeyboardInterrupt):
        run_extract(folder / "backbone.onnx", source, output, batch_size=1, progress=Interrupting())
    table(folder, "9,0.5", *values[1:])
    said = error_of("extract", folder / "backbone.onnx", source, "-o", output)
    assert "of an interrupted extraction of other images, changed ones" in said
    table(folder, *values)
    extract(folder, source)
    assert stored(folder) == ([2, 3, 4, 5], [0.5, 0.6, 0.7, 0.8])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("weights", [1, 1, 1, -1]),
        ("weights", [1, 1, 1, float("nan")]),
        ("weights", [1, 1, 1]),
        ("probabilities", [1, 1, 1, 0]),
        ("probabilities", [1, 1, 1, 2]),
    ],
)
def test_codes_file_with_other_values_is_refused(
    folder: Path, name: str, values: list[float]
) -> None:
    extract(folder, table(folder, *["1,0.5"] * 4))
    with h5py.File(folder / "codes.h5", "r+") as file:
        del file[name]
        file.create_dataset(name, data=values, dtype="float64")
    assert "contradicts itself" in refusal_of_store(folder / "codes.h5")


def test_conversion_reports_what_it_leaves_out(folder: Path) -> None:
    extract(folder, table(folder, *["2,0.5"] * 4))
    printed = run_command("convert", folder / "codes.h5", "-o", folder / "codes.csv").output
    assert "weights and probabilities of the images are left out" in printed


def test_joined_files_agree_or_only_one_has_them(folder: Path) -> None:
    extract(folder, table(folder, *["2,0.5"] * 4))
    write_backbone(folder / "other.onnx", metadata={**BACKBONE_INFO.to_metadata(), **OTHER})
    other = folder / "other.h5"
    words = ("extract", folder / "other.onnx", folder / "list.csv", "-o", other, "--overwrite")
    for values, probabilities in (("2,0.5", [0.5] * 4), (",", [0.5] * 4), ("2,0.6", None)):
        table(folder, *[values] * 4)
        run_command(*words)
        if probabilities is None:
            with pytest.raises(FileFormatError, match="have different probabilities of the same"):
                open_codes([other, folder / "codes.h5"])
            continue
        with open_codes([other, folder / "codes.h5"]) as joined:
            assert joined.weights.tolist() == [2] * 4
            assert joined.probabilities.tolist() == probabilities
