"""Vectors of images that hardly change in an edited copy, to be compared by their cosine.

As in the perceptual hash of Zauner ("Implementation and benchmarking of perceptual image hash
functions", 2010; ``phash`` of the package imagehash), an image is described by the low
frequencies of its discrete cosine transform. Their amplitudes are kept instead of one bit each:
100 numbers then separate copies from other images as well as 256 bits do. Neither resizing and
recompression nor brightness, contrast and colour change them much. Other edits are undone:

- a mirrored image changes the sign of the odd horizontal frequencies only;
- a border of one colour is cut off;
- a cropped copy is compared with 25 windows of the other image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

SIZE = 128  # pixels of the square that is described
_FREQUENCIES = 10  # in either direction
_SAMPLES = 4 * _FREQUENCIES
_CROP = 0.1  # of width and height that a cropped copy may lack
_OFFSETS = 5  # of a cropped copy in either direction
_LARGEST_BORDER = 0.25  # of width or height, on each side
_NOISE = 8  # grey levels by which a border of one colour varies
_INK = np.array([0.299, 0.587, 0.114], np.float32)  # luma of ITU-R BT.601


@dataclass(frozen=True)
class Descriptors:
    """Unit vectors of some images.

    The similarity of two images is the highest cosine of a vector in `whole` of one of them and
    a vector in `views` of the other.

    Attributes
    ----------
    whole : ndarray of float32, shape (n_whole, n_images, n_features)
        Each image as it is, without its border, and both mirrored; or its codes.
    views : ndarray of float32, shape (n_views, n_images, n_features)
        Each image as it is, without its border, and windows of it; or its codes.
    """

    whole: NDArray[np.float32]
    views: NDArray[np.float32]

    @property
    def n_images(self) -> int:
        """Number of images."""
        return int(self.whole.shape[1])


def describe_codes(codes: NDArray[np.float32]) -> Descriptors:
    """Return the descriptors of codes, of shape (n_images, n_features)."""
    vectors = _normalized(codes)[None]
    return Descriptors(vectors, vectors)


def describe_views(views: NDArray[np.float32]) -> Descriptors:
    """Return the descriptors of the results of `image_views`, stacked as their first axis."""
    vectors = views.transpose(1, 0, 2)
    mirrored = np.tile(np.where(np.arange(_FREQUENCIES) % 2, -1, 1), _FREQUENCIES)
    flipped = vectors[:2] * mirrored.astype(np.float32)
    return Descriptors(np.concatenate([vectors[:2], flipped]), vectors)


def image_views(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Describe an image, the same without its border, and 25 windows of it.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (size, size, 3)
        The image, squeezed to a square.

    Returns
    -------
    ndarray of float32, shape (27, n_features)
        Unit vectors; zeros where there is one colour only.
    """
    grey = pixels @ _INK
    size, offsets = len(grey), np.linspace(0, _CROP, _OFFSETS)
    side = round((1 - _CROP) * size)
    corners = [(round(y * size), round(x * size)) for y in offsets for x in offsets]
    windows = [grey[y : y + side, x : x + side] for y, x in corners]
    return _normalized(np.stack([_spectrum(each) for each in (grey, _inner(grey), *windows)]))


def _spectrum(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the low frequencies, in the order of rows, as roots of whitened amplitudes."""
    small = Image.fromarray(grey).resize((_SAMPLES, _SAMPLES), Image.Resampling.BILINEAR)
    amplitudes = dctn(np.asarray(small), norm="ortho")[:_FREQUENCIES, :_FREQUENCIES]
    # Photographs have amplitudes of about one over the frequency; that of the mean becomes 0.
    vertical, horizontal = np.mgrid[:_FREQUENCIES, :_FREQUENCIES]
    amplitudes = amplitudes * np.hypot(vertical, horizontal)
    amplitudes[np.abs(amplitudes) < 1e-3] = 0  # rounding, in an image of one colour
    roots: NDArray[np.float32] = np.sign(amplitudes) * np.sqrt(np.abs(amplitudes))
    return roots.astype(np.float32).ravel()


def _inner(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return an image without a border of one colour."""
    n_rows, n_columns = grey.shape
    top, bottom = _border(grey), n_rows - _border(grey[::-1])
    left, right = _border(grey.T), n_columns - _border(grey.T[::-1])
    return grey[top:bottom, left:right]


def _border(lines: NDArray[np.float32]) -> int:
    """Return the number of first lines that are all of the colour of the first one."""
    most = round(_LARGEST_BORDER * len(lines))
    differs = np.abs(lines[:most] - lines[0].mean()).mean(axis=1) > _NOISE
    return int(differs.argmax()) if differs.any() else most


def _normalized(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: NDArray[np.float32] = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return unit
