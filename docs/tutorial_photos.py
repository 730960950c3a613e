"""Write the photographs of docs/tutorial.md: stand-ins for those of your phone.

Usage: python docs/tutorial_photos.py FOLDER    (needs scikit-image)

The pictures that scikit-image and scikit-learn bring along are cut into small, turned and
differently lit sections, a folder for each picture. Sections of one picture overlap, so a
classifier finds them easier than photographs taken one by one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import skimage
import sklearn.datasets
from PIL import Image, ImageEnhance

PICTURES = {
    "brick": skimage.data.brick,
    "cat": skimage.data.chelsea,
    "coffee": skimage.data.coffee,
    "coins": skimage.data.coins,
    "flower": lambda: sklearn.datasets.load_sample_image("flower.jpg"),
    "grass": skimage.data.grass,
    "gravel": skimage.data.gravel,
    "temple": lambda: sklearn.datasets.load_sample_image("china.jpg"),
}
N_SECTIONS = 24  # of each picture
N_NEW = 1  # in the folder new, as photographs to come
SIZES = (60, 120)  # pixels of a section's side, before it is enlarged
MIN_CONTRAST = 25  # standard deviation of grey, of 255; less is sky or a dark background
SIDE = 320  # pixels of a photograph's side


def section(picture: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Return a random section of a picture, turned, lit differently and enlarged."""
    while True:
        size = int(generator.integers(*SIZES))
        left = int(generator.integers(0, picture.width - size))
        top = int(generator.integers(0, picture.height - size))
        cut = picture.crop((left, top, left + size, top + size))
        if np.std(np.asarray(cut.convert("L"))) >= MIN_CONTRAST:
            break
    turned = cut.rotate(float(generator.choice([0, 90, 180, 270])))
    lit = ImageEnhance.Brightness(turned).enhance(generator.uniform(0.5, 1.4))
    return lit.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def main(folder: Path) -> None:
    """Write all photographs below `folder`: ``photos`` in class folders, and ``new``."""
    generator = np.random.default_rng(0)
    number = 0
    for label, load in PICTURES.items():
        picture = Image.fromarray(load()).convert("RGB")
        for index in range(N_SECTIONS + N_NEW):
            number += 1
            where = folder / "photos" / label if index < N_SECTIONS else folder / "new"
            where.mkdir(parents=True, exist_ok=True)
            section(picture, generator).save(where / f"IMG_{number:04}.jpg", quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
