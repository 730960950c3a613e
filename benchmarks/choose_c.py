"""How to choose the penalty of a logistic head: by accuracy, or by log loss.

Usage: python benchmarks/choose_c.py CODES.h5:N … [--seeds 30] [--write]

For each codes file and number of images N, that many are drawn, in the shares of the classes,
and train a head; all others test it. *Accuracy* takes the strongest penalty among those of the
highest accuracy in cross-validation; *log loss* is what ``--C auto`` does. Both use the same
folds. ``--write`` puts the result into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from page import machine, table, weights_text, write_section
from scipy.special import softmax
from sklearn.base import clone
from sklearn.model_selection import StratifiedKFold, cross_val_score, train_test_split

from cnncodes.evaluate.learning_curve import fit_part
from cnncodes.evaluate.metrics import measure
from cnncodes.extract.store import CodeStore
from cnncodes.head.logistic.gram import centre, gram_matrix, rotate, rows_that_stay, scale
from cnncodes.head.logistic.solve import DEFAULT_CS, FALLBACK_C, new_solver
from cnncodes.head.rows import CodeRows

N_FOLDS = 5
RULES = ("accuracy", "log loss")


def by_accuracy(K: NDArray[np.float32], y: NDArray[np.int32], seed: int) -> float:
    """Return the smallest C of the highest accuracy, over the folds that `solve` would use."""
    own = K.copy()
    centre(own)
    scale(own)
    n_folds = min(N_FOLDS, int(np.bincount(y).max()))
    if n_folds < 2:
        return FALLBACK_C
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    points = rotate(own)
    scores = {
        C: cross_val_score(clone(new_solver()).set_params(C=C), points, y, cv=folds).mean()
        for C in DEFAULT_CS
    }
    return min(C for C, score in scores.items() if score >= max(scores.values()) - 1e-9)


def compare(path: Path, n_train: int, n_seeds: int) -> list[list[str]]:
    """Return a row of the table for each rule: means over all seeds."""
    with CodeStore.open(path) as store:
        labelled = np.flatnonzero(store.labels >= 0)
        rows, names = CodeRows(store, labelled), store.class_names
        y = store.labels[labelled]
        weights = weights_text(store.backbone.weights)
        backbone = store.backbone.backbone
        block = rows_that_stay(rows.n_features)
        K = gram_matrix(rows.read, len(rows), block=block, dtype=np.float32)
    figures: dict[str, list[tuple[float, ...]]] = {rule: [] for rule in RULES}
    for seed in range(n_seeds):
        parts = train_test_split(
            np.arange(len(y)), train_size=n_train, stratify=y, random_state=seed
        )
        train, test = map(np.sort, parts)
        strengths = by_accuracy(K[np.ix_(train, train)], y[train], seed), "auto"
        for rule, strength in zip(RULES, strengths, strict=True):
            logits, C = fit_part(K, train, test, y[train], new_solver(), strength, seed)
            metrics = measure(softmax(logits, axis=1), y[test], list(names))
            figures[rule].append((metrics.accuracy, metrics.log_loss, metrics.calibration_error, C))
    named = [f"{path.stem}, {backbone} ({weights})", f"{n_train} of {len(names)} classes"]
    result = []
    for rule in RULES:
        accuracy, loss, calibration, C = np.transpose(figures[rule])
        means = [f"{accuracy.mean():.3f}", f"{loss.mean():.3f}", f"{calibration.mean():.3f}"]
        result.append([*named, rule, *means, f"{np.median(C):g} ({C.min():g} to {C.max():g})"])
    return result


def main() -> None:
    """Compare both rules on each codes file and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("codes", nargs="+", help="CODES.h5:N, a codes file and images to train on")
    parser.add_argument("--seeds", type=int, default=30, help="draws of the training images")
    parser.add_argument("--write", action="store_true", help="put it into docs/benchmarks.md")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="The least populated class")
    rows = []
    for each in options.codes:
        path, _, n_train = each.rpartition(":")
        rows += compare(Path(path), int(n_train), options.seeds)
        sys.stderr.write(table(rows[-1], rows[-2:]))
    header = ["codes", "training images", "C by", "accuracy", "log loss", "calibration error", "C"]
    setup = f"Machine: {machine(['numpy', 'scikit-learn'])}. Means over {options.seeds} draws."
    text = f"{setup}\n\n{table(header, rows)}"
    sys.stdout.write(text)
    if options.write:
        write_section("choose_c", text)


if __name__ == "__main__":
    main()
