"""Weights of images and probabilities of labels: in training, and never in testing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cnncodes.head import GramLogisticRegression
from cnncodes.head.logistic.newton import masses_of
from cnncodes.head.ridge import DualSquares, PrimalSquares
from cnncodes.head.sgd.descent import Descent, Nesterov
from cnncodes.head.train import train_head
from cnncodes.models.metadata import image_key
from tests.helpers import (
    append_rows,
    create_journal,
    digest_of,
    error_of,
    info_of,
    run_command,
    write_codes,
)

C = 3.0


class Images:
    """Images in classes that overlap, with weights and doubtful labels."""

    def __init__(self, n: int, n_features: int, n_classes: int, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.y = random.integers(0, n_classes, n)
        centres = random.normal(0, 1, (n_classes, n_features))
        self.X = (centres[self.y] + random.normal(0, 3, (n, n_features))).astype(np.float32)
        self.n_classes = n_classes
        self.weights = random.choice([0.25, 1.0, 2.0, 7.5], n)
        self.probabilities = random.choice([0.4, 2 / 3, 1.0, 1.0], n)

    def write(self, path: Path, *names: str) -> Path:
        columns = {name: getattr(self, name).tolist() for name in names}
        columns["digests"] = [digest_of(number) for number in range(len(self.y))]
        return write_codes(path, self.X, self.y, **columns)


SHAPES = [(60, 200, 2), (60, 200, 4), (200, 20, 2), (200, 20, 4)]


@pytest.fixture(params=SHAPES, ids=str)
def images(request: pytest.FixtureRequest) -> Images:
    return Images(*request.param)


def weights_in(head: Path) -> tuple[np.ndarray, np.ndarray]:
    constants = {each.name: each for each in onnx.load(str(head)).graph.initializer}
    names = ("weights", "bias")
    weights, bias = (numpy_helper.to_array(constants[name]).astype(float) for name in names)
    return weights, bias


def standardised(X: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """What the head's C is on: centred codes of mean squared length one."""
    X = X.astype(np.float64)
    mean = X.mean(axis=0)
    spread = float(np.sqrt(((X - mean) ** 2).sum(axis=1).mean()))
    return (X - mean) / spread, mean, spread


def assert_close(actual: np.ndarray, wanted: np.ndarray) -> None:
    assert np.abs(actual - wanted).max() <= 1e-5 * np.abs(wanted).max()


def centred(bias: np.ndarray) -> np.ndarray:
    """A number that is added to all logits changes nothing."""
    return bias - bias.mean()


@pytest.mark.parametrize(
    "names", [(), ("weights",), ("probabilities",), ("weights", "probabilities")]
)
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_logistic_is_that_of_scikit_learn(
    images: Images, tmp_path: Path, names: tuple[str, ...], class_weight: str | None
) -> None:
    """Each image is repeated once a class there, with its masses as sample weights."""
    codes, head = images.write(tmp_path / "codes.h5", *names), tmp_path / "head.onnx"
    train_head(codes, head, C=C, refit=True, class_weight=class_weight)
    Z, mean, spread = standardised(images.X)
    model = LogisticRegression(
        C=C, solver="newton-cg", tol=1e-9, max_iter=1000, class_weight=class_weight
    )
    if names == ("weights",):
        model.fit(Z, images.y, sample_weight=images.weights)
    else:
        sure = images.probabilities if names else None
        sample_weight = masses_of(images.y, images.n_classes, None, sure)
        if "weights" in names:
            sample_weight *= images.weights[:, np.newaxis]
        repeated = np.repeat(Z, images.n_classes, axis=0)
        classes = np.tile(np.arange(images.n_classes), len(Z))
        model.fit(repeated, classes, sample_weight=sample_weight.ravel())
    coef, intercept = model.coef_, model.intercept_
    if images.n_classes == 2:
        coef, intercept = np.vstack([-coef, coef]) / 2, np.r_[-intercept, intercept] / 2
    weights, bias = weights_in(head)
    assert_close(weights, coef.T / spread)
    np.testing.assert_allclose(
        centred(bias + mean @ weights), centred(intercept), atol=2e-5 * np.abs(coef).max()
    )


@pytest.mark.parametrize("names", [("weights",), ("probabilities",), ("weights", "probabilities")])
def test_ridge_is_that_of_scikit_learn(
    images: Images, tmp_path: Path, names: tuple[str, ...]
) -> None:
    codes, head = images.write(tmp_path / "codes.h5", *names), tmp_path / "head.onnx"
    trained = train_head(codes, head, C=C, estimator="ridge", refit=True)
    Z, mean, spread = standardised(images.X)
    sure = images.probabilities if "probabilities" in names else None
    targets = masses_of(images.y, images.n_classes, None, sure)
    sample_weight = images.weights if "weights" in names else None
    model = Ridge(alpha=1 / C).fit(Z, targets, sample_weight=sample_weight)
    weights, bias = weights_in(head)
    temperature = trained.fitted["temperature"]
    assert_close(weights * temperature, model.coef_.T / spread)
    np.testing.assert_allclose((bias + mean @ weights) * temperature, model.intercept_, atol=2e-5)


@pytest.mark.parametrize("size", [1, 3, 25])
def test_least_squares_without_a_fold(
    images: Images, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The residuals in closed form are those of fits without the images."""
    monkeypatch.setattr("cnncodes.head.ridge._BLOCK", 20)  # folds larger than that are fitted
    Z = standardised(images.X)[0]
    masses = masses_of(images.y, images.n_classes, images.weights, images.probabilities)
    y, targets = images.y.astype(np.int32), masses / masses.sum(axis=1, keepdims=True)
    wide = len(Z) < Z.shape[1]
    squares = DualSquares(Z @ Z.T, y, masses) if wide else PrimalSquares(Z, y, masses)
    folds = np.array_split(np.random.default_rng(1).permutation(len(Z)), len(Z) // size)
    residuals = squares.residuals(1 / C, folds)
    assert residuals is not None
    for held in folds[:4]:
        rest = np.setdiff1d(np.arange(len(Z)), held)
        model = Ridge(alpha=1 / C).fit(Z[rest], targets[rest], images.weights[rest])
        wanted = targets[held] - model.predict(Z[held])
        np.testing.assert_allclose(residuals[held] / squares.roots[held], wanted, atol=1e-9)


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[3]], ids=str)
def test_values_of_1_change_nothing(shape: tuple[int, int, int], tmp_path: Path) -> None:
    """Not a byte."""
    images = Images(*shape)
    images.weights[:] = images.probabilities[:] = 1
    heads = []
    for names in ((), ("weights", "probabilities")):
        codes, head = tmp_path / "codes.h5", tmp_path / "head.onnx"
        images.write(codes, *names)
        train_head(codes, head, overwrite=True, estimator="auto")
        codes.unlink()
        heads.append(head.read_bytes())
    assert heads[0] == heads[1]


def test_are_not_used_in_testing() -> None:
    """Twice the weight is twice C: the scores of the cross-validation are the same."""
    images = Images(60, 200, 3)
    Cs = np.array([0.001, 0.01, 0.1])
    one, two = (
        GramLogisticRegression(C="auto", Cs=list(Cs / weight), random_state=0).fit(
            images.X,
            images.y,
            sample_weight=np.full(60, weight),
            targets=masses_of(images.y, 3, None, images.probabilities),
        )
        for weight in (1.0, 2.0)
    )
    np.testing.assert_allclose(list(one.scores_.values()), list(two.scores_.values()), rtol=1e-4)
    assert_close(two.coef_, one.coef_)
    assert pytest.approx(2 * two.C_) == one.C_


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": np.ones((60, 2))}, "must have the shape"),
        ({"targets": np.ones((60, 3))}, "each row adds up to 1"),
        ({"sample_weight": -np.ones(60)}, "[Nn]egative"),
    ],
)
def test_other_arrays_are_refused(options: dict[str, Any], message: str) -> None:
    images = Images(60, 200, 3)
    with pytest.raises(ValueError, match=message):
        GramLogisticRegression().fit(images.X, images.y, **options)


def test_notes_name_what_is_used(tmp_path: Path) -> None:
    images = Images(60, 200, 3)
    images.weights[:4] = 0
    codes = images.write(tmp_path / "codes.h5", "weights", "probabilities")
    printed = run_command("train", codes, "-o", tmp_path / "head.onnx", "--refit").output
    assert "labels are soft: " in printed
    assert "and the rest is spread evenly over the other classes" in printed
    assert " training images do not count 1, and " in printed
    assert "used in training only, never in testing" in printed
    trained = info_of(tmp_path / "head.onnx").training_images
    assert len(trained) == 56  # of all images but those of weight 0
    assert not trained & {image_key(digest_of(number)) for number in range(4)}
    assert json.loads(run_command("evaluate", tmp_path / "head.onnx", codes, "--json").stdout)


def test_class_without_weight_is_refused(tmp_path: Path) -> None:
    images = Images(60, 200, 3)
    images.weights[images.y == 1] = 0
    codes = images.write(tmp_path / "codes.h5", "weights")
    for command, output in (("train", "head.onnx"), ("curve", "curve.json")):
        said = error_of(command, codes, "-o", tmp_path / output)
        assert "all training images of 01 have the weight 0; leave the class out" in said


def test_images_without_weight_do_not_train() -> None:
    images = Images(60, 200, 3)
    images.weights[::3] = 0
    some = images.weights > 0
    one = GramLogisticRegression().fit(images.X, images.y, sample_weight=images.weights)
    two = GramLogisticRegression().fit(
        images.X[some], images.y[some], sample_weight=images.weights[some]
    )
    np.testing.assert_array_equal(one.coef_, two.coef_)


def test_all_images_train_and_are_measured_by_cross_validation(tmp_path: Path) -> None:
    """Those of weight 0 are tested in their fold."""
    images = Images(60, 200, 3)
    images.weights[::5] = 0
    codes = images.write(tmp_path / "codes.h5", "weights")
    trained = train_head(codes, tmp_path / "head.onnx", C=C, train_fraction=1)
    assert trained.test.n_images == 60
    assert len(info_of(tmp_path / "head.onnx").training_images) == 48


def test_descent_on_masses_is_that_on_repeated_images() -> None:
    images = Images(8, 20, 3)
    masses = masses_of(images.y, 3, images.weights, images.probabilities).astype(np.float32)
    by_hand, ours, hard, one_hot = (Descent(20, 3, Nesterov(0.9), 0) for _ in range(4))
    for _ in range(3):
        loss = ours.step(images.X, images.y, 0.1, masses=masses)
        logits = by_hand.logits(images.X)
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        assert loss == pytest.approx(-(masses * np.log(p)).sum(), rel=1e-4)
        by_hand.weights[...], by_hand.bias[...] = ours.weights, ours.bias
        hard.step(images.X, images.y, 0.1)
        one_hot.step(images.X, images.y, 0.1, masses=np.eye(3, dtype=np.float32)[images.y])
    np.testing.assert_allclose(one_hot.weights, hard.weights, rtol=1e-5, atol=1e-7)


def test_sgd_learns_from_weights(tmp_path: Path) -> None:
    """With the weight on wrong labels it learns these."""
    images = Images(80, 20, 2)
    images.X += 6 * images.y[:, np.newaxis].astype(np.float32)
    truth = images.y.copy()
    images.y[::2] = 1 - images.y[::2]
    images.weights = np.where(images.y == truth, 0.01, 1.0)
    accuracies = {}
    for names in ((), ("weights",)):
        codes = images.write(tmp_path / f"{len(names)}.h5", *names)
        head = tmp_path / f"{len(names)}.onnx"
        run_command("train", codes, "-o", head, "--estimator", "sgd", "--epochs", "20")
        weights, bias = weights_in(head)
        accuracies[len(names)] = ((images.X @ weights + bias).argmax(axis=1) == truth).mean()
    assert accuracies[1] < 0.2
    assert accuracies[0] > accuracies[1]


def test_estimators_of_scikit_learn(tmp_path: Path) -> None:
    images = Images(90, 20, 2)
    codes = images.write(tmp_path / "codes.h5", "weights", "probabilities")
    heads = {}
    for name, estimator, unused in (
        ("knn", "knn", "the weights of images and the probabilities of labels"),
        ("svm", "svm", "the probabilities of labels"),
        ("pipe", make_pipeline(StandardScaler(), GaussianNB()), "the probabilities of labels"),
    ):
        head = tmp_path / f"{name}.onnx"
        notes = train_head(codes, head, estimator=estimator).notes
        (note,) = [each for each in notes if " does not use " in each]
        assert note.endswith(f" does not use {unused}; logistic, ridge and sgd do")
        assert not any(each.startswith("labels are soft") for each in notes)
        heads[name] = head
    plain = images.write(tmp_path / "plain.h5")
    notes = train_head(plain, tmp_path / "plain.onnx", estimator="knn").notes
    assert not any(" does not use " in note for note in notes)


def test_curve_trains_with_them(tmp_path: Path) -> None:
    """Its last point is the head of all training images."""
    for shape in SHAPES[:3:2]:
        images = Images(*shape)
        images.weights[::7] = 0
        codes = images.write(tmp_path / "codes.h5", "weights", "probabilities")
        words = ("--C", "3", "--overwrite", "--seed", "1")
        run_command("curve", codes, "-o", tmp_path / "curve.json", *words)
        (curve,) = json.loads((tmp_path / "curve.json").read_text())["curves"]
        trained = train_head(codes, tmp_path / "head.onnx", C=3, seed=1, overwrite=True)
        assert curve["points"][-1]["accuracies"] == [pytest.approx(trained.test.accuracy)]
        assert any(note.startswith("labels are soft") for note in curve["notes"])
        (tmp_path / "codes.h5").unlink()


@pytest.mark.parametrize("split", ["stratified", "first"])
def test_curve_draws_from_images_that_count(tmp_path: Path, split: str) -> None:
    images = Images(60, 20, 3)
    images.weights[np.arange(60) % 3 > 0] = 0
    codes = images.write(tmp_path / "codes.h5", "weights")
    options = ("--C", "1", "--per-class", "1,2", "--split", split)
    run_command("curve", codes, "-o", tmp_path / "curve.json", *options)
    (curve,) = json.loads((tmp_path / "curve.json").read_text())["curves"]
    assert [point["n_train"] for point in curve["points"]] == [3, 6]
    trained = train_head(codes, tmp_path / "head.onnx", C=1, split=split)
    assert curve["n_test"] == trained.test.n_images


def test_views_of_an_image_count_alike(tmp_path: Path) -> None:
    images = Images(40, 200, 2)
    columns = {"weights": images.weights.tolist(), "probabilities": images.probabilities.tolist()}
    path = tmp_path / "codes.h5"
    journal = create_journal(
        path.with_suffix(".new"), code_shape=(100,), class_names=("a", "b"), augment="hflip"
    )
    digests = [digest_of(number) for number in range(40)]
    paths = [f"{number}.png" for number in range(40)]
    rows = {"labels": images.y.tolist(), "paths": paths, "digests": digests, "skipped": []}
    append_rows(journal, images.X.reshape(80, 100), **rows, **columns)
    journal.finish(path)
    train_head(path, tmp_path / "head.onnx", C=C, refit=True)
    Z, _, spread = standardised(images.X.reshape(80, 100))
    masses = masses_of(images.y, 2, images.weights, images.probabilities)
    sample_weight = np.repeat(masses, 2, axis=0)
    model = LogisticRegression(C=C, solver="newton-cg", tol=1e-9)
    model.fit(np.repeat(Z, 2, axis=0), np.tile([0, 1], 80), sample_weight=sample_weight.ravel())
    assert_close(weights_in(tmp_path / "head.onnx")[0][:, 1], model.coef_[0] / spread / 2)
