"""How many edited copies `cnncodes overlap` finds, and how long it takes.

Usage: python benchmarks/overlap.py PHOTOGRAPHS… [--seed 1] [--write]

1,600 parts of the photographs in these folders, and of those of scikit-learn and scikit-image, do
not overlap and have some detail; 400 copies of them, each edited in one of seven ways, are
planted among them. A pair that was not planted counts as wrong, though some photographs hold
parts that look alike. With ``--backbone`` the same images are compared by its codes, too. Then
two codes files of random codes of the size of Caltech-101 are compared. ``--write`` puts the
result into docs/pollution.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import skimage
import sklearn
from numpy.typing import NDArray
from page import cnncodes, machine, peak_megabytes, run_apart, table, write_section
from PIL import Image, ImageEnhance, ImageOps

from cnncodes.extract.store import CodeStore
from cnncodes.extract.writing import CodesInfo, Rows, compress, write_codes
from cnncodes.images.folders import images_below
from cnncodes.models.metadata import BackboneInfo
from cnncodes.overlap.overlap import find_overlap

N_IMAGES, N_COPIES = 1600, 400
PART = (160, 120)  # pixels
TWIN = "motorcycle_right.png"  # scikit-image has it from the left, too
MOST_PARTS = 400  # of one photograph
CONTRAST, DETAIL = 12, 3  # standard deviation, and mean difference of neighbours, in grey levels
DOCUMENT = Path(__file__).parent.parent / "docs" / "pollution.md"
N_CODES, CODE_SHAPE = 9144, (5, 5, 2048)
Edit = Callable[[Image.Image, np.random.Generator], Image.Image]


def crop(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Cut a tenth off the width and the height, at random sides."""
    width, height = (round(0.9 * size) for size in image.size)
    x, y = random.integers(image.width - width + 1), random.integers(image.height - height + 1)
    return image.crop((int(x), int(y), int(x) + width, int(y) + height))


def relight(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Change brightness and contrast by 30 % each, up or down."""
    brightness, contrast = random.choice([0.7, 1.3], 2)
    return ImageEnhance.Contrast(ImageEnhance.Brightness(image).enhance(brightness)).enhance(
        contrast
    )


def add_border(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Add a border of black, white or grey, 8 % of the height."""
    colour = int(random.choice([0, 255, 120]))
    return ImageOps.expand(image, round(0.08 * image.height), (colour,) * 3)


EDITS: dict[str, Edit] = {
    "resized to a third": lambda image, _: image.resize((image.width // 3, image.height // 3)),
    "recompressed at quality 30": lambda image, _: image,
    "cropped by 10 %": crop,
    "brightness and contrast ± 30 %": relight,
    "mirrored": lambda image, _: ImageOps.mirror(image),
    "bordered": add_border,
    "grey": lambda image, _: image.convert("L"),
}


def parts_of(folders: list[Path], random: np.random.Generator) -> Iterator[Image.Image]:
    """Yield parts of photographs that have some detail."""
    width, height = PART
    for path in [each for folder in folders for each in images_below(folder)]:
        if path.suffix not in (".jpg", ".png") or path.name == TWIN:
            continue
        with Image.open(path) as opened:
            photo = opened.convert("RGB")
        columns, rows = photo.width // width, photo.height // height
        n_parts = 0
        for cell in random.permutation(columns * rows).tolist():
            x, y = cell % columns * width, cell // columns * height
            part = photo.crop((x, y, x + width, y + height))
            grey = np.asarray(part.convert("L").resize((48, 36)), float)
            if grey.std() >= CONTRAST and np.abs(np.diff(grey)).mean() >= DETAIL:
                yield part
                n_parts += 1
            if n_parts == MOST_PARTS:
                break


def plant(folders: list[Path], target: Path, seed: int) -> dict[tuple[str, str], str]:
    """Write the images and their copies; return the kind of each pair."""
    random = np.random.default_rng(seed)
    parts = list(parts_of(folders, random))
    if len(parts) < N_IMAGES:
        raise SystemExit(f"{len(parts)} parts with some detail are too few; add photographs")
    for number, index in enumerate(random.permutation(len(parts))[:N_IMAGES].tolist()):
        parts[index].save(target / f"{number:04}.jpg", quality=92)
    kinds = {}
    for index, number in enumerate(random.permutation(N_IMAGES)[:N_COPIES].tolist()):
        kind = list(EDITS)[index % len(EDITS)]
        original, copy = f"{number:04}.jpg", f"copy{index:03}.jpg"
        with Image.open(target / original) as image:
            edited = EDITS[kind](image.convert("RGB"), random)
        edited.save(target / copy, quality=30 if "30" in kind and "quality" in kind else 90)
        kinds[original, copy] = kind
    return kinds


def measure(source: Path, kinds: dict[tuple[str, str], str]) -> dict[str, str]:
    """Return recall of each kind, and recall and precision of all."""
    started = time.monotonic()
    overlap = find_overlap(source)
    seconds = time.monotonic() - started
    paths = overlap.a.paths
    pairs = {(paths[each.a], paths[each.b]) for each in overlap.pairs}
    result = {}
    for kind in EDITS:
        planted = {pair for pair, each in kinds.items() if each == kind}
        result[kind] = f"{len(planted & pairs) / len(planted):.3f}"
    n_right = len(pairs & kinds.keys())
    result["all: recall"] = f"{n_right / len(kinds):.3f}"
    result["all: precision"] = f"{n_right / len(pairs):.3f}"
    sys.stderr.write(f"{source}: {seconds:.1f} s\n")
    return result


def write_random_codes(path: Path, seed: int) -> None:
    """Write a codes file whose codes are mostly zeros, as a network's are."""
    random = np.random.default_rng(seed)
    info = CodesInfo(
        BackboneInfo("inception_v3", "random:0", 224, "mixed10", "none", "float32", 0, "", ""),
        "ab" * 32,
        CODE_SHAPE,
        "float16",
        "photos",
        (),
        10**8,
    )

    def batches() -> Iterator[Rows]:
        for row in range(N_CODES):
            codes: NDArray[np.float32] = np.maximum(random.standard_normal(CODE_SHAPE, "f4"), 0)
            chunk = compress(codes.astype(np.float16).tobytes())
            digest = f"{seed * N_CODES + row:064x}"
            yield Rows([chunk], [-1], [f"{row}.jpg"], [digest])

    write_codes(path, info, batches(), N_CODES)


def compare_codes(one: Path, two: Path) -> dict[str, float]:
    """Compare two codes files; run in a process of its own for its memory."""
    started = time.monotonic()
    find_overlap(one, two)
    return {"seconds": time.monotonic() - started, "megabytes": peak_megabytes()}


def main() -> None:
    """Measure, and print or write the section."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--backbone", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--codes", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.codes:
        sys.stdout.write(json.dumps(compare_codes(*options.codes)) + "\n")
        return
    own = Path(sklearn.__file__).parent / "datasets" / "images"
    folders = [*options.folders, own, Path(skimage.__file__).parent / "data"]
    with tempfile.TemporaryDirectory() as name:
        images = Path(name) / "images"
        images.mkdir()
        kinds = plant(folders, images, options.seed)
        columns = {"by pixels": measure(images, kinds)}
        if options.backbone:
            codes = Path(name) / "codes.h5"
            cnncodes("extract", options.backbone, images, "-o", codes)
            with CodeStore.open(codes) as store:
                network = store.backbone.backbone
            columns[f"by codes of {network}"] = measure(codes, kinds)
        files = [Path(name) / f"{seed}.h5" for seed in (0, 1)]
        for seed, path in enumerate(files):
            write_random_codes(path, seed)
        cost = run_apart(__file__, "--codes", *files)
    rows = [[kind, *(each[kind] for each in columns.values())] for kind in columns["by pixels"]]
    text = table(["copies", *columns], rows)
    text += (
        f"\n{N_CODES:,} × {N_CODES:,} images by codes of shape {CODE_SHAPE}, float16: "
        f"{cost['seconds']:.0f} s and {cost['megabytes']:.0f} MB.\n\n"
        f"{machine(['numpy', 'pillow', 'scipy'])}\n"
    )
    sys.stdout.write(text)
    if options.write:
        write_section("overlap", text, DOCUMENT)


if __name__ == "__main__":
    main()
