"""How large an image may be: its file, its pixels, and the batch that a network takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import ImageError, ParameterError
from cnncodes.text import counted

DEFAULT_MAX_PIXELS = 100_000_000
LARGE_FILE = 64_000_000  # bytes; also the allowance for metadata beside the pixels
BYTES_PER_PIXEL = 6  # three channels of 16 bits, not compressed


def check_size(n_bytes: int, max_pixels: int) -> None:
    """Refuse a file that is larger than an image can need.

    Parameters
    ----------
    n_bytes : int
        Its size.
    max_pixels : int
        Largest number of pixels of the image.

    Raises
    ------
    ImageError
        It is larger.
    """
    limit = largest_file(max_pixels)
    if n_bytes > limit:
        raise ImageError(
            f"larger than the {limit / 1e6:,.0f} MB that an image of max_pixels can need"
        )


def largest_file(max_pixels: int) -> int:
    """Return the largest number of bytes that an image of `max_pixels` can need."""
    return BYTES_PER_PIXEL * max(max_pixels, DEFAULT_MAX_PIXELS) + LARGE_FILE


def check_area(width: int, height: int, max_pixels: int) -> None:
    """Refuse an image of too many pixels, or of none.

    Parameters
    ----------
    width, height : int
        Its size, in pixels.
    max_pixels : int
        Largest number of pixels.

    Raises
    ------
    ImageError
        It has more, or none.
    """
    if not width * height:
        raise ImageError(f"{width} x {height} has no pixels")
    if width * height > max_pixels:
        raise ImageError(f"{width} x {height} is more than {pixels_text(max_pixels)} (max_pixels)")


def check_pixels(images: NDArray[np.uint8], size: int) -> None:
    """Refuse a batch that is not a backbone's input.

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


def pixels_text(number: int) -> str:
    """Return a number of pixels in words."""
    if number >= 1_000_000:
        return counted(round(number / 1e6), "megapixel")
    return counted(number, "pixel")
