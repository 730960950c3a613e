from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from cnncodes import CodeStore, progress
from cnncodes.errors import TrainingError
from cnncodes.head.logistic import gram, solve
from cnncodes.head.logistic.fit import fit_logistic
from cnncodes.head.logistic.solve import DEFAULT_CS
from cnncodes.head.rows import CodeRows
from cnncodes.head.scaling import SAME_CODES, Scaling, read_all
from cnncodes.progress import Progress
from tests.helpers import append_rows, create_journal

N_IMAGES = 200


@pytest.fixture
def digits(tmp_path: Path):
    """Make a codes file of digits, and give its rows and their classes.

    With fewer images than the 64 numbers of a digit the Gram matrix is used, otherwise not.
    """
    opened = []

    def made(n_classes: int, n_images: int = N_IMAGES):
        X, y = load_digits(n_class=n_classes, return_X_y=True)
        path = tmp_path / f"{len(opened)}.h5"
        names = tuple(map(str, range(n_classes)))
        info = {"code_shape": (64,), "dtype": "float16", "class_names": names}
        with create_journal(path.with_suffix(".partial"), **info) as journal:
            columns = {"paths": ["x"] * N_IMAGES, "digests": ["0" * 64] * N_IMAGES}
            append_rows(
                journal, X[:N_IMAGES] + 3, labels=y[:N_IMAGES].tolist(), **columns, skipped=[]
            )
            journal.finish(path)
        opened.append(CodeStore.open(path))
        chosen = np.arange(0, N_IMAGES, N_IMAGES // n_images)[:n_images]
        return CodeRows(opened[-1], chosen), y[chosen].astype(np.int32)

    yield made
    for store in opened:
        store.close()


@pytest.fixture
def stored(tmp_path: Path):
    """Write codes to a file as float32, and give its rows."""
    opened = []

    def made(X: np.ndarray) -> CodeRows:
        path = tmp_path / f"stored{len(opened)}.h5"
        with create_journal(path.with_suffix(".partial"), code_shape=X.shape[1:]) as journal:
            named = {"paths": ["x"] * len(X), "digests": ["0" * 64] * len(X), "skipped": []}
            append_rows(journal, X.astype(np.float32), labels=[0] * len(X), **named)
            journal.finish(path)
        opened.append(CodeStore.open(path))
        return CodeRows(opened[-1], np.arange(len(X)))

    yield made
    for store in opened:
        store.close()


@pytest.mark.parametrize("n_images", [50, 200])
@pytest.mark.parametrize("C", [0.1, 10.0])
@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_probabilities_are_scikit_learns(digits, n_classes, C, n_images):
    rows, y = digits(n_classes, n_images)
    weights, bias, _ = fit_logistic(rows, y, C=C)
    assert weights.shape == (64, n_classes)
    assert bias.shape == (n_classes,)
    X = read_all(rows)
    standardised = X.copy()
    Scaling.of([X]).apply(standardised)
    model = LogisticRegression(C=C, max_iter=1000).fit(standardised, y)
    computed = softmax(X @ weights + bias, axis=1)
    assert computed == pytest.approx(
        model.predict_proba(standardised), abs=0.02
    )  # both stop near the optimum


@pytest.mark.parametrize("n_features", [60, 900])
@pytest.mark.parametrize(("spread", "atol"), [(1.0, 0.01), (1e-3, 0.01), (2e-5, 0.05)])
def test_codes_of_one_scene_give_scikit_learns_head(stored, spread, atol, n_features):
    generator = np.random.default_rng(0)
    y = (np.arange(120) % 3).astype(np.int32)
    classes = generator.standard_normal((3, n_features))
    X = classes[y] / 4 + generator.standard_normal((120, n_features))
    rows = stored(np.abs(generator.standard_normal(n_features)) + spread * X)
    X = read_all(rows)
    weights, bias, fitted = fit_logistic(rows, y, C=10.0)
    assert fitted["notes"] == []
    differences = (X - X[0]).astype(np.float64)
    differences -= differences.mean(axis=0)
    standardised = differences / np.sqrt(np.square(differences).sum(axis=1).mean())
    model = LogisticRegression(C=10.0, max_iter=5000, tol=1e-6).fit(standardised, y)
    computed = softmax(X @ weights + bias, axis=1)
    np.testing.assert_allclose(computed, model.predict_proba(standardised), atol=atol)
    assert (computed.argmax(axis=1) == model.predict(standardised)).all()


def test_codes_that_float32_hardly_resolves_are_reported(stored):
    noise = np.random.default_rng(0).standard_normal((40, 90))
    fitted = fit_logistic(stored(5 + 2e-6 * noise), (np.arange(40) % 2).astype(np.int32), C=1.0)[2]
    (note,) = fitted["notes"]
    assert note.startswith("the codes of the training images differ by 4e-07 of their size")


@pytest.mark.parametrize("C", ["auto", 1.0, 1e6])
@pytest.mark.parametrize("value", [0.0, 7.3, 1e30])
@pytest.mark.parametrize("n_features", [6, 90])
def test_codes_that_are_all_the_same_give_the_shares_of_the_classes(stored, n_features, value, C):
    rows, y = stored(np.full((40, n_features), value)), (np.arange(40) < 10).astype(np.int32)
    weights, bias, fitted = fit_logistic(rows, y, C=C)
    assert softmax(bias) == pytest.approx([0.75, 0.25], abs=1e-3)
    assert not weights.any()
    assert fitted["notes"] == [SAME_CODES]


@pytest.mark.parametrize("n_features", [6, 90])
def test_many_copies_of_few_images_train(stored, n_features):
    few = np.abs(np.random.default_rng(0).standard_normal((4, n_features)))
    rows, y = stored(np.repeat(few, 20, axis=0)), np.repeat([0, 1, 0, 2], 20).astype(np.int32)
    weights, bias, _ = fit_logistic(rows, y, C="auto")
    assert ((read_all(rows) @ weights + bias).argmax(axis=1) == y).all()


@pytest.mark.parametrize("n_features", [6, 90])
def test_codes_that_cannot_be_squared_are_refused(stored, n_features):
    codes = 1e30 * np.random.default_rng(0).standard_normal((40, n_features))
    with pytest.raises(TrainingError, match="so large that their squares overflow"):
        fit_logistic(stored(codes), (np.arange(40) % 2).astype(np.int32), C=1.0)


@pytest.mark.parametrize("C", [0.01, 100.0])
@pytest.mark.parametrize("value", [1e-38, 1.1e-40])
def test_codes_whose_gradient_is_all_rounding_end(stored, value, C):
    codes = np.full((11, 1), value)
    codes[0] = 0
    _, bias, _ = fit_logistic(stored(codes), (np.arange(11) % 2).astype(np.int32), C=C)
    assert softmax(bias) == pytest.approx([6 / 11, 5 / 11], abs=1e-3)
    assert abs(bias).max() < 1


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_codes_end_in_a_finite_head_or_one_line(data):
    shape = data.draw(st.tuples(st.integers(2, 12), st.integers(1, 16)))
    sizes = st.sampled_from([0, 1, 1e-8, 1e-20, 1e-38, 1e4, 1e10, 1e17, 1e20, 3e38])
    values = st.builds(lambda size, part: np.float32(size * part), sizes, st.floats(-1, 1))
    pool = np.array(data.draw(st.lists(values, min_size=1, max_size=6)), np.float32)
    X = pool[data.draw(arrays(np.int64, shape, elements=st.integers(0, len(pool) - 1)))]
    y = np.arange(shape[0], dtype=np.int32) % 2
    try:
        weights, bias, _ = fit_logistic(InMemory(X), y, C=data.draw(st.sampled_from([0.01, 100.0])))
    except TrainingError:
        return
    assert np.isfinite(weights).all()
    assert np.isfinite(bias).all()


class InMemory(CodeRows):
    """Rows of an array, for tests that make many."""

    def __init__(self, X: np.ndarray) -> None:
        self._X, self.n_features = X, X.shape[1]

    def __len__(self) -> int:
        return len(self._X)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._X[start:stop].copy()


@pytest.mark.parametrize("n_images", [50, 200])
def test_rare_classes_can_weigh_as_much(digits, n_images):
    rows, y = digits(2, n_images)
    y[:] = 0
    y[:5] = 1
    X = read_all(rows)
    shares = [
        softmax(X @ weights + bias, axis=1)[:, 1].mean()
        for weights, bias, _ in (
            fit_logistic(rows, y, C=0.01, class_weight=weight) for weight in (None, "balanced")
        )
    ]
    assert shares[0] < 0.2 < 0.4 < shares[1]


def test_it_learns(digits):
    rows, y = digits(10)
    weights, bias, _ = fit_logistic(rows, y, C=100.0)
    assert ((read_all(rows) @ weights + bias).argmax(axis=1) == y).mean() > 0.98


def test_fit_is_reported(digits):
    rows, y = digits(3)
    result = fit_logistic(rows, y, C=0.5)[2]
    assert result["C"] == 0.5
    assert isinstance(result["n_iterations"], int)
    assert 0 < result["n_iterations"] < 1000
    assert "C_scores" not in result


@pytest.mark.parametrize("n_images", [50, 200])
def test_chosen_c_is_reported_with_all_scores(digits, n_images):
    rows, y = digits(3, n_images)
    result = fit_logistic(rows, y, C="auto")[2]
    assert result["C"] in result["C_scores"]
    least = min(result["C_scores"].values())
    assert 0 < least <= result["C_scores"][result["C"]] < least + 0.002


def test_least_c_of_the_search_is_reported_and_not_the_greatest(stored, monkeypatch):
    monkeypatch.setattr(solve, "MAX_STEPS", 0)
    y = np.repeat([0, 1], 20).astype(np.int32)
    codes = np.random.default_rng(0).random((40, 90))  # which know nothing of the classes
    fitted = fit_logistic(stored(codes), y, C="auto")[2]
    assert fitted["C"] == 0.1
    assert fitted["notes"] == [
        "C = 0.1 is the least that was tried, and the best: the codes hardly tell the classes "
        "apart, and a smaller C may do better"
    ]
    fitted = fit_logistic(stored(np.eye(2, 90)[y]), y, C="auto")[2]
    assert fitted["C"] == 100
    assert fitted["notes"] == []


def test_groups_stay_together_in_the_choice_of_c(digits):
    rows, y = digits(3, 50)
    groups = np.arange(50) // 5
    one, other = (fit_logistic(rows, y, C="auto", groups=each)[2] for each in (None, groups))
    assert one["C_scores"] != other["C_scores"]


def test_smaller_c_is_a_stronger_penalty(digits):
    rows, y = digits(3)
    strong, weak = (np.square(fit_logistic(rows, y, C=C)[0]).sum() for C in (0.001, 100))
    assert strong < weak / 10


def test_progress_counts_the_images_that_pass_and_the_fits(digits, monkeypatch, capfd):
    rows, y = digits(3, 50)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(gram, "BLOCK_BYTES", 4 * 64 * 20)  # 20 images stay at a time
    with Progress("train", "images") as bar:
        fit_logistic(rows, y, C="auto", progress=bar)
    states = [line.split(",")[0] for line in capfd.readouterr().err.splitlines()]
    fits = [state for state in states if state.endswith("fits")]
    assert "train: 90 of 90 images" in states  # 50, then the later 30, then 10
    n_fits = 5 * len(DEFAULT_CS)
    assert fits[:n_fits] == [f"train: {done} of {n_fits} fits" for done in range(1, n_fits + 1)]
    assert fits[n_fits] == f"train: {n_fits + 1} of {n_fits + 5} fits"  # beyond the grid
