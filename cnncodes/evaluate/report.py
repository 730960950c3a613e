"""The report of an evaluation: one page that needs nothing but itself, and its figures as JSON."""

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
from cnncodes.inspect.info import value_text
from cnncodes.output import check_output, replacing
from cnncodes.parameters import as_path
from cnncodes.text import shown

if TYPE_CHECKING:
    from jinja2 import Template

PAGE, FIGURES = "index.html", "evaluation.json"
THUMBNAIL_SIZE = 192  # pixels; shown at half of that or a little more, so it stays sharp
N_CONFUSIONS = 10
_MAX_WRITTEN = 12  # classes up to which the confusion matrix is written out in numbers


@dataclass(frozen=True)
class Thumbnail:
    """A mistake with its image.

    Attributes
    ----------
    mistake : Mistake
        The image and what it was taken for.
    uri : str
        A small JPEG as a ``data:`` URI; empty if there is none.
    problem : str
        Why there is none; empty if there is.
    """

    mistake: Mistake
    uri: str
    problem: str


class Report:
    """A report that is going to be written; whatever stands in its way is said now.

    Parameters
    ----------
    folder : str or Path
        Where to write; made if it is not there.
    curve : str or Path, optional
        A file of ``cnncodes curve``.
    images : str or Path, optional
        Folder that the images' paths are relative to; by default as the evaluation says.
    overwrite : bool
        Whether a report that stands there may be replaced.
    inputs : iterable of str or Path
        What the evaluation is made from, which is never replaced.

    Raises
    ------
    MissingDependencyError
        matplotlib or jinja2 is not installed.
    OutputError
        The report cannot be written.
    FileFormatError
        `curve` is not what it should be.
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
            for name in (PAGE, FIGURES):
                check_output(folder / name, overwrite=overwrite, inputs=sources)
        elif exists(folder) or folder.is_symlink():  # one that leads nowhere
            raise OutputError(f"{folder}: is no folder; name a folder for the report")
        else:
            check_output(folder, overwrite=overwrite)
        self._images = None if images is None else as_path(images, "images")
        if self._images is not None and not is_folder(self._images):
            raise SourceError(f"{images}: no such folder; name the one that holds the images")
        self._curves = [] if curve is None else read_curves(curve)

    def write(self, evaluation: Evaluation) -> None:
        """Write the page and the JSON beside it.

        Raises
        ------
        OutputError
            They cannot be written; nothing new is left then.
        """
        root = self._images or _root(evaluation.data.source)
        page = render(evaluation, self._curves, thumbnails(evaluation.mistakes, root))
        figures = json.dumps(evaluation_to_json(evaluation), indent=2, allow_nan=False)
        is_new = not self.folder.exists()
        try:
            self.folder.mkdir(exist_ok=True)
            with (
                replacing(self.folder / FIGURES, overwrite=self._overwrite) as first,
                replacing(self.folder / PAGE, overwrite=self._overwrite) as second,
            ):
                first.write_text(figures + "\n", "utf-8")
                second.write_text(page, "utf-8")
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be made ({error.strerror})") from error
        finally:
            if is_new:  # a folder with a report in it stays
                with suppress(OSError):
                    self.folder.rmdir()


def render(evaluation: Evaluation, curves: Sequence[Curve], mistakes: Sequence[Thumbnail]) -> str:
    """Return the page.

    Parameters
    ----------
    evaluation : Evaluation
        What is told.
    curves : sequence of Curve
        Learning curves to show; there may be none.
    mistakes : sequence of Thumbnail
        The gallery.

    Returns
    -------
    str
        HTML without scripts, which loads nothing. All that comes from files is escaped.
    """
    from markupsafe import Markup

    figures = evaluation.figures
    matrix = np.array(figures.confusion_matrix)
    is_written_out = len(matrix) <= _MAX_WRITTEN
    labels = [each.label for each in figures.classes]
    charts = {
        "reliability": inline_svg(
            reliability_figure(figures.bins),
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
        figures=figures,
        model=evaluation.model,
        model_name=Path(evaluation.model.path).name,
        data_name=Path(evaluation.data.path).name,
        is_random=evaluation.model.backbone.weights.startswith("random"),
        written_out=zip(labels, _shares(matrix), matrix.tolist(), strict=True)
        if is_written_out
        else None,
        labels=labels,
        has_tall_names=len(labels) > 4 and max(map(len, labels)) > 6,
        numbers={label: place + 1 for place, label in enumerate(labels)},
        confusions=figures.confusions(N_CONFUSIONS),
        worst=figures.worst_classes(),
        absent=[each for each in figures.classes if each.f1 is None],
        charts={name: Markup(svg) for name, svg in charts.items()},
        curves=curves,
        mistakes=mistakes,
        n_wrong=round(figures.n_images * (1 - figures.accuracy)),
        training=[
            (key.replace("_", " "), value_text(value))
            for key, value in evaluation.model.training.items()
        ],
        uniform_loss=np.log(len(labels)),
        version=__version__,
    )


def thumbnails(mistakes: Sequence[Mistake], root: Path) -> list[Thumbnail]:
    """Find and shrink the images of mistakes; one that is not the evaluated file is not shown.

    Parameters
    ----------
    mistakes : sequence of Mistake
        The images.
    root : Path
        Folder that their paths are relative to.

    Returns
    -------
    list of Thumbnail
        One for each mistake.
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
    """Return what paths are relative to: the source, or the folder of a CSV file."""
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
        finalize=_fit_to_show,
    )
    environment.filters["percent"] = lambda value: "–" if value is None else f"{value:.1%}"
    source = files("cnncodes.evaluate").joinpath("report.html").read_text("utf-8")
    return environment.from_string(source)


def _fit_to_show(value: Any) -> Any:
    """Escape control characters in all that a page shows; markup of our own is not of `str`."""
    return shown(value) if type(value) is str else value
