"""Pictures of explanations: the image, and beside it what speaks for and against its class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from cnncodes.app.explain import Explanation
from cnncodes.app.prediction import FilePrediction
from cnncodes.errors import ImageError
from cnncodes.images.decoding import in_proportion, load_image
from cnncodes.images.limits import DEFAULT_MAX_PIXELS
from cnncodes.output import check_folder, check_output, filled_folder, replacing
from cnncodes.parameters import as_path
from cnncodes.text import shown

SIDE = 448  # of the longer side of a picture, in pixels
# Okabe and Ito's orange and blue, told apart with every kind of colour vision.
FOR, AGAINST = (213, 94, 0), (0, 114, 178)
INK, PAPER = (28, 37, 46), (255, 255, 255)
_MARGIN, _LINE, _BAR, _FONT_SIZE = 16, 22, 14, 15
_OPACITY = 0.8  # of the strongest cell
_SOFTWARE = "cnncodes predict --explain"  # by which a picture is known to be one of these
# Pillow's own font has ASCII only. The others are those of Linux, Windows and macOS.
_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "arial.ttf", "Arial.ttf", "Helvetica.ttc")


class Overlays:
    """A folder of pictures, one of each image.

    Parameters
    ----------
    folder : str or Path
        Where to write; created if absent.
    overwrite : bool
        Whether other files than pictures of an earlier call may be replaced.
    inputs : iterable of str or Path
        The images, which are never replaced.
    max_pixels : int
        As for the predictions.

    Attributes
    ----------
    folder : Path
    n_written : int
        Number of pictures written.

    Raises
    ------
    OutputError
        The folder cannot be written to.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        overwrite: bool = False,
        inputs: Iterable[str | Path] = (),
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        self.folder = folder = as_path(folder, "explain")
        self._overwrite, self._max_pixels = overwrite, max_pixels
        self._inputs = list(inputs)
        self._names: Counter[str] = Counter()
        self.n_written = 0
        check_folder(folder, purpose="the pictures", overwrite=overwrite)

    def write_each(
        self, predictions: Iterable[FilePrediction], white: int | None = None
    ) -> Iterator[FilePrediction]:
        """Write a picture of each prediction that has an explanation, and yield it.

        Parameters
        ----------
        predictions : iterable of FilePrediction
        white : int, optional
            As for `decode_image`.

        Yields
        ------
        FilePrediction

        Raises
        ------
        OutputError
            A picture cannot be written.
        """
        for prediction in predictions:
            if prediction.explanation is not None:
                self._write(prediction.path, prediction.explanation, white)
            yield prediction

    def _write(self, path: Path, explanation: Explanation, white: int | None) -> None:
        loaded = load_image(0, path, SIDE, self._max_pixels, white=white)
        if loaded.pixels is None:  # changed in the last second
            raise ImageError(f"{path}: {loaded.problem}")
        picture = in_proportion(loaded.pixels, path, SIDE, enlarge=True)
        output = self.folder / self._name(path)
        # A picture of an earlier call is replaced: an interrupted one is to go on.
        overwrite = self._overwrite or _is_picture(output)
        about = PngImagePlugin.PngInfo()
        about.add_text("Software", _SOFTWARE)
        with filled_folder(self.folder):
            check_output(output, overwrite=overwrite, inputs=self._inputs)
            with replacing(output, overwrite=overwrite) as temporary:
                draw_explanation(picture, explanation).save(temporary, "PNG", pnginfo=about)
        self.n_written += 1

    def _name(self, path: Path) -> str:
        """Return the name of a picture: that of the image, numbered where several have it."""
        self._names[path.name] += 1
        number = self._names[path.name]
        return f"{path.name}.png" if number == 1 else f"{path.name}-{number}.png"


def draw_explanation(picture: Image.Image, explanation: Explanation) -> Image.Image:
    """Draw an image and what speaks for its class, side by side, with a legend.

    Parameters
    ----------
    picture : PIL.Image.Image
        The image, in RGB.
    explanation : Explanation
        That of the image.

    Returns
    -------
    PIL.Image.Image
        In RGB. Orange speaks for the class, blue against it, the stronger the more; between the
        centres of the cells colours are interpolated.
    """
    strongest = float(np.abs(explanation.contributions).max())
    width, height = picture.size
    inner = max(2 * width + _MARGIN, SIDE + _MARGIN)
    page = Image.new("RGB", (inner + 2 * _MARGIN, height + 4 * _LINE + 4 * _MARGIN), PAPER)
    draw = ImageDraw.Draw(page)
    font = _font(_FONT_SIZE)
    large = _font(_FONT_SIZE + 5)
    label = shown(explanation.label)
    if not isinstance(getattr(large, "path", None), str):  # Pillow's own
        label = label.encode("ascii", "backslashreplace").decode()
    draw.text((_MARGIN, _MARGIN), f"{label}  {explanation.probability:.1%}", INK, large)
    logit, bias = round(explanation.logit, 2), round(explanation.bias, 2)
    draw.text(
        (_MARGIN, _MARGIN + _LINE + 6),
        f"cells {logit - bias:+.2f}, bias {bias:+.2f}: logit {logit:+.2f}",
        INK,
        font,
    )
    top = 2 * _MARGIN + 2 * _LINE
    page.paste(picture, (_MARGIN, top))
    page.paste(_overlay(picture, explanation.contributions, strongest), (2 * _MARGIN + width, top))
    _draw_legend(draw, font, strongest, (_MARGIN, top + height + _MARGIN, inner))
    return page


def _is_picture(path: Path) -> bool:
    """Return whether a file is a picture that an earlier call has written."""
    try:
        with Image.open(path) as image:
            return image.info.get("Software") == _SOFTWARE
    except OSError:
        return False


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    for name in _FONTS:
        with suppress(OSError):
            return ImageFont.truetype(name, size)
    with suppress(ImportError):  # of the extra report
        from matplotlib import get_data_path

        return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
    return ImageFont.load_default(size)


def _overlay(
    picture: Image.Image, contributions: NDArray[np.float32], strongest: float
) -> Image.Image:
    shares = Image.fromarray(contributions / np.float32(strongest or 1))
    at_pixels = np.asarray(shares.resize(picture.size, Image.Resampling.BILINEAR))
    return Image.fromarray(_coloured(np.asarray(picture.convert("L").convert("RGB")), at_pixels))


def _coloured(pixels: NDArray[np.uint8], shares: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Blend pixels of shape (..., 3) with the colours of shares between -1 and 1."""
    colours = np.where(shares[..., np.newaxis] > 0, FOR, AGAINST)
    opacity = _OPACITY * np.abs(shares)[..., np.newaxis]
    return np.asarray(pixels * (1 - opacity) + colours * opacity).round().astype(np.uint8)


def _draw_legend(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    strongest: float,
    span: tuple[int, int, int],
) -> None:
    """Draw the scale of colours at a left end, top and width."""
    left, top, width = span
    shares = np.linspace(-1, 1, width, dtype=np.float32)
    for column, colour in enumerate(_coloured(np.full((width, 3), 255, np.uint8), shares)):
        x = left + column
        draw.line([(x, top), (x, top + _BAR)], tuple(colour.tolist()))
    below = top + _BAR + 4
    draw.text((left, below), f"against: {-strongest:+.2g} a cell", INK, font)
    draw.text((left + width / 2, below), "0", INK, font, anchor="ma")
    draw.text((left + width, below), f"for: {strongest:+.2g} a cell", INK, font, anchor="ra")
