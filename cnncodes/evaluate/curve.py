"""The learning curve: test accuracy against the number of training images a class.

Its file is JSON; `docs/file-formats.md` tells what is in it. `curve_heads` measures one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cnncodes.errors import FileFormatError, OutputError
from cnncodes.files import check_filled
from cnncodes.output import replacing
from cnncodes.parameters import COUNT, as_path

FORMAT = "1"
MAX_BYTES = 10 * 2**20
MAX_HEADS = 20_000  # of all curves of a file: 300 bytes each, at most, are well below that
_REMEDY = "make one with: cnncodes curve"
WORTHWHILE = 0.01  # of accuracy, for twice the images
ABOUT_TWICE = (1.4, 3.0)

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class CurvePoint:
    """Heads trained on at most so many images a class.

    Attributes
    ----------
    per_class : int
        Training images a class, at most.
    n_train : int
        Training images in all.
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
        The network, and whose weights it has.
    backbone_sha256 : str
        SHA-256 of the network's file.
    images_sha256 : str
        `digest_images` of all images that train a head of the curve or test.
    split : {"stratified", "first"}
        How the images were split.
    train_fraction : float
        Share of each class from which the training images were drawn.
    seed : int
        Seed of the split and of the draws.
    class_weight : "balanced" or None
        Whether rare classes weigh as much as common ones.
    created_with : str
        The versions of what made the curve.
    n_classes : int
        Classes.
    n_test : int
        Images of the test part, which is the same for all points.
    points : tuple of CurvePoint
        In the order of their number of images.
    notes : tuple of str
        What the user should know of the data.
    majority : float or None
        Test accuracy of always naming the class most common in training; None in files that do
        not say.
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

    @property
    def summary(self) -> str:
        """What the curve says about more images, in one sentence.

        The accuracy of the largest size is compared with that of the size with about half its
        images. The difference is uncertain by two standard errors, found from the spread over
        the draws, and by one test image at least; a single fit on all images is taken to vary as
        much as those of the smaller size. More images are likely to help where the accuracy rose
        by more than that and by a point or more, and unlikely to help much where it rose by less
        than two points even at the upper end. Else the curve does not tell.
        """
        summary = _trend(self.points, self.n_test)
        if self.majority is not None and self.points[-1].mean <= self.majority:
            summary += (
                "; the accuracy is not above that of always naming the most common class "
                f"({self.majority:.1%})"
            )
        return summary


def _trend(points: Sequence[CurvePoint], n_test: int) -> str:
    """Say what the last doubling of the training images did."""
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
            f"{path}: would be larger than the 10 MiB that are read; name fewer files"
        )
    with replacing(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(content)


def read_curves(path: str | Path) -> list[Curve]:
    """Read the curves that ``cnncodes curve`` wrote.

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
    value = _read_json(path)
    if not _says_curve(value):
        raise FileFormatError(f"{path}: is not a learning curve; {_REMEDY}")
    version = value.get("format")
    if version != FORMAT:
        raise FileFormatError(
            f"{path}: is in format {version!r:.20}, this release reads format {FORMAT}; "
            "install a newer cnncodes"
        )
    try:
        curves = [_curve(each) for each in _entry(value, "curves", list)]
        _require(len(curves) > 0, "it holds no curves")
    except ValueError as error:
        raise FileFormatError(f"{path}: is damaged ({error}); {_REMEDY}") from error
    return curves


def is_curve(path: Path) -> bool:
    """Tell whether a file says that it holds learning curves; it may be damaged all the same."""
    try:
        return _says_curve(_read_json(path))
    except FileFormatError:
        return False


def _says_curve(value: Any) -> bool:
    return isinstance(value, dict) and value.get("kind") == "curve"


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
    points = tuple(_point(each) for each in _entry(value, "points", list))
    sizes = [point.per_class for point in points]
    _require(len(points) > 0, "a curve has no points")
    _require(sizes == sorted(set(sizes)), "the points do not increase")
    n_seeds = {len(point.accuracies) for point in points} - {1}
    _require(len(n_seeds) <= 1, "the points have different numbers of seeds")
    seed, class_weight = value.get("seed"), value.get("class_weight")
    _require(type(seed) is int and seed >= 0, "seed must be a whole number from 0 on")
    _require(class_weight in (None, "balanced"), "class_weight must be balanced or null")
    fraction = _number(value.get("train_fraction"), "train_fraction")
    _require(0 < fraction < 1, "train_fraction is not between 0 and 1")
    majority = value.get("majority")
    if majority is not None:
        majority = _number(majority, "majority")
        _require(0 <= majority <= 1, "majority is not between 0 and 1")
    notes = _entry(value, "notes", list)
    _require(all(isinstance(note, str) for note in notes), "notes must be a list of texts")
    return Curve(
        codes=_entry(value, "codes", str),
        backbone=_entry(value, "backbone", str),
        weights=_entry(value, "weights", str),
        backbone_sha256=_entry(value, "backbone_sha256", str),
        images_sha256=_entry(value, "images_sha256", str),
        split=_entry(value, "split", str),
        train_fraction=fraction,
        seed=seed,
        class_weight=class_weight,
        created_with=_entry(value, "created_with", str),
        n_classes=_count(value, "n_classes", 2),
        n_test=_count(value, "n_test"),
        points=points,
        notes=tuple(notes),
        majority=majority,
    )


def _point(value: Any) -> CurvePoint:
    accuracies = tuple(_number(each, "an accuracy") for each in _entry(value, "accuracies", list))
    _require(len(accuracies) > 0, "a point has no accuracies")
    _require(all(0 <= each <= 1 for each in accuracies), "an accuracy is not between 0 and 1")
    point = CurvePoint(
        per_class=_count(value, "per_class"),
        n_train=_count(value, "n_train", 2),
        C=_number(value.get("C"), "C"),
        accuracies=accuracies,
    )
    _require(point.C > 0, "C is not above 0")
    for name, figure in (("mean", point.mean), ("deviation", point.deviation)):
        stated = _number(value.get(name), name)
        _require(math.isclose(stated, figure, abs_tol=1e-6), f"{name} is not that of accuracies")
    return point


def _entry(value: Any, name: str, kind: type[Kind]) -> Kind:
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, kind):
        raise ValueError(f"{name} must be a {'text' if kind is str else 'list'}")
    return found


def _count(value: Any, name: str, least: int = 1) -> int:
    found = value.get(name)
    if not isinstance(found, int) or isinstance(found, bool) or not least <= found <= COUNT.most:
        raise ValueError(f"{name} must be a whole number from {least} to {COUNT.most}")
    return found


def _number(value: Any, name: str) -> float:
    # The bound keeps out infinity, NaN, and whole numbers too large for a float.
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= 1e300:
        raise ValueError(f"{name} must be a finite number")
    return float(value)


def _require(holds: bool, fault: str) -> None:
    if not holds:
        raise ValueError(fault)
