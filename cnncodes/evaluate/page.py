"""Self-contained HTML pages: their templates and the pictures in them."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnncodes.images.decoding import in_proportion, load_image
from cnncodes.text import shown

if TYPE_CHECKING:
    from jinja2 import Template

THUMBNAIL_SIZE = 400  # pixels of the longer side at most, for a look at it enlarged
ABSENT = "image not found"
_SHARED = ("page.html", "macros.html", "style.css")  # by the templates of all pages


@dataclass(frozen=True)
class Picture:
    """A small picture of an image file.

    Attributes
    ----------
    uri : str
        A small JPEG as a ``data:`` URI; empty if there is a problem.
    width, height : int
        Of that JPEG, in pixels.
    problem : str
        Why the image is not shown; else empty.
    """

    uri: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""


def draw_picture(file: Path, digest: str) -> Picture:
    """Return a small picture of an image file, if its SHA-256 is still `digest`."""
    loaded = load_image(0, file, THUMBNAIL_SIZE)
    if not loaded.digest:
        return Picture(problem=ABSENT)
    if loaded.digest != digest:
        return Picture(problem="file changed since")
    if loaded.pixels is None:
        return Picture(problem=loaded.problem)
    image = in_proportion(loaded.pixels, file, THUMBNAIL_SIZE, enlarge=False)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=80)
    encoded = base64.b64encode(content.getvalue()).decode()
    return Picture(f"data:image/jpeg;base64,{encoded}", *image.size)


def page_template(package: str, name: str) -> Template:
    """Return a template of a package, which extends page.html and takes `notes`."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def read(file: str) -> str:
        home = "cnncodes.evaluate" if file in _SHARED else package
        return files(home).joinpath(file).read_text("utf-8")

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_escaped,
        loader=FunctionLoader(read),
    )
    environment.filters["percent"] = lambda value: "–" if value is None else f"{value:.1%}"
    return environment.get_template(name)


def _escaped(value: Any) -> Any:
    """Escape control characters in text from files; our own markup is of another type."""
    return shown(value) if type(value) is str else value
