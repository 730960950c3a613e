"""The learning curve: test accuracy against the number of training images per class.

Its file is JSON, described in `docs/file-formats.md`; `learning_curve` measures one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnncodes.errors import FileFormatError, OutputError
from cnncodes.files import check_filled
from cnncodes.models.kinds import needing
from cnncodes.output import replacing
from cnncodes.parameters import (
    COUNT,
    SEED,
    STRENGTH,
    TRAIN_FRACTION,
    Real,
    Whole,
    as_path,
    check_class_weight,
)

FORMAT = "1"
MAX_BYTES = 10 * 2**20
MAX_HEADS = 20_000  # of all curves of a file; one takes 300 bytes at most
_REMEDY = "make one with: cnncodes curve"
WORTHWHILE = 0.01  # of accuracy, for twice the images
ABOUT_TWICE = (1.4, 3.0)
_SHARE = Real(0, 1)
_AT_LEAST_TWO = Whole(2, COUNT.most)
_TEXTS = (
    "codes",
    "backbone",
    "weights",
    "backbone_sha256",
    "images_sha256",
    "split",
    "created_with",
)


@dataclass(frozen=True)
class CurvePoint:
    """Heads trained on the same number of images per class.

    Attributes
    ----------
    per_class : int
        Training images per class, at most.
    n_train : int
        Training images of all classes.
    C : float
        Inverse strength of the penalty.
    accuracies : tuple of float
        Test accuracy for each draw of the training images; one where there is nothing to draw.
    """

    per_class: int
    n_train: int
    C: float
    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean test accuracy."""
        return float(np.mean(self.accuracies))

    @property
    def deviation(self) -> float:
        """Standard deviation of the test accuracy over the draws, 0 for one draw."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else 0.0


@dataclass(frozen=True)
class Curve:
    """The learning curve of one codes file.

    Attributes
    ----------
    codes : str
        The codes file.
    backbone, weights : str
        Name of the network and origin of its weights.
    backbone_sha256 : str
        SHA-256 of the network's file.
    images_sha256 : str
        `digest_images` of all images of the curve, training and test.
    split : {"stratified", "first"}
        As for `split_by_class`.
    train_fraction : float
        Share of each class from which the training images were drawn.
    seed : int
        Seed of the split and of the draws.
    class_weight : "balanced" or None
        Whether rare classes weigh as much as common ones.
    created_with : str
        Versions of the packages that measured it.
    n_classes : int
        Number of classes.
    n_test : int
        Number of test images, which are the same for all points.
    points : tuple of CurvePoint
        In increasing order of `per_class`.
    notes : tuple of str
        Remarks on the data.
    majority : float or None
        Test accuracy of always predicting the class most common in training; None in files of
        earlier releases.
    weights_file : str
        Name of the weight file, where the weights are of a file; empty in files of earlier
        releases.
    precision : str
        Of the network, ``"float32"`` or ``"int8"``; empty in files of earlier releases.
    """

    codes: str
    backbone: str
    weights: str
    backbone_sha256: str
    images_sha256: str
    split: str
    train_fraction: float
    seed: int
    class_weight: str | None
    created_with: str
    n_classes: int
    n_test: int
    points: tuple[CurvePoint, ...]
    notes: tuple[str, ...]
    majority: float | None = None
    weights_file: str = ""
    precision: str = ""

    @property
    def network(self) -> str:
        """Name of the network, and its precision where that is not float32."""
        is_plain = self.precision in ("", "float32")
        return self.backbone if is_plain else f"{self.backbone} {self.precision}"

    @property
    def summary(self) -> str:
        """Whether more images are likely to help, in one sentence.

        The accuracy of the largest size is compared with that of the size with about half its
        images. The uncertainty of the difference is two standard errors, estimated from the draws,
        and one test image at least; for a single fit on all images the variance of the smaller
        size is assumed. More images are likely to help where the accuracy rose by more than the
        uncertainty and by a point or more, and unlikely to help much where the upper end of the
        rise is below two points. Otherwise the curve is inconclusive.
        """
        summary = _trend(self.points, self.n_test)
        if self.majority is not None and self.points[-1].mean <= self.majority:
            summary += (
                "; the accuracy is not above that of always predicting the most common class "
                f"({self.majority:.1%})"
            )
        return summary


def _trend(points: Sequence[CurvePoint], n_test: int) -> str:
    """Describe the effect of the last doubling of the training images."""
    last = points[-1]
    half = min(points, key=lambda point: abs(math.log(2 * point.n_train / last.n_train)))
    if not ABOUT_TWICE[0] <= last.n_train / half.n_train <= ABOUT_TWICE[1]:
        return (
            "no size has about half the images of the largest, so the curve does not show whether "
            "more images help"
        )
    if len(half.accuracies) < 2:
        return (
            "one draw of the training images does not show how much the accuracy depends on "
            "chance, and so not whether more images help"
        )
    of_half = half.deviation**2
    of_last = last.deviation**2 / len(last.accuracies) if len(last.accuracies) > 1 else of_half
    uncertainty = max(2 * math.sqrt(of_half / len(half.accuracies) + of_last), 1 / n_test)
    gain = last.mean - half.mean
    span = (
        f"from {half.per_class:,} to {last.per_class:,} images per class ({half.n_train:,} to "
        f"{last.n_train:,} in all)"
    )
    if gain > uncertainty and gain >= WORTHWHILE:
        return (
            f"{span} the accuracy still rises by {100 * gain:.1f} points (± "
            f"{100 * uncertainty:.1f}): more images are likely to help"
        )
    change = f"the accuracy changes by {100 * gain:+.1f} points (± {100 * uncertainty:.1f})"
    if gain + uncertainty < 2 * WORTHWHILE:
        return f"{span} {change}: more images of this kind are unlikely to help much"
    return f"{span} {change}: too uncertain to say whether more images help"


def curves_to_json(curves: Sequence[Curve]) -> dict[str, Any]:
    """Return curves as JSON types, with their summaries, and mean and deviation of each point."""
    return {
        "format": FORMAT,
        "kind": "curve",
        "curves": [
            {
                **asdict(curve),
                "points": [
                    {**asdict(point), "mean": point.mean, "deviation": point.deviation}
                    for point in curve.points
                ],
                "summary": curve.summary,
            }
            for curve in curves
        ],
    }


def save_curves(curves: Sequence[Curve], path: Path, *, overwrite: bool) -> None:
    """Write curves as JSON.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    content = (json.dumps(curves_to_json(curves), indent=2) + "\n").encode()
    if len(content) > MAX_BYTES:
        raise OutputError(
            f"{path}: would be larger than the 10 MiB that can be read; name fewer files"
        )
    with replacing(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(content)


def read_curves(path: str | Path) -> list[Curve]:
    """Read a file of ``cnncodes curve``.

    Parameters
    ----------
    path : str or Path
        The JSON file.

    Returns
    -------
    list of Curve
        One or more.

    Raises
    ------
    FileFormatError
        The file is absent, not regular, empty, foreign, damaged, too large or of a later
        format.
    """
    path = as_path(path, "path")
    with needing(path, ("curve",), "a learning curve", _REMEDY):
        value = _read_json(path)
        if not isinstance(value, dict) or value.get("kind") != "curve":
            raise FileFormatError(f"{path}: is not a learning curve; {_REMEDY}")
    version = value.get("format")
    if version != FORMAT:
        raise FileFormatError(
            f"{path}: is in format {version!r:.20}, this release reads format {FORMAT}; "
            "install a newer cnncodes"
        )
    try:
        return [_curve(each) for each in _list(value, "curves")]
    except ValueError as error:
        raise FileFormatError(f"{path}: is damaged ({error}); {_REMEDY}") from error


def _read_json(path: Path) -> Any:
    n_bytes = check_filled(path, _REMEDY).st_size
    if n_bytes > MAX_BYTES:
        raise FileFormatError(f"{path}: is too large for a learning curve; {_REMEDY}")
    try:
        with path.open("rb") as file:
            content = file.read(n_bytes)
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: cannot be read as JSON; {_REMEDY}") from error


def _curve(value: Any) -> Curve:
    """Check a curve of a file from elsewhere as far as charts and summaries rely on it."""
    points = tuple(_point(each) for each in _list(value, "points"))
    sizes = [point.per_class for point in points]
    if sizes != sorted(set(sizes)):
        raise ValueError("the points do not increase")
    texts = {name: value.get(name) for name in _TEXTS}
    texts |= {name: value.get(name, "") for name in ("weights_file", "precision")}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"{name} must be a text")
    notes, majority = value.get("notes"), value.get("majority")
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise ValueError("notes must be a list of texts")
    return Curve(
        **texts,
        train_fraction=TRAIN_FRACTION.check(value.get("train_fraction"), "train_fraction"),
        seed=SEED.check(value.get("seed"), "seed"),
        class_weight=check_class_weight(value.get("class_weight")),
        n_classes=_AT_LEAST_TWO.check(value.get("n_classes"), "n_classes"),
        n_test=COUNT.check(value.get("n_test"), "n_test"),
        points=points,
        notes=tuple(notes),
        majority=None if majority is None else _SHARE.check(majority, "majority"),
    )


def _point(value: Any) -> CurvePoint:
    accuracies = _list(value, "accuracies")
    return CurvePoint(
        per_class=COUNT.check(value.get("per_class"), "per_class"),
        n_train=_AT_LEAST_TWO.check(value.get("n_train"), "n_train"),
        C=STRENGTH.check(value.get("C"), "C"),
        accuracies=tuple(_SHARE.check(each, "an accuracy") for each in accuracies),
    )


def _list(value: Any, name: str) -> list[Any]:
    """Return an entry of a JSON object; it must be a list that is not empty."""
    entry = value.get(name) if isinstance(value, dict) else None
    if not isinstance(entry, list) or not entry:
        raise ValueError(f"{name} must be a list that is not empty")
    return entry
