"""The training and the test images of a head.

Both splits take the same share of every class, so a rare class is tested too. ``first`` is
the split of the experiment this project grew from (yoavz/transfer-learning-keras): the first
images of each class, in the order of their names.

Images of one group, such as copies of a file, stay on one side. Groups are ordered by their first
image in the shuffled classes. First each group is added to the training part that fits into the
share of its classes, then each that brings these shares nearer to the train fraction; then groups
without which the shares are nearer are removed. With ``first`` a class ends at the first group
that takes its share further off. A group may have images of several classes; without such groups,
each class ends within half of its largest group of the train fraction. Where every image is a
group of its own, the split is the same as without groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import ParameterError
from cnncodes.parameters import COUNT, TRAIN_FRACTION, check_choice

METHODS = ("stratified", "first")


@dataclass(frozen=True)
class Split:
    """A split of labelled images.

    Attributes
    ----------
    train, test : ndarray of intp
        Rows of the labels, increasing and disjoint.
    """

    train: NDArray[np.intp]
    test: NDArray[np.intp]


def split_by_class(
    labels: NDArray[np.int32],
    train_fraction: float,
    *,
    method: str = "stratified",
    per_class: int | None = None,
    seed: int = 0,
    groups: NDArray[np.intp] | None = None,
    trained: NDArray[np.bool_] | None = None,
) -> Split:
    """Split labelled images into a training and a test part, class by class.

    Parameters
    ----------
    labels : ndarray of int32, shape (n_images,)
        The classes; images with a negative label are in neither part.
    train_fraction : float
        Share of each class that is trained on, above 0 and below 1, rounded down but at least
        one image; a class of two or more groups has at least one in the test part, unless each
        of them is needed to train another class.
    method : {"stratified", "first"}
        Whether each class is shuffled first, or kept in order.
    per_class : int, optional
        Maximum number of training images per class. The test part does not depend on it, so that
        accuracies can be compared.
    seed : int
        Seed of the shuffling.
    groups : ndarray of int, shape (n_images,), optional
        Images with equal numbers stay on one side; by default each image is its own group. A
        class of one group is in the training part only.
    trained : ndarray of bool, shape (n_images,), optional
        Images that are in the training part, as are those of their groups. The others are added
        to it up to `train_fraction` of the class.

    Returns
    -------
    Split
        The two parts.

    Raises
    ------
    ParameterError
        The fraction, the method or `per_class` is out of range, or `groups` of another length.
    """
    train_fraction = TRAIN_FRACTION.check(train_fraction, "train_fraction")
    method = check_choice(method, METHODS, "method")
    per_class = COUNT.check_or_none(per_class, "per_class")
    groups = _checked_groups(groups, len(labels))
    generator = np.random.default_rng(seed)
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels[labels >= 0])]
    if method == "stratified":
        classes = [generator.permutation(members) for members in classes]
    trains = _trains(classes, groups, train_fraction, trained, in_order=method == "first")
    none = np.empty(0, np.intp)
    train = [members[trains[members]][:per_class] for members in classes]
    test = [members[~trains[members]] for members in classes]
    return Split(np.sort(np.concatenate([none, *train])), np.sort(np.concatenate([none, *test])))


def whole_split(
    labels: NDArray[np.int32], per_class: int | None, *, method: str, seed: int
) -> Split:
    """Train on all labelled images, at most `per_class` of each class; nothing is tested."""
    generator = np.random.default_rng(seed)
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels[labels >= 0])]
    if method == "stratified":
        classes = [generator.permutation(members) for members in classes]
    train = np.concatenate([members[:per_class] for members in classes])
    return Split(np.sort(train), np.empty(0, np.intp))


def hold_out(
    y: NDArray[np.intp], fraction: float, *, seed: int = 0, groups: NDArray[np.intp] | None = None
) -> Split:
    """Hold out at most a share of each class at random, to validate a training.

    Parameters
    ----------
    y : ndarray of int, shape (n_images,)
        The classes, from 0 on.
    fraction : float
        Share of each class that is held out, from 0 to below 1; rounded down, so that small
        classes only train.
    seed : int
        Seed of the choice.
    groups : ndarray of int, shape (n_images,), optional
        Images with equal numbers stay on one side; a group that is larger than the share of one
        of its classes trains. By default each image is on its own.

    Returns
    -------
    Split
        What trains, and as `test` what is held out.

    Raises
    ------
    ParameterError
        `groups` is of another length.
    """
    groups = _checked_groups(groups, len(y))
    generator = np.random.default_rng(seed)
    # The tolerance keeps 0.29 of 100 at 29, though 0.29 * 100 is a little less in binary.
    left = (fraction * np.bincount(y) + 1e-9).astype(np.intp)
    if are_distinct(groups):
        held_out = np.zeros(len(y), bool)
        for label, n in enumerate(left):  # the same as below, in less memory
            held_out[generator.permutation(np.flatnonzero(y == label))[::-1][:n]] = True
        return Split(np.flatnonzero(~held_out), np.flatnonzero(held_out))
    group = np.unique(groups, return_inverse=True)[1]
    members, ends = np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))
    held_out = np.zeros(len(ends), bool)
    for label in range(len(left)):
        for row in generator.permutation(np.flatnonzero(y == label))[::-1]:
            if left[label] == 0:
                break
            start = ends[group[row] - 1] if group[row] else 0
            counts = np.bincount(y[members[start : ends[group[row]]]], minlength=len(left))
            if not held_out[group[row]] and (counts <= left).all():
                held_out[group[row]] = True
                left -= counts
    return Split(np.flatnonzero(~held_out[group]), np.flatnonzero(held_out[group]))


def are_distinct(values: NDArray[Any]) -> bool:
    """Return whether no two of the values are equal.

    Sorted, since `np.unique` has a node in memory for each of them.
    """
    ordered = np.sort(values)
    return not (ordered[1:] == ordered[:-1]).any()


def _checked_groups(groups: NDArray[np.intp] | None, n_images: int) -> NDArray[np.intp]:
    """Return the groups, by default one for each image."""
    if groups is None:
        return np.arange(n_images)
    if groups.shape != (n_images,):
        raise ParameterError(f"there must be {n_images} groups, one per image, not {len(groups)}")
    return groups


def _trains(
    classes: list[NDArray[np.intp]],
    groups: NDArray[np.intp],
    train_fraction: float,
    trained: NDArray[np.bool_] | None = None,
    *,
    in_order: bool,
) -> NDArray[np.bool_]:
    """Return for each image whether it trains; `classes` are the ordered rows of each class."""
    trains = np.zeros(len(groups), bool)
    if not classes:
        return trains
    if trained is None and are_distinct(groups[np.concatenate(classes)]):
        for members in classes:  # the same as below, in less memory
            trains[members[: _n_wanted(len(members), train_fraction)]] = True
        return trains
    y = np.full(len(groups), -1)
    rank = np.zeros(len(groups))  # from 0 to 1, so that the classes alternate
    for number, members in enumerate(classes):
        y[members] = number
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    labelled = np.flatnonzero(y >= 0)
    _, first, group = np.unique(groups[labelled], return_index=True, return_inverse=True)
    cells, n_images = np.unique(group * len(classes) + y[labelled], return_counts=True)
    counts: list[list[tuple[int, int]]] = [[] for _ in first]
    owner, of_class = np.divmod(cells, len(classes))
    for number, each, n in zip(owner.tolist(), of_class.tolist(), n_images.tolist(), strict=True):
        counts[number].append((each, n))
    sides = _Sides(counts, [len(members) for members in classes], train_fraction)
    order = np.argsort(rank[labelled[first]], kind="stable").tolist()
    if trained is not None:
        sides.keep_training(np.unique(group[trained[labelled]]).tolist())
    sides.keep_undivided_classes()
    if in_order:
        sides.fill_in_order(order)
    else:
        sides.fill(order)
    sides.train_and_test_each_class()
    trains[labelled] = np.array(sides.trains)[group]
    return trains


def _n_wanted(size: int, train_fraction: float) -> int:
    """Return how many images of a class of `size` are to train."""
    # The tolerance keeps 0.7 of 10 at 7, though 0.7 * 10 is a little less in binary.
    return max(1, min(int(train_fraction * size + 1e-9), size - 1))


class _Sides:
    """The side of each group, and how many images of each class train so far.

    Parameters
    ----------
    counts : list of list of (int, int)
        For each group its classes, and how many images it has of each.
    sizes : list of int
        Images of each class.
    train_fraction : float
        Share of each class that is to be trained on.
    """

    def __init__(
        self, counts: list[list[tuple[int, int]]], sizes: list[int], train_fraction: float
    ) -> None:
        self.trains = [False] * len(counts)
        self._counts = counts
        self._sizes = sizes
        self._missing = [_n_wanted(size, train_fraction) for size in sizes]
        self._members: list[list[int]] = [[] for _ in sizes]
        for group, cells in enumerate(counts):
            for label, _ in cells:
                self._members[label].append(group)
        self._n_training = [0] * len(sizes)
        self._kept: set[int] = set()

    def keep_training(self, groups: list[int]) -> None:
        """Train on groups, whatever the share of their classes."""
        self._kept = set(groups)
        for group in groups:
            self._move(group)

    def keep_undivided_classes(self) -> None:
        """Train on the classes of one group."""
        for members in self._members:
            if len(members) == 1 and not self.trains[members[0]]:
                self._move(members[0])

    def fill(self, order: list[int]) -> None:
        """Train on groups that fit, and then on those that reduce the cost."""
        for group in order:
            fits = all(n <= self._missing[label] for label, n in self._counts[group])
            if fits and not self.trains[group]:
                self._move(group)
        for group in order:
            if not self.trains[group] and self._cost(group) < 0:
                self._move(group)
        for group in reversed(order):  # a large one, added last, may have made others needless
            if self.trains[group] and self._spares(group) and self._cost(group) < 0:
                self._move(group)

    def fill_in_order(self, order: list[int]) -> None:
        """Train on groups up to the first of each class that does not reduce the cost."""
        ended = [False] * len(self._sizes)
        for group in order:
            if self.trains[group]:
                continue
            cells = self._counts[group]
            if self._cost(group) < 0 and not any(ended[label] for label, _ in cells):
                self._move(group)
                continue
            for label, n in cells:
                ended[label] |= n >= 2 * self._missing[label]

    def train_and_test_each_class(self) -> None:
        """Move groups so that each class is trained on, and tested where that is possible too."""
        for members in self._members:
            if not any(self.trains[group] for group in members):
                spare = [group for group in members if self._spares(group)]
                self._move(min(spare or members, key=self._cost))
        for members in self._members:
            if len(members) > 1 and all(self.trains[group] for group in members):
                spare = [group for group in members if self._spares(group)]
                if spare:
                    self._move(min(spare, key=self._cost))

    def _cost(self, group: int) -> float:
        """Return what a move adds to the squared differences from the train fraction."""
        sign = -1 if self.trains[group] else 1
        return sum(
            n * (n - sign * 2 * self._missing[label]) / self._sizes[label] ** 2
            for label, n in self._counts[group]
        )

    def _spares(self, group: int) -> bool:
        """Return whether a group may move: each of its classes has another on the same side."""
        if group in self._kept:
            return False
        n_others = (
            self._n_training[label] if self.trains[group] else self._n_testing(label)
            for label, _ in self._counts[group]
        )
        return all(n > 1 for n in n_others)

    def _n_testing(self, label: int) -> int:
        return len(self._members[label]) - self._n_training[label]

    def _move(self, group: int) -> None:
        """Move a group to the other side."""
        self.trains[group] = not self.trains[group]
        sign = 1 if self.trains[group] else -1
        for label, n in self._counts[group]:
            self._missing[label] -= sign * n
            self._n_training[label] += sign
