"""Codes files whose storage and links lead to other files, or elsewhere in the file."""

from __future__ import annotations

import h5py
import numpy as np
from h5py import h5s
from numpy.random import Generator

from tests.fuzz.files import DECOYS
from tests.fuzz.hdf5_tools import SKIPPED, SPARE, Structure, choose, create, moved, new_settings

# Another path of the working folder, which does not depend on where that is.
FOLDERS = (DECOYS, f"/proc/self/cwd/{DECOYS}")


def _outside(file: h5py.File, name: str, generator: Generator) -> None:
    """Keep the values in another file, of which they are the bytes."""
    old = moved(file, name)
    text = h5py.check_string_dtype(old.dtype) is not None
    dtype = "S64" if text and generator.random() < 0.8 else old.dtype
    path = f"{choose(generator, *FOLDERS)}/{name.replace('/', '-')}.bin"
    item = 16 if text and dtype != "S64" else np.dtype(dtype).itemsize  # 16 to refer to a text
    n_bytes = int(np.prod(old.shape)) * item
    parts = choose(
        generator,
        [(path, 0, h5py.h5f.UNLIMITED)],
        [(path, 0, n_bytes)],
        [(path, 0, n_bytes // 2), (path, n_bytes // 2, n_bytes - n_bytes // 2)],
    )
    file.create_dataset(name, old.shape, dtype, external=parts)
    del file[SPARE]


def _virtual(file: h5py.File, name: str, generator: Generator) -> None:
    """Gather the values from datasets of another file, or of this one."""
    old = moved(file, name)
    outer, inner = choose(
        generator,
        *((f"{folder}/other.h5", name) for folder in FOLDERS),
        *((".", SPARE), ("mutant.h5", SPARE), (f"{DECOYS}/secret.txt", name), (".", name)),
    )
    longest = (None, *old.shape[1:])
    source = h5py.VirtualSource(outer, inner, old.shape, old.dtype, maxshape=longest)
    layout = h5py.VirtualLayout(old.shape, old.dtype, maxshape=longest)
    if generator.random() < 0.3:  # as long as the source is
        layout[: h5s.UNLIMITED] = source[: h5s.UNLIMITED]
    else:
        layout[:] = source
    file.create_virtual_dataset(name, layout)


def _virtual_in_parts(file: h5py.File, name: str, generator: Generator) -> None:
    """Gather the rows from as many sources, or from files that are named by a number."""
    old = moved(file, name)
    space, rest = h5s.create_simple(old.shape), old.shape[1:]
    settings = new_settings()
    for row in range(len(old)):
        start, count = (row, *[0] * len(rest)), (1, *rest)
        space.select_hyperslab(start, count)
        path = f"{DECOYS}/{choose(generator, 'other', 'absent', 'secret')}.h5"
        settings.set_virtual(space, path.encode(), name.encode(), space)
    create(file, name, old.dtype, old.shape, settings)


def _soft_link(file: h5py.File, name: str, generator: Generator) -> None:
    """Lead to the dataset by one link or by many."""
    moved(file, name)
    target = f"/{SPARE}"
    for number in range(choose(generator, 0, 0, 1, 14, 15, 16, 70)):
        file[f"link{number}"] = h5py.SoftLink(target)
        target = f"/link{number}"
    file[name] = h5py.SoftLink(choose(generator, target, f"..{target}", f".//.{target}/."))


def _circle_of_links(file: h5py.File, name: str, generator: Generator) -> None:
    del file[name]
    length = int(choose(generator, 1, 2, 20))
    links = [name, *(f"link{number}" for number in range(1, length))]
    external = generator.random() < 0.5
    for link, following in zip(links, [*links[1:], name], strict=True):
        file[link] = (
            h5py.ExternalLink("mutant.h5", f"/{following}")
            if external
            else h5py.SoftLink(f"/{following}")
        )


def _external_link(file: h5py.File, name: str, generator: Generator) -> None:
    """Lead to the dataset of another codes file, to a file of no codes, or to this file."""
    moved(file, name)
    file[name] = choose(
        generator,
        *(h5py.ExternalLink(f"{folder}/other.h5", name) for folder in FOLDERS),
        h5py.ExternalLink(f"{DECOYS}/secret.txt", name),
        h5py.ExternalLink("mutant.h5", SPARE),
    )


def _link_through_another_file(file: h5py.File, name: str, generator: Generator) -> None:
    """Lead to a plain name, a part of which is in another file."""
    del file[name]
    file["elsewhere"] = h5py.ExternalLink(f"{DECOYS}/other.h5", "/")
    file[name] = h5py.SoftLink(f"/elsewhere/{name}")


def _group_elsewhere(file: h5py.File, name: str, generator: Generator) -> None:
    """Let the group of skipped images be another file's, or a link."""
    file.move("skipped", SPARE)
    file["skipped"] = choose(
        generator,
        h5py.SoftLink(f"/{SPARE}"),
        h5py.ExternalLink(f"{DECOYS}/other.h5", "skipped"),
        h5py.ExternalLink("mutant.h5", SPARE),
        h5py.SoftLink("skipped"),
    )


def _hard_link(file: h5py.File, name: str, generator: Generator) -> None:
    """Let two names be one dataset."""
    if name in SKIPPED:
        del file["skipped/reasons"]
        file["skipped/reasons"] = file["skipped/paths"]
    else:
        file["twin"] = file[name]


def _circle_of_groups(file: h5py.File, name: str, generator: Generator) -> None:
    """Let a group hold itself, or be the whole file."""
    if generator.random() < 0.5:
        file["skipped/skipped"] = file["skipped"]
    else:
        file["reasons"] = file["skipped/reasons"]
        del file["skipped"]
        file["skipped"] = file["/"]


STRUCTURES = (
    Structure(_outside, refused=True),
    Structure(_virtual, refused=True),
    Structure(_virtual_in_parts, refused=True),
    Structure(_soft_link, refused=True),
    Structure(_circle_of_links, refused=True),
    Structure(_external_link, refused=True),
    Structure(_link_through_another_file, refused=True),
    Structure(_group_elsewhere, refused=True),
    Structure(_hard_link),
    Structure(_circle_of_groups),
)
