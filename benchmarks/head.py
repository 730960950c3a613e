"""Training a head: cnncodes beside scikit-learn and Keras, at the scale of Caltech-101.

Usage: python benchmarks/head.py [--runs N] [--codes FILE] [--write]

The codes are synthetic: 6,400 training and 2,744 test images of 102 classes, 5 × 5 × 2048 numbers
each, of which 92 % are zero, as in those of InceptionV3. Each contender runs in a process of its
own, from the file to the trained weights; they take turns, and what is printed are medians, and
ratios of medians. Peak memory is that of the whole process, Python and libraries included.
``--write`` puts the result into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from page import machine, medians, peak_megabytes, run_apart, table, write_section

N_TRAIN, N_TEST, N_CLASSES = 6400, 2744, 102
CODE_SHAPE = (5, 5, 2048)
C = 10.0
EPOCHS, BATCH_SIZE = 5, 32
RATE = 10.0  # of our SGD; the more classes, the larger it may be
ADADELTA_RATE = 1.0  # Keras's default when the reference experiment was made; now 0.001
MEMORY_N, MEMORY_D = (1600, 3200, 6400), ((2, 2, 2048), (5, 5, 2048))


@dataclass
class Head:
    """A trained head: weights and bias on codes as they are."""

    weights: np.ndarray
    bias: np.ndarray


def write_codes(
    path: Path, n_images: int = N_TRAIN + N_TEST, code_shape: tuple[int, ...] = CODE_SHAPE
) -> None:
    """Write codes in which classes are clouds in a space of 128 dimensions."""
    from cnncodes.extract.journal import Journal
    from cnncodes.extract.writing import CodesInfo, Rows, encode_codes
    from cnncodes.models.metadata import BackboneInfo

    backbone = BackboneInfo(
        *("inception_v3", "random:0", 224, "mixed10", "none", "float32", 0.0, "none", "benchmark")
    )
    generator = np.random.default_rng(0)
    n_features = int(np.prod(code_shape))
    labels = generator.integers(0, N_CLASSES, n_images)
    centres = generator.standard_normal((N_CLASSES, 128), np.float32)
    projection = generator.standard_normal((128, n_features), np.float32) / np.sqrt(128)
    spread = 2.5  # chosen so that about nine of ten test images are recognised, as on Caltech-101
    info = CodesInfo(
        backbone=backbone,
        backbone_sha256="0" * 64,
        code_shape=tuple(code_shape),
        dtype="float16",
        source="synthetic",
        class_names=tuple(f"class {number}" for number in range(N_CLASSES)),
        max_pixels=0,
    )
    journal = Journal.open(path.with_suffix(".partial"), info, "benchmark")
    for start in range(0, n_images, 256):
        batch = labels[start : start + 256]
        n = len(batch)
        latent = centres[batch] + spread * generator.standard_normal((n, 128), np.float32)
        noise = generator.standard_normal((n, n_features), np.float32)
        codes = latent @ projection / np.sqrt(1 + spread**2) * 0.7 + 0.7 * noise - 1.4
        rows = Rows(
            chunks=encode_codes(np.maximum(codes, 0).reshape(-1, *code_shape), info.dtype),
            labels=batch.tolist(),
            paths=[f"{start + index}" for index in range(n)],
            digests=[f"{start + index:064x}" for index in range(n)],
            skipped=[],
        )
        journal.append(rows)
    journal.finish(path)


def fit_flat(train: Any, y: np.ndarray, tol: float) -> Head:
    """Do what one would without us: fit all codes as float32, centred and scaled."""
    from sklearn.linear_model import LogisticRegression

    X, mean, scale = standardised(train)
    model = LogisticRegression(C=C, max_iter=1000, tol=tol).fit(X, y)
    weights = (model.coef_.T / scale).astype(np.float32)
    return Head(weights, model.intercept_ - mean @ weights)


def fit_mlp(train: Any, y: np.ndarray) -> Head:
    """Train scikit-learn's network without a hidden layer."""
    from sklearn.neural_network import MLPClassifier

    X, mean, scale = standardised(train)
    model = MLPClassifier(
        hidden_layer_sizes=(),
        solver="sgd",
        batch_size=BATCH_SIZE,
        max_iter=EPOCHS,
        learning_rate_init=RATE,
        alpha=0,
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the epochs are too few for its taste
        model.fit(X, y)
    weights = (model.coefs_[0] / scale).astype(np.float32)
    return Head(weights, model.intercepts_[0] - mean @ weights)


def fit_keras(train: Any, y: np.ndarray) -> Head:
    """Train as the reference experiment did: a Dense softmax with Adadelta on the codes."""
    import keras

    X = all_codes(train)
    model = keras.Sequential(
        [keras.Input(X.shape[1:]), keras.layers.Dense(N_CLASSES, activation="softmax")]
    )
    model.compile(keras.optimizers.Adadelta(ADADELTA_RATE), "sparse_categorical_crossentropy")
    model.fit(X, y, batch_size=BATCH_SIZE, epochs=EPOCHS, verbose=0)
    return Head(*model.layers[-1].get_weights())


def fit_cnncodes(train: Any, y: np.ndarray, strength: float | str) -> Head:
    """Train our logistic head."""
    from cnncodes.head.logistic.fit import fit_logistic

    return Head(*fit_logistic(train, y, C=strength)[:2])


def fit_our_sgd(train: Any, y: np.ndarray) -> Head:
    """Train our SGD head."""
    from cnncodes.head.sgd.fit import fit_sgd

    parameters = {
        "epochs": EPOCHS,
        "batch_size": BATCH_SIZE,
        "learning_rate": RATE,
        "validation_fraction": 0,  # as Keras, which has no penalty either
        "l2": 0,
    }
    return Head(*fit_sgd(train, y, parameters=parameters)[:2])


LOGISTIC: dict[str, Callable[[Any, np.ndarray], Head]] = {
    "scikit-learn, tol = 1e-5": lambda train, y: fit_flat(train, y, 1e-5),
    "scikit-learn as it comes, tol = 1e-4": lambda train, y: fit_flat(train, y, 1e-4),
    "cnncodes": lambda train, y: fit_cnncodes(train, y, C),
}
SGD: dict[str, Callable[[Any, np.ndarray], Head]] = {
    "Keras, Dense with Adadelta": fit_keras,
    "scikit-learn, MLPClassifier without hidden layer": fit_mlp,
    "cnncodes --estimator sgd": fit_our_sgd,
}
AUTO, CURVE = "cnncodes --C auto", "cnncodes curve"
FITS: dict[str, Callable[[Any, np.ndarray], Head]] = {
    **LOGISTIC,
    **SGD,
    AUTO: lambda train, y: fit_cnncodes(train, y, "auto"),
}


def run_contender(name: str, path: Path) -> dict[str, Any]:
    """Train one head and measure it; runs in a process of its own."""
    from cnncodes.extract.store import CodeStore
    from cnncodes.head.rows import CodeRows

    started = time.perf_counter()
    if name == CURVE:
        from cnncodes.evaluate.learning_curve import learning_curves

        with tempfile.TemporaryDirectory() as folder:
            sizes = (5, 10, 15, 20, 25, 30)
            learning_curves([path], Path(folder) / "curve.json", per_class=sizes)
        return spent(started)
    with CodeStore.open(path) as store:
        y = store.labels
        n_train = min(N_TRAIN, len(y))
        train = CodeRows(store, np.arange(n_train))
        test = CodeRows(store, np.arange(n_train, len(y)))
        head = FITS[name](train, y[:n_train])
        result = spent(started)
        loss, length = loss_and_length(train, y[:n_train], head)
        hits = sum(
            int(((X @ head.weights + head.bias).argmax(axis=1) == y[n_train:][span]).sum())
            for span, X in test.blocks()
        )
    objective = C * loss + length / 2
    return {**result, "accuracy": hits / max(len(test), 1), "objective": objective}


def spent(started: float) -> dict[str, float]:
    """Return the seconds since, and the peak memory in MB."""
    return {"seconds": time.perf_counter() - started, "megabytes": peak_megabytes()}


def all_codes(train: Any) -> np.ndarray:
    """Return all codes as one float32 array."""
    X = np.empty((len(train), train.n_features), np.float32)
    for span, block in train.blocks():
        X[span] = block
    return X


def standardised(train: Any) -> tuple[np.ndarray, np.ndarray, float]:
    """Return all codes, centred and of mean squared length one, their mean and their length."""
    X = all_codes(train)
    mean = X.mean(axis=0)
    X -= mean
    scale = float(np.sqrt(np.einsum("ij,ij->i", X, X).mean(dtype=np.float64)))
    X /= scale
    return X, mean, scale


def loss_and_length(train: Any, y: np.ndarray, head: Head) -> tuple[float, float]:
    """Return the summed cross-entropy, and the squared weights on standardised codes."""
    from cnncodes.head.linear import log_softmax

    loss, squares, total = 0.0, 0.0, np.zeros(train.n_features)
    for span, X in train.blocks():
        picked = log_softmax(X @ head.weights + head.bias)[np.arange(len(X)), y[span]]
        loss -= float(picked.sum(dtype=np.float64))
        squares += float(np.square(X, dtype=np.float64).sum())
        total += X.sum(axis=0, dtype=np.float64)
    mean = total / len(train)
    variance = squares / len(train) - float(mean @ mean)
    return loss, float(np.square(head.weights, dtype=np.float64).sum()) * variance


def compared(results: dict[str, dict[str, Any]], peer: str, best: float | None) -> str:
    """Lay out contenders as ratios to a peer."""
    header = ["head", "time", "peak memory", "test accuracy"]
    if best is not None:
        header.append("objective above the lowest")
    rows = []
    for name, result in results.items():
        row = [
            name,
            f"{result['seconds'] / results[peer]['seconds']:.2f} ×",
            f"{result['megabytes'] / results[peer]['megabytes']:.2f} ×",
            f"{result['accuracy']:.1%}",
        ]
        if best is not None:
            row.append(f"{result['objective'] / best - 1:.3%}")
        rows.append(row)
    return table(header, rows)


def memory_table(folder: Path) -> str:
    """Measure the peak memory of a training for several numbers of images and of features."""
    names = ("cnncodes", "cnncodes --estimator sgd")
    rows = []
    for code_shape in MEMORY_D:
        for n_images in MEMORY_N:
            path = folder / f"{n_images}.h5"
            write_codes(path, n_images, code_shape)
            peaks = [
                run_apart(__file__, "--contender", name, "--codes", path)["megabytes"]
                for name in names
            ]
            path.unlink()
            n_features = int(np.prod(code_shape))
            rows.append(
                [
                    f"{n_images:,}",
                    f"{n_features:,}",
                    f"{n_images * n_features * 4 / 2**20:,.0f} MB",
                    f"{n_images**2 * 4 / 2**20:,.0f} MB",
                    *(f"{peak:,.0f} MB" for peak in peaks),
                ]
            )
    header = ["images n", "numbers d", "n × d as float32", "n² as float32", "logistic", "sgd"]
    return table(header, rows)


def page_text(result: dict[str, dict[str, Any]], memory: str, n_runs: int) -> str:
    """Lay out all that was measured."""
    logistic = {name: result[name] for name in LOGISTIC}
    sgd = {name: result[name] for name in SGD}
    lowest = min(each["objective"] for each in logistic.values())
    flat, keras = next(iter(logistic)), next(iter(sgd))
    fit, auto, curve = result["cnncodes"], result[AUTO], result[CURVE]
    return f"""\
Machine: {machine(["numpy", "scikit-learn", "keras", "tensorflow"])}. Medians of {n_runs} runs.

Logistic regression at C = {C:g}. Ratios to the first row, which {needed(result[flat])}:

{compared(logistic, flat, lowest)}
`--C auto`, of 7 values and at most 4 beyond them in 5 folds, takes \
{auto["seconds"] / fit["seconds"]:.1f} × the time of that one fit. \
The whole learning curve, of 6 sizes and 5 draws with C chosen for each size, takes \
{curve["seconds"] / fit["seconds"]:.1f} ×.

A softmax by SGD, {EPOCHS} epochs in batches of {BATCH_SIZE}. Ratios to the first row, which \
{needed(result[keras])}:

{compared(sgd, keras, None)}
Peak memory of a training, of the whole process:

{memory}"""


def needed(result: dict[str, Any]) -> str:
    """Return the time and memory of a contender."""
    return f"took {result['seconds']:.0f} s and {result['megabytes']:,.0f} MB here"


def main() -> None:
    """Run the contenders in turn and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3, help="runs of each contender")
    parser.add_argument("--codes", type=Path, help="codes file to use, made if absent")
    parser.add_argument("--write", action="store_true", help="put it into docs/benchmarks.md")
    parser.add_argument("--contender", choices=[*FITS, CURVE], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        sys.stdout.write("\n" + json.dumps(run_contender(options.contender, options.codes)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = options.codes or Path(folder) / "codes.h5"
        if not path.exists():
            write_codes(path)
        names = [*FITS, CURVE]
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for _ in range(options.runs):
            for name in names:
                runs[name].append(run_apart(__file__, "--contender", name, "--codes", path))
        result = {name: medians(each) for name, each in runs.items()}
        memory = memory_table(Path(folder))
    text = page_text(result, memory, options.runs)
    sys.stdout.write(text)
    if options.write:
        write_section("head", text)


if __name__ == "__main__":
    main()
