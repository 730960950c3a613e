"""An app with golden images: what each example answers for them is compared with the app's answers.

Photographs that are turned, transparent or grey are compared with `Classifier`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnncodes import Classifier
from tests.e2e.test_environments import ROOT
from tests.helpers import run_command

EXAMPLES = ROOT / "examples"


@dataclass(frozen=True)
class Golden:
    """An app, and for each image the probabilities of its classes."""

    app: Path
    images: dict[Path, dict[str, float]]

    def check(self, answers: Mapping[Path, Mapping[str, float]], tolerance: float) -> None:
        """Compare all answers of an example, of which the first of each image is its label."""
        assert answers.keys() == self.images.keys()
        for path, expected in self.images.items():
            assert answers[path] == pytest.approx(expected, abs=tolerance), path
            assert next(iter(answers[path])) == max(expected, key=expected.__getitem__), path


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory, small_backbone: Path, head: Path) -> Golden:
    """The images that ``bundle --golden`` writes beside an app."""
    folder = tmp_path_factory.mktemp("golden")
    app = folder / "app.onnx"
    run_command("bundle", small_backbone, head, "-o", app, "--golden", folder / "images")
    written = json.loads((folder / "images" / "golden.json").read_text("utf-8"))
    images = {
        folder / "images" / each["path"]: dict(
            zip(written["labels"], each["probabilities"], strict=True)
        )
        for each in written["images"]
    }
    assert len(images) == 3
    return Golden(app, images)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory, golden: Golden) -> Golden:
    """The same app with images that have to be turned or laid on white."""
    folder = tmp_path_factory.mktemp("photographs")
    large = max(golden.images, key=lambda path: path.stat().st_size)
    with Image.open(large) as image:
        photo = image.convert("RGB")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        photo.save(folder / f"turned{orientation}.jpg", exif=exif, quality=95, subsampling=0)
    photo.convert("L").save(folder / "grey.png")
    photo.quantize(16).save(folder / "index.png", transparency=3)
    masked = photo.copy()
    masked.putalpha(Image.linear_gradient("L").resize(photo.size))
    masked.save(folder / "masked.png")
    classifier = Classifier(golden.app)
    return Golden(
        golden.app,
        {
            path: {each.label: each.probability for each in classifier.predict(path)}
            for path in sorted(folder.iterdir())
        },
    )


@pytest.fixture(scope="session")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey of 16 bits, with the values that 12 bits have."""
    path = tmp_path_factory.mktemp("deep") / "deep.png"
    values = np.random.default_rng(0).integers(0, 4096, (90, 120), dtype=np.uint16)
    Image.fromarray(values).save(path)
    return path


def skip_without(what: str, *, there: bool) -> None:
    """Skip where something is not installed, but not in CI, where ``.ci/run`` installs it."""
    if not there:
        assert not os.environ.get("CI"), f"{what} is not installed"
        pytest.skip(f"{what} is not installed")
