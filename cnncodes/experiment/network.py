"""The steps of an experiment with one network: its codes, and the classifiers on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cnncodes._version import created_with
from cnncodes.errors import OutputError
from cnncodes.evaluate.curve_plan import Plan, plan_curve
from cnncodes.evaluate.learning_curve import learning_curves
from cnncodes.experiment.published import EPOCHS, TRAIN_FRACTION
from cnncodes.experiment.result import NetworkResult, Point, Times
from cnncodes.experiment.softmax import train_softmax
from cnncodes.experiment.steps import Form, Step, Steps
from cnncodes.extract.pipeline import extract
from cnncodes.extract.store import CodeStore
from cnncodes.files import exists, sha256_of
from cnncodes.head.rows import CodeRows
from cnncodes.head.train import train_head
from cnncodes.images.decoding import digest_images
from cnncodes.progress import Progress
from cnncodes.text import counted

SPLIT = "first"
# The forms of results, as for `Steps.find`.
_CODES = {"n_images": int}
_SOFTMAX = {str(epochs): {"accuracy": float, "seconds": float} for epochs in EPOCHS}
_HEAD = {"accuracy": float, "C": float}


class NetworkRun:
    """One network of an experiment.

    Parameters
    ----------
    name : str
        Name of its files in the folder.
    backbone, folder : Path
        Its file, and the folder of the results.
    sizes : sequence of int
        Numbers of training images per class, besides all there are.
    seed : int
        Seed of the softmax layers and of the cross-validation.
    steps : Steps
        What is finished already.
    progress : Progress
        Counts the work, and reports each step.

    Attributes
    ----------
    plan : Plan
        The training and test images; this and the following exist after `measure`.
    result : NetworkResult
        The figures.
    times : Times
        The durations.
    images_sha256 : str
        `digest_images` of all images with codes.
    notes : list of str
        Remarks on the data.
    """

    plan: Plan
    result: NetworkResult
    times: Times
    images_sha256: str
    notes: list[str]
    _sha256: str  # of the codes file
    _timed: Step | None  # None where the codes were there before

    def __init__(
        self,
        name: str,
        backbone: Path,
        folder: Path,
        sizes: Sequence[int],
        seed: int,
        steps: Steps,
        progress: Progress,
    ) -> None:
        self._name, self._backbone, self._sizes, self._seed = name, backbone, sizes, seed
        self._codes, self._head = folder / f"{name}.h5", folder / f"{name}.head.onnx"
        self._curve = folder / f"{name}.curve.json"
        self._steps, self._progress = steps, progress

    def compute_codes(self, source: Path, *, update: bool) -> None:
        """Compute the codes, or what is missing of them."""
        name = self._report("codes")
        if exists(self._codes):
            CodeStore.open(self._codes).close()  # a damaged file is refused as one
        try:
            result = extract(
                self._backbone,
                source,
                self._codes,
                update=update and exists(self._codes),
                progress=self._progress,
            )
        except OutputError as error:
            cause, _, remedy = str(error).rpartition("; ")
            if "overwrite=True" not in remedy:
                raise
            # An experiment replaces no codes: they may be of hours, and made by `extract`.
            kept = "pass update=True to compute what is new, or " if "update=True" in remedy else ""
            raise OutputError(f"{cause}; {kept}delete it to compute all again") from error
        self._sha256 = sha256_of(self._codes)
        n_computed = result.n_images + len(result.skipped) - result.n_resumed - result.n_reused
        if n_computed > 0:
            timed = {"n_images": n_computed, "seconds": result.seconds}
            self._timed = self._steps.run(name, self._sha256, lambda: timed)
            return
        self._timed = self._steps.find(name, self._sha256, _CODES)
        if self._timed is not None:
            self._steps.keep(self._timed)

    def measure(self) -> None:
        """Train and test all classifiers."""
        most = max(plan_curve([self._codes], None, TRAIN_FRACTION, SPLIT, 1, self._seed).train)
        smaller = [size for size in self._sizes if size < most]
        self.plan = plan_curve(
            [self._codes], [*smaller, most], TRAIN_FRACTION, SPLIT, 1, self._seed
        )
        softmax = {size: self._softmax(size, most) for size in self.plan.train}
        head = self._logistic()
        heads = self._smaller_heads(smaller) if smaller else {}
        heads[most] = head.result
        points = tuple(
            Point(
                per_class=None if size == most else size,
                n_train=len(draws[0]),
                softmax={epochs: softmax[size][str(epochs)]["accuracy"] for epochs in EPOCHS},
                logistic=heads[size]["accuracy"],
                C=heads[size]["C"],
            )
            for size, draws in self.plan.train.items()
        )
        self.times = Times(
            codes=None if self._timed is None else self._timed.seconds,
            n_images=0 if self._timed is None else self._timed.result["n_images"],
            softmax={epochs: softmax[most][str(epochs)]["seconds"] for epochs in EPOCHS},
            logistic=head.seconds,
        )
        self._describe(points, head.result["notes"])

    def _describe(self, points: tuple[Point, ...], notes: Sequence[str]) -> None:
        with CodeStore.open(self._codes) as store:
            info = store.backbone
            self.images_sha256 = digest_images(store.digests)
            n_skipped = len(store.skipped)
            self.result = NetworkResult(
                name=self._name,
                backbone=info.backbone,
                weights=info.weights,
                weights_file=info.weights_file,
                precision=info.precision,
                backbone_sha256=store.backbone_sha256,
                code_shape=tuple(store.codes.shape[1:]),
                points=points,
            )
        self.notes = list(notes)
        if n_skipped:
            self.notes.append(f"image files that cannot be used, and are left out: {n_skipped}")

    def _softmax(self, size: int, most: int) -> dict[str, Any]:
        """Train and test the published softmax layer; return a result for each of its epochs."""
        train, test, y = self.plan.train[size][0], self.plan.test, self.plan.y

        def compute() -> dict[str, Any]:
            with CodeStore.open(self._codes) as store:
                results = train_softmax(
                    CodeRows(store, train),
                    y[train],
                    CodeRows(store, test),
                    y[test],
                    epochs=EPOCHS,
                    seed=self._seed,
                    masses=self.plan.weighting.masses(train),
                    progress=self._progress,
                )
            return {
                str(each.epochs): {"accuracy": each.accuracy, "seconds": round(each.seconds, 3)}
                for each in results
            }

        images = "all images" if size == most else f"at most {counted(size, 'image')} per class"
        return self._run(f"softmax, {images}", compute, _SOFTMAX, size=size).result

    def _logistic(self) -> Step:
        """Train and test the logistic head on all training images."""

        def compute() -> dict[str, Any]:
            training = train_head(
                self._codes,
                self._head,
                estimator="logistic",
                train_fraction=TRAIN_FRACTION,
                split=SPLIT,
                seed=self._seed,
                overwrite=True,
                progress=self._progress,
            )
            return {
                "accuracy": training.test.accuracy,
                "C": training.fitted["C"],
                "notes": training.notes,
                "seconds": training.seconds,
            }

        is_there = exists(self._head)
        form = {**_HEAD, "notes": list}
        return self._run("logistic head, all images", compute, form, is_there=is_there)

    def _smaller_heads(self, sizes: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Train and test logistic heads on fewer images; return a result for each number."""

        def compute() -> dict[str, Any]:
            (curve,) = learning_curves(
                [self._codes],
                self._curve,
                per_class=sizes,
                seeds=1,
                seed=self._seed,
                train_fraction=TRAIN_FRACTION,
                split=SPLIT,
                overwrite=True,
                progress=self._progress,
            )
            return {
                str(point.per_class): {"accuracy": point.mean, "C": point.C}
                for point in curve.points
            }

        is_there = exists(self._curve)
        form = {str(size): _HEAD for size in sizes}
        step = self._run(
            "logistic heads, fewer images", compute, form, is_there=is_there, sizes=list(sizes)
        )
        results = step.result
        return {size: results[str(size)] for size in sizes}

    def _run(
        self,
        work: str,
        compute: Callable[[], dict[str, Any]],
        form: Form,
        *,
        is_there: bool = True,
        **inputs: Any,
    ) -> Step:
        """Return a step of this network; it is finished only if the file it writes is there."""
        inputs |= {"codes": self._sha256, "seed": self._seed, "epochs": EPOCHS}
        inputs |= {"by": created_with("numpy", "sklearn")}
        name = f"{self._name}: {work}"
        step = self._steps.find(name, inputs, form) if is_there else None
        if step is None:
            self._report(work)
            step = self._steps.run(name, inputs, compute)
        else:
            self._steps.keep(step)
        return step

    def _report(self, work: str) -> str:
        name = f"{self._name}: {work}"
        self._progress.print_line(f"{name} …")
        return name
