"""The page of an experiment, its chart and its JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from cnncodes._version import __version__
from cnncodes.evaluate.charts import (
    COLOURS,
    MARKERS,
    SERIES,
    inline_svg,
    number_axis,
    save_figure,
    styled,
)
from cnncodes.evaluate.page import page_template
from cnncodes.experiment.published import EPOCHS, HOMEPAGE, PER_CLASS, PUBLISHED
from cnncodes.experiment.result import Experiment, NetworkResult, Point
from cnncodes.models.description import is_random, weights_text
from cnncodes.output import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGE, RESULT, CHART = "index.html", "experiment.json", "chart.svg"
_COLUMNS = 2  # of the chart
_TITLES = {"inception_v3": "InceptionV3", "vgg16": "VGG16", "vgg19": "VGG19"}


def title_of(network: NetworkResult, *others: NetworkResult) -> str:
    """Return the name of a network, with that of its file where others are of the same kind."""
    title = _TITLES.get(network.backbone, network.backbone)
    if network.precision != "float32":
        title += f" {network.precision}"
    same = [each for each in others if each.backbone == network.backbone]
    return f"{title} ({network.name})" if len(same) > 1 else title


def write_result(experiment: Experiment, folder: Path) -> None:
    """Write page, chart and figures into a folder; files of theirs there are replaced.

    Raises
    ------
    OutputError
        They cannot be written.
    """
    figure = experiment_figure(experiment)
    page = _render(experiment, figure)
    result = json.dumps(experiment.as_dict(), indent=2, allow_nan=False)
    save_figure(figure, folder / CHART, overwrite=True)
    with (
        replacing(folder / RESULT, overwrite=True) as first,
        replacing(folder / PAGE, overwrite=True) as second,
    ):
        first.write_text(result + "\n", "utf-8")
        second.write_text(page, "utf-8")


def experiment_figure(experiment: Experiment) -> Figure:
    """Draw the accuracy of each classifier against the number of training images per class.

    Parameters
    ----------
    experiment : Experiment
        The figures. Each network has a part of the chart.

    Returns
    -------
    matplotlib.figure.Figure
        The chart.
    """
    with styled():
        from matplotlib.figure import Figure

        networks = experiment.networks
        n_rows = -(-len(networks) // _COLUMNS)
        n_columns = min(_COLUMNS, len(networks))
        figure = Figure(figsize=(3.3 * n_columns + 0.4, 3.0 * n_rows + 0.9))
        grid = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False)
        for axes, network in zip(grid.flat, networks, strict=False):
            axes.set_title(title_of(network, *networks))
            _draw(axes, network, experiment)
        for axes in grid.flat[len(networks) :]:
            axes.set_axis_off()
        for axes in grid[:, 0]:
            axes.set_ylabel("test accuracy in %")
        entries = {
            label: handle
            for axes in grid.flat
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            list(entries.values()), list(entries), loc="outside lower left", ncols=n_columns
        )
        return figure


def _draw(axes: Axes, network: NetworkResult, experiment: Experiment) -> None:
    """Draw the lines of a network."""
    points = network.points
    available = experiment.n_train / experiment.n_classes
    # All images are drawn at their mean per class, which is more than any other number.
    last = max(round(available), (points[-2].per_class or 0) + 1 if len(points) > 1 else 1)
    x = [point.per_class or last for point in points]
    lines = [("logistic, converged", [point.logistic for point in points])]
    for epochs in reversed(EPOCHS):
        lines.append((f"softmax, {epochs} epochs", [point.softmax[epochs] for point in points]))
    for (label, y), colour, marker in zip(lines, SERIES, MARKERS, strict=False):
        axes.plot(
            x,
            [100 * each for each in y],
            label=label,
            color=colour,
            marker=marker,
            markersize=4,
            linewidth=1.6,
        )
    if experiment.is_caltech101 and network.published is not None:
        published = [*network.published.by_size, network.published.accuracy]
        axes.plot(
            [*PER_CLASS, last],
            [100 * each for each in published],
            label="published",
            color=COLOURS["ink"],
            linestyle=":",
            marker="x",
            markersize=4,
            linewidth=1.2,
        )
    axes.axhline(
        100 * experiment.majority,
        label="most common class",
        color=COLOURS["muted"],
        linestyle="--",
        linewidth=1.1,
    )
    number_axis(axes, set(x))
    names = ["all" if int(tick) == last else f"{int(tick):,}" for tick in axes.get_xticks()]
    axes.set_xticks(axes.get_xticks(), names)
    axes.set_xlabel("training images per class, at most")
    axes.grid(axis="y")


def _render(experiment: Experiment, figure: Figure) -> str:
    """Return the page: HTML without scripts or external resources, all text escaped."""
    from markupsafe import Markup

    networks = experiment.networks
    chart = inline_svg(
        figure, "experiment", "Test accuracies; their numbers are in the tables below."
    )
    titles = {network.name: title_of(network, *networks) for network in networks}
    published = {
        network.name: network.published if experiment.is_caltech101 else None
        for network in networks
    }
    return page_template("cnncodes.experiment", "experiment.html").render(
        experiment=experiment,
        notes=_notes(experiment),
        titles=titles,
        timed=list(zip(networks, experiment.times, strict=True)),
        published=published,
        any_published=any(published.values()),
        all_published={_TITLES[name]: each for name, each in PUBLISHED.items()},
        published_sizes=PER_CLASS,
        weights={each.name: weights_text(each.weights, each.weights_file) for each in networks},
        is_random={each.name: is_random(each.weights) for each in networks},
        best=_best,
        epochs=EPOCHS,
        homepage=HOMEPAGE,
        chart=Markup(chart),
        version=__version__,
    )


def _best(point: Point) -> float:
    return max(point.logistic, *point.softmax.values())


def _notes(experiment: Experiment) -> list[str]:
    notes = [
        f"{each.name} has random weights: its accuracies say nothing about a trained network"
        for each in experiment.networks
        if is_random(each.weights)
    ]
    return [*notes, *experiment.notes]
