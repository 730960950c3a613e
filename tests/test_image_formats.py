"""Formats are recognised by content and ending; none of them vanishes from a folder."""

from __future__ import annotations

import io
import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pillow_heif import from_pillow

from cnncodes import CodeStore
from cnncodes.errors import ImageError
from cnncodes.image_formats import RAW, SUFFIXES, TABLE, format_of, is_image
from cnncodes.images.decoding import decode_image, load_image
from cnncodes.images.sources import find_images
from tests.conftest import Run

PHOTO = Image.effect_noise((48, 40), 60).convert("RGB")
HEIC = struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + bytes(100)


def encoded(image: Image.Image, layout: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    if layout == "HEIF":
        from_pillow(image).save(buffer, **options)
    else:
        image.save(buffer, layout, **options)
    return buffer.getvalue()


def camera_raw(make: str = "NIKON CORPORATION") -> bytes:
    """A TIFF whose first image is a thumbnail, as in a camera's file."""
    thumbnail = encoded(PHOTO.resize((16, 12)), "TIFF", tiffinfo={254: 1, 271: make})
    assert thumbnail[:2] in (b"II", b"MM")
    return thumbnail


DECODED = {
    "avif": ("AVIF", {"quality": 95}),
    "heic": ("HEIF", {"quality": 95}),
    "hif": ("HEIF", {"quality": 95}),
    "ppm": ("PPM", {}),
    "jp2": ("JPEG2000", {}),
    "j2k": ("JPEG2000", {"no_jp2": True}),
    "tga": ("TGA", {}),
    "tif": ("TIFF", {"big_tiff": True}),
    "dib": ("BMP", {}),
}


@pytest.mark.parametrize("suffix", DECODED)
def test_decodes_what_the_installed_packages_can(tmp_path: Path, suffix: str) -> None:
    layout, options = DECODED[suffix]
    path = tmp_path / f"photo.{suffix.upper()}"
    path.write_bytes(encoded(PHOTO, layout, **options))
    assert find_images(tmp_path).paths == (path.name,)
    loaded = load_image(0, path, 48)
    assert loaded.problem == ""
    assert loaded.pixels is not None
    expected = np.asarray(PHOTO.resize((48, 48), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(loaded.pixels - expected).mean() < (8 if layout in ("AVIF", "HEIF") else 0.01)


@pytest.mark.parametrize("layout", ["AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_turns_formats_of_phones_upright_once(layout: str, orientation: int) -> None:
    stored = np.zeros((64, 64, 3), np.uint8)
    stored[:32, :32] = (255, 0, 0)  # the upper left quarter is red
    image = Image.fromarray(stored)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(image, layout, quality=95, exif=exif.tobytes())
    red = {1: (0, 0), 3: (1, 1), 6: (0, 1), 8: (1, 0)}[orientation]
    quarters = decode_image(content, 64)[..., 0].reshape(2, 32, 2, 32).mean(axis=(1, 3))
    assert np.unravel_index(quarters.argmax(), (2, 2)) == red


@pytest.mark.parametrize("maximum", [255, 4095, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_scales_a_pgm_by_its_own_maximum(maximum: int, plain: bool) -> None:
    values = np.linspace(0, maximum, 16).round().astype(int).reshape(4, 4)
    if plain:
        body = " ".join(map(str, values.ravel())).encode()
    else:
        body = values.astype(">u2" if maximum > 255 else "u1").tobytes()
    content = b"P%d\n4 4\n%d\n" % (2 if plain else 5, maximum) + body
    expected = values * 255 / maximum
    assert np.abs(decode_image(content, 4)[..., 0] - expected).max() <= 1


def test_refuses_a_large_pgm_that_is_decoded_slowly() -> None:
    content = b"P2 2000 2000 255\n" + b"1 " * 4_000_000
    with pytest.raises(ImageError, match="more than 2 megapixels: save it as PNG"):
        decode_image(content, 8)


# One file of each ending that is listed; some are refused with a remedy, by the ending.
@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_lists_every_ending_and_reports_why_it_is_not_used(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture{suffix}"
    path.write_bytes(b"another content")
    assert find_images(tmp_path).paths == (path.name,)
    problem = load_image(0, path, 8).problem
    assert problem
    if not next(each for each in TABLE if suffix in each.suffixes).pillow:
        assert "save it as" in problem or "develop it" in problem
        assert "which is not decoded" in problem


@pytest.mark.parametrize("suffix", [".nef", ".CR2", ".dng", ".arw", ".tif", ""])
def test_camera_raw_is_not_read_at_the_size_of_its_thumbnail(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"shot{suffix}"
    path.write_bytes(camera_raw())
    assert find_images(tmp_path).paths == (path.name,)
    problem = load_image(0, path, 8).problem
    assert "camera raw" in problem


def test_dng_is_refused_whatever_it_is_called() -> None:
    content = encoded(PHOTO, "TIFF", tiffinfo={50706: bytes((1, 4, 0, 0))})
    with pytest.raises(ImageError, match="camera raw is not decoded: develop it to JPEG"):
        decode_image(content, 8)


@pytest.mark.parametrize("start", [b"II*\0", b"MM\0*"])
def test_ending_distinguishes_camera_raw_from_tiff(start: bytes) -> None:
    assert format_of(start, ".nef") is RAW
    assert format_of(start, ".tif") is not RAW


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\0\0\0\x20ftypmif1\0\0\0\0mif1avif", "AVIF"),
        (b"\0\0\0\x20ftypavif", "AVIF"),
        (b"\0\0\0\x18ftypcrx \0\0\0\0", "camera raw"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"8BPS\0\1", "Photoshop"),
    ],
)
def test_knows_a_format_without_an_ending(head: bytes, name: str) -> None:
    recognised = format_of(head)
    assert recognised is not None
    assert recognised.name == name


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"II*\0\x10\0\0\0CR\2\0", "camera raw"),
        (b"FUJIFILMCCD-RAW 0201", "camera raw"),
        (b"P6\n# a comment\n4 4\n255\n", "PPM"),
        (bytes(128) + b"DICM", "DICOM"),
        (encoded(PHOTO, "BMP"), "BMP"),
    ],
)
def test_pictures_without_an_ending_are_listed(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / "without").write_bytes(content)
    assert find_images(tmp_path).paths == ("without",)
    kind = format_of(content[:132])
    assert kind is not None
    assert kind.name == name


def test_tga_is_known_by_its_end_too() -> None:
    content = encoded(PHOTO, "TGA")
    assert (decode_image(content, 8) == decode_image(content, 8, suffix=".tga")).all()


@pytest.mark.parametrize(
    "head",
    [
        b"BMI,age\n22,31\n and more",
        b"MMORPG notes",
        b"\0\0\0\x18ftypqt  ",
        b"\0\0\0\x18ftypmp42",
        b"P6 of the plan",
        b"\0\0\1\0",
        b"text",
        b"",
    ],
)
def test_films_and_texts_are_no_images(head: bytes) -> None:
    assert not is_image(head)


def test_names_the_remedy_where_a_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import cnncodes.image_formats as formats

    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(ImageError, match=r"HEIC: pip install 'cnncodes\[heic\]', or save it"):
        decode_image(HEIC, 8)
    with pytest.raises(ImageError, match=r"AVIF: install Pillow 11\.3 or later"):
        decode_image(HEIC.replace(b"heic", b"avif"), 8)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A cat and a dog as JPEG, camera raw beside them, and a class of damaged HEIC only."""
    source = tmp_path / "photos"
    for name in ("bird", "cat", "dog", "emu"):
        (source / name).mkdir(parents=True)
    for name in ("cat", "dog"):
        for number in range(3):
            (source / name / f"{number}.jpg").write_bytes(encoded(PHOTO, "JPEG", quality=number))
    (source / "cat" / "0.NEF").write_bytes(camera_raw())
    (source / "cat" / "notes.txt").write_text("no image")
    for number in range(4):
        (source / "bird" / f"IMG_{number}.HEIC").write_bytes(HEIC)
    return source


def test_nothing_is_lost_in_silence(
    run: Run, small_backbone: Path, mixed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "codes.h5"
    result = run("extract", small_backbone, mixed, "-o", output)
    *notes, warning = result.stderr.splitlines()
    assert notes == [
        f"{mixed}: 11 image files, 3 classes: bird 4, cat 4, dog 3",
        "  note: left out: 1 file that is no image: notes.txt",
        "  note: no images in 1 class folder: emu",
    ]
    assert warning.startswith("Warning: 5 of 11 image files (45%) cannot be used")
    assert "  5 images skipped (cnncodes info lists all):\n" in result.stdout
    assert "bird/IMG_0.HEIC and 3 more: damaged" in result.stdout
    assert "cat/0.NEF: camera raw is not decoded" in result.stdout
    assert "note: no usable image in 1 of the classes: bird" in result.stdout
    with CodeStore.open(output) as store:
        assert len(store) == 6
        assert len(store.skipped) == 5
    described = json.loads(run("info", output, "--json").stdout)
    assert described["images_skipped"] == len(described["skipped"]) == 5
    assert "cat/0.NEF: camera raw is not decoded" in run("info", output).stdout


def test_other_commands_do_not_lose_them_either(
    run: Run, app: Path, small_backbone: Path, mixed: Path, tmp_path: Path
) -> None:
    printed = run("predict", app, mixed, exit_code=1).stdout
    assert printed.count("IMG_") == 4
    assert "0.NEF  camera raw is not decoded" in printed
    assert re.search(r"bird +4\n +cat +4\n +dog +3", run("info", mixed).output)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (encoded(Image.new("F", (4, 4)), "TIFF"), "32-bit or signed pixels"),
        (encoded(PHOTO, "JPEG").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), "variant"),
    ],
)
def test_unsupported_is_not_damaged(content: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode_image(content, 8)
    assert reason in str(caught.value)
    assert "damaged" not in str(caught.value)
    assert "save it" in str(caught.value)


@pytest.mark.parametrize(
    ("n_bands", "dtype"), [(5, "u1"), (7, "u1"), (5, "<u2"), (2, "<f4"), (3, "<f4")]
)
def test_bands_that_are_no_colours_are_unsupported(n_bands: int, dtype: str) -> None:
    pixels = np.zeros((4, 4, n_bands), dtype)
    kind = 3 if dtype == "<f4" else 1
    bits = 8 * pixels.itemsize
    head, at = 8, 8 + 2 + 12 * 10 + 4
    bits_at, kinds_at, data_at = at, at + 2 * n_bands, at + 4 * n_bands
    entries = [
        (256, 3, 1, 4),
        (257, 3, 1, 4),
        (258, 3, n_bands, bits_at),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, data_at),
        (277, 3, 1, n_bands),
        (278, 3, 1, 4),
        (279, 4, 1, pixels.nbytes),
        (339, 3, n_bands, kinds_at),
    ]
    content = b"II*\0" + struct.pack("<I", head) + struct.pack("<H", len(entries))
    for tag, of, count, value in entries:
        content += struct.pack("<HHII", tag, of, count, value)
    content += bytes(4) + struct.pack("<H", bits) * n_bands + struct.pack("<H", kind) * n_bands
    with pytest.raises(ImageError) as caught:
        decode_image(content + pixels.tobytes(), 8)
    assert "damaged" not in str(caught.value), caught.value
    assert "save it" in str(caught.value)
