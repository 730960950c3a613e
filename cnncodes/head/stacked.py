"""Codes of different images by one network, from several files.

A `StackedStore` is read like the `CodeStore` that ``cnncodes merge`` would make of the same files:
images in the order of their paths, classes by name. Nothing is copied: a row is read from its file
when it is wanted, and what is known of each image takes some dozens of bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import FileFormatError, ParameterError
from cnncodes.extract.store import CodeStore
from cnncodes.machine import max_open_files
from cnncodes.text import counted, listed

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


def names_of(sources: Sequence[str]) -> str:
    """Return the names of sources, the first of many, without the folders around them."""
    names = list(dict.fromkeys(PureWindowsPath(each).name for each in sources))
    return names[0] if len(names) == 1 else listed(names)


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
        Open codes files, which are closed with this one.

    Attributes
    ----------
    path : Path
        The paths of the files, for messages.
    notes : tuple of str
        Reports the number of files, and images that are in several of them.

    Raises
    ------
    FileFormatError
        The files have different settings; or of one image different contents, labels or groups.
    """

    def __init__(self, stores: Sequence[CodeStore]) -> None:
        self._stores = list(stores)
        self.path = joint_path([store.path for store in stores])
        self._check_alike()
        self.class_names = sorted({name for store in stores for name in store.class_names})
        labels = [_renumbered(store, self.class_names) for store in stores]
        groups = [store.of_images(store.groups) for store in stores]
        self._files, self._images = self._in_order(labels, groups)
        self._image_labels = self._gathered(labels)
        self._image_groups = self._gathered_groups(groups) if any(groups) else []
        self._hashes = self._gathered([store.raw_digests() for store in stores])
        n_twice = sum(store.n_images for store in stores) - len(self._files)
        self.notes = (f"the images of {len(stores)} codes files are stacked",)
        if n_twice:
            are = "is" if n_twice == 1 else "are"
            self.notes += (
                f"{counted(n_twice, 'image')} {are} in several files, with the same path and "
                "content; each counts once",
            )
        for store in stores:
            store.release()

    def _check_alike(self) -> None:
        """Refuse files whose codes differ in more than their images."""
        first, *others = self._stores
        for other in others:
            for name, setting in _SETTINGS.items():
                one, two = setting(first), setting(other)
                if one != two:
                    raise FileFormatError(
                        f"{first.path} and {other.path}: are of one network, but with different "
                        f"{name} ({one} and {two}); extract them again with the same"
                    )

    def _in_order(
        self, labels: list[NDArray[np.int32]], groups: list[list[str]]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return for each image, in order, the index of its file and its index in it.

        Labels and groups that only a later file of an image has are added to those of the first.
        """
        counts = [store.n_images for store in self._stores]
        files = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        images = np.concatenate([np.arange(count) for count in counts])
        keys = [path_key(path) for store in self._stores for path in store.of_images(store.paths)]
        order = sorted(range(len(keys)), key=keys.__getitem__)  # which keeps the order of files
        kept: list[int] = []
        first = -1  # of the images of the last path
        for index in order:
            if first < 0 or keys[index] != keys[first]:
                first = index
            if files[index] == files[first]:
                kept.append(index)
                continue
            self._unite(
                (int(files[first]), int(images[first])),
                (int(files[index]), int(images[index])),
                labels,
                groups,
            )
        return files[kept], images[kept]

    def _unite(
        self,
        first: tuple[int, int],
        second: tuple[int, int],
        labels: list[NDArray[np.int32]],
        groups: list[list[str]],
    ) -> None:
        """Refuse an image that two files describe differently; complete it in the first."""
        (file, image), (other, twin) = first, second
        one, two = self._stores[file], self._stores[other]
        row, own_row = image * self.n_views, twin * self.n_views
        path = one.paths[row]
        both = f"{one.path} and {two.path}: {path}"
        if one.digests[row] != two.digests[own_row]:
            raise FileFormatError(
                f"{both} has another content in each; extract one of them again, or rename it"
            )
        label, own = labels[file][image], labels[other][twin]
        if min(label, own) >= 0 and label != own:
            raise FileFormatError(
                f"{both} is labelled {self.class_names[label]} in one and "
                f"{self.class_names[own]} in the other; extract them again"
            )
        labels[file][image] = max(label, own)
        if not groups[other] or not groups[other][twin]:
            return
        groups[file] = groups[file] or [""] * one.n_images
        if groups[file][image] not in ("", groups[other][twin]):
            raise FileFormatError(
                f"{both} is of the group {groups[file][image]} in one and "
                f"{groups[other][twin]} in the other; extract them again"
            )
        groups[file][image] = groups[other][twin]

    def _gathered(self, values: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Bring a value of each image of each file into order."""
        result = np.empty((len(self._files), *values[0].shape[1:]), values[0].dtype)
        for number, of_file in enumerate(values):
            own = self._files == number
            result[own] = of_file[self._images[own]]
        return result

    def _gathered_groups(self, groups: list[list[str]]) -> list[str]:
        names: dict[str, str] = {}  # one text for each name
        return [
            names.setdefault(groups[file][image], groups[file][image]) if groups[file] else ""
            for file, image in zip(self._files.tolist(), self._images.tolist(), strict=True)
        ]

    def _of_rows(self, values: Sequence[Any]) -> list[Any]:
        if self.n_views == 1:
            return list(values)
        return [value for value in values for _ in range(self.n_views)]

    @property
    def codes(self) -> Any:
        """Shape and dtype of the codes; `rows` reads them."""
        codes = self._stores[0].codes
        shape = (len(self._files) * self.n_views, *codes.shape[1:])
        return SimpleNamespace(shape=shape, ndim=len(shape), dtype=codes.dtype)

    def rows(self, indices: Iterable[int]) -> Iterator[NDArray[Any]]:
        """Yield the codes of some rows, flattened, each from its file."""
        n_views = self.n_views
        for index in indices:
            image, view = divmod(int(index), n_views)
            store = self._stores[self._files[image]]
            yield from store.rows([int(self._images[image]) * n_views + view])

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """For each row its index in `class_names`, −1 where it has none; shape (n_rows,)."""
        return np.repeat(self._image_labels, self.n_views)

    @property
    def paths(self) -> list[str]:
        """For each row the path of its image, relative to its source; read from the files."""
        paths = [store.of_images(store.paths) for store in self._stores]
        for store in self._stores:
            store.release()
        pairs = zip(self._files.tolist(), self._images.tolist(), strict=True)
        return self._of_rows([paths[file][image] for file, image in pairs])

    @property
    def digests(self) -> list[str]:
        """For each row the SHA-256 of its image's file, hexadecimal."""
        return self._of_rows([each.tobytes().hex() for each in self._hashes])

    @property
    def groups(self) -> list[str]:
        """For each row the name of its group, "" where it has none; empty without groups."""
        return self._of_rows(self._image_groups)

    @cached_property
    def skipped(self) -> list[tuple[str, str]]:
        """Path and reason of each image that no file has codes of, in the order of the paths."""
        reasons = {path: why for store in self._stores for path, why in store.skipped}
        if reasons:
            for path in set(self.paths) & reasons.keys():
                del reasons[path]
        return sorted(reasons.items(), key=lambda each: path_key(each[0]))

    @property
    def files(self) -> list[Path]:
        """The file of each image, where it was when it was extracted."""
        files = [store.files for store in self._stores]
        pairs = zip(self._files.tolist(), self._images.tolist(), strict=True)
        return [files[file][image] for file, image in pairs]

    @property
    def sources(self) -> list[str]:
        """The sources of the images, each once."""
        return list(dict.fromkeys(source for each in self._stores for source in each.sources))

    @property
    def source(self) -> str:
        """The source of the images; of several all of them, for messages."""
        return str(joint_path([Path(source) for source in self.sources]))

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
        """Forget what can be computed again."""
        self.__dict__.pop("labels", None)

    def close(self) -> None:
        """Close the files."""
        for store in self._stores:
            store.close()


def _renumbered(store: CodeStore, names: Sequence[str]) -> NDArray[np.int32]:
    """Return the label of each image of a file as an index into the names of all."""
    indices = {name: index for index, name in enumerate(names)}
    own = np.array([*(indices[name] for name in store.class_names), -1], np.int32)
    renumbered: NDArray[np.int32] = own[store.of_images(store.labels)]
    return renumbered


def path_key(path: str) -> str:
    """Return a text by which paths are ordered as `extract` orders those of a folder."""
    return path.replace("/", "\0")
