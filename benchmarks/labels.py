"""The cost of a head of 40 labels against one of 40 classes, and its exactness.

Usage: python benchmarks/labels.py [IMAGES [CODES]]

Both are fitted to the same random codes of IMAGES images (by default 1000) with CODES numbers each
(4096): the classes by one multinomial logistic regression, the labels by one of two classes each:
with C given, with C given and thresholds chosen by cross-validation, and with both chosen by it.
Prints ratios of the processor time, and how far the weights are from those of scikit-learn's
OneVsRestClassifier, relative to the largest.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from page import table
from sklearn.linear_model import LogisticRegression

from cnncodes.head.logistic.fit import fit_logistic
from cnncodes.head.multilabel.fit import fit_labels
from cnncodes.head.rows import CodeRows

N_LABELS, N_COMPARED, N_HIDDEN = 40, 4, 20
SHARE = 0.08  # of the images with a label
# C, and whether thresholds are given.
CASES: tuple[tuple[float | str, bool], ...] = (
    *((1.0, True), (1.0, False), (30.0, True), (30.0, False)),
    ("auto", False),
)


class ArrayRows(CodeRows):
    """Codes in memory in place of a file."""

    def __init__(self, X: np.ndarray[Any, np.dtype[np.float32]]) -> None:
        self._X, self._rows, self.n_features = X, np.arange(len(X)), X.shape[1]

    def pick(self, indices: np.ndarray[Any, np.dtype[np.intp]]) -> Any:
        """Return some images."""
        return self._X[indices]


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Return a result and the seconds of processor time it took."""
    started = time.process_time()
    return function(), time.process_time() - started


def main() -> None:
    """Print the table."""
    n_images, n_codes = (*map(int, sys.argv[1:]), *(1000, 4096)[len(sys.argv) - 1 :])
    generator = np.random.default_rng(0)
    hidden = generator.normal(size=(n_images, N_HIDDEN))
    X = hidden @ generator.normal(size=(N_HIDDEN, n_codes))
    X = np.maximum(X + 3 * generator.normal(size=X.shape), 0).astype(np.float32)
    scores = hidden @ generator.normal(size=(N_HIDDEN, N_LABELS))
    scores += 2 * generator.normal(size=scores.shape)
    targets = scores > np.quantile(scores, 1 - SHARE, axis=0)
    rows, y, known = ArrayRows(X), scores.argmax(axis=1).astype(np.int32), np.ones_like(targets)
    centred = X.astype(np.float64) - X.mean(axis=0, dtype=np.float64)
    spread = float(np.sqrt(np.square(centred).sum(axis=1).mean()))
    centred /= spread
    names, lines = [str(label) for label in range(N_LABELS)], []
    for C, is_given in CASES:
        thresholds = [0.5] * N_LABELS if is_given else None
        _, of_classes = timed(lambda C=C: fit_logistic(rows, y, C=C))  # type: ignore[misc]
        fit, of_labels = timed(
            lambda C=C, thresholds=thresholds: fit_labels(  # type: ignore[misc]
                rows, targets, known, names, C=C, thresholds=thresholds
            )
        )
        worst = 0.0
        for label in range(N_COMPARED):
            one = LogisticRegression(
                C=fit.fitted["C"][label], solver="newton-cg", tol=1e-10, max_iter=1000
            ).fit(centred, targets[:, label])
            difference = np.abs(fit.weights[:, label] * spread - one.coef_[0]).max()
            worst = max(worst, float(difference / np.abs(one.coef_).max()))
        chosen = "given" if is_given else "chosen"
        lines.append([C, chosen, f"{of_labels / of_classes:.2f}", f"{worst:.0e}"])
    header = [
        "C",
        "thresholds",
        "time of 40 labels / of 40 classes",
        "largest difference of a weight",
    ]
    sys.stdout.write(table(header, lines) + "\n")


if __name__ == "__main__":
    main()
