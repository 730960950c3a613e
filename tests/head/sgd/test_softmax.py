from __future__ import annotations

import pickle
from unittest import SkipTest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import special
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from cnncodes.head import SGDSoftmax
from cnncodes.head.linear import log_softmax
from cnncodes.head.sgd.descent import Adam, Descent, Nesterov
from tests.helpers import InMemory


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
    for position in np.ndindex(coef.shape):
        shift = np.zeros_like(coef)
        shift[position] = h
        slope = objective(X, y, coef + shift, intercept, l2)
        slope -= objective(X, y, coef - shift, intercept, l2)
        moved = (coef[position] - after.coef_[position]) / rate
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
    computed = on_all_images(500, l2=l2, **parameters).fit(X, y)
    reference = LogisticRegression(C=C, tol=1e-8, max_iter=1000).fit(X, y)
    coef, intercept = reference.coef_, reference.intercept_
    if n_classes == 2:
        coef, intercept = np.vstack([-coef, coef]) / 2, np.hstack([-intercept, intercept]) / 2
    best = objective(X, y, coef, intercept, l2)
    assert objective(X, y, computed.coef_, computed.intercept_, l2) == pytest.approx(best, rel=1e-5)
    assert computed.coef_ == pytest.approx(coef, abs=2e-3)
    assert computed.predict_proba(X) == pytest.approx(reference.predict_proba(X), abs=1e-3)


def test_best_epoch_is_kept(noisy):
    X, y = noisy
    model = SGDSoftmax(epochs=30, learning_rate=5.0, schedule="constant", random_state=2)
    model.fit(X, y)
    numbers = [epoch.number for epoch in model.history_]
    assert numbers == list(range(1, 31))
    best = min(model.history_, key=lambda each: each.validation_loss)
    assert best.validation_accuracy < max(each.validation_accuracy for each in model.history_)
    assert model.best_epoch_ == best.number
    assert model.best_epoch_ < 30, "on this data the last epoch must not be the best"
    again = clone(model).set_params(epochs=model.best_epoch_).fit(X, y)
    assert np.array_equal(again.coef_, model.coef_)
    assert np.array_equal(again.intercept_, model.intercept_)
    assert again.history_ == model.history_[: model.best_epoch_]
    last = clone(model).set_params(validation_fraction=0).fit(X, y)
    assert not np.array_equal(last.coef_, model.coef_)


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


@pytest.mark.parametrize(
    ("n_each", "n_held_out"), [(2, 0), (3, 0), (5, 0), (9, 0), (10, 1), (19, 1)]
)
def test_no_more_than_the_share_of_a_class_is_held_out(iris, n_each, n_held_out):
    X, y = (np.concatenate([each[:n_each], each[50 : 50 + n_each]]) for each in iris)
    model = SGDSoftmax(epochs=1, random_state=0).fit(X, y)
    changed = [np.where(np.arange(len(X))[:, None] == row, 0, X) for row in range(len(X))]
    coefs = [clone(model).fit(each, y).coef_ for each in changed]
    held_out = [np.array_equal(coef, model.coef_) for coef in coefs]
    assert list(np.bincount(y, weights=held_out)) == [n_held_out] * 2
    assert (model.history_[0].validation_loss is None) == (n_held_out == 0)


def test_groups_are_held_out_together(iris):
    X, y = iris
    groups = np.arange(len(X)) // 5  # ten of each class
    noise = np.random.default_rng(0).standard_normal(X.shape)

    def fitted(without=None):
        changed = X if without is None else np.where((groups == without)[:, None], noise, X)
        return SGDSoftmax(epochs=1, random_state=0).fit(changed, y, groups=groups).coef_

    def held_out(group):
        return np.array_equal(fitted(group), fitted())

    assert [sum(map(held_out, range(first, first + 10))) for first in (0, 10, 20)] == [1, 1, 1]


def test_groups_of_one_image_change_nothing(iris):
    X, y = iris
    models = [
        SGDSoftmax(epochs=2, random_state=0).fit(X, y, groups=groups)
        for groups in (None, np.arange(len(X))[::-1], [f"image {index}" for index in range(len(X))])
    ]
    assert all(np.array_equal(model.coef_, models[0].coef_) for model in models)
    assert all(model.history_ == models[0].history_ for model in models)


def test_groups_of_another_length_are_refused(iris):
    with pytest.raises(ValueError, match="there must be 150 groups, one per image, not 3"):
        SGDSoftmax().fit(*iris, groups=[1, 2, 3])


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


def test_each_epoch_is_reported_as_it_ends(iris):
    result = []
    model = SGDSoftmax(epochs=3, random_state=0).fit(*iris, result.append)
    assert result == model.history_
    assert result[0].train_loss > result[-1].train_loss > 0


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
        {"schedule": "linear"},
        {"patience": 0},
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
    with pytest.raises(ValueError, match=f"{name}|{value}"):
        SGDSoftmax(**parameters).partial_fit(*iris, classes=[0, 1, 2])


def test_divergence_is_an_error(iris):
    with pytest.raises(ValueError, match=r"diverged in epoch 1; lower the learning rate$"):
        SGDSoftmax(learning_rate=1e30, random_state=0).fit(*iris)


def test_bias_can_diverge_alone():
    X, y = np.zeros((30, 2)), [0] * 28 + [1, 2]  # codes of zeros leave the weights at zero
    model = SGDSoftmax(epochs=1, learning_rate=3e38, validation_fraction=0, random_state=0)
    with pytest.raises(ValueError, match="diverged"):
        model.fit(X, y)


def test_training_after_one_that_diverged_is_unharmed(iris):
    X, y = iris
    model = SGDSoftmax(epochs=2, random_state=0).fit(X, y)
    fresh = clone(model).fit(X[:100], y[:100])
    with pytest.raises(ValueError, match="diverged"):
        model.set_params(learning_rate=1e30).fit(X[:100], y[:100])
    with pytest.raises(NotFittedError):  # neither by what diverged nor by what was there before
        model.predict(X)
    model.set_params(learning_rate=None).fit(X[:100], y[:100])
    assert np.array_equal(model.coef_, fresh.coef_)
    assert model.history_ == fresh.history_


@pytest.mark.parametrize("begin", ["fit", "partial_fit", "not at all"])
def test_part_that_diverges_is_forgotten(iris, begin):
    X, y = iris
    model = SGDSoftmax(epochs=2, random_state=0)
    if begin == "fit":
        model.fit(X, y)
    elif begin == "partial_fit":
        model.partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match=r"diverged in this part; lower the learning rate$"):
        model.set_params(learning_rate=1e30).partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(NotFittedError):
        model.predict(X)
    model.set_params(learning_rate=None).partial_fit(X, y, classes=[0, 1, 2])
    assert np.array_equal(model.coef_, clone(model).partial_fit(X, y, classes=[0, 1, 2]).coef_)


def test_failed_fit_leaves_nothing_of_an_earlier_one(iris):
    X, y = iris
    model = SGDSoftmax(epochs=1, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="1 class in the data; two or more are needed"):
        model.fit(X, np.zeros(len(y)))
    with pytest.raises(NotFittedError):
        model.predict(X)


OPTIMIZERS = pytest.mark.parametrize("optimizer", ["momentum", "adam"])


@OPTIMIZERS
def test_partial_fit_is_an_epoch_of_fit(iris, optimizer):
    """On the same batches in the same order, at a constant rate, with nothing held out."""
    X, y = iris
    model = SGDSoftmax(epochs=1, validation_fraction=0, schedule="constant", optimizer=optimizer)
    whole = clone(model).set_params(random_state=5).fit(X, y)
    order = np.random.RandomState(5).permutation(len(X))
    # The schedule is one of fit: partial_fit does not know how many steps there will be.
    for schedule in ("constant", "cosine"):
        part = clone(model).set_params(schedule=schedule)
        part.partial_fit(X[order], y[order], classes=[0, 1, 2])
        assert np.array_equal(part.coef_, whole.coef_)
        assert np.array_equal(part.intercept_, whole.intercept_)


@OPTIMIZERS
def test_partial_fit_goes_on_where_it_was(iris, optimizer):
    X, y = iris
    whole, parts = (SGDSoftmax(optimizer=optimizer, batch_size=10) for _ in range(2))
    whole.partial_fit(X, y, classes=[0, 1, 2])
    parts.partial_fit(X[:50], y[:50], classes=[2, 0, 1, 1]).partial_fit(X[50:70], y[50:70])
    parts.partial_fit(X[70:], y[70:], classes=[0, 1, 2])
    assert np.array_equal(parts.coef_, whole.coef_)
    assert np.array_equal(parts.intercept_, whole.intercept_)


def test_partial_fit_learns_classes_it_has_not_met(iris):
    X, y = iris
    names = np.array(["wren", "auk", "kite"])
    model = SGDSoftmax().partial_fit(X[:50], names[y[:50]], classes=names)
    assert list(model.classes_) == ["auk", "kite", "wren"]
    assert model.coef_.shape == (3, 4)
    assert model.score(X[:50], names[y[:50]]) == 1, "the first fifty are all wrens"
    assert model.predict_proba(X).shape == (150, 3)
    order = np.random.default_rng(0).permutation(150)
    for _ in range(5):
        model.partial_fit(X[order], names[y[order]])
    assert model.score(X, names[y]) > 0.9


def test_first_partial_fit_needs_all_classes(iris):
    X, y = iris
    model = SGDSoftmax()
    with pytest.raises(ValueError, match="first call of partial_fit needs classes"):
        model.partial_fit(X, y)
    with pytest.raises(ValueError, match="1 class given; two or more are needed"):
        model.partial_fit(X, y, classes=[0, 0])
    with pytest.raises(ValueError, match="y has a class that is not among those of the first"):
        model.partial_fit(X, y, classes=[0, 1])
    with pytest.raises(NotFittedError):
        model.predict(X)
    # A call that was refused is no first call.
    model.partial_fit(X[:, :3], y, classes=[0, 1, 2])
    assert model.n_features_in_ == 3


def test_later_partial_fit_must_agree_with_the_first(iris):
    X, y = iris
    model = SGDSoftmax().partial_fit(X, y, classes=[0, 1, 2])
    before = model.coef_.copy()
    for classes in ([0, 1], [0, 1, 3], [0, 1, 2, 3]):
        with pytest.raises(ValueError, match="classes differ from those of the first call"):
            model.partial_fit(X, y, classes=classes)
    with pytest.raises(ValueError, match="y has a class that is not among"):
        model.partial_fit(X, y + 1)
    with pytest.raises(ValueError, match="3 features, but SGDSoftmax is expecting 4 features"):
        model.partial_fit(X[:, :3], y)
    with pytest.raises(ValueError, match="NaN"):
        model.partial_fit(np.full_like(X, np.nan), y)
    assert np.array_equal(model.coef_, before)


def test_partial_fit_after_fit_goes_on_from_the_best_epoch(noisy):
    X, y = noisy
    model = SGDSoftmax(epochs=10, learning_rate=5.0, schedule="constant", random_state=0)
    model.fit(X, y)
    assert model.best_epoch_ < 10, "on this data the last epoch must not be the best"
    wanted = Descent(10, 2, Nesterov(0.9), 1e-5)
    wanted.weights[...], wanted.bias[...] = model.coef_.T, model.intercept_
    for start in range(0, 120, 32):
        wanted.step(X[start : start + 32], y[start : start + 32], 5.0)
    model.partial_fit(X, y)
    assert model.coef_ == pytest.approx(wanted.weights.T, abs=1e-5)
    assert model.intercept_ == pytest.approx(wanted.bias, abs=1e-5)


def test_fit_after_partial_fit_starts_anew(iris):
    X, y = iris
    model = SGDSoftmax(epochs=2, random_state=0)
    model.partial_fit(X[:100, :3], y[:100], classes=[0, 1]).fit(X, y)
    fresh = clone(model).fit(X, y)
    assert np.array_equal(model.coef_, fresh.coef_)
    model.partial_fit(X, y)
    assert np.array_equal(model.coef_, fresh.partial_fit(X, y).coef_)


@OPTIMIZERS
def test_partial_fit_survives_pickling_and_is_not_cloned(iris, optimizer):
    X, y = iris
    model = SGDSoftmax(optimizer=optimizer).partial_fit(X[:64], y[:64], classes=[0, 1, 2])
    pickled = pickle.loads(pickle.dumps(model))
    assert np.array_equal(pickled.predict_proba(X), model.predict_proba(X))
    pickled.partial_fit(X[64:], y[64:])
    assert not np.array_equal(pickled.coef_, model.coef_)
    assert np.array_equal(pickled.coef_, model.partial_fit(X[64:], y[64:]).coef_)
    with pytest.raises(ValueError, match="needs classes"):
        clone(model).partial_fit(X, y)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_rate_follows_the_schedule(iris, schedule):
    """Of plain descent, each step divided by the slope is the rate."""
    X, y = iris
    model = SGDSoftmax(
        epochs=8,
        batch_size=1000,
        learning_rate=0.5,
        schedule=schedule,
        momentum=0,
        l2=0,
        validation_fraction=0,
    )
    weights = [np.zeros((3, 4))]
    biases = [np.zeros(3)]

    def note(_):
        weights.append(model.coef_.astype(np.float64))
        biases.append(model.intercept_.astype(np.float64))

    model.fit(X, y, note)
    rates = []
    for before, after, bias in zip(weights, weights[1:], biases, strict=False):
        residual = special.softmax(X @ before.T + bias, axis=1) - np.eye(3)[y]
        slope = residual.T @ X / len(X)
        rates.append(((before - after) * slope).sum() / np.square(slope).sum())
    falling = 0.5 * np.cos(np.arange(8) / 8 * np.pi / 2) ** 2
    wanted = falling if schedule == "cosine" else np.full(8, 0.5)
    assert rates == pytest.approx(wanted, abs=1e-4)


@OPTIMIZERS
def test_rate_falls_within_an_epoch_too(iris, optimizer):
    X, y = iris
    parameters = {"epochs": 1, "batch_size": 50, "validation_fraction": 0, "l2": 0}
    model = SGDSoftmax(optimizer=optimizer, learning_rate=0.5, random_state=2, **parameters)
    model.fit(X, y)
    descent = Descent(4, 3, Adam() if optimizer == "adam" else Nesterov(0.9), 0)
    order = np.random.RandomState(2).permutation(150)
    for batch, rate in zip(order.reshape(3, 50), (0.5, 0.375, 0.125), strict=True):
        descent.step(X[batch], y[batch], rate)
    assert model.coef_ == pytest.approx(descent.weights.T, abs=1e-6)


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_stops_and_the_best_epoch_is_kept(noisy, patience):
    X, y = noisy
    model = SGDSoftmax(epochs=30, learning_rate=5.0, schedule="constant", random_state=1)
    whole = clone(model).fit(X, y)
    lowest, waited, n_epochs = np.inf, 0, 0
    while waited < patience:
        epoch = whole.history_[n_epochs]
        n_epochs += 1
        waited = 0 if epoch.validation_loss < lowest else waited + 1
        lowest = min(lowest, epoch.validation_loss)
    assert n_epochs < 30, "on this data it must stop early"
    model.set_params(patience=patience).fit(X, y)
    assert model.history_ == whole.history_[:n_epochs]
    assert model.best_epoch_ == n_epochs - patience
    short = clone(whole).set_params(epochs=model.best_epoch_).fit(X, y)
    assert np.array_equal(model.coef_, short.coef_)


def test_patience_needs_something_held_out(noisy):
    model = SGDSoftmax(epochs=5, validation_fraction=0, patience=1, random_state=0).fit(*noisy)
    assert len(model.history_) == model.best_epoch_ == 5


def test_train_and_fit_are_the_same(noisy):
    X, y = noisy
    model = SGDSoftmax(epochs=3, random_state=1)
    result = list(model.train(InMemory(X), y, 2))
    fitted = clone(model).fit(X, y)
    assert result == fitted.history_
    assert np.array_equal(model.coef_, fitted.coef_)


@settings(deadline=None)
@given(
    arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=2, max_side=8),
        elements=st.floats(-10_000, 10_000, width=32),
    )
)
def test_log_softmax_is_scipys(logits):
    actual = log_softmax(logits)
    assert actual == pytest.approx(special.log_softmax(logits.astype(float), axis=1), abs=4e-3)
    assert np.exp(actual).sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_log_softmax_at_the_ends():
    logits = np.array([[1e4, -1e4], [-1e4, 1e4], [-1e4, -1e4], [1e4, 1e4]], np.float32)
    half = np.log(0.5)
    wanted = np.array([[0, -2e4], [-2e4, 0], [half, half], [half, half]])
    assert log_softmax(logits) == pytest.approx(wanted, abs=1e-6)


def test_is_shown_as_it_is_made():
    assert repr(SGDSoftmax()) == "SGDSoftmax()"
    assert repr(SGDSoftmax(epochs=5, l2=0.0)) == "SGDSoftmax(epochs=5, l2=0.0)"
