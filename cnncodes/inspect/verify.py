"""Whether a file is whole, and belongs to the images and the network it is said to come from.

A file is looked at as a whole here: every code is read, every model is run. The commands that
use a file check no more than they need, so that they stay quick.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.app.classifier import Classifier
from cnncodes.errors import FileFormatError, ParameterError
from cnncodes.extract.backbone import Backbone
from cnncodes.files import check_filled, is_file, is_hdf5
from cnncodes.images.decoding import load_image
from cnncodes.images.limits import DEFAULT_MAX_PIXELS
from cnncodes.images.sources import Source, find_images
from cnncodes.models.checksum import read_checksum
from cnncodes.models.metadata import PREFIX, HeadInfo
from cnncodes.models.session import open_session
from cnncodes.parameters import COUNT, MAX_PIXELS, as_path
from cnncodes.progress import Progress
from cnncodes.text import listed

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from cnncodes.extract.store import CodeStore

# Largest difference of codes computed twice, divided by the largest code: float16 rounds by up to
# 0.0005, and an int8 network may round a value up that it rounded down before.
TOLERANCES = {"float32": 0.001, "int8": 0.05}
ALTERED = (
    "its weights, operators or metadata are not those it was written with; copy or make it again"
)
WITHOUT_CHECKSUM = (
    "metadata for a checksum; it carries no checksum, so changed weights go unnoticed"
)


@dataclass(frozen=True)
class Fault:
    """Something that is wrong.

    Attributes
    ----------
    subject : str
        The file or the image.
    problem : str
        What is wrong with it.
    """

    subject: str
    problem: str


@dataclass(frozen=True)
class Verification:
    """What was found of a file.

    Attributes
    ----------
    path : Path
        The file.
    kind : {"codes", "backbone", "head", "app"}
        What it is.
    checked : list of str
        What was looked at, for people.
    faults : list of Fault
        What is wrong; empty if nothing is.
    largest_difference : float or None
        Of the codes that were computed again, to the stored ones, divided by the image's largest
        code; None if none were.
    """

    path: Path
    kind: str
    checked: list[str]
    faults: list[Fault]
    largest_difference: float | None = None


def verify(
    file: str | Path,
    *,
    source: str | Path | None = None,
    backbone: str | Path | None = None,
    sample: int = 16,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    progress: Progress | None = None,
) -> Verification:
    """Verify a codes file, a backbone, a head or an app.

    Parameters
    ----------
    file : str or Path
        The file.
    source : str or Path, optional
        Of codes: the folder or CSV file of the images; each is compared with its digest.
    backbone : str or Path, optional
        The backbone file that codes, head or app are said to come from. With `source` the codes
        of some images are computed again.
    sample : int
        How many images; the same ones each time.
    max_pixels : int
        An image with more pixels is not decoded.
    progress : Progress, optional
        Told how far the reading of codes and images is.

    Returns
    -------
    Verification
        What was found.

    Raises
    ------
    FileFormatError
        A file is absent, or none of these four.
    SourceError
        The source cannot be used.
    ParameterError
        `source` is given for a model, or a number is out of range.
    """
    file = as_path(file, "file")
    source = None if source is None else as_path(source, "source")
    sample = COUNT.check(sample, "sample")
    max_pixels = MAX_PIXELS.check(max_pixels, "max_pixels")
    check_filled(file, "name a codes file, a backbone, a head or an app")
    network = None if backbone is None else Backbone(backbone)
    if is_hdf5(file):
        images = None if source is None else find_images(source)
        return _verify_codes(file, images, network, sample, max_pixels, progress)
    if source is not None:
        raise ParameterError(f"{file}: source is for a codes file; leave it out")
    return _verify_model(file, network)


def _verify_codes(
    file: Path,
    images: Source | None,
    network: Backbone | None,
    sample: int,
    max_pixels: int,
    progress: Progress | None,
) -> Verification:
    from cnncodes.extract.store import CodeStore

    with CodeStore.open(file) as store:
        checked = [f"format, labels and digests of {len(store)} images", "every code is finite"]
        if store.checksums is not None:
            checked.append("every image has the codes that were stored with it")
        steps = len(store) * (1 if images is None else 2)
        if progress is not None:
            progress.begin(steps)
        faults = list(_counted(_code_faults(store), progress))
        difference = None
        if network is not None:
            checked.append(f"the codes are of {network.path}")
            faults += _network_faults(file, store.backbone_sha256, network)
        if images is not None:
            checked.append("the images are those of the source, unchanged")
            strangers = list(_counted(_image_faults(store, images), progress))
            faults += strangers
            if network is not None and network.code_shape == store.codes.shape[1:]:
                unfit = {fault.subject for fault in faults}
                known = [row for row, path in enumerate(store.paths) if path not in unfit]
                rows = np.random.default_rng(0).permutation(known)[:sample].tolist()
                checked.append(f"the codes of {len(rows)} images, computed again")
                difference, differing = _recomputed(store, images, network, rows, max_pixels)
                faults += differing
    return Verification(file, "codes", checked, faults, difference)


def _counted(found: Iterable[Fault | None], progress: Progress | None) -> Iterator[Fault]:
    """Give the faults; a None is one image more that was looked at."""
    for fault in found:
        if fault is not None:
            yield fault
        elif progress is not None:
            progress.advance(1)


def _code_faults(store: CodeStore) -> Iterator[Fault | None]:
    """Read every code."""
    for row, path in enumerate(store.paths):
        try:
            (values,) = store.rows([row])
        except FileFormatError as error:
            yield Fault(path, f"its codes are damaged ({error.__cause__})")
        else:
            if not np.isfinite(values).all():
                yield Fault(path, "its codes are not finite")
        yield None


def _network_faults(file: Path, recorded: str, network: Backbone) -> Iterator[Fault]:
    if recorded != network.sha256:
        yield Fault(
            str(file),
            f"is of a network with SHA-256 {recorded[:12]}…, {network.path} has "
            f"{network.sha256[:12]}…",
        )


def _image_faults(store: CodeStore, images: Source) -> Iterator[Fault | None]:
    """Compare the images of a source with what is recorded of them."""
    found = _labels_by_path(images.paths, images.labels, images.class_names)
    recorded = _labels_by_path(store.paths, store.labels, store.class_names)
    compared = set()
    for path, digest in zip(store.paths, store.digests, strict=True):
        file = images.root / path
        if path not in found or not is_file(file):
            yield Fault(path, "is not in the source")
        elif _sha256(file) != digest:
            yield Fault(path, "has changed")
        elif path not in compared and found[path] != recorded[path]:
            yield Fault(
                path,
                f"is labelled {_labels_text(found[path])} in the source, "
                f"{_labels_text(recorded[path])} in the codes",
            )
        compared.add(path)
        yield None
    known = {*store.paths, *(path for path, _ in store.skipped)}
    for path in dict.fromkeys(images.paths):
        if path not in known:
            yield Fault(path, "is in the source only")


def _labels_by_path(
    paths: Sequence[str], labels: Iterable[int], names: Sequence[str]
) -> dict[str, Counter[str]]:
    """Return the labels of each path, and how often it has each: a CSV file may repeat a path."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    with_none = (*names, "")  # the last for an image without a label, which is -1
    for path, label in zip(paths, labels, strict=True):
        found[path][with_none[label]] += 1
    return found


def _labels_text(labels: Counter[str]) -> str:
    """List labels, those that an image has several times as often."""
    return listed([repr(label) for label in sorted(labels.elements())])


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    try:
        # A file of /proc has size 0 too, and may be one that is waited for.
        with file.open("rb") if file.stat().st_size else BytesIO() as content:
            while part := content.read(1 << 20):
                digest.update(part)
    except OSError:
        return ""
    return digest.hexdigest()


def _recomputed(
    store: CodeStore, images: Source, network: Backbone, rows: list[int], max_pixels: int
) -> tuple[float | None, list[Fault]]:
    """Compute codes again; return the largest difference, and what differs too much."""
    tolerance = TOLERANCES.get(network.info.precision, min(TOLERANCES.values()))
    differences, faults, paths = [], [], store.paths
    for row in rows:
        image = load_image(
            0, images.root / paths[row], network.info.input_size, max_pixels, white=store.white
        )
        if image.pixels is None:
            faults.append(Fault(paths[row], f"cannot be used any more: {image.problem}"))
            continue
        codes = network.extract(image.pixels[np.newaxis])[0]
        largest = max(float(np.abs(codes).max()), float(np.finfo(np.float32).tiny))
        (stored,) = store.rows([row])
        difference = float(np.abs(codes.ravel() - stored).max()) / largest
        differences.append(difference)
        if not difference <= tolerance:  # NaN is none
            faults.append(Fault(paths[row], f"its codes differ by {difference:.2g} of the largest"))
    return max(differences, default=None), faults


def _verify_model(file: Path, network: Backbone | None) -> Verification:
    session, metadata = open_session(file, "backbone", "head", "app")
    kind = metadata[PREFIX + "kind"]
    checked = ["format, operators and metadata", "runs, and gives numbers that make sense"]
    faults = []
    recorded, computed = read_checksum(file)
    if recorded is None:
        checked.append(WITHOUT_CHECKSUM)
    else:
        checked.append("weights, operators and metadata are those it was written with")
        if recorded != computed:
            faults.append(Fault(str(file), ALTERED))
    if kind == "backbone":
        faults += _backbone_faults(Backbone(file))
        return Verification(file, kind, checked, faults)
    info = HeadInfo.from_metadata(metadata, file)
    if kind == "app":
        Classifier(file)  # refuses other inputs and outputs than those of an app
        batch = {"images": _noise(info.backbone.input_size)}
    else:
        shape = session.get_inputs()[0].shape[1:] if session.get_inputs() else []
        batch = {"codes": np.zeros((1, *(each for each in shape if isinstance(each, int))), "f4")}
    faults += _probability_faults(file, session, batch, len(info.labels))
    if network is not None:
        checked.append(f"is of {network.path}")
        faults += _network_faults(file, info.backbone_sha256, network)
    return Verification(file, kind, checked, faults)


def _noise(size: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)


def _backbone_faults(network: Backbone) -> Iterator[Fault]:
    try:
        codes = network.extract(_noise(network.info.input_size))
    except Exception as error:  # onnxruntime has no common base class for its errors
        yield Fault(str(network.path), f"cannot be run ({_first_line(error)})")
        return
    if codes.shape != (1, *network.code_shape):
        yield Fault(
            str(network.path), f"promises codes {network.code_shape}, gives {codes.shape[1:]}"
        )
    if not np.isfinite(codes).all():
        yield Fault(str(network.path), "gives codes that are not finite")


def _probability_faults(
    file: Path, session: InferenceSession, batch: dict[str, Any], n_classes: int
) -> Iterator[Fault]:
    try:
        found = session.run(["probabilities"], batch)[0]
    except Exception as error:  # onnxruntime has no common base class for its errors
        yield Fault(str(file), f"cannot be run ({_first_line(error)})")
        return
    if found.shape != (1, n_classes):
        yield Fault(str(file), f"has {n_classes} labels, gives {found.shape[1:]} probabilities")
    elif not (np.isfinite(found).all() and found.min() >= 0 and abs(found.sum() - 1) < 1e-3):
        yield Fault(str(file), "gives numbers that are no probabilities")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
