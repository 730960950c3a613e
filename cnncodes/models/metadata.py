"""The metadata of our ONNX files: backbone, head and app.

Every model of cnncodes has ``metadata_props`` whose keys start with ``cnncodes.``; they are
documented in ``docs/file-formats.md``, and read and written only here, with the standard library
alone.

To change the format: raise `FORMAT`, let `kinds.check_kind` accept the former one, and describe
both in ``docs/file-formats.md``.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from cnncodes.bounds import (
    MAX_DEPTH,
    fault_of_labels,
    fault_of_metadata,
    fault_of_thresholds,
    is_nested_deeply,
)
from cnncodes.errors import FileFormatError, OutputError, ParameterError
from cnncodes.models.description import weights_name
from cnncodes.parameters import COUNT, VIEWS, WHITE

FORMAT = "1"
LABELS_FORMAT = "2"  # of heads and apps with thresholds, which releases without them must refuse
PREFIX = "cnncodes."
KEY_BYTES = 6
UNKNOWN = "unknown"  # the output of a head or app: how unlike the training images an image is
PART_CODES = "network{}/codes/flat"  # in an app of several networks: the codes of one, from 1 on
REFUSED_FROM = 0.5  # of it: such an image is of none of the classes
REMEDIES = {
    "backbone": "make one with: cnncodes export",
    "head": "make one with: cnncodes train",
    "app": "make one with: cnncodes bundle",
}


@dataclass(frozen=True)
class BackboneInfo:
    """The metadata of a backbone.

    Attributes
    ----------
    backbone : str
        Name in the table of backbones, such as ``inception_v3``.
    weights : str
        ``imagenet``, ``random:SEED`` or ``file:SHA256``.
    input_size : int
        Height and width of the input image, in pixels.
    layer : str
        The Keras layer whose output is the codes; several, side by side, have commas in between.
    pool : str
        Of `CODE_POOLS`: pooling over height and width after `layer`.
    precision : str
        ``float32`` or ``int8``.
    parity : float
        Largest difference to Keras's codes, relative to the largest code.
    parity_images : str
        The images on which `parity` was measured.
    created_with : str
        Versions of the packages that made the file.
    parent_sha256 : str
        Of an int8 file: SHA-256 of the float32 file it was made from; else empty.
    quantization : str
        Of an int8 file: its settings and the closeness of its codes, as JSON; else empty.
    converter : str
        ``direct`` or ``tf2onnx``: what made the graph. Files of releases that had only tf2onnx
        have no such entry.
    weights_file : str
        Name of the weight file, where `weights` is of a file; empty in files of earlier releases.
    finetuned : str
        Of a fine-tuned network: the weights it was made from, the last layer that was left as it
        is, and a digest of the images, as JSON; else empty.
    network_size : int
        Height and width to which the graph resizes images for the network; 0 if it does not.
    """

    backbone: str
    weights: str
    input_size: int
    layer: str
    pool: str
    precision: str
    parity: float
    parity_images: str
    created_with: str
    parent_sha256: str = ""
    quantization: str = ""
    converter: str = "tf2onnx"
    weights_file: str = ""
    finetuned: str = ""
    network_size: int = 0

    def to_metadata(self) -> dict[str, str]:
        """Return the ``metadata_props`` of a backbone file."""
        described = {
            PREFIX + each.name: str(getattr(self, each.name))
            for each in fields(self)
            if getattr(self, each.name) != each.default
        }
        return {PREFIX + "format": FORMAT, PREFIX + "kind": "backbone", **described}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], path: Path) -> BackboneInfo:
        """Read ``metadata_props``; `path` is named in errors.

        Raises
        ------
        FileFormatError
            An entry is missing or of the wrong type.
        """
        with _damage_reported(path, "export it again"):
            text = {
                each.name: metadata[PREFIX + each.name]
                for each in fields(cls)
                if each.default is MISSING or PREFIX + each.name in metadata
            }
            if not all(isinstance(value, str) for value in text.values()):  # JSON of another file
                raise ValueError("an entry is not a string")
            if fault := fault_of_metadata(text, PREFIX):
                raise ValueError(fault)
            numbers = {
                "input_size": int(text["input_size"]),
                "parity": float(text["parity"]),
                "network_size": int(text.get("network_size", "0")),
            }
            for name in ("quantization", "finetuned"):
                _check_object(json.loads(text.get(name) or "{}"), name)
        return cls(**{**text, **numbers})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Part:
    """One of several networks whose codes a head reads side by side.

    Attributes
    ----------
    backbone : BackboneInfo
        The network.
    sha256 : str
        SHA-256 of its file.
    n_columns : int
        Number of its codes for an image.
    """

    backbone: BackboneInfo
    sha256: str
    n_columns: int

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {
            "backbone_info": self.backbone.to_metadata(),
            "backbone_sha256": self.sha256,
            "n_columns": self.n_columns,
        }

    @classmethod
    def from_json(cls, value: Any, path: Path) -> Part:
        """Read what `to_json` returns."""
        info = BackboneInfo.from_metadata(value["backbone_info"], path)
        sha256, n_columns = value["backbone_sha256"], COUNT.check(value["n_columns"], "n_columns")
        if not isinstance(sha256, str):
            raise ValueError("the SHA-256 of a part is not a text")
        return cls(info, sha256, n_columns)


@dataclass(frozen=True)
class HeadInfo:
    """The metadata of a head or an app.

    Attributes
    ----------
    labels : tuple of str
        The classes, in the order of the probabilities.
    training : dict
        Settings and results of the training; JSON types only.
    backbone : BackboneInfo
        The network whose codes the head reads.
    backbone_sha256 : str
        SHA-256 of that network's file.
    training_images : frozenset of str
        The `image_key` of each image the head was trained on.
    created_with : str
        Versions of the packages that made the file.
    white : int, optional
        The value of white in 16-bit grey; None where it is guessed for each image.
    card : dict
        Of an app: what a model card has beside the other entries; JSON types only.
    parts : tuple of Part
        The networks whose codes are read side by side, in this order, `backbone` first; empty
        for one network.
    measured_images : frozenset of str
        Of a head that was fitted again on all images: the `image_key` of each image that was kept
        out of the head that was measured. Else empty.
    thresholds : tuple of float
        Of a head of several labels per image: for each the probability from which an image has
        it. Else empty: an image is of one class.
    """

    labels: tuple[str, ...]
    training: dict[str, Any]
    backbone: BackboneInfo
    backbone_sha256: str
    training_images: frozenset[str]
    created_with: str
    white: int | None = None
    card: dict[str, Any] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    measured_images: frozenset[str] = frozenset()
    thresholds: tuple[float, ...] = ()

    @property
    def has_several_labels(self) -> bool:
        """Whether an image may have several labels or none: probabilities need not add up to 1."""
        return bool(self.thresholds)

    @property
    def normalize(self) -> str:
        """What the head does to codes before its weights; ``none`` in most files."""
        fitted = self.training.get("fitted")
        return str(fitted.get("normalize", "none")) if isinstance(fitted, dict) else "none"

    @property
    def networks(self) -> tuple[BackboneInfo, ...]:
        """All networks, one or those of `parts`."""
        return tuple(part.backbone for part in self.parts) or (self.backbone,)

    @property
    def n_views(self) -> int:
        """Views that an app makes of each image, 1 without test-time augmentation."""
        return VIEWS.get(str(self.card.get("tta")), 1)

    def trained_views(self, path: Path) -> str:
        """Return the views of an image that the head was trained on, as for `make_views`.

        Parameters
        ----------
        path : Path
            The file, named in the error.

        Raises
        ------
        ParameterError
            It was trained without views.
        """
        augment = self.training.get("augment")
        if not isinstance(augment, str) or VIEWS.get(augment, 1) == 1:
            raise ParameterError(
                f"{path}: was not trained on views of the images, which tta=True averages; leave "
                "it out, or train on codes with views: cnncodes extract --augment hflip makes them"
            )
        return augment

    def to_metadata(self, kind: str) -> dict[str, str]:
        """Return the ``metadata_props`` of a head or an app.

        Raises
        ------
        OutputError
            They exceed what `from_metadata` reads.
        """
        metadata = {
            PREFIX + "format": LABELS_FORMAT if self.thresholds else FORMAT,
            PREFIX + "kind": kind,
            PREFIX + "labels": json.dumps(self.labels),
            PREFIX + "training": json.dumps(self.training),
            PREFIX + "backbone_info": json.dumps(self.backbone.to_metadata()),
            PREFIX + "backbone_sha256": self.backbone_sha256,
            PREFIX + "training_images": _encoded_keys(self.training_images),
            PREFIX + "created_with": self.created_with,
            **(
                {PREFIX + "measured_images": _encoded_keys(self.measured_images)}
                if self.measured_images
                else {}
            ),
            **({PREFIX + "thresholds": json.dumps(self.thresholds)} if self.thresholds else {}),
            **({} if self.white is None else {PREFIX + "white": str(self.white)}),
            **({PREFIX + "card": json.dumps(self.card)} if self.card else {}),
            **(
                {PREFIX + "parts": json.dumps([each.to_json() for each in self.parts])}
                if self.parts
                else {}
            ),
        }
        fault = fault_of_labels(self.labels) or fault_of_metadata(metadata, PREFIX)
        if not fault and is_nested_deeply(self.training):
            fault = f"the training is nested deeper than {MAX_DEPTH} times"
        if fault:
            raise OutputError(f"the {kind} could not be opened: {fault}")
        return metadata

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], path: Path) -> HeadInfo:
        """Read ``metadata_props``; `path` is named in errors.

        Raises
        ------
        FileFormatError
            An entry is missing or damaged.
        """
        with _damage_reported(path, "make the file again"):
            if fault := fault_of_metadata(metadata, PREFIX):
                raise ValueError(fault)
            labels = json.loads(metadata[PREFIX + "labels"])
            if not isinstance(labels, list) or not all(isinstance(name, str) for name in labels):
                raise ValueError("the labels are not a list of names")
            if fault := fault_of_labels(labels):
                raise ValueError(fault)
            training = json.loads(metadata[PREFIX + "training"])
            _check_object(training, "training")
            white = metadata.get(PREFIX + "white")
            card = json.loads(metadata.get(PREFIX + "card", "{}"))
            _check_object(card, "card")
            parts = json.loads(metadata.get(PREFIX + "parts", "[]"))
            if not isinstance(parts, list):
                raise ValueError("the parts are not a list")
            thresholds = json.loads(metadata.get(PREFIX + "thresholds", "[]"))
            if fault := fault_of_thresholds(thresholds, len(labels)):
                raise ValueError(fault)
            return cls(
                labels=tuple(labels),
                training=training,
                backbone=BackboneInfo.from_metadata(
                    json.loads(metadata[PREFIX + "backbone_info"]), path
                ),
                backbone_sha256=metadata[PREFIX + "backbone_sha256"],
                training_images=_decoded_keys(metadata[PREFIX + "training_images"]),
                created_with=metadata[PREFIX + "created_with"],
                white=None if white is None else WHITE.check(int(white), "white"),
                card=card,
                parts=tuple(Part.from_json(each, path) for each in parts),
                measured_images=_decoded_keys(metadata.get(PREFIX + "measured_images", "")),
                thresholds=tuple(map(float, thresholds)),
            )


def _encoded_keys(keys: frozenset[str]) -> str:
    return base64.b64encode(bytes.fromhex("".join(sorted(keys)))).decode()


def _decoded_keys(text: str) -> frozenset[str]:
    keys = base64.b64decode(text, validate=True)
    if len(keys) % KEY_BYTES:
        raise ValueError("the training images are cut off")
    return frozenset(
        keys[start : start + KEY_BYTES].hex() for start in range(0, len(keys), KEY_BYTES)
    )


@contextmanager
def _damage_reported(path: Path, remedy: str) -> Iterator[None]:
    """Turn what reading damaged metadata raises into one error."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else error
        raise FileFormatError(f"{path}: the metadata are damaged ({reason}); {remedy}") from error


def _check_object(value: Any, name: str) -> None:
    """Refuse a value that is not a JSON object, or is nested too deeply to be printed."""
    if not isinstance(value, dict):
        raise ValueError(f"the {name} is not an object")
    if is_nested_deeply(value):
        raise ValueError(f"the {name} is nested deeper than {MAX_DEPTH} times")


def is_read(metadata: Mapping[str, str]) -> bool:
    """Return whether this release reads the format of a model of ours."""
    has_thresholds = PREFIX + "thresholds" in metadata
    return metadata[PREFIX + "format"] == (LABELS_FORMAT if has_thresholds else FORMAT)


def unknown_entries(unknown: float | None) -> dict[str, Any]:
    """Return what JSON of a prediction has of its score, nothing without one."""
    if unknown is None:
        return {}
    return {"unknown": unknown, "is_known": unknown < REFUSED_FROM}


def image_key(digest: str) -> str:
    """Return the key of an image in a head's metadata: the first bytes of its SHA-256, as hex."""
    return digest[: 2 * KEY_BYTES]


def check_same_network(
    path: Path,
    head: HeadInfo,
    other: Path,
    info: BackboneInfo,
    sha256: str,
    *,
    allow_mixed: bool = False,
) -> None:
    """Refuse a head for codes of another network than that of its training.

    Two float32 files of one network count as the same: their codes differ by rounding only, as
    with Winograd's convolutions and without.

    Parameters
    ----------
    path : Path
        The head; named in errors, as is `other`.
    head : HeadInfo
        Its metadata.
    other : Path
        A backbone file or a codes file.
    info : BackboneInfo
        The network of that file.
    sha256 : str
        SHA-256 of the backbone's file.
    allow_mixed : bool
        Whether the same network in another precision, float32 or int8, is accepted.

    Raises
    ------
    FileFormatError
        They do not belong together.
    """
    if sha256 == head.backbone_sha256:
        return
    trained = head.backbone
    parents = {trained.parent_sha256 or head.backbone_sha256, info.parent_sha256 or sha256}
    if len(parents) > 1 and not is_same_function(trained, info):
        raise FileFormatError(
            f"{path}: was trained on codes of another backbone "
            f"({_network(trained, head.backbone_sha256)}) than that of {other} "
            f"({_network(info, sha256)}); use files that belong together"
        )
    if not allow_mixed and {trained.precision, info.precision} != {"float32"}:
        networks = networks_text(trained, head.backbone_sha256, info, sha256)
        raise FileFormatError(
            f"{path}: was trained on codes of {networks}, as {other} is: the same network, but "
            "its codes differ a little; train on codes of the same file, or pass allow_mixed"
        )


def networks_text(old: BackboneInfo, old_sha256: str, new: BackboneInfo, new_sha256: str) -> str:
    """Name two networks whose codes must not be mixed, as ``OLD, not NEW``.

    Parameters
    ----------
    old, new : BackboneInfo
        The networks.
    old_sha256, new_sha256 : str
        SHA-256 of their files; named where the precision does not tell them apart.
    """
    is_same = (old.parent_sha256 or old_sha256) == (new.parent_sha256 or new_sha256)
    if is_same and old.precision != new.precision:
        return f"{old.backbone} in {old.precision}, not in {new.precision}"
    return f"{_network(old, old_sha256)}, not {_network(new, new_sha256)}"


def is_same_function(first: BackboneInfo, second: BackboneInfo) -> bool:
    """Return whether two files compute the same codes but for rounding and precision."""
    compared = ["backbone", "weights", "input_size", "network_size", "layer", "pool"]
    if first.weights.startswith("random:"):  # Keras drew those of earlier files
        compared.append("converter")
    return all(getattr(first, name) == getattr(second, name) for name in compared)


def _network(info: BackboneInfo, sha256: str) -> str:
    weights = weights_name(info.weights, info.weights_file)
    return f"{info.backbone}, {weights}, SHA-256 {sha256[:8]}…"


def later_format(path: Path, version: str, created_with: str) -> FileFormatError:
    """Return the error of a file in a format that this release does not read.

    Parameters
    ----------
    path : Path
        The file.
    version : str
        Its format.
    created_with : str
        Versions of the packages that made it; may be empty.

    Returns
    -------
    FileFormatError
        It names the release that made the file, where the file does.
    """
    maker = created_with.partition(",")[0]
    named = re.fullmatch(r"cnncodes [0-9][0-9A-Za-z.+]{0,40}", maker)
    release = f"{maker}, with which it was made, or later" if named else "a newer cnncodes"
    return FileFormatError(
        f"{path}: is in format {version[:40]!r}, this release reads format {FORMAT}; install "
        f"{release}"
    )


def with_article(noun: str) -> str:
    """Return the name of a kind of file with its article."""
    return f"an {noun}" if noun == "app" else f"a {noun}"
