"""Images that belong together: copies of one file, and those of one group.

They must not be on both sides of a split: the accuracy on copies of training images is not that
on new images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cnncodes.extract.store import CodeStore
from cnncodes.head.split import Split, are_distinct, split_by_class
from cnncodes.images.path_lists import PathList
from cnncodes.text import listed

UNEVEN = 0.05  # of the images: a test part that differs by more from the wanted one is noted
NOTHING_TESTED = (
    "nothing was tested, so how good the head is on new images is unknown: each class has one "
    "image, or images that belong together; add others"
)


def number_groups(digests: Sequence[str], names: Sequence[str] = ()) -> NDArray[np.intp]:
    """Return a number for each image, equal for images of one group.

    Images with the same digest or the same group name are in one group, as are those that share
    a group with a third one.

    Parameters
    ----------
    digests : sequence of str
        SHA-256 of each image's file.
    names : sequence of str
        Name of each image's group, "" where it has none; empty without groups.

    Returns
    -------
    ndarray of intp, shape (n_images,)
        The numbers of the images' groups, from 0 on in the order of their first images.
    """
    return _with_names(_numbered(digests), names)


def _with_names(numbers: NDArray[np.intp], names: Sequence[str]) -> NDArray[np.intp]:
    """Connect images of one group name, given numbers of the copies of each file."""
    if not any(names):
        return numbers
    grouped = [image for image, name in enumerate(names) if name]
    named = _numbered(names[image] for image in grouped)
    # Digests and names are the nodes of a graph, and each image with a group is an edge.
    return _connected(numbers, numbers[grouped], int(numbers.max()) + 1 + named)


def groups_of(store: CodeStore, together: PathList | None = None) -> NDArray[np.intp]:
    """Return `number_groups` for all images of a codes file, not for their views.

    Images of a pair of `together` are in one group, too.
    """
    every = np.arange(store.n_images)
    numbers = _numbered_copies(store, every)
    numbers = _with_names(every if numbers is None else numbers, store.of_images(store.groups))
    if together is None:
        return numbers
    pairs = np.array(together.pairs_among(store.of_images(store.paths)))
    return _connected(numbers, numbers[pairs[:, 0]], numbers[pairs[:, 1]])


def _connected(
    numbers: NDArray[np.intp], start: NDArray[np.intp], end: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Renumber images, of which each has the number of a node, by components of a graph.

    Its edges lead from the nodes `start` to the nodes `end`.
    """
    n_nodes = int(max(numbers.max(), end.max())) + 1
    graph = coo_array((np.ones(len(start)), (start, end)), shape=(n_nodes, n_nodes))
    _, component = connected_components(graph, directed=False)
    return _numbered(component[numbers].tolist())


def n_copies(digests: Sequence[str]) -> int:
    """Return the number of images that are copies of another one."""
    return len(digests) - len(set(digests))


def notes_on_copies(
    paths: Sequence[str], digests: Sequence[str], labels: Sequence[str], consequence: str
) -> list[str]:
    """Report the number of copies, and files with more than one label.

    Parameters
    ----------
    paths, digests, labels : sequence of str
        Of each image that is used.
    consequence : str
        Treatment of copies, the end of the note.
    """
    copies = n_copies(digests)
    if not copies:
        return []
    are = "is a copy of another" if copies == 1 else "are copies of others"
    notes = [f"{copies} of {len(digests)} images {are} (the same file); {consequence}"]
    paths_of: dict[str, dict[str, str]] = {}  # by digest and label
    for path, digest, label in zip(paths, digests, labels, strict=True):
        paths_of.setdefault(digest, {}).setdefault(label, path)
    several = [
        " and ".join(f"{path} ({label})" for label, path in each.items())
        for each in paths_of.values()
        if len(each) > 1
    ]
    if several:
        have = "1 file has" if len(several) == 1 else f"{len(several)} files have"
        notes.append(f"{have} more than one label: {listed(several)}")
    return notes


def notes_on_groups(names: Iterable[str]) -> list[str]:
    """Report the number of groups, given the name of each image's group."""
    names = list(names)
    n_groups, n_without = len({*names} - {""}), names.count("")
    if not n_groups:
        return []
    some = "1 group, which stays" if n_groups == 1 else f"{n_groups} groups, which stay"
    have = "1 image has" if n_without == 1 else f"{n_without} images have"
    without = f"; {have} none" if n_without else ""
    return [f"the images are of {some} on one side of the split{without}"]


def notes_on_split(
    store: CodeStore,
    classes: NDArray[np.int32],
    y: NDArray[np.int32],
    parts: Split,
    train_fraction: float,
    per_class: int | None = None,
) -> list[str]:
    """Report copies, groups, and classes that are not tested or have few images.

    Parameters
    ----------
    store : CodeStore
        An open codes file.
    classes, y : ndarray
        As returned by `labels.labelled_classes`.
    parts : Split
        The split of all images.
    train_fraction, per_class
        As for `split_by_class`.
    """
    names = [store.class_names[number] for number in classes]
    counts = np.bincount(y[parts.train])
    notes = notes_on_labelled(store, y, names)
    few = np.flatnonzero(counts < (per_class or 0))
    if len(few):
        have = "1 class has" if len(few) == 1 else f"{len(few)} classes have"
        few_names = listed([f"{names[number]} ({counts[number]})" for number in few])
        notes.append(f"{have} fewer than {per_class:,} training images: {few_names}")
    n_images = np.bincount(y[y >= 0])
    n_without_groups = len(split_by_class(y, train_fraction).test)
    if abs(len(parts.test) - n_without_groups) > UNEVEN * n_images.sum():
        share = len(parts.test) / n_images.sum()
        notes.append(f"copies and groups leave {share:.0%} of the images to test on")
    if not len(parts.test):
        notes.insert(0, NOTHING_TESTED)
    untested = np.setdiff1d(y[parts.train], y[parts.test])
    for what, numbers in (
        ("classes of one image", untested[n_images[untested] == 1]),
        ("classes whose images must stay on one side", untested[n_images[untested] > 1]),
    ):
        if len(numbers):
            untested_names = listed([names[number] for number in numbers])
            notes.append(f"{what} train but are not tested: {untested_names}")
    return notes


def notes_on_labelled(store: CodeStore, y: NDArray[np.int32], names: list[str]) -> list[str]:
    """Report copies and groups among the labelled images."""
    rows, groups = np.flatnonzero(y >= 0), store.of_images(store.groups)
    notes = []
    if _numbered_copies(store, rows) is not None:
        paths, digests = store.of_images(store.paths), store.of_images(store.digests)
        notes = notes_on_copies(
            [paths[row] for row in rows],
            [digests[row] for row in rows],
            [names[y[row]] for row in rows],
            "copies stay on one side of the split",
        )
    return notes + notes_on_groups(groups[row] for row in rows if groups)


def _numbered_copies(store: CodeStore, images: NDArray[np.intp]) -> NDArray[np.intp] | None:
    """Return a number for some images, equal for copies of a file; None without copies.

    Digests are compared by their beginnings first, which take little memory.
    """
    if are_distinct(store.raw_digests(8)[images].view(np.uint64).reshape(-1)):
        return None
    digests = [digest.tobytes() for digest in store.raw_digests()[images]]
    numbers = _numbered(digests)
    return numbers if numbers.max() + 1 < len(numbers) else None


def _numbered(values: Iterable[object]) -> NDArray[np.intp]:
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], np.intp)
