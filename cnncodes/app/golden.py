"""Images with the answers of an app: whoever runs it in another program checks that one by them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnncodes.app.classifier import Classifier
from cnncodes.app.prediction import LabelPrediction
from cnncodes.files import sha256_of
from cnncodes.output import check_folder, filled_folder, replacing

ANSWERS = "golden.json"
# Height and width by the input size. Below 4 S all decoders have to give the same pixels: from
# there on cnncodes may shrink an image before it is resized.
SIZES = {"large.png": (1.7, 2.9), "small.png": (0.6, 0.8), "exact.png": (1, 1)}


def draw_image(number: int, height: int, width: int) -> NDArray[np.uint8]:
    """Draw an image with smooth and sharp parts, the same each time.

    Parameters
    ----------
    number : int
        Which one: colours and shapes are drawn with this seed.
    height, width : int
        Its size.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)
        RGB.
    """
    generator = np.random.default_rng(number)
    y, x = np.mgrid[:height, :width] / [[[height]], [[width]]]
    image = np.full((height, width, 3), generator.uniform(0, 255, 3))
    for _ in range(6):  # waves, then discs
        across, down, phase = generator.uniform(-9, 9, 3)
        image += np.sin(across * x + down * y + phase)[..., None] * generator.uniform(-50, 50, 3)
    for _ in range(4):
        across, down, radius = generator.uniform((0, 0, 0.05), (1, 1, 0.3))
        image[(x - across) ** 2 + (y - down) ** 2 < radius**2] = generator.uniform(0, 255, 3)
    image += generator.normal(0, 6, image.shape)
    return image.clip(0, 255).astype(np.uint8)


def check_golden(folder: Path, *, overwrite: bool, inputs: Iterable[Path]) -> None:
    """Check that `write_golden` can write.

    Raises
    ------
    OutputError
        The path is no folder, or a file in it exists and `overwrite` is false.
    """
    names = (*SIZES, ANSWERS)
    check_folder(folder, names, purpose="the golden images", overwrite=overwrite, inputs=inputs)


def write_golden(app: Path, folder: Path, *, overwrite: bool) -> None:
    """Write three images and what an app answers for them.

    Parameters
    ----------
    app : Path
        The app.
    folder : Path
        Where to write; created if absent.
    overwrite : bool
        Whether files in it may be replaced.

    Raises
    ------
    OutputError
        They cannot be written; the folder is then as before.
    """
    classifier = Classifier(app)
    size = classifier.input_size
    with filled_folder(folder), ExitStack() as files:
        written = []
        for number, (name, factors) in enumerate(SIZES.items()):
            file = files.enter_context(replacing(folder / name, overwrite=overwrite))
            height, width = (round(factor * size) for factor in factors)
            Image.fromarray(draw_image(number, height, width)).save(file, "PNG")
            predictions = classifier.predict(file)
            several = [each for each in predictions if isinstance(each, LabelPrediction)]
            probabilities = {each.label: each.probability for each in predictions}
            unknown = predictions[0].unknown
            written.append(
                {
                    "path": name,
                    "sha256": sha256_of(file),
                    "height": height,
                    "width": width,
                    "label": next(iter(probabilities)),
                    **(
                        {"has": [each.label for each in several if each.is_present]}
                        if several
                        else {}
                    ),
                    "probabilities": [probabilities[label] for label in classifier.labels],
                    **({} if unknown is None else {"unknown": unknown}),
                }
            )
        answers = {
            "format": "1",
            "kind": "golden",
            "app": app.name,
            "app_sha256": sha256_of(app),
            "labels": classifier.labels,
            "images": written,
        }
        text = json.dumps(answers, indent=2) + "\n"
        last = files.enter_context(replacing(folder / ANSWERS, overwrite=overwrite))
        last.write_text(text, "utf-8")
