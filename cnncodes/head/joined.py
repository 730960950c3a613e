"""Codes of the same images by several networks, side by side.

A `JoinedStore` is read like the `CodeStore` of one network, of which an image's codes are those of
each file, flattened, one after the other. Nothing is copied: a row is read from all files when it
is wanted.

Codes of one network may be a hundred times as large as those of another, and a head whose codes
are scaled by one number would not see the smaller ones. So each part is multiplied by a number,
by which the parts of the training images have the same mean squared length about their means. The
head's graph does the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import FileFormatError, ParameterError
from cnncodes.extract.store import CodeStore
from cnncodes.head.rows import CodeRows
from cnncodes.head.scaling import Scaling
from cnncodes.head.stacked import check_n_files, stacked
from cnncodes.models.matching import match_networks
from cnncodes.models.metadata import HeadInfo, Part, is_same_function
from cnncodes.text import counted, listed

if TYPE_CHECKING:
    import onnx

_Key = tuple[str, str, int]  # path, digest and which of the rows with both it is, as of its views


def open_codes(paths: Sequence[Path]) -> CodeStore:
    """Open one codes file, or several: rows of one network, columns of different networks.

    Files of one network are stacked, as by `StackedStore`; what there is of each network then goes
    side by side, as by `JoinedStore`.

    Raises
    ------
    FileFormatError
        A file is not a codes file, or the files are not of the same images with the same labels
        and settings.
    ParameterError
        Two files are of one network, but not of the same file of it; or there are more files
        than may be open at once.
    """
    return _open(paths, lambda stores: stores)


def open_codes_of(
    head: Path, info: HeadInfo, paths: Sequence[Path], *, allow_mixed: bool
) -> CodeStore:
    """Open the codes files, in any order, of the networks of a head, for that head.

    Parameters
    ----------
    head : Path
        The head.
    info : HeadInfo
        Its metadata.
    paths : sequence of Path
        The codes files.
    allow_mixed : bool
        As for `match_networks`.

    Raises
    ------
    FileFormatError
        As `open_codes`, and where the codes are of other networks than those of the head.
    ParameterError
        As `open_codes`.
    """

    def in_order(stores: list[CodeStore]) -> list[CodeStore]:
        networks = [(store.path, store.backbone, store.backbone_sha256) for store in stores]
        order = match_networks(head, info, networks, allow_mixed=allow_mixed)
        return [stores[index] for index in order]

    return _open(paths, in_order)


def _open(
    paths: Sequence[Path], in_order: Callable[[list[CodeStore]], list[CodeStore]]
) -> CodeStore:
    """Open files, and close them where they are refused."""
    check_n_files(paths)
    with ExitStack() as stack:
        opened_files = []
        for path in paths:
            opened_files.append(stack.enter_context(CodeStore.open(path)))
            opened_files[-1].release()  # what was read to check it
        stores = in_order(stacked(opened_files))
        opened = stores[0] if len(stores) == 1 else JoinedStore(stores)
        stack.pop_all()
    return opened


class JoinedStore(CodeStore):
    """The codes of some images by several networks.

    Parameters
    ----------
    stores : sequence of CodeStore
        Open codes files, which are closed with this one.

    Attributes
    ----------
    path : Path
        The paths of all files, for messages.
    notes : tuple of str
        Reports what is left out.
    """

    def __init__(self, stores: Sequence[CodeStore]) -> None:
        self.path = Path(" + ".join(str(store.path) for store in stores))
        self._stores = list(stores)
        self._widths = [int(np.prod(store.codes.shape[1:])) for store in stores]
        self._scales: NDArray[np.float32] | None = None
        numbered = [_numbered(store) for store in stores]
        self._check_networks()
        common = [key for key in numbered[0] if all(key in each for each in numbered)]
        if not common:
            raise FileFormatError(
                f"{self.path}: have no image in common, with the same path and content; codes go "
                "side by side of the same images only"
            )
        self._rows = [np.array([each[key] for key in common], np.intp) for each in numbered]
        # Refused where they contradict each other.
        for name in (
            *("augment", "white", "labels", "label_matrix", "groups"),
            *("weights", "probabilities"),
        ):
            getattr(self, name)
        self.notes = _notes(stores, numbered, len(common), self.n_views)

    def _check_networks(self) -> None:
        """Refuse two files of one network, such as one in int8 and one in float32."""
        for one, two in combinations(self._stores, 2):
            if is_same_function(one.backbone, two.backbone):
                raise ParameterError(
                    f"{one.path} and {two.path}: hold codes of the same network, "
                    f"{one.backbone.backbone}, but by two files of it; name one of them, or "
                    "extract all images with one file to stack their codes"
                )

    @property
    def parts(self) -> tuple[Part, ...]:
        """The networks, in the order of their columns."""
        return tuple(
            Part(store.backbone, store.backbone_sha256, n_columns)
            for store, n_columns in zip(self._stores, self._widths, strict=True)
        )

    @property
    def codes(self) -> Any:
        """Shape and dtype of the codes; `rows` reads them."""
        shape = (len(self._rows[0]), sum(self._widths))
        return SimpleNamespace(shape=shape, dtype=np.dtype(np.float32))

    def rows(self, indices: Iterable[int]) -> Iterator[NDArray[Any]]:
        """Yield the codes of some images, side by side and scaled, shape (n_features,)."""
        indices = np.fromiter(indices, np.intp)
        parts = [
            store.rows(rows[indices]) for store, rows in zip(self._stores, self._rows, strict=True)
        ]
        for row in zip(*parts, strict=True):
            codes = np.concatenate(row, dtype=np.float32)
            yield codes if self._scales is None else codes * self._scales

    def scale(self, rows: NDArray[np.intp]) -> None:
        """Bring the parts to one mean squared length on some images, those of the training."""
        scales = []
        for store, own, width in zip(self._stores, self._rows, self._widths, strict=True):
            blocks = CodeRows(store, own[rows]).blocks()
            spread = Scaling.of(block for _, block in blocks).spread
            scales.append(np.full(width, 1 / spread if spread else 1.0, np.float32))
        self._scales = np.concatenate(scales)

    def write_scales(self, head: onnx.ModelProto) -> None:
        """Put the multiplication by the scales in front of a head, in place; after `scale`."""
        from onnx import helper, numpy_helper

        from cnncodes.export.graph import rename_tensor

        assert self._scales is not None
        rename_tensor(head, "codes", "codes/scaled")
        head.graph.initializer.append(numpy_helper.from_array(self._scales, "codes/scales"))
        names = ["codes", "codes/scales"]
        head.graph.node.insert(
            0, helper.make_node("Mul", names, ["codes/scaled"], name="codes/scaled")
        )

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """For each image its index in `class_names`, −1 where no file has a label for it."""
        indices = {name: index for index, name in enumerate(self.class_names)}
        labels = np.full(len(self), -1, np.int32)
        for store, rows in zip(self._stores, self._rows, strict=True):
            renumbered = np.array([*(indices[name] for name in store.class_names), -1], np.int32)
            own = renumbered[store.labels[rows]]
            differing = np.flatnonzero((labels >= 0) & (own >= 0) & (labels != own))
            if len(differing):
                row = differing[0]
                one, two = (self.class_names[each[row]] for each in (labels, own))
                raise FileFormatError(
                    f"{self.path}: {self.paths[row]} is labelled {one} in one and {two} in "
                    f"another ({counted(len(differing), 'image')} so); extract them again"
                )
            labels = np.where(labels < 0, own, labels)
        return labels

    @cached_property
    def label_matrix(self) -> NDArray[np.uint8] | None:
        """Which images have each label, where they may have several; all files agree on it."""
        first, *others = (
            None if store.label_matrix is None else store.label_matrix[rows]
            for store, rows in zip(self._stores, self._rows, strict=True)
        )
        for store, other in zip(self._stores[1:], others, strict=True):
            if first is None and other is None:
                continue
            same_names = store.class_names == self._stores[0].class_names
            if first is None or other is None or not same_names or (first != other).any():
                raise FileFormatError(
                    f"{self.path}: their images have several labels, and not the same ones in all "
                    "files; extract them again from one table"
                )
        return first

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the classes of all files, those of the first before others."""
        return list(dict.fromkeys(name for store in self._stores for name in store.class_names))

    @cached_property
    def paths(self) -> list[str]:
        """For each image its path, relative to the source."""
        paths = self._stores[0].paths
        return [paths[row] for row in self._rows[0]]

    @cached_property
    def digests(self) -> list[str]:
        """For each image the SHA-256 of its file, hexadecimal."""
        digests = self._stores[0].digests
        return [digests[row] for row in self._rows[0]]

    def raw_digests(self, n_bytes: int = 32) -> NDArray[np.uint8]:
        """Return the first bytes of the digest of each image, of shape (n_images, n_bytes)."""
        images: NDArray[np.intp] = self.of_images(self._rows[0]) // self.n_views
        return self._stores[0].raw_digests(n_bytes)[images]

    @cached_property
    def groups(self) -> list[str]:
        """For each image the name of its group; those of the files that have groups."""
        grouped = [
            [store.groups[row] for row in rows]
            for store, rows in zip(self._stores, self._rows, strict=True)
            if store.groups
        ]
        if any(each != grouped[0] for each in grouped):
            raise FileFormatError(
                f"{self.path}: have different groups of the same images; extract them again with "
                "the same"
            )
        return grouped[0] if grouped else []

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """For each image how much it counts in training; those of the files that have weights."""
        return self._common_numbers("weights")

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """For each image how probable its label is; those of the files that have them."""
        return self._common_numbers("probabilities")

    def _common_numbers(self, name: str) -> NDArray[np.float64]:
        columns = [
            getattr(store, name)[rows]
            for store, rows in zip(self._stores, self._rows, strict=True)
            if len(getattr(store, name))
        ]
        if any(not np.array_equal(each, columns[0]) for each in columns):
            raise FileFormatError(
                f"{self.path}: have different {name} of the same images; extract them again with "
                "the same"
            )
        return columns[0] if columns else np.zeros(0)

    @cached_property
    def skipped(self) -> list[tuple[str, str]]:
        """Path and reason of each image that could not be used in one of the files."""
        return list(
            {path: (path, why) for each in self._stores for path, why in each.skipped}.values()
        )

    @cached_property
    def backbone(self) -> Any:
        """The network of the first part."""
        return self._stores[0].backbone

    @property
    def backbone_sha256(self) -> str:
        """SHA-256 of its file."""
        return self._stores[0].backbone_sha256

    @property
    def source(self) -> str:
        """The source of the images, as the user named it for the first file."""
        return self._stores[0].source

    @property
    def sources(self) -> list[str]:
        """The sources of the images, those of the first network."""
        return self._stores[0].sources

    @property
    def files(self) -> list[Path]:
        """The file of each image, where it was when the first network saw it."""
        files = self._stores[0].files
        return [files[row // self.n_views] for row in self.of_images(self._rows[0])]

    @property
    def augment(self) -> str:
        """Which views of each image have a row, the same in all files."""
        if len({store.augment for store in self._stores}) > 1:
            raise FileFormatError(
                f"{self.path}: have different views of the images; extract them again with the same"
            )
        return self._stores[0].augment

    @property
    def white(self) -> int | None:
        """The value of white in 16-bit grey, the same for all files."""
        if len({store.white for store in self._stores}) > 1:
            raise FileFormatError(
                f"{self.path}: were extracted with different values of white; extract them again "
                "with the same"
            )
        return self._stores[0].white

    def release(self) -> None:
        """Forget what takes memory for each image; it is read again when it is wanted."""
        super().release()
        for store in self._stores:
            store.release()

    def close(self) -> None:
        """Close the files."""
        for store in self._stores:
            store.close()


def _numbered(store: CodeStore) -> dict[_Key, int]:
    """Return the row of each image."""
    seen: Counter[tuple[str, str]] = Counter()
    rows = {}
    for row, (path, digest) in enumerate(zip(store.paths, store.digests, strict=True)):
        rows[path, digest, seen[path, digest]] = row
        seen[path, digest] += 1
    return rows


def _notes(
    stores: Sequence[CodeStore],
    numbered: Sequence[dict[_Key, int]],
    n_common: int,
    n_views: int,
) -> tuple[str, ...]:
    """Name the networks, and the images that some file lacks."""
    names = [store.backbone.backbone for store in stores]
    notes = [f"the codes of {len(stores)} networks are side by side: {', '.join(names)}"]
    notes += dict.fromkeys(note for store in stores for note in store.notes)
    for store, rows in zip(stores, numbered, strict=True):
        if len(rows) > n_common:
            others = [other for other in numbered if other is not rows]
            lacking = [key[0] for key in rows if not all(key in each for each in others)]
            left_out = lacking[::n_views]
            are = "is" if len(left_out) == 1 else "are"
            notes.append(
                f"{counted(len(left_out), 'image')} of {store.path} {are} left out, as not all "
                f"files have them: {listed(left_out)}"
            )
    return tuple(notes)
