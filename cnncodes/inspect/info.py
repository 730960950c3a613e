"""Description of any file of cnncodes, and the kind of some others."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnncodes.errors import FileFormatError
from cnncodes.files import check_regular, is_folder
from cnncodes.images.multilabel import several_text
from cnncodes.images.sources import UNLABELLED, find_images
from cnncodes.models.description import (
    card_rows,
    plain_text,
    precision_rows,
    short_digest,
    training_rows,
    weights_name,
    weights_text,
)
from cnncodes.models.kinds import KINDS, Kind, is_report, kind_of_file
from cnncodes.models.metadata import PREFIX, BackboneInfo, HeadInfo, is_read
from cnncodes.models.safety import check_model, read_header
from cnncodes.parameters import as_path
from cnncodes.text import counted, first_line, listed, shown

if TYPE_CHECKING:
    from cnncodes.extract.store import CodeStore


def describe(path: str | Path) -> dict[str, Any]:
    """Describe a file or a folder of images.

    Parameters
    ----------
    path : str or Path
        Any file, or a folder of images.

    Returns
    -------
    dict of str to JSON types
        ``what`` is the kind in a few words; the other keys depend on it.

    Raises
    ------
    FileFormatError
        The file is absent, a FIFO, socket or device, cannot be read, or is a model of cnncodes
        that `check_model` refuses.
    SourceError
        A folder holds no images, or contradicts itself.
    """
    path = as_path(path, "path")
    if is_folder(path):  # also one whose first entries are no images
        if is_report(path):
            return {"what": KINDS["report"].noun, "use": KINDS["report"].use}
        return _describe_source(path, KINDS["images"])
    n_bytes = check_regular(path).st_size
    if not n_bytes:  # a file of /proc has this size too, and reading it may never end
        return {"what": "an empty file", "bytes": 0}
    try:
        kind = kind_of_file(path)
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read ({error.strerror})") from error
    describe_kind = _DESCRIPTIONS.get(kind.name)
    if describe_kind is None:
        return {"what": kind.noun, "use": kind.use, "bytes": n_bytes}
    return describe_kind(path, kind)


def _describe_source(path: Path, kind: Kind) -> dict[str, Any]:
    images = find_images(path)
    return {
        "what": kind.noun,
        "use": kind.use,
        "images": len(images.paths),
        "images_by_class": images.class_counts() or "no labels",
        **({} if images.flags else _describe_unlabelled(images.class_names, images.n_unlabelled)),
        **({"labels": several_text(images.flags, len(images.class_names))} if images.flags else {}),
        **({"groups": len(set(images.groups) - {""})} if images.groups else {}),
        **({"notes": list(images.notes)} if images.notes else {}),
    }


def _describe_unlabelled(names: Sequence[str], n_images: int) -> dict[str, int]:
    """Count the images of no class, which those of the classes do not include."""
    return {"images_without_a_label": n_images} if names and n_images else {}


def _describe_weighting(store: CodeStore) -> dict[str, Any]:
    """Count the images that count more or less than others, or have a doubtful label."""
    described: dict[str, Any] = {}
    if len(weights := store.of_images(store.weights)):
        described["images_of_another_weight_than_1"] = int((weights != 1).sum())
    if len(probabilities := store.of_images(store.probabilities)):
        described["images_of_a_probability_below_1"] = int((probabilities < 1).sum())
    return described


def _describe_damaged(path: Path, kind: Kind) -> dict[str, Any]:
    """Describe an HDF5 file that cannot be opened."""
    from cnncodes.hdf5 import PlainFile

    try:
        with PlainFile(path) as file:
            file.text_attribute("kind"), file.number_attribute("complete")
        reason = "an object in it is damaged"
    except Exception as error:  # h5py has no common base class for damage
        reason = first_line(error).removeprefix(f"{path}: ")
    return {"what": kind.noun, "reason": reason}


def _describe_codes(path: Path, kind: Kind) -> dict[str, Any]:
    import numpy as np

    from cnncodes.extract.store import CodeStore
    from cnncodes.extract.writing import FORMAT as CODES_FORMAT

    with CodeStore.open(path) as store:
        names, labels = store.class_names, store.labels[:: store.n_views]
        matrix = store.label_matrix
        n_images = np.bincount(labels[labels >= 0], minlength=len(names)).tolist()
        if matrix is not None:
            n_images = (store.of_images(matrix) == 1).sum(axis=0).tolist()
        counts = dict(zip(names, n_images, strict=True))
        return {
            "what": kind.noun,
            "use": kind.use,
            "format": CODES_FORMAT,
            "images": store.n_images,
            **({} if store.n_views == 1 else {"augment": store.augment, "views": store.n_views}),
            "images_by_class": counts or "no labels",
            **(
                _describe_unlabelled(names, int((labels == UNLABELLED).sum()))
                if matrix is None
                else {"labels_per_image": _labels_per_image(store)}
            ),
            **({"groups": len({*store.groups} - {""})} if store.groups else {}),
            **_describe_weighting(store),
            "images_skipped": len(store.skipped),
            **({"skipped": dict(store.skipped)} if store.skipped else {}),
            "code_shape": list(store.codes.shape[1:]),
            "dtype": str(store.codes.dtype),
            **({} if store.white is None else {"white": store.white}),
            "source": store.source,
            **({} if store.part is None else {"part": [store.part.number, store.part.count]}),
            **_describe_backbone(store.backbone),
            "backbone_sha256": store.backbone_sha256,
            "created_with": store.created_with,
        }


def _labels_per_image(store: Any) -> dict[str, Any]:
    """Describe how many labels the images have, and how many of these are unknown."""
    matrix = store.of_images(store.label_matrix)
    return {
        "mean": round(float((matrix == 1).sum() / len(matrix)), 2),
        "most": int((matrix == 1).sum(axis=1).max()),
        "unknown": int((matrix > 1).sum()),
    }


def _describe_curve(path: Path, kind: Kind) -> dict[str, Any]:
    from cnncodes.evaluate.curve import FORMAT as CURVE_FORMAT
    from cnncodes.evaluate.curve import read_curves

    curves = read_curves(path)
    return {
        "what": kind.noun,
        "use": kind.use,
        "format": CURVE_FORMAT,
        "codes": [curve.codes for curve in curves],
        "backbones": [
            f"{curve.network}, {weights_text(curve.weights, curve.weights_file)}"
            for curve in curves
        ],
        "images_a_class": sorted({p.per_class for curve in curves for p in curve.points}),
        "seeds": max(len(p.accuracies) for curve in curves for p in curve.points),
        # One command makes all curves of a file.
        "split": curves[0].split,
        "train_fraction": curves[0].train_fraction,
        "seed": curves[0].seed,
        "created_with": curves[0].created_with,
    }


def _describe_model(path: Path, kind: Kind) -> dict[str, Any]:
    """Describe an ONNX file without running it."""
    header = read_header(path)
    if header is None:
        raise FileFormatError(f"{path}: has changed while it was read; try again")
    metadata = header.metadata
    output, *others = map(_shape_text, header.outputs)
    shapes = {
        "input": _shape_text(header.input),
        "output": output,
        **({"other_outputs": others} if others else {}),
    }
    if kind.name == "onnx":
        return {"what": kind.noun, "use": kind.use, **shapes}
    check_model(path)
    if not is_read(metadata):
        return {"what": f"{kind.noun} of another format", **shapes}
    described = {"what": kind.noun, "use": kind.use, "format": metadata[PREFIX + "format"]}
    if kind.name in ("backbone", "int8"):
        info = BackboneInfo.from_metadata(metadata, path)
        return {
            **described,
            **_describe_backbone(info),
            **shapes,
            "created_with": info.created_with,
        }
    head = HeadInfo.from_metadata(metadata, path)
    return {
        **described,
        **({"card": head.card} if head.card else {}),
        "labels": list(head.labels),
        **({"thresholds": list(head.thresholds)} if head.has_several_labels else {}),
        "training": head.training,
        **_describe_backbone(head.backbone),
        "backbone_sha256": head.backbone_sha256,
        **_describe_parts(head),
        "training_images": len(head.training_images),
        **({} if head.white is None else {"white": head.white}),
        **shapes,
        "created_with": head.created_with,
    }


def _describe_parts(head: HeadInfo) -> dict[str, Any]:
    """Describe the networks whose codes are side by side, where there are several."""
    parts = [
        {
            **_describe_backbone(part.backbone),
            "backbone_sha256": part.sha256,
            "n_columns": part.n_columns,
        }
        for part in head.parts
    ]
    return {"parts": parts} if parts else {}


def _describe_backbone(info: BackboneInfo) -> dict[str, Any]:
    return {
        "backbone": info.backbone,
        "weights": info.weights,
        **({"weights_file": info.weights_file} if info.weights_file else {}),
        **({"finetuned": json.loads(info.finetuned)} if info.finetuned else {}),
        "input_size": info.input_size,
        **({"network_size": info.network_size} if info.network_size else {}),
        "layer": info.layer,
        "pool": info.pool,
        "precision": info.precision,
        **({"quantization": json.loads(info.quantization)} if info.quantization else {}),
        "parity": info.parity,
        "parity_images": info.parity_images,
        "converter": info.converter,
    }


def _shape_text(message: bytes | None) -> str:
    """Format name, type and shape of an input or output, a message ``ValueInfoProto``."""
    import onnx
    from google.protobuf.message import DecodeError

    if message is None:
        return "none"
    value = onnx.ValueInfoProto()
    try:
        value.ParseFromString(message)
    except DecodeError:
        return "damaged"
    if value.type.WhichOneof("value") != "tensor_type":
        return f"{value.name}: not a tensor"
    tensor = value.type.tensor_type
    lengths = [str(each.dim_param or each.dim_value) for each in tensor.shape.dim]
    try:
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except KeyError:
        dtype = f"type {tensor.elem_type}"
    return f"{value.name}: {dtype} [{', '.join(lengths)}]"


_DESCRIPTIONS: dict[str, Callable[[Path, Kind], dict[str, Any]]] = {
    "table": _describe_source,
    "codes": _describe_codes,
    "damaged": _describe_damaged,
    "curve": _describe_curve,
    **dict.fromkeys(("backbone", "int8", "head", "app", "onnx"), _describe_model),
}


def as_text(described: dict[str, Any]) -> str:
    """Format a description as aligned lines."""
    rows = [row for key, value in described.items() for row in _rows(key, value, described)]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {text}" for name, text in rows)


def _rows(key: str, value: Any, described: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the lines of one entry, as pairs of name and text; none where another has it."""
    name = shown(key.replace("_", " "))
    if key in ("weights_file", "parity_images", "quantization", "augment", "views"):
        return []  # in the line of the weights, of the parity or of the images
    if key == "images" and "views" in described:
        return [(name, f"{value} × {described['views']} views ({described['augment']})")]
    if key == "training_images":
        return [(name, f"{value}, copies counted once")]
    if key == "part":
        return [(name, f"{value[0]} of {value[1]}, which cnncodes merge joins")]
    if key == "weights":
        return [(name, weights_name(value, described.get("weights_file", "")))]
    if key == "parity":
        return precision_rows(value, described["parity_images"], described.get("quantization", {}))
    if key == "card":
        return card_rows(value)
    if key == "thresholds":
        texts = [
            f"{shown(label)} from {threshold:.1%}"
            for label, threshold in zip(described["labels"], value, strict=True)
        ]
        return [("several labels", f"an image may have any of them: {listed(texts)}")]
    if key == "training":
        return training_rows(value)
    if key == "backbone_sha256":
        return [(name, f"{short_digest(value)}… (--json has all digits)")]
    if key == "parts":
        texts = [
            f"{shown(part['backbone'])}, {weights_name(part['weights'])}, "
            f"{counted(part['n_columns'], 'code')}"
            for part in value
        ]
        return [(name if index == 0 else "", text) for index, text in enumerate(texts)]
    if key == "notes":
        return [(name if index == 0 else "", shown(note)) for index, note in enumerate(value)]
    if key == "other_outputs":
        return [("", plain_text(text)) for text in value]
    if key == "skipped":
        return [("", f"{shown(path)}: {shown(reason)}") for path, reason in value.items()]
    if key == "images_by_class" and isinstance(value, dict):
        width = max(len(shown(label)) for label in value)
        digits = max(len(str(count)) for count in value.values())
        texts = [f"{shown(label):{width}}  {count:{digits}}" for label, count in value.items()]
        return [(name if index == 0 else "", text) for index, text in enumerate(texts)]
    return [(name, plain_text(value))]
