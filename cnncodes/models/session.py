"""One of our ONNX files, checked and opened in onnxruntime."""

from __future__ import annotations

import base64
import json
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnncodes.errors import FileFormatError, ParameterError, SaturationWarning
from cnncodes.files import check_filled
from cnncodes.machine import available_threads
from cnncodes.models.metadata import REMEDIES, BackboneInfo, check_kind
from cnncodes.models.safety import check_model
from cnncodes.parameters import THREADS

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

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
