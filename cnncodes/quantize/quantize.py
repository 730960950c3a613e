"""float32 to int8: a backbone that is several times quicker, calibrated on the user's own images.

1. The float graph is rewritten without changing its function (`rewrites`).
2. Half of the images calibrate: observers record the range of every tensor (`calibration`).
3. The graph is written in integers (`plan`, `qdq`) with several settings; a quarter of the images
   choose the one whose codes are nearest to the float ones.
4. If even that is too far away, the convolutions that cost most stay float.
5. The chosen graph gets shapes that onnxruntime is quick with (`layout`).
6. The last quarter of the images measures what is printed and stored.

Images per second beside float32: 3.0 × for InceptionV3, 2.4 × for VGG16 (docs/benchmarks.md).
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from cnncodes._version import __version__, created_with
from cnncodes.errors import FileFormatError, SourceError
from cnncodes.export.graph import Graph
from cnncodes.export.winograd import restore_convolutions
from cnncodes.extract.backbone import Backbone
from cnncodes.images.decoding import digest_images, load_images
from cnncodes.images.limits import DEFAULT_MAX_PIXELS
from cnncodes.images.path_lists import PathList
from cnncodes.images.sources import Source, find_images
from cnncodes.machine import available_threads
from cnncodes.models.checksum import save_checked
from cnncodes.models.kinds import KINDS, wrong_kind
from cnncodes.models.metadata import BackboneInfo
from cnncodes.models.session import (
    FULL_WEIGHTS,
    REDUCED_WEIGHTS,
    kernels_saturate,
    runtime_errors,
)
from cnncodes.output import MODEL, check_output, replacing
from cnncodes.parameters import CALIBRATION_IMAGES, SEED, as_path, check_choice
from cnncodes.progress import NoProgress, Progress
from cnncodes.quantize.calibration import METHODS, Observer, calibrate, run_graph
from cnncodes.quantize.layout import fold_batch
from cnncodes.quantize.plan import Settings, convolutions, observed_tensors
from cnncodes.quantize.qdq import quantize_graph
from cnncodes.quantize.rewrites import convolve_before_pooling, fold_preprocessing, pad_in_pooling
from cnncodes.text import counted

DEFAULT_N_IMAGES = 256
MIN_IMAGES = CALIBRATION_IMAGES.least
EQUALIZATIONS = (0.0, 0.5)
# Below this mean cosine, convolutions go back to float until it is reached.
WANTED_COSINE = 0.99
# An image is blank if the standard deviation of each channel, of 255 levels, is below this.
BLANK_DEVIATION = 1.0
# Fewer images than this fraction of `n_images` are reported.
FEW = 0.25
_BATCH = 4
_ROUNDS = 5


@dataclass(frozen=True)
class Closeness:
    """Similarity of int8 codes to the float32 codes of the same images.

    Attributes
    ----------
    cosine, min_cosine : float
        Cosine similarity of the two codes of an image: mean and smallest.
    relative_error : float
        Mean norm of their difference divided by that of the float32 codes.
    n_images : int
        Number of images compared.
    """

    cosine: float
    min_cosine: float
    relative_error: float
    n_images: int


@dataclass(frozen=True)
class Quantization:
    """A quantized backbone.

    Attributes
    ----------
    path : Path
    info : BackboneInfo
        The metadata of the file.
    settings : Settings
        The ones chosen.
    n_calibration : int
        Number of images passed to the observers.
    closeness : Closeness
        On images used neither to calibrate nor to choose.
    images_per_second : tuple of float
        Of the float32 and of the int8 file, on this machine: medians of rounds in turn.
    images_per_second_spread : tuple of (float, float)
        The slowest and the fastest of these rounds, for each of the two files.
    file_sizes : tuple of int
        Of the float32 and of the int8 file, in bytes.
    notes : tuple of str
        Images left out, and whether few remained.
    """

    path: Path
    info: BackboneInfo
    settings: Settings
    n_calibration: int
    closeness: Closeness
    images_per_second: tuple[float, float]
    images_per_second_spread: tuple[tuple[float, float], tuple[float, float]]
    file_sizes: tuple[int, int]
    notes: tuple[str, ...] = ()

    @property
    def is_close(self) -> bool:
        """Whether the mean cosine reaches `WANTED_COSINE`."""
        return self.closeness.cosine >= WANTED_COSINE

    def as_dict(self) -> dict[str, Any]:
        """Return all attributes as JSON types."""
        return {
            **asdict(self),
            "path": str(self.path),
            "settings": {**asdict(self.settings), "floats": sorted(self.settings.floats)},
        }


def quantize_backbone(
    backbone: str | Path,
    images: str | Path,
    output: str | Path,
    *,
    n_images: int = DEFAULT_N_IMAGES,
    weights: str = "auto",
    exclude: str | Path | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Quantization:
    """Quantize a float32 backbone to int8.

    Parameters
    ----------
    backbone : str or Path
        A float32 backbone file.
    images : str or Path
        Images like those whose codes are wanted: what `extract` takes as a source. Labels are
        not used.
    output : str or Path
        The file to write.
    n_images : int
        How many of them to use at most, drawn at random: half to calibrate, a quarter to choose
        the settings, a quarter to measure. Of equal images one is used, and none that is blank:
        no channel of it has a standard deviation of `BLANK_DEVIATION` or more.
    weights : {"auto", "full", "reduced"}
        Full weights use 8 bits. Reduced ones use 7, for processors without VNNI or similar
        instructions, whose 16-bit sums saturate; ``auto`` tests this processor.
    exclude : str or Path, optional
        A list of images to leave out, as for `PathList`.
    seed : int
        Seed of the draw of images.
    overwrite : bool
        Whether a file at `output` may be replaced.
    progress : Progress, optional
        Counts the work; by default nothing is written.

    Returns
    -------
    Quantization
        The chosen settings, closeness, speed and notes.

    Raises
    ------
    FileFormatError
        The file is not a float32 backbone.
    SourceError
        There are too few usable images that differ and are not blank.
    ParameterError
        A number is out of range, or `weights` has another value.
    OutputError
        The file cannot be written.
    """
    backbone, images = as_path(backbone, "backbone"), as_path(images, "images")
    output = as_path(output, "output")
    n_images = CALIBRATION_IMAGES.check(n_images, "n_images")
    seed = SEED.check(seed, "seed")
    weights = check_choice(weights, ("auto", "full", "reduced"), "weights")
    check_output(output, overwrite=overwrite, inputs=[backbone, images], endings=MODEL)
    network = Backbone(backbone)
    if network.info.precision != "float32":
        raise wrong_kind(
            backbone, KINDS["int8"], "a float32 one", "quantize the file that it was made from"
        )
    progress = progress or NoProgress()
    listing = find_images(images)
    check_output(output, overwrite=overwrite, inputs=listing.files())
    if exclude is not None:
        listing = listing.without(PathList(exclude, "exclude"))
    sample = _draw(images, listing, network.info.input_size, n_images, seed, progress)
    pixels = sample.pixels
    half, rest = len(pixels) // 2, len(pixels) // 4
    parts = np.split(pixels, [half, len(pixels) - rest])
    reduced = kernels_saturate() if weights == "auto" else weights == "reduced"
    with runtime_errors(
        lambda reason: FileFormatError(
            f"{backbone}: cannot be quantized ({reason}); export it again, or use it as it is"
        )
    ):
        graph = Graph.load(backbone)
        restore_convolutions(graph)
        pad_in_pooling(graph)
        convolve_before_pooling(graph)
        fold_preprocessing(graph, network.info.input_size)
        limit = REDUCED_WEIGHTS if reduced else FULL_WEIGHTS
        quantized, settings = _choose(graph, network, parts[0], parts[1], limit, progress)
        fold_batch(quantized)
        with replacing(output, overwrite=overwrite) as temporary:
            session = run_graph(quantized, threads=available_threads())
            expected, codes = (_codes(each, parts[2]) for each in (network, session))
            closeness = compare_codes(expected, codes)
            info = _describe(network, settings, half, closeness, sample.metadata)
            model = quantized.model()
            model.producer_version = __version__
            onnx.helper.set_model_props(model, info.to_metadata())
            save_checked(model, temporary)
            rates = _compare_speeds(network, Backbone(temporary), parts[2])
            sizes = (backbone.stat().st_size, temporary.stat().st_size)
    return Quantization(
        path=output,
        info=info,
        settings=settings,
        n_calibration=half,
        closeness=closeness,
        images_per_second=(median(rates[0]), median(rates[1])),
        images_per_second_spread=((min(rates[0]), max(rates[0])), (min(rates[1]), max(rates[1]))),
        file_sizes=sizes,
        notes=sample.notes,
    )


def compare_codes(expected: NDArray[np.float32], codes: NDArray[np.float32]) -> Closeness:
    """Compare the codes of two networks for the same images.

    Parameters
    ----------
    expected, codes : ndarray of float32, shape (n_images, ...)
        Codes of the same images, `expected` being the reference.

    Returns
    -------
    Closeness
        Two codes of zeros have the cosine 1; one of zeros and another have the cosine 0.
    """
    one = expected.reshape(len(expected), -1).astype(np.float64)
    two = codes.reshape(len(codes), -1).astype(np.float64)
    lengths = np.linalg.norm(one, axis=1), np.linalg.norm(two, axis=1)
    equal = (one == two).all(axis=1)
    products = np.maximum(lengths[0] * lengths[1], 1e-300)
    cosine = np.where(equal, 1.0, (one * two).sum(axis=1) / products)
    error = np.linalg.norm(one - two, axis=1) / np.maximum(lengths[0], 1e-300)
    return Closeness(
        cosine=float(cosine.mean()),
        min_cosine=float(cosine.min()),
        relative_error=float(np.where(equal, 0.0, error).mean()),
        n_images=len(one),
    )


@dataclass(frozen=True)
class _Sample:
    """Distinct images, their description in the file's metadata, and notes on those left out."""

    pixels: NDArray[np.uint8]
    metadata: dict[str, Any]
    notes: tuple[str, ...]


def _draw(
    source: Path, listing: Source, size: int, n_images: int, seed: int, progress: Progress
) -> _Sample:
    """Load images drawn at random, passing over copies, blank and unusable ones."""
    files = listing.files()
    order = np.random.default_rng(seed).permutation(len(files))
    wanted = min(n_images, len(files))
    progress.begin(wanted, unit="images read")
    drawn: dict[bytes, NDArray[np.uint8]] = {}
    digests: list[str] = []
    unusable: list[str] = []
    n_blank = n_copies = 0
    loaded = load_images(
        [files[index] for index in order],
        size,
        threads=available_threads(),
        ahead=2 * available_threads(),
        max_pixels=DEFAULT_MAX_PIXELS,
    )
    for image in loaded:
        if image.pixels is None:
            unusable.append(f"{listing.paths[order[image.index]]}: {image.problem}")
        elif image.pixels.std(axis=(0, 1)).max() < BLANK_DEVIATION:
            n_blank += 1
        elif (content := hashlib.sha256(image.pixels.tobytes()).digest()) in drawn:
            n_copies += 1
        else:
            drawn[content] = image.pixels
            digests.append(image.digest)
            progress.advance(1)
        if len(drawn) == wanted:
            break
    loaded.close()
    counts = {"unusable": len(unusable), "blank": n_blank, "repeated": n_copies}
    left_out = [f"{n} {'is' if n == 1 else 'are'} {what}" for what, n in counts.items() if n]
    if len(drawn) < MIN_IMAGES:
        raise SourceError(
            f"{source}: {len(drawn)} of its {counted(len(files), 'image')} can be used"
            + (f" ({', '.join(left_out)})" if left_out else "")
            + f", {MIN_IMAGES} or more are needed; give a folder with more of them"
        )
    notes = list(listing.notes)
    if left_out:
        notes.append(f"of the images drawn, {', '.join(left_out)}; these are not used")
    if unusable:
        notes.append(f"the first unusable image, {unusable[0]}")
    if len(drawn) < FEW * n_images:
        notes.append(f"{len(drawn)} images are few, use up to {n_images} for a better calibration")
    metadata = {"seed": seed, "images": len(drawn), "images_sha256": digest_images(digests)}
    return _Sample(np.stack(list(drawn.values())), metadata, tuple(notes))


def _choose(
    graph: Graph,
    network: Backbone,
    calibration: NDArray[np.uint8],
    choice: NDArray[np.uint8],
    weight_limit: int,
    progress: Progress,
) -> tuple[Graph, Settings]:
    """Return the integer graph whose codes of the images `choice` are nearest to the float ones."""
    candidates = [
        Settings(method, equalization, True, weight_limit)
        for method, equalization in product(METHODS, EQUALIZATIONS)
    ]
    n_runs = len(calibration) + (2 + len(candidates)) * len(choice)
    progress.begin(n_runs, unit="runs of an image")
    observers = calibrate(
        graph,
        observed_tensors(graph),
        calibration,
        threads=available_threads(),
        advance=progress.advance,
    )
    expected = _codes(network, choice)
    progress.advance(len(choice))
    trial = _Trial(graph, observers, choice, expected, progress)
    best = max(candidates, key=trial.cosine)
    best = max(best, replace(best, bias_correction=False), key=trial.cosine)
    if trial.cosine(best) < WANTED_COSINE:
        best = _spare_convolutions(best, trial, progress)
    return quantize_graph(graph, observers, best), best


class _Trial:
    """Quantizes with some settings and measures the closeness of the codes."""

    def __init__(
        self,
        graph: Graph,
        observers: dict[str, Observer],
        images: NDArray[np.uint8],
        expected: NDArray[np.float32],
        progress: Progress,
    ) -> None:
        self.graph = graph
        self._observers = observers
        self._images = images
        self._expected = expected
        self._progress = progress
        self._cosines: dict[tuple[Settings, int], float] = {}

    def cosine(self, settings: Settings, n_images: int | None = None) -> float:
        """Return the mean cosine on the first images, or on all."""
        n_images = n_images or len(self._images)
        if (settings, n_images) not in self._cosines:
            session = run_graph(
                quantize_graph(self.graph, self._observers, settings), threads=available_threads()
            )
            codes = _codes(session, self._images[:n_images])
            self._cosines[settings, n_images] = compare_codes(
                self._expected[:n_images], codes
            ).cosine
            self._progress.advance(n_images)
        return self._cosines[settings, n_images]


def _spare_convolutions(settings: Settings, trial: _Trial, progress: Progress) -> Settings:
    """Leave those convolutions in float that cost most when they alone are quantized."""
    names = convolutions(trial.graph)
    n_images = 8
    progress.begin(len(names) * n_images, unit="runs of an image, by convolution")
    alone = {
        name: trial.cosine(replace(settings, floats=frozenset(names) - {name}), n_images)
        for name in names
    }
    worst = sorted(names, key=lambda name: alone[name])
    n_spared = 1
    while n_spared <= len(names) // 2 and trial.cosine(settings) < WANTED_COSINE:
        settings = replace(settings, floats=frozenset(worst[:n_spared]))
        n_spared *= 2
    return settings


def _describe(
    network: Backbone,
    settings: Settings,
    n_calibration: int,
    closeness: Closeness,
    sample: dict[str, Any],
) -> BackboneInfo:
    quantization = {
        **asdict(settings),
        "floats": len(settings.floats),
        **sample,
        "calibration_images": n_calibration,
        **{key: round(value, 6) for key, value in asdict(closeness).items()},
    }
    packages = created_with("onnx", "onnxruntime", "numpy")
    return replace(
        network.info,
        precision="int8",
        parent_sha256=network.sha256,
        quantization=json.dumps(quantization),
        created_with=f"{packages}; from {network.info.created_with}",
    )


def _codes(
    network: Backbone | onnxruntime.InferenceSession, images: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Compute codes in small batches: VGG at 300 pixels takes 50 MB for each image."""
    batches = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
    if isinstance(network, Backbone):
        return np.concatenate([network.extract(batch) for batch in batches])
    return np.concatenate([network.run(["codes"], {"images": batch})[0] for batch in batches])


def _compare_speeds(
    first: Backbone, second: Backbone, images: NDArray[np.uint8]
) -> tuple[list[float], list[float]]:
    """Return the images per second of two networks in each of several alternating rounds."""
    batch = images[:_BATCH]
    rates: tuple[list[float], list[float]] = ([], [])
    for round_ in range(_ROUNDS + 1):
        for network, of_rounds in zip((first, second), rates, strict=True):
            started = time.perf_counter()
            network.extract(batch)
            if round_:  # the first warms up
                of_rounds.append(len(batch) / (time.perf_counter() - started))
    return rates
