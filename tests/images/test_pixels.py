"""The depth of 16-bit greys: 10 and 12 bits stored in 16 do not turn black."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnncodes import Classifier, CodeStore
from cnncodes.errors import ParameterError
from cnncodes.images.decoding import decode_image, load_image, prepare_image
from tests.conftest import Run
from tests.helpers import error_of


def deep(maximum: int, layout: str = "PNG", dtype: str = "<u2") -> bytes:
    values = np.linspace(0, maximum, 64 * 64).round().astype(dtype).reshape(64, 64)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, layout)
    return buffer.getvalue()


@pytest.mark.parametrize("white", [255, 1023, 4095, 16383, 65535])
@pytest.mark.parametrize(("layout", "dtype"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2")])
def test_guesses_white_from_the_brightest_pixel(white: int, layout: str, dtype: str) -> None:
    expected = np.linspace(0, 255, 64 * 64).reshape(64, 64)
    pixels = decode_image(deep(white, layout, dtype), 64)
    assert np.abs(pixels[..., 0] - expected).max() <= 1


@pytest.mark.parametrize(("maximum", "white"), [(256, 1023), (1024, 4095), (4096, 16383)])
def test_white_is_never_below_a_pixel(maximum: int, white: int) -> None:
    assert decode_image(deep(maximum), 64).max() == round(255 * maximum / white)


def test_uses_the_white_that_is_passed() -> None:
    assert decode_image(deep(1000), 64, white=4095).max() == round(255 * 1000 / 4095)
    assert decode_image(deep(4095), 64, white=1000).max() == 255  # brighter ones become white
    assert decode_image(deep(4095), 64, white=65535).max() == round(4095 / 257)
    with Image.open(io.BytesIO(deep(1000))) as image:
        assert prepare_image(image, 64, white=4095).max() == round(255 * 1000 / 4095)


@pytest.mark.parametrize("white", [0, -1, 65536, 4095.0])
def test_refuses_a_white_that_16_bits_cannot_hold(white: int) -> None:
    with pytest.raises(
        ParameterError, match=r"white must be (a whole number|from 1 to 65,535), not "
    ):
        decode_image(deep(1000), 64, white=white)


def test_remarks_on_what_is_guessed_and_on_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(deep(4095))
    assert "white assumed to be 4,095" in load_image(0, path, 64).remarks[0]
    assert load_image(0, path, 64, white=4095).remarks == ()
    path.write_bytes(deep(65535))
    assert load_image(0, path, 64).remarks == ()


def png_of_16_bit_colour(maximum: int) -> bytes:
    """Pillow cannot write one, so its chunks are made here."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = np.full((8, 24), maximum, ">u2")
    pixels = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def test_remarks_that_deep_colour_is_nearly_black(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_of_16_bit_colour(4095))
    loaded = load_image(0, path, 8)
    assert loaded.pixels is not None
    assert loaded.pixels.max() == 15
    assert loaded.remarks == (
        "16-bit colour, of which 8 bits are used, nearly black: convert it to 8 bits",
    )
    path.write_bytes(png_of_16_bit_colour(40_000))
    assert load_image(0, path, 8).remarks == ()


@pytest.fixture
def microscope(tmp_path: Path) -> Path:
    """Two classes of 12-bit images, one of them so dark that it could have 10 bits."""
    source = tmp_path / "cells"
    for number in range(12):
        for name, low in (("dark", 0), ("bright", 2000)):
            (source / name).mkdir(parents=True, exist_ok=True)
            values = np.random.default_rng(number).integers(low, low + 900, (32, 32), np.uint16)
            Image.fromarray(values).save(source / name / f"{number}.png")
    return source


def test_white_goes_from_the_extraction_to_the_app(
    run: Run, small_backbone: Path, microscope: Path, tmp_path: Path
) -> None:
    codes, head, app = (tmp_path / name for name in ("codes.h5", "head.onnx", "app.onnx"))
    guessed = run("extract", small_backbone, microscope, "-o", codes).stdout
    assert "note: 12 images: 16-bit grey, white assumed to be 4,095" in guessed
    assert "note: 12 images: 16-bit grey, white assumed to be 1,023" in guessed
    printed = run(
        "extract", small_backbone, microscope, "-o", codes, "--white", "4095", "--overwrite"
    )
    assert "note:" not in printed.stdout
    with CodeStore.open(codes) as store:
        assert store.white == 4095
    run("train", codes, "-o", head)
    run("bundle", small_backbone, head, "-o", app)
    for file in (codes, head, app):
        assert json.loads(run("info", file, "--json").stdout)["white"] == 4095
    classifier = Classifier(app)
    image = microscope / "dark" / "3.png"
    by_hand = decode_image(image.read_bytes(), classifier.input_size, white=4095)
    expected = classifier.predict_proba(by_hand[None])[0].max()
    with Image.open(image) as opened:
        for source in (image, image.read_bytes(), opened):
            assert classifier.predict(source, top=1)[0].probability == pytest.approx(expected)
    (many,) = classifier.predict_files([image], top=1)
    assert many.predictions[0].probability == pytest.approx(expected)
    accuracy = json.loads(run("evaluate", app, microscope, "--include-training", "--json").stdout)
    assert accuracy["figures"]["accuracy"] == 1
    run("verify", codes, "--source", microscope, "--backbone", small_backbone)


def test_codes_and_heads_of_another_white_do_not_meet(
    run: Run, small_backbone: Path, microscope: Path, tmp_path: Path
) -> None:
    codes, head, others = (tmp_path / name for name in ("codes.h5", "head.onnx", "others.h5"))
    run("extract", small_backbone, microscope, "-o", codes, "--white", "4095")
    run("extract", small_backbone, microscope, "-o", others)
    run("train", codes, "-o", head)
    message = error_of("evaluate", head, others)
    assert "white" in message
    assert "4095" in message
    message = error_of("extract", small_backbone, microscope, "-o", codes, "--update")
    assert "was made with another white (4095, not guessed)" in message
