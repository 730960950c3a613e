"""Training that goes on from an earlier head: its weights, its choices and its split."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import FileFormatError, ParameterError, TrainingError
from cnncodes.extract.store import CodeStore
from cnncodes.files import sha256_of
from cnncodes.head.chosen import normalization_of
from cnncodes.head.groups import notes_on_labelled
from cnncodes.head.joined import JoinedStore
from cnncodes.head.linear import LinearHead
from cnncodes.head.logistic.start import Start
from cnncodes.head.recipe import Recipe
from cnncodes.head.rows import CodeRows
from cnncodes.head.sgd.softmax import SGDSoftmax
from cnncodes.head.split import Split, split_by_class
from cnncodes.images.class_maps import ClassMap
from cnncodes.models.metadata import HeadInfo, check_same_network, image_key
from cnncodes.models.session import open_session
from cnncodes.models.tensors import read_tensors
from cnncodes.text import counted, listed

KINDS = ("logistic", "ridge", "sgd")


@dataclass(frozen=True)
class ClassChange:
    """The accuracy of two heads on the test images of a class.

    Attributes
    ----------
    label : str
        The class.
    n_images : int
        Number of its test images.
    before : float or None
        Share of them that the earlier head recognises; None where it does not know the class.
    after : float
        Share of them that the new head recognises.
    """

    label: str
    n_images: int
    before: float | None
    after: float


@dataclass(frozen=True)
class Growth:
    """What became of an earlier head, on test images that neither head was trained on.

    Attributes
    ----------
    head : str
        Name of the earlier head's file.
    sha256 : str
        SHA-256 of that file.
    n_kept : int
        Number of training images that the earlier head was trained on too, copies counted once.
    n_images : int
        Number of test images of classes that both heads know.
    before, after : float or None
        Accuracy of the two heads on these; None without one.
    classes : list of ClassChange
        Each class that has test images.
    """

    head: str
    sha256: str
    n_kept: int
    n_images: int
    before: float | None
    after: float | None
    classes: list[ClassChange]

    @property
    def entry(self) -> dict[str, Any]:
        """Entry of `HeadInfo.training`."""
        entry = asdict(self)
        del entry["classes"]
        return entry


class EarlierHead:
    """A linear head that a training goes on from.

    Parameters
    ----------
    path : Path
        The head.

    Raises
    ------
    FileFormatError
        It is no head, or damaged.
    ParameterError
        It is of several labels per image, of a kind without weights to start from, or of several
        networks.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _, metadata = open_session(path, "head")
        self.info = HeadInfo.from_metadata(metadata, path)
        if self.info.has_several_labels:
            raise ParameterError(
                f"{path}: is a head of several labels per image, and training goes on from one of "
                "classes only; train without it"
            )
        kind = self.info.training.get("estimator")
        if kind not in KINDS:
            raise ParameterError(
                f"{path}: is a head of the kind {kind!r:.40}, which has no weights to start from; "
                f"only {listed(KINDS)} have"
            )
        if self.info.parts:
            raise ParameterError(
                f"{path}: takes the codes of {len(self.info.parts)} networks side by side, which "
                "are scaled anew by each training; train it again without it"
            )
        self.kind = str(kind)
        fitted = self.info.training.get("fitted")
        self._fitted: dict[str, Any] = fitted if isinstance(fitted, dict) else {}
        self._keeps_C = True
        self.normalize = normalization_of(self._fitted)
        tensors = read_tensors(path, ("weights", "bias"))
        self.labels = list(self.info.labels)
        n_classes = len(self.labels)
        sizes = [tensors[name].size for name in ("weights", "bias") if name in tensors]
        if len(sizes) < 2 or sizes[1] != n_classes or sizes[0] % n_classes:
            raise FileFormatError(f"{path}: has no weights of its classes; train it again")
        weights = tensors["weights"].reshape(-1, n_classes)
        self.head = LinearHead(weights, tensors["bias"], normalize=self.info.normalize)

    def choices(
        self, estimator: Any, normalize: str, C: float | str, sgd: dict[str, Any] | None
    ) -> tuple[str, str, float | str, dict[str, Any] | None]:
        """Return the parameters of `train_head`, those of this head where they are the default.

        Raises
        ------
        ParameterError
            The kind or the normalisation is another.
        """
        if estimator not in ("auto", self.kind):
            raise ParameterError(
                f"{self.path}: is a {self.kind} head, and training goes on with that kind; leave "
                f"out estimator={estimator!r}, or train without the earlier head"
            )
        if normalize not in ("none", self.normalize):
            raise ParameterError(
                f"{self.path}: its weights are on codes with the normalisation "
                f"{self.normalize}; leave out normalize={normalize!r}, or train without the "
                "earlier head"
            )
        fitted = self._fitted
        if self.kind == "sgd":
            known = SGDSoftmax().get_params().keys() - {"random_state"}
            kept = {name: each for name, each in fitted.items() if name in known}
            return self.kind, normalize, C, sgd if estimator == "sgd" and sgd else kept
        self._keeps_C = C == "auto"
        kept_C = fitted.get("C", "auto") if self._keeps_C else C
        return self.kind, self.normalize, kept_C, sgd

    def check(self, store: CodeStore) -> None:
        """Refuse codes that are not of the network of this head.

        Raises
        ------
        FileFormatError
            They are of another network or layer, or were extracted with another white.
        ParameterError
            They are of several networks.
        """
        if isinstance(store, JoinedStore):
            raise ParameterError(
                f"{self.path}: takes the codes of one network; name one codes file, or train "
                "without the earlier head"
            )
        trained, network = self.info.backbone, store.backbone
        check_same_network(
            *(self.path, self.info, store.path, network, store.backbone_sha256), allow_mixed=True
        )
        if trained.precision != network.precision or store.white != self.info.white:
            what = "precision" if trained.precision != network.precision else "white"
            raise FileFormatError(
                f"{self.path}: was trained on codes of another {what} than those of {store.path}; "
                "extract them again with the same"
            )
        if int(np.prod(store.codes.shape[1:])) != len(self.head.weights):
            raise FileFormatError(
                f"{self.path}: takes codes of another shape than {store.path} has; train without "
                "the earlier head"
            )

    def class_map(self, class_map: ClassMap | None, classes: list[str]) -> ClassMap | None:
        """Rename the classes of this head, and return the new names of those of the codes.

        Of a class that is not listed it is the one that the training of this head gave to it.
        """
        recorded = ClassMap.of_head(self.path, self.info)
        if class_map is None:
            return recorded
        self.labels = [class_map.names.get(name, name) for name in self.labels]
        unlisted = {
            name: class_map.names.get(new, new)
            for name, new in ({} if recorded is None else recorded.names).items()
            if name in classes and name not in class_map.names
        }
        if not unlisted:
            return class_map
        path = class_map.path.with_name(f"{class_map.path.name} and {self.path.name}")
        return ClassMap(path, unlisted | dict(class_map.names))

    @property
    def trained_on_all(self) -> bool:
        """Whether no labelled image was kept out of the training of this head."""
        training = self.info.training
        return "refit" in training or training.get("measured_by") == "cross-validation"

    def trained(self, store: CodeStore) -> NDArray[np.bool_]:
        """Return for each image of a codes file whether this head was trained on it."""
        keys = map(image_key, store.of_images(store.digests))
        return np.array([key in self.info.training_images for key in keys], bool)

    def split(
        self,
        store: CodeStore,
        y: NDArray[np.int32],
        train_fraction: float,
        *,
        method: str,
        seed: int,
        groups: NDArray[np.intp],
    ) -> Split:
        """Split images so that this head was trained on none of the test part.

        Its training images train, and the others up to the train fraction of their class. Where
        this head was trained on all images there were, the others are new, and are split alone.

        Parameters
        ----------
        store : CodeStore
            An open codes file.
        y, train_fraction, method, seed, groups
            As for `split_by_class`.
        """
        trained = self.trained(store)
        if not self.trained_on_all:
            return split_by_class(
                y, train_fraction, method=method, seed=seed, groups=groups, trained=trained
            )
        known = np.isin(groups, groups[trained])
        rest = np.where(known, np.int32(-1), y)
        parts = split_by_class(rest, train_fraction, method=method, seed=seed, groups=groups)
        kept = np.flatnonzero(known & (y >= 0))
        return Split(np.sort(np.concatenate([parts.train, kept])), parts.test)

    def notes(
        self, store: CodeStore, y: NDArray[np.int32], parts: Split, names: list[str]
    ) -> list[str]:
        """Report the split, what is kept, and classes that are new or missing.

        Raises
        ------
        TrainingError
            The codes have no class of this head.
        """
        old = set(self.labels)
        if not old & set(names):
            raise TrainingError(
                f"{store.path}: has no class of {self.path} ({listed(self.labels)}); train "
                "without the earlier head"
            )
        n_kept = self._n_kept(store, parts.train)
        notes = notes_on_labelled(store, y, names)
        start = "" if self.kind == "ridge" else "starts from the weights of"
        kept = f"{self.kind}{self._kept_text()}"
        notes.append(
            f"{start or 'goes on from'} {self.path.name}, with its choices: {kept}; "
            f"{n_kept} of its {counted(len(self.info.training_images), 'training image')}, copies "
            f"counted once, are among the {len(parts.train)} that train"
        )
        if self.trained_on_all:
            notes.append(
                f"{self.path.name} was trained on all images there were, so both heads are "
                "compared on new images only"
            )
        if new := [name for name in names if name not in old]:
            notes.append(f"new: {listed(new)}")
        if missing := [name for name in self.labels if name and name not in set(names)]:
            notes.append(
                f"without an image, so that the new head does not know them: {listed(missing)}"
            )
        if untested := np.setdiff1d(y[parts.train], y[parts.test]).tolist():
            notes.append(f"not tested: {listed([names[each] for each in untested])}")
        return notes

    def notes_without_unknown(self) -> list[str]:
        """Report a score of none of these that the new head does not have."""
        if "unknown" not in self.info.training:
            return []
        return [
            f"{self.path.name} has a score of none of these, and the new head has none: it is "
            "fitted only where it is asked for"
        ]

    def _kept_text(self) -> str:
        C = self._fitted.get("C")
        text = "" if C is None or not self._keeps_C else f", C = {C:g}"
        return text + ("" if self.normalize == "none" else f", {self.normalize}")

    def start(self, names: list[str]) -> Start:
        """Return where the fit of a head with these classes starts; a new class is at zero."""
        columns = np.array([self._columns.get(name, -1) for name in names])
        weights = self.head.weights - self.head.weights.mean(axis=1, keepdims=True)
        bias = self.head.bias - self.head.bias.mean()
        known = columns >= 0
        return Start(
            np.where(known, weights[:, columns], np.float32(0)),
            np.where(known, bias[columns], np.float32(0)),
        )

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {name: column for column, name in enumerate(self.labels)}

    def compare(
        self, recipe: Recipe, head: LinearHead, images: NDArray[np.intp], names: list[str]
    ) -> Growth:
        """Measure this head and a new one on the same images.

        Parameters
        ----------
        recipe : Recipe
            The codes and classes.
        head : LinearHead
            The new head.
        images : ndarray of intp
            Images that neither was trained on.
        names : list of str
            The classes of the new head.
        """
        views = recipe.views
        # The index of each class of the earlier head among the new ones, −1 where it has none.
        indices = {name: index for index, name in enumerate(names)}
        renumbered = np.array([indices.get(name, -1) for name in self.labels])
        before, after = np.empty(len(images), np.intp), np.empty(len(images), np.intp)
        for span, block in CodeRows(recipe.store, views.tested_rows(images)).blocks():
            tested = views.tested(span)
            old, new = (
                views.average(each.log_probabilities(block)).argmax(axis=1)
                for each in (self.head, head)
            )
            before[tested], after[tested] = renumbered[old], new
        y = recipe.y[images]
        was_right, is_right = before == y, after == y
        classes = [
            ClassChange(
                names[label],
                int((y == label).sum()),
                float(was_right[y == label].mean()) if names[label] in self._columns else None,
                float(is_right[y == label].mean()),
            )
            for label in np.unique(y).tolist()
        ]
        known = np.isin(y, renumbered)
        return Growth(
            head=self.path.name,
            sha256=sha256_of(self.path),
            n_kept=self._n_kept(recipe.store, np.flatnonzero(recipe.y >= 0)),
            n_images=int(known.sum()),
            before=float(was_right[known].mean()) if known.any() else None,
            after=float(is_right[known].mean()) if known.any() else None,
            classes=classes,
        )

    def _n_kept(self, store: CodeStore, images: NDArray[np.intp]) -> int:
        """Count those of the images that trained this head; it lists copies once, too."""
        keys = CodeRows(store, images * store.n_views).image_keys()
        return len(keys & self.info.training_images)
