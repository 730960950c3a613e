from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnncodes.errors import CnncodesError, ParameterError
from cnncodes.head.split import METHODS, split_by_class

LABELS = st.lists(st.integers(-1, 4), max_size=60).map(lambda labels: np.array(labels, np.int32))
PERCENTS = st.integers(1, 99)
PER_CLASS = st.none() | st.integers(1, 12)
SEEDS = st.integers(0, 2**32)


def wanted_sizes(n_images, percent, per_class):
    """Training and test images of a class, in whole numbers."""
    n_train = max(1, min(percent * n_images // 100, n_images - 1))
    return min(n_train, per_class or n_train), n_images - n_train


@settings(deadline=None)
@given(LABELS, PERCENTS, st.sampled_from(METHODS), PER_CLASS, SEEDS)
def test_parts_are_increasing_disjoint_and_of_the_size_asked_for(
    labels, percent, method, per_class, seed
):
    split = split_by_class(labels, percent / 100, method=method, per_class=per_class, seed=seed)
    for part in (split.train, split.test):
        assert (np.diff(part) > 0).all()
        assert (labels[part] >= 0).all()
    assert not set(split.train) & set(split.test)
    for label in set(labels) - {-1}:
        found = ((labels[split.train] == label).sum(), (labels[split.test] == label).sum())
        assert found == wanted_sizes((labels == label).sum(), percent, per_class)


@settings(deadline=None)
@given(LABELS, PERCENTS, st.sampled_from(METHODS), SEEDS)
def test_every_labelled_image_is_in_one_part(labels, percent, method, seed):
    split = split_by_class(labels, percent / 100, method=method, seed=seed)
    both = np.concatenate([split.train, split.test])
    assert sorted(both) == list(np.flatnonzero(labels >= 0))


@settings(deadline=None)
@given(LABELS, PERCENTS, st.sampled_from(METHODS), PER_CLASS, SEEDS)
def test_every_class_trains_and_classes_of_two_are_tested(labels, percent, method, per_class, seed):
    split = split_by_class(labels, percent / 100, method=method, per_class=per_class, seed=seed)
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    assert set(labels[split.train]) == set(classes)
    assert set(labels[split.test]) == set(classes[counts > 1])


@settings(deadline=None)
@given(LABELS, PERCENTS, st.sampled_from(METHODS), st.integers(1, 12), SEEDS)
def test_per_class_thins_the_training_part_only(labels, percent, method, per_class, seed):
    whole = split_by_class(labels, percent / 100, method=method, seed=seed)
    cut = split_by_class(labels, percent / 100, method=method, per_class=per_class, seed=seed)
    assert np.array_equal(cut.test, whole.test)
    assert set(cut.train) <= set(whole.train)


@settings(deadline=None)
@given(LABELS, PERCENTS, PER_CLASS, SEEDS)
def test_first_takes_the_first_of_each_class(labels, percent, per_class, seed):
    split = split_by_class(labels, percent / 100, method="first", per_class=per_class, seed=seed)
    for label in set(labels) - {-1}:
        members = np.flatnonzero(labels == label)
        n_train, n_test = wanted_sizes(len(members), percent, per_class)
        assert list(split.train[labels[split.train] == label]) == list(members[:n_train])
        assert list(split.test[labels[split.test] == label]) == list(members[-n_test:][:n_test])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("fraction", "n_images", "n_train"),
    # In binary 0.7 × 10, 0.58 × 50 and 0.29 × 100 come out a little below the whole number.
    [(0.7, 10, 7), (0.58, 50, 29), (0.29, 100, 29), (0.7, 11, 7), (0.7, 1, 1), (0.99, 2, 1)],
)
def test_the_share_is_rounded_down(method, fraction, n_images, n_train):
    split = split_by_class(np.zeros(n_images, np.int32), fraction, method=method)
    assert (len(split.train), len(split.test)) == (n_train, n_images - n_train)


@settings(deadline=None)
@given(LABELS, PERCENTS, st.sampled_from(METHODS), PER_CLASS, SEEDS)
def test_same_seed_same_split(labels, percent, method, per_class, seed):
    one, two = (
        split_by_class(labels, percent / 100, method=method, per_class=per_class, seed=seed)
        for _ in range(2)
    )
    assert np.array_equal(one.train, two.train)
    assert np.array_equal(one.test, two.test)


def test_other_seed_other_split():
    labels = np.repeat(np.arange(3, dtype=np.int32), 20)
    splits = {tuple(split_by_class(labels, 0.5, seed=seed).train) for seed in range(10)}
    assert len(splits) == 10


def test_classes_are_shuffled_apart_from_each_other():
    labels = np.repeat(np.arange(2, dtype=np.int32), 20)
    train = split_by_class(labels, 0.5).train
    assert list(train[train < 20]) != list(train[train >= 20] - 20)


@pytest.mark.parametrize(
    ("fraction", "options", "said"),
    [
        (0.0, {}, "fraction must be above 0 and below 1, not 0.0"),
        (1.0, {}, "not 1.0"),
        (-0.5, {}, "not -0.5"),
        (70, {}, "not 70"),
        (float("nan"), {}, "not nan"),
        (0.7, {"method": "random"}, "no split 'random'; there are stratified and first"),
        (0.7, {"per_class": 0}, "images per class must be 1 or more, not 0"),
        (0.7, {"per_class": -3}, "not -3"),
    ],
)
def test_bad_parameters_are_refused(fraction, options, said):
    with pytest.raises(ParameterError, match=said) as caught:
        split_by_class(np.zeros(4, np.int32), fraction, **options)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, CnncodesError)
