"""One image: recognise it, check it, decode it to the pixels a backbone takes.

Rules, in this order:

1. Only JPEG, PNG, WebP, BMP, GIF and TIFF are opened, whatever the file is called.
2. The size of the file is checked before it is read, and the pixel count in the header before
   anything is decoded. A progressive JPEG with ever so many scans is refused too: decoding goes
   over all pixels for each of them. So is one of ever so many segments of EXIF.
3. Of an animation or a stack the first frame is used.
4. A JPEG file is decoded at a half, a quarter or an eighth, the smallest that leaves at least
   twice the pixels wanted in both directions.
5. 16-bit grey is scaled to 8 bits; 32-bit pixels have no fixed white and are refused.
6. Transparency is composited on white; everything becomes RGB.
7. In each direction, where four times the pixels wanted are left or more, the mean of two or
   more pixels takes their place, as many as leave at least twice the pixels wanted.
8. The EXIF orientation is applied.
9. The image is resized to a square, bilinear and antialiased, its aspect ratio not kept.

Large files are read and images of many pixels decoded one at a time, however many threads there
are, so that they take the memory of one. Training and prediction share this module, so both see
the same pixels. It needs numpy and Pillow only.
"""

from __future__ import annotations

import hashlib
import io
import re
import stat
from collections import deque
from collections.abc import Container, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import RLock

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from cnncodes.errors import ImageError, ParameterError
from cnncodes.parameters import as_path

DEFAULT_MAX_PIXELS = 100_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .dib .gif .tif .tiff".split()  # noqa: SIM905
)
SIGNATURES = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"BM",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",
    b"MM\0*",
)
SIGNATURE_LENGTH = 12
MAX_SCANS = 50  # of a progressive JPEG; encoders write ten or so
LARGE = 16_000_000  # pixels
LARGE_FILE = 64_000_000  # bytes; as many may stand beside the pixels
BYTES_A_PIXEL = 6  # three channels of 16 bits, not compressed
STRIP = 1_000_000  # pixels
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MAX_EXIF = 100  # segments of 64 kB in a JPEG, which Pillow joins one by one
_MARKER = re.compile(rb"\xff[^\0\x01\xff\xd0-\xd8]")  # of a JPEG, with a length behind it
_END, _SCAN, _EXIF = 0xD9, 0xDA, 0xE1
_one_large = RLock()  # taken for a large file, and again for its pixels
# Pillow takes memory in blocks. In blocks of its own size a C library may keep what was freed, for
# each thread; larger ones go back to the system.
Image.core.set_block_size(2**30)  # type: ignore[attr-defined]


def has_image_signature(head: bytes) -> bool:
    """Tell from a file's first `SIGNATURE_LENGTH` bytes whether it is one of `FORMATS`.

    Parameters
    ----------
    head : bytes
        The first bytes of a file.

    Returns
    -------
    bool
        Whether they are those of an image.
    """
    return head.startswith(SIGNATURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def decode_image(
    content: bytes, size: int, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decode an image file to the pixels a backbone takes.

    Parameters
    ----------
    content : bytes
        The whole file.
    size : int
        Height and width of the result, in pixels.
    max_pixels : int
        An image with more pixels is refused before it is decoded.

    Returns
    -------
    ndarray of uint8, shape (size, size, 3)
        RGB.

    Raises
    ------
    ImageError
        The file is empty, not an image, damaged, too large, of 32 bits a channel, or a JPEG of
        more than `MAX_SCANS` scans or `MAX_EXIF` segments of EXIF.
    """
    if Image.MAX_IMAGE_PIXELS is not None:  # Pillow's limit is one for the whole process
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels)
    check_size(len(content), max_pixels)
    if not content:
        raise ImageError("empty file")
    if not has_image_signature(content[:SIGNATURE_LENGTH]):
        raise ImageError("not a JPEG, PNG, WebP, BMP, GIF or TIFF image")
    if content.startswith(SIGNATURES[0]) and _n_exif(content) > MAX_EXIF:
        raise ImageError(f"more than {MAX_EXIF} segments of EXIF: save it again")
    with (
        _as_image_errors(max_pixels),
        Image.open(io.BytesIO(content), formats=FORMATS) as image,
    ):
        check_area(image.width, image.height, max_pixels)
        if image.info.get("progressive") and _n_scans(content) > MAX_SCANS:
            raise ImageError(f"more than {MAX_SCANS} scans: save it again")
        n_pixels = image.width * image.height
        drafted = image.draft(None, (2 * size, 2 * size))  # only JPEG knows how
        if not image.info.get("progressive"):  # else all of it is in memory, whatever the scale
            n_pixels = image.width * image.height
        with _one_large if n_pixels > LARGE else nullcontext():
            pixels = _prepared(image, size, drafted[1][2:] if drafted else None)
            image.close()  # here, so that the next large one does not come on top of it
            return pixels


def prepare_image(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Turn an opened image into the pixels a backbone takes.

    Parameters
    ----------
    image : PIL.Image.Image
        Of any mode but the 32-bit ``I`` and ``F``.
    size : int
        Height and width of the result, in pixels.

    Returns
    -------
    ndarray of uint8, shape (size, size, 3)
        RGB.

    Raises
    ------
    ImageError
        The image has 32 bits a channel, or turns out to be damaged.
    """
    with _as_image_errors():
        return _prepared(image, size)


def check_size(n_bytes: int, max_pixels: int) -> None:
    """Refuse a file that is larger than an image can need.

    Parameters
    ----------
    n_bytes : int
        Its size.
    max_pixels : int
        As many as the image may have.

    Raises
    ------
    ImageError
        It is larger.
    """
    limit = BYTES_A_PIXEL * max(max_pixels, DEFAULT_MAX_PIXELS) + LARGE_FILE
    if n_bytes > limit:
        raise ImageError(
            f"larger than the {limit / 1e6:,.0f} MB that an image of --max-pixels can need"
        )


def check_area(width: int, height: int, max_pixels: int) -> None:
    """Refuse an image of too many pixels, or of none.

    Parameters
    ----------
    width, height : int
        Its size, in pixels.
    max_pixels : int
        As many as it may have.

    Raises
    ------
    ImageError
        It has more, or none.
    """
    if not width * height:
        raise ImageError(f"{width} x {height} is no pixel at all")
    if width * height > max_pixels:
        raise ImageError(f"{width} x {height} is more than {_pixels(max_pixels)} (--max-pixels)")


def check_pixels(images: NDArray[np.uint8], size: int) -> None:
    """Refuse a batch that is not what a backbone takes.

    Parameters
    ----------
    images : ndarray of uint8, shape (n_images, size, size, 3)
        RGB.
    size : int
        Height and width of the input, in pixels.

    Raises
    ------
    ParameterError
        The images have another dtype or shape.
    """
    wanted = f"images must be uint8 of shape (n_images, {size}, {size}, 3), not"
    if not isinstance(images, np.ndarray):
        raise ParameterError(f"{wanted} {type(images).__name__}")
    if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3):
        raise ParameterError(f"{wanted} {images.dtype} of shape {images.shape}")


@contextmanager
def _as_image_errors(max_pixels: int = DEFAULT_MAX_PIXELS) -> Iterator[None]:
    """Tell in one line what Pillow found; damaged files raise whatever it stumbled on."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError("damaged: its header cannot be read") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"more than {_pixels(max_pixels)} (--max-pixels)") from error
    except Exception as error:
        raise ImageError(f"damaged: {str(error).strip() or type(error).__name__}") from error


def _n_scans(content: bytes) -> int:
    """Count the scans of a JPEG, as far as `MAX_SCANS` and one."""
    n_scans = 0
    for marker, _ in _segments(content):
        n_scans += marker == _SCAN
        if marker == _END or n_scans > MAX_SCANS:
            break
    return n_scans


def _n_exif(content: bytes) -> int:
    """Count the segments of EXIF in a JPEG, as far as `MAX_EXIF` and one."""
    n_exif = 0
    for marker, place in _segments(content):
        n_exif += marker == _EXIF and content[place : place + 4] == b"Exif"
        if marker == _SCAN or n_exif > MAX_EXIF:
            break
    return n_exif


def _segments(content: bytes) -> Iterator[tuple[int, int]]:
    """Give the marker of each segment of a JPEG, and where what it holds begins."""
    place = 2
    while found := _MARKER.search(content, place):
        start = found.end() + 2
        yield found[0][1], start
        place = found.end() + int.from_bytes(content[found.end() : start], "big")


def _pixels(number: int) -> str:
    return f"{number / 1e6:.0f} megapixels" if number >= 1_000_000 else f"{number} pixels"


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 if there is none that can be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF raises many things; damaged pixels have raised already
        return 1


def _prepared(
    image: Image.Image, size: int, extent: tuple[float, float] | None = None
) -> NDArray[np.uint8]:
    """Turn an image into pixels; its last column and row may lie outside of `extent` in part."""
    image.load()
    turn = UPRIGHT.get(_orientation(image))
    extent = extent or image.size
    factors = max(1, image.width // (2 * size)), max(1, image.height // (2 * size))
    if factors == (1, 1) and extent == image.size:
        image = _to_rgb(image)
        if turn is not None:
            image = image.transpose(turn)
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BILINEAR)
    else:
        box = (0, 0, extent[0] / factors[0], extent[1] / factors[1])
        image = _reduced(image, factors).resize((size, size), Image.Resampling.BILINEAR, box)
        if turn is not None:
            image = image.transpose(turn)
    return np.asarray(image)


def _reduced(image: Image.Image, factors: tuple[int, int]) -> Image.Image:
    """Turn an image into RGB, and average blocks of pixels, `factors` across and down.

    This is done a strip at a time, since each mode takes copies of its own on its way.
    """
    if factors == (1, 1):
        return _to_rgb(image)
    width, height = image.size
    smaller = Image.new("RGB", (-(-width // factors[0]), -(-height // factors[1])))
    step = factors[1] * max(1, STRIP // (width * factors[1]))
    for top in range(0, height, step):
        strip = image.crop((0, top, width, min(top + step, height)))
        smaller.paste(_to_rgb(strip).reduce(factors), (0, top // factors[1]))
    return smaller


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F"):
        raise ImageError("32-bit pixels, whose white is not defined: save it with 8 or 16 bits")
    if image.mode.startswith("I;16"):
        sixteen = np.asarray(image)
        eight = np.round(sixteen.astype(np.float32) / 257).astype(np.uint8)
        eight[sixteen == image.info.get("transparency", -1)] = 255
        image = Image.fromarray(eight)
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        image = Image.alpha_composite(white, layered)
    return image.convert("RGB")


@dataclass(frozen=True)
class LoadedImage:
    """What became of one image file.

    Attributes
    ----------
    index : int
        Its place among the paths given.
    pixels : ndarray of uint8, shape (size, size, 3), or None
        RGB; None if the image cannot be used, or need not be decoded.
    digest : str
        SHA-256 of the file's bytes, hexadecimal; empty if it cannot be read.
    problem : str
        Why the image cannot be used; empty if it can.
    """

    index: int
    pixels: NDArray[np.uint8] | None
    digest: str
    problem: str


def load_image(
    index: int,
    path: str | Path,
    size: int,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    known: Container[str] = (),
) -> LoadedImage:
    """Read one file, and decode it unless its digest is known.

    A failure is told in the result, not raised.
    """
    path = as_path(path, "path")
    try:
        large = _size_of(path, max_pixels) > LARGE_FILE
        with _one_large if large else nullcontext():
            return _read_and_decode(index, path, size, max_pixels, known)
    except ImageError as error:
        reason = str(error)
    except (OSError, ValueError) as error:  # ValueError: a null byte in a CSV's path
        reason = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    return LoadedImage(index, None, "", reason)


def _read_and_decode(
    index: int, path: Path, size: int, max_pixels: int, known: Container[str]
) -> LoadedImage:
    """Hold the content of the file no longer than this takes."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest in known:
        return LoadedImage(index, None, digest, "")
    try:
        pixels = decode_image(content, size, max_pixels=max_pixels)
    except ImageError as error:
        return LoadedImage(index, None, digest, " ".join(str(error).split()))
    return LoadedImage(index, pixels, digest, "")


def _size_of(path: Path, max_pixels: int) -> int:
    """Return the size of a file in bytes; refuse what no image of so many pixels needs."""
    status = path.stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        # A pipe would be waited for; a folder gives an error of its own.
        raise ImageError("cannot be read: not a file")
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
) -> Generator[LoadedImage, None, None]:
    """Read and decode many files in threads, in order.

    Parameters
    ----------
    paths : iterable of str or Path
        The files; of an iterator only as many are taken as are read ahead.
    size : int
        Height and width of the results, in pixels.
    threads : int
        How many files are decoded at a time.
    ahead : int
        How many results may wait for the consumer; this bounds the memory.
    max_pixels : int
        As for `decode_image`.

    Yields
    ------
    LoadedImage
        One for each path.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    waiting: deque[Future[LoadedImage]] = deque()
    try:
        for index, path in enumerate(paths):
            waiting.append(pool.submit(load_image, index, path, size, max_pixels))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def in_batches(images: Iterable[LoadedImage], batch_size: int) -> Iterator[list[LoadedImage]]:
    """Group images so that each group holds `batch_size` usable ones, the last perhaps fewer.

    Unusable images travel in the group in which they were met.
    """
    group: list[LoadedImage] = []
    usable = 0
    for image in images:
        group.append(image)
        usable += image.pixels is not None
        if usable == batch_size:
            yield group
            group, usable = [], 0
    if group:
        yield group
