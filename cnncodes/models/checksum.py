"""The checksum of a model: written with every file, compared by ``cnncodes verify``.

It is a SHA-256 over the bytes of the graph as they are in the file, weights and operators alike,
over the versions of ONNX and of the operators, and over the other metadata entries of cnncodes;
``docs/file-formats.md`` defines it. Writing and verifying share the function that computes it, and
that reads the file. A wrong bit may leave a model that runs well and classifies badly, so nothing
but such a checksum can find it.
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
    """Check a model's structure and write it with its checksum; every writer ends here.

    Parameters
    ----------
    model : onnx.ModelProto
        A model with all its metadata but the checksum.
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
    The checksum is appended to the file, since messages of protobuf that follow each other are
    one. So the graph is serialized once, and what is hashed is what was written.
    """
    import onnx

    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    _, checksum = read_checksum(path)
    entry = onnx.StringStringEntryProto(key=CHECKSUM, value=checksum)
    with path.open("ab") as file:
        file.write(onnx.ModelProto(metadata_props=[entry]).SerializeToString())


def read_checksum(path: Path) -> tuple[str | None, str]:
    """Read the checksum in a model's metadata, and compute the one it should be.

    Parameters
    ----------
    path : Path
        An ONNX file.

    Returns
    -------
    recorded : str or None
        The checksum in the metadata; None where there is none, as in files of releases before it.
    computed : str
        The checksum of the file as it is, hexadecimal.

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
            elif number == _GRAPH:  # in a file with several, protobuf takes them together
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
        # A file with two of them is none of ours, and equals neither.
        return b" ".join(recorded).decode() if recorded else None, digest.hexdigest()


def _entry(model: mmap.mmap, place: slice) -> tuple[bytes, bytes]:
    """Return key and value of a metadata entry, in UTF-8."""
    texts = {1: b"", 2: b""}
    for number, kind, value in read_fields(model, place):
        if kind == BYTES and isinstance(value, slice) and number in texts:
            texts[number] = model[value]
    return texts[1], texts[2]
