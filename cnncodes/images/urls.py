"""Images at paths or URLs, as the workers of a cluster read them.

``http`` and ``https`` are read by Python itself, every other scheme by fsspec, which comes with
Dask and uses the packages of its file systems, such as s3fs for ``s3``.
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

from cnncodes.bounds import MAX_REASON_LENGTH
from cnncodes.errors import ImageError
from cnncodes.files import is_url
from cnncodes.images.decoding import LoadedImage, load_content, load_image
from cnncodes.images.limits import check_size, largest_file
from cnncodes.text import first_line, shortened

SECONDS_TO_ANSWER = 20.0
UNREADABLE = "cannot be read: "
_LASTING_CODES = (401, 403, 404, 410)  # of HTTP: asking again does not help
_LASTING_ERRORS = (FileNotFoundError, PermissionError, ImportError, ValueError)


def load_location(
    index: int,
    location: str,
    size: int,
    max_pixels: int,
    known: Container[str] = (),
    *,
    white: int | None = None,
) -> tuple[LoadedImage, bool]:
    """Read one image from its path or URL and decode it.

    Parameters
    ----------
    index, size, max_pixels, known, white
        As for `load_image`.
    location : str
        A path or a URL.

    Returns
    -------
    image : LoadedImage
        With a problem where it cannot be read or decoded.
    lasts : bool
        Whether a problem lasts: False where reading the URL again may succeed.
    """
    if not is_url(location):
        return load_image(index, location, size, max_pixels, known, white=white), True
    try:
        content = _read(location, max_pixels)
    except Exception as error:  # of any file system
        reason = str(error) if isinstance(error, ImageError) else UNREADABLE + first_line(error)
        lasts = (
            isinstance(error, (ImageError, *_LASTING_ERRORS))
            or getattr(error, "code", None) in _LASTING_CODES
        )
        return LoadedImage(index, None, "", shortened(reason, MAX_REASON_LENGTH)), lasts
    path = Path(urlsplit(location)._replace(query="", fragment="").geturl())
    return load_content(index, content, path, size, max_pixels, known, white=white), True


def _read(url: str, max_pixels: int) -> bytes:
    """Return the content of a URL, if it is not larger than an image can be."""
    limit = largest_file(max_pixels)
    if url.lower().startswith(("http://", "https://")):
        with urlopen(url, timeout=SECONDS_TO_ANSWER) as response:
            content: bytes = response.read(limit + 1)
    else:
        import fsspec

        with fsspec.open(url, "rb") as file:
            content = file.read(limit + 1)
    check_size(len(content), max_pixels)
    return content
