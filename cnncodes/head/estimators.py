"""Any scikit-learn classifier as a head: fitted, converted by skl2onnx, compared with its graph.

The estimator is fitted to flattened codes as they are stored, as float32 and all in memory, and to
classes as integers from 0 on. The graph of skl2onnx is run on some images and compared with the
estimator, since a conversion may ignore parameters.
"""

from __future__ import annotations

import math
import pickle
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import SVC
from sklearn.utils.validation import has_fit_parameter

from cnncodes.bounds import MAX_MODEL_BYTES
from cnncodes.errors import CnncodesError, MissingDependencyError, ParameterError, TrainingError
from cnncodes.head.head_onnx import ML_OPSET, OPSET, make_head
from cnncodes.head.rows import CodeRows
from cnncodes.head.scaling import read_all
from cnncodes.machine import available_threads
from cnncodes.models.metadata import HeadInfo
from cnncodes.models.safety import OPERATORS
from cnncodes.text import counted, shortened

N_COMPONENTS = 256
N_FOLDS = 5
N_NEIGHBORS = 10
MAX_SVM_CLASSES = 40  # beyond it conversion takes minutes, and inference a second per image
TOLERANCE = 1e-3  # of a probability: the graph computes in float32, most estimators do not
TOLERATED = 0.01  # share of images beyond it: neighbours equally near, a threshold of a tree
MAX_PARAMETER_LENGTH = 1000  # in a head's metadata
WITHOUT_PROBABILITIES = (
    "has no predict_proba, and a head gives probabilities; wrap it, or the part of it that "
    "decides, in sklearn.calibration.CalibratedClassifierCV"
)
_COUNTED = re.compile(r"\b(UU|cdistdf?_)\d+(UU|_)")  # names of skl2onnx 1.20
SMALLEST = np.finfo(np.float32).eps  # what a probability of 0 counts as in the loss


def _svm(y: NDArray[np.int32], groups: NDArray[np.intp], n_features: int, seed: int) -> Any:
    counts = np.bincount(y)
    if len(counts) > MAX_SVM_CLASSES:
        raise TrainingError(
            f"svm: {len(counts)} classes are more than {MAX_SVM_CLASSES}, and its graph compares "
            "each pair of them; use knn or logistic"
        )
    if counts.min() < 2:
        raise TrainingError(
            "svm: a class has one training image, and its probabilities are calibrated by "
            "cross-validation; add images, or use knn or logistic"
        )
    # Shuffled, since images that follow each other are often alike.
    folds = StratifiedKFold(int(min(N_FOLDS, counts.min())), shuffle=True, random_state=seed)
    if len(np.unique(groups)) < len(groups):
        folds = _grouped_folds(y, groups, seed)
    return make_pipeline(
        _pca(y, n_features), CalibratedClassifierCV(SVC(C=10), cv=folds, ensemble=False)
    )


class _Folds(list[tuple[NDArray[np.intp], NDArray[np.intp]]]):
    """Folds as lists of rows, whose repr in a head's metadata is their number."""

    def __repr__(self) -> str:
        return f"{len(self)} folds that keep groups together"


def _grouped_folds(y: NDArray[np.int32], groups: NDArray[np.intp], seed: int) -> _Folds:
    """Return folds that keep groups together and have each class in their training part."""
    cells = np.unique(np.stack([y, groups], axis=1), axis=0)
    n_groups = int(np.bincount(cells[:, 0]).min())
    for n_folds in range(min(N_FOLDS, n_groups), 1, -1):
        folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
        parts = _Folds(folds.split(y, y, groups))
        n_classes = len(np.unique(y))
        if all(len(held_out) and len(np.unique(y[rest])) == n_classes for rest, held_out in parts):
            return parts
    raise TrainingError(
        "svm: the training images of a class are all copies of one or of one group, and its "
        "probabilities are calibrated by cross-validation; add images, or use knn or logistic"
    )


def _knn(y: NDArray[np.int32], groups: NDArray[np.intp], n_features: int, seed: int) -> Any:
    return make_pipeline(_pca(y, n_features), KNeighborsClassifier(min(N_NEIGHBORS, len(y))))


def _pca(y: NDArray[np.int32], n_features: int) -> PCA:
    return PCA(min(N_COMPONENTS, len(y) - 1, n_features))


# Functions of the classes and groups of the training images, the number of features and a seed.
NAMED: dict[str, Callable[[NDArray[np.int32], NDArray[np.intp], int, int], Any]] = {
    "svm": _svm,
    "knn": _knn,
}


class EstimatorHead:
    """A fitted estimator as an ONNX graph, ready to run.

    Parameters
    ----------
    model : onnx.ModelProto
        A head without metadata.
    parameters : dict
        Parameters of the estimator; JSON types only.

    Attributes
    ----------
    is_weighted : bool
        Whether the estimator was fitted with weights of the images.
    """

    is_weighted = False

    def __init__(self, model: onnx.ModelProto, parameters: dict[str, Any]) -> None:
        import onnxruntime

        self.parameters = parameters
        self._model = model
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = available_threads()
        options.log_severity_level = 4  # errors are raised as exceptions too
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def probabilities(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return probabilities, (n_images, n_classes), for codes (n_images, n_features)."""
        (codes,) = self._session.get_inputs()
        probabilities: NDArray[np.float32]
        probabilities = self._session.run(None, {"codes": X.reshape(len(X), *codes.shape[1:])})[0]
        return probabilities

    def log_probabilities(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return their logarithms; a probability of 0 counts as the float32 epsilon."""
        logarithms: NDArray[np.float32] = np.log(self.probabilities(X).clip(SMALLEST))
        return logarithms

    def to_onnx(self, code_shape: Sequence[int], info: HeadInfo) -> onnx.ModelProto:
        """Return the graph with metadata."""
        helper.set_model_props(self._model, info.to_metadata("head"))
        return self._model


def name_of(estimator: Any) -> str:
    """Return an estimator's name; for an object, that of its class."""
    return estimator if isinstance(estimator, str) else type(estimator).__name__


def check_estimator(estimator: Any) -> None:
    """Refuse an estimator that cannot become a head, before any training.

    Parameters
    ----------
    estimator : str or estimator
        One of `NAMED`, or a scikit-learn classifier.

    Raises
    ------
    ParameterError
        There is no such name, or the object is no classifier with probabilities.
    MissingDependencyError
        skl2onnx is not installed.
    """
    name = name_of(estimator)
    if isinstance(estimator, str):
        if estimator not in NAMED:
            raise ParameterError(
                f"no estimator {estimator!r}; there are auto, logistic, ridge, sgd, "
                f"{' and '.join(NAMED)}, and in Python any classifier of scikit-learn"
            )
    elif not isinstance(estimator, BaseEstimator) or not is_classifier(estimator):
        raise ParameterError(
            f"{textwrap.shorten(repr(estimator), 80)} is no classifier; give an object such as "
            "sklearn.neighbors.KNeighborsClassifier(), or a Pipeline that ends in one"
        )
    elif not _may_have_probabilities(estimator):
        raise ParameterError(f"{name} {WITHOUT_PROBABILITIES}")
    if find_spec("skl2onnx") is None:
        raise MissingDependencyError(f"{name} needs skl2onnx; pip install 'cnncodes[estimators]'")


def _may_have_probabilities(estimator: Any) -> bool:
    """Return whether an estimator has ``predict_proba``, or may have it once it is fitted."""
    if isinstance(estimator, VotingClassifier):
        parts = [part for _, part in estimator.estimators if not isinstance(part, str)]
        return estimator.voting == "soft" and all(map(_may_have_probabilities, parts))
    if hasattr(estimator, "predict_proba"):
        return True
    if isinstance(estimator, Pipeline):
        return _may_have_probabilities(estimator.steps[-1][1])
    if isinstance(estimator, StackingClassifier):
        last = estimator.final_estimator
        return last is None or _may_have_probabilities(last)  # None is a logistic regression
    part = getattr(estimator, "estimator", None)
    if part is not None and hasattr(type(estimator), "predict_proba"):
        return _may_have_probabilities(part)
    # Classifiers of scikit-learn have it before they are fitted; of others that is not known.
    return not type(estimator).__module__.startswith("sklearn.")


def fit_estimator(
    estimator: Any,
    rows: CodeRows,
    y: NDArray[np.int32],
    sample: CodeRows,
    code_shape: Sequence[int],
    *,
    seed: int = 0,
    groups: NDArray[np.intp] | None = None,
    weights: NDArray[np.float64] | None = None,
) -> EstimatorHead:
    """Fit an estimator, convert it to ONNX and compare the two.

    Parameters
    ----------
    estimator : str or estimator
        One of `NAMED`, or a scikit-learn classifier, of which a clone is fitted. ``svm`` is an
        SVM with an RBF kernel whose decisions become probabilities by a sigmoid (Platt,
        "Probabilistic outputs for support vector machines", 1999), ``knn`` a vote of the
        nearest training images; both on 256 principal components. ``svm`` accepts 40 classes at
        most.
    rows : CodeRows
        The training images.
    y : ndarray of int32, shape (n_images,)
        Their classes, from 0 on without gaps; two or more.
    sample : CodeRows
        The images on which estimator and graph are compared.
    code_shape : sequence of int
        Shape of one image's codes.
    seed : int
        For the estimator, and each step of a Pipeline, whose ``random_state`` is not set.
    groups : ndarray of int, shape (n_images,), optional
        Images with equal numbers are in one fold where ``svm`` calibrates its probabilities.
    weights : ndarray of float64, shape (n_images,), optional
        How much each image counts, for an estimator, or last step of a Pipeline, whose ``fit`` has
        the parameter ``sample_weight``.

    Returns
    -------
    EstimatorHead
        The graph.

    Raises
    ------
    TrainingError
        The estimator cannot be fitted or converted, or its graph is too large or differs in its
        probabilities.
    """
    name = name_of(estimator)
    with _as_training_errors(f"{name}: cannot be trained"), warnings.catch_warnings():
        # numpy warns where codes do not differ; the result is compared below.
        warnings.simplefilter("ignore", RuntimeWarning)
        if isinstance(estimator, str):
            numbers = np.arange(len(y)) if groups is None else groups
            model = NAMED[estimator](y, numbers, rows.n_features, seed)
        else:
            model = clone(estimator)
        options = {} if weights is None else _weights_for(model, weights)
        model = _seeded(model, seed).fit(read_all(rows), y.astype(np.int64), **options)
        if not hasattr(model, "predict_proba"):
            raise TrainingError(f"{name}: once fitted, it {WITHOUT_PROBABILITIES}")
        X = read_all(sample)
        expected = model.predict_proba(X)
    shape = (len(sample), int(y.max()) + 1)
    if np.shape(expected) != shape:
        raise TrainingError(
            f"{name}: its probabilities are of shape {np.shape(expected)}, not {shape}: one per "
            "image and class"
        )
    check_size(name, model)
    with _as_training_errors(f"{name}: skl2onnx cannot convert it"):
        parameters = {key: _plain(value) for key, value in model.get_params(deep=False).items()}
        head = EstimatorHead(_convert(model, rows.n_features, shape[1], code_shape), parameters)
        head.is_weighted = bool(options)
        computed = head.probabilities(X)
    try:
        check_agreement(name, computed, expected)
    except TrainingError as error:
        n_twice = 0 if groups is None else _n_of_several_classes(y, groups)
        if estimator != "knn" or not n_twice:
            raise
        raise TrainingError(
            f"knn: {counted(n_twice, 'training image')} of several classes, whose copies are "
            "equally near, so that chance decides which of them count; give each image one class, "
            "or use logistic"
        ) from error
    return head


def _weights_for(model: Any, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return weights as a parameter of an estimator's ``fit``, none where it has no such one."""
    path, last = "", model
    while isinstance(last, Pipeline):
        name, last = last.steps[-1]
        path += f"{name}__"
    return {f"{path}sample_weight": weights} if has_fit_parameter(last, "sample_weight") else {}


def _n_of_several_classes(y: NDArray[np.int32], groups: NDArray[np.intp]) -> int:
    """Return the number of groups with images of more than one class."""
    cells = np.unique(np.stack([y, groups], axis=1), axis=0)
    return int((np.unique(cells[:, 1], return_counts=True)[1] > 1).sum())


def check_size(name: str, model: Any) -> None:
    """Refuse a fitted estimator whose arrays are larger than an ONNX file can be.

    A conversion would first need many times its size in memory.

    Raises
    ------
    TrainingError
        The file would exceed 2 GB; the error begins with `name`.
    """
    n_bytes = 0

    def count(array: pickle.PickleBuffer) -> None:
        nonlocal n_bytes
        view = memoryview(array)
        n_bytes += 4 * (view.nbytes // view.itemsize)  # stored as float32

    with _as_training_errors(f"{name}: cannot be measured"):
        pickle.dumps(model, protocol=5, buffer_callback=count)
    if n_bytes > MAX_MODEL_BYTES:
        raise TrainingError(
            f"{name}: its file would have {n_bytes / 1e9:.1f} GB, and ONNX ends at 2 GB; put a "
            "PCA before it, use fewer images or extract with a backbone exported with pool avg"
        )


def check_agreement(name: str, computed: NDArray[Any], expected: NDArray[Any]) -> None:
    """Refuse a graph whose probabilities differ from those of the estimator.

    Different classes are allowed where two are equally probable.

    Parameters
    ----------
    name : str
        Named in the error.
    computed, expected : ndarray, shape (n_images, n_classes)
        Probabilities of the graph and of the estimator.

    Raises
    ------
    TrainingError
        They differ, or do not add up to 1.
    """
    if computed.shape != expected.shape:
        raise TrainingError(
            f"{name}: its graph computes probabilities of shape {computed.shape}, not "
            f"{expected.shape}; choose another estimator"
        )
    if not np.abs(computed.sum(axis=1) - 1).max() <= TOLERANCE:
        raise TrainingError(f"{name}: its probabilities do not add up to 1; calibrate it")
    difference = np.abs(computed - expected).max(axis=1)
    apart = ~(difference <= TOLERANCE)
    n_other = int((apart & (computed.argmax(axis=1) != expected.argmax(axis=1))).sum())
    if n_other or apart.sum() > max(1, TOLERATED * len(apart)):
        raise TrainingError(
            f"{name}: its conversion by skl2onnx differs: of {len(apart)} images, "
            f"{apart.sum()} get probabilities that differ by up to {difference.max():.2g}, "
            f"{n_other} another class; choose other parameters or another estimator"
        )


def _seeded(model: Any, seed: int) -> Any:
    """Set each ``random_state`` that is None."""
    unset = [
        key
        for key, value in model.get_params().items()
        if value is None and key.rpartition("__")[2] == "random_state"
    ]
    return model.set_params(**dict.fromkeys(unset, seed))


def _convert(
    model: Any, n_features: int, n_classes: int, code_shape: Sequence[int]
) -> onnx.ModelProto:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs

    opsets = {"": OPSET, "ai.onnx.ml": ML_OPSET}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses deprecated attributes of scikit-learn
        converted = convert_sklearn(
            model,
            initial_types=[("flat", FloatTensorType([None, n_features]))],
            final_types=[("label", None), ("probabilities", None)],
            options={"zipmap": False},
            target_opset=opsets,
        )
    graph = select_model_inputs_outputs(converted, "probabilities").graph
    _renumber(graph)
    used = {name for node in graph.node for name in node.input}
    constants = [each for each in graph.initializer if each.name in used]  # some were the label's
    head = make_head(graph.node, constants, code_shape, n_classes, opsets)
    onnx.checker.check_model(head, full_check=True)
    unknown = sorted({node.op_type for node in head.graph.node} - OPERATORS)
    if unknown:
        raise ValueError(f"its graph needs the operator {unknown[0]}, which is not opened")
    return head


def _renumber(graph: onnx.GraphProto) -> None:
    """Renumber the names that skl2onnx counts per process: equal heads have equal bytes."""
    numbers: dict[str, int] = {}

    def renamed(name: str) -> str:
        return _COUNTED.sub(lambda m: f"{m[1]}{numbers.setdefault(m[0], len(numbers))}{m[2]}", name)

    def walk(graph: onnx.GraphProto) -> None:
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            value.name = renamed(value.name)
        for node in graph.node:
            node.name = renamed(node.name)
            node.input[:] = map(renamed, node.input)
            node.output[:] = map(renamed, node.output)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    walk(attribute.g)

    walk(graph)


def _plain(value: Any) -> Any:
    """Return a parameter as a JSON type; of other types its repr."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    text = value if isinstance(value, str) else " ".join(repr(value).split())
    return shortened(text, MAX_PARAMETER_LENGTH)


@contextmanager
def _as_training_errors(what: str) -> Iterator[None]:
    """Raise as a one-line error what an estimator or its conversion raised."""
    try:
        yield
    except (CnncodesError, MemoryError):
        raise
    except Exception as error:
        reason = textwrap.shorten(str(error), 300, placeholder=" …") or type(error).__name__
        raise TrainingError(f"{what} ({reason})") from error
