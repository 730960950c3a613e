"""Linear heads whose kind and normalisation cross-validation on the training images may choose.

Logistic regression is the head unless another one is better by more than chance: a candidate
replaces it where its accuracy in cross-validation is higher by more than one standard error, and
its log loss lower, which for least squares is that at a temperature. Least squares is that on many
classes of few images each, such as drawings (docs/heads.md).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.head.linear import LinearHead
from cnncodes.head.logistic.fit import Candidate, fit_candidates
from cnncodes.head.logistic.start import Start
from cnncodes.head.normalize import NormalizedRows, StandardizedRows
from cnncodes.head.rows import CodeRows
from cnncodes.parameters import STANDARDIZE, WAYS
from cnncodes.progress import Progress

AUTO = "auto"
ESTIMATORS = ("logistic", "ridge")
GRAM = (AUTO, *ESTIMATORS)  # the names of `fit_linear`


def fit_linear(
    rows: CodeRows,
    y: NDArray[np.int32],
    *,
    estimator: str = AUTO,
    normalize: str = "none",
    C: float | str = AUTO,
    temperature: float | None = None,
    class_weight: str | None = None,
    groups: NDArray[np.intp] | None = None,
    masses: NDArray[np.float64] | None = None,
    n_averaged: int = 1,
    seed: int = 0,
    start: Start | None = None,
    progress: Progress | None = None,
) -> tuple[LinearHead, str, dict[str, Any]]:
    """Fit a linear head, of the kind and normalisation that cross-validation chooses.

    Parameters
    ----------
    rows, y, temperature, class_weight, groups, masses, n_averaged, seed, start, progress
        As for `fit_candidates`.
    estimator : {"auto", "logistic", "ridge"}
        The kind of head. ``"auto"`` with a C or a `class_weight` is logistic: there is nothing to
        compare, or nothing that compares.
    normalize : one of `WAYS`, or "auto"
        What the head does to codes before its weights; ``"auto"`` tries all six, each with a
        pass over the codes, and needs C to be ``"auto"``; otherwise it is ``"none"``.
    C : float or "auto"
        Inverse strength of the penalty.

    Returns
    -------
    head : LinearHead
        The head.
    estimator : str
        Its kind.
    fitted : dict
        As of `fit_logistic`; ``normalize`` where the graph normalises codes, ``standardize`` where
        the weights do, and ``compared``, log loss and accuracy in cross-validation of each
        candidate, where there were several.

    Raises
    ------
    TrainingError
        As for `fit_logistic`.
    """
    kinds = [estimator] if estimator != AUTO else list(ESTIMATORS)
    if estimator == AUTO and (C != AUTO or class_weight is not None):
        kinds = ["logistic"]
    ways = [normalize] if normalize != AUTO else list(WAYS)
    if normalize == AUTO and C != AUTO:
        ways = ["none"]
    candidates: dict[tuple[str, str], Candidate] = {}
    normalized = {how: _normalized(rows, how) for how in ways}
    for how in ways:
        fits = fit_candidates(
            normalized[how],
            y,
            kinds,
            C=C,
            temperature=temperature,
            class_weight=class_weight,
            groups=groups,
            masses=masses,
            n_averaged=n_averaged,
            seed=seed,
            start=_start_on(normalized[how], start),
            progress=progress,
        )
        candidates |= {(kind, how): fits[kind] for kind in kinds}
    # Views, copies and images of a group are right or wrong together.
    kind, how = _best(candidates, len(y) if groups is None else len(np.unique(groups)))
    weights, bias, fitted = candidates[kind, how].finish()
    chosen, in_graph = normalized[how], _in_graph(how)
    if isinstance(chosen, StandardizedRows):
        weights = weights / chosen.deviations[:, np.newaxis]
        fitted["standardize"] = True
    if in_graph != "none":
        fitted["normalize"] = in_graph
    if len(candidates) > 1:
        fitted["compared"] = {
            f"{name}, {way}" if len(ways) > 1 else name: {
                "loss": each.loss,
                "accuracy": each.accuracy,
            }
            for (name, way), each in candidates.items()
        }
    return LinearHead(weights, bias, normalize=in_graph), kind, fitted


def normalization_of(fitted: dict[str, Any]) -> str:
    """Return the one of `WAYS` that results of `fit_linear` were made with."""
    in_graph = str(fitted.get("normalize", "none"))
    if not fitted.get("standardize"):
        return in_graph
    return STANDARDIZE if in_graph == "none" else f"{in_graph}+{STANDARDIZE}"


def _in_graph(how: str) -> str:
    """Return what the graph does of one of `WAYS`: one of `NORMALIZATIONS`."""
    return how.removesuffix(STANDARDIZE).removesuffix("+") or "none"


def _start_on(rows: CodeRows, start: Start | None) -> Start | None:
    """Return where a fit on these rows starts; the weights of a head are on codes as stored."""
    if start is None or not isinstance(rows, StandardizedRows):
        return start
    return replace(start, weights=start.weights * rows.deviations[:, np.newaxis])


def _normalized(rows: CodeRows, how: str) -> CodeRows:
    if (in_graph := _in_graph(how)) != "none":
        rows = NormalizedRows(rows, in_graph)
    return StandardizedRows(rows) if how.endswith(STANDARDIZE) else rows


def _best(candidates: dict[tuple[str, str], Candidate], n_groups: int) -> tuple[str, str]:
    """Return the first candidate, or the best of those that are better by more than chance."""
    names = list(candidates)
    first = candidates[names[0]]
    if first.accuracy is None or first.loss is None:
        return names[0]
    error = math.sqrt(first.accuracy * (1 - first.accuracy) / n_groups)
    better = {
        name: each.loss
        for name, each in candidates.items()
        if each.accuracy is not None
        and each.loss is not None
        and each.accuracy > first.accuracy + error
        and each.loss < first.loss
    }
    return min(better, key=lambda name: better[name], default=names[0])
