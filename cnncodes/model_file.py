"""The self-describing ONNX file: what its metadata says, and opening it safely.

Every model cnncodes writes carries ``metadata_props`` whose keys start with ``cnncodes.``; their
meaning is written down in ``docs/file-formats.md``. This module is the one place that reads
and writes them. It needs nothing but the standard library and, to open a session, onnxruntime.

To change the format: raise `FORMAT`, teach `check_kind` to read the former one, and describe
both in ``docs/file-formats.md``.
"""

from __future__ import annotations

import base64
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnncodes.bounds import (
    MAX_DEPTH,
    fault_of_labels,
    fault_of_metadata,
    is_nested_deeply,
)
from cnncodes.errors import FileFormatError, OutputError, ParameterError, SaturationWarning
from cnncodes.files import check_filled
from cnncodes.machine import available_threads
from cnncodes.model_check import check_model
from cnncodes.parameters import THREADS

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FORMAT = "1"
PREFIX = "cnncodes."
KEY_BYTES = 6
WRITTEN_OPSET, WRITTEN_IR = 18, 8  # those of our own files
# Largest magnitude of an int8 weight: all 8 bits, or 7 where sums of two products in 16 bits
# saturate (255 · 63 · 2 fits, 255 · 127 · 2 does not).
FULL_WEIGHTS, REDUCED_WEIGHTS = 127, 63
# A MatMulInteger of uint8 [1, 8] by int8 [8, 16], opset 18; here as bytes since opening a file
# must not need the onnx package.
_PRODUCT = (
    "CAg6XAoYCgFhCgFiEgF5Ig1NYXRNdWxJbnRlZ2VyEgFwWhMKAWESDgoMCAISCAoCCAEKAggIWhMKAWISDgoMCAMS"
    "CAoCCAgKAggQYhMKAXkSDgoMCAYSCAoCCAEKAggQQgQKABAS"
)
DEFAULT_PROVIDER = "cpu"
PROVIDER_SUFFIX = "ExecutionProvider"
REMEDIES = {
    "backbone": "make one with: cnncodes export",
    "head": "make one with: cnncodes train",
    "app": "make one with: cnncodes bundle",
}


@dataclass(frozen=True)
class BackboneInfo:
    """What a backbone file says of itself.

    Attributes
    ----------
    backbone : str
        Name in the table of backbones, such as ``inception_v3``.
    weights : str
        ``imagenet``, ``random:SEED`` or ``file:SHA256``.
    input_size : int
        Height and width of the input image, in pixels.
    layer : str
        The Keras layer whose output is the codes.
    pool : str
        ``none``, ``avg`` or ``max``: pooling over height and width after `layer`.
    precision : str
        ``float32`` or ``int8``.
    parity : float
        Largest difference to Keras's codes, relative to the largest code.
    parity_images : str
        The images on which `parity` was measured.
    created_with : str
        The versions of what made the file.
    parent_sha256 : str
        SHA-256 of the float32 file that an int8 one was made from, else empty.
    quantization : str
        How an int8 file was made and how near its codes are, as JSON, else empty.
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

    def to_metadata(self) -> dict[str, str]:
        """Return the ``metadata_props`` of a backbone file; those of int8 only where it is."""
        described = {
            PREFIX + field.name: str(getattr(self, field.name))
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }
        return {PREFIX + "format": FORMAT, PREFIX + "kind": "backbone", **described}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], path: Path) -> BackboneInfo:
        """Read ``metadata_props``; `path` is named in errors.

        Raises
        ------
        FileFormatError
            An entry is missing or not a number where one belongs.
        """
        try:
            if not isinstance(metadata, Mapping):  # JSON of a stranger
                raise TypeError("they are no object")
            text = {
                field.name: metadata[PREFIX + field.name]
                for field in fields(cls)
                if field.default is MISSING or PREFIX + field.name in metadata
            }
            if not all(isinstance(value, str) for value in text.values()):
                raise TypeError("an entry is not a string")
            if fault := fault_of_metadata(text, PREFIX):
                raise ValueError(fault)
            numbers = {"input_size": int(text["input_size"]), "parity": float(text["parity"])}
            _check_object(json.loads(text.get("quantization") or "{}"), "quantization")
        except KeyError as error:
            raise FileFormatError(
                f"{path}: the metadata entry {error.args[0]} is missing; export it again"
            ) from error
        except (TypeError, ValueError, RecursionError) as error:
            raise FileFormatError(
                f"{path}: the metadata are damaged ({error}); export it again"
            ) from error
        return cls(**{**text, **numbers})  # type: ignore[arg-type]


@dataclass(frozen=True)
class HeadInfo:
    """What a head or an app says of itself.

    Attributes
    ----------
    labels : tuple of str
        The classes, in the order of the probabilities.
    training : dict
        How the head was trained and what it reached; JSON types only.
    backbone : BackboneInfo
        The network whose codes the head takes.
    backbone_sha256 : str
        SHA-256 of that network's file.
    training_images : frozenset of str
        The `image_key` of each image the head was trained on.
    created_with : str
        The versions of what made the file.
    white : int, optional
        The value of white in 16-bit grey; by default it is guessed from each image.
    """

    labels: tuple[str, ...]
    training: dict[str, Any]
    backbone: BackboneInfo
    backbone_sha256: str
    training_images: frozenset[str]
    created_with: str
    white: int | None = None

    def to_metadata(self, kind: str) -> dict[str, str]:
        """Return the ``metadata_props`` of a head or an app.

        Raises
        ------
        OutputError
            They are more than `from_metadata` reads.
        """
        keys = bytes.fromhex("".join(sorted(self.training_images)))
        metadata = {
            PREFIX + "format": FORMAT,
            PREFIX + "kind": kind,
            PREFIX + "labels": json.dumps(self.labels),
            PREFIX + "training": json.dumps(self.training),
            PREFIX + "backbone_info": json.dumps(self.backbone.to_metadata()),
            PREFIX + "backbone_sha256": self.backbone_sha256,
            PREFIX + "training_images": base64.b64encode(keys).decode(),
            PREFIX + "created_with": self.created_with,
            **({} if self.white is None else {PREFIX + "white": str(self.white)}),
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
        try:
            if fault := fault_of_metadata(metadata, PREFIX):
                raise ValueError(fault)
            labels = json.loads(metadata[PREFIX + "labels"])
            if not isinstance(labels, list) or not all(isinstance(name, str) for name in labels):
                raise ValueError("the labels are not a list of names")
            if fault := fault_of_labels(labels):
                raise ValueError(fault)
            training = json.loads(metadata[PREFIX + "training"])
            _check_object(training, "training")
            keys = base64.b64decode(metadata[PREFIX + "training_images"], validate=True).hex()
            if len(keys) % (2 * KEY_BYTES):
                raise ValueError("the training images are cut off")
            return cls(
                labels=tuple(labels),
                training=training,
                backbone=BackboneInfo.from_metadata(
                    json.loads(metadata[PREFIX + "backbone_info"]), path
                ),
                backbone_sha256=metadata[PREFIX + "backbone_sha256"],
                training_images=frozenset(
                    keys[start : start + 2 * KEY_BYTES]
                    for start in range(0, len(keys), 2 * KEY_BYTES)
                ),
                created_with=metadata[PREFIX + "created_with"],
                white=_white(metadata.get(PREFIX + "white")),
            )
        except (KeyError, ValueError, RecursionError) as error:
            raise FileFormatError(
                f"{path}: the metadata are damaged ({error}); make the file again"
            ) from error


def _white(value: str | None) -> int | None:
    """Read the value of white in 16-bit grey, which need not be there."""
    if value is None:
        return None
    if not (value.isascii() and value.isdecimal() and len(value) <= 5 and 1 <= int(value) < 2**16):
        raise ValueError("white is not a whole number of 16 bits")
    return int(value)


def _check_object(value: Any, name: str) -> None:
    """Refuse what is no JSON object, or one nested so deep that it could not be printed."""
    if not isinstance(value, dict):
        raise ValueError(f"the {name} is not an object")
    if is_nested_deeply(value):
        raise ValueError(f"the {name} is nested deeper than {MAX_DEPTH} times")


def image_key(digest: str) -> str:
    """Return by what a head remembers an image: its file's SHA-256, cut off, hexadecimal."""
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
    """Refuse a head with codes of another network than that of its training.

    Parameters
    ----------
    path : Path
        The head; named in errors, as is `other`.
    head : HeadInfo
        What it says of itself.
    other : Path
        A backbone file, or a codes file.
    info : BackboneInfo
        What that file says of the network.
    sha256 : str
        SHA-256 of the backbone's file.
    allow_mixed : bool
        Whether the same network will do in another precision, float32 or int8.

    Raises
    ------
    FileFormatError
        They do not belong together.
    """
    if sha256 == head.backbone_sha256:
        return
    ours, theirs = head.backbone, info
    if (ours.parent_sha256 or head.backbone_sha256) != (theirs.parent_sha256 or sha256):
        raise FileFormatError(
            f"{path}: was trained on codes of another backbone "
            f"({_network(ours, head.backbone_sha256)}) than that of {other} "
            f"({_network(theirs, sha256)}); use files that belong together"
        )
    if not allow_mixed:
        raise FileFormatError(
            f"{path}: was trained on {ours.precision} codes of {ours.backbone} "
            f"({head.backbone_sha256[:8]}…), {other} is {theirs.precision} ({sha256[:8]}…): the "
            "same network, but the codes differ a little; train on codes of that file, or pass "
            "--allow-mixed"
        )


def _network(info: BackboneInfo, sha256: str) -> str:
    return f"{info.backbone}, {info.weights}, SHA-256 {sha256[:8]}…"


def warn_of_saturation(path: Path, info: BackboneInfo) -> None:
    """Warn if a network's int8 weights are too large for this processor's sums."""
    described = json.loads(info.quantization or "{}")
    if described.get("weight_limit") == FULL_WEIGHTS and kernels_saturate():
        warnings.warn(
            f"{path}: its int8 weights use 8 bits, but this processor's 16-bit sums overflow "
            "with more than 7: codes will be wrong at times; quantize it here, or with "
            "--weights reduced, or use the float32 file",
            SaturationWarning,
            stacklevel=3,
        )


def check_kind(metadata: Mapping[str, str], path: Path, *kinds: str) -> None:
    """Refuse a model that is foreign, of a later format or of another kind.

    Parameters
    ----------
    metadata : mapping of str to str
        The model's ``metadata_props``.
    path : Path
        Named in the error.
    *kinds : {"backbone", "head", "app"}
        What the caller needs; any of them will do.

    Raises
    ------
    FileFormatError
        The model cannot serve as any of `kinds`.
    """
    remedy = REMEDIES[kinds[0]]
    if PREFIX + "format" not in metadata:
        raise FileFormatError(f"{path}: an ONNX model, but not one of cnncodes; {remedy}")
    if metadata[PREFIX + "format"] != FORMAT:
        made_with = metadata.get(PREFIX + "created_with", "")
        raise later_format(path, metadata[PREFIX + "format"], made_with)
    found = metadata.get(PREFIX + "kind", "file of no kind")
    if found not in kinds:
        needed = " or ".join(map(_with_article, kinds))
        raise FileFormatError(
            f"{path}: is {_with_article(found)}, but {needed} is needed; {remedy}"
        )


def later_format(path: Path, version: str, created_with: str) -> FileFormatError:
    """Return the error of a file in a format that this release does not read.

    Parameters
    ----------
    path : Path
        The file.
    version : str
        Its format.
    created_with : str
        What it says of the versions it was made with; may be empty.

    Returns
    -------
    FileFormatError
        It names a release that reads the file, if the file does.
    """
    made_with = created_with.partition(",")[0]
    named = re.fullmatch(r"cnncodes [0-9][0-9A-Za-z.+]{0,40}", made_with)
    release = f"{made_with}, with which it was made, or later" if named else "a newer cnncodes"
    return FileFormatError(
        f"{path}: is in format {version[:40]!r}, this release reads format {FORMAT}; install "
        f"{release}"
    )


def _with_article(noun: str) -> str:
    return f"an {noun}" if noun == "app" else f"a {noun}"


@cache
def kernels_saturate() -> bool:
    """Tell whether onnxruntime's products of uint8 and int8 overflow on this processor.

    Its kernels for AVX2 without VNNI add two products in 16 bits, which saturate; those for VNNI,
    AMX and ARM do not. The largest numbers are multiplied to see.
    """
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(
        base64.b64decode(_PRODUCT), providers=["CPUExecutionProvider"]
    )
    bytes_ = np.full((1, 8), 255, np.uint8)
    weights = np.full((8, 16), FULL_WEIGHTS, np.int8)
    product = session.run(None, {"a": bytes_, "b": weights})[0]
    return bool((product != 8 * 255 * FULL_WEIGHTS).any())


def find_provider(name: str) -> str:
    """Return what onnxruntime calls an execution provider.

    Parameters
    ----------
    name : str
        Its full name, such as ``OpenVINOExecutionProvider``, or the first part alone; upper and
        lower case are the same.

    Returns
    -------
    str
        The full name.

    Raises
    ------
    ParameterError
        This build of onnxruntime does not have it.
    """
    import onnxruntime

    available: dict[str, str] = {
        full.removesuffix(PROVIDER_SUFFIX).lower(): full
        for full in onnxruntime.get_available_providers()
    }
    if not isinstance(name, str):
        raise ParameterError(f"provider must be a name, such as 'cpu', not {type(name).__name__}")
    wanted = name.lower().removesuffix(PROVIDER_SUFFIX.lower())
    if wanted not in available:
        raise ParameterError(
            f"provider {name}: this onnxruntime has {', '.join(sorted(available))}; choose one "
            "of these, or install another build of onnxruntime, such as onnxruntime-openvino, "
            "onnxruntime-gpu (cuda) or onnxruntime-directml (dml)"
        )
    return available[wanted]


def open_session(
    path: Path, *kinds: str, threads: int | None = None, provider: str = DEFAULT_PROVIDER
) -> tuple[InferenceSession, dict[str, str]]:
    """Open one of our models in onnxruntime, after looking at what is in it.

    Parameters
    ----------
    path : Path
        The ONNX file.
    *kinds : {"backbone", "head", "app"}
        What the caller needs; any of them will do.
    threads : int, optional
        Threads of the session; by default all the processors there are.
    provider : str
        The execution provider, as `find_provider` takes it. What it cannot compute is computed
        on the CPU.

    Returns
    -------
    session : onnxruntime.InferenceSession
        A session with that provider.
    metadata : dict of str to str
        The model's ``metadata_props``.

    Raises
    ------
    FileFormatError
        The file is absent, not regular, empty, unreadable, foreign, of a later format or of
        another kind; or it needs other files or operators, as `check_model` says.
    ParameterError
        The provider is not there or cannot start, or `threads` is out of range.
    """
    import onnxruntime

    threads = THREADS.check_or_none(threads, "threads") or available_threads()
    check_filled(path, REMEDIES[kinds[0]])
    outline = check_model(path)
    check_kind(outline.metadata, path, *kinds)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Not a format of its own, of which `check_model` knows nothing, whatever the file is called.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.log_severity_level = 4  # errors reach us as exceptions too, the rest is chatter
    full_name = find_provider(provider)
    how = "" if full_name == "CPUExecutionProvider" else f" with the provider {provider}"
    try:
        session = onnxruntime.InferenceSession(
            _named_or_read(path), options, providers=[full_name], enable_fallback=0
        )
    except Exception as error:  # onnxruntime has no common base class for its errors
        reason = str(error).strip().partition("\n")[0]
        is_later = outline.opset > WRITTEN_OPSET or outline.ir_version > WRITTEN_IR
        remedy = (
            f"; it is of opset {outline.opset} and IR version {outline.ir_version}, and "
            f"onnxruntime {onnxruntime.__version__} may be too old for it: install a newer one"
        )
        raise FileFormatError(
            f"{path}: cannot be opened as an ONNX model{how} ({reason}){remedy * is_later}"
        ) from error
    if full_name not in session.get_providers():  # onnxruntime goes on without it
        raise ParameterError(
            f"provider {provider}: is built into this onnxruntime, but cannot start here; "
            "install what it needs, or leave provider out"
        )
    return session, outline.metadata


def _named_or_read(path: Path) -> str | bytes:
    """Return the path of a model, or its content where onnxruntime cannot be given the path."""
    try:
        str(path).encode()
    except UnicodeEncodeError:  # it has bytes that are no UTF-8, and onnxruntime takes text only
        return path.read_bytes()
    return str(path)


def run_session(session: InferenceSession, path: Path, output: str, name: str, values: Any) -> Any:
    """Run a session on one input; return one output, which is of numbers.

    Raises
    ------
    FileFormatError
        The model at `path` opens but cannot be computed.
    """
    if len(values) == 0:  # some operators refuse it
        import numpy as np

        (shape,) = (each.shape for each in session.get_outputs() if each.name == output)
        return np.empty((0, *shape[1:]), np.float32)
    try:
        return session.run([output], {name: values})[0]
    except Exception as error:  # onnxruntime has no common base class for its errors
        reason = str(error).strip().partition("\n")[0]
        raise FileFormatError(f"{path}: cannot be run ({reason}); make the file again") from error
