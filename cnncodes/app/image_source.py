"""The pixels of one image, from whatever a program has it in."""

from __future__ import annotations

import os
from io import TextIOBase
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnncodes.errors import ImageError, ParameterError
from cnncodes.images.decoding import decode_image, load_image, prepare_image
from cnncodes.images.limits import check_area, check_size
from cnncodes.parameters import as_path

PART = 1 << 20  # bytes of a file that are read at a time


class ImageFile(Protocol):
    """An opened binary file, or what can be read like one."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most `size`; none at the end."""


ImageSource = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | ImageFile
    | NDArray[np.uint8]
    | Image.Image
)


def pixels_of(image: Any, size: int, max_pixels: int, white: int | None) -> NDArray[np.uint8]:
    """Return the pixels of one image, shape (size, size, 3), whatever holds it."""
    if isinstance(image, str | os.PathLike):
        path = as_path(image, "image")
        loaded = load_image(0, path, size, max_pixels, white=white)
        if loaded.pixels is None:
            raise ImageError(f"{path}: {loaded.problem}")
        return loaded.pixels
    if isinstance(image, np.ndarray):
        image = _image_of(image)
    if isinstance(image, Image.Image):
        check_area(image.width, image.height, max_pixels)
        return prepare_image(image, size, white=white)
    content = _content_of(image, max_pixels)
    return decode_image(content, size, max_pixels=max_pixels, white=white)


def _image_of(array: NDArray[Any]) -> Image.Image:
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not is_image or not array.size:
        raise ParameterError(
            "an image as an array must be uint8 of shape (height, width, 3), RGB, or of "
            "(height, width, 4) or (height, width); this one is "
            f"{array.dtype} of shape {array.shape}"
        )
    return Image.fromarray(array)


def _content_of(image: Any, max_pixels: int) -> bytes:
    """Return the bytes of a buffer or of a binary file; refuse an endless file."""
    if isinstance(image, TextIOBase):
        raise ParameterError("image is a file opened as text; open it with mode 'rb'")
    if callable(getattr(image, "read", None)):
        content = bytearray()
        while part := _read_part(image):
            content += part
            check_size(len(content), max_pixels)
        return bytes(content)
    try:
        with memoryview(image) as view:
            check_size(view.nbytes, max_pixels)
            return image if isinstance(image, bytes) else view.tobytes()
    except (TypeError, ValueError) as error:  # no buffer, or one that was released
        raise ParameterError(
            "image must be a path, the bytes of a file, a file opened with mode 'rb', an array "
            f"or an image of Pillow, not {type(image).__name__}"
        ) from error


def _read_part(file: ImageFile) -> bytes | bytearray:
    try:
        part = file.read(PART)
    except (OSError, TypeError, ValueError) as error:  # closed, or it takes no size
        raise ImageError(f"cannot be read: {error}") from error
    if not isinstance(part, bytes | bytearray):
        raise ParameterError(f"image is a file whose read gives {type(part).__name__}, not bytes")
    return part
