"""Fine-tuning: the last layers of a network are trained together with a head, on the CPU.

1. The layers up to a cut become a backbone file, whose codes are the activations; they are
   computed once for each view of each image, and kept in a codes file.
2. The pooled codes of the layers above train a logistic head, as ``cnncodes train`` does.
3. Keras trains these layers together with the head, from the activations (`training`), in a
   process of its own (`apart`).
4. The head is fitted again on the codes of the trained layers (`heads`).
5. The best weights become a weight file of Keras, which is exported, and joined to the head.
6. The labels that the app gives the test images are compared with Keras's.

All but the app is in a folder of work, from which the same call goes on after an interrupt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cnncodes.errors import FileFormatError, OutputError
from cnncodes.evaluate.metrics import measure
from cnncodes.export.backbones import DEFAULT_INPUT_SIZE
from cnncodes.export.export import export_backbone
from cnncodes.export.keras_weights import Weights, write_weights
from cnncodes.export.weights import load_weights
from cnncodes.extract.backbone import Backbone
from cnncodes.extract.pipeline import Extraction, extract
from cnncodes.extract.store import CodeStore
from cnncodes.files import exists
from cnncodes.finetune.apart import TopProcess
from cnncodes.finetune.checkpoint import Epoch
from cnncodes.finetune.data import Data, read_data
from cnncodes.finetune.heads import CodesOfImages, fit_start
from cnncodes.finetune.parts import Parts, Trained
from cnncodes.finetune.plan import make_plan
from cnncodes.finetune.recipe import Recipe
from cnncodes.finetune.request import Request, check_request
from cnncodes.finetune.result import FineTuning
from cnncodes.finetune.training import Activations, Task, train_top
from cnncodes.head.linear import LinearHead
from cnncodes.head.rows import CodeRows
from cnncodes.images.path_lists import PathList
from cnncodes.images.sources import Source, check_labels, find_images
from cnncodes.output import filled_folder, locked
from cnncodes.progress import NoProgress, Progress
from cnncodes.quantize.quantize import quantize_backbone

LOCK = "finetune.lock"  # in the folder of work, while a process works there


def finetune(
    source: str | Path,
    network: str,
    output: str | Path,
    *,
    weights: str = "imagenet",
    input_size: int = DEFAULT_INPUT_SIZE,
    from_layer: str | None = None,
    layers: str | Sequence[str] | None = None,
    pool: str = "avg",
    augment: str = "none",
    tta: bool = False,
    frozen_int8: bool = False,
    epochs: int = Recipe.epochs,
    learning_rate: float = Recipe.learning_rate,
    batch_size: int = Recipe.batch_size,
    validation_fraction: float = Recipe.validation_fraction,
    train_fraction: float = 0.7,
    split: str = "stratified",
    class_weight: str | None = None,
    group_by: str | None = None,
    exclude: str | Path | None = None,
    keep_together: str | Path | None = None,
    seed: int = 0,
    int8: bool = False,
    work: str | Path | None = None,
    overwrite: bool = False,
    on_note: Callable[[str], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    progress: Progress | None = None,
) -> FineTuning:
    """Train the last layers of a network together with a head, and write an app.

    Parameters
    ----------
    source : str or Path
        A folder of class folders, or a CSV file with the columns path and label.
    network : str
        A name in `BACKBONES`.
    output : str or Path
        The app to write.
    weights, input_size
        As for `export_backbone`.
    from_layer : str, optional
        The last layer that is left as it is; those above it are trained. By default that of
        `DEFAULT_CUTS`.
    layers : str or sequence of str, optional
        The layers whose pooled outputs the head sees, as for `export_backbone`, from `from_layer`
        on; by default the last.
    pool : {"avg", "max", "avg+max", "grid2"}
        How they are pooled over height and width.
    augment : {"none", "hflip", "hvflip", "d4"}
        The views of each image, of which an epoch takes one at random: the image itself, its
        mirror image too, the two upside down too, or all eight mirrored and turned ones.
    tta : bool
        Whether the app makes the views of each image and averages their logits; figures are of
        that.
    frozen_int8 : bool
        Whether activations are computed by the frozen layers in int8, calibrated on images of
        the source, in less than half the time. The app has these layers in float32.
    epochs : int
        Passes over the training images, at most.
    learning_rate : float
        The highest learning rate.
    batch_size : int
        Images per gradient step.
    validation_fraction : float
        Share of the training images of each class that is held out to choose the epoch. With 0
        all of them are trained on, for all epochs.
    train_fraction, split, exclude, keep_together
        As for `train_head`.
    class_weight : "balanced" or None
        Whether rare classes weigh as much as common ones.
    group_by : {"folder"}, optional
        As for `extract`.
    seed : int
        Seed of the split, of random weights, of the order of images and of their views.
    int8 : bool
        Whether an int8 app is written too, with ``.int8`` in its name.
    work : str or Path, optional
        The folder for all but the apps, from which the same call goes on; by default that of the
        app with the ending ``.finetune``. Calls that differ in the seed may share it.
    overwrite : bool
        Whether the apps may be replaced, and activations in `work` that are of other images.
    on_note : callable, optional
        Receives a line before what takes long.
    on_epoch : callable, optional
        Called with each `Epoch`.
    progress : Progress, optional
        Counts images.

    Returns
    -------
    FineTuning
        Metrics before and after, and the epochs.

    Raises
    ------
    MissingDependencyError
        TensorFlow is not installed.
    ParameterError
        A parameter is out of range, or the network cannot be cut at the layer.
    SourceError
        The images cannot be used.
    WeightsError
        The weights are absent, damaged or of another network.
    TrainingError
        There are too few classes or images, or training diverges.
    ParityError
        The app gives other labels than Keras.
    FileFormatError
        A file of the work is damaged.
    OutputError
        A file cannot be written, the activations do not fit on the disk, or another process works
        in `work`.
    KeyboardInterrupt
        With a message about what is kept.
    """
    request = check_request(
        source,
        network,
        output,
        weights=weights,
        input_size=input_size,
        from_layer=from_layer,
        layers=layers,
        pool=pool,
        augment=augment,
        tta=tta,
        frozen_int8=frozen_int8,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        validation_fraction=validation_fraction,
        train_fraction=train_fraction,
        split=split,
        class_weight=class_weight,
        group_by=group_by,
        exclude=exclude,
        keep_together=keep_together,
        seed=seed,
        int8=int8,
        work=work,
        overwrite=overwrite,
    )
    run = _Run(request, on_note or (lambda line: None), on_epoch, progress or NoProgress())
    remedy = "wait for it, or name another folder as work='FOLDER'"
    with filled_folder(request.work), locked(request.work / LOCK, remedy):
        try:
            return run.run()
        except KeyboardInterrupt as interrupt:
            if str(interrupt) or not exists(request.frozen):
                raise
            raise KeyboardInterrupt(
                f"{request.work} keeps what is done; the same command goes on from there"
            ) from None


class _Run:
    """A fine-tuning under way."""

    def __init__(
        self,
        request: Request,
        note: Callable[[str], None],
        on_epoch: Callable[[Epoch], None] | None,
        progress: Progress,
    ) -> None:
        self._request = request
        self._note = note
        self._on_epoch = on_epoch
        self._progress = progress
        self._seconds: dict[str, float] = {}

    def run(self) -> FineTuning:
        """Do all steps."""
        request = self._request
        excluded = None if request.exclude is None else PathList(request.exclude, "exclude")
        together = (
            None
            if request.keep_together is None
            else PathList(request.keep_together, "keep_together")
        )
        images = find_images(request.source, group_by=request.group_by)
        check_labels(images)
        self._check_kept()
        self._freeze()
        self._plan(images)
        extraction = self._extract()
        with CodeStore.open(request.activations) as store:
            data = read_data(
                store,
                train_fraction=request.train_fraction,
                split=request.split,
                validation_fraction=request.recipe.validation_fraction,
                seed=request.seed,
                excluded=excluded,
                together=together,
            )
            trained = self._train(store, data)
            white = store.white
        parts = Parts(request, trained, data, white, self._note, self._progress)
        with self._timed("app"):
            parts.write()
        with self._timed("test"):
            after, parity = parts.compare()
        int8 = None
        if request.int8:
            with self._timed("int8"):
                int8 = parts.quantize()
        return FineTuning(
            path=request.output,
            work=request.work,
            network=request.network,
            from_layer=request.from_layer,
            n_train=len(data.train),
            n_validation=len(data.validation),
            epochs=trained.epochs,
            before=trained.before,
            after=after,
            parity=parity,
            int8_path=request.int8_output if request.int8 else None,
            int8=int8,
            seconds=self._seconds,
            notes=[*extraction.source_notes, *extraction.notes, *data.notes],
        )

    def _check_kept(self) -> None:
        """Refuse damaged files of an earlier run before hours of work."""
        request = self._request
        try:
            for path in (request.frozen, request.computed):
                if exists(path):
                    Backbone(path, threads=1)
            if exists(request.activations):
                CodeStore.open(request.activations).close()
        except FileFormatError as error:
            raise FileFormatError(f"{error}; delete it, and it is made again") from error

    def _freeze(self) -> None:
        """Export the layers up to the cut, unless that was done."""
        request = self._request
        wanted = (request.network, request.origin, request.input_size, request.from_layer, "none")
        if exists(request.frozen):
            info = Backbone(request.frozen, threads=1).info
            if (info.backbone, info.weights, info.input_size, info.layer, info.pool) == wanted:
                self._quantize()
                return
            if not request.overwrite:
                raise OutputError(
                    f"{request.frozen}: is of another network, other weights or another size; "
                    "name another folder as work='FOLDER', or pass overwrite=True"
                )
        with self._timed("frozen layers"):
            request.frozen.with_suffix(".int8.onnx").unlink(missing_ok=True)  # of other weights
            export_backbone(
                request.network,
                request.frozen,
                weights=request.weights,
                input_size=request.input_size,
                layer=request.from_layer,
                seed=request.seed,
                compare=False,  # the labels of the app are, at the end
                overwrite=True,
                progress=self._progress,
                on_note=self._note,
            )
        self._quantize()

    def _quantize(self) -> None:
        """Make the int8 file of the frozen layers, if it is wanted and not there."""
        request = self._request
        if not request.frozen_int8 or exists(request.computed):
            return
        with self._timed("int8 of the frozen layers"):
            quantized = quantize_backbone(
                request.frozen,
                request.source,
                request.computed,
                exclude=request.exclude,
                seed=request.seed,
                overwrite=True,
                progress=self._progress,
            )
        self._note(
            f"activations in int8 have a mean cosine of {quantized.closeness.cosine:.4f} to those "
            "in float32"
        )

    def _plan(self, images: Source) -> None:
        """Print what the work takes; refuse it where the disk is too small."""
        request = self._request
        n_classes = len(images.class_names)
        with self._timed("measurement"), self._top() as top:
            n_trained = request.train_fraction * (1 - request.recipe.validation_fraction)
            plan = make_plan(
                top,
                request.computed,
                images,
                request.n_views,
                round(n_trained * len(images.paths)),
                n_classes,
                request.recipe,
                request.activations,
            )
        self._note(str(plan))

    def _extract(self) -> Extraction:
        """Compute the activations that are not there."""
        request = self._request
        with self._timed("activations"):
            try:
                done = self._extract_with(update=False)
            except OutputError:
                if not (request.overwrite and exists(request.activations)):
                    raise
                done = self._extract_with(update=True)  # keeps those of images that are the same
        if done.is_unchanged:
            self._note(f"{request.activations}: kept, it has the activations of all images")
        elif done.n_resumed:
            self._note(f"{request.activations}: {done.n_resumed} images were there already")
        return done

    def _extract_with(self, *, update: bool) -> Extraction:
        request = self._request
        return extract(
            request.computed,
            request.source,
            request.activations,
            group_by=request.group_by,
            update=update,
            progress=self._progress,
            augment=request.augment,
        )

    def _train(self, store: CodeStore, data: Data) -> Trained:
        """Train; return the weights and what Keras predicts for the test images."""
        request, recipe = self._request, self._request.recipe
        rows = CodeRows(store, np.arange(len(store)))
        activations = Activations(rows, store.codes.shape[1:], request.n_views)
        key = request.key(
            frozen=store.backbone_sha256,
            labels=data.labels,
            train=[(data.digests[row], int(data.y[row])) for row in data.train],
            validation=[(data.digests[row], int(data.y[row])) for row in data.validation],
        )
        folder = request.work / key
        y_test = data.y[data.test].astype(np.intp)
        with filled_folder(folder), self._top() as top:
            with self._timed("linear head"):
                codes = CodesOfImages(
                    top.features, request.codes, activations, recipe.batch_size, tta=request.tta
                )
                start = fit_start(codes, data, class_weight=request.class_weight, seed=request.seed)
                before = codes.log_probabilities(start.head, codes.measured(data.test))
                top.attach(
                    *(start.scaling, start.weights, start.bias),
                    *(recipe, recipe.n_steps(len(data.train))),
                )
                top.seed(request.seed)
            task = Task(
                train=data.train,
                validation=data.validation,
                targets=data.targets(),
                weights=data.weights(request.class_weight),
                seed=request.seed,
            )
            with self._timed("epochs"):
                epochs = train_top(
                    top,
                    activations,
                    task,
                    recipe,
                    folder / "checkpoint.npz",
                    key,
                    on_epoch=self._on_epoch,
                    progress=self._progress,
                )
            head = LinearHead(*top.head)
            weights = folder / f"{request.output.stem}.weights.h5"
            write_weights(request.layers, self._weights() | top.weights, weights)
            tested = np.exp(codes.log_probabilities(head, codes.measured(data.test)))
            return Trained(
                folder=folder,
                weights=weights,
                head=head,
                epochs=epochs,
                before=measure(np.exp(before), y_test, data.labels),
                tested=tested,
                created_with=top.created_with,
            )

    def _weights(self) -> Weights:
        """Load the weights that training starts from."""
        request = self._request
        return load_weights(
            request.spec,
            request.layers,
            request.weights,
            input_size=request.input_size,
            seed=request.seed,
        )

    def _top(self) -> TopProcess:
        request = self._request
        return TopProcess(
            *(request.network, request.input_size, self._weights()),
            *(request.from_layer, request.codes),
        )

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._seconds[step] = time.monotonic() - started
