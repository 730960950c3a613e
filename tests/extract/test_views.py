"""Extraction with views: mirrored and turned images as further rows of the same image."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image, ImageOps

from cnncodes import CodeStore
from cnncodes.errors import FileFormatError
from cnncodes.extract.pipeline import extract
from cnncodes.progress import NoProgress
from tests.helpers import (
    BACKBONE_SIZE,
    encode_image,
    error_of,
    names_in,
    run_command,
    write_backbone,
)

N_IMAGES = 5


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    """A network whose codes are the pixels themselves."""
    return write_backbone(tmp_path / "pixels.onnx", pooled=False)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images of noise in two class folders, and a file that is none."""
    rng = np.random.default_rng(0)
    for number in range(N_IMAGES):
        name = f"{'cat' if number < 3 else 'dog'}/{number}.png"
        write_noise(tmp_path / "photos" / name, rng)
    (tmp_path / "photos" / "cat" / "empty.png").touch()
    return tmp_path / "photos"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "results").mkdir()
    return tmp_path / "results" / "codes.h5"


def write_noise(path: Path, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 256, (BACKBONE_SIZE, BACKBONE_SIZE, 3), np.uint8)
    path.write_bytes(encode_image(Image.fromarray(pixels), "PNG"))


def views_by_pillow(path: Path, augment: str) -> list[np.ndarray]:
    """The views of an image in their documented order, made by Pillow."""
    image = Image.open(path)
    upright = {
        "hflip": [image],
        "hvflip": [image, ImageOps.flip(image)],
        "d4": [image.rotate(90 * k) for k in range(4)],
    }
    views = [view for each in upright[augment] for view in (each, ImageOps.mirror(each))]
    return [np.asarray(view) for view in views]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("augment", "n_views"), [("hflip", 2), ("hvflip", 4), ("d4", 8)])
def test_views_are_rows_of_their_image(
    backbone: Path, photos: Path, output: Path, augment: str, n_views: int, dtype: str
) -> None:
    options = ("--augment", augment, "--dtype", dtype)
    stdout = run_command("extract", backbone, photos, "-o", output, *options).stdout
    assert stdout.startswith(f"{output}: 5 images × {n_views} views, 2 classes, codes 4 × 4 × 3; ")
    with CodeStore.open(output) as store:
        assert (store.augment, store.n_views, store.n_images) == (augment, n_views, N_IMAGES)
        assert len(store) == N_IMAGES * n_views == store.codes.shape[0]
        own = store.paths[::n_views]
        assert own == ["cat/0.png", "cat/1.png", "cat/2.png", "dog/3.png", "dog/4.png"]
        assert store.paths == [path for path in own for _ in range(n_views)]
        assert store.labels.tolist() == [0] * 3 * n_views + [1] * 2 * n_views
        assert len(set(store.digests)) == N_IMAGES
        expected = [view for path in own for view in views_by_pillow(photos / path, augment)]
        assert (store.codes[:] == np.stack(expected)).all()
        assert store.skipped == [("cat/empty.png", "empty file")]
        assert f"5 images × {n_views} views" in repr(store)
    assert len({view.tobytes() for view in views_by_pillow(photos / own[0], augment)}) == n_views


def test_without_views_nothing_of_them_is_written(
    backbone: Path, photos: Path, output: Path
) -> None:
    run_command("extract", backbone, photos, "-o", output)
    again = output.with_name("again.h5")
    result = run_command(
        "extract", backbone, photos, "-o", again, "--augment", "none", "--json"
    ).stdout
    assert not {"augment", "n_views"} & set(json.loads(result))
    assert again.read_bytes() == output.read_bytes()
    with h5py.File(output) as file:
        assert "augment" not in file.attrs
    described = json.loads(run_command("info", output, "--json").stdout)
    assert not {"augment", "views"} & set(described)
    with CodeStore.open(output) as store:
        assert (store.augment, store.n_views, store.n_images) == ("none", 1, N_IMAGES)


def test_images_are_counted_not_views(backbone: Path, photos: Path, output: Path) -> None:
    options = ("--augment", "d4", "--json")
    result = json.loads(run_command("extract", backbone, photos, "-o", output, *options).stdout)
    assert (result["n_images"], result["augment"], result["n_views"]) == (N_IMAGES, "d4", 8)
    described = json.loads(run_command("info", output, "--json").stdout)
    assert (described["images"], described["augment"], described["views"]) == (5, "d4", 8)
    assert described["images_by_class"] == {"cat": 3, "dog": 2}
    assert "5 × 8 views (d4)" in run_command("info", output).stdout
    again = run_command("extract", backbone, photos, "-o", output, "--augment", "d4")
    assert "complete already, with the same 5 images × 8 views and network" in again.stdout


def test_other_views_are_refused(backbone: Path, photos: Path, output: Path) -> None:
    run_command("extract", backbone, photos, "-o", output, "--augment", "hflip")
    content = output.read_bytes()
    command = ("extract", backbone, photos, "-o", output, "--augment", "d4")
    assert "made with another augment (hflip, not d4)" in error_of(*command)
    assert "was made with another augment (hflip, not d4); pass the same" in error_of(
        *command, "--update"
    )
    assert output.read_bytes() == content
    run_command(*command, "--overwrite")


def test_update_computes_new_images_only(backbone: Path, photos: Path, output: Path) -> None:
    options = ("-o", output, "--augment", "d4")
    run_command("extract", backbone, photos, *options)
    write_noise(photos / "cat" / "1b.png", np.random.default_rng(1))
    (photos / "cat" / "0.png").unlink()
    result = run_command("extract", backbone, photos, *options, "--update")
    assert "kept the codes of 4 images from the file as it was before" in result.stdout
    whole = output.with_name("whole.h5")
    run_command("extract", backbone, photos, "-o", whole, "--augment", "d4")
    assert output.read_bytes() == whole.read_bytes()


class Interrupting(NoProgress):
    """Progress that is interrupted after three images, as by Ctrl-C."""

    def advance(self, amount: int) -> None:
        super().advance(amount)
        if self._done == 3:
            raise KeyboardInterrupt


def test_goes_on_after_an_interruption(backbone: Path, photos: Path, output: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match="keeps 3 of 6 images"):
        extract(backbone, photos, output, augment="hflip", threads=1, progress=Interrupting())
    assert names_in(output.parent) == ["codes.h5.partial"]
    refused = error_of("extract", backbone, photos, "-o", output)
    assert "of an interrupted extraction with another augment (hflip, not none)" in refused
    command = ("extract", backbone, photos, "--augment", "hflip", "-o")
    assert "went on after 3 images of an earlier run" in run_command(*command, output).stdout
    whole = output.with_name("whole.h5")
    run_command(*command, whole)
    assert output.read_bytes() == whole.read_bytes()


def test_verify_computes_every_view_again(backbone: Path, photos: Path, output: Path) -> None:
    run_command("extract", backbone, photos, "-o", output, "--augment", "d4")
    command = ("verify", output, "--source", photos, "--backbone", backbone)
    stdout = run_command(*command).stdout
    assert "format, labels and digests of 5 images × 8 views" in stdout
    assert "the codes of 5 images × 8 views, computed again" in stdout
    assert "those computed again are equal to the stored codes" in stdout
    with h5py.File(output, "r+") as file:  # view 5 of the last image gets the codes of view 6
        offset = (4 * 8 + 5, 0, 0, 0)
        chunk = file["codes"].id.read_direct_chunk((4 * 8 + 6, 0, 0, 0))[1]
        file["codes"].id.write_direct_chunk(offset, chunk)
        del file["checksums"]
    assert "WRONG: dog/4.png: its codes differ by" in run_command(*command, exit_code=1).stdout


@pytest.mark.parametrize("ending", ["csv", "tab", "npz", "parquet"])
def test_convert_numbers_the_views(backbone: Path, photos: Path, output: Path, ending: str) -> None:
    run_command("extract", backbone, photos, "-o", output, "--augment", "hflip")
    table = output.with_suffix(f".{ending}")
    stdout = run_command("convert", output, "-o", table).stdout
    assert f"{table}: 5 images, " in stdout
    assert "note: each image has 2 rows, its views (hflip): the column view is 0 for" in stdout
    if ending == "npz":
        with np.load(table) as arrays:
            assert arrays["views"].tolist() == [0, 1] * N_IMAGES
            assert arrays["codes"].shape == (10, 4, 4, 3)
    elif ending != "parquet":
        delimiter = "," if ending == "csv" else "\t"
        with table.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file, delimiter=delimiter)
        assert header[:4] == ["path", "label", "view", "code_0000"]
        rows = rows if ending == "csv" else rows[2:]
        assert [row[2] for row in rows] == ["0", "1"] * N_IMAGES


@pytest.mark.parametrize("attribute", ["hflip", "turned"])
def test_rows_that_are_no_views_are_refused(
    backbone: Path, photos: Path, output: Path, attribute: str
) -> None:
    run_command("extract", backbone, photos, "-o", output)
    with h5py.File(output, "r+") as file:
        file.attrs["augment"] = attribute
    with pytest.raises(FileFormatError, match=r"contradicts itself|'turned' are unknown"):
        CodeStore.open(output)
