"""What a file is, and which command takes it: one answer for `info` and for every error.

Any path may be asked for. Nothing is run, links inside HDF5 files are not followed, and of a
model only the metadata are read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from cnncodes.errors import CnncodesError, FileFormatError
from cnncodes.files import JOURNAL_SIGNATURE, check_filled, is_folder, is_hdf5
from cnncodes.image_formats import SIGNATURE_LENGTH, SUFFIXES, is_image
from cnncodes.models.metadata import PREFIX, REMEDIES, is_read, later_format, with_article
from cnncodes.models.safety import read_header

GENERATOR = '<meta name="generator" content="cnncodes">'  # in the head of a report
KERAS_MEMBER = "model.weights.h5"  # of a .keras file
MAX_JSON = 64 << 20  # bytes; a confusion matrix of 1,000 classes takes 16 MB
_MAX_ENTRIES = 1000  # of a folder, looked at for an image
_TEXT_BYTES = 4096
_NO_COMMAND = "no command takes it"
_REPORT = "index.html"
_OF_REPORT = {_REPORT, "evaluation.json"}
# How the files begin that `evaluation`, `printing`, `overlap` and `convert` write.
_PREDICTIONS = ("path,label,predicted,probability", "path,rank,label,probability,problem")
_PAIRS = "a,b,kind,score\n"
_CONVERTED = re.compile(r"path([,\t])label\1(group\1)?code_0000")
_CONVERTED_MEMBERS = {"codes.npy", "labels.npy", "digests.npy"}  # of an .npz file


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes
    ----------
    name : str
        Its name in `KINDS`.
    noun : str
        What it is, with an article where it has one.
    use : str
        Which command takes it.
    """

    name: str
    noun: str
    use: str


KINDS = {
    name: Kind(name, noun, use)
    for name, noun, use in (
        ("image", "an image", "predict takes it, and extract a folder of such"),
        ("images", "a folder of images", "extract, quantize, evaluate and predict take it"),
        ("folder", "a folder without images", _NO_COMMAND),
        ("table", "a CSV file", "extract, quantize and evaluate take one that lists images"),
        ("codes", "a codes file", "train, curve and evaluate take it"),
        ("journal", "an unfinished codes file", "the same cnncodes extract, run again, ends it"),
        ("curve", "a learning curve", "evaluate --curve takes it"),
        ("evaluation", "the result of an evaluation", "its report is the index.html beside it"),
        ("report", "a report of evaluate or overlap", "a browser shows it"),
        ("pairs", "copies that overlap found", "--exclude and --keep-together take it"),
        ("predictions", "predictions for images", "a spreadsheet, pandas and R read them"),
        ("converted", "codes for other programs", "Orange, R, pandas or numpy read them"),
        ("parquet", "a Parquet file", "pandas and R read it"),
        ("drawing", "a picture in SVG", "a browser shows it"),
        ("backbone", "a backbone", "extract, quantize, bundle and bench take it"),
        ("int8", "a quantized backbone", "extract, bundle and bench take it"),
        ("head", "a head", "evaluate and bundle take it"),
        ("app", "an app", "predict, evaluate and bench take it"),
        ("onnx", "an ONNX model of another program", _NO_COMMAND),
        ("weights", "Keras weights", "export --weights takes them"),
        ("keras", "a Keras model", "export --weights takes it"),
        ("hdf5", "an HDF5 file of another program", _NO_COMMAND),
        ("damaged", "an HDF5 file that cannot be opened", _NO_COMMAND),
        ("zip", "a zip archive", "no command takes it; unpack it first"),
        ("text", "a text", _NO_COMMAND),
        ("unknown", "nothing cnncodes knows", _NO_COMMAND),
    )
}

# What may list images, so that its reader reports better what is wrong with it.
TABLES = ("table", "text", "predictions", "converted")


def find_kind(path: Path) -> Kind | None:
    """Return the kind of a file or folder.

    Parameters
    ----------
    path : Path
        Any path.

    Returns
    -------
    Kind or None
        None if the path is absent, empty, unreadable, or a FIFO, socket or device.
    """
    try:
        if not is_folder(path):
            return kind_of_file(path)
        return KINDS["report" if is_report(path) else "images" if _holds_images(path) else "folder"]
    except (CnncodesError, OSError):
        return None


def is_report(folder: Path) -> bool:
    """Return whether a folder is a report of ``evaluate``, and nothing else."""
    try:
        names = {each.name for each in islice(folder.iterdir(), _MAX_ENTRIES)}
        return names <= _OF_REPORT and kind_of_file(folder / _REPORT).name == "report"
    except (CnncodesError, OSError):
        return False


def kind_of_file(path: Path) -> Kind:
    """Return the kind of a file.

    Raises
    ------
    FileFormatError
        It is absent, no regular file or empty.
    OSError
        It cannot be read.
    """
    return KINDS[_name_of(path)]


def _name_of(path: Path) -> str:
    n_bytes = check_filled(path).st_size
    with path.open("rb") as file:
        head = file.read(_TEXT_BYTES)
    if head.startswith(JOURNAL_SIGNATURE):
        return "journal"
    if is_image(head[:SIGNATURE_LENGTH]):
        return "image"
    if is_hdf5(path):
        return _name_of_hdf5(path)
    if head.startswith(b"PK\x03\x04"):
        members = set(_members(path))
        is_converted = members >= _CONVERTED_MEMBERS
        return "keras" if KERAS_MEMBER in members else "converted" if is_converted else "zip"
    if kind := _kind_by_beginning(head):
        return kind
    if path.suffix.lower() == ".csv":
        return "table"
    if head.lstrip().startswith(b"{") and n_bytes <= MAX_JSON and (kind := _kind_in_json(path)):
        return kind
    if (header := read_header(path)) is not None:
        return model_kind(header.metadata).name
    return "text" if _is_text(head) else "unknown"


def model_kind(metadata: Mapping[str, str]) -> Kind:
    """Return the kind of an ONNX model, of any format, by its ``metadata_props``."""
    kind = metadata.get(PREFIX + "kind")
    if PREFIX + "format" not in metadata or kind not in REMEDIES:
        return KINDS["onnx"]
    is_quantized = kind == "backbone" and metadata.get(PREFIX + "precision") == "int8"
    return KINDS["int8" if is_quantized else kind]


def wrong_kind(
    path: Path,
    kind: Kind,
    needed: str,
    remedy: str,
    *,
    error: type[CnncodesError] = FileFormatError,
) -> CnncodesError:
    """Return the error of a file of another kind than the one that is needed.

    Parameters
    ----------
    path : Path
        The file.
    kind : Kind
        What it is.
    needed : str
        What is needed, with its article.
    remedy : str
        Where to get it.
    error : subclass of CnncodesError
        The class of the error.
    """
    return error(f"{path}: is {kind.noun} ({kind.use}), not {needed}; {remedy}")


@contextmanager
def needing(
    path: Path,
    kinds: tuple[str, ...],
    needed: str,
    remedy: str,
    *,
    error: type[CnncodesError] = FileFormatError,
) -> Iterator[None]:
    """Replace an error in the block by `wrong_kind` where the file is of another kind.

    A file is only looked at once its own reader has refused it, so this costs nothing else.

    Parameters
    ----------
    path : Path
        The file that the block reads.
    kinds : tuple of str
        Names in `KINDS` of the kinds that the reader accepts or reports better. Bytes of no
        known kind may be a damaged file of the right one.
    needed, remedy, error
        As for `wrong_kind`.
    """
    try:
        yield
    except CnncodesError as refusal:
        kind = find_kind(path)
        if kind is None or kind.name in (*kinds, "unknown"):
            raise
        raise wrong_kind(path, kind, needed, remedy, error=error) from refusal


def needing_model(path: Path, *kinds: str) -> AbstractContextManager[None]:
    """Return `needing` for models of `kinds`, ``backbone``, ``head`` or ``app``."""
    accepted = (*kinds, "int8") if "backbone" in kinds else kinds
    return needing(path, accepted, _needed(kinds), REMEDIES[kinds[0]])


def check_kind(metadata: Mapping[str, str], path: Path, *kinds: str) -> None:
    """Refuse a model that is foreign, of a later format or of another kind.

    Parameters
    ----------
    metadata : mapping of str to str
        The model's ``metadata_props``.
    path : Path
        Named in the error.
    *kinds : {"backbone", "head", "app"}
        The kinds that the caller accepts.

    Raises
    ------
    FileFormatError
        The model is of none of `kinds`.
    """
    kind = model_kind(metadata)
    if kind.name != "onnx" and not is_read(metadata):
        created_with = metadata.get(PREFIX + "created_with", "")
        raise later_format(path, metadata[PREFIX + "format"], created_with)
    if metadata.get(PREFIX + "kind") not in kinds or kind.name == "onnx":
        raise wrong_kind(path, kind, _needed(kinds), REMEDIES[kinds[0]])


def _needed(kinds: tuple[str, ...]) -> str:
    """Return kinds of models with their articles, such as "a head or an app"."""
    return " or ".join(map(with_article, kinds))


def _holds_images(folder: Path) -> bool:
    """Whether one of the first entries of a folder and those below is an image."""
    paths = (
        Path(parent) / name
        for parent, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".")
    )
    return any(_looks_like_an_image(path) for path in islice(paths, _MAX_ENTRIES))


def _looks_like_an_image(path: Path) -> bool:
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        check_filled(path)
        with path.open("rb") as file:
            return is_image(file.read(SIGNATURE_LENGTH))
    except (CnncodesError, OSError):
        return False


def _name_of_hdf5(path: Path) -> str:
    try:
        from cnncodes.hdf5 import PlainFile
    except ImportError:  # a frozen program that reads no codes holds no h5py
        return "hdf5"
    try:
        with PlainFile(path) as file:
            if file.text_attribute("kind") == "codes":
                return "codes" if file.number_attribute("complete") else "journal"
            attributes = ("layer_names", "layer_names0", "keras_version")
            is_keras = any(map(file.has_attribute, attributes)) or any(
                name in file for name in ("layers", "_layer_checkpoint_dependencies")
            )
            return "weights" if is_keras or "model_weights" in file else "hdf5"
    except Exception:  # h5py has no common base class for damage
        return "damaged"


def _members(path: Path) -> list[str]:
    import zipfile  # not at every start of a program

    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except Exception:  # zipfile raises errors of many classes for damage
        return []


def _kind_in_json(path: Path) -> str:
    """Return ``curve`` or ``evaluation`` if JSON says so; "" for any other file."""
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return ""
    kind = value.get("kind") if isinstance(value, dict) else None
    return kind if kind in ("curve", "evaluation") else ""


def _kind_by_beginning(head: bytes) -> str:
    """Return the kind of a file for other programs by its first bytes; "" for any other file."""
    if head.startswith(b"PAR1"):
        return "parquet"
    text = head.decode("utf-8-sig", "replace").lstrip()
    if text.partition("\n")[0].rstrip() in _PREDICTIONS:
        return "predictions"
    if text.startswith(_PAIRS):
        return "pairs"
    if _CONVERTED.match(text):
        return "converted"
    if text.lower().startswith("<!doctype html") and GENERATOR in text:
        return "report"
    is_xml = text.startswith(("<?xml", "<svg", "<!DOCTYPE svg"))
    return "drawing" if is_xml and "<svg" in text else ""


def _is_text(head: bytes) -> bool:
    """Whether the first bytes of a file are UTF-8, but for a character that is cut off."""
    try:
        head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return False
    return not any(byte < 32 and chr(byte) not in "\t\n\r\f\x1b" for byte in head)
