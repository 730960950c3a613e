"""The experiment: from images to the accuracies of each network and number of training images.

For each network the codes are computed, or kept from an earlier run. On at most 5, 10, … and on all
training images of each class a softmax layer is trained as the published experiment did, and a
logistic head to convergence. All have the same test images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cnncodes._version import created_with
from cnncodes.errors import OutputError, ParameterError, SourceError
from cnncodes.evaluate.charts import require
from cnncodes.experiment.network import NetworkRun
from cnncodes.experiment.page import CHART, PAGE, RESULT, write_result
from cnncodes.experiment.published import EPOCHS, PER_CLASS, is_caltech101
from cnncodes.experiment.result import Experiment
from cnncodes.experiment.steps import Steps
from cnncodes.extract.backbone import Backbone
from cnncodes.files import exists
from cnncodes.images.sources import Source, find_images
from cnncodes.output import FOLDER, check_folder, filled_folder
from cnncodes.parameters import COUNT, SEED, as_path, as_paths
from cnncodes.progress import NoProgress, Progress

TIMES = "times.json"


@dataclass(frozen=True)
class Planned:
    """What an experiment will do.

    Attributes
    ----------
    source : Source
        The images.
    folder : Path
        Where the results are written.
    codes : dict of str to bool
        For each network whether its codes file is in the folder already.
    per_class : tuple of int
        Numbers of training images per class.
    epochs : tuple of int
        Those after which the softmax layer is tested.
    """

    source: Source
    folder: Path
    codes: dict[str, bool]
    per_class: tuple[int, ...]
    epochs: tuple[int, ...] = EPOCHS


def run_experiment(
    source: str | Path,
    backbones: Sequence[str | Path],
    output: str | Path,
    *,
    per_class: Sequence[int] = PER_CLASS,
    seed: int = 0,
    update: bool = False,
    on_plan: Callable[[Planned], None] | None = None,
    progress: Progress | None = None,
) -> Experiment:
    """Repeat the published experiment on a collection of images.

    Parameters
    ----------
    source : str or Path
        A folder of class folders or a CSV file with the columns path and label.
    backbones : sequence of str or Path
        Networks, whose files differ in their names.
    output : str or Path
        Folder for the results, which are an HTML page, its chart, the figures and the durations as
        JSON, and for each network ``NAME.h5``, ``NAME.head.onnx`` and ``NAME.curve.json``. Codes
        files of these images and networks there are used.
    per_class : sequence of int
        Numbers of training images per class, besides all there are.
    seed : int
        Seed of the softmax layers and of the cross-validation; the split has none.
    update : bool
        Whether codes files are brought up to date with the images, as for `extract`.
    on_plan : callable, optional
        Called with a `Planned` before any work.
    progress : Progress, optional
        Counts the images, and reports each step.

    Returns
    -------
    Experiment
        The figures and the durations.

    Raises
    ------
    CnncodesError
        As for `extract`, `learning_curves` and `train_head`.
    MissingDependencyError
        matplotlib or jinja2 is not installed.
    KeyboardInterrupt
        What is finished is kept, and the same call goes on from there.
    """
    progress = progress or NoProgress()
    source, folder = as_path(source, "source"), as_path(output, "output")
    sizes = COUNT.check_each(per_class, "per_class")
    seed = SEED.check(seed, "seed")
    require("the page of an experiment", "matplotlib", "jinja2")
    paths = _named(as_paths(backbones, "backbones"))
    _check_output(folder, list(paths), [source, *paths.values()])
    steps = Steps(folder / TIMES)
    for path in paths.values():
        Backbone(path)  # refused before hours of work
    images = find_images(source)
    if images.flags:
        raise SourceError(
            f"{source}: its images have more than one label each, and an experiment is for one; "
            "cnncodes extract and train make a head of several"
        )
    if len(images.class_counts()) < 2:
        raise SourceError(f"{source}: an experiment needs images of two or more classes")
    if on_plan is not None:
        there = {name: exists(folder / f"{name}.h5") for name in paths}
        on_plan(Planned(images, folder, there, sizes))
    with filled_folder(folder):
        runs = [
            NetworkRun(name, path, folder, sizes, seed, steps, progress)
            for name, path in paths.items()
        ]
        for run in runs:
            run.compute_codes(source, update=update)
        for run in runs:
            run.measure()
        experiment = _experiment(source, runs, seed)
        steps.finish()
        write_result(experiment, folder)
    return experiment


def _named(paths: Iterable[Path]) -> dict[str, Path]:
    """Return the networks by the names of their files without the ending."""
    named: dict[str, Path] = {}
    for path in paths:
        if path.stem in named:
            raise ParameterError(
                f"{path}: has the name of {named[path.stem]}, and the files of both would too; "
                "rename one"
            )
        named[path.stem] = path
    if not named:
        raise ParameterError("there is no network to measure; name one or more")
    return named


def _check_output(folder: Path, names: list[str], inputs: list[Path]) -> None:
    """Refuse a folder with files of these names that are not of an experiment."""
    files = [PAGE, CHART, RESULT, TIMES]
    files += [f"{name}{ending}" for name in names for ending in (".head.onnx", ".curve.json")]
    foreign = [] if exists(folder / TIMES) else [each for each in files if exists(folder / each)]
    if foreign:
        raise OutputError(
            f"{folder}: holds {foreign[0]} but no {TIMES} of an experiment; name another folder"
        )
    check_folder(
        folder,
        files,
        purpose="the experiment",
        overwrite=True,
        inputs=inputs,
        endings=FOLDER,
    )


def _experiment(source: Path, runs: Sequence[NetworkRun], seed: int) -> Experiment:
    plan = runs[0].plan
    common = [note for note in runs[0].notes if all(note in run.notes for run in runs)]
    own = [f"{run.result.name}: {note}" for run in runs for note in run.notes if note not in common]
    notes = [*common, *own]
    if len({run.images_sha256 for run in runs}) > 1:
        notes.append("the networks have codes of different images, so their figures do not compare")
    return Experiment(
        source=source.name,
        images_sha256=runs[0].images_sha256,
        n_classes=len(plan.names),
        n_train=runs[0].result.points[-1].n_train,
        n_test=len(plan.test),
        majority=plan.majority or 0.0,
        seed=seed,
        is_caltech101=is_caltech101(plan.names),
        networks=tuple(run.result for run in runs),
        notes=tuple(notes),
        created_with=created_with("sklearn", "numpy"),
        times=tuple(run.times for run in runs),
    )
