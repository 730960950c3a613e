"""How unlike the training images an image is, computed from its codes: "none of these".

The codes of the training images, averaged over the cells where they are not pooled and divided by
their length, are taken for draws from one normal distribution: probabilistic principal components
(Tipping and Bishop, "Probabilistic principal component analysis", 1999), a variance for each of
the first components and one variance for the rest. The squared Mahalanobis distance of an image to
their mean is its distance: with the variance of the rest it holds the residual of "virtual-logit
matching" (Wang et al., "ViM: Out-of-distribution with virtual-logit matching", 2022), in the units
of the training images. It needs neither the classes nor the head; docs/unknown.md compares it with
others.

The threshold comes from distances of training images to models that did not see them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold

from cnncodes.errors import ParameterError, TrainingError
from cnncodes.extract.store import CodeStore
from cnncodes.head.rows import CodeRows, read_ahead
from cnncodes.head.views import ImageViews
from cnncodes.models.metadata import REFUSED_FROM, UNKNOWN
from cnncodes.text import counted, listed, shown

if TYPE_CHECKING:
    import onnx

N_COMPONENTS = 64
N_FOLDS = 5
# Values of the mean codes that the statistics are taken from: half a gigabyte as float32.
MAX_VALUES = 1 << 27
FEWEST_IMAGES = 1000  # of them, however long the codes
LEAST_VARIANCE = 1e-6  # of a direction, relative to the mean variance
LEAST_SPREAD = 1e-10  # of all directions together, of codes of length one: below, float32 rounds
LEAST_LENGTH = 1e-6  # of a code, relative to the mean length
MEDIAN_SCORE = 0.1  # that of the median held-out training image
SHARPEST = 50.0
SAME_CODES = (
    "the codes of the training images do not differ enough to recognise what is unlike them; train "
    "without unknown, or use more images"
)
_BLOCK = 256


@dataclass(frozen=True)
class UnknownScore:
    """The score of "none of these", from 0 to 1; an image from 0.5 on is of no class.

    With the squared distance s of an image, the score is sigmoid(sharpness · log(s / threshold)).

    Attributes
    ----------
    unit : float
        Mean length of the training images' mean codes.
    mean : ndarray of float32, shape (n_channels,)
        Mean of their codes of length one.
    components : ndarray of float32, shape (n_channels, n_components)
        Directions of the largest variance, of length one.
    precisions : ndarray of float32, shape (n_components + n_channels,)
        Reciprocal standard deviations along the components, then that of the rest, repeated.
    threshold : float
        Squared distance that `share` of the held-out training images exceed.
    sharpness : float
        Such that their median has the score `MEDIAN_SCORE`.
    share : float
        The share.
    n_images : int
        Number of training images that it was fitted to.
    """

    unit: float
    mean: NDArray[np.float32]
    components: NDArray[np.float32]
    precisions: NDArray[np.float32]
    threshold: float
    sharpness: float
    share: float
    n_images: int

    @property
    def size(self) -> dict[str, int]:
        """Number of images and of components of the fit, as in `describe_unknown`."""
        return {"n_images": self.n_images, "n_components": self.components.shape[1]}

    def score(self, codes: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the scores, (n_images,), of mean codes (n_images, n_channels)."""
        with np.errstate(divide="ignore", over="ignore"):
            logarithms = np.log(self.squared_distances(codes)) - math.log(self.threshold)
            scores: NDArray[np.float64] = 1 / (1 + np.exp(-self.sharpness * logarithms))
        return scores

    def squared_distances(self, codes: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return squared distances, (n_images,), of mean codes (n_images, n_channels)."""
        centred = _directions(codes, self.unit) - self.mean
        points = centred @ self.components
        parts = np.concatenate([points, centred - points @ self.components.T], axis=1)
        deviations = parts.astype(np.float64) * self.precisions
        distances: NDArray[np.float64] = np.einsum("ij,ij->i", deviations, deviations)
        return distances

    def scores(self, rows: CodeRows, code_shape: Sequence[int]) -> NDArray[np.float64]:
        """Return the scores, (n_images,), of images of a codes file."""
        parts = [self.score(mean_codes(block, code_shape)) for _, block in rows.blocks()]
        return np.concatenate([np.empty(0), *parts])

    def add_to(self, head: onnx.ModelProto, code_shape: Sequence[int]) -> None:
        """Add the score to the graph of a head, in place, as its output ``unknown``.

        Parameters
        ----------
        head : onnx.ModelProto
            A head with the input ``codes``, of opset 18.
        code_shape : sequence of int
            Shape of one image's codes.
        """
        from onnx import TensorProto, helper, numpy_helper  # not for those who only measure

        offset = self.sharpness * math.log(self.threshold)
        constants = {
            "scale": np.float32(1 / self.unit),
            "least": np.float32(LEAST_LENGTH),
            "mean": self.mean,
            "components": self.components,
            "precisions": self.precisions,
            "sharpness": np.float32(self.sharpness),
            "offset": np.float32(offset),
            "axis": np.array([1], np.int64),
        }
        nodes: list[tuple[str, list[str], str, dict[str, Any]]] = [
            ("Mul", ["codes", "scale"], "scaled_codes", {}),
            ("ReduceL2", ["scaled_codes", "axis"], "lengths", {"keepdims": 1}),
            ("Max", ["lengths", "least"], "divisors", {}),
            ("Div", ["scaled_codes", "divisors"], "directions", {}),
            ("Sub", ["directions", "mean"], "centred", {}),
            ("MatMul", ["centred", "components"], "points", {}),
            ("Gemm", ["points", "components"], "explained", {"transB": 1}),
            ("Sub", ["centred", "explained"], "rest", {}),
            ("Concat", ["points", "rest"], "parts", {"axis": 1}),
            ("Mul", ["parts", "precisions"], "deviations", {}),
            ("ReduceSumSquare", ["deviations", "axis"], "distances", {"keepdims": 0}),
            ("Log", ["distances"], "logarithms", {}),
            ("Mul", ["logarithms", "sharpness"], "scaled", {}),
            ("Sub", ["scaled", "offset"], "logits", {}),
            ("Sigmoid", ["logits"], "score", {}),
        ]
        outer = {"unknown/codes": "codes", "unknown/score": UNKNOWN}
        if len(code_shape) > 1:
            constants["cells"] = np.arange(1, len(code_shape), dtype=np.int64)
            nodes.insert(0, ("ReduceMean", ["all", "cells"], "codes", {"keepdims": 0}))
            outer = {"unknown/all": "codes", "unknown/score": UNKNOWN}
        for operator, inputs, output, attributes in nodes:
            names = [f"unknown/{each}" for each in (*inputs, output)]
            *inputs, output = (outer.get(each, each) for each in names)
            node = helper.make_node(operator, inputs, [output], name=names[-1], **attributes)
            head.graph.node.append(node)
        head.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(value), f"unknown/{name}")
            for name, value in constants.items()
        )
        described = helper.make_tensor_value_info(UNKNOWN, TensorProto.FLOAT, ["N"])
        head.graph.output.append(described)


def images_of_class(store: CodeStore, name: str) -> NDArray[np.intp]:
    """Return the indices of the images of a class.

    Raises
    ------
    ParameterError
        The store has no such class.
    """
    if name not in store.class_names:
        raise ParameterError(
            f"none={name!r}: {store.path} has no class of that name, only "
            f"{shown(listed(store.class_names))}"
        )
    return np.flatnonzero(store.of_images(store.labels) == store.class_names.index(name))


def describe_unknown(
    score: UnknownScore, store: CodeStore, test: NDArray[np.intp], none: str | None
) -> dict[str, Any]:
    """Describe a score and measure it on the test part and on images of no class.

    Parameters
    ----------
    score : UnknownScore
        The score.
    store : CodeStore
        The codes file.
    test : ndarray of intp
        Its images that are tested on.
    none : str, optional
        The class of images of no class.

    Returns
    -------
    dict of str to JSON types
        ``share``, ``n_images`` and ``n_components`` of the fit; ``test_refused``, the share of the
        test part that is refused, None without any; with `none` its name, ``none_images``,
        ``none_refused`` and ``auroc``, which is None without test images.
    """
    shape, views = store.codes.shape[1:], ImageViews(store)
    known = score.scores(CodeRows(store, views.first_rows(test)), shape)
    described: dict[str, Any] = {
        "share": score.share,
        **score.size,
        "test_refused": refused_share(known),
    }
    if none is not None:
        rows = views.first_rows(images_of_class(store, none))
        foreign = score.scores(CodeRows(store, rows), shape)
        described |= {
            "none": none,
            "none_images": len(foreign),
            "none_refused": refused_share(foreign),
            "auroc": auroc(known, foreign),
        }
    return described


def refused_share(scores: NDArray[Any]) -> float | None:
    """Return the share of scores from which on an image is refused, None without any."""
    return float((scores >= REFUSED_FROM).mean()) if len(scores) else None


def auroc(known: NDArray[Any], foreign: NDArray[Any]) -> float | None:
    """Return the probability that an image of no class scores above one of a class, ties halved."""
    if not len(known) or not len(foreign):
        return None
    truth = np.repeat([0, 1], [len(known), len(foreign)])
    return float(roc_auc_score(truth, np.concatenate([known, foreign])))


def mean_codes(block: NDArray[np.float32], code_shape: Sequence[int]) -> NDArray[np.float32]:
    """Average flattened codes (n_images, n_features) over all axes of their shape but the last."""
    cells = block.reshape(len(block), -1, code_shape[-1])
    means: NDArray[np.float32] = cells.mean(axis=1)
    return means


def fit_unknown(
    rows: CodeRows, code_shape: Sequence[int], share: float, groups: NDArray[np.intp]
) -> UnknownScore:
    """Fit the score to training images.

    Parameters
    ----------
    rows : CodeRows
        The training images.
    code_shape : sequence of int
        Shape of one image's codes.
    share : float
        Share of images of the classes that is to be refused.
    groups : ndarray of intp, shape (n_images,)
        Images with equal numbers are held out together.

    Returns
    -------
    UnknownScore
        The threshold is the smallest held-out distance that at most `share` of new images of the
        same distribution exceed on average, as in conformal prediction.

    Raises
    ------
    TrainingError
        There are too few images for that share, all are of one group, or their codes hardly
        differ.
    """
    n_groups, fewest = len(np.unique(groups)), math.ceil(1 / share - 1 - 1e-9)
    if len(rows) < fewest or n_groups < 2:
        raise TrainingError(
            f"a refused share of {share:g} needs {counted(max(2, fewest), 'training image')} or "
            f"more, not all copies or of one group; there are {len(rows)} in "
            f"{counted(n_groups, 'group')}"
        )
    X, chosen = _read(rows, code_shape)
    numbers = groups[chosen]
    distances = np.empty(len(X))
    folds = GroupKFold(min(N_FOLDS, len(np.unique(numbers))))
    for train, held_out in folds.split(X, groups=numbers):
        distances[held_out] = _fit(X[train], share).squared_distances(X[held_out])
    distances.sort()
    rank = min(len(X), math.ceil((len(X) + 1) * (1 - share) - 1e-9))
    threshold, median = distances[rank - 1], float(np.median(distances))
    if not 0 < threshold < np.inf:
        raise TrainingError(SAME_CODES)
    spread = math.log(threshold / median) if median > 0 else math.inf
    sharpness = min(SHARPEST, math.log(1 / MEDIAN_SCORE - 1) / max(spread, 1e-9))
    return _fit(X, share, float(threshold), max(sharpness, 1.0))


def _read(
    rows: CodeRows, code_shape: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Read the mean codes of all images, or of as many, evenly spaced, as memory allows."""
    n_channels = code_shape[-1]
    n = min(len(rows), max(FEWEST_IMAGES, MAX_VALUES // n_channels))
    chosen = np.arange(n) * len(rows) // n
    X = np.empty((n, n_channels), np.float32)
    spans = [slice(start, start + _BLOCK) for start in range(0, n, _BLOCK)]
    for span, block in read_ahead(lambda span: rows.pick(chosen[span]), spans):
        X[span] = mean_codes(block, code_shape)
    return X, chosen


def _fit(
    X: NDArray[np.float32], share: float, threshold: float = 1.0, sharpness: float = 1.0
) -> UnknownScore:
    """Fit probabilistic principal components to mean codes (n_images, n_channels)."""
    n_images, n_channels = X.shape
    n_components = max(1, min(N_COMPONENTS, n_channels - 1, n_images // 4))
    largest = max(float(np.abs(X).max()), float(np.finfo(np.float32).tiny))  # no square overflows
    unit = largest * float(np.linalg.norm(X.astype(np.float64) / largest, axis=1).mean())
    if not 0 < unit < np.inf or not np.isfinite(np.float32(1 / unit)):
        raise TrainingError(SAME_CODES)
    directions = _directions(X, unit).astype(np.float64)
    total = float(np.var(directions, axis=0, ddof=1).sum())
    if not total > LEAST_SPREAD:
        raise TrainingError(SAME_CODES)
    pca = PCA(n_components, svd_solver="randomized", iterated_power=4, random_state=0)
    pca.fit(directions)
    # PCA's own `noise_variance_` is spread over as many directions as there are images, if there
    # are fewer than channels: it would depend on their number, and thresholds with it.
    rest = (total - pca.explained_variance_.sum()) / max(1, n_channels - n_components)
    variances = np.r_[pca.explained_variance_, np.repeat(rest, n_channels)]
    precisions = 1 / np.sqrt(np.fmax(variances, LEAST_VARIANCE * total / n_channels))
    return UnknownScore(
        unit=unit,
        mean=pca.mean_.astype(np.float32),
        components=np.ascontiguousarray(pca.components_.T, np.float32),
        precisions=precisions.astype(np.float32),
        threshold=threshold,
        sharpness=sharpness,
        share=share,
        n_images=n_images,
    )


def _directions(codes: NDArray[np.float32], unit: float) -> NDArray[np.float32]:
    """Divide codes (n_images, n_channels) by their lengths, very short ones by less."""
    scaled = codes * np.float32(1 / unit)
    lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
    directions: NDArray[np.float32] = scaled / np.maximum(lengths, np.float32(LEAST_LENGTH))
    return directions
