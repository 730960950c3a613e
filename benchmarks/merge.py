"""How long `cnncodes merge` takes, against a copy of the same files, and its memory.

Usage: python benchmarks/merge.py [--images 100000] [--rounds 3] [--folder DIR] [--write]

The codes are synthetic, of 5 × 5 × 2,048 numbers in float16, of which as many are zero as in those
of InceptionV3. Merging and copying take turns, each in a process of its own, and both wait until
the disk has all of it. ``--write`` puts the result into docs/scale.md. It takes 4.5 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from page import machine, peak_megabytes, run_apart, write_section

from cnncodes.extract.merge import merge_codes
from cnncodes.extract.source_part import SourcePart
from cnncodes.extract.store import CodeStore
from cnncodes.extract.writing import CodesInfo, Rows, compress, write_codes
from cnncodes.models.metadata import BackboneInfo

SHAPE = (5, 5, 2048)
NONZERO = 0.15  # of the numbers: a chunk has 21 kB, as those of photographs by InceptionV3
N_DIFFERENT = 256
DOCUMENT = Path(__file__).parent.parent / "docs" / "scale.md"


def make_parts(folder: Path, n_images: int, n_parts: int) -> list[Path]:
    """Write the parts of a source."""
    random = np.random.default_rng(0)
    chunks = [
        compress(
            np.where(random.random(SHAPE) < NONZERO, random.random(SHAPE), 0)
            .astype(np.float16)
            .tobytes()
        )
        for _ in range(N_DIFFERENT)
    ]
    backbone = BackboneInfo(
        *("inception_v3", "random:0", 224, "mixed10", "none", "float32", 0.0, "none", "benchmark")
    )
    files = []
    for number in range(1, n_parts + 1):
        rows = range(n_images * (number - 1) // n_parts, n_images * number // n_parts)
        info = CodesInfo(
            backbone=backbone,
            backbone_sha256="ab" * 32,
            code_shape=SHAPE,
            dtype="float16",
            source="photos",
            class_names=tuple(f"class {label:03}" for label in range(100)),
            max_pixels=100_000_000,
            part=SourcePart(number, n_parts, "cd" * 32),
        )

        def batches(rows: range = rows) -> Iterator[Rows]:
            for row in rows:
                label = row * 100 // n_images
                path = f"class {label:03}/photograph {row:08}.jpg"
                yield Rows([chunks[row % N_DIFFERENT]], [label], [path], [f"{row:064x}"])

        files.append(folder / f"part-{number}.h5")
        write_codes(files[-1], info, batches(), len(rows))
    return files


def copy(files: list[Path], folder: Path) -> None:
    """Copy files, and wait for the disk."""
    for file in files:
        target = folder / f"copy-{file.name}"
        shutil.copyfile(file, target)
        with target.open("rb") as opened:
            os.fsync(opened.fileno())


def measure(action: str, files: list[Path], folder: Path) -> None:
    """Run one of the two in this process, and print seconds and peak memory."""
    with CodeStore.open(files[0]):  # imports are no part of the time
        pass
    os.sync()
    started = time.perf_counter()
    if action == "merge":
        merge_codes(files, folder / "merged.h5")
    else:
        copy(files, folder)
    seconds = time.perf_counter() - started
    for each in (*folder.glob("copy-*"), *folder.glob("merged.h5")):
        each.unlink()
    sys.stdout.write(json.dumps({"seconds": seconds, "megabytes": peak_megabytes()}) + "\n")


def main() -> None:
    """Measure, and print or write the section."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        action, *files = arguments.measure
        measure(action, list(map(Path, files)), Path(files[0]).parent)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        files = make_parts(Path(name), arguments.images, arguments.parts)
        gigabytes = sum(file.stat().st_size for file in files) / 1e9
        runs: dict[str, list[dict[str, float]]] = {"copy": [], "merge": []}
        for _ in range(arguments.rounds):
            for action, results in runs.items():
                results.append(run_apart(__file__, "--measure", action, *files))
                sys.stderr.write(f"{action}: {results[-1]}\n")
    seconds = {
        action: statistics.median(each["seconds"] for each in results)
        for action, results in runs.items()
    }
    ratios = sorted(
        merge["seconds"] / copy["seconds"]
        for merge, copy in zip(runs["merge"], runs["copy"], strict=True)
    )
    text = (
        f"Merging {arguments.parts} parts of {arguments.images:,} images together, "
        f"{gigabytes:.1f} GB, took {statistics.median(ratios):.2f} times as long as copying them "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f} in {arguments.rounds} rounds; "
        f"{seconds['merge']:.1f} and {seconds['copy']:.1f} s), and at most "
        f"{max(each['megabytes'] for each in runs['merge']):.0f} MB of memory "
        f"({machine(['h5py', 'numpy'])}; `benchmarks/merge.py`)."
    )
    sys.stdout.write(f"{text}\n")
    if arguments.write:
        write_section("merge", text, DOCUMENT)


if __name__ == "__main__":
    main()
