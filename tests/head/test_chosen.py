"""Ridge, normalisation, temperature and refit, through `train`, against scikit-learn by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from cnncodes.app.explain import LinearHead as Explained
from cnncodes.errors import ParameterError
from cnncodes.evaluate.evaluate import evaluate
from cnncodes.evaluate.metrics import measure
from cnncodes.head.calibration import calibration_error
from cnncodes.head.logistic.solve import stratified_folds
from cnncodes.head.normalize import normalized
from cnncodes.head.ridge import DualSquares, PrimalSquares
from cnncodes.head.temperature import OutOfFold
from cnncodes.head.train import train_head
from tests.helpers import error_of, info_of, run_command, write_labelled_codes

N_CLASSES = 4


@pytest.fixture(scope="module", params=[24, 150], ids=["more images", "more numbers"])
def problem(request, tmp_path_factory):
    """Codes of overlapping classes, 100 images of 24 or 150 numbers."""
    generator = np.random.default_rng(0)
    y = np.repeat(np.arange(N_CLASSES), 25)
    centres = generator.normal(size=(N_CLASSES, request.param))
    X = (centres[y] * 0.5 + generator.normal(size=(len(y), request.param))).astype(np.float32)
    file = tmp_path_factory.mktemp("chosen") / "codes.h5"
    write_labelled_codes(file, X, y.tolist(), ("a", "b", "c", "d"))
    return file, X, y


def parameters_of(head):
    tensors = {each.name: numpy_helper.to_array(each) for each in onnx.load(head).graph.initializer}
    return tensors["weights"], tensors["bias"]


def standardised(X):
    X = X.astype(np.float64)
    mean = X.mean(axis=0)
    return mean, np.sqrt(np.square(X - mean).sum(axis=1).mean())


def test_refit_of_ridge_is_ridge_on_all_images(problem, tmp_path):
    file, X, y = problem
    result = train_head(file, tmp_path / "head.onnx", estimator="ridge", refit=True)
    mean, spread = standardised(X)
    model = Ridge(alpha=1 / result.fitted["C"]).fit((X - mean) / spread, np.eye(N_CLASSES)[y])
    weights, bias = parameters_of(tmp_path / "head.onnx")
    wanted = model.coef_.T / spread / result.fitted["temperature"]
    assert np.abs(weights - wanted).max() < 1e-5 * np.abs(wanted).max()
    wanted_bias = model.intercept_ / result.fitted["temperature"] - mean @ wanted
    assert bias == pytest.approx(wanted_bias, abs=1e-5 * np.abs(wanted_bias).max())


def test_refit_of_logistic_is_logistic_on_all_images(problem, tmp_path):
    file, X, y = problem
    train_head(file, tmp_path / "head.onnx", estimator="logistic", C=3.0, refit=True)
    mean, spread = standardised(X)
    model = LogisticRegression(C=3.0, tol=1e-10, max_iter=10_000).fit((X - mean) / spread, y)
    weights, _ = parameters_of(tmp_path / "head.onnx")
    wanted = model.coef_.T / spread
    wanted -= wanted.mean(axis=1, keepdims=True)
    found = weights - weights.mean(axis=1, keepdims=True)
    assert np.abs(found - wanted).max() < 1e-3 * np.abs(wanted).max()


def test_refit_says_what_measured_and_what_trained(problem, tmp_path):
    file, _, y = problem
    head = tmp_path / "head.onnx"
    result = train_head(file, head, estimator="ridge", refit=True)
    info = info_of(head)
    assert (len(info.training_images), len(info.measured_images)) == (len(y), result.test.n_images)
    message = error_of("evaluate", head, file)
    assert f"those kept out measured it: {result.test.n_images} images" in message
    assert f"accuracy {result.test.accuracy:.1%}" in message
    notes = evaluate(head, file, include_training=True).notes
    assert any("those kept out measured it" in note for note in notes)
    before = train_head(file, tmp_path / "other.onnx", estimator="ridge")
    assert (before.train, before.test) == (result.train, result.test)
    assert info_of(tmp_path / "other.onnx").measured_images == frozenset()


def test_fraction_of_one_is_measured_by_cross_validation(problem, tmp_path):
    file, X, y = problem
    result = train_head(file, tmp_path / "head.onnx", estimator="logistic", C=1.0, train_fraction=1)
    assert result.train.n_images == result.test.n_images == len(y)
    n_right = 0
    for train, held in StratifiedKFold(5, shuffle=True, random_state=0).split(X, y):
        mean, spread = standardised(X[train])
        model = LogisticRegression(tol=1e-8, max_iter=1000)
        model.fit((X[train] - mean) / spread, y[train])
        n_right += int((model.predict((X[held] - mean) / spread) == y[held]).sum())
    assert result.test.accuracy == pytest.approx(n_right / len(y))
    message = error_of("evaluate", tmp_path / "head.onnx", file)
    assert "cross-validation on its training images measured it" in message


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", ["single", "groups", "folds", "large folds"])
def test_residuals_are_those_of_fits_without_the_images(problem, monkeypatch, kind, dtype):
    _, X, y = problem
    if kind == "large folds":
        monkeypatch.setattr("cnncodes.head.ridge._BLOCK", 16)
    points, Y = X.astype(np.float64) - X.mean(axis=0, dtype=np.float64), np.eye(N_CLASSES)[y]
    points /= np.sqrt(np.square(points).sum(axis=1).mean())
    numbers = np.random.default_rng(3).permutation(np.arange(100) // (4 if kind == "groups" else 1))
    folds = [np.flatnonzero(numbers == each) for each in np.unique(numbers)]
    if "folds" in kind:
        folds = [held for _, held in stratified_folds(y, 5, 0, None)]
    K = points @ points.T
    for squares in DualSquares(K.astype(dtype), y), PrimalSquares(points.astype(dtype), y):
        found = squares.residuals(0.5, folds)
        for held in folds[::9] if len(folds) > 9 else folds:
            others = np.setdiff1d(np.arange(100), held)
            model = Ridge(alpha=0.5).fit(points[others], Y[others])
            wanted = Y[held] - model.predict(points[held])
            assert found[held] == pytest.approx(wanted, abs=1e-9 if dtype == np.float64 else 1e-4)


def test_images_whose_class_has_no_other_group_are_not_scored(problem):
    _, X, y = problem
    points = (X - X.mean(axis=0)).astype(np.float64)
    groups = np.where(y == 2, 0, np.arange(100))
    folds = [np.flatnonzero(groups == each) for each in np.unique(groups)]
    scored = PrimalSquares(points, y).out_of_fold(1.0, folds)
    assert sorted(set(scored.y)) == [0, 1, 3]
    assert DualSquares(points @ points.T, y).out_of_fold(1.0, [np.arange(100)]) is None


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
def test_weights_from_float32_are_those_of_float64(problem, C):
    _, X, y = problem
    points = X.astype(np.float64) - X.mean(axis=0, dtype=np.float64)
    points = (points / np.sqrt(np.square(points).sum(axis=1).mean())).astype(np.float32)
    model = Ridge(alpha=1 / C).fit(points.astype(np.float64), np.eye(N_CLASSES)[y])
    K = points.astype(np.float64) @ points.T.astype(np.float64)
    size = np.abs(model.coef_).max()
    dual = points.T.astype(np.float64) @ DualSquares(K.astype(np.float32), y).weights(1 / C)
    for weights in dual, PrimalSquares(points, y).weights(1 / C):
        assert np.abs(weights - model.coef_.T).max() < 1e-5 * size


def test_too_weak_a_penalty_is_refused_in_one_line(tmp_path):
    X = np.ones((40, 60), np.float32)
    X[:, :2] = np.random.default_rng(0).normal(size=(40, 2))
    write_labelled_codes(tmp_path / "codes.h5", X, [0, 1] * 20, ("a", "b"))
    message = error_of(
        "train",
        tmp_path / "codes.h5",
        "-o",
        tmp_path / "h.onnx",
        "--estimator",
        "ridge",
        "--C",
        1e8,
    )
    assert "is so weak a penalty for least squares" in message
    assert not (tmp_path / "h.onnx").exists()


@pytest.mark.parametrize("how", ["sqrt", "length", "sqrt+length"])
def test_normalised_head_is_evaluated_as_it_was_measured(problem, tmp_path, how):
    file, _, _ = problem
    result = train_head(file, tmp_path / "head.onnx", estimator="ridge", normalize=how)
    metrics = evaluate(tmp_path / "head.onnx", file).metrics
    assert metrics.accuracy == result.test.accuracy
    assert metrics.log_loss == pytest.approx(result.test.loss, abs=1e-5)
    assert info_of(tmp_path / "head.onnx").normalize == how


@pytest.mark.parametrize("estimator", ["logistic", "ridge"])
@pytest.mark.parametrize("how", ["standardize", "sqrt+standardize"])
def test_standardised_head_is_that_of_a_standard_scaler(problem, tmp_path, estimator, how):
    _, X, y = problem
    X = X * np.geomspace(1e-3, 1e3, X.shape[1], dtype=np.float32)
    X[:, 5] = 7  # a code that does not vary
    file, head = tmp_path / "codes.h5", tmp_path / "head.onnx"
    write_labelled_codes(file, X, y.tolist(), ("a", "b", "c", "d"))
    options = {"C": 3.0, "normalize": how, "refit": True}
    result = train_head(file, head, estimator=estimator, **options)
    if how != "standardize":
        X = np.sign(X) * np.sqrt(np.abs(X))
    scaled = StandardScaler().fit_transform(X.astype(np.float64))
    scaled /= standardised(scaled)[1]
    if estimator == "ridge":
        model = Ridge(alpha=1 / 3).fit(scaled, np.eye(N_CLASSES)[y])
        wanted = model.predict(scaled) / result.fitted["temperature"]
    else:
        wanted = LogisticRegression(C=3.0, tol=1e-10, max_iter=10_000).fit(scaled, y)
        wanted = wanted.decision_function(scaled)
    weights, bias = parameters_of(head)
    logits = X @ weights + bias
    centred = [each - each.mean(axis=1, keepdims=True) for each in (logits, wanted)]
    assert np.abs(centred[0] - centred[1]).max() < 1e-3 * np.abs(centred[1]).max()
    assert info_of(head).training["fitted"]["standardize"]
    in_graph = how.removesuffix("standardize").removesuffix("+")
    assert info_of(head).normalize == (in_graph or "none"), "standardization is in the weights"
    assert evaluate(head, file, include_training=True).metrics.accuracy > 0.85


@pytest.mark.parametrize("pool", ["none", "avg", "max"])
@pytest.mark.parametrize("how", ["none", "sqrt", "length", "sqrt+length"])
def test_evidence_in_a_normalised_head_adds_up(tmp_path, monkeypatch, pool, how):
    generator = np.random.default_rng(1)
    features = np.maximum(generator.normal(size=(3, 3, 8)), 0).astype(np.float32)
    codes = {"none": features.ravel(), "avg": features.mean((0, 1)), "max": features.max((0, 1))}
    weights = generator.normal(size=(len(codes[pool]), 3)).astype(np.float32)
    bias = generator.normal(size=3).astype(np.float32)
    logits = normalized(codes[pool][np.newaxis], how)[0] @ weights + bias
    monkeypatch.setattr("cnncodes.app.explain.read_weights", lambda *_: (weights, bias))
    head = Explained(tmp_path / "app.onnx", ("a", "b", "c"), pool, how)
    explanation = head.explain(features, softmax(logits), "b")
    assert explanation.logit == pytest.approx(logits[1], abs=1e-4)
    assert explanation.contributions.sum() + bias[1] == pytest.approx(logits[1], abs=1e-4)


def test_temperature_has_the_least_log_loss():
    generator = np.random.default_rng(2)
    y = generator.integers(0, 3, 2000)
    logits = 4.0 * (np.eye(3)[y] + generator.normal(size=(2000, 3)))
    each = OutOfFold(logits, y)
    best = each.temperature()
    assert each.loss(best) < min(each.loss(best * 1.1), each.loss(best / 1.1), each.loss())
    assert each.calibration_error(best) < each.calibration_error()
    alike = OutOfFold(np.eye(3)[y[:20]], y[:20])  # all right
    assert 0.5 < np.exp(log_softmax(alike.logits / alike.temperature(), axis=1)).max() < 0.999


def test_calibration_error_is_that_of_an_evaluation():
    generator = np.random.default_rng(3)
    p = softmax(generator.normal(size=(300, 4)), axis=1).astype(np.float32)
    y = generator.integers(0, 4, 300)
    wanted = measure(p, y, ["a", "b", "c", "d"]).calibration_error
    assert calibration_error(p, y) == pytest.approx(wanted, abs=1e-6)


def test_choice_without_cross_validation_is_not_called_one(problem, tmp_path):
    file, _, _ = problem
    head = tmp_path / "head.onnx"
    output = run_command("train", file, "-o", head, "--per-class", 1).stdout
    assert "the first of logistic, ridge: too few images or groups for cross-validation" in output
    assert "chosen by cross-validation" not in output + run_command("info", head).stdout


def test_auto_takes_the_better_one_and_says_so(problem, tmp_path: Path):
    file, _, _ = problem
    output = run_command("train", file, "-o", tmp_path / "head.onnx", "--estimator", "auto").stdout
    assert "chosen by cross-validation among logistic, ridge" in output
    assert ("temperature" in output) == ("ridge," in output.split("among")[0])
    compared = info_of(tmp_path / "head.onnx").training["fitted"]["compared"]
    assert set(compared) == {"logistic", "ridge"}


def test_kinds_and_normalisations_that_were_compared_are_told_apart(problem, tmp_path: Path):
    file, _, _ = problem
    head = tmp_path / "head.onnx"
    output = run_command("train", file, "-o", head, "--normalize", "auto").stdout
    assert "among logistic (none), ridge (none), logistic (sqrt), ridge (sqrt), " in output


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"estimator": "sgd", "refit": True}, "refit is not for"),
        ({"train_fraction": 1, "refit": True}, "leave out refit=True"),
        ({"estimator": "sgd", "normalize": "sqrt"}, "normalize are for"),
        ({"estimator": "ridge", "class_weight": "balanced"}, "class_weight is for"),
        ({"normalize": "auto", "C": 3.0}, "normalize auto is chosen"),
        ({"normalize": "cube"}, "normalize must be"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, parameters, reason):
    with pytest.raises(ParameterError, match=reason):
        train_head(tmp_path / "codes.h5", tmp_path / "head.onnx", **parameters)
