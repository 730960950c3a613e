"""Charts: learning curve, reliability diagram and heat map of a confusion matrix.

They need matplotlib, of the extra ``report``, which is imported by the first chart. Global
settings of matplotlib are not changed, since the calling program may use it too. The same input
gives the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import MissingDependencyError, ParameterError
from cnncodes.models.description import is_random, weights_text
from cnncodes.output import check_output, replacing
from cnncodes.text import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cnncodes.evaluate.curve import Curve, CurvePoint
    from cnncodes.evaluate.metrics import Bin

SUFFIXES = (".png", ".svg")
PNG_DPI = 150
# In a page each becomes a variable of the style sheet, with values for light and dark.
COLOURS = {"ink": "#1c252e", "muted": "#5c6873", "grid": "#d6dce2", "accent": "#0b63a5"}
# Okabe and Ito's colours for all kinds of colour vision, those visible on white and on black.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a7a00")
MARKERS = "osD^vP"
NAMED_CLASSES = 40
_TITLE_LENGTH = 76  # characters of a line
_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same layout everywhere
    "font.size": 9,
    "text.parse_math": False,  # names may have dollar signs
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.edgecolor": COLOURS["muted"],
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.6,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.fonttype": "none",
    "figure.constrained_layout.use": True,
}


def require(purpose: str, *packages: str) -> None:
    """Refuse to start where an optional package is missing.

    Parameters
    ----------
    purpose : str
        The use of the packages, for the error.
    *packages : str
        Packages of the extra ``report``.

    Raises
    ------
    MissingDependencyError
        One of them is not installed.
    """
    if any(find_spec(package) is None for package in packages):
        raise MissingDependencyError(
            f"{purpose} needs {' and '.join(packages)}; pip install 'cnncodes[report]'"
        )


def check_figure(path: Path, *, overwrite: bool) -> None:
    """Refuse, before any work, a path that `save_figure` could not write.

    Raises
    ------
    MissingDependencyError
        matplotlib is not installed.
    ParameterError
        The suffix is neither .png nor .svg.
    OutputError
        The file cannot be written.
    """
    require("a chart", "matplotlib")
    if path.suffix.lower() not in SUFFIXES:
        raise ParameterError(f"{path}: a chart is a .png or .svg file; name it so")
    check_output(path, overwrite=overwrite)


def save_figure(figure: Figure, path: Path, *, overwrite: bool = False) -> None:
    """Write a chart as PNG, of 150 dots per inch, or as SVG, by the suffix of the path.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The chart.
    path : Path
        The file to write.
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    ParameterError, OutputError
        As `check_figure`.
    """
    check_figure(path, overwrite=overwrite)
    with replacing(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(_drawn(figure, path.suffix.lower()[1:], "chart", transparent=False))


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """Return a chart as an ``<svg>`` element for a page.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The chart.
    name : str
        Unique among the charts of a page.
    description : str
        Description for screen readers.

    Returns
    -------
    str
        HTML. Size and colours are set by the page, the latter in the variables ``--ink``,
        ``--muted``, ``--grid`` and ``--accent``.
    """
    svg = _drawn(figure, "svg", name, transparent=True).decode()
    opening = re.search(r'<svg [^>]*(viewBox="[^"]*")[^>]*>', svg)
    assert opening is not None
    label = f'role="img" aria-label="{escape(shown(description))}"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {label} {opening[1]}>{svg[opening.end() :]}'
    svg = re.sub("<metadata>.*</metadata>", "", svg, flags=re.DOTALL).replace("xlink:", "")
    svg = re.sub(r'(<g) id="[^"]*"', r"\1", svg)  # unused, and not unique in a page
    svg = svg.replace("'DejaVu Sans'", "system-ui, sans-serif")
    for variable, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg


def learning_curve_figure(curves: Sequence[Curve]) -> Figure:
    """Draw test accuracy against the number of training images per class.

    Parameters
    ----------
    curves : sequence of Curve
        One or more, each drawn as the mean over its draws with a bar of one standard deviation;
        a dashed line is the accuracy of always predicting the most common class.

    Returns
    -------
    matplotlib.figure.Figure
        The chart.

    Raises
    ------
    MissingDependencyError
        matplotlib is not installed.
    """
    require("a chart", "matplotlib")
    with styled():
        from matplotlib.figure import Figure

        title, names = _title_and_names(curves)
        majorities = sorted({each.majority for each in curves if each.majority is not None})
        n_entries = len(majorities) + len(curves) * (len(curves) > 1)
        figure = Figure(figsize=(6.4, 3.9 + 0.2 * n_entries))
        axes = figure.subplots()
        for curve, name, colour, marker in zip(
            curves, names, cycle(SERIES), cycle(MARKERS), strict=False
        ):
            axes.errorbar(
                [point.per_class for point in curve.points],
                [100 * point.mean for point in curve.points],
                [_bar(point) for point in curve.points],
                label=name if len(curves) > 1 else None,
                color=colour if len(curves) > 1 else COLOURS["accent"],
                marker=marker,
                markersize=5,
                capsize=3,
                linewidth=1.6,
            )
        for majority in majorities:
            label = f"always predicting the most common class: {majority:.1%} of the test images"
            index = [each.majority for each in curves].index(majority)
            colour = COLOURS["muted"] if len(majorities) == 1 else SERIES[index % len(SERIES)]
            axes.axhline(100 * majority, label=label, color=colour, linestyle="--", linewidth=1.1)
        number_axis(axes, {point.per_class for curve in curves for point in curve.points})
        axes.set_xlabel("training images per class (logarithmic)")
        axes.set_ylabel("test accuracy in %")
        axes.grid(axis="y")
        axes.set_title(title)
        if n_entries:
            figure.legend(loc="outside lower left")
        return figure


def reliability_figure(bins: Sequence[Bin], majority: float | None = None) -> Figure:
    """Draw the accuracy of predictions against their probability, and their number.

    Parameters
    ----------
    bins : sequence of Bin
        Those of `drawn_bins`.
    majority : float, optional
        `Metrics.majority`, drawn as a line; predictions below it are worse than always predicting
        the most common class.

    Returns
    -------
    matplotlib.figure.Figure
        The chart.
    """
    with styled():
        from matplotlib.colors import to_rgba
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.8, 4.4))
        upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
        filled = [each for each in bins if each.accuracy is not None]
        centres = [(each.lower + each.upper) / 2 for each in filled]
        width = 0.92 / len(bins)
        upper.bar(
            centres,
            [each.accuracy for each in filled],
            width,
            color=to_rgba(COLOURS["accent"], 0.4),
            edgecolor=COLOURS["accent"],
        )
        # A bar of height 0 is none to see.
        dots = {"color": COLOURS["accent"], "markersize": 4, "clip_on": False, "zorder": 3}
        upper.plot(centres, [each.accuracy for each in filled], "o", **dots)
        ideal = "accuracy equal to the probability"
        upper.plot([0, 1], [0, 1], "--", color=COLOURS["ink"], linewidth=1.2, label=ideal)
        if majority is not None:
            label = f"always predicting the most common class: {majority:.1%}"
            colour = COLOURS["muted"]
            upper.axhline(majority, color=colour, linestyle=":", linewidth=1.3, label=label)
        figure.legend(loc="outside lower left")
        upper.set_ylabel("accuracy")
        upper.set(xlim=(0, 1), ylim=(0, 1))
        lower.bar(centres, [each.n_images for each in filled], width, color=COLOURS["muted"])
        for centre, each in zip(centres, filled, strict=True):
            lower.annotate(
                _short_count(each.n_images),
                (centre, each.n_images),
                (0, 1.5),
                textcoords="offset points",
                ha="center",
                fontsize=6.5,
            )
        lower.margins(y=0.25)
        lower.set_ylabel("images")
        lower.set_xlabel("probability of the predicted class")
        upper.grid(axis="y")
        return figure


def confusion_figure(matrix: NDArray[np.int64], labels: Sequence[str]) -> Figure:
    """Draw a confusion matrix of many classes, each row as shares of its images.

    Parameters
    ----------
    matrix : ndarray of int64, shape (n_classes, n_classes)
        Images by true class (rows) and predicted class (columns).
    labels : sequence of str
        The classes; named on the axes up to 40 classes, else numbered from 1.

    Returns
    -------
    matplotlib.figure.Figure
        The chart. The opacity grows with the root of the share, so that single mistakes show.
    """
    with styled():
        from matplotlib.collections import PolyCollection
        from matplotlib.colors import to_rgba
        from matplotlib.figure import Figure

        n_classes = len(labels)
        figure = Figure(figsize=(7.4, 7.2))
        axes = figure.subplots()
        shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        squares = PolyCollection(
            [[(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1)] for y, x in np.argwhere(matrix)],
            facecolors=[
                to_rgba(COLOURS["accent"], round(float(0.25 + 0.75 * np.sqrt(share)), 2))
                for share in shares[matrix > 0]
            ],
            linewidths=0,
        )
        axes.add_collection(squares)
        axes.set(xlim=(0, n_classes), ylim=(n_classes, 0), aspect="equal")
        axes.set(xlabel="predicted class", ylabel="true class")
        _class_axes(axes, labels)
        axes.spines[["top", "right"]].set_visible(True)
        return figure


def _class_axes(axes: Axes, labels: Sequence[str]) -> None:
    """Label the axes with names where they fit; else with the number of each tenth class."""
    if len(labels) <= NAMED_CLASSES:
        indices = list(range(len(labels)))
        names = [_shortened(label, 18) for label in labels]
    else:
        step = 10 * -(-len(labels) // 200)
        indices = [0, *range(step - 1, len(labels), step)]
        names = [str(index + 1) for index in indices]
        axes.set(xlabel="predicted class, by number", ylabel="true class, by number")
    size = 7 if len(labels) <= NAMED_CLASSES else 8
    centres = [index + 0.5 for index in indices]
    rotation = 90 if len(labels) <= NAMED_CLASSES else 0
    axes.set_xticks(centres, names, rotation=rotation, fontsize=size)
    axes.set_yticks(centres, names, fontsize=size)
    axes.tick_params(length=2)
    axes.set_xticks(range(0, len(labels), 10), minor=True)
    axes.set_yticks(range(0, len(labels), 10), minor=True)
    axes.tick_params(which="minor", length=0)
    axes.grid(which="minor")


def number_axis(axes: Axes, numbers: set[int]) -> None:
    """Make x logarithmic, with these numbers as ticks where they have room."""
    axes.set_xscale("log")
    span = np.log(max(numbers) / min(numbers)) or 1.0
    ticks: list[int] = []
    for number in sorted(numbers, reverse=True):
        if not ticks or np.log(ticks[-1] / number) > 0.06 * span:
            ticks.append(number)
    axes.set_xticks(ticks[::-1], [f"{tick:,}" for tick in ticks[::-1]])
    axes.set_xticks([], minor=True)


def _bar(point: CurvePoint) -> float:
    """Return the length of an error bar in percent; NaN for a single fit."""
    return 100 * point.deviation if len(point.accuracies) > 1 else float("nan")


def _title_and_names(curves: Sequence[Curve]) -> tuple[str, list[str]]:
    """Return the title, and a distinct name for each curve."""
    counts = sorted({curve.n_classes for curve in curves})
    title = f"{' and '.join(map(str, counts))} classes"
    if len(curves) == 1:
        return fill(f"{title}: {_network(curves[0], 40)}", _TITLE_LENGTH), [""]
    networks = [_network(curve, 18) for curve in curves]
    files = [_shortened(Path(curve.codes).name, 22) for curve in curves]
    if len(set(networks)) == 1:
        return f"{title}: {networks[0]}", files
    if len(set(networks)) == len(networks):
        return title, networks
    # Network, weights and file side by side are wider than the chart.
    pairs = zip(networks, files, strict=True)
    return title, [f"{network}\n({file})" for network, file in pairs]


def _network(curve: Curve, length: int) -> str:
    """Return the network and its weights, of a file by at most `length` characters of its name.

    Random weights are named without their seed.
    """
    name = _shortened(curve.network, 20)
    if is_random(curve.weights):
        return f"{name}, random weights"
    if curve.weights.startswith("file:"):
        return f"{name}, {weights_text(curve.weights, _shortened(curve.weights_file, length))}"
    return f"{name}, {_shortened(curve.weights, 12)} weights"


def _shortened(text: str, length: int) -> str:
    text = shown(text)
    return text if len(text) <= length else f"{text[: length - 8]}…{text[-7:]}"


def _short_count(number: int) -> str:
    return str(number) if number < 10_000 else f"{number / 1000:.0f}k"


@contextmanager
def styled(**more: str) -> Iterator[None]:
    """Draw in the style of all charts while the block runs; `more` are further settings."""
    import matplotlib

    with matplotlib.rc_context({**_STYLE, **more}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _drawn(figure: Figure, kind: str, name: str, *, transparent: bool) -> bytes:
    """Draw a figure; identifiers inside an SVG are derived from `name`."""
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with styled(**{"svg.hashsalt": name}):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=PNG_DPI, metadata=metadata, transparent=transparent)
    return buffer.getvalue()
