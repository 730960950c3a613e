"""Checks of an ONNX file, which may come from a stranger, before onnxruntime opens it.

An ONNX file is a protobuf message, which is parsed here as far as needed and without copying:
field numbers, lengths, and the values of some fields. The names of the messages and the numbers of
their fields are those of ``onnx.proto``. Only the standard library is needed. For InceptionV3
(87 MB) the checks take 0.06 s and 39 MB, ``import onnx`` and ``onnx.load`` 0.3 s and 178 MB.

An operator is allowed if the size of its results follows from that of its inputs. Others, such as
Expand or Resize, make gigabytes of one number in a small file, and a Loop may never end. The list
names allowed operators, not refused ones, so that it stays right when ONNX gets new ones. It has
more than our own files need, so that networks from elsewhere can be used.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NoReturn

from cnncodes.bounds import MAX_ENTRIES_BYTES
from cnncodes.errors import FileFormatError
from cnncodes.files import check_filled

MAX_VALUE = 100_000  # bytes of the description of an input or output
MAX_OUTPUTS = 100  # that are described; our files have up to three
MAX_PARTS = 200_000  # nodes, tensors and so on; each takes some hundred bytes in the queue
MAX_PADDING = 1024  # on one side
MAX_PADDED = 256  # bytes of a tensor of paddings: two numbers for each dimension
DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
OPERATORS = frozenset(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization
    BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu Clip Compress
    Concat Constant ConstantOfShape Conv ConvInteger Cos Cosh CumSum DepthToSpace
    DequantizeLinear Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Flatten Floor Gather
    GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater
    GreaterOrEqual GroupNormalization HardSigmoid HardSwish Hardmax Identity
    InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log
    LogSoftmax LpNormalization LpPool MatMul MatMulInteger Max MaxPool Mean
    MeanVarianceNormalization Min Mish Mod Mul Neg NonZero Not Or PRelu Pad Pow QLinearConv
    QLinearMatMul QuantizeLinear Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
    ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Round Scan
    ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax
    Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu TopK
    Transpose Trilu Unsqueeze Where Xor

    ArrayFeatureExtractor Binarizer FeatureVectorizer Imputer LabelEncoder LinearClassifier
    LinearRegressor Normalizer OneHotEncoder SVMClassifier SVMRegressor Scaler
    TreeEnsembleClassifier TreeEnsembleRegressor
    """.split()  # noqa: SIM905
)
# For each message the numbers of the fields that contain other messages of interest.
MESSAGES: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 8: "OperatorSet", 14: "Entry", 20: "Training", 25: "Function"},
    "Graph": {1: "Node", 5: "Initializer", 11: "Input", 15: "SparseTensor"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {},
    "OperatorSet": {},
    "Entry": {},
    "Tensor": {},
    "Initializer": {},
    "Input": {},
}
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # kinds of fields
# Index of the input that determines the size of the result, and the required origin of it.
SIZED = {"ConstantOfShape": (0, "Shape"), "Pad": (1, "small numbers")}
# Trees and support vectors are millions of numbers, each a field (7 and 8 of an attribute).
_NUMBERS = re.compile(rb"(?:\x3d.{4}){1,1000}|(?:\x40[\x80-\xff]{0,9}[\0-\x7f]){1,1000}", re.DOTALL)

Scalars = dict[tuple[int, int], "int | slice"]


@dataclass(frozen=True)
class ModelOutline:
    """Metadata and versions of an ONNX file.

    Attributes
    ----------
    metadata : dict of str to str
        The ``metadata_props``.
    ir_version : int
        Version of the ONNX format.
    opset : int
        Version of the default domain's operators.
    """

    metadata: dict[str, str]
    ir_version: int
    opset: int


@dataclass(frozen=True)
class ModelHeader:
    """Metadata and interface of any ONNX file, also of one that `check_model` refuses.

    Attributes
    ----------
    metadata : dict of str to str
        The ``metadata_props``, up to `MAX_ENTRIES_BYTES` bytes of them.
    input : bytes or None
        The graph's first input, a message ``ValueInfoProto``; None where absent or larger than
        `MAX_VALUE` bytes.
    outputs : tuple of bytes or None
        All its outputs, up to `MAX_OUTPUTS`, likewise; at least one.
    """

    metadata: dict[str, str]
    input: bytes | None
    outputs: tuple[bytes | None, ...]


def read_header(path: Path) -> ModelHeader | None:
    """Read the metadata and the interface of a file, skipping its nodes and weights.

    Parameters
    ----------
    path : Path
        Any file.

    Returns
    -------
    ModelHeader or None
        None if it is not an ONNX model, or has no node.

    Raises
    ------
    FileFormatError
        The file cannot be read.
    """
    try:
        with _mapped(path) as model:
            return _header(model)
    except ValueError:
        return None


def _header(model: mmap.mmap) -> ModelHeader | None:
    graphs: list[slice] = []
    metadata: dict[str, str] = {}
    metadata_bytes = 0
    for number, part in _parts(model, slice(0, len(model))):
        if number == 7:
            graphs.append(part)
        elif number == 14 and (metadata_bytes := metadata_bytes + _size(part)) <= MAX_ENTRIES_BYTES:
            # An entry has two fields, a key and a value.
            scalars: Scalars = {(n, BYTES): each for n, each in islice(_parts(model, part), 2)}
            with suppress(UnicodeDecodeError):
                metadata[_text(model, scalars, 1)] = _text(model, scalars, 2)
    first: dict[int, slice] = {}
    outputs: list[slice] = []
    for graph in graphs:
        for number, part in _parts(model, graph):
            first.setdefault(number, part)
            if number == 12 and len(outputs) < MAX_OUTPUTS:
                outputs.append(part)
    if 1 not in first:  # many other files are valid messages without nodes
        return None
    absent = slice(0, 0)
    input_, *described = (
        model[end] if 0 < _size(end) <= MAX_VALUE else None
        for end in (first.get(11, absent), *(outputs or [absent]))
    )
    return ModelHeader(metadata, input_, tuple(described))


def _parts(model: mmap.mmap, span: slice) -> Iterator[tuple[int, slice]]:
    """Yield number and span of the fields of bytes; refuse too many fields."""
    # Numbers are not skipped, since most of any other file would look like numbers.
    for n_fields, (number, _, value) in enumerate(read_fields(model, span, skip=False)):
        if n_fields > MAX_PARTS:
            raise ValueError(f"more than {MAX_PARTS:,} parts")
        if isinstance(value, slice):
            yield number, value


def _size(span: slice) -> int:
    size: int = span.stop - span.start
    return size


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    """Map the content of a file, so that only the accessed parts are read."""
    check_filled(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as model:
            yield model
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read ({error.strerror})") from error


def check_model(path: Path) -> ModelOutline:
    """Refuse an ONNX file that refers to other files, or could need unbounded memory or time.

    All its weights must be inside, and its operators among `OPERATORS`: onnxruntime has others
    that open files. An input that determines a size must be a small number, or the size of
    another value. Functions are refused, which can call each other without limit, and sparse
    tensors, which claim any size.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    ModelOutline
        Its metadata and versions.

    Raises
    ------
    FileFormatError
        The file cannot be read, is not an ONNX model, or is refused.
    """
    with mapped(path) as model:
        return _outline(model, path)


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """Map a file that is parsed as an ONNX model.

    Parameters
    ----------
    path : Path
        The file.

    Yields
    ------
    mmap.mmap
        Its bytes.

    Raises
    ------
    FileFormatError
        The file cannot be read, or parsing in the block raised ValueError.
    """
    try:
        with _mapped(path) as model:
            yield model
    except ValueError as error:
        raise FileFormatError(f"{path}: cannot be opened as an ONNX model ({error})") from error


def _outline(model: mmap.mmap, path: Path) -> ModelOutline:
    metadata: dict[str, str] = {}
    ir_version = opset = metadata_bytes = 0
    has_graph = False
    sizes = _Sizes(model)
    for name, scalars, span in _messages(model):
        if name == "Model":
            ir_version = _number(scalars, 1)
        elif name == "OperatorSet" and _text(model, scalars, 1) in DOMAINS[:2]:
            opset = max(opset, _number(scalars, 2))
        elif name == "Graph":
            has_graph = True
        elif name == "Entry":
            metadata_bytes += sum(
                value.stop - value.start for value in scalars.values() if isinstance(value, slice)
            )
            if metadata_bytes > MAX_ENTRIES_BYTES:
                raise FileFormatError(
                    f"{path}: has more than {MAX_ENTRIES_BYTES / 1e6:.0f} MB of metadata; cnncodes "
                    "never writes that many: make the file again"
                )
            # Parts come last to first: of a repeated key the last value counts, as in protobuf.
            metadata.setdefault(_text(model, scalars, 1), _text(model, scalars, 2))
        else:
            _check_part(model, name, scalars, span, path)
            sizes.add(name, scalars, span)
    if not has_graph:
        raise ValueError("it has no graph")
    for operator in sizes.unknown():
        _refuse(path, f"gives the operator {operator!r} a size that is not known beforehand")
    return ModelOutline(metadata, ir_version, opset)


def _check_part(model: mmap.mmap, name: str, scalars: Scalars, span: slice, path: Path) -> None:
    """Refuse a message that is not allowed anywhere in a model."""
    if name in ("Tensor", "Initializer"):
        _refuse_external(model, scalars, path)
    elif name == "SparseTensor":
        _refuse(path, "has sparse tensors, which claim any size")
    elif name == "Function":
        _refuse(path, "has functions, which can call each other without limit")
    elif name == "Attribute" and _text(model, scalars, 1) in ("pads", "paddings"):
        if not all(map(_is_small, _integers(model, span))):
            _refuse(path, f"pads by more than {MAX_PADDING:,} on a side")
    elif name == "Node":
        _refuse_domain(_text(model, scalars, 7), path)
        operator = _text(model, scalars, 4)
        if operator not in OPERATORS:
            _refuse(path, f"uses the operator {operator!r}, whose results may have any size")


def _refuse(path: Path, fault: str) -> NoReturn:
    raise FileFormatError(
        f"{path}: {fault}, so it is not opened; make the file with cnncodes, or without that"
    )


class _Sizes:
    """The origins of values that determine the size of an operator's result.

    Parameters
    ----------
    model : mmap.mmap
        The file.
    """

    def __init__(self, model: mmap.mmap) -> None:
        self._model = model
        self._origins: dict[str, str] = {}
        self._sized: list[tuple[str, str]] = []  # operator and value

    def add(self, name: str, scalars: Scalars, span: slice) -> None:
        """Record the values that a message defines, and those that determine a size."""
        if name == "Input":
            self._note(_text(self._model, scalars, 1), "input")
        elif name == "Initializer":
            numbers = _raw_integers(self._model, scalars)
            small = bool(numbers) and all(map(_is_small, numbers))
            self._note(_text(self._model, scalars, 8), "small numbers" if small else "numbers")
        elif name == "Node":
            operator = _text(self._model, scalars, 4)
            inputs, outputs = _ends(self._model, span)
            for output in outputs:
                self._note(output, operator)
            if operator in SIZED:
                index = SIZED[operator][0]
                self._sized.extend((operator, each) for each in inputs[index : index + 1])

    def unknown(self) -> Iterator[str]:
        """Yield the operators whose size has another origin than required."""
        for operator, value in self._sized:
            if self._origins.get(value) != SIZED[operator][1]:
                yield operator

    def _note(self, value: str, origin: str) -> None:
        """Record the origin of a value; nested graphs may have two of the same name."""
        if self._origins.setdefault(value, origin) != origin:
            self._origins[value] = "either"


def _refuse_external(model: mmap.mmap, scalars: Scalars, path: Path) -> None:
    if (13, BYTES) in scalars or _number(scalars, 14):
        raise FileFormatError(
            f"{path}: its weight {_text(model, scalars, 8)!r} is in another file, which might be "
            "any of this machine; use a file that holds its own weights"
        )


def _refuse_domain(domain: str, path: Path) -> None:
    if domain not in DOMAINS:
        raise FileFormatError(
            f"{path}: uses operators of {domain!r}, not of ONNX alone; such can do anything, so it "
            "is not opened: make the file with cnncodes"
        )


def _messages(model: mmap.mmap) -> Iterator[tuple[str, Scalars, slice]]:
    """Yield the messages of `MESSAGES`, outer ones first: name, other fields and span."""
    waiting = [("Model", slice(0, len(model)))]
    while waiting:
        name, span = waiting.pop()
        scalars: Scalars = {}
        inner = MESSAGES[name]
        for number, kind, value in read_fields(model, span):
            if kind == BYTES and number in inner and isinstance(value, slice):
                waiting.append((inner[number], value))
                if len(waiting) > MAX_PARTS:
                    raise ValueError(f"more than {MAX_PARTS:,} parts")
            else:
                scalars[number, kind] = value  # of a repeated field the last value counts
        yield name, scalars, span


def read_fields(
    model: mmap.mmap, span: slice, *, skip: bool = True
) -> Iterator[tuple[int, int, int | slice]]:
    """Yield number, kind and value of the fields of a message; for bytes their span.

    Parameters
    ----------
    model : mmap.mmap
        The file.
    span : slice
        The span of the message.
    skip : bool
        Whether to skip the numbers of trees and support vectors.

    Yields
    ------
    number, kind : int
        As protobuf defines them, the kind being one of `VARINT`, `FIXED64`, `BYTES`, `FIXED32`.
    value : int or slice
        The number, its position for a fixed one, or the range of the bytes.

    Raises
    ------
    ValueError
        It is not a message.
    """
    start, end = span.start, span.stop
    while start < end:
        numbers = _NUMBERS.match(model, start, end) if skip else None
        if numbers:
            start = numbers.end()
            continue
        tag, start = _varint(model, start, end)
        number, kind = tag >> 3, tag & 7
        value: int | slice
        if kind == VARINT:
            value, start = _varint(model, start, end)
        elif kind == BYTES:
            length, start = _varint(model, start, end)
            value = slice(start, start + length)
            start += length
        elif kind in (FIXED32, FIXED64):
            value = start
            start += 4 if kind == FIXED32 else 8
        else:
            raise ValueError("not of ONNX's format")
        if start > end or not 0 < number < 2**29:
            raise ValueError("not of ONNX's format")
        yield number, kind, value


def _varint(model: mmap.mmap, start: int, end: int) -> tuple[int, int]:
    """Return a varint, seven bits per byte and the lowest first, and its end."""
    value = shift = 0
    for index in range(start, min(end, start + 10)):
        byte = model[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, index + 1
        shift += 7
    raise ValueError("cut off")


def _number(scalars: Scalars, number: int) -> int:
    value = scalars.get((number, VARINT), 0)
    return value if isinstance(value, int) else 0


def _is_small(number: int) -> bool:
    """Return whether a number of 64 bits, read as unsigned, is at most `MAX_PADDING`."""
    number %= 2**64
    return min(number, 2**64 - number) <= MAX_PADDING


def _text(model: mmap.mmap, scalars: Scalars, number: int) -> str:
    value = scalars.get((number, BYTES), slice(0, 0))
    return model[value].decode("utf-8") if isinstance(value, slice) else ""


def _raw_integers(model: mmap.mmap, scalars: Scalars) -> list[int]:
    """Return the values of an int64 tensor that is small enough to be paddings; else []."""
    span = scalars.get((9, BYTES))
    if not isinstance(span, slice) or span.stop - span.start > MAX_PADDED:
        return []
    content = model[span]
    return [int.from_bytes(content[at : at + 8], "little") for at in range(0, len(content), 8)]


def _ends(model: mmap.mmap, span: slice) -> tuple[list[str], list[str]]:
    """Return the names of a node's inputs and outputs."""
    names: tuple[list[str], list[str]] = [], []
    for number, kind, value in read_fields(model, span):
        if kind == BYTES and number in (1, 2) and isinstance(value, slice):
            names[number - 1].append(model[value].decode("utf-8"))
    return names


def _integers(model: mmap.mmap, span: slice) -> Iterator[int]:
    """Yield the integers of an attribute, packed or not."""
    for number, _, value in read_fields(model, span, skip=False):
        if number == 8 and isinstance(value, int):
            yield value
        elif number == 8 and isinstance(value, slice):
            start = value.start
            while start < value.stop:
                each, start = _varint(model, start, value.stop)
                yield each
