"""What int8 costs: codes and heads of quantized networks beside those in float32.

Usage: python benchmarks/quality.py SOURCE FLOAT32.onnx[=INT8.onnx] … [--codes FILE …] [--write]

SOURCE is a labelled source of images, as ``cnncodes extract`` takes it. Where no INT8.onnx is
given, ``cnncodes quantize`` makes it from images drawn from the source. ``--codes`` names codes
files that are there already; which network made them stands in them. Images are matched by their
digests, and those used for calibration count nowhere: ``--calibration`` says which they were.
``--write`` puts the result into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from page import cnncodes, machine, table, weights_told, write_section

from cnncodes.extract.backbone import Backbone
from cnncodes.extract.store import CodeStore
from cnncodes.head.groups import groups_of
from cnncodes.head.logistic.fit import fit_logistic
from cnncodes.head.rows import CodeRows
from cnncodes.head.split import split_by_class
from cnncodes.images.folders import images_below
from cnncodes.images.sources import find_images

N_CALIBRATION = 128
TRAIN_FRACTION = 0.75
LEAST_COSINE = 0.992
LEAST_DIFFERENCE = -0.3  # points of accuracy


@dataclass(frozen=True)
class Images:
    """The images of which there are codes of both precisions.

    Attributes
    ----------
    rows : tuple of two ndarray of intp, shape (n_images,)
        Their places in the float32 and in the int8 file.
    y : ndarray of int32, shape (n_images,)
        Their classes.
    """

    rows: tuple[NDArray[np.intp], NDArray[np.intp]]
    y: NDArray[np.int32]


def match(stores: tuple[CodeStore, CodeStore], left_out: set[str]) -> Images:
    """Match the labelled images of two codes files by digest, without those left out."""
    first, second = ({digest: row for row, digest in enumerate(each.digests)} for each in stores)
    labels = stores[0].labels
    shared = [
        (row, second[digest])
        for digest, row in first.items()
        if digest in second and digest not in left_out and labels[row] >= 0
    ]
    rows = np.array(shared, np.intp).reshape(-1, 2)
    return Images((rows[:, 0], rows[:, 1]), labels[rows[:, 0]])


def compare(stores: tuple[CodeStore, CodeStore], images: Images) -> str:
    """Lay out how far the codes differ."""
    found = []
    readers = [CodeRows(each, np.arange(len(each))) for each in stores]
    for start in range(0, len(images.y), 256):
        block = slice(start, start + 256)
        one, other = (
            reader.pick(rows[block]) for reader, rows in zip(readers, images.rows, strict=True)
        )
        lengths = np.linalg.norm(one, axis=1)
        cosines = (one * other).sum(axis=1) / lengths / np.linalg.norm(other, axis=1)
        found.append(np.stack([cosines, np.linalg.norm(one - other, axis=1) / lengths]))
    cosine, error = np.concatenate(found, axis=1)
    row = [
        *(len(cosine), f"{cosine.mean():.4f}", f"≥ {LEAST_COSINE}"),
        *(f"{np.percentile(cosine, 5):.4f}", f"{cosine.min():.4f}", f"{error.mean():.1%}"),
    ]
    header = ["images", "mean cosine", "aimed at", "5th percentile", "least", "mean relative error"]
    return table(header, [row])


def accuracy(store: CodeStore, rows: NDArray[np.intp], y: NDArray[np.int32], seed: int) -> float:
    """Train a logistic head on 75 % of each class, C chosen, and test it on the rest."""
    groups = groups_of(store)[rows]
    parts = split_by_class(y, TRAIN_FRACTION, seed=seed, groups=groups)
    train, test = (part[np.argsort(rows[part])] for part in (parts.train, parts.test))
    weights, bias, _ = fit_logistic(
        CodeRows(store, rows[train]), y[train], C="auto", seed=seed, groups=groups[train]
    )
    n_right = sum(
        int(((X @ weights + bias).argmax(axis=1) == y[test][places]).sum())
        for places, X in CodeRows(store, rows[test]).blocks()
    )
    return n_right / len(test)


def compare_heads(stores: tuple[CodeStore, CodeStore], images: Images, n_splits: int) -> str:
    """Lay out the accuracies of heads on both kinds of codes, split by split."""
    y = np.unique(images.y, return_inverse=True)[1].astype(np.int32)
    found = []
    for seed in range(n_splits):
        pair = [
            accuracy(store, rows, y, seed) for store, rows in zip(stores, images.rows, strict=True)
        ]
        found.append(pair)
        sys.stderr.write(f"split {seed}: float32 {pair[0]:.2%}, int8 {pair[1]:.2%}\n")
    found.append([float(each) for each in np.mean(found, axis=0)])
    names = [str(seed) for seed in range(n_splits)] + ["mean"]
    rows = [
        [name, f"{one:.2%}", f"{other:.2%}", f"{100 * (other - one):+.2f} points"]
        for name, (one, other) in zip(names, found, strict=True)
    ]
    rows[-1][-1] += f" (aimed at: ≥ {LEAST_DIFFERENCE:+.1f})"
    return table(["split", "float32", "int8", "difference"], rows)


def draw_calibration(source: Path, folder: Path) -> None:
    """Copy images drawn from the source, if the folder is not there yet."""
    if folder.exists():
        return
    folder.mkdir(parents=True)
    files = find_images(source).files()
    drawn = np.random.default_rng(0).permutation(len(files))[:N_CALIBRATION]
    for number, place in enumerate(drawn):
        shutil.copy(files[place], folder / f"{number:04}{files[place].suffix}")


def codes_of(backbone: Path, source: Path, known: Sequence[Path], folder: Path) -> Path:
    """Return the codes file of a network among those known, or extract one."""
    digest = Backbone(backbone).sha256
    for path in known:
        with CodeStore.open(path) as store:
            if store.backbone_sha256 == digest:
                return path
    path = folder / f"{backbone.stem}-{digest[:12]}.h5"
    if not path.exists():
        cnncodes("extract", backbone, source, "-o", path)
    return path


def main() -> None:
    """Compare each pair of networks and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path, help="folder of class folders, or CSV file")
    parser.add_argument("networks", nargs="+", help="FLOAT32.onnx or FLOAT32.onnx=INT8.onnx")
    parser.add_argument("--codes", type=Path, nargs="+", default=[], help="codes files to use")
    parser.add_argument("--calibration", type=Path, help="images that int8 was calibrated on")
    parser.add_argument("--splits", type=int, default=5, help="splits into training and test")
    parser.add_argument("--folder", type=Path, help="where files are made, and found again")
    parser.add_argument("--write", action="store_true", help="put it into docs/benchmarks.md")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    calibration = options.calibration or folder / "calibration"
    draw_calibration(options.source, calibration)
    left_out = {hashlib.sha256(path.read_bytes()).hexdigest() for path in images_below(calibration)}
    parts = [f"Machine: {machine(['numpy', 'onnxruntime', 'scikit-learn'])}.\n"]
    for pair in options.networks:
        float32, _, int8 = pair.partition("=")
        quantized = Path(int8) if int8 else folder / f"{Path(float32).stem}.int8.onnx"
        if not quantized.exists():
            cnncodes("quantize", float32, "--images", calibration, "-o", quantized)
        files = [
            codes_of(backbone, options.source, options.codes, folder)
            for backbone in (Path(float32), quantized)
        ]
        with CodeStore.open(files[0]) as one, CodeStore.open(files[1]) as other:
            images = match((one, other), left_out)
            told = compare((one, other), images)
            sys.stderr.write(told)
            heads = compare_heads((one, other), images, options.splits)
            info = one.backbone
            parts.append(
                f"**{info.backbone}**, {weights_told(info.weights)} weights.\n\n{told}\n{heads}"
            )
    text = "\n".join(parts)
    sys.stdout.write(text)
    if options.write:
        write_section("quality", text)


if __name__ == "__main__":
    main()
