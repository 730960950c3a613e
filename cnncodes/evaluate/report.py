"""The report of an evaluation: one self-contained page, and the result as JSON."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnncodes._version import __version__
from cnncodes.errors import OutputError, SourceError
from cnncodes.evaluate.charts import (
    confusion_figure,
    inline_svg,
    learning_curve_figure,
    reliability_figure,
    require,
)
from cnncodes.evaluate.curve import Curve, read_curves
from cnncodes.evaluate.evaluation import Evaluation, Mistake, evaluation_to_json
from cnncodes.files import exists, is_folder
from cnncodes.images.decoding import load_image
from cnncodes.models.kinds import needing
from cnncodes.output import check_output, replacing
from cnncodes.parameters import as_path
from cnncodes.text import shown, value_text

if TYPE_CHECKING:
    from jinja2 import Template

PAGE, RESULT = "index.html", "evaluation.json"
THUMBNAIL_SIZE = 192  # pixels; shown at about half of that, for sharp screens
N_CONFUSIONS = 10
_MAX_WRITTEN = 12  # classes up to which the confusion matrix is a table of numbers


@dataclass(frozen=True)
class Thumbnail:
    """A mistake with its image.

    Attributes
    ----------
    mistake : Mistake
        The image and its classes.
    uri : str
        A small JPEG as a ``data:`` URI; empty if there is a problem.
    problem : str
        Why the image is not shown; else empty.
    """

    mistake: Mistake
    uri: str
    problem: str


class Report:
    """A report that is written after an evaluation; its parameters are checked before.

    Parameters
    ----------
    folder : str or Path
        Where to write; created if absent.
    curve : str or Path, optional
        A file of ``cnncodes curve``.
    images : str or Path, optional
        Folder that the images' paths are relative to; by default that of the evaluation.
    overwrite : bool
        Whether an existing report may be replaced.
    inputs : iterable of str or Path
        The files of the evaluation, which are never replaced.

    Raises
    ------
    MissingDependencyError
        matplotlib or jinja2 is not installed.
    OutputError
        The report cannot be written.
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
    ) -> None:
        require("a report", "matplotlib", "jinja2")
        self.folder = folder = as_path(folder, "report")
        self._overwrite = overwrite
        curve = None if curve is None else as_path(curve, "curve")
        sources = [*inputs, curve] if curve is not None else list(inputs)
        if is_folder(folder):
            for name in (PAGE, RESULT):
                check_output(folder / name, overwrite=overwrite, inputs=sources)
        elif exists(folder) or folder.is_symlink():  # one that leads nowhere
            raise OutputError(f"{folder}: is not a folder; name a folder for the report")
        else:
            check_output(folder, overwrite=overwrite)
        self._images = None if images is None else as_path(images, "images")
        if self._images is not None and not is_folder(self._images):
            remedy = "name the one that holds the images"
            with needing(self._images, (), "a folder", remedy, error=SourceError):
                raise SourceError(f"{images}: no such folder; {remedy}")
        self._curves = [] if curve is None else read_curves(curve)

    def write(self, evaluation: Evaluation) -> None:
        """Write the page and the JSON beside it.

        Raises
        ------
        OutputError
            They cannot be written; the folder is then as before.
        """
        root = self._images or _root(evaluation.data.source)
        page = render(evaluation, self._curves, thumbnails(evaluation.mistakes, root))
        result = json.dumps(evaluation_to_json(evaluation), indent=2, allow_nan=False)
        is_new = not self.folder.exists()
        try:
            self.folder.mkdir(exist_ok=True)
            with (
                replacing(self.folder / RESULT, overwrite=self._overwrite) as first,
                replacing(self.folder / PAGE, overwrite=self._overwrite) as second,
            ):
                first.write_text(result + "\n", "utf-8")
                second.write_text(page, "utf-8")
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be created ({error.strerror})") from error
        finally:
            if is_new:  # a folder with a report in it stays
                with suppress(OSError):
                    self.folder.rmdir()


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
    from markupsafe import Markup

    metrics = evaluation.metrics
    matrix = np.array(metrics.confusion_matrix)
    is_written_out = len(matrix) <= _MAX_WRITTEN
    labels = [each.label for each in metrics.classes]
    charts = {
        "reliability": inline_svg(
            reliability_figure(metrics.bins),
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
    return _template().render(
        evaluation=evaluation,
        metrics=metrics,
        model=evaluation.model,
        model_name=Path(evaluation.model.path).name,
        data_name=Path(evaluation.data.path).name,
        is_random=evaluation.model.backbone.weights.startswith("random"),
        written_out=zip(labels, _shares(matrix), matrix.tolist(), strict=True)
        if is_written_out
        else None,
        labels=labels,
        has_tall_names=len(labels) > 4 and max(map(len, labels)) > 6,
        numbers={label: number for number, label in enumerate(labels, 1)},
        confusions=metrics.confusions(N_CONFUSIONS),
        worst=metrics.worst_classes(),
        absent=[each for each in metrics.classes if each.f1 is None],
        charts={name: Markup(svg) for name, svg in charts.items()},
        curves=curves,
        mistakes=mistakes,
        n_wrong=round(metrics.n_images * (1 - metrics.accuracy)),
        training=[
            (key.replace("_", " "), value_text(value))
            for key, value in evaluation.model.training.items()
        ],
        uniform_loss=np.log(len(labels)),
        version=__version__,
    )


def thumbnails(mistakes: Sequence[Mistake], root: Path) -> list[Thumbnail]:
    """Load and shrink the images of mistakes; files changed since the evaluation are not shown.

    Parameters
    ----------
    mistakes : sequence of Mistake
        The images.
    root : Path
        Folder that their paths are relative to.

    Returns
    -------
    list of Thumbnail
        One per mistake.
    """
    return [_thumbnail(mistake, root / mistake.path) for mistake in mistakes]


def _thumbnail(mistake: Mistake, file: Path) -> Thumbnail:
    loaded = load_image(0, file, THUMBNAIL_SIZE)
    if not loaded.digest:
        return Thumbnail(mistake, "", "image not found")
    if loaded.digest != mistake.digest:
        return Thumbnail(mistake, "", "file changed since")
    if loaded.pixels is None:
        return Thumbnail(mistake, "", loaded.problem)
    content = io.BytesIO()
    Image.fromarray(loaded.pixels).save(content, "JPEG", quality=80)
    encoded = base64.b64encode(content.getvalue()).decode()
    return Thumbnail(mistake, f"data:image/jpeg;base64,{encoded}", "")


def _root(source: str) -> Path:
    """Return the folder that paths are relative to: the source, or that of a CSV file."""
    path = Path(source)
    return path if is_folder(path) else path.parent


def _shares(matrix: NDArray[np.int64]) -> list[list[float]]:
    shares: list[list[float]] = (matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)).tolist()
    return shares


def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_escaped,
    )
    environment.filters["percent"] = lambda value: "–" if value is None else f"{value:.1%}"
    source = files("cnncodes.evaluate").joinpath("report.html").read_text("utf-8")
    return environment.from_string(source)


def _escaped(value: Any) -> Any:
    """Escape control characters in text from files; our own markup is of another type."""
    return shown(value) if type(value) is str else value
