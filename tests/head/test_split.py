from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnncodes.errors import CnncodesError, ParameterError
from cnncodes.head.split import METHODS, hold_out, split_by_class

LABELS = st.lists(st.integers(-1, 4), max_size=60).map(lambda labels: np.array(labels, np.int32))
PERCENTS = st.integers(1, 99)
PER_CLASS = st.none() | st.integers(1, 12)
SEEDS = st.integers(0, 2**32)
FRACTIONS = PERCENTS.map(lambda percent: percent / 100)


@st.composite
def grouped(draw, within_classes=False):
    """Labels, and numbers of groups; each group within one class if that is wanted."""
    n_images = draw(st.integers(0, 60))
    numbers = st.integers(0, draw(st.sampled_from([1, 4, 15, 1000])))
    labels, groups = (
        np.array(draw(st.lists(each, min_size=n_images, max_size=n_images)), np.int32)
        for each in (st.integers(-1, 4), numbers)
    )
    return labels, groups * 6 + labels if within_classes else groups


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
        actual = ((labels[split.train] == label).sum(), (labels[split.test] == label).sum())
        assert actual == wanted_sizes((labels == label).sum(), percent, per_class)


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


def plain_split(labels, train_fraction, method, per_class, seed):
    """The split without groups, as it is defined."""
    generator = np.random.default_rng(seed)
    train, test = [], []
    for label in np.unique(labels[labels >= 0]):
        members = np.flatnonzero(labels == label)
        if method == "stratified":
            members = generator.permutation(members)
        wanted = int(train_fraction * len(members) + 1e-9)
        n_train = max(1, min(wanted, len(members) - 1))
        train.extend(members[:n_train][:per_class])
        test.extend(members[n_train:])
    return sorted(train), sorted(test)


@given(LABELS, FRACTIONS, st.sampled_from(METHODS), PER_CLASS, SEEDS, st.randoms())
def test_groups_of_one_image_change_nothing(labels, fraction, method, per_class, seed, random):
    numbers = list(range(len(labels)))
    random.shuffle(numbers)
    for groups in (None, np.array(numbers, np.intp)):
        split = split_by_class(
            labels, fraction, method=method, per_class=per_class, seed=seed, groups=groups
        )
        plain = plain_split(labels, fraction, method, per_class, seed)
        assert (list(split.train), list(split.test)) == plain


@given(grouped(), FRACTIONS, st.sampled_from(METHODS), PER_CLASS, SEEDS)
def test_no_group_is_on_both_sides(images, fraction, method, per_class, seed):
    labels, groups = images
    split, cut = (
        split_by_class(labels, fraction, method=method, per_class=each, seed=seed, groups=groups)
        for each in (None, per_class)
    )
    assert not set(groups[split.train]) & set(groups[split.test])
    assert sorted([*split.train, *split.test]) == list(np.flatnonzero(labels >= 0))
    assert set(labels[cut.train]) == set(labels[labels >= 0]), "every class trains"
    assert np.array_equal(cut.test, split.test)
    assert set(cut.train) <= set(split.train)
    n_cut, n_all = (np.bincount(labels[each.train], minlength=5) for each in (cut, split))
    assert np.array_equal(n_cut, np.minimum(n_all, per_class or len(labels)))


@given(grouped(), FRACTIONS, st.sampled_from(METHODS), SEEDS)
def test_a_class_is_untested_only_where_its_groups_are_needed(images, fraction, method, seed):
    labels, groups = images
    split = split_by_class(labels, fraction, method=method, seed=seed, groups=groups)
    trains = {label: set(groups[split.train[labels[split.train] == label]]) for label in range(5)}
    for label in set(labels[labels >= 0]) - set(labels[split.test]):
        mine = set(groups[labels == label])
        only = [each.pop() for each in map(set, trains.values()) if len(each) == 1]
        assert mine <= set(only)


@given(grouped(within_classes=True), FRACTIONS, st.sampled_from(METHODS), SEEDS)
def test_shares_are_as_near_as_groups_allow(images, fraction, method, seed):
    labels, groups = images
    split = split_by_class(labels, fraction, method=method, seed=seed, groups=groups)
    for label in set(labels) - {-1}:
        sizes = np.unique(groups[labels == label], return_counts=True)[1]
        n_images, n_train = sizes.sum(), (labels[split.train] == label).sum()
        assert (n_train < n_images) == (len(sizes) > 1)
        wanted, _ = wanted_sizes(n_images, round(100 * fraction), None)
        # A group more or less on either side may be needed, so that no side is empty.
        at_edge = n_train == sizes.max() or n_train + sizes.min() == n_images
        at_edge |= n_train in sizes
        assert abs(n_train - wanted) <= sizes.max() / 2 or at_edge


@given(st.integers(1, 30), st.integers(2, 5), FRACTIONS, st.sampled_from(METHODS), SEEDS)
def test_equal_groups_are_split_as_images_are(n_groups, size, fraction, method, seed):
    groups = np.repeat(np.arange(n_groups), size)
    split = split_by_class(
        np.zeros(len(groups), np.int32), fraction, method=method, seed=seed, groups=groups
    )
    wanted = np.clip(fraction * n_groups, 1, max(1, n_groups - 1))
    assert abs(len(split.train) / size - wanted) <= 1


def test_first_takes_groups_in_the_order_of_their_first_images():
    labels = np.zeros(10, np.int32)
    groups = np.array([7, 3, 7, 5, 3, 1, 1, 9, 9, 8])
    split = split_by_class(labels, 0.6, method="first", groups=groups)
    assert list(split.train) == [0, 1, 2, 3, 4]  # 7, 3 and 5; with both of 1 there would be 7


def test_size_of_a_group_does_not_decide_its_side():
    labels = np.zeros(50, np.int32)
    groups = np.array([0] * 10 + list(range(1, 41)))
    splits = [split_by_class(labels, 0.5, seed=seed, groups=groups) for seed in range(200)]
    assert {len(split.train) for split in splits} == {25}
    assert 60 < sum(0 in split.train for split in splits) < 140


def test_group_with_two_labels_takes_both_along():
    labels = np.array([0] * 6 + [1] * 6, np.int32)
    groups = np.array([0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5])
    split = split_by_class(labels, 0.5, groups=groups)
    assert sorted(split.train % 6) == sorted([*split.train[:3]] * 2)
    assert np.bincount(labels[split.train]).tolist() == [3, 3]
    assert np.bincount(labels[split.test]).tolist() == [3, 3]


def test_all_images_in_one_group_train():
    split = split_by_class(np.array([0, 1, 1, 2], np.int32), 0.1, groups=np.zeros(4, np.intp))
    assert (list(split.train), list(split.test)) == ([0, 1, 2, 3], [])


def test_other_seed_other_split():
    labels = np.repeat(np.arange(3, dtype=np.int32), 20)
    splits = {tuple(split_by_class(labels, 0.5, seed=seed).train) for seed in range(10)}
    assert len(splits) == 10


def test_classes_are_shuffled_apart_from_each_other():
    labels = np.repeat(np.arange(2, dtype=np.int32), 20)
    train = split_by_class(labels, 0.5).train
    assert list(train[train < 20]) != list(train[train >= 20] - 20)


@pytest.mark.parametrize(
    ("fraction", "options", "message"),
    [
        (0.0, {}, "fraction must be above 0 and below 1, not 0.0"),
        (1.0, {}, "not 1.0"),
        (-0.5, {}, "not -0.5"),
        (70, {}, "not 70"),
        (float("nan"), {}, "not nan"),
        (0.7, {"method": "random"}, "method must be 'stratified' or 'first', not 'random'"),
        (0.7, {"per_class": 0}, "per_class must be from 1 to 1,000,000,000, not 0"),
        (0.7, {"per_class": -3}, "not -3"),
    ],
)
def test_bad_parameters_are_refused(fraction, options, message):
    with pytest.raises(ParameterError, match=message) as caught:
        split_by_class(np.zeros(4, np.int32), fraction, **options)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, CnncodesError)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=1, max_size=80),
    st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.99]),
    st.integers(0, 9),
)
def test_no_more_than_the_share_of_any_class_is_held_out(images, fraction, seed):
    y, groups = np.array(images).T
    split = hold_out(y, fraction, seed=seed, groups=groups)
    assert sorted([*split.train, *split.test]) == list(range(len(y)))
    assert not set(groups[split.train]) & set(groups[split.test])
    sizes, held_out = (np.bincount(part, minlength=4) for part in (y, y[split.test]))
    assert (held_out <= fraction * sizes + 1e-9).all()
    alone = hold_out(y, fraction, seed=seed)
    assert list(np.bincount(y[alone.test], minlength=4)) == [
        int(fraction * n + 1e-9) for n in sizes
    ]
