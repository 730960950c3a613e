from __future__ import annotations

from unittest import SkipTest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import special
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from cnncodes.head import SGDSoftmax
from cnncodes.head.linear import log_softmax


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return (StandardScaler().fit_transform(X) / 2).astype(np.float32), y


@pytest.fixture(scope="module")
def noisy():
    """Overlapping classes, on which a large rate makes epochs go up and down."""
    generator = np.random.default_rng(3)
    X = generator.normal(size=(120, 10)).astype(np.float32)
    return X, (X[:, 0] + generator.normal(0, 2, 120) > 0).astype(int)


def objective(X, y, coef, intercept, l2):
    """The loss of the module's docstring, in double precision."""
    logits = np.asarray(X, np.float64) @ coef.T + intercept
    losses = special.logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]
    return losses.mean() + l2 / 2 * np.square(coef).sum()


def on_all_images(n_epochs, **parameters):
    """Plain descent: one step an epoch, nothing held out."""
    fixed = {"batch_size": 10_000, "schedule": "constant", "validation_fraction": 0}
    return SGDSoftmax(epochs=n_epochs, random_state=0, **fixed, **parameters)


@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        pytest.param(*each, id=f"{each[1].func.__name__}-{each[0].optimizer}")
        for optimizer in ("momentum", "adam")
        for each in estimator_checks_generator(SGDSoftmax(optimizer=optimizer))
    ],
)
def test_estimator_check_of_scikit_learn(estimator, check):
    try:
        check(estimator)
    except SkipTest as skip:
        # These two check what they can, then leave the rest to those who have the package.
        if not str(skip).startswith(("pandas is not installed", "SCIPY_ARRAY_API is not set")):
            raise AssertionError(f"a check was skipped: {skip}") from skip


def test_pipeline_clone_and_scores(iris):
    X, y = iris
    model = make_pipeline(StandardScaler(), SGDSoftmax(learning_rate=0.3, random_state=0))
    assert cross_val_score(clone(model), X, y, cv=3).min() > 0.9
    assert clone(model[-1]).get_params() == model[-1].get_params()
    assert not hasattr(clone(model.fit(X, y)[-1]), "coef_")


def test_grid_search(iris):
    X, y = iris
    grid = {"optimizer": ["momentum", "adam"], "learning_rate": [1e-6, 0.3]}
    search = GridSearchCV(SGDSoftmax(random_state=0), grid, cv=3).fit(X, y)
    assert search.best_score_ > 0.9
    assert search.best_params_["learning_rate"] == 0.3


@pytest.mark.parametrize("n_classes", [2, 3])
def test_step_follows_the_gradient_of_the_loss(iris, n_classes):
    """From one epoch to the next, plain descent moves by the rate times the gradient."""
    X, y = iris[0][iris[1] < n_classes], iris[1][iris[1] < n_classes]
    rate, l2 = 0.5, 0.3
    before, after = (
        on_all_images(epochs, learning_rate=rate, momentum=0, l2=l2).fit(X, y) for epochs in (3, 4)
    )
    coef, intercept = before.coef_.astype(np.float64), before.intercept_.astype(np.float64)
    h = 1e-5
    for place in np.ndindex(coef.shape):
        shift = np.zeros_like(coef)
        shift[place] = h
        slope = objective(X, y, coef + shift, intercept, l2)
        slope -= objective(X, y, coef - shift, intercept, l2)
        moved = (coef[place] - after.coef_[place]) / rate
        assert moved == pytest.approx(slope / (2 * h), abs=2e-6)
    for number in range(n_classes):
        shift = np.zeros_like(intercept)
        shift[number] = h
        slope = objective(X, y, coef, intercept + shift, l2)
        slope -= objective(X, y, coef, intercept - shift, l2)
        moved = (intercept[number] - after.intercept_[number]) / rate
        assert moved == pytest.approx(slope / (2 * h), abs=2e-6)


def test_a_step_averages_over_its_batch(iris):
    """Each image twice in the batch is the same mean, so the same step."""
    X, y = iris
    one = on_all_images(3, learning_rate=0.5).fit(X, y)
    two = on_all_images(3, learning_rate=0.5).fit(np.vstack([X, X]), np.hstack([y, y]))
    assert two.coef_ == pytest.approx(one.coef_, abs=1e-6)


@pytest.mark.parametrize("parameters", [{}, {"optimizer": "adam", "learning_rate": 0.05}])
@pytest.mark.parametrize(("n_classes", "binary"), [(3, 1), (2, 2)])
def test_minimum_is_that_of_logistic_regression(iris, parameters, n_classes, binary):
    X, y = iris[0][iris[1] < n_classes], iris[1][iris[1] < n_classes]
    C = 0.5
    # scikit-learn's binary weights are the difference of our two columns: half the penalty.
    l2 = binary / (C * len(y))
    ours = on_all_images(1500, l2=l2, **parameters).fit(X, y)
    theirs = LogisticRegression(C=C, tol=1e-8, max_iter=1000).fit(X, y)
    coef, intercept = theirs.coef_, theirs.intercept_
    if n_classes == 2:
        coef, intercept = np.vstack([-coef, coef]) / 2, np.hstack([-intercept, intercept]) / 2
    best = objective(X, y, coef, intercept, l2)
    assert objective(X, y, ours.coef_, ours.intercept_, l2) == pytest.approx(best, rel=1e-5)
    assert ours.coef_ == pytest.approx(coef, abs=2e-3)
    assert ours.predict_proba(X) == pytest.approx(theirs.predict_proba(X), abs=1e-3)


def test_best_epoch_is_kept(noisy):
    X, y = noisy
    model = SGDSoftmax(epochs=30, learning_rate=5.0, schedule="constant", random_state=1)
    model.fit(X, y)
    numbers = [epoch.number for epoch in model.history_]
    assert numbers == list(range(1, 31))
    best = max(model.history_, key=lambda each: (each.validation_accuracy, -each.validation_loss))
    assert model.best_epoch_ == best.number
    assert model.best_epoch_ < 30, "on this data the last epoch must not be the best"
    again = clone(model).set_params(epochs=model.best_epoch_).fit(X, y)
    assert np.array_equal(again.coef_, model.coef_)
    assert np.array_equal(again.intercept_, model.intercept_)
    assert again.history_ == model.history_[: model.best_epoch_]
    last = clone(model).set_params(validation_fraction=0).fit(X, y)
    assert not np.array_equal(last.coef_, model.coef_)


def test_on_equal_accuracy_the_lower_loss_wins(iris):
    X, y = iris[0][iris[1] < 2], iris[1][iris[1] < 2]  # these two classes lie well apart
    model = SGDSoftmax(epochs=5, random_state=0).fit(X, y)
    assert {epoch.validation_accuracy for epoch in model.history_} == {1.0}
    losses = [epoch.validation_loss for epoch in model.history_]
    assert losses[model.best_epoch_ - 1] == min(losses) < losses[0]


def test_held_out_images_do_not_train(iris):
    X, y = iris
    held_out = []
    for index in range(len(X)):
        changed = X.copy()
        changed[index] = 0
        model = SGDSoftmax(epochs=1, random_state=0).fit(changed, y)
        reference = SGDSoftmax(epochs=1, random_state=0).fit(X, y)
        if np.array_equal(model.coef_, reference.coef_):
            held_out.append(index)
    assert list(np.bincount(y[held_out])) == [5, 5, 5]  # a tenth of each class


def test_everything_trains_without_validation(iris):
    X, y = iris
    model = SGDSoftmax(epochs=4, validation_fraction=0, random_state=0).fit(X, y)
    assert model.best_epoch_ == 4
    assert all(each.validation_loss is None for each in model.history_)
    assert all(each.validation_accuracy is None for each in model.history_)


def test_classes_of_one_image_leave_nothing_to_hold_out():
    X = np.eye(3, dtype=np.float32)
    model = SGDSoftmax(epochs=50, random_state=0).fit(X, [0, 1, 2])
    assert model.best_epoch_ == 50
    assert list(model.predict(X)) == [0, 1, 2]


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_same_seed_same_result(iris, optimizer):
    X, y = iris
    one, two, other = (
        SGDSoftmax(epochs=3, optimizer=optimizer, random_state=seed).fit(X, y) for seed in (7, 7, 8)
    )
    assert np.array_equal(one.coef_, two.coef_)
    assert one.history_ == two.history_
    assert not np.array_equal(one.coef_, other.coef_)


def test_each_epoch_is_told_as_it_ends(iris):
    told = []
    model = SGDSoftmax(epochs=3, random_state=0).fit(*iris, told.append)
    assert told == model.history_
    assert told[0].train_loss > told[-1].train_loss > 0


def test_train_loss_of_the_first_step_is_that_of_knowing_nothing(iris):
    model = on_all_images(1).fit(*iris)
    assert model.history_[0].train_loss == pytest.approx(np.log(3), rel=1e-6)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_strings_as_labels(iris, n_classes):
    names = np.array(["wren", "auk", "kite"])
    X, y = iris[0][iris[1] < n_classes], iris[1][iris[1] < n_classes]
    model = SGDSoftmax(random_state=0).fit(X, names[y])
    assert list(model.classes_) == sorted(names[:n_classes])
    assert model.coef_.shape == (n_classes, 4)
    assert model.coef_.dtype == model.intercept_.dtype == np.float32
    assert (model.predict(X) == names[y]).mean() > 0.9
    logits = X @ model.coef_.T + model.intercept_
    wanted = logits[:, 1] - logits[:, 0] if n_classes == 2 else logits
    assert model.decision_function(X) == pytest.approx(wanted, abs=1e-5)
    assert model.predict_proba(X) == pytest.approx(special.softmax(logits, axis=1), abs=1e-6)


@pytest.mark.parametrize(
    "parameters",
    [
        {"optimizer": "sgd"},
        {"epochs": 0},
        {"batch_size": 0},
        {"validation_fraction": 1.0},
        {"validation_fraction": -0.1},
        {"learning_rate": 0.0},
        {"learning_rate": -1.0},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"momentum": -0.1},
        {"momentum": 1.5},
        {"l2": -1.0},
        {"l2": float("nan")},
    ],
    ids=str,
)
def test_bad_parameters_are_refused(iris, parameters):
    name, value = next(iter(parameters.items()))
    with pytest.raises(ValueError, match=f"{name}|{value}"):
        SGDSoftmax(**parameters).fit(*iris)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_divergence_is_an_error(iris):
    with pytest.raises(ValueError, match=r"learning_rate|diverged|finite"):
        SGDSoftmax(learning_rate=1e30, random_state=0).fit(*iris)


@settings(deadline=None)
@given(
    arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=2, max_side=8),
        elements=st.floats(-10_000, 10_000, width=32),
    )
)
def test_log_softmax_is_scipys(logits):
    found = log_softmax(logits)
    assert found == pytest.approx(special.log_softmax(logits.astype(float), axis=1), abs=4e-3)
    assert np.exp(found).sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_log_softmax_at_the_ends():
    logits = np.array([[1e4, -1e4], [-1e4, 1e4], [-1e4, -1e4], [1e4, 1e4]], np.float32)
    half = np.log(0.5)
    wanted = np.array([[0, -2e4], [-2e4, 0], [half, half], [half, half]])
    assert log_softmax(logits) == pytest.approx(wanted, abs=1e-6)
