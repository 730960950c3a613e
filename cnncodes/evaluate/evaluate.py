"""Evaluation of a head or an app on labelled images it was not trained on.

The model file runs in onnxruntime (`model_session`), so that its graph itself is measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import ParameterError, SourceError
from cnncodes.evaluate.evaluation import EvaluatedData, Evaluation, Predictions
from cnncodes.evaluate.metrics import measure
from cnncodes.evaluate.model_session import ModelSession, classifier_of, run_codes, run_images
from cnncodes.evaluate.multilabel import evaluate_labels
from cnncodes.evaluate.selection import Selection
from cnncodes.evaluate.unknown import (
    ForeignImages,
    TrainingImages,
    check_foreign,
    choose_foreign,
    measure_unknown,
)
from cnncodes.files import check_filled, is_folder, is_hdf5, is_journal
from cnncodes.head.groups import groups_of, number_groups
from cnncodes.head.joined import open_codes_of
from cnncodes.head.rows import CodeRows
from cnncodes.head.stacked import joint_path
from cnncodes.head.views import ImageViews
from cnncodes.images.class_maps import ClassMap
from cnncodes.images.decoding import digest_images, notes_on_remarks
from cnncodes.images.limits import DEFAULT_MAX_PIXELS
from cnncodes.images.multilabel import to_matrix
from cnncodes.images.path_lists import PathList
from cnncodes.images.sources import GROUPINGS, Source, find_images
from cnncodes.models.kinds import TABLES, needing
from cnncodes.models.metadata import HeadInfo
from cnncodes.models.session import DEFAULT_PROVIDER
from cnncodes.parameters import MAX_PIXELS, VIEWS, as_path, check_choice, one_or_more_paths
from cnncodes.progress import NoProgress, Progress
from cnncodes.text import counted

_DATA = "codes or images"
_REMEDY = "name a codes file, a folder of images or a CSV file"


def evaluate(
    model: str | Path,
    data: str | Path | Sequence[str | Path],
    *,
    backbone: str | Path | None = None,
    include_training: bool = False,
    group_by: str | None = None,
    exclude: str | Path | None = None,
    classes: str | Path | None = None,
    allow_mixed: bool = False,
    tta: bool = False,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    provider: str = DEFAULT_PROVIDER,
    unknown: str | Path | None = None,
    on_images: Callable[[list[Path]], None] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a model on labelled images.

    Parameters
    ----------
    model : str or Path
        A head or an app.
    data : str or Path, or sequence of them
        For a head a codes file, or several of different images; for one trained on the codes of
        several networks side by side those of each, in any order. For an app, or a head with
        `backbone`, a folder of class folders or a CSV file with the columns path and label.
    backbone : str or Path, optional
        The backbone file that a head needs for images.
    include_training : bool
        Whether training images of the model are included. They are recognised by the SHA-256 of
        their files, whatever their paths.
    group_by : {"folder"}, optional
        Which images of a folder belong together, as for `extract`: images of the groups of
        training images are left out too. A codes file has its own groups.
    exclude : str or Path, optional
        A list of images to leave out, as for `PathList`.
    classes : str or Path, optional
        A table of new names of the classes of the images, as for `ClassMap`. The names that the
        head's training gave to classes are used without it.
    allow_mixed : bool
        Whether the codes may be of the head's network in another precision, float32 or int8.
    tta : bool
        Whether the logits of a head are averaged over the views of each image: those that are
        stored with its codes, or of images those that the head was trained on. An app bundled
        with `tta` averages them itself.
    max_pixels : int
        An image with more pixels cannot be used.
    provider : str
        Execution provider of onnxruntime, such as ``cpu`` or ``openvino``.
    unknown : str or Path, optional
        Images of none of the classes, labelled or not: a codes file, a folder or a CSV file, as
        for `data`. The output ``unknown`` of the model is measured on them; images that have a
        class of the model, or trained it, are left out.
    on_images : callable, optional
        Called with the paths of the image files, those of codes too, before any work.
    progress : Progress, optional
        Counts the images.

    Returns
    -------
    Evaluation
        Metrics, mistakes and notes.

    Raises
    ------
    FileFormatError
        A file is of another kind or damaged, or model, codes and backbone do not belong together.
    SourceError
        The images cannot be used, none has a label that the model knows, or all are training
        images.
    TrainingError
        A code is not finite.
    ParameterError
        Parameters contradict each other, a number is out of range, or the provider is missing or
        cannot start.
    """
    progress = progress or NoProgress()
    model, files = as_path(model, "model"), one_or_more_paths(data, "data")
    data = joint_path(files)
    backbone = None if backbone is None else as_path(backbone, "backbone")
    max_pixels = MAX_PIXELS.check(max_pixels, "max_pixels")
    if group_by is not None:
        check_choice(group_by, GROUPINGS, "group_by")
    unknown = None if unknown is None else as_path(unknown, "unknown")
    is_codes = _are_codes_files(files)
    with needing(data, ("codes", "journal", "damaged"), _DATA, _REMEDY):
        if is_codes and group_by is not None:
            raise ParameterError(f"{data}: has its own groups, if any; leave group_by out")
        if is_codes and (unknown is None or _is_codes_file(unknown)):
            if backbone is not None:
                raise ParameterError(f"{data}: has codes already; leave backbone out")
            if max_pixels != DEFAULT_MAX_PIXELS:
                raise ParameterError(f"{data}: has codes already; leave max_pixels out")
    # Each worker computes an image in its own thread.
    opened = ModelSession(model, provider, allow_mixed, threads=None if is_codes else 1)
    excluded = None if exclude is None else PathList(exclude, "exclude")
    if classes is not None and opened.info.has_several_labels:
        raise ParameterError(f"{model}: is of several labels per image; leave out classes='MAP'")
    class_map = None if classes is None else ClassMap.read(classes)
    selection = Selection(
        *(data, opened.info),
        include_training=include_training,
        excluded=excluded,
        class_map=class_map,
    )
    foreign = None
    if unknown is not None:
        foreign = _score_foreign(opened, unknown, backbone, max_pixels, progress)
    if is_codes:
        return _evaluate_codes(opened, files, selection, foreign, on_images, progress, tta=tta)
    augment = opened.info.trained_views(model) if tta and backbone is not None else "none"
    classify = classifier_of(opened, backbone, augment)
    if tta and opened.kind == "app" and "tta" not in opened.info.card:
        raise ParameterError(
            f"{model}: is an app that takes one view of an image; leave out tta=True, or bundle "
            "one that averages them: cnncodes bundle --tta"
        )
    with needing(data, ("images", "folder", *TABLES), _DATA, _REMEDY, error=SourceError):
        source = find_images(data, group_by=group_by)
    if on_images is not None:
        on_images(source.files())
    return _evaluate_images(
        opened, source, classify, selection, foreign, max_pixels, progress, augment
    )


def _are_codes_files(paths: Sequence[Path]) -> bool:
    """Whether paths are of codes files; of images only one can be named."""
    if len(paths) == 1:
        return _is_codes_file(paths[0])
    for path in paths:
        if not _is_codes_file(path):
            raise ParameterError(
                f"{path}: is no codes file, and images have one source: put the images of all into "
                "one folder or CSV file"
            )
    return True


def _is_codes_file(path: Path) -> bool:
    if is_folder(path):
        return False
    if path.suffix == ".h5":
        return True
    check_filled(path, _REMEDY, error=SourceError)
    return is_journal(path) or is_hdf5(path)


def _evaluate_codes(
    model: ModelSession,
    files: Sequence[Path],
    selection: Selection,
    foreign: ForeignImages | None,
    on_images: Callable[[list[Path]], None] | None,
    progress: Progress,
    *,
    tta: bool,
) -> Evaluation:
    model.check_takes_codes(selection.data)
    with open_codes_of(model.path, model.info, files, allow_mixed=model.allow_mixed) as store:
        model.check_store(selection.data, store)
        views = ImageViews(store, tta=tta)
        paths, digests = store.of_images(store.paths), store.of_images(store.digests)
        if on_images is not None:
            on_images(store.files)
        known, truth = _known(
            selection,
            model.info,
            store.of_images(store.labels),
            None if store.label_matrix is None else store.of_images(store.label_matrix),
            store.class_names,
            paths,
        )
        chosen = np.array(
            [row for row in np.flatnonzero(known >= 0) if selection.unseen(digests[row])], np.intp
        )
        if store.groups:
            chosen = selection.unrelated(chosen, digests, groups_of(store))
        y = known[chosen]
        images = [(paths[row], digests[row]) for row in chosen]
        texts = None if truth is None else [store.label_texts[row] for row in chosen]
        notes = [*store.notes, *selection.notes(y, store.skipped, images, texts)]
        augment = store.augment if tta else "none"
        rows = CodeRows(store, views.tested_rows(chosen))
        answers = run_codes(model, rows, augment, progress)
        if truth is not None:
            y = truth[chosen]
        return _evaluation(
            model, selection, store.sources, y, answers, foreign, images, notes, augment
        )


def _known(
    selection: Selection,
    info: HeadInfo,
    labels: NDArray[np.int32],
    matrix: NDArray[np.uint8] | None,
    names: Sequence[str],
    paths: Sequence[str],
) -> tuple[NDArray[np.intp], NDArray[Any] | None]:
    """Return the class of each image, −1 for none, and where it may have several labels all."""
    if matrix is None and not info.has_several_labels:
        return selection.known(labels, names, paths), None
    return selection.known_labels(matrix, names, paths)


def _evaluate_images(
    model: ModelSession,
    source: Source,
    classify: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    selection: Selection,
    foreign: ForeignImages | None,
    max_pixels: int,
    progress: Progress,
    augment: str,
) -> Evaluation:
    matrix = to_matrix(source.flags, len(source.class_names)) if source.flags else None
    labels = np.array(source.labels, np.int32)
    known, truth = _known(selection, model.info, labels, matrix, source.class_names, source.paths)
    wanted = np.flatnonzero(known >= 0)
    files = source.files()
    batches = run_images(
        model, [files[index] for index in wanted], classify, max_pixels, known=selection
    )
    progress.begin(len(wanted), unit="images")
    rows, outputs, skipped, remarks = [], [], [], Counter[str]()
    digests = list(source.paths)  # replaced where the file can be read; else all differ
    with closing(batches):
        for images_read, output in batches:
            for image in images_read:
                row = wanted[image.index]
                remarks.update(image.remarks)
                if image.problem:
                    skipped.append((source.paths[row], image.problem))
                    continue
                digests[row] = image.digest
                if selection.unseen(image.digest):
                    rows.append(row)
            outputs += [] if output is None else [output]
            progress.advance(len(images_read))
    chosen = np.array(rows, np.intp)
    if source.groups:
        chosen = selection.unrelated(chosen, digests, number_groups(digests, source.groups))
    images, targets = [(source.paths[row], digests[row]) for row in chosen], known[chosen]
    texts = None if truth is None else [source.label_texts[row] for row in chosen]
    notes = [*source.notes, *selection.notes(targets, skipped, images, texts)]
    notes += notes_on_remarks(remarks)
    if truth is not None:
        targets = truth[chosen]
    answers = np.concatenate(outputs)[np.isin(rows, chosen)]
    origin = [str(selection.data)]
    return _evaluation(model, selection, origin, targets, answers, foreign, images, notes, augment)


def _score_foreign(
    model: ModelSession,
    data: Path,
    backbone: Path | None,
    max_pixels: int,
    progress: Progress,
) -> ForeignImages:
    """Run the model on images of none of its classes."""
    if not model.has_unknown:
        raise ParameterError(
            f"{model.path}: was trained without a score of none of these, so there is nothing to "
            "measure on images of no class; make one with: cnncodes train --unknown"
        )
    notes: list[str] = []
    if _is_codes_file(data):
        model.check_takes_codes(data)
        model.check_one_network(f"{data}, images of no class,")
        with open_codes_of(model.path, model.info, [data], allow_mixed=model.allow_mixed) as store:
            model.check_store(data, store)
            views, names = ImageViews(store), store.class_names
            labels, digests = store.of_images(store.labels), store.of_images(store.digests)
            chosen = choose_foreign(data, model.info, labels, names, notes)
            trained = TrainingImages(model.info)
            chosen = np.array([image for image in chosen if digests[image] not in trained], np.intp)
            check_foreign(data, chosen)
            rows = CodeRows(store, views.tested_rows(chosen))
            scores = run_codes(model, rows, "none", progress)[:, -1]
        return ForeignImages(str(data), names, labels[chosen], scores, notes)
    classify = classifier_of(model, backbone, "none")
    with needing(data, ("images", "folder", *TABLES), _DATA, _REMEDY, error=SourceError):
        source = find_images(data)
    all_labels = np.array(source.labels, np.int32)
    wanted = choose_foreign(data, model.info, all_labels, source.class_names, notes)
    files = source.files()
    batches = run_images(
        model, [files[index] for index in wanted], classify, max_pixels, TrainingImages(model.info)
    )
    progress.begin(len(wanted), unit="images")
    usable: list[int] = []
    outputs, n_unusable = [], 0
    with closing(batches):
        for images, output in batches:
            n_unusable += sum(bool(image.problem) for image in images)
            usable += [wanted[image.index] for image in images if image.pixels is not None]
            outputs += [] if output is None else [output[:, -1]]
            progress.advance(len(images))
    if n_unusable:
        notes.append(f"{data}: {counted(n_unusable, 'image')} that cannot be used left out")
    check_foreign(data, usable)
    labels = all_labels[np.array(usable, np.intp)]
    return ForeignImages(str(data), source.class_names, labels, np.concatenate(outputs), notes)


def _evaluation(
    model: ModelSession,
    selection: Selection,
    sources: Sequence[str],
    y: NDArray[Any],
    answers: NDArray[np.float32],
    foreign: ForeignImages | None,
    images: Sequence[tuple[str, str]],
    notes: list[str],
    augment: str,
) -> Evaluation:
    labels = list(model.info.labels)
    of_app = model.info.card.get("tta")
    if isinstance(of_app, str) and of_app in VIEWS:
        augment = of_app
    data = EvaluatedData(
        path=str(selection.data),
        source=sources[0],
        include_training=selection.include_training,
        images_sha256=digest_images([digest for _, digest in images]),
        augment=augment,
        other_sources=tuple(sources[1:]),
    )
    if model.info.has_several_labels:
        return evaluate_labels(model.describe(), model.info, data, images, y, answers, notes)
    probabilities, unknown = answers[:, : len(labels)], None
    if model.has_unknown:
        unknown = measure_unknown(answers[:, -1], foreign)
    predictions = Predictions(
        paths=[path for path, _ in images],
        digests=[digest for _, digest in images],
        labels=labels,
        targets=y,
        predicted=probabilities.argmax(axis=1),
        probabilities=probabilities.max(axis=1),
        unknown=answers[:, -1] if model.has_unknown else None,
    )
    return Evaluation(
        model=model.describe(),
        data=data,
        metrics=measure(probabilities, y, labels),
        notes=notes + ([] if foreign is None else foreign.notes),
        predictions=predictions,
        unknown=unknown,
    )
