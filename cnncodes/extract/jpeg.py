"""What a JPEG file says of itself: its segments and scans, and whether all of its pixels are there.

libjpeg fills missing data with grey and reports it in a warning that Pillow does not pass on. So
a file without an end marker, or with a long run of zeros as an interrupted copy leaves it, is
examined here (`is_whole`):

- A sequential JPEG of one scan is decoded at an eighth of its size from the data before its end
  marker. If libjpeg has to wait for more, rows at the bottom stay unwritten, and data are missing.
  If all rows come without the last `_TAIL` bytes too, some data are not those of the image.
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

MAX_SCANS = 50  # of a progressive JPEG; encoders write ten or so
MAX_EXIF = 100  # segments of 64 kB, which Pillow joins one by one
END_MARKER = b"\xff\xd9"
ZERO_RUN = 512  # bytes
_TAIL = 64
# libjpeg looks up to eight bytes ahead. Ones are what the last byte is filled up with; no code
# consists of them alone, so hardly a block is made of these.
_LOOKAHEAD = 8 * b"\xff\0"
_END, _SCAN, _APP1 = 0xD9, 0xDA, 0xE1
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended sequential, progressive
_PROGRESSIVE = 0xC2
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


def has_zeros(content: bytes) -> bool:
    """Return whether a long run of zeros stands behind the header of the last scan of a JPEG.

    Before it, metadata may be padded with zeros.
    """
    run = content.rfind(bytes(ZERO_RUN))
    return run >= 0 and run > content.rfind(bytes((0xFF, _SCAN)))


def is_whole(content: bytes) -> bool:
    """Return whether a JPEG file holds the data of all of its pixels.

    Parameters
    ----------
    content : bytes
        The file. Its end marker may be missing.

    Returns
    -------
    bool
        False where rows are missing, or data are not those of the image.
    """
    frame, scans, end = 0, [], len(content)
    components: tuple[int, ...] = ()
    covered: set[tuple[int, int]] = set()
    for marker, start in segments(content):
        if marker in _FRAMES:
            frame = marker
            components = tuple(content[start + 6 : start + 6 + 3 * content[start + 5] : 3])
        elif marker == _SCAN:
            scans.append(start)
            covered |= _finished(content, start)
        elif marker == _END:
            end = start - 4
    if not (frame and scans):
        return False
    if frame == _PROGRESSIVE or len(scans) > 1:
        return set(product(components, range(_N_COEFFICIENTS))) <= covered
    if end - _TAIL <= scans[0]:
        return _fills_all_rows(content[:end])
    return _fills_all_rows(content[:end]) and not _fills_all_rows(content[: end - _TAIL])


def _finished(content: bytes, start: int) -> set[tuple[int, int]]:
    """Return the (component, coefficient) pairs that a scan brings to their last bit."""
    n_components = content[start]
    spectrum = start + 1 + 2 * n_components
    if len(content) < spectrum + 3 or content[spectrum + 2] & 0x0F:
        return set()
    coefficients = range(content[spectrum], content[spectrum + 1] + 1)
    return set(product(content[start + 1 : spectrum : 2], coefficients))


def _fills_all_rows(content: bytes) -> bool:
    """Return whether sequential JPEG data without an end marker suffice for the last row."""
    with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
        image.draft(None, (1, 1))  # an eighth: the transform is cheap, all codes are read
        tile: Any = image.tile[0]
        decoder = Image._getdecoder(image.mode, "jpeg", tile[3], image.decoderconfig)
        n_bytes = len(image.getbands()) * image.width * image.height
        # Noise, which no decoded row equals, so that rows which are left alone are seen.
        noise = np.random.default_rng(0).bytes(n_bytes)
        canvas = Image.frombytes(image.mode, image.size, noise)
        decoder.setimage(canvas.im, (0, 0, *image.size))
        decoder.decode(content[tile[2] :] + _LOOKAHEAD)
        decoder.cleanup()
    row = n_bytes // canvas.height
    return canvas.tobytes()[-row:] != noise[-row:]
