"""The checksum of a model: written with every file, compared by ``cnncodes verify``.

It is a SHA-256 of the graph's bytes in the file, weights and operators alike, of the versions of
ONNX and of the operators, and of the other metadata entries of cnncodes; ``docs/file-formats.md``
defines it. Writer and reader compute it from the file with the same function. With a wrong bit a
model may run and classify badly, which only a checksum shows.
"""

from __future__ import annotations

import hashlib
import mmap
from pathlib import Path
from typing import TYPE_CHECKING

from cnncodes.models.metadata import PREFIX
from cnncodes.models.safety import BYTES, VARINT, mapped, read_fields

if TYPE_CHECKING:
    import onnx

CHECKSUM = PREFIX + "checksum"
_IR_VERSION, _GRAPH, _OPSET, _METADATA = 1, 7, 8, 14  # fields of a ModelProto


def save_checked(model: onnx.ModelProto, path: Path) -> None:
    """Check a model's structure and write it with its checksum.

    Parameters
    ----------
    model : onnx.ModelProto
        A model with all its metadata except the checksum.
    path : Path
        The file to write.

    Raises
    ------
    onnx.checker.ValidationError
        The model is not valid.
    OSError
        The file cannot be written.

    Notes
    -----
    The checksum is appended to the file, since protobuf merges messages that follow each other.
    So the graph is serialized once, and the written bytes are hashed.
    """
    import onnx

    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    _, checksum = read_checksum(path)
    entry = onnx.StringStringEntryProto(key=CHECKSUM, value=checksum)
    with path.open("ab") as file:
        file.write(onnx.ModelProto(metadata_props=[entry]).SerializeToString())


def read_checksum(path: Path) -> tuple[str | None, str]:
    """Read the checksum in a model's metadata, and compute that of the file.

    Parameters
    ----------
    path : Path
        An ONNX file.

    Returns
    -------
    recorded : str or None
        The checksum in the metadata; None where there is none, as in files of older releases.
    computed : str
        The checksum of the file, hexadecimal.

    Raises
    ------
    FileFormatError
        The file cannot be read or is not an ONNX model.
    """
    with mapped(path) as model:
        digest = hashlib.sha256()
        entries: list[tuple[bytes, bytes]] = []
        versions: list[bytes] = []
        for number, kind, value in read_fields(model, slice(0, len(model))):
            if number == _IR_VERSION and kind == VARINT:
                versions.append(f"{value}".encode())
            if kind != BYTES or not isinstance(value, slice):
                continue
            if number == _OPSET:
                versions.append(model[value])
            elif number == _GRAPH:  # there may be several, which protobuf merges
                with memoryview(model) as content, content[value] as graph:
                    digest.update(graph)
            elif number == _METADATA:
                entries.append(_entry(model, value))
        recorded = [value for key, value in entries if key == CHECKSUM.encode()]
        for version in versions:
            digest.update(b"%d\0%b" % (len(version), version))
        for key, text in sorted(entries):
            if key.startswith(PREFIX.encode()) and key != CHECKSUM.encode():
                digest.update(b"%b\0%b\0" % (key, text))
        # A file with two checksums is foreign, and equals neither.
        return b" ".join(recorded).decode() if recorded else None, digest.hexdigest()


def _entry(model: mmap.mmap, span: slice) -> tuple[bytes, bytes]:
    """Return key and value of a metadata entry, in UTF-8."""
    texts = {1: b"", 2: b""}
    for number, kind, value in read_fields(model, span):
        if kind == BYTES and isinstance(value, slice) and number in texts:
            texts[number] = model[value]
    return texts[1], texts[2]
