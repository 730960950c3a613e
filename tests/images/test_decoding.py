"""What becomes of one image file, and of many."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image

from cnncodes.errors import ImageError, ParameterError
from cnncodes.image_formats import is_image
from cnncodes.images.decoding import (
    LoadedImage,
    decode_image,
    load_image,
    load_images,
    prepare_image,
)
from cnncodes.images.limits import pixels_text
from tests.helpers import encode_image

RANDOM = np.random.default_rng(0)
SIDE = 4  # the images below are asked for in their own size, so that no resizing blurs them
RGB = RANDOM.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
GREY = RANDOM.integers(0, 256, (SIDE, SIDE), np.uint8)
BITS = GREY > 127
INDICES = np.arange(16, dtype=np.uint8).reshape(SIDE, SIDE)
PALETTE = RANDOM.integers(0, 256, (16, 3), np.uint8)
ALPHA = np.resize(np.array([0, 128, 255], np.uint8), (SIDE, SIDE))


def grey_as_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


def with_palette() -> Image.Image:
    image = Image.fromarray(INDICES, "L").copy()
    image.putpalette(PALETTE.tobytes())
    return image


def reason_of(content: bytes, **options: int) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(content, SIDE, **options)
    return str(caught.value)


OPAQUE = {
    "1": (Image.fromarray(BITS), grey_as_rgb(np.where(BITS, 255, 0)), "PNG BMP TIFF"),
    "L": (Image.fromarray(GREY), grey_as_rgb(GREY), "PNG BMP GIF TIFF"),
    "P": (with_palette(), PALETTE[INDICES], "PNG BMP GIF TIFF"),
    "RGB": (Image.fromarray(RGB), RGB, "PNG BMP TIFF WEBP"),
}


@pytest.mark.parametrize(
    ("mode", "layout"),
    [(mode, layout) for mode, (*_, layouts) in OPAQUE.items() for layout in layouts.split()],
)
def test_keeps_the_pixels_of_lossless_formats(mode: str, layout: str) -> None:
    image, expected, _ = OPAQUE[mode]
    content = encode_image(image, layout, **({"lossless": True} if layout == "WEBP" else {}))
    assert decode_image(content, SIDE).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGB", (200, 30, 90), (200, 30, 90)),
        ("L", 77, (77, 77, 77)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("CMYK", (0, 0, 0, 255), (0, 0, 0)),
        ("CMYK", (0, 0, 0, 0), (255, 255, 255)),
    ],
)
def test_decodes_jpeg_in_every_mode(mode: str, colour: object, expected: tuple[int, ...]) -> None:
    content = encode_image(Image.new(mode, (16, 16), colour), "JPEG", quality=95)
    assert np.abs(decode_image(content, 16).astype(int) - expected).max() <= 3


def test_decodes_lossy_webp() -> None:
    content = encode_image(Image.new("RGB", (16, 16), (200, 30, 90)), "WEBP", quality=95)
    assert np.abs(decode_image(content, 16).astype(int) - (200, 30, 90)).max() <= 6


RGBA = Image.fromarray(np.dstack([RGB, ALPHA]))
LA = Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(ALPHA)))
BY_INDEX = with_palette()
ORDERED, COLOURED = Image.fromarray(INDICES), Image.fromarray(RGB)
DEEP = Image.fromarray(INDICES.astype(np.uint16) * 4369)
ONE_CLEAR = np.where(INDICES == 5, 0, 255)
CORNER = tuple(map(int, RGB[0, 0]))
CORNER_CLEAR = np.where((RGB == CORNER).all(axis=2), 0, 255)
TRANSPARENT = {
    "RGBA PNG": (encode_image(RGBA, "PNG"), RGB, ALPHA),
    "RGBA TIFF": (encode_image(RGBA, "TIFF"), RGB, ALPHA),
    "RGBA WebP": (encode_image(RGBA, "WEBP", lossless=True, exact=True), RGB, ALPHA),
    "LA PNG": (encode_image(LA, "PNG"), grey_as_rgb(GREY), ALPHA),
    "LA TIFF": (encode_image(LA, "TIFF"), grey_as_rgb(GREY), ALPHA),
    "P PNG": (encode_image(BY_INDEX, "PNG", transparency=ALPHA.tobytes()), PALETTE[INDICES], ALPHA),
    # Here one colour is clear and all others are not.
    "P PNG, one": (encode_image(BY_INDEX, "PNG", transparency=5), PALETTE[INDICES], ONE_CLEAR),
    "P GIF, one": (encode_image(BY_INDEX, "GIF", transparency=5), PALETTE[INDICES], ONE_CLEAR),
    "L PNG, one": (encode_image(ORDERED, "PNG", transparency=5), grey_as_rgb(INDICES), ONE_CLEAR),
    "16 bits, one": (
        encode_image(DEEP, "PNG", transparency=5 * 4369),
        grey_as_rgb(17 * INDICES),
        ONE_CLEAR,
    ),
    "RGB PNG, one": (encode_image(COLOURED, "PNG", transparency=CORNER), RGB, CORNER_CLEAR),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_composites_transparency_on_white(name: str) -> None:
    content, colour, alpha = TRANSPARENT[name]
    pixels = decode_image(content, SIDE)
    assert (alpha == 0).any()
    assert (pixels[alpha == 0] == 255).all()
    assert (pixels[alpha == 255] == colour[alpha == 255]).all()
    assert np.abs(pixels - on_white(colour, alpha)).max() <= 1


# MPO is what phones write: a JPEG with further ones, such as a depth map, behind it.
@pytest.mark.parametrize("layout", ["PNG", "GIF", "TIFF", "WEBP", "AVIF", "MPO"])
def test_uses_the_first_frame_and_says_so(tmp_path: Path, layout: str) -> None:
    first, second = (Image.new("RGB", (SIDE, SIDE), colour) for colour in ("red", "blue"))
    options = {"lossless": True} if layout == "WEBP" else {}
    content = encode_image(first, layout, save_all=True, append_images=[second], **options)
    with Image.open(io.BytesIO(content)) as image:
        assert image.n_frames == 2
    assert np.abs(decode_image(content, SIDE).astype(int) - (255, 0, 0)).max() <= 3
    remarks = {}
    for name, file in (("one", encode_image(first, layout)), ("two", content)):
        (tmp_path / name).write_bytes(file)
        remarks[name] = load_image(0, tmp_path / name, SIDE).remarks
    said = () if layout == "MPO" else ("more than one page or frame, of which the first is used",)
    assert remarks == {"one": (), "two": said}


@pytest.mark.parametrize("layout", ["JPEG", "PNG", "WEBP"])
def test_uses_an_image_whose_metadata_are_damaged(layout: str) -> None:
    content = encode_image(Image.new("RGB", (SIDE, SIDE), "red"), layout, exif=b"Exif\0\0garbage")
    assert np.abs(decode_image(content, SIDE).astype(int) - (255, 0, 0)).max() <= 3


UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("layout", ["PNG", "WEBP", "TIFF", "JPEG", "16-bit"])
def test_turns_the_image_upright(layout: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    # Blocks as large as JPEG's, so that its compression keeps their colours apart.
    stored = RGB.repeat(16, axis=0).repeat(16, axis=1)
    image = Image.fromarray(stored)
    if layout == "16-bit":
        stored = grey_as_rgb(stored[..., 0])
        image, layout = Image.fromarray(stored[..., 0].astype(np.uint16) * 257), "PNG"
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    content = encode_image(image, layout, exif=exif, **options.get(layout, {}))
    pixels = decode_image(content, 16 * SIDE).astype(int)
    assert np.abs(pixels - UPRIGHT[orientation](stored)).max() <= 5 * (layout == "JPEG")


@pytest.mark.parametrize("layout", ["PNG", "TIFF", "TIFF, big-endian"])
def test_scales_sixteen_bits_to_eight(layout: str) -> None:
    byte_order = ">" if "big" in layout else "<"
    values = np.array([[0, 128, 129], [32896, 65407, 65535], [257, 514, 1000]], f"{byte_order}u2")
    content = encode_image(Image.fromarray(values), layout.partition(",")[0])
    assert (
        decode_image(content, 3).tolist()
        == grey_as_rgb(np.array([[0, 0, 1], [128, 255, 255], [1, 2, 4]])).tolist()
    )


@pytest.mark.parametrize("mode", ["I", "F"])
def test_refuses_32_bit_pixels(mode: str) -> None:
    assert reason_of(encode_image(Image.new(mode, (4, 4)), "TIFF")) == (
        "32-bit or signed pixels, whose white is not defined: save it with 8 or 16 bits"
    )


PHOTO = Image.fromarray(load_sample_image("china.jpg")).resize((160, 107))
FILES = {
    layout: encode_image(PHOTO, layout) for layout in ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]
}


# As the command line does: Pillow's warnings are of no use beside the reason.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("layout", FILES)
@pytest.mark.parametrize("share", [0, 0.5, 0.9])
def test_refuses_a_truncated_image(layout: str, share: float) -> None:
    end = max(14, int(share * len(FILES[layout])))  # its signature at least
    assert reason_of(FILES[layout][:end]).startswith("damaged: ")


@pytest.mark.parametrize(
    "content",
    [b"no image at all", b"%PDF-1.7", b"\0" * 100, b"P7 1 1 255 abc", b"RIFF1234WAVE"],
)
def test_refuses_what_is_no_image(content: bytes) -> None:
    assert (
        reason_of(content)
        == "not a JPEG, PNG, WebP, AVIF, HEIC, BMP, GIF, TIFF, PPM, JPEG 2000 or TGA image"
    )


def test_refuses_an_empty_file() -> None:
    assert reason_of(b"") == "empty file"


def damaged_png(width: int, height: int) -> bytes:
    """A PNG of one bit a pixel, whose header is right and whose pixels are missing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(12_000, 9_000), (20_000, 20_000)])
def test_refuses_a_huge_image_by_its_header(width: int, height: int) -> None:
    reason = reason_of(damaged_png(width, height))
    assert "more than 100" in reason
    assert "max_pixels" in reason
    assert "damaged" not in reason  # it would be, had anyone tried to decode it


def with_scans(n_scans: int, between: bytes = b"") -> bytes:
    """A progressive JPEG that repeats its last scan, each of which goes over all pixels."""
    content = encode_image(Image.new("L", (16, 16), 77), "JPEG", progressive=True, quality=95)
    start = content.rindex(b"\xff\xda")
    scans = (n_scans - content.count(b"\xff\xda")) * (content[start:-2] + between)
    return content[:start] + scans + content[start:]


@pytest.mark.parametrize("between", [b"", b"\0", b"\xff\xff", b"\xff\xd0", b"\xff\xfe\0\2"])
def test_refuses_a_jpeg_of_scans_without_end(between: bytes) -> None:
    # Pillow takes either, so that it is our limit that is met.
    assert (decode_image(with_scans(50, between), 16) == 77).all()
    assert np.asarray(Image.open(io.BytesIO(with_scans(51, between)))).tolist() == [[77] * 16] * 16
    assert reason_of(with_scans(51, between)) == "more than 50 scans: save it again"


@pytest.mark.parametrize("between", [b"", b"\xff\xd8", b"\xff\x01", b"\xff\xff"])
def test_refuses_a_jpeg_of_exif_without_end(between: bytes) -> None:
    content = encode_image(Image.new("L", (16, 16), 77), "JPEG", quality=95)
    segment = b"\xff\xe1\0\x0aExif\0\0ab"
    assert (decode_image(content[:2] + 100 * segment + content[2:], 16) == 77).all()
    reason = reason_of(content[:2] + 101 * (between + segment) + content[2:])
    assert reason == "more than 100 segments of EXIF: save it again"


def test_scans_are_those_of_the_image_itself() -> None:
    """Not those of a smaller one in its metadata, or of what follows the end."""
    many = with_scans(100)
    segment = b"\xff\xe1" + struct.pack(">H", len(many) + 2) + many
    content = with_scans(40)
    content = content[:2] + segment + content[2:] + many
    assert (decode_image(content, 16) == 77).all()


def test_limits_the_pixels_to_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode_image(Image.new("RGB", (30, 20), "red"), "PNG")
    # Pillow's own limit must not forbid what the caller allows.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert (decode_image(content, SIDE, max_pixels=600) == (255, 0, 0)).all()
    assert Image.MAX_IMAGE_PIXELS == 10
    assert reason_of(content, max_pixels=599).startswith("30 x 20 is")


def test_what_the_process_has_set_of_pillow_stays() -> None:
    """A host program that only imports us and decodes images keeps its own settings."""
    code = """
import io
from PIL import Image
def settings():
    return Image.core.get_block_size(), Image.MAX_IMAGE_PIXELS
before = settings()
from cnncodes.images.decoding import decode_image
buffer = io.BytesIO()
Image.new("RGB", (30, 20)).save(buffer, "JPEG")
decode_image(buffer.getvalue(), 8, max_pixels=10**9)
assert settings() == before, settings()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("size", [41, 75, 299])
def test_resizes_as_pillow_does(size: int) -> None:
    expected = PHOTO.resize((size, size), Image.Resampling.BILINEAR)
    assert (decode_image(FILES["PNG"], size) == np.asarray(expected)).all()


LARGE = Image.fromarray(load_sample_image("china.jpg"))  # 640 × 427
EXACT = np.asarray(LARGE.resize((24, 24), Image.Resampling.BILINEAR)).astype(int)
SHRUNK = {
    "JPEG": (LARGE, "JPEG", {"quality": 95}),
    "JPEG, progressive": (LARGE, "JPEG", {"quality": 95, "progressive": True}),
    "JPEG, CMYK": (LARGE.convert("CMYK"), "JPEG", {"quality": 95}),
    "PNG": (LARGE, "PNG", {}),
    "PNG, transparent": (LARGE.convert("RGBA"), "PNG", {}),
    "PNG, palette": (LARGE.quantize(256), "PNG", {}),
    "WebP": (LARGE, "WEBP", {"lossless": True}),
}


@pytest.mark.parametrize("name", SHRUNK)
def test_shrinks_large_images_almost_as_pillow_does(name: str) -> None:
    image, layout, options = SHRUNK[name]
    pixels = decode_image(encode_image(image, layout, **options), 24)
    difference = np.abs(pixels - EXACT)
    assert difference.mean() < (2.5 if "palette" in name else 1)


@pytest.mark.parametrize("layout", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(97, 97), (127, 191), (801, 205)])
def test_shrinks_to_the_very_edge(layout: str, size: tuple[int, int]) -> None:
    """Sizes that no factor divides: each column of the ramp must come out where it belongs."""
    ramp = np.linspace(0, 255, size[0])[None].repeat(size[1], axis=0)
    image = Image.fromarray(ramp.astype(np.uint8))
    expected = np.asarray(image.resize((12, 12), Image.Resampling.BILINEAR)).astype(int)
    options = {"quality": 100} if layout == "JPEG" else {}
    pixels = decode_image(encode_image(image, layout, **options), 12)[..., 0]
    assert np.abs(pixels - expected).max() <= 2  # a pixel's worth would be 20


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("layout", ["JPEG", "PNG", "TIFF"])
def test_turns_a_large_image_upright(layout: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode_image(encode_image(LARGE, layout, exif=exif), 24)
    plain = decode_image(encode_image(LARGE, layout), 24)
    # Pillow turns a TIFF before anything else, so its blocks of pixels begin at other edges.
    assert np.abs(pixels - UPRIGHT[orientation](plain).astype(int)).mean() < 1.5


def test_leaves_small_images_as_they_are() -> None:
    side = 4 * 24 - 1  # one more is shrunk
    image = LARGE.crop((0, 0, side, side))
    content = encode_image(image, "JPEG")
    with Image.open(io.BytesIO(content)) as opened:
        expected = opened.resize((24, 24), Image.Resampling.BILINEAR)
    assert (decode_image(content, 24) == np.asarray(expected)).all()


def test_keeps_an_opened_image_as_it_is() -> None:
    with Image.open(io.BytesIO(encode_image(LARGE, "JPEG"))) as opened:
        pixels = prepare_image(opened, 24)
        assert opened.size == LARGE.size
    assert np.abs(pixels - EXACT).mean() < 1


def memory_of(n_threads: int) -> int:
    """Peak memory in bytes of decoding an image of 36 megapixels in some threads at once."""
    code = """
import io, resource, sys
from concurrent.futures import ThreadPoolExecutor
from cnncodes.machine import give_memory_back
give_memory_back()  # as the command does
from PIL import Image
from cnncodes.images.decoding import decode_image
buffer = io.BytesIO()
Image.new("RGBA", (6000, 6000), (9, 9, 9, 99)).save(buffer, "PNG", compress_level=1)
content = buffer.getvalue()
with ThreadPoolExecutor(int(sys.argv[1])) as pool:
    list(pool.map(lambda _: decode_image(content, 24), range(int(sys.argv[1]))))
print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    command = [sys.executable, "-c", code, str(n_threads)]
    return int(subprocess.run(command, capture_output=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is reported in other units elsewhere")
def test_large_images_take_the_memory_of_one() -> None:
    assert memory_of(6) < memory_of(1) + 100_000_000  # each has 144 MB of pixels


def test_lack_of_memory_is_not_reported_as_damage() -> None:
    class TooLarge(Image.Image):
        def load(self) -> NoReturn:
            raise MemoryError

    with pytest.raises(ImageError, match=r"^not enough memory to decode it$"):
        prepare_image(TooLarge(), 24)


def test_shrinks_with_antialiasing() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    pixels = decode_image(encode_image(Image.fromarray(stripes), "PNG"), 8)
    assert pixels.min() > 100
    assert pixels.max() < 155


def decode_or_refuse(content: bytes) -> None:
    try:
        pixels = decode_image(content, 7, max_pixels=1_000_000)
    except ImageError:
        return
    assert pixels.shape == (7, 7, 3)
    assert pixels.dtype == np.uint8


# Odd metadata make Pillow warn; the image may be used all the same.
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([b"", *(content[:12] for content in FILES.values())]), st.binary(max_size=300)
)
def test_survives_random_bytes(start: bytes, rest: bytes) -> None:
    decode_or_refuse(start + rest)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("layout", FILES)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_survives_mutations(layout: str, data: st.DataObject) -> None:
    content = bytearray(FILES[layout])
    # Headers are short, and most of what can go wrong lies in them.
    anywhere = st.one_of(st.integers(0, 200), st.integers(0, len(content) - 1))
    for index in data.draw(st.lists(anywhere, max_size=8)):
        content[index] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    decode_or_refuse(bytes(content[:end]))


@pytest.mark.parametrize("layout", FILES)
def test_knows_each_format_by_its_first_bytes(layout: str) -> None:
    assert is_image(FILES[layout][:132])
    assert not is_image(FILES[layout][1:133])


@pytest.mark.parametrize("name", ["photo", "photo.jpg", "photo.txt", "photo.tiff"])
def test_decodes_by_content_not_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FILES["PNG"])
    loaded = load_image(3, tmp_path / name, 8)
    assert loaded.pixels is not None
    assert (loaded.pixels == decode_image(FILES["PNG"], 8)).all()
    assert (loaded.index, loaded.problem) == (3, "")
    assert loaded.digest == hashlib.sha256(FILES["PNG"]).hexdigest()


def test_paths_may_be_text(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), "red").save(tmp_path / "red.png")
    (loaded,) = load_images([str(tmp_path / "red.png")], SIDE, threads=1, ahead=1)
    assert loaded.pixels is not None
    assert load_image(0, str(tmp_path / "red.png"), SIDE).digest == loaded.digest
    with pytest.raises(ParameterError, match="path must be a str or a Path, not int"):
        load_image(0, 3, SIDE)


def test_reports_why_a_file_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    paths = [tmp_path / "missing.png", tmp_path / "a\0b.png", tmp_path, tmp_path / "text.jpg"]
    missing, null, folder, text = load_images(paths, SIDE, threads=2, ahead=2)
    assert missing == LoadedImage(0, None, "", "cannot be read: No such file or directory")
    assert null == LoadedImage(1, None, "", "cannot be read: embedded null byte")
    assert folder == LoadedImage(2, None, "", "cannot be read: Is a directory")
    assert (
        text.problem
        == "not a JPEG, PNG, WebP, AVIF, HEIC, BMP, GIF, TIFF, PPM, JPEG 2000 or TGA image"
    )
    assert text.digest == hashlib.sha256(b"no image").hexdigest()


def test_refuses_a_file_larger_than_its_pixels_can_need(tmp_path: Path) -> None:
    """A film, a stack of a microscope or a file with a hole would fill the memory."""
    stack = tmp_path / "stack.tif"
    stack.write_bytes(encode_image(Image.fromarray(RGB), "TIFF"))
    os.truncate(stack, 700_000_000)
    refused = load_image(0, stack, SIDE)
    assert refused.problem == "larger than the 664 MB that an image of max_pixels can need"
    assert (refused.pixels, refused.digest) == (None, "")


def test_large_files_are_used_one_at_a_time(tmp_path: Path) -> None:
    stacks = [tmp_path / f"{number}.tif" for number in range(3)]
    for stack in stacks:
        stack.write_bytes(encode_image(Image.fromarray(RGB), "TIFF"))
        os.truncate(stack, 100_000_000)
    tracemalloc.start()
    try:
        loaded = list(load_images(stacks, SIDE, threads=3, ahead=3))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [image.problem for image in loaded] == [""] * 3
    assert peak < 150_000_000


def test_does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    # Whoever does open the pipe gets an answer, so that the test ends either way.
    writer = threading.Thread(target=pipe.write_bytes, args=(b"answer",))
    writer.start()
    loaded = load_image(0, pipe, SIDE)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer.join()
    os.close(reader)
    assert loaded.pixels is None
    assert loaded.problem.startswith("cannot be read: ")


class Watched(Sequence[Path]):
    """Paths that know how many of them were asked for."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.n_asked = 0

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: object) -> Path:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Path]:
        for path in self.paths:
            self.n_asked += 1
            yield path


@pytest.mark.parametrize("threads", [1, 4])
def test_loads_in_order_and_not_far_ahead(tmp_path: Path, threads: int) -> None:
    paths = Watched([tmp_path / f"{index}.png" for index in range(20)])
    for grey, path in enumerate(paths.paths):
        # The first takes the longest to decode, and must still come first.
        side = 2000 if grey == 0 else SIDE
        path.write_bytes(encode_image(Image.new("L", (side, side), grey), "PNG"))
    loaded = load_images(paths, SIDE, threads=threads, ahead=3)
    for n_taken, image in enumerate(loaded, start=1):
        assert image.index == n_taken - 1
        assert image.pixels is not None
        assert (image.pixels == image.index).all()
        assert paths.n_asked <= n_taken + 3
    assert n_taken == 20


def test_ends_its_threads_when_left_early(tmp_path: Path) -> None:
    loaded = load_images([tmp_path / "missing"] * 50, SIDE, threads=4, ahead=8)
    next(loaded)
    loaded.close()
    assert not [each for each in threading.enumerate() if each.name.startswith("decode")]


def test_one_pixel_is_singular() -> None:
    assert pixels_text(1) == "1 pixel"
    assert pixels_text(999_999) == "999999 pixels"
    assert pixels_text(1_000_000) == "1 megapixel"
    assert pixels_text(2_400_000) == "2 megapixels"
