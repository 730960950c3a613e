"""The structure of a JPEG file: segments, scans, and whether the data of all pixels are present.

libjpeg fills missing data with grey and reports it in a warning that Pillow does not pass on. So
`load` decodes in another way than Pillow's own:

- A sequential JPEG of one scan is decoded from the data before its end marker. If libjpeg has to
  wait for more, rows at the bottom stay unwritten, and data are missing. Where there is a run of
  zeros, as an interrupted copy leaves it, all rows must not come without the last `_TAIL` bytes.
- Where there are several scans, as in a progressive JPEG, they must cover all coefficients of all
  components to their last bit. What the end of the last scan adds is hardly visible.

The format is that of ITU-T T.81 (1992).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

MAX_SCANS = 50  # of a progressive JPEG; encoders write ten or so
MAX_EXIF = 100  # segments of 64 kB, which Pillow joins one by one
END_MARKER = b"\xff\xd9"
ZEROS = bytes(64)
_TAIL = 32
# libjpeg looks up to eight bytes ahead. Ones are what the last byte is filled up with; no code
# consists of them alone, so hardly a block is made of these.
_LOOKAHEAD = 8 * b"\xff\0"
_END, _SCAN, _APP1 = 0xD9, 0xDA, 0xE1
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2  # kinds of frame with Huffman codes
_N_COEFFICIENTS = 64
# Not those without a length, which are part of a scan's data: stuffing, padding and restarts.
_MARKER = re.compile(rb"\xff[^\0\x01\xff\xd0-\xd8]")


def n_scans(content: bytes) -> int:
    """Return the number of scans of a JPEG, at most `MAX_SCANS` + 1."""
    count = 0
    for marker, _ in segments(content):
        count += marker == _SCAN
        if count > MAX_SCANS:
            break
    return count


def n_exif(content: bytes) -> int:
    """Return the number of EXIF segments before the first scan, at most `MAX_EXIF` + 1."""
    count = 0
    for marker, start in segments(content):
        count += marker == _APP1 and content[start : start + 4] == b"Exif"
        if marker == _SCAN or count > MAX_EXIF:
            break
    return count


def segments(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield the marker of each segment of a JPEG and the index of its data, up to the end marker.

    The end marker itself is the last to be yielded, where there is one.
    """
    position = 2
    while match := _MARKER.search(content, position):
        marker, start = match[0][1], match.end() + 2
        yield marker, start
        if marker == _END:
            return
        position = match.end() + int.from_bytes(content[match.end() : start], "big")


def has_end(content: bytes) -> bool:
    """Return whether the end marker of a JPEG is there; other data may follow it."""
    return content.endswith(END_MARKER) or any(marker == _END for marker, _ in segments(content))


def load(image: Any, content: bytes) -> bool:
    """Decode an opened JPEG, and return whether the data of all of its pixels are there.

    Parameters
    ----------
    image : PIL.JpegImagePlugin.JpegImageFile
        The image, not decoded yet; a draft of it will do.
    content : bytes
        The file. The end marker may be missing only if there is one scan, not progressive.

    Returns
    -------
    bool
        False where rows are missing, or data are not those of the image.

    Raises
    ------
    OSError
        Pillow reports damaged data.
    """
    frame, components, scan, n_interleaved = _header(content)
    if frame in _SEQUENTIAL and len(components) == n_interleaved:
        data = content[: _end(content)]
        if not _decode_rows(image, data):
            return False
        # Zeros instead of data are decoded too, but to too many or too few rows.
        return data.find(ZEROS, scan) < 0 or not _fills_all_rows(data[:-_TAIL])
    if frame in (*_SEQUENTIAL, _PROGRESSIVE):
        finished = (_finished(content, at) for marker, at in segments(content) if marker == _SCAN)
        covered = set[tuple[int, int]]().union(*finished)
        if not set(product(components, range(_N_COEFFICIENTS))) <= covered:
            return False
    image.load()
    return True


def is_resumable(content: bytes) -> bool:
    """Return whether a JPEG has one scan, not progressive: it is decoded up to where data end."""
    frame, components, _, n_interleaved = _header(content)
    return frame in _SEQUENTIAL and len(components) == n_interleaved


def _header(content: bytes) -> tuple[int, bytes, int, int]:
    """Describe a JPEG up to its first scan.

    Returns
    -------
    frame : int
        The marker of the frame; 0 if it is none of those that are known here.
    components : bytes
        The identifiers of its components.
    scan : int
        Index of the first scan's header.
    n_interleaved : int
        Number of components interleaved in that scan.
    """
    frame, components = 0, b""
    for marker, start in segments(content):
        if marker in (*_SEQUENTIAL, _PROGRESSIVE):
            frame = marker
            components = content[start + 6 : start + 6 + 3 * content[start + 5] : 3]
        elif marker == _SCAN:
            return frame, components, start, content[start]
    return 0, b"", 0, 0


def _end(content: bytes) -> int:
    """Return the index of the end marker, or the length of the content if there is none."""
    if content.endswith(END_MARKER):
        return len(content) - len(END_MARKER)
    ends = (start - 4 for marker, start in segments(content) if marker == _END)
    return next(ends, len(content))


def _finished(content: bytes, start: int) -> set[tuple[int, int]]:
    """Return the (component, coefficient) pairs of which a scan has the last bit."""
    n_components = content[start]
    spectrum = start + 1 + 2 * n_components
    if len(content) < spectrum + 3 or content[spectrum + 2] & 0x0F:
        return set()
    coefficients = range(content[spectrum], content[spectrum + 1] + 1)
    return set(product(content[start + 1 : spectrum : 2], coefficients))


def _decode_rows(image: Any, data: bytes) -> bool:
    """Decode sequential data without an end marker; return whether they suffice for all rows."""
    _, _, offset, arguments = image.tile[0]
    decoder = Image._getdecoder(image.mode, "jpeg", arguments, image.decoderconfig)
    image.load_prepare()
    # Noise, which no decoded row equals, so that a last row which is left alone is seen.
    width, height = image.size
    row = Image.frombytes(image.mode, (width, 1), _noise(len(image.getbands()) * width))
    image.im.paste(row.im, (0, height - 1, width, height))
    try:
        decoder.setimage(image.im, (0, 0, width, height))
        _, error = decoder.decode(data[offset:] + _LOOKAHEAD)
    finally:
        decoder.cleanup()
    if error < 0:
        raise OSError("broken data stream when reading image file")
    image.tile = []  # marks the image as loaded
    last = image.crop((0, height - 1, width, height))
    return bool(last.tobytes() != row.tobytes())


def _noise(n_bytes: int) -> bytes:
    return np.random.default_rng(0).bytes(n_bytes)


def _fills_all_rows(data: bytes) -> bool:
    """Return whether sequential data suffice for all rows, decoded at an eighth of the size."""
    with JpegImageFile(io.BytesIO(data)) as image:
        image.draft(None, (1, 1))  # the transform is cheap then; all codes are read
        return _decode_rows(image, data)
