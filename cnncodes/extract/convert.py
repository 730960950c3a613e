"""Codes for other programs: numpy, pandas, R, Orange.

Rows are read and written a block at a time, so that memory does not grow with the number of images.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import FileFormatError, MissingDependencyError, ParameterError
from cnncodes.extract.store import CodeStore
from cnncodes.extract.writing import WEIGHTING
from cnncodes.images.tables import MISSING
from cnncodes.models.pooling import pool_codes, pooled_shape
from cnncodes.output import check_output, replacing
from cnncodes.parameters import CODE_POOLS, as_path, check_choice
from cnncodes.progress import NoProgress, Progress
from cnncodes.text import counted, listed

MANY_COLUMNS = 16_384  # as many as a spreadsheet has
# Parquet describes each column in each group of rows, in some 2 kB that stay in memory.
MOST_PARQUET_COLUMNS = 4096
_BLOCK_BYTES = 32 * 2**20  # of codes as float32, which are read and written at a time
# Significant digits that tell any two numbers apart.
_DIGITS = {"float16": 5, "float32": 9}


@dataclass(frozen=True)
class Conversion:
    """Codes in the format of another program.

    Attributes
    ----------
    path : Path
        The file.
    n_images : int
        Number of images; where they have several views, a row stands for each view.
    code_shape : tuple of int
        Shape of one image's codes.
    dtype : {"float16", "float32"}
        Type of the numbers. In a .parquet file float16 is stored as float32, without loss.
    notes : tuple of str
        What was changed, and what other programs may stumble over.
    """

    path: Path
    n_images: int
    code_shape: tuple[int, ...]
    dtype: str
    notes: tuple[str, ...]


def convert_codes(
    codes: str | Path,
    output: str | Path,
    *,
    pool: str = "none",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Write codes as a file of numpy, or as a table for pandas, R or Orange.

    Parameters
    ----------
    codes : str or Path
        A codes file.
    output : str or Path
        The file to write, whose ending is its format: ``.npz``, ``.csv``, ``.parquet`` or ``.tab``.
    pool : {"none", "avg", "max", "avg+max", "grid2"}
        Whether and how to pool codes that have a height and a width, as `pool_codes`.
    overwrite : bool
        Whether a file at `output` may be replaced.
    progress : Progress, optional
        Counts the images.

    Returns
    -------
    Conversion
        What was written.

    Raises
    ------
    FileFormatError
        The codes file is not one, or is damaged, or a code is not finite.
    MissingDependencyError
        A ``.parquet`` file needs pyarrow.
    OutputError
        The output cannot be written.
    ParameterError
        A parameter has another type or value, `output` another ending, or the codes are pooled
        already.
    """
    progress = progress or NoProgress()
    codes, output = as_path(codes, "codes"), as_path(output, "output")
    check_choice(pool, CODE_POOLS, "pool")
    write = _writer_for(output)
    check_output(output, overwrite=overwrite, inputs=[codes])
    with CodeStore.open(codes) as store:
        table = _Table(store, pool, progress)
        progress.begin(store.n_images)
        with replacing(output, overwrite=overwrite) as temporary:
            notes = (*table.notes, *write(temporary, table))
        return Conversion(output, store.n_images, table.shape, table.dtype.name, notes)


class _Table:
    """The rows of a codes file, as they are to be written.

    Parameters
    ----------
    store : CodeStore
        An open codes file.
    pool : {"none", "avg", "max", "avg+max", "grid2"}
        How codes are pooled.
    progress : Progress
        Counts the rows that were written.

    Attributes
    ----------
    paths, labels, groups, views : list of str
        For each row, in characters that are valid in UTF-8; `groups` is empty without groups, and
        `views`, the number of the view, where an image has one row.
    shape : tuple of int
        Shape of one image's codes.
    dtype : dtype
        Type of the codes.
    """

    def __init__(self, store: CodeStore, pool: str, progress: Progress) -> None:
        self.store = store
        self._pool, self._progress = pool, progress
        stored: tuple[int, ...] = store.codes.shape[1:]
        if pool != "none" and len(stored) < 2:
            raise ParameterError(
                f"{store.path}: its codes have no height and width to pool; leave out pool={pool!r}"
            )
        if pool == "grid2" and (len(stored) != 3 or min(stored[:2]) < 2):
            raise ParameterError(
                f"{store.path}: its codes are not 2 x 2 or more, which pool='grid2' needs; pass "
                "another pool"
            )
        self.shape = pooled_shape(stored, pool)
        # Of float16 numbers the largest is one too, the mean is not.
        self.dtype = store.codes.dtype if pool in ("none", "max") else np.dtype(np.float32)
        self.class_names = list(map(_valid, store.class_names))
        self.paths = list(map(_valid, store.paths))
        self.groups = list(map(_valid, store.groups))
        n_views = store.n_views
        self.views = [str(row % n_views) for row in range(len(store))] if n_views > 1 else []
        names = [*self.class_names, ""]
        self.labels = [names[label] for label in store.labels.tolist()]
        if store.label_matrix is not None:
            raise ParameterError(
                f"{store.path}: its images have more than one label each, for which other "
                "formats have no place; h5py reads them as label_matrix"
            )

    @property
    def n_columns(self) -> int:
        """Number of codes of an image."""
        return int(np.prod(self.shape))

    @property
    def columns(self) -> list[str]:
        """Names of the columns, with as many digits as the last one needs."""
        digits = max(4, len(str(self.n_columns - 1)))
        named = {"path": True, "label": True, "group": self.groups, "view": self.views}
        names = [name for name, texts in named.items() if texts]
        return [*names, *(f"code_{number:0{digits}}" for number in range(self.n_columns))]

    @property
    def texts(self) -> list[list[str]]:
        """The columns before the codes."""
        return [self.paths, self.labels, *filter(None, (self.groups, self.views))]

    @property
    def remedy(self) -> str:
        """How to get fewer columns, behind a semicolon; empty where there is no way."""
        n_pooled = self.store.codes.shape[-1]
        return f"; pooling makes {n_pooled:,} columns" if n_pooled < self.n_columns else ""

    def blocks(self) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Yield the rows of each block, and their codes, flattened; count them when written."""
        size = max(1, _BLOCK_BYTES // (4 * self.n_columns))
        for start in range(0, len(self.store), size):
            rows = slice(start, min(start + size, len(self.store)))
            block = np.empty((rows.stop - rows.start, self.n_columns), self.dtype)
            for index, flat in enumerate(self.store.rows(range(rows.start, rows.stop))):
                if not np.isfinite(flat).all():
                    raise FileFormatError(
                        f"{self.store.path}: the codes of {self.store.paths[start + index]} are "
                        "not finite; extract them again"
                    )
                block[index] = self._pooled(flat)
            yield rows, block
            n_views = self.store.n_views
            self._progress.advance(rows.stop // n_views - rows.start // n_views)

    def _pooled(self, flat: NDArray[Any]) -> NDArray[Any]:
        if self._pool == "none":
            return flat
        return pool_codes(flat.reshape(self.store.codes.shape[1:]), self._pool)

    @property
    def notes(self) -> list[str]:
        """What was changed."""
        store, own = self.store, slice(None, None, self.store.n_views)
        before = [*store.paths[own], *store.class_names, *store.groups[own]]
        after = [*self.paths[own], *self.class_names, *self.groups[own]]
        changed = [name for old, name in zip(before, after, strict=True) if old != name]
        notes = []
        if self.views:
            notes.append(
                f"each image has {self.store.n_views} rows, its views ({self.store.augment}): the "
                "column view is 0 for the image itself, and no split may separate them"
            )
        if left_out := [name for name in WEIGHTING if len(getattr(store, name))]:
            notes.append(f"{' and '.join(left_out)} of the images are left out")
        if changed:
            notes.append(
                f"{counted(len(changed), 'name')} not in UTF-8, written with \\x: {listed(changed)}"
            )
        return notes


def _valid(text: str) -> str:
    r"""Write bytes that are not UTF-8, such as those of an old file name, as ``\xff``."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _write_npz(path: Path, table: _Table) -> list[str]:
    """Write arrays that ``numpy.load`` reads without unpickling anything."""
    store = table.store
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        shape = (len(store), *table.shape)
        _write_array(archive, "codes", shape, table.dtype, (block for _, block in table.blocks()))
        _write_array(archive, "labels", (len(store),), store.labels.dtype, [store.labels])
        digests = np.array(store.digests, "U64")
        _write_array(archive, "digests", digests.shape, digests.dtype, [digests])
        _write_texts(archive, "class_names", table.class_names)
        _write_texts(archive, "paths", table.paths)
        if table.groups:
            _write_texts(archive, "groups", table.groups)
        if table.views:
            _write_array(
                archive, "views", (len(store),), np.dtype(np.int32), [np.array(table.views, int)]
            )
    return []


def _write_texts(archive: zipfile.ZipFile, name: str, texts: list[str]) -> None:
    """Write text in blocks: all of it is as wide as the longest."""
    dtype = np.dtype(f"U{max(map(len, texts), default=0) or 1}")
    size = max(1, _BLOCK_BYTES // dtype.itemsize)
    blocks = (np.array(texts[start : start + size], dtype) for start in range(0, len(texts), size))
    _write_array(archive, name, (len(texts),), dtype, blocks)


def _write_array(
    archive: zipfile.ZipFile,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    blocks: Iterable[NDArray[Any]],
) -> None:
    # With a date of its own the same codes would not give the same file.
    entry = zipfile.ZipInfo(f"{name}.npy")
    entry.compress_type = archive.compression
    entry.external_attr = 0o644 << 16
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    with archive.open(entry, "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype).tobytes())


def _write_csv(path: Path, table: _Table) -> list[str]:
    return _write_text(path, table, ",", "utf-8", [table.columns])


def _write_tab(path: Path, table: _Table) -> list[str]:
    """Write Orange's format, whose three first lines hold names, types and roles."""
    n_texts = len(table.texts)
    types = ["string", "discrete", *["string"] * (n_texts - 2), *["continuous"] * table.n_columns]
    roles = ["meta", "class", *["meta"] * (n_texts - 2), *[""] * table.n_columns]
    # Orange guesses the encoding from the beginning of a file: what is not ASCII may come later.
    ascii_only = all(text.isascii() for column in table.texts for text in column)
    encoding = "utf-8" if ascii_only else "utf-8-sig"
    return _write_text(path, table, "\t", encoding, [table.columns, types, roles])


def _write_text(
    path: Path, table: _Table, delimiter: str, encoding: str, header: list[list[str]]
) -> list[str]:
    """Write lines of text; numbers have the digits that identify them in their type."""
    numbers = delimiter.join([f"%.{_DIGITS[table.dtype.name]}g"] * table.n_columns)
    special = re.compile(f'[{delimiter}"\\r\\n]|^ ')

    def quoted(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if special.search(text) else text

    with path.open("w", encoding=encoding, newline="") as file:
        file.writelines(delimiter.join(line) + "\n" for line in header)
        for rows, block in table.blocks():
            texts = [list(map(quoted, column[rows])) for column in table.texts]
            for codes, *row in zip(block, *texts, strict=True):
                file.write(delimiter.join([*row, numbers % tuple(codes.tolist())]) + "\n")
    notes = []
    if missing := [name for name in table.class_names if name in MISSING]:
        names = ", ".join(map(repr, missing))
        notes.append(f"other programs may read these class names as missing values: {names}")
    if table.n_columns > MANY_COLUMNS:
        notes.append(
            f"{table.n_columns:,} columns are more than some programs can take{table.remedy}"
        )
    return notes


def _write_parquet(path: Path, table: _Table) -> list[str]:
    """Write float32, since not every reader knows float16; a missing class is null."""
    import pyarrow
    from pyarrow import parquet

    names = table.columns
    texts, codes = names[: len(table.texts)], names[len(table.texts) :]
    in_one = len(codes) > MOST_PARQUET_COLUMNS
    fields = [(name, pyarrow.string()) for name in texts]
    if in_one:
        fields += [("codes", pyarrow.list_(pyarrow.float32(), len(codes)))]
    else:
        fields += [(name, pyarrow.float32()) for name in codes]
    schema = pyarrow.schema(fields)
    options = {"use_dictionary": ["label", "group", "view"], "write_statistics": False}
    with parquet.ParquetWriter(path, schema, **options) as writer:
        for rows, block in table.blocks():
            columns = [
                pyarrow.array([text or None for text in column[rows]], pyarrow.string())
                for column in table.texts
            ]
            if in_one:
                flat = pyarrow.array(block.astype(np.float32, copy=False).reshape(-1))
                columns.append(pyarrow.FixedSizeListArray.from_arrays(flat, len(codes)))
            else:
                by_column = block.T.astype(np.float32, order="C")
                columns.extend(map(pyarrow.array, by_column))
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))
    one = f"the {len(codes):,} codes of an image are a list in the column codes{table.remedy}"
    return [one] if in_one else []


_WRITERS: dict[str, Callable[[Path, _Table], list[str]]] = {
    ".npz": _write_npz,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
    ".tab": _write_tab,
}


def _writer_for(output: Path) -> Callable[[Path, _Table], list[str]]:
    """Return what writes a file of this ending, if it can."""
    suffix = output.suffix.lower()
    if suffix not in _WRITERS:
        endings = ", ".join(_WRITERS)
        raise ParameterError(f"{output}: its ending gives the format; choose one of {endings}")
    if suffix == ".parquet" and find_spec("pyarrow") is None:
        raise MissingDependencyError(
            f"{output}: .parquet needs pyarrow; pip install 'cnncodes[parquet]'"
        )
    return _WRITERS[suffix]
