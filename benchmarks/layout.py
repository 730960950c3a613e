"""How codes are best laid out on disk: time to write, time to read, and size.

    python benchmarks/layout.py CODES.h5 [MORE.h5 ...] [--write]

The codes come from files of cnncodes, best of trained networks. Everything is in
one thread, and the files are in the system's cache.
"""

from __future__ import annotations

import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py._objects import phil
from numpy.typing import NDArray
from page import machine, medians, table, write_section

from cnncodes import CodeStore

N_IMAGES = 500
REPEATS = 5
OPTIONS: dict[str, dict[str, Any]] = {
    "gzip 1, shuffled": {
        "compression": "gzip",
        "compression_opts": 1,
        "shuffle": True,
    },
    "gzip 1": {"compression": "gzip", "compression_opts": 1},
    "lzf (Python only)": {"compression": "lzf"},
}
Codes = NDArray[np.float16]


def through_hdf5(codes: Codes, path: Path, **options: Any) -> Callable[[], Codes]:
    """Write by HDF5's own filters; return what reads it."""
    with h5py.File(path, "w") as file:
        file.create_dataset("codes", data=codes, chunks=(1, codes.shape[1]), **options)
    return lambda: read(path)


def read(path: Path) -> Codes:
    """Read by HDF5's own filters."""
    with h5py.File(path) as file:
        whole: Codes = file["codes"][:]
        return whole


def by_row(codes: Codes, path: Path) -> Callable[[], Codes]:
    """Write as cnncodes does; return what reads it as cnncodes does."""
    with h5py.File(path, "w") as file, phil:
        dataset = file.create_dataset(
            "codes", codes.shape, "f2", chunks=(1, codes.shape[1]), **OPTIONS["gzip 1"]
        )
        for row, each in enumerate(codes):
            deflate = zlib.compressobj(1, zlib.DEFLATED, 15, 8, zlib.Z_RLE)
            chunk = deflate.compress(each.tobytes()) + deflate.flush()
            dataset.id.write_direct_chunk((row, 0), chunk)

    def rows() -> Codes:
        with h5py.File(path) as file, phil:
            chunks = [file["codes"].id.read_direct_chunk((row, 0))[1] for row in range(len(codes))]
        return np.stack([np.frombuffer(zlib.decompress(each), np.float16) for each in chunks])

    return rows


def sparse(codes: Codes, path: Path) -> Callable[[], Codes]:
    """Write values that are not zero and their columns."""
    used = codes != 0
    with h5py.File(path, "w") as file:
        file["values"], file["columns"] = codes[used], np.nonzero(used)[1].astype(np.uint16)
        file["lengths"] = used.sum(axis=1)

    def dense() -> Codes:
        with h5py.File(path) as file:
            row = np.repeat(np.arange(len(codes)), file["lengths"][:])
            whole = np.zeros(codes.shape, np.float16)
            whole[row, file["columns"][:]] = file["values"][:]
        return whole

    return dense


def bitmap(codes: Codes, path: Path) -> Callable[[], Codes]:
    """Write values that are not zero, and a bit for each value that is set where it is stored."""
    used = codes != 0
    with h5py.File(path, "w") as file:
        file["values"], file["used"] = codes[used], np.packbits(used, axis=1)

    def dense() -> Codes:
        with h5py.File(path) as file:
            whole = np.zeros(codes.shape, np.float16)
            bits = np.unpackbits(file["used"][:], axis=1, count=codes.shape[1])
            whole[bits.view(bool)] = file["values"][:]
        return whole

    return dense


def layouts() -> dict[str, Callable[[Codes, Path], Callable[[], Codes]]]:
    """Return what writes each layout."""
    by_hdf5 = {
        name: lambda codes, path, options=options: through_hdf5(codes, path, **options)
        for name, options in OPTIONS.items()
    }
    return {
        **by_hdf5,
        "gzip 1, `Z_RLE`": by_row,
        "values and columns": sparse,
        "values and bitmap": bitmap,
    }


def measure(codes: Codes, write: Callable[[Codes, Path], Callable[[], Codes]]) -> dict[str, float]:
    """Write and read codes once."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "codes.h5"
        started = time.perf_counter()
        load = write(codes, path)
        written = time.perf_counter()
        same = load()
        done = time.perf_counter()
        if (same != codes).any():
            raise SystemExit("a layout returns other codes")
        size = path.stat().st_size
    return {"write": written - started, "read": done - written, "size": size}


def section(path: Path) -> str:
    """Measure all layouts on the codes of one file."""
    with CodeStore.open(path) as store:
        codes = store.codes[:N_IMAGES].astype(np.float16)
        name = f"{store.backbone.backbone}, {store.backbone.weights.partition(':')[0]} weights"
    codes = codes.reshape(len(codes), -1)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in layouts()}
    for _ in range(REPEATS):
        for layout, write in layouts().items():
            runs[layout].append(measure(codes, write))
    result = {layout: medians(each) for layout, each in runs.items()}
    first = next(iter(result.values()))
    n, width = codes.shape
    rows = [
        [layout, *(f"{each[key] / first[key]:.2f} ×" for key in ("write", "read", "size"))]
        for layout, each in result.items()
    ]
    return (
        f"{name}: {n} images of {width:,} numbers, {(codes != 0).mean():.0%} not zero. The first "
        f"row took {1e3 * first['write'] / n:.2f} ms to write and {1e3 * first['read'] / n:.2f} ms "
        f"to read an image of {first['size'] / n / 1e3:.1f} KB here.\n\n"
        + table(["layout", "write", "read", "size"], rows)
    )


def main() -> None:
    """Measure all files that are named."""
    files = [Path(each) for each in sys.argv[1:] if each != "--write"]
    text = f"Machine: {machine(['numpy', 'h5py'])}. Medians of {REPEATS} runs in turn.\n\n"
    text += "\n".join(map(section, files))
    sys.stdout.write(text)
    if "--write" in sys.argv:
        write_section("layout", text)


if __name__ == "__main__":
    main()
