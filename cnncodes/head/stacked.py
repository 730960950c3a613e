"""Codes of different images by one network, from several files.

A `StackedStore` is read like the file that ``cnncodes merge`` makes of the same files: one after
the other, parts in the order of their numbers and other files in that of their paths, each image
once. Nothing is copied, and only labels, groups and weights of the images stay in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import FileFormatError, ParameterError
from cnncodes.extract.merging import sorted_classes
from cnncodes.extract.store import CodeStore
from cnncodes.extract.writing import WEIGHTING, joint_source
from cnncodes.images.multilabel import UNKNOWN_VALUE
from cnncodes.machine import max_open_files
from cnncodes.text import counted

_SHOWN = 3  # paths in messages
_HANDLES = 2  # of each codes file
_OTHER_HANDLES = 64  # of the process, such as those of libraries
_SETTINGS: dict[str, Callable[[CodeStore], object]] = {
    "precision": lambda store: store.backbone.precision,
    "input size": lambda store: store.backbone.input_size,
    "layer": lambda store: store.backbone.layer,
    "pool": lambda store: store.backbone.pool,
    "dtype": lambda store: store.codes.dtype.name,
    "shape of the codes": lambda store: store.codes.shape[1:],
    "views": lambda store: store.augment,
    "white": lambda store: store.white,
}


def check_n_files(paths: Sequence[Path]) -> None:
    """Refuse more files than may be open at once, before any is opened.

    Raises
    ------
    ParameterError
        There are more.
    """
    most, needed = max_open_files(), _HANDLES * len(paths) + _OTHER_HANDLES
    if len(paths) > 1 and most is not None and needed > most:
        raise ParameterError(
            f"{joint_path(paths)}: need {needed:,} open files, and the system allows {most:,}; "
            f"join them first with cnncodes merge, or raise the limit: ulimit -n {needed}"
        )


def joint_path(paths: Sequence[Path]) -> Path:
    """Return a text that stands for several files in messages, as a path."""
    shown = [str(path) for path in paths[:_SHOWN]]
    if len(paths) > _SHOWN:
        shown[1:] = [f"{len(paths) - 1:,} other codes files"]
    return Path(" + ".join(shown))


def stacked(stores: Sequence[CodeStore]) -> list[CodeStore]:
    """Return one store for each network, in the order of its first file.

    Files of one network are those made by the same backbone file.
    """
    of_network: dict[str, list[CodeStore]] = {}
    for store in stores:
        of_network.setdefault(store.backbone_sha256, []).append(store)
    return [each[0] if len(each) == 1 else StackedStore(each) for each in of_network.values()]


class StackedStore(CodeStore):
    """The codes of the images of several files, which are by one network.

    An image that is in several files, with the same path and content, is that of the first.

    Parameters
    ----------
    stores : sequence of CodeStore
        Open codes files, in any order, which are closed with this one.

    Attributes
    ----------
    path : Path
        The paths of the files, for messages.
    notes : tuple of str
        Reports the number of files, and images that are in several of them.
    class_names : list of str
        Names of the classes of all files, sorted.

    Raises
    ------
    FileFormatError
        The files have different settings, or classes that differ in case only; or of one image
        different contents, labels or groups.
    ParameterError
        A file is named twice.
    """

    def __init__(self, stores: Sequence[CodeStore]) -> None:
        self._stores = sorted(stores, key=lambda store: (_part_number(store), str(store.path)))
        self.path = joint_path([store.path for store in self._stores])
        self._check_alike()
        self._is_divided, note = _divided(self._stores)
        self._matrices = _matrices(self._stores)
        # Columns of a matrix are in the order of the names of all files.
        alike = self._matrices and self._stores[0].class_names
        names = ((store.path, store.class_names) for store in self._stores)
        self.class_names = alike or sorted_classes(names, error=FileFormatError)
        self._labels = [_renumbered(store, self.class_names) for store in self._stores]
        self._groups = [list(store.of_images(store.groups)) for store in self._stores]
        self._weighting = {
            name: [store.of_images(getattr(store, name)) for store in self._stores]
            for name in WEIGHTING
            if any(len(getattr(store, name)) for store in self._stores)
        }
        for numbers in self._weighting.values():  # a file without them has ones
            for file, store in enumerate(self._stores):
                numbers[file] = numbers[file] if len(numbers[file]) else np.ones(store.n_images)
        self._kept = [np.arange(store.n_images, dtype=np.int32) for store in self._stores]
        n_twice = 0 if self._is_divided else self._drop_repeated()
        self._starts = np.cumsum([0, *map(len, self._kept)])
        self.notes = (f"the images of {len(self._stores)} codes files are stacked{note}",)
        if n_twice:
            are = "is" if n_twice == 1 else "are"
            self.notes += (
                f"{counted(n_twice, 'image')} {are} in several files, with the same path and "
                "content; each counts once",
            )
        for store in self._stores:
            store.release()

    def _check_alike(self) -> None:
        """Refuse a file that is named twice, and codes that differ in more than their images."""
        first, *others = self._stores
        for other in others:
            for name, setting in _SETTINGS.items():
                one, two = setting(first), setting(other)
                if one != two:
                    raise FileFormatError(
                        f"{first.path} and {other.path}: are of one network, but with different "
                        f"{name} ({one} and {two}); extract one of them again"
                    )
        known: dict[tuple[int, int], Path] = {}
        for store in self._stores:
            status = store.path.stat()
            twin = known.setdefault((status.st_dev, status.st_ino), store.path)
            if twin is not store.path:
                raise ParameterError(f"{twin} and {store.path}: are the same file; name it once")

    def _drop_repeated(self) -> int:
        """Leave out images that an earlier file has too; return their number.

        Paths are compared by a number of 8 bytes first, so that few are in memory at a time.
        """
        keys = []
        for store in self._stores:
            keys.append(np.fromiter(map(hash, store.of_images(store.paths)), np.int64))
            store.release()
        every = np.sort(np.concatenate(keys))
        repeated = every[:-1][every[:-1] == every[1:]]
        first: dict[str, tuple[int, int]] = {}  # file and image of each path
        n_twice = 0
        for file, own in enumerate(keys):
            candidates = np.flatnonzero(np.isin(own, repeated)).tolist()
            if not candidates:
                continue
            dropped = []
            paths = self._stores[file].of_images(self._stores[file].paths)
            for image in candidates:
                earlier = first.setdefault(paths[image], (file, image))
                if earlier[0] != file:
                    self._unite(paths[image], earlier, (file, image))
                    dropped.append(image)
            self._kept[file] = np.delete(self._kept[file], dropped)
            n_twice += len(dropped)
        return n_twice

    def _unite(self, path: str, first: tuple[int, int], second: tuple[int, int]) -> None:
        """Refuse an image that two files describe differently; complete it in the first."""
        (file, image), (other, twin) = first, second
        one, two = self._stores[file], self._stores[other]
        both = f"{one.path} and {two.path}: {path}"
        if one.digests[image * one.n_views] != two.digests[twin * two.n_views]:
            raise FileFormatError(
                f"{both} has another content in each; extract one of them again, or join them with "
                "cnncodes merge --rename"
            )
        label, own = self._labels[file][image], self._labels[other][twin]
        if min(label, own) >= 0 and label != own:
            raise FileFormatError(
                f"{both} is labelled {self.class_names[label]} in one and "
                f"{self.class_names[own]} in the other; correct one and extract it again"
            )
        self._labels[file][image] = max(label, own)
        for name, numbers in self._weighting.items():
            number, twin_number = numbers[file][image], numbers[other][twin]
            if 1.0 not in (number, twin_number) and number != twin_number:
                raise FileFormatError(
                    f"{both} has {name} of {number:g} in one and {twin_number:g} in the other; "
                    "correct one and extract it again"
                )
            numbers[file][image] = twin_number if number == 1.0 else number
        if self._matrices:
            flags, twin_flags = self._matrices[file][image], self._matrices[other][twin]
            if (flags == UNKNOWN_VALUE).all():
                flags[:] = twin_flags
            elif not ((twin_flags == UNKNOWN_VALUE).all() or np.array_equal(flags, twin_flags)):
                raise FileFormatError(
                    f"{both} has other labels in each; correct one and extract it again"
                )
        group = self._groups[other][twin] if self._groups[other] else ""
        if not group:
            return
        self._groups[file] = self._groups[file] or [""] * one.n_images
        if self._groups[file][image] not in ("", group):
            raise FileFormatError(
                f"{both} is of the group {self._groups[file][image]} in one and {group} in the "
                "other; correct one and extract it again"
            )
        self._groups[file][image] = group

    def _of_kept(self, read: Callable[[CodeStore], Sequence[Any]]) -> Iterator[Any]:
        """Yield a value of each row, read from one file after the other."""
        for store, kept in zip(self._stores, self._kept, strict=True):
            values = store.of_images(read(store))
            for image in kept.tolist():
                for _ in range(self.n_views):
                    yield values[image]
            del values
            store.release()

    @property
    def codes(self) -> Any:
        """Shape and dtype of the codes; `rows` reads them."""
        codes = self._stores[0].codes
        shape = (int(self._starts[-1]) * self.n_views, *codes.shape[1:])
        return SimpleNamespace(shape=shape, ndim=len(shape), dtype=codes.dtype)

    def rows(self, indices: Iterable[int]) -> Iterator[NDArray[Any]]:
        """Yield the codes of some rows, flattened, each from its file."""
        images, views = np.divmod(np.fromiter(indices, np.int64), self.n_views)
        files = np.searchsorted(self._starts, images, "right") - 1
        for file, image, view in zip(files.tolist(), images.tolist(), views.tolist(), strict=True):
            own = int(self._kept[file][image - self._starts[file]])
            yield from self._stores[file].rows([own * self.n_views + view])

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """For each row its index in `class_names`, −1 where it has none; shape (n_rows,)."""
        pairs = zip(self._labels, self._kept, strict=True)
        return np.repeat(np.concatenate([labels[kept] for labels, kept in pairs]), self.n_views)

    @property
    def paths(self) -> list[str]:
        """For each row the path of its image, relative to its source; read from the files."""
        return list(self._of_kept(lambda store: store.paths))

    @property
    def digests(self) -> list[str]:
        """For each row the SHA-256 of its image's file, hexadecimal; read from the files."""
        return list(self._of_kept(lambda store: store.digests))

    def raw_digests(self, n_bytes: int = 32) -> NDArray[np.uint8]:
        """Return the first bytes of the digest of each image, of shape (n_images, n_bytes)."""
        result = np.empty((self.n_images, n_bytes), np.uint8)
        for store, kept, start in zip(self._stores, self._kept, self._starts[:-1], strict=True):
            result[start : start + len(kept)] = store.raw_digests(n_bytes)[kept]
            store.release()
        return result

    @property
    def groups(self) -> list[str]:
        """For each row the name of its group, "" where it has none; empty without groups."""
        if not any(self._groups):
            return []
        return [
            groups[image] if groups else ""
            for groups, kept in zip(self._groups, self._kept, strict=True)
            for image in kept.tolist()
            for _ in range(self.n_views)
        ]

    def _numbers(self, name: str) -> NDArray[np.float64]:
        """Return weights or probabilities of all rows; empty where no file has any."""
        if name not in self._weighting:
            return np.zeros(0)
        pairs = zip(self._weighting[name], self._kept, strict=True)
        return np.repeat(np.concatenate([numbers[kept] for numbers, kept in pairs]), self.n_views)

    @cached_property
    def label_matrix(self) -> NDArray[np.uint8] | None:
        """For each row which labels it has, as in a file; None where images have one label."""
        if not self._matrices:
            return None
        pairs = zip(self._matrices, self._kept, strict=True)
        return np.repeat(np.concatenate([each[kept] for each, kept in pairs]), self.n_views, axis=0)

    @cached_property
    def skipped(self) -> list[tuple[str, str]]:
        """Path and reason of each image that could not be used, if no file has codes of it."""
        skipped = [each for store in self._stores for each in store.skipped]
        if self._is_divided or not skipped:
            return skipped
        usable, reasons = set(self.paths), dict(reversed(skipped))
        paths = dict.fromkeys(path for path, _ in skipped)
        return [(path, reasons[path]) for path in paths if path not in usable]

    @property
    def files(self) -> list[Path]:
        """The file of each image, where it was when it was extracted."""
        files = [store.files for store in self._stores]
        return [
            of_file[image]
            for of_file, kept in zip(files, self._kept, strict=True)
            for image in kept.tolist()
        ]

    @property
    def sources(self) -> list[str]:
        """The sources of the images, each once."""
        if self._is_divided:
            return self._stores[0].sources
        return list(dict.fromkeys(source for each in self._stores for source in each.sources))

    @property
    def source(self) -> str:
        """The sources of the images, as a merged file names them."""
        return joint_source(self.sources)

    @property
    def backbone(self) -> Any:
        """The network that computed the codes."""
        return self._stores[0].backbone

    @property
    def backbone_sha256(self) -> str:
        """SHA-256 of the backbone's file."""
        return self._stores[0].backbone_sha256

    @property
    def augment(self) -> str:
        """Which views of each image have a row."""
        return self._stores[0].augment

    @property
    def white(self) -> int | None:
        """The value of white in 16-bit grey; None if it was guessed from each image."""
        return self._stores[0].white

    def release(self) -> None:
        """Forget what takes memory for each image and can be read again."""
        super().release()
        for store in self._stores:
            store.release()

    def close(self) -> None:
        """Close the files."""
        for store in self._stores:
            store.close()


def _part_number(store: CodeStore) -> int:
    """Return which part of its source a file holds, from 1 on; 0 for a file that is no part."""
    return 0 if store.part is None else store.part.number


def _divided(stores: Sequence[CodeStore]) -> tuple[bool, str]:
    """Return whether files are parts of one source, and a remark where there are more parts.

    An image is in one of the parts only.
    """
    numbers = list(map(_part_number, stores))
    parts = [store.part for store in stores]
    sources = {(part.count, part.part_of) for part in parts if part is not None}
    if not all(numbers) or len(set(numbers)) < len(numbers) or len(sources) > 1:
        n_parts = sum(number > 0 for number in numbers)
        verb = "is a part" if n_parts == 1 else "are parts"
        return False, f", of which {n_parts} {verb} of a source" if n_parts else ""
    count = max(part.count for part in parts if part is not None)
    return True, f", of {count} parts of their source" if len(numbers) < count else ""


def _matrices(stores: Sequence[CodeStore]) -> list[NDArray[np.uint8]]:
    """Return which labels the images of each file have; empty where they have one each.

    A part without a usable image has no such dataset.
    """
    filled = [store for store in stores if store.n_images]
    first = next((store for store in filled if store.label_matrix is not None), None)
    if first is None:
        return []
    for store in filled:
        if store.label_matrix is None or store.class_names != first.class_names:
            raise FileFormatError(
                f"{first.path} and {store.path}: have other labels, or several for an image in one "
                "of them only; extract one of them again"
            )
    none = np.zeros((0, len(first.class_names)), np.uint8)
    matrices = [store.label_matrix for store in stores]
    return [
        none if each is None else store.of_images(each).copy()
        for store, each in zip(stores, matrices, strict=True)
    ]


def _renumbered(store: CodeStore, names: Sequence[str]) -> NDArray[np.int32]:
    """Return the label of each image of a file as an index into the names of all."""
    indices = {name: index for index, name in enumerate(names)}
    own = np.array([*(indices[name] for name in store.class_names), -1], np.int32)
    renumbered: NDArray[np.int32] = own[store.of_images(store.labels)]
    return renumbered
