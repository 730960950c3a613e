"""A folder of images and another one with edited copies of some of them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_images

EDITS = {
    "third": lambda image: image.resize((image.width // 3, image.height // 3)),
    "quality30": lambda image: image,
    "cropped": lambda image: image.crop((3, 9, 3 + 144, 9 + 108)),
    "dark": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.3),
    "mirrored": ImageOps.mirror,
    "bordered": lambda image: ImageOps.expand(image, 10, fill="white"),
    "grey": lambda image: image.convert("L"),
}


def scenes():
    """Different parts of two photographs."""
    return [
        Image.fromarray(photo[y : y + 120, x : x + 160])
        for photo in load_sample_images().images
        for y in (60, 180, 300)
        for x in (0, 160, 320, 480)
    ]


@pytest.fixture
def originals(tmp_path):
    folder = tmp_path / "originals"
    folder.mkdir()
    for number, scene in enumerate(scenes()):
        scene.save(folder / f"{number:02}.png")
    return folder


@pytest.fixture
def copies(tmp_path, originals):
    """Of every second image an edited copy, one equal file and one image of noise."""
    folder = tmp_path / "copies"
    folder.mkdir()
    for number, (name, edit) in enumerate(EDITS.items()):
        with Image.open(originals / f"{2 * number:02}.png") as image:
            quality = 30 if name == "quality30" else 90
            edit(image.convert("RGB")).save(folder / f"{name}.jpg", quality=quality)
    (folder / "equal.png").write_bytes((originals / "23.png").read_bytes())
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(noise).resize((160, 120)).save(folder / "other.png")
    return folder
