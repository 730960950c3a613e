"""What int8 costs: codes and heads of quantized networks beside those in float32.

Usage: python benchmarks/quality.py SOURCE FLOAT32.onnx[=INT8.onnx] … [--codes FILE …] [--write]

SOURCE is a labelled source of images, as ``cnncodes extract`` takes it. Where no INT8.onnx is
given, ``cnncodes quantize`` makes it from images drawn from the source. ``--codes`` names codes
files that are there already; which network made them stands in them. Images are matched by their
digests, and those used for calibration count nowhere: ``--calibration`` says which they were.
``--parts quantizers`` compares `quantize` with onnxruntime's own ``quantize_static`` alone.
``--write`` puts the result into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from page import cnncodes, machine, table, weights_text, write_section

from cnncodes.export.graph import Graph
from cnncodes.export.winograd import restore_convolutions
from cnncodes.extract.backbone import Backbone
from cnncodes.extract.store import CodeStore
from cnncodes.head.groups import groups_of
from cnncodes.head.logistic.fit import fit_logistic
from cnncodes.head.rows import CodeRows
from cnncodes.head.split import split_by_class
from cnncodes.images.decoding import load_images
from cnncodes.images.folders import images_below
from cnncodes.images.limits import DEFAULT_MAX_PIXELS
from cnncodes.images.sources import find_images
from cnncodes.machine import available_threads
from cnncodes.models.session import kernels_saturate
from cnncodes.quantize.quantize import compare_codes

N_CALIBRATION = 128
TRAIN_FRACTION = 0.75
LEAST_COSINE = 0.992
LEAST_DIFFERENCE = -0.3  # points of accuracy
N_COMPARED = 256  # images on which quantizers are compared
BATCH_SIZE, ROUNDS = 4, 25
# quantize_static's ways to choose ranges, and how many images each can hold in 24 GB
CALIBRATION_METHODS = {
    "minimum to maximum": (CalibrationMethod.MinMax, 128),
    "percentile": (CalibrationMethod.Percentile, 32),
    "entropy": (CalibrationMethod.Entropy, 32),
}


@dataclass(frozen=True)
class Images:
    """The images of which there are codes of both precisions.

    Attributes
    ----------
    rows : tuple of two ndarray of intp, shape (n_images,)
        Their rows in the float32 and in the int8 file.
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
    blocks = []
    readers = [CodeRows(each, np.arange(len(each))) for each in stores]
    for start in range(0, len(images.y), 256):
        block = slice(start, start + 256)
        one, other = (
            reader.pick(rows[block]) for reader, rows in zip(readers, images.rows, strict=True)
        )
        lengths = np.linalg.norm(one, axis=1)
        cosines = (one * other).sum(axis=1) / lengths / np.linalg.norm(other, axis=1)
        blocks.append(np.stack([cosines, np.linalg.norm(one - other, axis=1) / lengths]))
    cosine, error = np.concatenate(blocks, axis=1)
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
        int(((X @ weights + bias).argmax(axis=1) == y[test][index]).sum())
        for index, X in CodeRows(store, rows[test]).blocks()
    )
    return n_right / len(test)


def compare_heads(stores: tuple[CodeStore, CodeStore], images: Images, n_splits: int) -> str:
    """Lay out the accuracies of heads on both kinds of codes, split by split."""
    y = np.unique(images.y, return_inverse=True)[1].astype(np.int32)
    accuracies = []
    for seed in range(n_splits):
        pair = [
            accuracy(store, rows, y, seed) for store, rows in zip(stores, images.rows, strict=True)
        ]
        accuracies.append(pair)
        sys.stderr.write(f"split {seed}: float32 {pair[0]:.2%}, int8 {pair[1]:.2%}\n")
    accuracies.append([float(each) for each in np.mean(accuracies, axis=0)])
    names = [str(seed) for seed in range(n_splits)] + ["mean"]
    rows = [
        [name, f"{one:.2%}", f"{other:.2%}", f"{100 * (other - one):+.2f} points"]
        for name, (one, other) in zip(names, accuracies, strict=True)
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
    for number, index in enumerate(drawn):
        shutil.copy(files[index], folder / f"{number:04}{files[index].suffix}")


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


class Batches(CalibrationDataReader):  # type: ignore[misc]
    """Calibration images, one at a time, as ``quantize_static`` reads them."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """Return the next image, or None at the end."""
        image = next(self._images, None)
        return None if image is None else {"images": image[None]}


def pixels_of(paths: Sequence[Path], size: int) -> NDArray[np.uint8]:
    """Load images as a network takes them: (n_images, size, size, 3), RGB."""
    loaded = load_images(paths, size, threads=2, ahead=4, max_pixels=DEFAULT_MAX_PIXELS)
    return np.stack([each.pixels for each in loaded if each.pixels is not None])


def quantize_by_onnxruntime(
    backbone: Path, images: NDArray[np.uint8], output: Path, method: CalibrationMethod
) -> None:
    """Quantize with ``quantize_static`` as its documentation advises for CNNs on x86.

    QDQ, activations uint8, weights int8 per channel, in 7 bits where the processor saturates. Its
    own preprocessing fuses and infers shapes before that. Winograd's convolutions, which it knows
    nothing of, are plain ones again.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared = (str(Path(folder) / f"{name}.onnx") for name in ("plain", "prepared"))
        graph = Graph.load(backbone)
        restore_convolutions(graph)
        onnx.save(graph.model(), plain)
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)  # all shapes are fixed
        quantize_static(
            prepared,
            str(output),
            Batches(images),
            calibrate_method=method,
            per_channel=True,
            reduce_range=kernels_saturate(),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def compare_quantizers(
    float32: Path, int8: Path, calibration: Path, paths: Sequence[Path], folder: Path
) -> str:
    """Lay out closeness to float32 codes and speed of two quantizers, calibrated alike."""
    size = Backbone(float32).info.input_size
    files = {"float32": float32, "`cnncodes quantize`": int8}
    pixels = pixels_of(images_below(calibration), size)
    for name, (method, n_images) in CALIBRATION_METHODS.items():
        output = folder / f"{float32.stem}.{name.replace(' ', '_')}.onnx"
        quantize_by_onnxruntime(float32, pixels[:n_images], output, method)
        files[f"`quantize_static`, {name}"] = output
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_threads()
    sessions = {
        name: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for name, path in files.items()
    }
    images = pixels_of(paths, size)
    starts = range(0, len(images), BATCH_SIZE)
    codes = {
        name: np.concatenate(
            [each.run(["codes"], {"images": images[i : i + BATCH_SIZE]})[0] for i in starts]
        )
        for name, each in sessions.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            started = time.perf_counter()
            session.run(["codes"], {"images": images[:BATCH_SIZE]})
            seconds[name].append(time.perf_counter() - started)
    rows = []
    for name, path in files.items():
        speed = median(a / b for a, b in zip(seconds["float32"], seconds[name], strict=True))
        near = compare_codes(codes["float32"], codes[name])
        rows.append(
            [
                *(name, f"{near.cosine:.4f}", f"{near.min_cosine:.4f}"),
                *(f"{near.relative_error:.1%}", f"{speed:.2f} ×"),
                f"{path.stat().st_size / 1e6:.1f} MB",
            ]
        )
    header = ["quantizer", "mean cosine", "least", "mean relative error", "speed", "file"]
    return table(header, rows)


def main() -> None:
    """Compare each pair of networks and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path, help="folder of class folders, or CSV file")
    parser.add_argument("networks", nargs="+", help="FLOAT32.onnx or FLOAT32.onnx=INT8.onnx")
    parser.add_argument("--codes", type=Path, nargs="+", default=[], help="codes files to use")
    parser.add_argument("--calibration", type=Path, help="images that int8 was calibrated on")
    parser.add_argument("--splits", type=int, default=5, help="splits into training and test")
    parser.add_argument("--folder", type=Path, help="where files are written, and reused")
    parser.add_argument("--parts", nargs="+", default=["heads", "quantizers"], metavar="PART")
    parser.add_argument("--write", action="store_true", help="put it into docs/benchmarks.md")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    calibration = options.calibration or folder / "calibration"
    draw_calibration(options.source, calibration)
    calibrated = images_below(calibration)
    left_out = {hashlib.sha256(path.read_bytes()).hexdigest() for path in calibrated}
    intro = f"Machine: {machine(['numpy', 'onnxruntime', 'scikit-learn'])}.\n"
    sections: dict[str, list[str]] = {part: [intro] for part in options.parts}
    paths = [
        path
        for path in find_images(options.source).files()
        if hashlib.sha256(path.read_bytes()).hexdigest() not in left_out
    ]
    drawn = np.random.default_rng(1).permutation(len(paths))[:N_COMPARED]
    for pair in options.networks:
        name, _, quantized = pair.partition("=")
        float32 = Path(name)
        int8 = Path(quantized or folder / f"{float32.stem}.int8.onnx")
        if not int8.exists():
            cnncodes("quantize", float32, "--images", calibration, "-o", int8)
        info = Backbone(float32).info
        title = f"**{info.backbone}**, {weights_text(info.weights)} weights.\n\n"
        if "quantizers" in sections:
            compared = compare_quantizers(
                float32, int8, calibration, [paths[row] for row in drawn], folder
            )
            sections["quantizers"].append(title + compared)
        if "heads" not in sections:
            continue
        stores = [codes_of(each, options.source, options.codes, folder) for each in (float32, int8)]
        with CodeStore.open(stores[0]) as one, CodeStore.open(stores[1]) as other:
            images = match((one, other), left_out)
            difference = compare((one, other), images)
            sys.stderr.write(difference)
            heads = compare_heads((one, other), images, options.splits)
        sections["heads"].append(f"{title}{difference}\n{heads}")
    for part, texts in sections.items():
        sys.stdout.write("\n".join(texts))
        if options.write:
            write_section({"heads": "quality"}.get(part, part), "\n".join(texts))


if __name__ == "__main__":
    main()
