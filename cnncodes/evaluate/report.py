"""The report of an evaluation: one self-contained page, and the result as JSON."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnncodes._version import __version__
from cnncodes.errors import OutputError, SourceError
from cnncodes.evaluate.charts import (
    NAMED_CLASSES,
    confusion_figure,
    inline_svg,
    learning_curve_figure,
    reliability_figure,
    require,
)
from cnncodes.evaluate.curve import Curve, read_curves
from cnncodes.evaluate.evaluation import EvaluatedImage, Evaluation, evaluation_to_json
from cnncodes.evaluate.metrics import drawn_bins
from cnncodes.evaluate.multilabel import LabelEvaluation
from cnncodes.evaluate.page import ABSENT, Picture, draw_picture, page_template
from cnncodes.files import exists, is_folder, readable_sha256
from cnncodes.images.folders import images_below
from cnncodes.images.sources import root_of
from cnncodes.models.description import is_random, training_rows, weights_text
from cnncodes.models.kinds import needing
from cnncodes.models.metadata import with_article
from cnncodes.output import FOLDER, check_folder, filled_folder, replacing
from cnncodes.parameters import as_path
from cnncodes.text import counted, listed

PAGE, RESULT = "index.html", "evaluation.json"
PAGE_SOURCE, LABEL_PAGE_SOURCE = "report.html", "label_report.html"
N_CONFUSIONS = 10
_MAX_WRITTEN = 12  # classes up to which the confusion matrix is a table of numbers


@dataclass(frozen=True)
class Thumbnail:
    """A mistake with its image.

    Attributes
    ----------
    mistake : EvaluatedImage
        The image and its classes.
    picture : Picture
        The image, or why it is not shown.
    """

    mistake: EvaluatedImage
    picture: Picture


class Report:
    """A report that is written after an evaluation; its parameters are checked before.

    Parameters
    ----------
    folder : str or Path
        Where to write; created if absent.
    curve : str or Path, optional
        A file of ``cnncodes curve``.
    images : str or Path, optional
        Folder of the images, by default that of the evaluation. An image that is not at its path
        there is looked for by its SHA-256, in all of the folder.
    overwrite : bool
        Whether an existing report may be replaced.
    inputs : iterable of str or Path
        The files of the evaluation, which are never replaced.
    others : iterable of str or Path
        Other files that the caller writes.

    Raises
    ------
    MissingDependencyError
        matplotlib or jinja2 is not installed.
    OutputError
        The report cannot be written, or one of `others` is its folder or a file of it.
    FileFormatError
        `curve` is not a file of learning curves.
    SourceError
        `images` is not a folder.
    """

    def __init__(
        self,
        folder: str | Path,
        curve: str | Path | None = None,
        images: str | Path | None = None,
        *,
        overwrite: bool = False,
        inputs: Iterable[str | Path] = (),
        others: Iterable[str | Path] = (),
    ) -> None:
        require("a report", "matplotlib", "jinja2")
        self.folder = folder = as_path(folder, "report")
        self._overwrite = overwrite
        curve = None if curve is None else as_path(curve, "curve")
        sources = [*inputs, curve] if curve is not None else list(inputs)
        check_folder(
            folder,
            (PAGE, RESULT),
            purpose="the report",
            overwrite=overwrite,
            inputs=sources,
            endings=FOLDER,
        )
        reserved = {_same_name(path) for path in (folder, folder / PAGE, folder / RESULT)}
        for other in others:
            if _same_name(other) in reserved:
                raise OutputError(f"{other}: is a part of the report; choose another name")
        self._images = None if images is None else as_path(images, "images")
        if self._images is not None and not is_folder(self._images):
            remedy = "name the one that holds the images"
            with needing(self._images, (), "a folder", remedy, error=SourceError):
                problem = "is no folder" if exists(self._images) else "no such folder"
                raise SourceError(f"{images}: {problem}; {remedy}")
        self._curves = [] if curve is None else read_curves(curve)

    def write(self, evaluation: Evaluation) -> list[str]:
        """Write the page and the JSON beside it; return notes on what is missing.

        Raises
        ------
        OutputError
            They cannot be written; the folder is then as before.
        """
        named = [Path(source) for source in evaluation.data.sources]
        sources = named if self._images is None else [self._images]
        shown_mistakes = thumbnails(evaluation.mistakes, *sources)
        page = render(evaluation, self._curves, shown_mistakes)
        result = json.dumps(evaluation_to_json(evaluation), indent=2, allow_nan=False)
        with (
            filled_folder(self.folder),
            replacing(self.folder / RESULT, overwrite=self._overwrite) as first,
            replacing(self.folder / PAGE, overwrite=self._overwrite) as second,
        ):
            first.write_text(result + "\n", "utf-8")
            second.write_text(page, "utf-8")
        notes = []
        if self._curves and isinstance(evaluation, LabelEvaluation):
            notes.append(
                "the curve is of accuracies, which a model of several labels has not: left out"
            )
        n_absent = sum(each.picture.problem == ABSENT for each in shown_mistakes)
        if not n_absent:
            return notes
        return [
            *notes,
            f"no picture of {counted(n_absent, 'mistake')} in the report, since the files are not "
            f"in {' or '.join(map(str, sources[:3]))}; images='FOLDER' names where they are now",
        ]


def _same_name(path: str | Path) -> str:
    """Return the same text for names that are one file, on disks that ignore case too."""
    return str(Path(path).resolve()).casefold()


def render(evaluation: Evaluation, curves: Sequence[Curve], mistakes: Sequence[Thumbnail]) -> str:
    """Return the page.

    Parameters
    ----------
    evaluation : Evaluation
        The result to show.
    curves : sequence of Curve
        Learning curves to show; may be empty.
    mistakes : sequence of Thumbnail
        The gallery.

    Returns
    -------
    str
        HTML without scripts or external resources. All text from files is escaped.
    """
    if isinstance(evaluation, LabelEvaluation):
        return _render_labels(evaluation, mistakes)
    from markupsafe import Markup

    metrics = evaluation.metrics
    bins = drawn_bins(metrics.bins)
    matrix = np.array(metrics.confusion_matrix)
    is_written_out = len(matrix) <= _MAX_WRITTEN
    labels = [each.label for each in metrics.classes]
    charts = {
        "reliability": inline_svg(
            reliability_figure(bins, metrics.majority),
            "reliability",
            "Reliability diagram; its numbers are in the table below it.",
        )
    }
    if not is_written_out:
        charts["confusion"] = inline_svg(
            confusion_figure(matrix, labels),
            "confusion",
            "Heat map of the confusion matrix; the most frequent confusions are listed below it.",
        )
    if curves:
        charts["curve"] = inline_svg(
            learning_curve_figure(curves),
            "curve",
            "Learning curve; its numbers are in the table below it.",
        )
    return page_template("cnncodes.evaluate", PAGE_SOURCE).render(
        evaluation=evaluation,
        notes=evaluation.notes,
        metrics=metrics,
        model=evaluation.model,
        model_name=Path(evaluation.model.path).name,
        data_name=Path(evaluation.data.path).name,
        is_random=is_random(evaluation.model.backbone.weights),
        written_out=zip(labels, _shares(matrix), matrix.tolist(), strict=True)
        if is_written_out
        else None,
        labels=labels,
        is_numbered=len(labels) > NAMED_CLASSES,
        n_drawn_bins=len(bins),
        has_tall_names=len(labels) > 4 and max(map(len, labels)) > 6,
        numbers={label: number for number, label in enumerate(labels, 1)},
        confusions=metrics.confusions(N_CONFUSIONS),
        worst=metrics.worst_classes(),
        absent=[each for each in metrics.classes if each.f1 is None],
        charts={name: Markup(svg) for name, svg in charts.items()},
        curves=curves,
        mistakes=mistakes,
        n_wrong=round(metrics.n_images * (1 - metrics.accuracy)),
        facts=_facts(evaluation),
        details=_details(evaluation),
        uniform_loss=np.log(len(labels)),
        version=__version__,
    )


def _render_labels(evaluation: LabelEvaluation, mistakes: Sequence[Thumbnail]) -> str:
    """Return the page of a model of several labels per image."""
    metrics = evaluation.metrics
    present = [each for each in metrics.labels if each.n_with]
    return page_template("cnncodes.evaluate", LABEL_PAGE_SOURCE).render(
        evaluation=evaluation,
        notes=evaluation.notes,
        metrics=metrics,
        model_name=Path(evaluation.model.path).name,
        data_name=Path(evaluation.data.path).name,
        is_random=is_random(evaluation.model.backbone.weights),
        guessing=metrics.guessing,
        worst=metrics.worst_labels(),
        absent=[each for each in metrics.labels if each not in present],
        mistakes=mistakes,
        facts=_facts(evaluation),
        details=_details(evaluation),
        version=__version__,
    )


def _details(evaluation: Evaluation) -> str:
    return json.dumps(
        {"model": asdict(evaluation.model), "data": evaluation.data.as_dict()},
        indent=2,
        ensure_ascii=False,
    )


def thumbnails(mistakes: Sequence[EvaluatedImage], *sources: Path) -> list[Thumbnail]:
    """Load and shrink the images of mistakes.

    Parameters
    ----------
    mistakes : sequence of EvaluatedImage
        The images.
    *sources : Path
        The folder that their paths are relative to, or a CSV file in that folder; or several, each
        with some of the images. Where a file of a folder is absent or has changed, all images below
        the folder are searched for one of the same SHA-256.

    Returns
    -------
    list of Thumbnail
        One per mistake.
    """
    files: list[Path | None] = [None] * len(mistakes)
    for source in sources:
        for index, mistake in enumerate(mistakes):
            file = root_of(source) / mistake.path
            if files[index] is None and readable_sha256(file) == mistake.digest:
                files[index] = file
    wanted = {each.digest for each, file in zip(mistakes, files, strict=True) if file is None}
    moved: dict[str, Path] = {}
    for source in sources:
        if wanted - moved.keys() and root_of(source) == source:  # a table may lie in a home folder
            moved |= _find(wanted - moved.keys(), source)
    first = root_of(sources[0])
    return [
        _thumbnail(mistake, file or moved.get(mistake.digest, first / mistake.path))
        for mistake, file in zip(mistakes, files, strict=True)
    ]


def _find(digests: set[str], root: Path) -> dict[str, Path]:
    """Return the path below `root` of each of these SHA-256 that an image there has."""
    found: dict[str, Path] = {}
    try:
        files = images_below(root)
    except SourceError:  # a folder in it that cannot be read
        files = []
    for file in files:
        digest = readable_sha256(file)
        if digest in digests:
            found[digest] = file
            if len(found) == len(digests):
                break
    return found


def _thumbnail(mistake: EvaluatedImage, file: Path) -> Thumbnail:
    return Thumbnail(mistake, draw_picture(file, mistake.digest))


def _facts(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Return how model and data were made, in words: pairs of a heading and a text."""
    model, data, network = evaluation.model, evaluation.data, evaluation.model.backbone
    size = f"{network.input_size} × {network.input_size} pixels"
    weights = weights_text(network.weights, network.weights_file)
    pooled = "not pooled" if network.pool == "none" else f"pooled by {network.pool}"
    precision = f", in {network.precision}" if network.precision != "float32" else ""
    scores = ("train", "test")  # of the page's own images there are better ones
    settings = {key: value for key, value in model.training.items() if key not in scores}
    sources = listed(data.sources) if data.other_sources else data.source
    return [
        ("Model", f"{Path(model.path).name}, {with_article(model.kind)}{_file_facts(model.path)}"),
        ("Network", f"{network.backbone} with {weights}{precision}"),
        ("Codes", f"of layer {network.layer}, {pooled}, for images of {size}"),
        ("Trained on", f"{counted(model.n_training_images, 'image')}, copies counted once"),
        *((name.capitalize(), text) for name, text in training_rows(settings)),
        ("Evaluated on", f"{data.path}{_file_facts(data.path)}, of images in {sources}"),
        *([("Averaged over", data.views_text)] if data.augment != "none" else []),
        ("Made with", model.created_with),
        ("Network made with", network.created_with),
    ]


def _file_facts(path: str) -> str:
    """Return the size of a file and the day it was written, where it is still there."""
    try:
        status = Path(path).stat()
    except OSError:
        return ""
    if not stat.S_ISREG(status.st_mode):
        return ""
    day = datetime.fromtimestamp(status.st_mtime)
    return f", {status.st_size / 1e6:.1f} MB, written on {day.day} {day:%B %Y}"


def _shares(matrix: NDArray[np.int64]) -> list[list[float]]:
    shares: list[list[float]] = (matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)).tolist()
    return shares
