"""The choice of the penalty's strength: what it is judged by, where it looks, what it keeps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict

from cnncodes.head import GramLogisticRegression
from cnncodes.head.logistic.solve import (
    DEFAULT_CS,
    FALLBACK_C,
    MAX_STEPS,
    TOLERANCE,
    new_solver,
    open_end,
    solve,
)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """120 digits of four classes, of mean squared length one."""
    X, y = (each[:120] for each in load_digits(n_class=4, return_X_y=True))
    X = X - X.mean(axis=0)
    return X / np.sqrt(np.square(X).sum(axis=1).mean()), y


def chosen(X, y, **parameters):
    return solve(X, y, LogisticRegression(tol=1e-6, max_iter=1000), C="auto", **parameters)


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_scores_are_scikit_learns_log_loss(digits, n_classes, class_weight):
    X, y = (each[digits[1] < n_classes] for each in digits)
    X, y = X[5:], y[5:]
    model = LogisticRegression(class_weight=class_weight, tol=1e-8, max_iter=5000)
    scores = solve(X, y, model, C="auto", Cs=(0.1, 1.0, 10.0), random_state=0).scores
    counts = np.bincount(y)
    weights = 1 / counts[y] if class_weight else None
    for C in (0.1, 1.0, 10.0):
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        model.set_params(C=C)
        reference = cross_val_predict(model, X, y, cv=folds, method="predict_proba")
        assert scores[C] == pytest.approx(log_loss(y, reference, sample_weight=weights), rel=1e-4)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_views_of_an_image_are_scored_by_the_mean_of_their_logits(digits, n_classes):
    X, y = (each[digits[1] < n_classes] for each in digits)
    noise = 0.2 * np.random.default_rng(0).standard_normal((len(y), 3, X.shape[1]))
    views, classes = (X[:, np.newaxis] + noise).reshape(-1, X.shape[1]), np.repeat(y, 3)
    groups = np.repeat(np.arange(len(y)), 3)
    model = LogisticRegression(tol=1e-8, max_iter=5000)
    given = {"Cs": (1.0, 10.0), "random_state": 0, "groups": groups, "n_averaged": 3}
    scores = solve(views, classes, model, C="auto", **given).scores
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    for C in (1.0, 10.0):
        model.set_params(C=C)
        logits = cross_val_predict(
            model, views, classes, groups=groups, cv=folds, method="decision_function"
        )
        if n_classes == 2:
            logits = np.stack([np.zeros(len(logits)), logits], axis=1)
        reference = softmax(logits.reshape(len(y), 3, -1).mean(axis=1), axis=1)
        assert scores[C] == pytest.approx(log_loss(y, reference), rel=1e-4)


def test_strongest_penalty_of_those_as_good_as_the_best_is_chosen(digits):
    solution = chosen(*digits, random_state=0)
    best = min(solution.scores.values())
    as_good = [C for C, loss in solution.scores.items() if loss <= best + TOLERANCE]
    assert min(as_good) == solution.C
    assert list(solution.scores) == sorted(solution.scores)


def test_ties_go_to_the_stronger_penalty():
    X = np.zeros((20, 40))
    model = GramLogisticRegression(C="auto", Cs=(10.0, 1.0, 100.0)).fit(X, [0] * 10 + [1] * 10)
    assert list(model.scores_.values()) == pytest.approx([np.log(2)] * 3)
    assert model.C_ == 1.0


def test_images_that_are_easily_separated_get_a_weak_penalty_up_to_the_bound():
    X, y = np.repeat(np.eye(2), 20, axis=0), np.repeat([0, 1], 20)
    near, far = (chosen(X / size, y) for size in (1, 30))
    # Once there is nothing to win the search ends, and the penalty before is kept.
    assert list(near.scores) == [*DEFAULT_CS, 300, 1000]
    assert near.C == 300
    assert open_end(near.scores, near.eligible) is None
    assert list(far.scores) == [*DEFAULT_CS, 300, 1000, 3000, 10000]
    assert far.C == open_end(far.scores, far.eligible) == 10000


def test_images_without_information_get_a_strong_penalty_down_to_the_bound():
    generator = np.random.default_rng(0)
    X, y = 100 * generator.standard_normal((60, 200)), np.arange(60) % 2
    solution = chosen(X, y, random_state=0)
    assert list(solution.scores)[:MAX_STEPS] == [0.001, 0.003, 0.01, 0.03]
    assert solution.C == open_end(solution.scores, solution.eligible) == 0.001


@pytest.mark.parametrize(
    ("Cs", "beyond"),
    [((1.0, 10.0), 100.0), ((0.01, 0.03, 0.1), 0.3), ((5.0,), None), ((3.0, 3.0), None)],
)
def test_grid_goes_on_at_its_own_pace(Cs, beyond):
    X, y = np.repeat(np.eye(2), 20, axis=0), np.repeat([0, 1], 20)
    others = [C for C in chosen(X, y, Cs=Cs).scores if C not in Cs]
    assert others[:1] == ([] if beyond is None else [beyond])


def test_grid_that_holds_the_best_is_all_that_is_tried(digits):
    X, y = digits
    y = np.where(np.arange(120) % 5, y, np.roll(y, 1))  # some labels are wrong
    Cs = (0.001, 1.0, 1000.0)
    assert list(chosen(X, y, Cs=Cs).scores) == list(Cs)


def test_classes_with_fewer_images_than_folds(digits):
    X, y = digits
    rare = np.concatenate([np.flatnonzero(y != 3), np.flatnonzero(y == 3)[:1]])
    with_it, without = (
        chosen(X[each], y[each], random_state=0).scores[1.0] for each in (rare, rare[:-1])
    )
    # The image is held out once, where no model knows its class, and counts nowhere.
    assert with_it == pytest.approx(without, abs=0.1)


def test_one_image_a_class_leaves_nothing_to_validate():
    model = GramLogisticRegression(C="auto").fit(np.eye(3, 9), [0, 1, 2])
    assert model.scores_ == {}
    assert model.C_ == FALLBACK_C


@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_folds_start_from_the_fit_before_and_end_where_a_fresh_one_does(seed):
    generator = np.random.default_rng(seed)
    points, y = generator.standard_normal((30, 5)), np.arange(30) % 3
    scores, alone = (
        solve(points, y, LogisticRegression(tol=1e-9), C="auto", Cs=Cs, random_state=0).scores
        for Cs in ((0.1, 1.0), (1.0,))
    )
    assert scores[1.0] == pytest.approx(alone[1.0], rel=1e-4)


def copies():
    """40 images independent of their class, each of them six times."""
    X = np.random.default_rng(0).standard_normal((40, 300)) / 17
    return np.repeat(X, 6, axis=0), np.repeat(np.arange(40) % 2, 6), np.repeat(np.arange(40), 6)


def test_images_of_a_group_are_never_on_both_sides():
    X, y, groups = copies()
    alone, together = (chosen(X, y, groups=each, random_state=0).scores for each in (None, groups))
    assert alone[100.0] < 0.1  # the copies are recognised
    assert together[100.0] > np.log(2)


def test_groups_of_one_image_change_nothing(digits):
    X, y = digits
    one, other = (
        chosen(X, y, groups=groups, random_state=4).scores
        for groups in (None, np.arange(len(y))[::-1])
    )
    assert one == other


@pytest.mark.parametrize(
    ("groups", "can"),
    [
        ([0, 0, 0, 1, 1, 1], False),  # a class that is held out does not train
        ([0, 0, 1, 1, 2, 2], True),
        ([0, 0, 0, 1, 2, 2], True),
        ([0] * 6, False),
    ],
)
def test_few_groups_make_few_folds_or_none(groups, can):
    X, y = np.random.default_rng(0).standard_normal((6, 9)), [0, 0, 0, 1, 1, 1]
    model = GramLogisticRegression(C="auto", random_state=0).fit(X, y, groups)
    assert bool(model.scores_) == can
    assert model.C_ == FALLBACK_C or can


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_groups_end_in_a_model(data):
    n = data.draw(st.integers(4, 20))
    y = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    y[:2] = 0, 1
    groups = data.draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))
    X = np.random.default_rng(0).standard_normal((n, 3))
    scores = chosen(X, y, Cs=(0.1, 1.0), groups=groups, random_state=0).scores
    assert all(loss >= 0 for loss in scores.values())


def test_groups_may_be_names(digits):
    X, y = digits
    groups = np.array(["a", "b", "c", "d"])[np.arange(120) // 30]
    model = GramLogisticRegression(C="auto", Cs=(1.0,), random_state=0).fit(X, y, groups=groups)
    numbers = np.arange(120) // 30
    same = GramLogisticRegression(C="auto", Cs=(1.0,), random_state=0).fit(X, y, groups=numbers)
    assert model.scores_ == same.scores_


def test_chosen_penalty_is_fitted_as_it_was_scored():
    """From the strongest penalty on: with a weak one a fit from zero may end elsewhere."""
    generator = np.random.default_rng(0)
    X, y = generator.standard_normal((60, 300)), np.arange(60) % 3
    X[:, 0] += 3 * y
    solution = solve(X, y, new_solver(), C="auto", random_state=0)
    model = new_solver().set_params(warm_start=True)
    for C in [each for each in solution.scores if each <= solution.C]:
        model.set_params(C=C).fit(X, y)
    np.testing.assert_array_equal(solution.weights, model.coef_.T)
    assert solution.C in solution.eligible <= solution.scores.keys()


def test_standard_error_counts_groups_and_not_their_rows():
    """Eight equal rows are right or wrong together: they do not make an accuracy more certain."""
    generator = np.random.default_rng(1)
    X, y, groups = generator.standard_normal((60, 20)), np.arange(60) % 3, np.arange(60).repeat(8)
    X[:, 0] += y
    options = {"C": "auto", "Cs": (0.01, 0.1), "random_state": 0}
    eight = solve(X[groups], y[groups], new_solver(), groups=groups, **options)
    assert eight.C == min(eight.scores, key=eight.scores.get) == 0.01


def test_rounding_that_ends_a_fit_is_not_warned_of(recwarn):
    points = np.random.default_rng(0).normal(size=(200, 20)).astype(np.float32)
    solve(points, np.arange(200) % 3, new_solver(tol=1e-12), C="auto", random_state=0)
    assert not [each for each in recwarn if "line search" in str(each.message).lower()]
