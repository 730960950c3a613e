"""Turn an opened image into a backbone's input: depth, transparency, orientation, size.

`decoding` lists the rules; this module applies the sixth and later
ones. Needs numpy and Pillow only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from cnncodes.errors import ImageError
from cnncodes.parameters import WHITE

MAX_WHITE = WHITE.most
WHITES = (2**8 - 1, 2**10 - 1, 2**12 - 1, 2**14 - 1, MAX_WHITE)  # of 16-bit grey
STRIP = 1_000_000  # pixels
ASSUMED_WHITE = "16-bit grey, white assumed to be"
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DARK = 64  # of 255: a colour image of 16 bits with none brighter may hold 14 bits or fewer


def to_pixels(
    image: Image.Image,
    size: int,
    extent: tuple[float, float] | None = None,
    white: int | None = None,
) -> tuple[NDArray[np.uint8], str]:
    """Turn an opened image into a backbone's input.

    Parameters
    ----------
    image : PIL.Image.Image
        Of any mode.
    size : int
        Height and width of the result, in pixels.
    extent : tuple of float, optional
        Width and height of the part that is used, from the upper left corner: the last column
        and row of a reduced JPEG may lie partly outside of the picture.
    white : int, optional
        The value of white in 16-bit grey; by default it is guessed.

    Returns
    -------
    pixels : ndarray of uint8, shape (size, size, 3)
        RGB.
    remark : str
        What was assumed or lost of the image's depth; empty if nothing.

    Raises
    ------
    ImageError
        The image has 32 bits per channel.
    Exception
        Whatever Pillow raises for damaged pixels.
    """
    remark = _loses_depth(image)
    image.load()
    if remark and _brightest(image) >= _DARK:
        remark = ""
    turn = UPRIGHT.get(_orientation(image))
    if image.mode == "I" and image.format in ("PNG", "PPM"):  # neither has more than 16 bits
        image = image.convert("I;16")
    if image.mode.startswith("I;16") and white is None:
        white = _guessed_white(image)
        if white != MAX_WHITE:
            remark = f"{ASSUMED_WHITE} {white:,} (the option white sets it)"
    extent = extent or image.size
    factors = max(1, image.width // (2 * size)), max(1, image.height // (2 * size))
    if factors == (1, 1) and extent == image.size:
        image = _to_rgb(image, white)
        if turn is not None:
            image = image.transpose(turn)
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BILINEAR)
    else:
        box = (0, 0, extent[0] / factors[0], extent[1] / factors[1])
        image = _reduced(image, factors, white)
        image = image.resize((size, size), Image.Resampling.BILINEAR, box)
        if turn is not None:
            image = image.transpose(turn)
    return np.asarray(image), remark


def _loses_depth(image: Image.Image) -> str:
    """Return a remark if a colour image has 16 bits per channel: Pillow keeps the upper 8."""
    tiles: Any = getattr(image, "tile", ())
    arguments = tiles[0][3] if tiles else ""
    raw_mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    if image.mode in ("RGB", "RGBA") and "16" in str(raw_mode):
        return "16-bit colour, of which 8 bits are used, nearly black: convert it to 8 bits"
    return ""


def _guessed_white(image: Image.Image) -> int:
    """Return the smallest of `WHITES` that no pixel of an ``I;16`` image exceeds.

    For a black image that is the largest: there is nothing to guess from.
    """
    brightest = _brightest(image) or MAX_WHITE
    return next(white for white in WHITES if brightest <= white)


def _brightest(image: Image.Image) -> int:
    """Return the largest value of an image, without its alpha; a strip at a time to save memory."""
    step = max(1, STRIP // image.width)
    strips = (
        np.asarray(image.crop((0, top, image.width, min(top + step, image.height))))
        for top in range(0, image.height, step)
    )
    return max(int((strip[..., :3] if strip.ndim == 3 else strip).max()) for strip in strips)


def _reduced(image: Image.Image, factors: tuple[int, int], white: int | None) -> Image.Image:
    """Turn an image into RGB, and average blocks of pixels, `factors` across and down.

    Strip by strip, since each conversion of the mode makes a copy.
    """
    if factors == (1, 1):
        return _to_rgb(image, white)
    width, height = image.size
    smaller = Image.new("RGB", (-(-width // factors[0]), -(-height // factors[1])))
    step = factors[1] * max(1, STRIP // (width * factors[1]))
    for top in range(0, height, step):
        strip = image.crop((0, top, width, min(top + step, height)))
        smaller.paste(_to_rgb(strip, white).reduce(factors), (0, top // factors[1]))
    return smaller


def _to_rgb(image: Image.Image, white: int | None) -> Image.Image:
    if image.mode in ("I", "F"):
        raise ImageError(
            "32-bit or signed pixels, whose white is not defined: save it with 8 or 16 bits"
        )
    if image.mode.startswith("I;16"):
        sixteen = np.asarray(image)
        scaled = sixteen.astype(np.float32) / ((white or MAX_WHITE) / 255)
        eight = np.round(scaled).clip(0, 255).astype(np.uint8)
        eight[sixteen == image.info.get("transparency", -1)] = 255
        image = Image.fromarray(eight)
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        background = Image.new("RGBA", layered.size, "white")
        image = Image.alpha_composite(background, layered)
    return image.convert("RGB")


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height of an opened image, in pixels, its EXIF orientation applied."""
    turned = _orientation(image) >= 5  # 5 to 8 exchange rows and columns
    return (image.height, image.width) if turned else image.size


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 if there is none that can be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF raises many things; damaged pixels have raised already
        return 1
