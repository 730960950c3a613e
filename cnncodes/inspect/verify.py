"""Check a file from end to end, and against the images and the network it names.

Every code is read, and every model is run. Other commands check only the parts that they use,
so that they stay quick.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cnncodes.app.classifier import Classifier
from cnncodes.errors import FileFormatError, ParameterError
from cnncodes.extract.backbone import Backbone
from cnncodes.extract.source_part import divide
from cnncodes.files import check_filled, is_file, is_hdf5, sha256_of
from cnncodes.images.decoding import load_image
from cnncodes.images.limits import DEFAULT_MAX_PIXELS
from cnncodes.images.sources import Source, find_images
from cnncodes.images.views import make_views
from cnncodes.models.checksum import read_checksum
from cnncodes.models.kinds import check_kind, needing
from cnncodes.models.metadata import PREFIX, BackboneInfo, HeadInfo, networks_text
from cnncodes.models.safety import check_model
from cnncodes.models.session import noise_images, open_session, run_session
from cnncodes.parameters import COUNT, MAX_PIXELS, as_path
from cnncodes.progress import NoProgress, Progress
from cnncodes.text import listed, views_text

if TYPE_CHECKING:
    from cnncodes.extract.store import CodeStore

# Largest difference between stored and computed codes, divided by the image's largest code:
# float16 rounds by up to 0.0005, and int8 by a step.
TOLERANCES = {"float32": 0.001, "int8": 0.05}
_VERIFIED = ("codes", "backbone", "int8", "head", "app", "damaged")
_REMEDY = "name a codes file, a backbone, a head or an app"
ALTERED = (
    "its weights, operators or metadata are not those it was written with; copy or make it again"
)
WITHOUT_CHECKSUM = (
    "metadata for a checksum; it carries no checksum, so changed weights go unnoticed"
)


@dataclass(frozen=True)
class Fault:
    """A fault of a file or of an image, the `subject`."""

    subject: str
    problem: str


@dataclass(frozen=True)
class Verification:
    """The result of `verify`.

    Attributes
    ----------
    path : Path
        The file.
    kind : {"codes", "backbone", "head", "app"}
        The kind of file.
    checked : list of str
        What was looked at, in words; whether it is right is in `faults`.
    faults : list of Fault
        What is wrong; empty if nothing is.
    largest_difference : float or None
        Largest difference between computed and stored codes, divided by the image's largest
        code; None where no codes were computed.
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
        For codes: the folder or CSV file of the images; each is compared with its digest.
    backbone : str or Path, optional
        The backbone file that codes, head or app should come from. With `source` the codes of
        some images are computed again.
    sample : int
        Number of those images; the same ones each time.
    max_pixels : int
        An image with more pixels is not decoded.
    progress : Progress, optional
        Counts the codes and images.

    Returns
    -------
    Verification
        The checks and the faults.

    Raises
    ------
    FileFormatError
        A file is absent, or not one of these four.
    SourceError
        The source cannot be used.
    ParameterError
        `source` is not None for a model, or a number is out of range.
    """
    progress = progress or NoProgress()
    file = as_path(file, "file")
    source = None if source is None else as_path(source, "source")
    sample = COUNT.check(sample, "sample")
    max_pixels = MAX_PIXELS.check(max_pixels, "max_pixels")
    with needing(file, _VERIFIED, "one that can be verified", _REMEDY):
        check_filled(file, _REMEDY)
        is_codes = is_hdf5(file)
        if not is_codes:
            check_kind(check_model(file).metadata, file, "backbone", "head", "app")
    if source is not None and not is_codes:
        raise ParameterError(f"{file}: source is for a codes file; leave it out")
    network = None if backbone is None else Backbone(backbone)
    if is_codes:
        images = None if source is None else find_images(source)
        return _verify_codes(file, images, network, sample, max_pixels, progress)
    return _verify_model(file, network)


def _verify_codes(
    file: Path,
    images: Source | None,
    network: Backbone | None,
    sample: int,
    max_pixels: int,
    progress: Progress,
) -> Verification:
    from cnncodes.extract.store import CodeStore

    with CodeStore.open(file) as store:
        images_text = views_text(store.n_images, store.n_views)
        checked = [f"format, labels and digests of {images_text}", "that every code is finite"]
        if store.checksums is not None:
            checked.append("that every image has the codes that were stored with it")
        progress.begin(store.n_images * (1 if images is None else 2))
        faults = list(_counted(_code_faults(store), progress))
        difference = None
        if network is not None:
            checked.append(f"that the codes are of {network.path}")
            faults += _network_faults(file, store.backbone, store.backbone_sha256, network)
        if images is not None:
            if store.part is not None:
                _, images = divide(images, images.root, (store.part.number, store.part.count))
            checked.append("that the source has the same images with the same labels")
            faults += _counted(_image_faults(store, images), progress)
            if network is not None and network.code_shape == store.codes.shape[1:]:
                faulty = {fault.subject for fault in faults}
                paths = store.paths[:: store.n_views]
                sound = [image for image, path in enumerate(paths) if path not in faulty]
                drawn = np.random.default_rng(0).permutation(sound)[:sample].tolist()
                checked.append(
                    f"the codes of {views_text(len(drawn), store.n_views)}, computed again"
                )
                difference, differing = _recomputed(store, images, network, drawn, max_pixels)
                faults += differing
    return Verification(file, "codes", checked, faults, difference)


def _counted(faults: Iterable[Fault | None], progress: Progress) -> Iterator[Fault]:
    """Yield the faults, and count each None, which ends the check of one image."""
    for fault in faults:
        if fault is None:
            progress.advance(1)
        else:
            yield fault


def _code_faults(store: CodeStore) -> Iterator[Fault | None]:
    for row, path in enumerate(store.paths):
        try:
            (values,) = store.rows([row])
        except FileFormatError as error:
            yield Fault(path, f"its codes are damaged ({error.__cause__})")
        else:
            if not np.isfinite(values).all():
                yield Fault(path, "its codes are not finite")
        if (row + 1) % store.n_views == 0:
            yield None


def _network_faults(
    file: Path, recorded: BackboneInfo, sha256: str, network: Backbone
) -> Iterator[Fault]:
    if sha256 != network.sha256:
        networks = networks_text(recorded, sha256, network.info, network.sha256)
        yield Fault(str(file), f"is of another network than {network.path} ({networks})")


def _image_faults(store: CodeStore, images: Source) -> Iterator[Fault | None]:
    """Compare the images of a source with their records in the codes file."""
    current = _labels_by_path(images.paths, images.label_texts)
    own = slice(None, None, store.n_views)  # the rows of the images themselves
    paths, digests = store.paths[own], store.digests[own]
    recorded = _labels_by_path(paths, store.label_texts)
    numbers = {
        "weight": _numbers_by_path((images.paths, images.weights), (paths, store.weights[own])),
        "probability": _numbers_by_path(
            (images.paths, images.probabilities), (paths, store.probabilities[own])
        ),
    }
    compared = set()
    for path, digest in zip(paths, digests, strict=True):
        file = images.root / path
        if path not in current or not is_file(file):
            yield Fault(path, "is not in the source")
        elif _digest_of(file) != digest:
            yield Fault(path, "has changed")
        elif path not in compared and current[path] != recorded[path]:
            yield Fault(
                path,
                f"is labelled {_labels_text(current[path])} in the source, "
                f"{_labels_text(recorded[path])} in the codes",
            )
        elif path not in compared:
            for name, (in_source, in_codes) in numbers.items():
                if in_source[path] != in_codes[path]:
                    values = [
                        listed([str(value) for value in each[path]])
                        for each in (in_source, in_codes)
                    ]
                    yield Fault(
                        path, f"has the {name} {values[0]} in the source, {values[1]} in the codes"
                    )
        compared.add(path)
        yield None
    known = {*paths, *(path for path, _ in store.skipped)}
    for path in dict.fromkeys(images.paths):
        if path not in known:
            yield Fault(path, "is in the source only")


def _labels_by_path(paths: Sequence[str], labels: Sequence[str]) -> dict[str, Counter[str]]:
    """Count the labels of each path, which a CSV file may repeat."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for path, label in zip(paths, labels, strict=True):
        counts[path][label] += 1
    return counts


def _numbers_by_path(
    *columns: tuple[Sequence[str], Sequence[float] | NDArray[np.float64]],
) -> list[dict[str, list[float]]]:
    """Return for each column the sorted values of each path; 1 where there are none."""
    by_path = []
    for paths, values in columns:
        of_path: defaultdict[str, list[float]] = defaultdict(list)
        every = values if len(values) else [1.0] * len(paths)
        for path, value in zip(paths, every, strict=True):
            of_path[path].append(float(value))
        by_path.append({path: sorted(each) for path, each in of_path.items()})
    return by_path


def _labels_text(labels: Counter[str]) -> str:
    """List labels, each as often as it was counted."""
    return listed([repr(label) for label in sorted(labels.elements())])


def _digest_of(file: Path) -> str:
    """Return the SHA-256 of an image; empty where it cannot be read."""
    try:
        # A file of /proc has size 0 too, and reading it may never end.
        return sha256_of(file) if file.stat().st_size else hashlib.sha256().hexdigest()
    except OSError:
        return ""


def _recomputed(
    store: CodeStore, images: Source, network: Backbone, drawn: list[int], max_pixels: int
) -> tuple[float | None, list[Fault]]:
    """Compute codes again; return the largest difference, and a fault for each above tolerance."""
    tolerance = TOLERANCES.get(network.info.precision, min(TOLERANCES.values()))
    differences, faults, n_views = [], [], store.n_views
    for index in drawn:
        path = store.paths[index * n_views]
        image = load_image(
            0, images.root / path, network.info.input_size, max_pixels, white=store.white
        )
        if image.pixels is None:
            faults.append(Fault(path, f"cannot be used now: {image.problem}"))
            continue
        each_view = []
        for view, pixels in enumerate(make_views(image.pixels[np.newaxis], store.augment)):
            codes = network.extract(pixels[np.newaxis])[0]
            largest = max(float(np.abs(codes).max()), float(np.finfo(np.float32).tiny))
            (stored,) = store.rows([index * n_views + view])
            each_view.append(float(np.abs(codes.ravel() - stored).max()) / largest)
        difference = float(np.max(each_view))  # NaN where one is
        differences.append(difference)
        if not difference <= tolerance:  # true for NaN
            faults.append(Fault(path, f"its codes differ by {difference:.2g} of the largest"))
    return max(differences, default=None), faults


def _verify_model(file: Path, network: Backbone | None) -> Verification:
    metadata = check_model(file).metadata
    kind = metadata[PREFIX + "kind"]
    checked = [
        "format, operators and metadata",
        "that it runs, with output as declared",
    ]
    faults = []
    recorded, computed = read_checksum(file)
    if recorded is None:
        checked.append(WITHOUT_CHECKSUM)
    else:
        checked.append("that weights, operators and metadata are those it was written with")
        if recorded != computed:
            faults.append(Fault(str(file), ALTERED))
    run, shape = _opened(file, kind)
    try:
        output = run()
    except FileFormatError as error:
        faults.append(Fault(str(file), str(error).removeprefix(f"{file}: ")))
    else:
        problem = _problem_of_codes
        if kind != "backbone":
            several = HeadInfo.from_metadata(metadata, file).has_several_labels
            problem = partial(_problem_of_probabilities, several=several)
        faults += [Fault(str(file), text) for text in [problem(output, shape)] if text]
    if network is not None and kind != "backbone":
        checked.append(f"that it is of {network.path}")
        info = HeadInfo.from_metadata(metadata, file)
        if network.sha256 not in {part.sha256 for part in info.parts}:
            faults += _network_faults(file, info.backbone, info.backbone_sha256, network)
    return Verification(file, kind, checked, faults)


def _opened(file: Path, kind: str) -> tuple[Callable[[], NDArray[np.float32]], tuple[int, ...]]:
    """Open a model; return a function that runs it on one input, and the declared shape."""
    if kind == "backbone":
        backbone = Backbone(file)
        images = noise_images(1, backbone.info.input_size)
        return partial(backbone.extract, images), (1, *backbone.code_shape)
    if kind == "app":
        app = Classifier(file)
        images = noise_images(1, app.input_size)
        return partial(app.predict_proba, images), (1, len(app.labels))
    session, metadata = open_session(file, "head")
    n_classes = len(HeadInfo.from_metadata(metadata, file).labels)
    lengths = session.get_inputs()[0].shape[1:] if session.get_inputs() else []
    codes = np.zeros((1, *(each for each in lengths if isinstance(each, int))), np.float32)
    return (
        lambda: run_session(session, file, ["probabilities"], "codes", codes)[0],
        (1, n_classes),
    )


def _problem_of_codes(codes: NDArray[np.float32], shape: tuple[int, ...]) -> str:
    if codes.shape != shape:
        return f"declares codes of shape {shape[1:]}, computes {codes.shape[1:]}"
    return "" if np.isfinite(codes).all() else "computes codes that are not finite"


def _problem_of_probabilities(
    values: NDArray[np.float32], shape: tuple[int, ...], *, several: bool = False
) -> str:
    if values.shape != shape:
        return f"has {shape[1]} labels, computes probabilities of shape {values.shape[1:]}"
    if several and ((values >= 0) & (values <= 1)).all():
        return ""
    total = 0.0 if several else values.sum()
    if np.isfinite(total) and values.min() >= 0 and abs(total - 1) < 1e-3:
        return ""
    return "computes numbers that are not probabilities"
