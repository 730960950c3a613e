"""JPEG files that lack their last bytes, or hold zeros where pixels were."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image

from cnncodes.errors import ImageError
from cnncodes.images.decoding import decode_image, load_image
from cnncodes.images.jpeg import ZEROS, has_end
from cnncodes.images.pixels import to_pixels

PHOTO = Image.fromarray(load_sample_image("china.jpg"))
KINDS: dict[str, tuple[str, dict[str, object]]] = {
    "baseline": ("RGB", {}),
    "optimized": ("RGB", {"optimize": True}),
    "progressive": ("RGB", {"progressive": True}),
    "coarse": ("RGB", {"quality": 10}),
    "without subsampling": ("RGB", {"subsampling": 0}),
    "grey": ("L", {}),
    "CMYK": ("CMYK", {}),
    "restarts": ("RGB", {"restart_marker_rows": 1}),
}


def encoded(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


FILES = {kind: encoded(PHOTO.convert(mode), **options) for kind, (mode, options) in KINDS.items()}
# Long runs of zeros that are the codes of flat areas.
FLAT = {
    "white": encoded(Image.new("RGB", (4000, 3000), "white"), optimize=True),
    "page": encoded(
        Image.composite(
            PHOTO.resize((4000, 3000)),
            Image.new("RGB", (4000, 3000), "white"),
            Image.new("L", (4000, 3000)),
        ),
        optimize=True,
        quality=20,
    ),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("size", [32, 64, 240])
def test_decodes_as_pillow_does(kind: str, size: int) -> None:
    assert has_end(FILES[kind])
    with Image.open(io.BytesIO(FILES[kind])) as image:
        drafted = image.draft(None, (2 * size, 2 * size))
        expected, _ = to_pixels(image, size, drafted[1][2:] if drafted else None)
    assert (decode_image(FILES[kind], size) == expected).all()


@pytest.mark.parametrize("kind", FILES)
def test_uses_a_file_without_its_end_marker(kind: str) -> None:
    content = FILES[kind]
    assert not has_end(content[:-2])
    assert (decode_image(content[:-2], 64) == decode_image(content, 64)).all()


def test_remarks_that_the_end_marker_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(FILES["baseline"][:-2])
    loaded = load_image(0, path, 64)
    assert loaded.remarks == ("its end marker is missing; its pixels are complete",)
    path.write_bytes(FILES["baseline"])
    assert load_image(0, path, 64).remarks == ()


# Of a progressive file all scans have begun after four fifths: what is missing is hardly seen.
@pytest.mark.parametrize(
    ("kind", "share"),
    [
        (kind, share)
        for kind in FILES
        for share in (0.2, 0.5, 0.8)
        if (kind, share) != ("progressive", 0.8)
    ],
)
def test_refuses_a_file_that_ends_early(kind: str, share: float) -> None:
    content = FILES[kind][: int(share * len(FILES[kind]))]
    with pytest.raises(ImageError, match="damaged"):
        decode_image(content, 64)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
def test_refuses_a_file_whose_second_half_is_zeros(kind: str, end: bytes) -> None:
    n_bytes = len(FILES[kind])
    content = FILES[kind][: n_bytes // 2]
    content += bytes(n_bytes - len(content) - len(end)) + end
    with pytest.raises(ImageError, match="damaged: a part of its pixels is missing"):
        decode_image(content, 64)


@pytest.mark.parametrize("name", FLAT)
def test_uses_a_flat_image_whose_codes_are_zeros(name: str) -> None:
    content = FLAT[name]
    assert ZEROS in content
    assert (decode_image(content, 64)[-1] > 250).all()
    with pytest.raises(ImageError, match="damaged"):
        decode_image(content[: len(content) // 2], 64)


@pytest.mark.parametrize("padding", [bytes(5000), b"\0", b"trailer of a camera" * 100])
def test_ignores_what_follows_the_end_marker(padding: bytes) -> None:
    content = FILES["baseline"]
    assert has_end(content + padding)
    assert (decode_image(content + padding, 64) == decode_image(content, 64)).all()


def test_ignores_zeros_in_metadata() -> None:
    content = FILES["baseline"]
    segment = b"\xff\xe2" + (5002).to_bytes(2, "big") + bytes(5000)
    padded = content[:2] + segment + content[2:]
    assert ZEROS in padded
    assert (decode_image(padded, 64) == decode_image(content, 64)).all()


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(sorted(set(FILES) - {"progressive"})),
    n_missing=st.integers(64, 12_000),
)
def test_never_uses_a_file_that_lacks_more_than_a_few_blocks(kind: str, n_missing: int) -> None:
    for end in (b"", b"\xff\xd9"):  # libjpeg is content with an end marker anywhere
        with pytest.raises(ImageError, match="damaged"):
            decode_image(FILES[kind][:-n_missing] + end, 8)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(sorted(FILES)))
def test_looks_at_any_bytes(rest: bytes, kind: str) -> None:
    for content in (rest, FILES[kind][:600] + rest):
        with suppress(ImageError):
            assert decode_image(b"\xff\xd8\xff" + content, 8).shape == (8, 8, 3)


@pytest.mark.parametrize("side", [1, 7, 8, 16, 17])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_tiny_images_are_whole_too(side: int, mode: str) -> None:
    content = encoded(PHOTO.resize((side, side)).convert(mode))
    expected = decode_image(content, 8)
    for end in (b"", b"\xff\xd9", b"\xff\xd9" + bytes(10_000)):
        assert (decode_image(content[:-2] + end, 8) == expected).all()


def test_progressive_jpeg_that_lacks_its_last_scan_is_refused() -> None:
    progressive = FILES["progressive"]
    assert decode_image(progressive, 64).shape == (64, 64, 3)
    lacking = progressive[: progressive.rindex(b"\xff\xda")] + b"\xff\xd9"
    with pytest.raises(ImageError, match="damaged: a part of its pixels is missing"):
        decode_image(lacking, 64)
