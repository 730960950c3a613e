"""The weights of a network, read from any kind of file that Keras saves.

1. Of a ``.keras`` file, a zip archive, only ``model.weights.h5`` is read. No file can make Python
   objects.
2. The HDF5 datasets are grouped into candidates, lists of layers with weights: one for each model
   in the file, nested ones included. Links to other files are not followed.
3. The network is matched with each candidate by the shapes of its weights; layers before it, such
   as preprocessing, and after it, such as its top, do not matter. Exactly one match is needed.

Keras 3 numbers the layers of each class in the order of ``model.layers``, and stores them as
``layers/conv2d_3/vars/0``. Older files list the names of layers, in that order too; a nested model
is one layer there, which lists the trainable weights of all its layers before the others. Names
such as ``conv2d_3`` depend on Keras's version and on what else the process built, so they identify
no layer; names that the network itself chooses for its layers do.
"""

from __future__ import annotations

import re
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import WeightsError
from cnncodes.export.architectures import Layer
from cnncodes.files import HDF5_SIGNATURE, check_filled
from cnncodes.models.kinds import KERAS_MEMBER, find_kind, wrong_kind
from cnncodes.output import replacing
from cnncodes.text import first_line

if TYPE_CHECKING:
    import h5py

    from cnncodes.hdf5 import RawFile

_SAVE = 'from the Keras model save model.save_weights("network.weights.h5")'
LARGEST_MEMBER = 4 << 30  # VGG19 with its top and the state of Adam has 1.7 GB
MOST_NESTED = 100  # models in models take two levels each
_OLD_LISTS = ("layer_names", "layer_names0")  # the second where a list fills several attributes
_VARIABLE = re.compile(r"(?:(?P<model>.*)/)?(?P<layer>[^/]+)/vars/(?P<index>\d+)")
_NUMBERED = re.compile(r"(?P<kind>.+?)(?:_(?P<number>\d+))?")
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)

Shapes = tuple[tuple[int, ...], ...]
Weights = dict[str, list[NDArray[np.float32]]]  # of each layer, by its name, in Keras's order


@dataclass(frozen=True)
class _Stored:
    """A layer of a file: its name, class in snake case, and datasets with their shapes."""

    name: str
    kind: str
    weights: Shapes
    datasets: list[h5py.Dataset]


@dataclass(frozen=True)
class _Candidate:
    """The layers of a model in a file, in its order or, where `by_class`, in that of each class."""

    layers: list[_Stored]
    by_class: bool


def read_weights(layers: Sequence[Layer], path: Path, name: str) -> Weights:
    """Read the weights of a network from a file.

    Parameters
    ----------
    layers : sequence of Layer
        The network, without its top, in the order of Keras.
    path : Path
        A ``.weights.h5``, ``.h5`` or ``.keras`` file of it, or of a model that contains it.
    name : str
        The name of the network in messages.

    Returns
    -------
    dict of str to list of ndarray of float32
        The weights of each layer that has some, by its name, in Keras's order.

    Raises
    ------
    WeightsError
        The file is damaged, is not one of Keras's, or does not hold the network exactly once.
    """
    wanted = [layer for layer in layers if layer.weights]
    with _opened(path) as (file, raw):
        try:
            candidates = _candidates(file, raw)
            matches = [match for each in candidates for match in _matches(wanted, each)]
            match = matches[0] if len(matches) == 1 else []
            values = [[_read(each, path) for each in layer.datasets] for layer in match]
        except WeightsError:
            raise
        except Exception as error:  # h5py raises errors of many classes for damage
            raise WeightsError(
                f"{path}: is damaged ({first_line(error)}); copy it again"
            ) from error
    if not candidates:
        raise WeightsError(
            f"{path}: an HDF5 file, but not Keras weights; {name} takes what Keras saves, such as "
            "a .weights.h5, .h5 or .keras file"
        )
    save = (
        'save the network alone, model.get_layer(NAME).save_weights("network.weights.h5"), where '
        "NAME is what model.summary() calls it"
    )
    if len(matches) > 1:
        raise WeightsError(f"{path}: holds weights for {name} more than once; {save}")
    if not matches:
        raise WeightsError(
            f"{path}: does not fit {name} without its top: {_misfit(wanted, candidates)}; if it is "
            f"part of a larger model, {save}"
        )
    return {layer.name: arrays for layer, arrays in zip(wanted, values, strict=True)}


def check_weights_kind(path: Path, remedy: str) -> None:
    """Refuse, before Keras is imported, a file that holds no weights of Keras.

    Parameters
    ----------
    path : Path
        The file.
    remedy : str
        What to do about an absent file.

    Raises
    ------
    WeightsError
        It is absent, no regular file, empty or of another kind. An HDF5 file may still be foreign.
    """
    kind = find_kind(path)
    if kind is None:
        check_filled(path, remedy, error=WeightsError)
    elif kind.name not in ("weights", "keras", "hdf5", "damaged", "zip"):
        raise wrong_kind(path, kind, "Keras weights", _SAVE, error=WeightsError)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[h5py.File, RawFile]]:
    """Open an HDF5 file, or the one in a ``.keras`` file, with h5py and as bytes."""
    import h5py

    from cnncodes.hdf5 import RawFile

    with path.open("rb") as file:
        start = file.read(len(HDF5_SIGNATURE))
    zipped = start[:4] == b"PK\x03\x04"
    if not zipped and start != HDF5_SIGNATURE:
        raise WeightsError(
            f"{path}: neither an HDF5 nor a .keras file; make one from the Keras model: "
            'model.save_weights("network.weights.h5")'
        )
    with tempfile.TemporaryFile() as member:
        if zipped:
            _unpack(path, member)
        try:
            opened = h5py.File(member if zipped else path, "r", locking=False)
        except OSError as error:
            raise WeightsError(
                f"{path}: not a readable HDF5 file ({first_line(error)}); download or copy it again"
            ) from error
        with opened, member if zipped else path.open("rb") as content:
            yield opened, RawFile(opened, content)


def _unpack(path: Path, target: IO[bytes]) -> None:
    """Copy the weights in a ``.keras`` file to another file."""
    try:
        with zipfile.ZipFile(path) as archive:
            if KERAS_MEMBER not in archive.namelist():
                raise WeightsError(
                    f"{path}: a zip archive without {KERAS_MEMBER}, as Keras saves it; {_SAVE}"
                )
            n_bytes = archive.getinfo(KERAS_MEMBER).file_size
            if n_bytes > LARGEST_MEMBER:
                raise WeightsError(
                    f"{path}: its weights would take {n_bytes / 1e9:.1f} GB, at most "
                    f"{LARGEST_MEMBER / 1e9:.1f} GB are unpacked; save the network alone, without "
                    "an optimizer"
                )
            with archive.open(KERAS_MEMBER) as member:  # ends at the size that was checked
                for block in iter(lambda: member.read(1 << 20), b""):
                    try:
                        target.write(block)
                        target.flush()
                    except OSError as error:
                        raise WeightsError(
                            f"{path}: cannot be unpacked, since a temporary file cannot be "
                            f"written ({error.strerror}); let TMPDIR name a folder with more room"
                        ) from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be unpacked ({first_line(error)})") from error
    except _ZIP_ERRORS as error:
        raise WeightsError(
            f"{path}: cannot be unpacked ({first_line(error)}); download or copy it again"
        ) from error


def _candidates(file: h5py.File, raw: RawFile) -> list[_Candidate]:
    """Return the models of a file of either layout."""
    import h5py

    datasets: dict[str, h5py.Dataset] = {}
    groups: dict[str, h5py.Group] = {"": file}

    def add(name: str, item: Any) -> None:
        if name.count("/") >= MOST_NESTED:  # opening them all takes time as their square
            raise ValueError(f"groups in it are nested more than {MOST_NESTED} deep")
        (datasets if isinstance(item, h5py.Dataset) else groups)[name] = item

    file.visititems(add)  # follows no links
    for name in ("", "model_weights"):
        group = groups.get(name)
        if group is not None and any(each in group.attrs for each in _OLD_LISTS):
            return _named_candidates(raw, f"{name}/".lstrip("/"), groups, datasets)
    return _numbered_candidates(datasets)


def _numbered_candidates(datasets: dict[str, h5py.Dataset]) -> list[_Candidate]:
    """Return the models of a file of Keras 3: groups of groups that hold ``vars``."""
    models: dict[str, dict[str, dict[int, h5py.Dataset]]] = {}
    for path, dataset in datasets.items():
        if parts := _VARIABLE.fullmatch(path):
            layers = models.setdefault(parts["model"] or "", {})
            layers.setdefault(parts["layer"], {})[int(parts["index"])] = dataset
    candidates = []
    for layers in models.values():
        numbered = []
        for name, variables in layers.items():
            parts = _NUMBERED.fullmatch(name)
            assert parts is not None
            weights = [variables[index] for index in sorted(variables)]
            shapes = tuple(each.shape for each in weights)
            layer = _Stored(name, parts["kind"], shapes, weights)
            numbered.append((int(parts["number"] or 0), layer))
        numbered.sort(key=lambda each: each[0])
        candidates.append(_Candidate([layer for _, layer in numbered], by_class=True))
    return candidates


def _named_candidates(
    raw: RawFile,
    prefix: str,
    groups: dict[str, h5py.Group],
    datasets: dict[str, h5py.Dataset],
) -> list[_Candidate]:
    """Return the models of an older file: the saved one, and those nested in it as layers."""
    nested, outer = [], []
    for name in _listed(raw, groups[prefix.rstrip("/")], "layer_names"):
        weights = _listed(raw, groups[prefix + name], "weight_names")
        stored = [datasets[f"{prefix}{name}/{each}"] for each in weights]
        inner: dict[str, list[h5py.Dataset]] = {}
        for each, dataset in zip(weights, stored, strict=True):
            layer = each.rpartition("/")[0].rpartition("/")[2]  # model/conv2d_3/kernel:0
            inner.setdefault(layer, []).append(dataset)
        if len(inner) > 1:
            nested.append(_Candidate([_named(*each) for each in inner.items()], by_class=False))
        if stored:
            outer.append(_named(name, stored))
    return [_Candidate(outer, by_class=False), *nested]


def _named(name: str, datasets: list[h5py.Dataset]) -> _Stored:
    parts = _NUMBERED.fullmatch(name)
    kind = parts["kind"] if parts else ""
    return _Stored(name, kind, tuple(each.shape for each in datasets), datasets)


def _listed(raw: RawFile, group: h5py.Group, name: str) -> list[str]:
    """Return a list from an attribute, or from several, into which Keras splits a long one."""
    names = [name] if name in group.attrs else []
    while name not in group.attrs and f"{name}{len(names)}" in group.attrs:
        names.append(f"{name}{len(names)}")
    return [text for each in names for text in raw.text_list(group, each)]


def _matches(wanted: list[Layer], candidate: _Candidate) -> list[list[_Stored]]:
    """Return for each match of a network in a candidate the layers of the candidate."""
    stored = candidate.layers
    if candidate.by_class:
        return _matches_by_kind(wanted, stored)
    named = {layer.name: index for index, layer in enumerate(stored)}
    if all(_has_own_name(layer) and layer.name in named for layer in wanted):
        indices = [named[layer.name] for layer in wanted]
        # A deeper network, as ResNet101 is, may have layers of all these names and others between.
        contiguous = max(indices) - min(indices) == len(wanted) - 1
        if contiguous and all(
            stored[index].weights == layer.weights
            for index, layer in zip(indices, wanted, strict=True)
        ):
            return [[stored[index] for index in indices]]
    # Also wrapped around the end: the frozen first layers of a nested network are listed last.
    wrapped = [*stored, *stored[: len(wanted) - 1]] if len(stored) >= len(wanted) else []
    matches = [wrapped[start : start + len(wanted)] for start in _runs(wanted, wrapped)]
    # Where other layers are frozen, often all of a class, the order holds within each class only.
    return matches or _matches_by_kind(wanted, stored)


def _matches_by_kind(wanted: list[Layer], stored: list[_Stored]) -> list[list[_Stored]]:
    """Match each class of layers by itself; return at most two matches."""
    matches: list[dict[str, Iterator[_Stored]]] = [{}]
    for kind in dict.fromkeys(layer.kind for layer in wanted):
        layers = [layer for layer in wanted if layer.kind == kind]
        others = [layer for layer in stored if layer.kind == kind]
        runs = [others[start : start + len(layers)] for start in _runs(layers, others)]
        matches = [{**each, kind: iter(run)} for each in matches for run in runs[:2]]
    return [[next(each[layer.kind]) for layer in wanted] for each in matches[:2]]


def _runs(wanted: Sequence[Layer], stored: Sequence[_Stored]) -> list[int]:
    """Return the indices at which layers of the wanted shapes begin among the stored ones."""
    shapes = [layer.weights for layer in wanted]
    others = [layer.weights for layer in stored]
    n_starts = len(others) - len(shapes) + 1
    return [start for start in range(n_starts) if others[start : start + len(shapes)] == shapes]


def _has_own_name(layer: Layer) -> bool:
    """Whether the network names the layer; Keras's names are a class and a number."""
    return re.fullmatch(rf"{layer.kind}(_\d+)?", layer.name) is None


def _misfit(wanted: list[Layer], candidates: list[_Candidate]) -> str:
    """Name the first layer that does not fit the candidate of which the most layers fit."""
    furthest, shapes = max(
        (_first_misfit(wanted, candidate) for candidate in candidates), key=lambda each: each[0]
    )
    layer = wanted[furthest]
    stored = list(shapes) or "none"
    return f"layer {layer.name} has weights of shape {list(layer.weights)}, the file {stored}"


def _first_misfit(wanted: list[Layer], candidate: _Candidate) -> tuple[int, Shapes]:
    """Return the index of the first layer that does not fit, and the shapes stored for it."""
    rest = {"": iter(candidate.layers)}
    if candidate.by_class:
        rest = {
            layer.kind: iter([each for each in candidate.layers if each.kind == layer.kind])
            for layer in wanted
        }
    for index, layer in enumerate(wanted):
        stored = next(rest[layer.kind if candidate.by_class else ""], None)
        if stored is None or stored.weights != layer.weights:
            return index, stored.weights if stored else ()
    return len(wanted) - 1, ()


def _read(dataset: h5py.Dataset, path: Path) -> NDArray[np.float32]:
    """Read weights whose shape is known to fit."""
    if dataset.is_virtual or dataset.external:
        raise WeightsError(f"{path}: its weights are in another file; save them into one")
    if dataset.id.get_create_plist().get_nfilters():  # HDF5 unpacks a few bytes to any size
        raise WeightsError(f"{path}: its weights are compressed; save them uncompressed")
    if dataset.dtype.kind != "f":
        raise WeightsError(
            f"{path}: its weights are stored as {dataset.dtype.name}; save them as float32"
        )
    return np.asarray(dataset[()], np.float32)


def write_weights(layers: Sequence[Layer], weights: Weights, path: Path) -> None:
    """Write a ``.weights.h5`` file of a network, as Keras 3 does; needs no Keras.

    Parameters
    ----------
    layers : sequence of Layer
        The network, in the order of Keras.
    weights : dict of str to list of ndarray of float32
        The weights of each layer that has some, by its name, in Keras's order.
    path : Path
        The file; replaced where it exists.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    import h5py

    counts: Counter[str] = Counter()
    with replacing(path, overwrite=True) as temporary, h5py.File(temporary, "w") as file:
        for layer in layers:
            number = f"_{counts[layer.kind]}" if counts[layer.kind] else ""
            counts[layer.kind] += 1
            for index, values in enumerate(weights.get(layer.name, ())):
                file[f"layers/{layer.kind}{number}/vars/{index}"] = values
