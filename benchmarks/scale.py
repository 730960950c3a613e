"""Training on many codes: time per image and memory of SGD, over several files.

Usage: python benchmarks/scale.py [--sizes N ...] [--shape H W C] [--estimator NAME] [--write]

The codes are synthetic: 99 % of the numbers are zero, so that 400,000 images of 5 × 5 × 2048
numbers take a gigabyte; 2,048 different rows of 10 classes are repeated under other names. The
images are spread over eight files, which are stacked. Each training runs in a process of its own,
from the files to the head: one epoch of SGD, and the scores of the training and the test part.
Peak memory is that of the whole process, Python and libraries included; pages of the files that
the system keeps in memory do not count. ``--write`` puts the result into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from page import machine, peak_megabytes, run_apart, table, write_section

SIZES, CODE_SHAPE = (20_000, 100_000, 400_000), (5, 5, 2048)
N_FILES, N_CLASSES, N_ROWS = 8, 10, 2048
DENSITY = 0.01  # share of numbers that are not zero
BATCH = 1000


def write_parts(folder: Path, n_images: int, code_shape: tuple[int, ...]) -> list[Path]:
    """Write the codes of some images into several files."""
    from cnncodes.extract.writing import CodesInfo, Rows, compress, write_codes
    from cnncodes.models.metadata import BackboneInfo

    network = ("inception_v3", "random:0", 224, "mixed10", "none", "float32", 0.0, "none", "-")
    info = CodesInfo(
        backbone=BackboneInfo(*network),
        backbone_sha256="0" * 64,
        code_shape=code_shape,
        dtype="float16",
        source="synthetic",
        class_names=tuple(f"class {number}" for number in range(N_CLASSES)),
        max_pixels=1,
    )
    generator = np.random.default_rng(0)
    n_features = int(np.prod(code_shape))
    n_filled = max(1, round(DENSITY * n_features))
    centres = [generator.permutation(n_features)[: 4 * n_filled] for _ in range(N_CLASSES)]
    chunks = []
    for row in range(N_ROWS):
        codes = np.zeros(n_features, np.float16)
        filled = generator.choice(centres[row % N_CLASSES], n_filled, replace=False)
        codes[filled] = generator.exponential(size=n_filled)
        chunks.append(compress(codes.tobytes()))

    def batches(start: int, stop: int) -> Iterator[Rows]:
        for first in range(start, stop, BATCH):
            images = range(first, min(first + BATCH, stop))
            yield Rows(
                chunks=[chunks[image % N_ROWS] for image in images],
                labels=[image % N_ROWS % N_CLASSES for image in images],
                paths=[f"class {image % N_ROWS % N_CLASSES}/{image:08}.jpg" for image in images],
                digests=[f"{image * 0x9E3779B97F4A7C15 % 2**64:016x}" * 4 for image in images],
            )

    edges = np.linspace(0, n_images, N_FILES + 1).round().astype(int).tolist()
    files = [folder / f"part{number}.h5" for number in range(N_FILES)]
    for file, start, stop in zip(files, edges, edges[1:], strict=False):
        write_codes(file, info, batches(start, stop), stop - start)
    return files


def train(folder: Path, estimator: str) -> dict[str, float]:
    """Train a head on all files of a folder, and measure it."""
    from cnncodes.head.train import train_head
    from cnncodes.machine import give_memory_back

    give_memory_back()  # as the command line does
    files = sorted(folder.glob("*.h5"))
    sgd = {"sgd": {"epochs": 1}} if estimator == "sgd" else {"C": 1.0}
    started = time.monotonic(), time.process_time()
    training = train_head(files, folder / "head.onnx", estimator=estimator, overwrite=True, **sgd)
    return {
        "seconds": time.monotonic() - started[0],
        "cpu": time.process_time() - started[1],
        "memory": peak_megabytes(),
        "accuracy": training.test.accuracy or 0.0,
    }


def main() -> None:
    """Measure each number of images, and print a table of ratios to the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--shape", type=int, nargs="+", default=CODE_SHAPE)
    parser.add_argument("--estimator", default="sgd")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train is not None:
        sys.stdout.write(json.dumps(train(options.train, options.estimator)) + "\n")
        return
    runs = []
    for n_images in options.sizes:
        with tempfile.TemporaryDirectory() as name:
            files = write_parts(Path(name), n_images, tuple(options.shape))
            n_bytes = sum(file.stat().st_size for file in files)
            words = ("--train", name, "--estimator", options.estimator)
            runs.append(run_apart(__file__, *words) | {"images": n_images, "disk": n_bytes / 1e6})
        sys.stderr.write(json.dumps(runs[-1]) + "\n")
    first = runs[0]
    rows = [
        (
            f"{run['images']:,}",
            f"{run['disk']:,.0f} MB",
            f"{run['images'] / run['seconds']:,.0f}",
            f"{run['images'] / run['cpu']:,.0f}",
            f"{run['images'] / run['cpu'] / (first['images'] / first['cpu']):.2f} ×",
            f"{run['memory']:,.0f} MB",
            f"{run['memory'] / first['memory']:.2f} ×",
        )
        for run in runs
    ]
    header = ("images", "on disk", "images/s", "images per CPU second", "ratio", "memory", "ratio")
    shape = " × ".join(map(str, options.shape))
    text = f"Machine: {machine(['numpy', 'h5py', 'scikit-learn'])}. Codes of {shape}.\n\n"
    text += table(header, rows)
    sys.stdout.write(text)
    if options.write:
        write_section("scale", text)


if __name__ == "__main__":
    main()
