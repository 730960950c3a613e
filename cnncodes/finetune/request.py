"""The parameters of a fine-tuning, checked before hours of work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cnncodes.errors import MissingDependencyError, OutputError, ParameterError
from cnncodes.export.architectures import Layer, layers_of
from cnncodes.export.backbones import BACKBONES, BackboneSpec
from cnncodes.export.weights import describe_weights
from cnncodes.finetune.codes import Codes
from cnncodes.finetune.cuts import check_cut, check_outputs
from cnncodes.finetune.recipe import Recipe
from cnncodes.head.split import METHODS
from cnncodes.output import FOLDER, MODEL, check_folder, check_output
from cnncodes.parameters import (
    CODE_POOLS,
    EPOCHS,
    INPUT_SIZE,
    LEARNING_RATE,
    NETWORK_BATCH,
    SEED,
    TRAIN_FRACTION,
    VALIDATION_FRACTION,
    VIEWS,
    as_path,
    check_choice,
    check_class_weight,
)

KEY_DIGITS = 8
POOLS = tuple(pool for pool in CODE_POOLS if pool != "none")


@dataclass(frozen=True)
class Request:
    """The parameters of `finetune`.

    Attributes
    ----------
    layers : list of Layer
        All layers of the network.
    codes : Codes
        What the head sees.
    origin : str
        Its weights, as metadata name them.

    Notes
    -----
    The others are those of `finetune`.
    """

    source: Path
    network: str
    output: Path
    weights: str
    input_size: int
    from_layer: str
    augment: str
    codes: Codes
    tta: bool
    frozen_int8: bool
    recipe: Recipe
    train_fraction: float
    split: str
    class_weight: str | None
    group_by: str | None
    exclude: Path | None
    keep_together: Path | None
    seed: int
    int8: bool
    work: Path
    overwrite: bool
    layers: list[Layer]
    origin: str

    @property
    def spec(self) -> BackboneSpec:
        """The network's row in the table."""
        return BACKBONES[self.network]

    @property
    def int8_output(self) -> Path:
        """The int8 app, beside the app."""
        return self.output.with_name(f"{self.output.stem}.int8{self.output.suffix}")

    @property
    def n_views(self) -> int:
        """Number of views of each image."""
        return VIEWS[self.augment]

    @property
    def frozen(self) -> Path:
        """The backbone file of the layers that are left as they are."""
        return self.work / f"frozen-{self.from_layer}.onnx"

    @property
    def computed(self) -> Path:
        """The backbone file that computes the activations: `frozen`, or the same in int8."""
        return self.frozen.with_suffix(".int8.onnx") if self.frozen_int8 else self.frozen

    @property
    def activations(self) -> Path:
        """The codes file of its codes."""
        precision = "-int8" if self.frozen_int8 else ""
        return self.work / f"activations-{self.from_layer}-{self.augment}{precision}.h5"

    def key(self, **data: Any) -> str:
        """Return a digest of all that determines the training; `data` are JSON types."""
        described = {
            "network": self.network,
            "weights": self.origin,
            "input_size": self.input_size,
            "from_layer": self.from_layer,
            "augment": self.augment,
            "codes": [self.codes.layers, self.codes.pool],
            "recipe": asdict(self.recipe),
            "class_weight": self.class_weight,
            "seed": self.seed,
            **data,
        }
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:KEY_DIGITS]


def check_request(
    source: str | Path,
    network: str,
    output: str | Path,
    *,
    weights: str,
    input_size: int,
    from_layer: str | None,
    layers: str | Sequence[str] | None,
    pool: str,
    augment: str,
    tta: bool,
    frozen_int8: bool,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    validation_fraction: float,
    train_fraction: float,
    split: str,
    class_weight: str | None,
    group_by: str | None,
    exclude: str | Path | None,
    keep_together: str | Path | None,
    seed: int,
    int8: bool,
    work: str | Path | None,
    overwrite: bool,
) -> Request:
    """Check the parameters of `finetune`.

    Raises
    ------
    MissingDependencyError
        TensorFlow is not installed.
    ParameterError, WeightsError, OutputError
        As `finetune`.
    """
    spec = BACKBONES[check_choice(network, list(BACKBONES), "network")]
    if INPUT_SIZE.check(input_size, "input_size") < spec.min_input_size:
        raise ParameterError(
            f"{network} needs an input_size of {spec.min_input_size} pixels or more"
        )
    whole = layers_of(network, input_size)
    cut = check_cut(network, whole, from_layer)
    check_choice(pool, POOLS, "pool")
    codes = Codes.of(whole, check_outputs(spec, whole, layers, pool, cut), pool)
    if tta and check_choice(augment, tuple(VIEWS), "augment") == "none":
        raise ParameterError(
            "tta=True averages the views of an image, which has one; augment='hflip' makes more"
        )
    source, output = as_path(source, "source"), as_path(output, "output")
    if not output.name:  # a folder, such as "."
        check_output(output, overwrite=overwrite, endings=MODEL)
    work = output.with_suffix(".finetune") if work is None else as_path(work, "work")
    request = Request(
        source=source,
        network=network,
        output=output,
        weights=weights,
        input_size=input_size,
        from_layer=cut,
        augment=check_choice(augment, tuple(VIEWS), "augment"),
        codes=codes,
        tta=tta,
        frozen_int8=frozen_int8,
        recipe=Recipe(
            learning_rate=LEARNING_RATE.check(learning_rate, "learning_rate"),
            batch_size=NETWORK_BATCH.check(batch_size, "batch_size"),
            epochs=EPOCHS.check(epochs, "epochs"),
            validation_fraction=VALIDATION_FRACTION.check(
                validation_fraction, "validation_fraction"
            ),
        ),
        train_fraction=TRAIN_FRACTION.check(train_fraction, "train_fraction"),
        split=check_choice(split, METHODS, "split"),
        class_weight=check_class_weight(class_weight),
        group_by=group_by,
        exclude=None if exclude is None else as_path(exclude, "exclude"),
        keep_together=None if keep_together is None else as_path(keep_together, "keep_together"),
        seed=SEED.check(seed, "seed"),
        int8=int8,
        work=work,
        overwrite=overwrite,
        layers=whole,
        origin=describe_weights(spec, weights, seed),
    )
    check_tensorflow()
    inputs = [source, *([] if weights in ("imagenet", "random") else [Path(weights)])]
    for path in [output, *([request.int8_output] if int8 else [])]:
        check_output(path, overwrite=overwrite, inputs=inputs, endings=MODEL)
        frozen = (request.frozen, request.frozen.with_suffix(".int8.onnx"))
        if path.absolute() in [each.absolute() for each in frozen]:
            raise OutputError(f"{path}: is a file of the work itself; choose another name")
    check_folder(work, purpose="the activations", overwrite=True, inputs=inputs, endings=FOLDER)
    return request


def check_tensorflow(packages: Sequence[str] = ("keras", "tensorflow")) -> None:
    """Refuse to begin where TensorFlow is missing."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise MissingDependencyError(
            f"fine-tuning needs {' and '.join(missing)}; install the extra: "
            "pip install 'cnncodes[export]'"
        )
