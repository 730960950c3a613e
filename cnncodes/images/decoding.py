"""Recognise, check and decode one image file to the pixels of a backbone's input.

Rules, in this order:

1. Only the formats that `image_formats` lists as decoded are opened, whatever the file is called.
2. The size of the file is checked before it is read, and the pixel count in the header before
   anything is decoded. A progressive JPEG of very many scans is refused too: decoding goes over
   all pixels for each of them. So is one of very many segments of EXIF, and a PPM of many pixels
   in a variant that is decoded slowly.
3. Camera raw, and a TIFF whose first image is a reduced preview, are refused. A JPEG whose end
   marker is missing is used if its pixels are all there; one that lacks pixels is refused.
4. Of an animation or a stack the first frame is used.
5. A JPEG file is decoded at a half, a quarter or an eighth, the smallest that leaves at least
   twice the pixels wanted in both directions.
6. 16-bit grey is scaled to 8 bits. White is the argument `white`, else the smallest of
   255, 1,023, 4,095, 16,383 and 65,535 that no pixel exceeds: 10 and 12 bits are often stored in
   16. 32-bit pixels have no fixed white and are refused.
7. Transparency is composited on white; everything becomes RGB.
8. In each direction, where four times the pixels wanted are left or more, the mean of two or
   more pixels replaces them, as many as leave at least twice the pixels wanted.
9. The EXIF orientation is applied.
10. The image is resized to a square, bilinear and antialiased, its aspect ratio not kept.

Large files are read and images of many pixels decoded one at a time, however many threads there
are, so that they take the memory of one. Training and prediction share this module, so both see
the same pixels. It needs numpy and Pillow only; HEIC needs pillow-heif.
"""

from __future__ import annotations

import hashlib
import io
import re
import stat
from collections import Counter
from collections.abc import Container, Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cnncodes.bounds import MAX_REASON_LENGTH
from cnncodes.concurrency import ordered_map
from cnncodes.errors import ImageError
from cnncodes.files import remedy_for_absent
from cnncodes.image_formats import (
    HEIF,
    JPEG,
    PPM,
    RAW,
    SIGNATURE_LENGTH,
    TGA,
    TIFF,
    Format,
    format_of,
    reason_not_decoded,
    reason_of_suffix,
)
from cnncodes.images.jpeg import (
    END_MARKER,
    MAX_EXIF,
    MAX_SCANS,
    has_end,
    is_resumable,
    load,
    n_exif,
    n_scans,
)
from cnncodes.images.limits import (
    DEFAULT_MAX_PIXELS,
    LARGE_FILE,
    check_area,
    check_size,
    pixels_text,
)
from cnncodes.images.pixels import to_pixels, upright_size
from cnncodes.models.kinds import find_kind
from cnncodes.parameters import MAX_PIXELS, WHITE, as_path
from cnncodes.text import counted, shortened

LARGE = 16_000_000  # pixels
MAX_SLOW_PIXELS = 2_000_000  # of a PPM that Pillow decodes in Python
_REDUCED, _SUBFILE_TYPE, _PHOTOMETRIC, _DNG_VERSION = 1, 254, 262, 50706  # TIFF 6.0, DNG 1.4
_SENSOR_DATA = (32803, 34892)  # photometric interpretations: colour filter array, linear raw
_TGA_FOOTER, _TGA_FOOTER_LENGTH = b"TRUEVISION-XFILE.", 18
_SAMPLES, _MAX_SAMPLES = 277, 4  # of TIFF 6.0: samples per pixel; red, green, blue and alpha
# Kinds of files that an image, or what an undecoded format keeps, may be taken for.
_DESCRIBED_BY_ERROR = ("image", "images", "folder", "text", "zip", "unknown")
_PREFIX = 16  # bytes that Pillow looks at to accept a file
_NO_END = "its end marker is missing; its pixels are complete"
_SEVERAL = "more than one page or frame, of which the first is used"
_OF_SEVERAL = ("TIFF", "GIF", "PNG", "WEBP", "AVIF")  # MPO and HEIF are JPEG's and Apple's extras
_UNSUPPORTED = re.compile(
    "unsupported|not supported|unknown|cannot handle|not available|samples per pixel", re.I
)
_one_large = RLock()  # held for a large file, and again for its pixels


def decode_image(
    content: bytes,
    size: int,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    white: int | None = None,
    suffix: str = "",
) -> NDArray[np.uint8]:
    """Decode an image file to the pixels of a backbone's input.

    Parameters
    ----------
    content : bytes
        The whole file.
    size : int
        Height and width of the result, in pixels.
    max_pixels : int
        An image with more pixels is refused before it is decoded.
    white : int, optional
        The value of white in 16-bit grey, from 1 to 65,535; brighter pixels become white. By
        default it is guessed from each image, by rule 6 of this module.
    suffix : str
        Ending of the file's name, which identifies camera raw and formats without a signature.

    Returns
    -------
    ndarray of uint8, shape (size, size, 3)
        RGB.

    Raises
    ------
    ImageError
        The file is empty, not an image, of a format or variant that is not decoded, damaged, too
        large, or a JPEG of more than `MAX_SCANS` scans or `MAX_EXIF` segments of EXIF.
    ParameterError
        `max_pixels` or `white` is out of range.
    """
    return _decode(content, size, max_pixels, white, suffix)[0]


def _decode(
    content: bytes, size: int, max_pixels: int, white: int | None, suffix: str
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Return the pixels of `decode_image`, and remarks on what was assumed, left out or mended."""
    max_pixels = MAX_PIXELS.check(max_pixels, "max_pixels")
    white = WHITE.check_or_none(white, "white")
    check_size(len(content), max_pixels)
    if not content:
        raise ImageError("empty file")
    kind = format_of(content[:SIGNATURE_LENGTH], suffix)
    if kind is None and content[-_TGA_FOOTER_LENGTH:].startswith(_TGA_FOOTER):
        kind = TGA
    if kind is None:
        raise ImageError(reason_of_suffix(suffix))
    if problem := reason_not_decoded(kind):
        raise ImageError(problem)
    if kind is JPEG and n_exif(content) > MAX_EXIF:
        raise ImageError(f"more than {MAX_EXIF} segments of EXIF: save it again")
    with _as_image_errors(), _opened(content, kind) as image:
        _check_image(image, kind, content, max_pixels)
        ends = kind is not JPEG or has_end(content)
        if not ends and not is_resumable(content):
            return _decode(content + END_MARKER, size, max_pixels, white, suffix)[0], (_NO_END,)
        n_pixels = image.width * image.height
        drafted = image.draft(None, (2 * size, 2 * size))  # only JPEG knows how
        if not image.info.get("progressive"):  # else all of it is in memory, in any scale
            n_pixels = image.width * image.height
        with _one_large if n_pixels > LARGE else nullcontext():
            if kind is JPEG and not load(image, content):
                raise ImageError("damaged: a part of its pixels is missing")
            pixels, remark = to_pixels(image, size, drafted[1][2:] if drafted else None, white)
            remarks = [remark, "" if ends else _NO_END, _SEVERAL if _has_several(image) else ""]
            image.close()  # here, so that the next large one does not come on top of it
            return pixels, tuple(each for each in remarks if each)


def _has_several(image: Image.Image) -> bool:
    """Whether a file has more pages or frames than the one that was decoded."""
    with suppress(Exception):  # of a damaged frame that is not used
        return image.format in _OF_SEVERAL and bool(getattr(image, "is_animated", False))
    return False


def _opened(content: bytes, kind: Format) -> Image.Image:
    """Open an image file in the format that its first bytes announce.

    `PIL.Image.open` would apply its own limit of pixels, which is one for the whole process.
    """
    file = io.BytesIO(content)
    if kind is HEIF:
        from pillow_heif import HeifImageFile  # used directly: a plugin is for the whole process

        return HeifImageFile(file)  # type: ignore[no-untyped-call]
    for register in (Image.preinit, Image.init):
        if kind.pillow not in Image.OPEN:
            register()
    opener, accepts = Image.OPEN[kind.pillow]
    accepted = accepts is None or accepts(content[:_PREFIX])
    if isinstance(accepted, str) or not accepted:  # a str names what is not installed
        raise UnidentifiedImageError
    return opener(file, "")


def _check_image(image: Image.Image, kind: Format, content: bytes, max_pixels: int) -> None:
    """Refuse an opened image that is too large, slow to decode, or a preview of another."""
    check_area(image.width, image.height, max_pixels)
    if image.info.get("progressive") and n_scans(content) > MAX_SCANS:
        raise ImageError(f"more than {MAX_SCANS} scans: save it again")
    tags: Any = getattr(image, "tag_v2", {}) if kind is TIFF else {}
    if _DNG_VERSION in tags or tags.get(_PHOTOMETRIC) in _SENSOR_DATA:
        raise ImageError(reason_not_decoded(RAW))
    if tags.get(_SAMPLES, 1) > _MAX_SAMPLES:
        raise ImageError(f"{tags[_SAMPLES]} bands, which define no colour: save it as RGB")
    if tags.get(_SUBFILE_TYPE, 0) & _REDUCED:
        raise ImageError(
            f"its first image is a preview of {image.width} x {image.height}, as in camera raw: "
            "save the full image as JPEG or PNG"
        )
    in_python = kind is PPM and image.tile[0][0] != "raw"  # type: ignore[attr-defined]
    if in_python and image.width * image.height > MAX_SLOW_PIXELS:
        raise ImageError(
            f"a PPM as text or of unusual depth, of more than {pixels_text(MAX_SLOW_PIXELS)}: "
            "save it as PNG"
        )


def prepare_image(image: Image.Image, size: int, *, white: int | None = None) -> NDArray[np.uint8]:
    """Turn an opened image into the pixels of a backbone's input.

    Parameters
    ----------
    image : PIL.Image.Image
        Of any mode but the 32-bit ``I`` and ``F``.
    size : int
        Height and width of the result, in pixels.
    white : int, optional
        As for `decode_image`.

    Returns
    -------
    ndarray of uint8, shape (size, size, 3)
        RGB.

    Raises
    ------
    ImageError
        The image has 32 bits per channel, or is damaged.
    """
    with _as_image_errors():
        return to_pixels(image, size, white=white)[0]


@contextmanager
def _as_image_errors() -> Iterator[None]:
    """Turn what Pillow raises into one line; damaged files raise errors of any kind."""
    try:
        yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError("not enough memory to decode it") from error
    except UnidentifiedImageError as error:
        raise ImageError("damaged: its header cannot be read") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("more pixels than PIL.Image.MAX_IMAGE_PIXELS") from error
    except Exception as error:
        reason = str(error).strip() or type(error).__name__
        if _UNSUPPORTED.search(reason):
            raise ImageError(
                f"a variant that is not decoded ({reason}): save it as JPEG or PNG"
            ) from error
        raise ImageError(f"damaged: {reason}") from error


def in_proportion(
    pixels: NDArray[np.uint8], path: Path, longest: int, *, enlarge: bool
) -> Image.Image:
    """Return the square pixels of an image file in the proportions of the file.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (size, size, 3)
        What `load_image` made of it.
    path : Path
        The file.
    longest : int
        Length of the longer side of the result, in pixels.
    enlarge : bool
        Whether a smaller image becomes as large, too.

    Returns
    -------
    PIL.Image.Image
        In RGB.

    Raises
    ------
    ImageError
        It is not an image that is decoded.
    OSError
        It cannot be read.
    """
    content = path.read_bytes()
    kind = format_of(content[:SIGNATURE_LENGTH], path.suffix) or TGA
    with _as_image_errors(), _opened(content, kind) as image:
        lengths = upright_size(image)
    side = longest if enlarge else min(longest, max(lengths))
    width, height = (max(1, round(side * length / max(lengths))) for length in lengths)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)


@dataclass(frozen=True)
class LoadedImage:
    """The result of reading and decoding one image file.

    Attributes
    ----------
    index : int
        Its index among the input paths.
    pixels : ndarray of uint8, shape (size, size, 3), or None
        RGB; None if the image cannot be used, or need not be decoded.
    digest : str
        SHA-256 of the file's bytes, hexadecimal; empty if it cannot be read.
    problem : str
        Why the image cannot be used; empty if it can.
    remarks : tuple of str
        What was assumed, left out or mended of an image that is used.
    """

    index: int
    pixels: NDArray[np.uint8] | None
    digest: str
    problem: str
    remarks: tuple[str, ...] = ()


def load_image(
    index: int,
    path: str | Path,
    size: int,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    known: Container[str] = (),
    *,
    white: int | None = None,
) -> LoadedImage:
    """Read one file, and decode it unless its digest is known.

    A failure is reported in the result, not raised.
    """
    path = as_path(path, "path")
    try:
        large = _size_of(path, max_pixels) > LARGE_FILE
        with _one_large if large else nullcontext():
            return _read_and_decode(index, path, size, max_pixels, known, white)
    except ImageError as error:
        reason = _reason(path, error)
    except (OSError, ValueError) as error:  # ValueError: a null byte in a CSV's path
        reason = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        if isinstance(error, FileNotFoundError) and (remedy := remedy_for_absent(path)):
            reason += f"; {remedy}"
    return LoadedImage(index, None, "", shortened(reason, MAX_REASON_LENGTH))


def _read_and_decode(
    index: int,
    path: Path,
    size: int,
    max_pixels: int,
    known: Container[str],
    white: int | None,
) -> LoadedImage:
    """Read, hash and decode one file; separate, so that its bytes are freed on return."""
    return load_content(index, path.read_bytes(), path, size, max_pixels, known, white=white)


def load_content(
    index: int,
    content: bytes,
    path: Path,
    size: int,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    known: Container[str] = (),
    *,
    white: int | None = None,
) -> LoadedImage:
    """Hash and decode the bytes of a file as `load_image` does; `path` names it in reasons."""
    digest = hashlib.sha256(content).hexdigest()
    if digest in known:
        return LoadedImage(index, None, digest, "")
    try:
        pixels, remarks = _decode(content, size, max_pixels, white, path.suffix)
    except ImageError as error:
        reason = shortened(" ".join(_reason(path, error).split()), MAX_REASON_LENGTH)
        return LoadedImage(index, None, digest, reason)
    return LoadedImage(index, pixels, digest, "", remarks)


def _reason(path: Path, error: ImageError) -> str:
    """Return why a file is not decoded; of one for another command, what it is."""
    kind = find_kind(path)
    if kind is None or kind.name in _DESCRIBED_BY_ERROR:
        return str(error)
    return f"is {kind.noun} ({kind.use}), not an image"


def _size_of(path: Path, max_pixels: int) -> int:
    """Return the size of a file in bytes; refuse one larger than `max_pixels` pixels need."""
    status = path.stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        # Reading a pipe would block; reading a folder raises an error of its own.
        raise ImageError("cannot be read: not a file")
    if stat.S_ISREG(status.st_mode) and not status.st_size:
        raise ImageError("empty file")  # not read: files of /proc have this size too
    check_size(status.st_size, max_pixels)
    return status.st_size


def digest_images(digests: Iterable[str]) -> str:
    """Return one digest of many images, whatever their order.

    Parameters
    ----------
    digests : iterable of str
        SHA-256 of each image's file, hexadecimal.

    Returns
    -------
    str
        SHA-256 of the sorted and joined digests, hexadecimal.
    """
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def load_images(
    paths: Iterable[str | Path],
    size: int,
    *,
    threads: int,
    ahead: int,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    white: int | None = None,
) -> Generator[LoadedImage, None, None]:
    """Read and decode many files in threads, in order.

    Parameters
    ----------
    paths : iterable of str or Path
        The files; an iterator is consumed only as far as is read ahead.
    size : int
        Height and width of the results, in pixels.
    threads : int
        Number of files decoded at a time.
    ahead : int
        Number of results that may wait for the consumer; this bounds the memory.
    max_pixels, white
        As for `decode_image`.

    Yields
    ------
    LoadedImage
        One for each path.
    """

    def load(numbered: tuple[int, str | Path]) -> LoadedImage:
        return load_image(*numbered, size, max_pixels, white=white)

    return ordered_map(load, enumerate(paths), threads=threads, ahead=ahead, name="decode")


def notes_on_remarks(remarks: Counter[str]) -> list[str]:
    """Return a line for each remark on images, the most frequent first."""
    return [f"{counted(count, 'image')}: {remark}" for remark, count in remarks.most_common()]
