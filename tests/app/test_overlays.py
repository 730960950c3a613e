"""The pictures that ``cnncodes predict --explain`` writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnncodes import Classifier
from cnncodes.app.explain import Explanation
from cnncodes.app.overlays import SIDE, draw_explanation
from tests.helpers import error_of, names_in, run_command


def explanation_of(contributions: np.ndarray, label: str = "cat") -> Explanation:
    total = float(contributions.sum())
    return Explanation(label, 0.9, total + 1, 1.0, contributions.astype(np.float32))


def test_a_picture_of_each_image(app: Path, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"\x89PNG\r\n\x1a\n")
    paths = sorted((photos / "3").iterdir())[:3]
    # The same name in another folder.
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / paths[0].name
    Image.new("RGB", (60, 20), "red").save(other)
    done = run_command(
        *("predict", app, *paths, other, damaged, "--explain", folder, "--format", "json"),
        exit_code=1,
    )
    answers = json.loads(done.stdout)
    wanted = [f"{path.name}.png" for path in paths] + [f"{other.name}-2.png"]
    assert names_in(folder) == sorted(wanted)
    classifier = Classifier(app)
    for path, answer in zip(paths, answers, strict=False):
        explanation = classifier.explain(path)
        assert answer["explanation"]["label"] == explanation.label
        assert answer["explanation"]["contributions"] == pytest.approx(
            explanation.contributions, abs=1e-4
        )
        with Image.open(folder / f"{path.name}.png") as picture:
            assert picture.width > 2 * SIDE
    with Image.open(folder / f"{other.name}-2.png") as picture:
        assert picture.height < SIDE, "a wide image gives a low picture"
    assert "explanation" not in answers[-1]
    assert answers[-1]["problem"]


def test_colours_lie_on_the_cells() -> None:
    contributions = np.zeros((5, 5))
    contributions[1, 3], contributions[4, 0] = 2, -2
    picture = Image.new("RGB", (SIDE, SIDE), "grey")
    page = np.asarray(draw_explanation(picture, explanation_of(contributions))).astype(int)
    red_over_blue = page[..., 0] - page[..., 2]
    top = next(row for row in range(len(page)) if (page[row, 16 : 16 + SIDE] == 128).all())
    left = 16 + SIDE + 16
    cells = red_over_blue[top : top + SIDE, left : left + SIDE]
    cell = SIDE / 5
    strongest = np.unravel_index(cells.argmax(), cells.shape)
    assert (int(strongest[0] / cell), int(strongest[1] / cell)) == (1, 3)
    weakest = np.unravel_index(cells.argmin(), cells.shape)
    assert (int(weakest[0] / cell), int(weakest[1] / cell)) == (4, 0)
    assert (red_over_blue[top : top + SIDE, 16 : 16 + SIDE] == 0).all(), (
        "the original is left as is"
    )


@pytest.mark.parametrize("size", [(1, SIDE), (SIDE, 1), (300, 200)])
@pytest.mark.parametrize("label", ["cat", "日本", "a\x1b[31m\nb", "n" * 500])
def test_pictures_and_names_of_any_kind(size: tuple[int, int], label: str) -> None:
    page = draw_explanation(Image.new("RGB", size), explanation_of(np.zeros((1, 1)), label))
    assert page.width >= SIDE


def test_pictures_of_an_earlier_call_are_replaced(app: Path, photos: Path, tmp_path: Path) -> None:
    """The same command goes on after an interrupt; other files stay."""
    image = next(photos.rglob("*.png"))
    (tmp_path / "mine.txt").write_text("kept")
    for _ in range(2):
        done = run_command("predict", app, image, "--explain", tmp_path)
        assert done.stderr == f"note: 1 picture in {tmp_path}\n"
    assert names_in(tmp_path) == sorted(["mine.txt", f"{image.name}.png"])
    own = tmp_path / f"{image.name}.png"
    Image.new("RGB", (4, 4)).save(own)
    before = own.read_bytes()
    error = error_of("predict", app, image, "--explain", tmp_path)
    assert error.endswith(f"{own}: exists already; choose another name or pass --overwrite")
    assert own.read_bytes() == before
    run_command("predict", app, image, "--explain", tmp_path, "--overwrite")
    assert own.read_bytes() != before
    assert "is not a folder" in error_of("predict", app, image, "--explain", tmp_path / "mine.txt")
    error = error_of("predict", app, image, "--explain", tmp_path / "absent" / "new")
    assert "the folder" in error
    assert "does not exist" in error


def test_label_is_drawn_in_its_own_letters() -> None:
    picture = Image.new("RGB", (SIDE, 9))
    pages = [
        np.asarray(draw_explanation(picture, explanation_of(np.zeros((1, 1)), label)))
        for label in ("Käfer", "K\u1e0bfer", "Kafer")
    ]
    assert (pages[0] != pages[1]).any(), "a letter that is absent would be drawn as a box"
    assert (pages[0] != pages[2]).any()


def test_photo_is_not_replaced_by_a_picture(app: Path, tmp_path: Path) -> None:
    for name in ("a.png", "a.png.png"):
        Image.new("RGB", (60, 20), "red").save(tmp_path / name)
    before = (tmp_path / "a.png.png").read_bytes()
    error = error_of("predict", app, tmp_path, "--explain", tmp_path, "--overwrite")
    assert error.endswith("a.png.png: is what the result is made from; choose another name")
    assert (tmp_path / "a.png.png").read_bytes() == before


def test_standard_input_is_refused(app: Path, tmp_path: Path) -> None:
    done = run_command("predict", app, "-", "--explain", tmp_path / "new", exit_code=2)
    assert "--explain is for files" in done.stderr
    assert not (tmp_path / "new").exists()
