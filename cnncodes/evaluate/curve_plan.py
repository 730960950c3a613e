"""The training and test images of a learning curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import ParameterError, TrainingError
from cnncodes.head.groups import groups_of, notes_on_split
from cnncodes.head.joined import open_codes
from cnncodes.head.labels import labelled_classes
from cnncodes.head.memory import OF_FEWER, check_memory, needed_by_curve
from cnncodes.head.split import Split, split_by_class
from cnncodes.head.train import majority_accuracy
from cnncodes.head.weighting import Weighting
from cnncodes.images.class_maps import ClassMap
from cnncodes.images.path_lists import PathList
from cnncodes.text import listed

SMALLEST_SIZE = 5  # of those that are chosen, where there are images for larger ones
N_SIZES = 3  # at least, where there are not
HEADS_AT_ONCE = 2  # of one size
SIZES_LISTED = 10  # in a note


@dataclass(frozen=True)
class Plan:
    """The images of one curve, as indices among those of the codes file.

    Attributes
    ----------
    path : Path
        The codes file, for messages.
    files : tuple of Path
        It, or the files whose codes are side by side.
    names : list of str
        The classes.
    y : ndarray of int32, shape (n_images,)
        Indices into `names`, −1 for images without a label.
    test : ndarray of intp
        The test part.
    train : dict of int to list of ndarray of intp
        For each number of images per class the training images of each draw.
    groups : ndarray of intp, shape (n_images,)
        Numbers that are equal for images which belong together.
    weighting : Weighting
        How much each image counts in training, and how probable its label is.
    majority : float
        Test accuracy of always predicting the class most common in training.
    split, train_fraction, seed
        As for `split_by_class`.
    notes : list of str
        Remarks on the data.
    """

    path: Path
    files: tuple[Path, ...]
    names: list[str]
    y: NDArray[np.int32]
    test: NDArray[np.intp]
    train: dict[int, list[NDArray[np.intp]]]
    groups: NDArray[np.intp]
    weighting: Weighting
    majority: float | None
    split: str
    train_fraction: float
    seed: int
    notes: list[str]


def default_sizes(most: int) -> list[int]:
    """Return `most`, half of it, a quarter and so on down to about 5; three sizes if it is less.

    Parameters
    ----------
    most : int
        Training images of the class that has the most.

    Returns
    -------
    list of int
        Increasing.
    """
    sizes = [most]
    while sizes[-1] > 1:
        half = (sizes[-1] + 1) // 2
        if half < SMALLEST_SIZE and len(sizes) >= N_SIZES:
            break
        sizes.append(half)
    return sizes[::-1]


def plan_curve(
    files: Sequence[Path],
    sizes: Sequence[int] | None,
    train_fraction: float,
    split: str,
    seeds: int,
    seed: int,
    excluded: PathList | None = None,
    together: PathList | None = None,
    class_map: ClassMap | None = None,
) -> Plan:
    """Split and draw the images of one curve.

    Parameters
    ----------
    files : sequence of Path
        A codes file, or several as for `open_codes`.
    sizes : sequence of int or None
        Training images per class, increasing; None for `default_sizes`.
    train_fraction, split, seeds, seed
        As for `draw_images`.
    excluded, together : PathList, optional
        Images to leave out, and pairs of images that stay on one side.
    class_map : ClassMap, optional
        New names of the classes.

    Raises
    ------
    FileFormatError
        The file is not a codes file.
    TrainingError
        The codes have fewer than two classes, no image is left for the test part, or the heads
        take more memory than there is.
    ParameterError
        A parameter is out of range, or no class has as many images as the smallest size.
    """
    with open_codes(files) as store:
        path = store.path
        renames = [] if class_map is None else class_map.apply(store)
        classes, y, notes = labelled_classes(store, excluded)
        notes += [*renames, *store.notes]
        groups = groups_of(store, together)
        if together is not None:
            notes.append(together.note_on_pairs(store.of_images(store.paths)))
        names = [store.class_names[number] for number in classes]
        if split == "first" and seeds > 1:
            notes.append("the first images are the same for every seed: one seed is used")
            seeds = 1
        parts = split_by_class(y, train_fraction, method=split, seed=seed, groups=groups)
        if not len(parts.test):
            raise TrainingError(
                f"{path}: no class has two images (copies of a file and images of a group count "
                "once), so nothing is left to test on; extract more"
            )
        notes += notes_on_split(store, classes, y, parts, train_fraction)
        weighting = Weighting.of(store, y, names)
        notes += weighting.notes(parts.train)
        n_views, n_features = store.n_views, int(np.prod(store.codes.shape[1:]))
    trained = weighting.trained(parts.train)
    available = np.bincount(y[trained])
    most = int(available.max())
    if sizes is None:
        sizes = default_sizes(most)
    elif sizes[0] > most:
        raise ParameterError(
            f"{path}: no class has {sizes[0]:,} training images; name numbers up to {most:,}"
        )
    notes += _notes_on_sizes(sizes, available, names)
    sizes = [size for size in sizes if size <= most]
    parts, draws = draw_images(y, sizes, train_fraction, split, seeds, seed, groups, trained)
    _check_memory(path, draws, len(parts.test), n_views, n_features)
    majority = majority_accuracy(y, parts)
    return Plan(
        path,
        tuple(files),
        names,
        y,
        parts.test,
        draws,
        groups,
        weighting,
        majority,
        split,
        train_fraction,
        seed,
        notes,
    )


def draw_images(
    y: NDArray[np.int32],
    sizes: Sequence[int],
    train_fraction: float,
    split: str,
    seeds: int,
    seed: int,
    groups: NDArray[np.intp] | None = None,
    trained: NDArray[np.intp] | None = None,
) -> tuple[Split, dict[int, list[NDArray[np.intp]]]]:
    """Split the images once, and draw from the training part for each size and seed.

    Parameters
    ----------
    y : ndarray of int32, shape (n_images,)
        Classes, negative for images without a label.
    sizes : sequence of int
        Training images per class, at most.
    train_fraction, split, seed, groups
        As for `split_by_class`.
    seeds : int
        Number of draws. The first is that of `split_by_class`; in each, a larger size has all
        the images of a smaller one. A size that takes all images has only the first.
    trained : ndarray of intp, optional
        Those of the training part that are drawn from, increasing and some of each class; by
        default all.

    Returns
    -------
    parts : Split
        The images that are drawn from, and the test images of every head.
    draws : dict of int to list of ndarray of intp
        For each size the training images of each draw, as increasing indices into `y`.

    Raises
    ------
    ParameterError
        The fraction or the split is out of range.
    """
    parts = split_by_class(y, train_fraction, method=split, seed=seed, groups=groups)
    trained = parts.train if trained is None else trained
    are_all = len(trained) == len(parts.train)
    orders = [
        np.random.default_rng((seed, number)).permutation(trained)
        for number in range(are_all, seeds)
    ]
    if not are_all and split == "first":
        orders[0] = trained
    most = np.bincount(y[trained]).max()
    draws = {}
    for size in sizes:
        first: list[NDArray[np.intp]] = []
        if are_all:
            whole = split_by_class(
                y, train_fraction, method=split, per_class=size, seed=seed, groups=groups
            )
            first = [whole.train]
        n_draws = seeds if size < most else 1
        draws[size] = [*first, *(_leading(order, y, size) for order in orders)][:n_draws]
    return parts, draws


def images_of(draws: dict[int, list[NDArray[np.intp]]]) -> NDArray[np.intp]:
    """Return the images that train any head, increasing."""
    return np.unique(np.concatenate([*chain.from_iterable(draws.values())]))


def _check_memory(
    path: Path,
    draws: dict[int, list[NDArray[np.intp]]],
    n_test: int,
    n_views: int,
    n_features: int,
) -> None:
    n_rows = n_views * len(images_of(draws))
    # The first head of a size is fitted alone.
    together = [
        (n_views * len(each[0]), min(HEADS_AT_ONCE, max(1, len(each) - 1)))
        for each in draws.values()
    ]
    needed = needed_by_curve(n_rows, n_test, together, n_features)
    check_memory(path, "curve", needed, n_rows + n_test, n_features, remedy=OF_FEWER)


def _leading(order: NDArray[np.intp], y: NDArray[np.int32], size: int) -> NDArray[np.intp]:
    """Return the first `size` images of each class in an order, sorted."""
    members = [order[y[order] == label][:size] for label in np.unique(y[order])]
    return np.sort(np.concatenate(members))


def _notes_on_sizes(
    sizes: Sequence[int], available: NDArray[np.intp], names: list[str]
) -> list[str]:
    """Name sizes that no class has, and classes with fewer training images than a size."""
    notes = []
    most = int(available.max())
    too_large = [f"{size:,}" for size in sizes if size > most]
    if too_large:
        notes.append(
            f"left out: {listed(too_large)} images per class, since no class has more than "
            f"{most:,} training images"
        )
    elif sizes[-1] < most:
        notes.append(f"there are up to {most:,} training images per class")
    uneven = [size for size in sizes if available.min() < size <= most]
    if uneven:
        fewer = [np.flatnonzero(available < size) for size in uneven]
        counts = [
            f"{len(few)} of {len(names)} have fewer than {size:,} "
            f"({listed([names[number] for number in few])})"
            for size, few in zip(uneven, fewer, strict=True)
        ]
        notes.append(
            "classes with fewer images than a size train on all of them: "
            f"{'; '.join(counts[:SIZES_LISTED])}{'; …' if len(counts) > SIZES_LISTED else ''}"
        )
    return notes


def compare_plans(plans: list[Plan]) -> None:
    """Refuse a file that is named twice, and note where classes differ."""
    for plan, other in combinations(plans, 2):
        if plan.path.samefile(other.path):
            raise ParameterError(f"{other.path}: is named twice; name each codes file once")
    for plan in plans[1:]:
        if plan.names != plans[0].names:
            plan.notes.append(
                f"has other classes than {plans[0].path}: the accuracies cannot be compared"
            )
