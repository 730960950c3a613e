"""Evaluation of a head or an app on labelled images it was not trained on.

The model file runs in onnxruntime, block by block, so that its graph itself is measured and the
codes are never in memory all at once. Images go through workers, as in `extract`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import FileFormatError, ParameterError, SourceError
from cnncodes.evaluate.evaluation import EvaluatedData, EvaluatedModel, Evaluation, Predictions
from cnncodes.evaluate.metrics import measure
from cnncodes.evaluate.selection import Selection
from cnncodes.evaluate.unknown import (
    ForeignImages,
    TrainingImages,
    check_foreign,
    choose_foreign,
    measure_unknown,
)
from cnncodes.extract.backbone import Backbone
from cnncodes.extract.store import CodeStore
from cnncodes.extract.workers import default_batch_size, n_fitting_workers, run_batches
from cnncodes.files import check_filled, is_folder, is_hdf5, is_journal, sha256_of
from cnncodes.head.groups import groups_of, number_groups
from cnncodes.head.rows import CodeRows
from cnncodes.images.decoding import LoadedImage, digest_images, notes_on_remarks
from cnncodes.images.limits import DEFAULT_MAX_PIXELS
from cnncodes.images.path_lists import PathList
from cnncodes.images.sources import GROUPINGS, Source, find_images, root_of
from cnncodes.machine import available_threads
from cnncodes.models.kinds import TABLES, needing
from cnncodes.models.metadata import (
    PREFIX,
    UNKNOWN,
    BackboneInfo,
    HeadInfo,
    check_same_network,
    with_article,
)
from cnncodes.models.session import DEFAULT_PROVIDER, open_session, run_session, warn_of_saturation
from cnncodes.parameters import MAX_PIXELS, as_path, check_choice
from cnncodes.progress import NoProgress, Progress
from cnncodes.text import counted

_DATA = "codes or images"
_REMEDY = "name a codes file, a folder of images or a CSV file"


def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    backbone: str | Path | None = None,
    include_training: bool = False,
    group_by: str | None = None,
    exclude: str | Path | None = None,
    allow_mixed: bool = False,
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
    data : str or Path
        For a head a codes file. For an app, or a head with `backbone`, a folder of class folders
        or a CSV file with the columns path and label.
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
    allow_mixed : bool
        Whether the codes may be of the head's network in another precision, float32 or int8.
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
    model, data = as_path(model, "model"), as_path(data, "data")
    backbone = None if backbone is None else as_path(backbone, "backbone")
    max_pixels = MAX_PIXELS.check(max_pixels, "max_pixels")
    if group_by is not None:
        check_choice(group_by, GROUPINGS, "group_by")
    unknown = None if unknown is None else as_path(unknown, "unknown")
    is_codes = _is_codes_file(data)
    with needing(data, ("codes", "journal", "damaged"), _DATA, _REMEDY):
        if is_codes and group_by is not None:
            raise ParameterError(f"{data}: has its own groups, if any; leave group_by out")
        if is_codes and backbone is not None and (unknown is None or _is_codes_file(unknown)):
            raise ParameterError(f"{data}: has codes already; leave backbone out")
    # Each worker computes an image in its own thread.
    opened = _ModelSession(model, provider, allow_mixed, threads=None if is_codes else 1)
    excluded = None if exclude is None else PathList(exclude, "exclude")
    selection = Selection(data, opened.info, include_training=include_training, excluded=excluded)
    foreign = None
    if unknown is not None:
        foreign = _score_foreign(opened, unknown, backbone, max_pixels, progress)
    if is_codes:
        return _evaluate_codes(opened, data, selection, foreign, on_images, progress)
    classify = _classify(opened, backbone)
    with needing(data, ("images", "folder", *TABLES), _DATA, _REMEDY, error=SourceError):
        source = find_images(data, group_by=group_by)
    if on_images is not None:
        on_images(source.files())
    return _evaluate_images(opened, source, classify, selection, foreign, max_pixels, progress)


class _ModelSession:
    """A head or an app in a session."""

    def __init__(
        self, path: Path, provider: str, allow_mixed: bool, *, threads: int | None
    ) -> None:
        self.path = path
        self.provider = provider
        self._allow_mixed = allow_mixed
        self._session, metadata = open_session(
            path, "head", "app", threads=threads, provider=provider
        )
        self.info = HeadInfo.from_metadata(metadata, path)
        self.kind = metadata[PREFIX + "kind"]
        if self.kind == "app":
            warn_of_saturation(path, self.info.backbone)
        self._input = "codes" if self.kind == "head" else "images"
        inputs = [each.name for each in self._session.get_inputs()]
        output = self._session.get_outputs()[0]
        n_classes = len(self.info.labels)
        is_ours = (inputs, output.name, output.shape[1:]) == (
            [self._input],
            "probabilities",
            [n_classes],
        )
        if not is_ours or n_classes < 2:
            raise FileFormatError(
                f"{path}: its input or output is not that of {with_article(self.kind)}; "
                "make it again"
            )
        self.input_shape = tuple(self._session.get_inputs()[0].shape[1:])
        self.has_unknown = any(
            (each.name, each.shape[1:]) == (UNKNOWN, []) for each in self._session.get_outputs()
        )

    def answers(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Run a batch; refuse an output that is not of probabilities.

        Returns
        -------
        ndarray of float32, shape (n_images, n_classes), or (n_images, n_classes + 1)
            The probabilities, and where the model has the output ``unknown`` that behind them.
        """
        names = ["probabilities", *[UNKNOWN] * self.has_unknown]
        output, *scores = run_session(self._session, self.path, names, self._input, batch)
        if not (np.abs(output.sum(axis=1) - 1) < 1e-3).all() or output.min(initial=0) < 0:
            raise FileFormatError(f"{self.path}: gives no probabilities; train it again")
        answers: NDArray[np.float32] = np.column_stack([output, *scores])
        return answers

    def check_store(self, file: Path, store: CodeStore) -> None:
        """Refuse a codes file of another backbone, or with another white, than the training."""
        if self.kind == "app":
            raise ParameterError(
                f"{self.path}: is an app, which takes images; give it the folder or CSV file of "
                f"the images, or evaluate its head on {file}"
            )
        self.check_codes(file, store.backbone_sha256, store.backbone, store.codes.shape[1:])
        if store.white != self.info.white:
            raise FileFormatError(
                f"{file}: was extracted with white {_shown_white(store.white)}, {self.path} was "
                f"trained with {_shown_white(self.info.white)}; extract it again with the same"
            )

    def check_codes(
        self, file: Path, sha256: str, info: BackboneInfo, shape: Sequence[int]
    ) -> None:
        """Refuse codes of another backbone than that of the training."""
        check_same_network(self.path, self.info, file, info, sha256, allow_mixed=self._allow_mixed)
        if tuple(shape) != self.input_shape:
            raise FileFormatError(
                f"{self.path}: takes codes of another shape than {file} has; train it again"
            )

    def describe(self) -> EvaluatedModel:
        return EvaluatedModel(
            path=str(self.path),
            kind=self.kind,
            sha256=sha256_of(self.path),
            training=self.info.training,
            created_with=self.info.created_with,
            n_training_images=len(self.info.training_images),
            backbone=self.info.backbone,
            backbone_sha256=self.info.backbone_sha256,
        )


def _is_codes_file(path: Path) -> bool:
    if is_folder(path):
        return False
    if path.suffix == ".h5":
        return True
    check_filled(path, _REMEDY, error=SourceError)
    return is_journal(path) or is_hdf5(path)


def _evaluate_codes(
    model: _ModelSession,
    data: Path,
    selection: Selection,
    foreign: ForeignImages | None,
    on_images: Callable[[list[Path]], None] | None,
    progress: Progress,
) -> Evaluation:
    with CodeStore.open(data) as store:
        model.check_store(data, store)
        paths, digests = store.paths, store.digests
        if on_images is not None:
            root = root_of(Path(store.source))
            on_images([root / path for path in paths])
        known = selection.known(store.labels, store.class_names, paths)
        chosen = np.array(
            [row for row in np.flatnonzero(known >= 0) if selection.unseen(digests[row])], np.intp
        )
        if store.groups:
            chosen = selection.unrelated(chosen, digests, groups_of(store))
        y = known[chosen]
        images = [(paths[row], digests[row]) for row in chosen]
        notes = selection.notes(y, store.skipped, images)
        answers = _run_codes(model, store, chosen, progress)
        return _evaluation(model, selection, store.source, y, answers, foreign, images, notes)


def _run_codes(
    model: _ModelSession, store: CodeStore, chosen: NDArray[np.intp], progress: Progress
) -> NDArray[np.float32]:
    """Return the model's `answers` to rows of a codes file."""
    rows = CodeRows(store, chosen)
    blocks = []
    progress.begin(len(rows))
    for _, block in rows.blocks():
        # (n, n_features) → (n, height, width, channels), or (n, channels)
        blocks.append(model.answers(block.reshape(len(block), *model.input_shape)))
        progress.advance(len(block))
    return np.concatenate(blocks)


def _evaluate_images(
    model: _ModelSession,
    source: Source,
    classify: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    selection: Selection,
    foreign: ForeignImages | None,
    max_pixels: int,
    progress: Progress,
) -> Evaluation:
    known = selection.known(np.array(source.labels, np.int32), source.class_names, source.paths)
    wanted = np.flatnonzero(known >= 0)
    files = source.files()
    batches = _run_images(
        model, [files[index] for index in wanted], classify, max_pixels, known=selection
    )
    progress.begin(len(wanted))
    rows, outputs, skipped, remarks = [], [], [], Counter[str]()
    digests = list(source.paths)  # replaced where the file can be read; else all differ
    with closing(batches):
        for images_read, output in batches:
            for image in images_read:
                row = wanted[image.index]
                remarks.update([image.remark] if image.remark else [])
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
    notes = [*source.notes, *selection.notes(targets, skipped, images), *notes_on_remarks(remarks)]
    answers = np.concatenate(outputs)[np.isin(rows, chosen)]
    origin = str(selection.data)
    return _evaluation(model, selection, origin, targets, answers, foreign, images, notes)


def _run_images(
    model: _ModelSession,
    files: list[Path],
    classify: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    max_pixels: int,
    known: Container[str],
) -> Generator[tuple[list[LoadedImage], NDArray[np.float32] | None], None, None]:
    """Run image files in workers, but for those whose digest is `known`, as `run_batches`."""
    size, precision = model.info.backbone.input_size, model.info.backbone.precision
    n_workers = max(1, min(available_threads(), len(files)))
    batch_size = default_batch_size(precision, len(files), n_workers)
    return run_batches(
        files,
        size,
        classify,
        n_workers=min(n_workers, n_fitting_workers(size, batch_size)),
        batch_size=batch_size,
        max_pixels=max_pixels,
        white=model.info.white,
        known=known,
    )


def _score_foreign(
    model: _ModelSession,
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
        with CodeStore.open(data) as store:
            model.check_store(data, store)
            chosen = choose_foreign(data, model.info, store.labels, store.class_names, notes)
            digests, trained = store.digests, TrainingImages(model.info)
            chosen = np.array([row for row in chosen if digests[row] not in trained], np.intp)
            check_foreign(data, chosen)
            scores = _run_codes(model, store, chosen, progress)[:, -1]
            labels, names = store.labels[chosen], store.class_names
        return ForeignImages(str(data), names, labels, scores, notes)
    classify = _classify(model, backbone)
    with needing(data, ("images", "folder", *TABLES), _DATA, _REMEDY, error=SourceError):
        source = find_images(data)
    all_labels = np.array(source.labels, np.int32)
    wanted = choose_foreign(data, model.info, all_labels, source.class_names, notes)
    files = source.files()
    batches = _run_images(
        model, [files[index] for index in wanted], classify, max_pixels, TrainingImages(model.info)
    )
    progress.begin(len(wanted))
    rows, outputs, n_unusable = [], [], 0
    with closing(batches):
        for images, output in batches:
            n_unusable += sum(bool(image.problem) for image in images)
            rows += [wanted[image.index] for image in images if image.pixels is not None]
            outputs += [] if output is None else [output[:, -1]]
            progress.advance(len(images))
    if n_unusable:
        notes.append(f"{data}: {counted(n_unusable, 'image')} that cannot be used left out")
    check_foreign(data, rows)
    labels = all_labels[np.array(rows, np.intp)]
    return ForeignImages(str(data), source.class_names, labels, np.concatenate(outputs), notes)


def _classify(
    model: _ModelSession, backbone: str | Path | None
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Return the function from pixels to probabilities: an app, or backbone and head."""
    if model.kind == "app":
        if backbone is not None:
            raise ParameterError(f"{model.path}: an app has its backbone; leave backbone out")
        size = model.info.backbone.input_size
        if model.input_shape != (size, size, 3):
            raise FileFormatError(f"{model.path}: its input is not that of an app; bundle it again")
        return model.answers
    if backbone is None:
        raise ParameterError(
            f"{model.path}: is a head, which takes codes; give it a codes file, or pass "
            "backbone='FILE' with the file of its network"
        )
    network = Backbone(backbone, threads=1, provider=model.provider)
    model.check_codes(network.path, network.sha256, network.info, network.code_shape)
    return lambda pixels: model.answers(network.extract(pixels))


def _evaluation(
    model: _ModelSession,
    selection: Selection,
    source: str,
    y: NDArray[np.intp],
    answers: NDArray[np.float32],
    foreign: ForeignImages | None,
    images: Sequence[tuple[str, str]],
    notes: list[str],
) -> Evaluation:
    labels = list(model.info.labels)
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
    )
    return Evaluation(
        model=model.describe(),
        data=EvaluatedData(
            path=str(selection.data),
            source=source,
            include_training=selection.include_training,
            images_sha256=digest_images(predictions.digests),
        ),
        metrics=measure(probabilities, y, labels),
        notes=notes + ([] if foreign is None else foreign.notes),
        predictions=predictions,
        unknown=unknown,
    )


def _shown_white(white: int | None) -> str:
    return "guessed from each image" if white is None else f"{white}"
