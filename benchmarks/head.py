"""Training a head: ours beside scikit-learn on the flat codes, at the scale of Caltech-101.

Usage: python benchmarks/head.py [--runs N] [--codes FILE]

The codes are synthetic: 6,400 training and 2,744 test images of 102 classes, 5 × 5 × 2048 numbers
each, of which 92 % are zero, as InceptionV3 gives them. Each contender runs in a process of its
own, from the file to the test accuracy; they take turns, and what is printed are medians, and
ratios of medians. Peak memory is that of the whole process, Python and libraries included.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

N_TRAIN, N_TEST, N_CLASSES = 6400, 2744, 102
CODE_SHAPE = (5, 5, 2048)
C = 10.0
CONTENDERS = ("scikit-learn", "cnncodes", "cnncodes --C auto")


def write_codes(path: Path) -> None:
    """Write codes in which classes are clouds in a space of 128 dimensions."""
    from cnncodes.extract.store import CodeStore
    from cnncodes.model_file import BackboneInfo

    info = BackboneInfo(
        *("inception_v3", "random:0", 224, "mixed10", "none", "float32", 0.0, "none", "benchmark")
    )
    generator = np.random.default_rng(0)
    n_images, n_features = N_TRAIN + N_TEST, int(np.prod(CODE_SHAPE))
    labels = generator.integers(0, N_CLASSES, n_images)
    centres = generator.standard_normal((N_CLASSES, 128), np.float32)
    projection = generator.standard_normal((128, n_features), np.float32) / np.sqrt(128)
    spread = 2.5  # chosen so that about nine of ten test images are recognised, as on Caltech-101
    store = CodeStore.create(
        path.with_suffix(".partial"),
        backbone=info,
        backbone_sha256="0" * 64,
        code_shape=CODE_SHAPE,
        dtype="float16",
        source="synthetic",
        class_names=[f"class {number}" for number in range(N_CLASSES)],
        request="",
    )
    for start in range(0, n_images, 256):
        batch = labels[start : start + 256]
        n = len(batch)
        latent = centres[batch] + spread * generator.standard_normal((n, 128), np.float32)
        noise = generator.standard_normal((n, n_features), np.float32)
        codes = latent @ projection / np.sqrt(1 + spread**2) * 0.7 + 0.7 * noise - 1.4
        store.append(
            np.maximum(codes, 0).reshape(-1, *CODE_SHAPE),
            labels=batch.tolist(),
            paths=[f"{start + index}" for index in range(n)],
            digests=["0" * 64] * n,
        )
    store.finish(path)


def run_contender(name: str, path: Path) -> dict[str, Any]:
    """Train one head and measure it; runs in a process of its own."""
    from cnncodes.extract.store import CodeStore
    from cnncodes.head.logistic import fit_logistic
    from cnncodes.head.rows import CodeRows

    started = time.perf_counter()
    with CodeStore.open(path) as store:
        y = store.labels
        train, test = (
            CodeRows(store, np.arange(N_TRAIN)),
            CodeRows(store, np.arange(N_TRAIN, len(y))),
        )
        if name == "scikit-learn":
            weights, bias, iterations = fit_flat(train, y[:N_TRAIN])
        else:
            strength = "auto" if name.endswith("auto") else C
            weights, bias, fitted = fit_logistic(train, y[:N_TRAIN], C=strength)
            iterations = fitted["n_iterations"]
        fitted_after = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        loss, length = loss_and_length(train, y[:N_TRAIN], weights, bias)
        hits = sum(
            int(((X @ weights + bias).argmax(axis=1) == y[N_TRAIN:][places]).sum())
            for places, X in test.blocks()
        )
    return {
        "seconds": fitted_after,
        "peak_mb": peak,
        "iterations": iterations,
        "accuracy": hits / N_TEST,
        "loss": loss,
        "squared_weights": length,
    }


def fit_flat(train: Any, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Do what one would without us: fit all codes as float32, centred and scaled."""
    from sklearn.linear_model import LogisticRegression

    X = np.empty((len(train), train.n_features), np.float32)
    for places, block in train.blocks():
        X[places] = block
    mean = X.mean(axis=0)
    X -= mean
    scale = float(np.sqrt(np.einsum("ij,ij->i", X, X).mean(dtype=np.float64)))
    X /= scale
    model = LogisticRegression(C=C, max_iter=1000).fit(X, y)
    weights = (model.coef_.T / scale).astype(np.float32)
    return weights, model.intercept_ - mean @ weights, int(model.n_iter_.max())


def loss_and_length(
    train: Any, y: np.ndarray, weights: np.ndarray, bias: np.ndarray
) -> tuple[float, float]:
    """Return the summed cross-entropy, and the squared weights on standardised codes."""
    from cnncodes.head.linear import log_softmax

    loss, squares, total = 0.0, 0.0, np.zeros(train.n_features)
    for places, X in train.blocks():
        picked = log_softmax(X @ weights + bias)[np.arange(len(X)), y[places]]
        loss -= float(picked.sum(dtype=np.float64))
        squares += float(np.square(X, dtype=np.float64).sum())
        total += X.sum(axis=0, dtype=np.float64)
    mean = total / len(train)
    variance = squares / len(train) - float(mean @ mean)
    return loss, float(np.square(weights, dtype=np.float64).sum()) * variance


def main() -> None:
    """Run the contenders in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3, help="runs of each contender")
    parser.add_argument("--codes", type=Path, help="codes file to use, made if absent")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        sys.stdout.write(json.dumps(run_contender(options.contender, options.codes)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = options.codes or Path(folder) / "codes.h5"
        if not path.exists():
            write_codes(path)
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
        for _ in range(options.runs):
            for name in CONTENDERS:
                command = [sys.executable, __file__, "--contender", name, "--codes", str(path)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                results[name].append(json.loads(done.stdout))
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in results.items()
    }
    peer, ours = medians["scikit-learn"], medians["cnncodes"]
    sys.stdout.write(
        "| head | time | peak memory | iterations | objective | test accuracy |\n"
        "|---|---|---|---|---|---|\n"
    )
    for name, median in medians.items():
        objective = "another C"
        if not name.endswith("auto"):
            values = [C * each["loss"] + each["squared_weights"] / 2 for each in (median, peer)]
            objective = f"{values[0] / values[1] - 1:+.4%}"
        sys.stdout.write(
            f"| {name} | {median['seconds'] / peer['seconds']:.2f} × | "
            f"{median['peak_mb'] / peer['peak_mb']:.2f} × | {median['iterations']:.0f} | "
            f"{objective} | {median['accuracy']:.2%} |\n"
        )
    auto = medians["cnncodes --C auto"]
    sys.stdout.write(
        f"\n--C auto takes {auto['seconds'] / ours['seconds']:.1f} × the time of one fit; "
        f"medians of {options.runs} runs; scikit-learn took {peer['seconds']:.0f} s and "
        f"{peer['peak_mb']:.0f} MB here.\n"
    )


if __name__ == "__main__":
    main()
