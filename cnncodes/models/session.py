"""One of our ONNX files, checked and opened in onnxruntime."""

from __future__ import annotations

import base64
import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnncodes.errors import CnncodesError, FileFormatError, ParameterError, SaturationWarning
from cnncodes.files import check_filled
from cnncodes.machine import available_threads
from cnncodes.models.kinds import check_kind, needing_model
from cnncodes.models.metadata import PART_CODES, PREFIX, REMEDIES, BackboneInfo, HeadInfo
from cnncodes.models.safety import check_model
from cnncodes.parameters import FIXED_BATCH, THREADS
from cnncodes.text import first_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
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


@contextmanager
def runtime_errors(report: Callable[[str], CnncodesError]) -> Iterator[None]:
    """Turn errors of onnx and onnxruntime, which have no common base class, into one of ours.

    Parameters
    ----------
    report : callable
        Returns the error to raise, from the first line of the original one. Errors of cnncodes
        and of the operating system and MemoryError pass unchanged.
    """
    try:
        yield
    except (CnncodesError, MemoryError, OSError):
        raise
    except Exception as error:
        raise report(first_line(error)) from error


def warn_of_saturation(path: Path, info: BackboneInfo) -> None:
    """Warn if a network's int8 weights are too large for this processor's sums."""
    described = json.loads(info.quantization or "{}")
    if described.get("weight_limit") == FULL_WEIGHTS and kernels_saturate():
        warnings.warn(
            f"{path}: its int8 weights use 8 bits, but this processor's 16-bit sums overflow "
            "with more than 7, so some codes are wrong; quantize it on this machine, or with "
            "reduced weights, or use the float32 file",
            SaturationWarning,
            stacklevel=3,
        )


@cache
def kernels_saturate() -> bool:
    """Return whether onnxruntime's products of uint8 and int8 overflow on this processor.

    Its kernels for AVX2 without VNNI add two products in 16 bits, which saturate; those for VNNI,
    AMX and ARM do not. A product of the largest numbers shows which ones run.
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
    """Return the full name of an execution provider of onnxruntime.

    Parameters
    ----------
    name : str
        Its full name, such as ``OpenVINOExecutionProvider``, or the first part alone, in upper
        or lower case.

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
    """Open one of our models in onnxruntime, after `check_model` and `check_kind`.

    Parameters
    ----------
    path : Path
        The ONNX file.
    *kinds : {"backbone", "head", "app"}
        The kinds that the caller accepts.
    threads : int, optional
        Threads of the session; by default one per available processor.
    provider : str
        The execution provider, as for `find_provider`. Operators that it lacks run on the CPU.

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
        another kind; `check_model` refuses it; or several networks have other numbers of codes
        by its metadata than by its graph.
    ParameterError
        The provider is missing or cannot start, or `threads` is out of range.
    """
    import onnxruntime

    threads = THREADS.check_or_none(threads, "threads") or available_threads()
    with needing_model(path, *kinds):
        check_filled(path, REMEDIES[kinds[0]])
        outline = check_model(path)
        check_kind(outline.metadata, path, *kinds)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Whatever the file's name: `check_model` does not read onnxruntime's own format, ORT.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.log_severity_level = 4  # errors are raised as exceptions too
    full_name = find_provider(provider)
    how = "" if full_name == "CPUExecutionProvider" else f" with the provider {provider}"
    is_later = outline.opset > WRITTEN_OPSET or outline.ir_version > WRITTEN_IR
    remedy = is_later * (
        f"; it is of opset {outline.opset} and IR version {outline.ir_version}, and "
        f"onnxruntime {onnxruntime.__version__} may be too old for it: install a newer one"
    )
    with runtime_errors(
        lambda reason: FileFormatError(
            f"{path}: cannot be opened as an ONNX model{how} ({reason}){remedy}"
        )
    ):
        session = onnxruntime.InferenceSession(
            _path_or_content(path), options, providers=[full_name], enable_fallback=0
        )
    if full_name not in session.get_providers():  # onnxruntime goes on without it
        raise ParameterError(
            f"provider {provider}: is built into this onnxruntime, but cannot start here; "
            "install what it needs, or leave provider out"
        )
    if PREFIX + "parts" in outline.metadata and outline.metadata[PREFIX + "kind"] != "backbone":
        _check_parts(path, session, HeadInfo.from_metadata(outline.metadata, path))
    return session, outline.metadata


def _check_parts(path: Path, session: InferenceSession, info: HeadInfo) -> None:
    """Refuse a head or an app whose metadata have other numbers of codes than its graph."""
    from cnncodes.models.tensors import read_widths

    shapes = {each.name: each.shape[1:] for each in session.get_inputs()}
    columns = [part.n_columns for part in info.parts]
    if "codes" not in shapes:  # an app
        widths = read_widths(path)
        names = [PART_CODES.format(number) for number, _ in enumerate(columns, start=1)]
        actual = [widths.get(name, n) for name, n in zip(names, columns, strict=True)]
    elif columns and all(isinstance(length, int) for length in shapes["codes"]):
        columns, actual = [sum(columns)], [math.prod(shapes["codes"])]
    else:  # whoever runs it reports that
        return
    if columns != actual:
        raise FileFormatError(
            f"{path}: the metadata are damaged (they tell of {_sum(columns)} codes, and there are "
            f"{_sum(actual)}); make the file again"
        )


def _sum(numbers: Sequence[int]) -> str:
    return " + ".join(map(str, numbers))


def _path_or_content(path: Path) -> str | bytes:
    """Return the path of a model, or its content where onnxruntime does not accept the path."""
    try:
        str(path).encode()
    except UnicodeEncodeError:  # onnxruntime accepts UTF-8 only
        return path.read_bytes()
    return str(path)


def run_session(
    session: InferenceSession, path: Path, outputs: Sequence[str], name: str, values: Any
) -> list[Any]:
    """Run a session on the input `name`; return some of its outputs, arrays.

    A model of a fixed batch is run as often as that takes, the last time with copies of a row.

    Raises
    ------
    FileFormatError
        The model at `path` opens but cannot be computed.
    """
    if len(values) == 0:  # some operators refuse an empty batch
        import numpy as np

        shapes = {each.name: each.shape[1:] for each in session.get_outputs()}
        return [np.empty((0, *shapes[output]), np.float32) for output in outputs]
    with runtime_errors(
        lambda reason: FileFormatError(f"{path}: cannot be run ({reason}); make the file again")
    ):
        n_rows = fixed_batch(session)
        if n_rows is None:
            return list(session.run(outputs, {name: values}))
        return _run_in_parts(session, outputs, name, values, n_rows)


def fixed_batch(session: InferenceSession) -> int | None:
    """Return the only number of rows that a model takes, or None if it takes any."""
    n_rows = session.get_inputs()[0].shape[0]
    return n_rows if isinstance(n_rows, int) and n_rows in FIXED_BATCH else None


def _run_in_parts(
    session: InferenceSession, outputs: Sequence[str], name: str, values: Any, n_rows: int
) -> list[Any]:
    import numpy as np

    parts = []
    for start in range(0, len(values), n_rows):
        part = values[start : start + n_rows]
        missing = n_rows - len(part)
        if missing:
            part = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])
        results = session.run(outputs, {name: part})
        parts.append([each[: n_rows - missing] for each in results])
    return [np.concatenate(each) for each in zip(*parts, strict=True)]


def noise_images(n_images: int, size: int) -> NDArray[np.uint8]:
    """Return the same random images each time, of shape (n_images, size, size, 3)."""
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (n_images, size, size, 3), dtype=np.uint8)
