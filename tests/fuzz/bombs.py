"""Files built to be harmful: they claim more than they hold, or unpack to far more."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable

import h5py
import numpy as np
from numpy.random import Generator
from PIL import Image

from tests.fuzz.hdf5_sizes import zeros
from tests.fuzz.hdf5_tools import ATTRIBUTES, datasets_of

Bomb = tuple[str, bytes]


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(width: int, height: int, depth: int, colour: int, pixels: bytes, *chunks: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"".join(
        [
            *(b"\x89PNG\r\n\x1a\n", _png_chunk(b"IHDR", header), *chunks),
            *(_png_chunk(b"IDAT", pixels), _png_chunk(b"IEND", b"")),
        ]
    )


def _small_png(*chunks: bytes) -> Bomb:
    return "png", _png(4, 4, 8, 2, zlib.compress(bytes(13 * 4)), *chunks)


def _compressed_text(generator: Generator) -> Bomb:
    """Texts of PNG that unpack to 100 MB each."""
    packed = zeros(100_000_000)
    name, data = (
        (b"zTXt", b"a\0\0" + packed),
        (b"iTXt", b"a\0\1\0\0\0" + packed),
        (b"iCCP", b"a\0\0" + packed),
    )[generator.integers(3)]
    return _small_png(*[_png_chunk(name, data)] * int(generator.integers(1, 40)))


def _large_plain_text(generator: Generator) -> Bomb:
    return _small_png(_png_chunk(b"tEXt", b"a\0" + bytes(int(generator.integers(1, 60_000_000)))))


def _many_chunks(generator: Generator) -> Bomb:
    return _small_png(_png_chunk(b"tEXt", b"a\0b") * 200_000)


def _as_many_pixels_as_allowed(generator: Generator) -> Bomb:
    """100 megapixels of one colour, in a file of 100 to 800 kB."""
    depth, colour, n_bytes = ((8, 6, 4), (8, 2, 3), (16, 0, 2), (16, 6, 8), (8, 0, 1), (16, 4, 4))[
        generator.integers(6)
    ]
    side = 10_000
    return "png", _png(side, side, depth, colour, zeros((side * n_bytes + 1) * side))


def _more_pixels_than_there_are(generator: Generator) -> Bomb:
    width, height = generator.choice([1, 9_999, 10_000, 65_535, 2**31 - 1], 2)
    return "png", _png(int(width), int(height), 8, 2, zlib.compress(bytes(100)))


def _long_and_thin(generator: Generator) -> Bomb:
    return "png", _png(100_000_000, 1, 8, 2, zeros(300_000_001))


def _frames(image_format: str, suffix: str, n_frames: int) -> Bomb:
    first = Image.new("RGB", (4, 4))
    rest = (Image.new("RGB", (4, 4), (number % 251, number % 241, 0)) for number in range(n_frames))
    buffer = io.BytesIO()
    first.save(buffer, image_format, save_all=True, append_images=rest)
    return suffix, buffer.getvalue()


def _many_frames(generator: Generator) -> Bomb:
    kinds = (("GIF", "gif"), ("WEBP", "webp"), ("TIFF", "tiff"), ("PNG", "png"))
    return _frames(*kinds[generator.integers(4)], n_frames=2_000)


def _large_frames(generator: Generator) -> Bomb:
    """Frames of a WebP that are large once unpacked, of which only the first counts."""
    first = Image.new("RGB", (3_000, 3_000))
    rest = [Image.new("RGB", (3_000, 3_000), (number, 0, 0)) for number in range(1, 6)]
    buffer = io.BytesIO()
    kind = ("WEBP", "GIF", "PNG")[generator.integers(3)]
    first.save(buffer, kind, save_all=True, append_images=rest)
    return kind.lower(), buffer.getvalue()


def _tiff(entries: list[tuple[int, int, int, int]], following: int, tail: bytes = b"") -> bytes:
    """Write a TIFF of one directory; entries are tag, type, count and value."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return (
        struct.pack("<2sHIH", b"II", 42, 8, len(entries))
        + packed
        + struct.pack("<I", following)
        + tail
    )


_TIFF_TAGS = {256: 4, 257: 4, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 4, 279: 16}


def _lying_tiff(generator: Generator) -> Bomb:
    """A TIFF whose tags claim anything."""
    tags = dict(_TIFF_TAGS)
    for tag in generator.choice(list(tags), int(generator.integers(1, 4))):
        values = [0, 1, 2, 65_535, 10_000, 99_999_999, 2**31 - 1, 2**32 - 1]
        tags[int(tag)] = int(generator.choice(values))
    counts = [1, 1, 1, 1, 2, 1000, 2**28, 2**32 - 1]
    entries = [
        (tag, int(generator.choice([3, 4, 4, 4, 5, 7, 12])), int(generator.choice(counts)), value)
        for tag, value in tags.items()
    ]
    return "tiff", _tiff(entries, int(generator.choice([0, 8, 2**31])), bytes(64))


def _loop_of_directories(generator: Generator) -> Bomb:
    entries = [(tag, 4, 1, value) for tag, value in _TIFF_TAGS.items()]
    return "tiff", _tiff(entries, 8, bytes(64))


def _large_tiff_tag(generator: Generator) -> Bomb:
    """A tag of 50 MB: a profile, a description or EXIF."""
    n_bytes = 50_000_000
    tag = int(generator.choice([270, 34675, 34665, 700, 33723]))
    entries = [(key, 4, 1, value) for key, value in _TIFF_TAGS.items()]
    start = 8 + 2 + 12 * (len(entries) + 1) + 4
    entries.append((tag, 7, n_bytes, start))
    return "tiff", _tiff(sorted(entries), 0, bytes(n_bytes))


def _jpeg(*segments: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG")
    content = buffer.getvalue()
    return content[:2] + b"".join(segments) + content[2:]


def _segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def _many_segments(generator: Generator) -> Bomb:
    """50 MB of EXIF, profiles or comments, in segments of 64 KB."""
    heads = (
        (0xE1, b"Exif\0\0II*\0\x08\0\0\0"),
        (0xE2, b"ICC_PROFILE\0\x01\xff"),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0"),
        (0xED, b"Photoshop 3.0\0"),
        (0xFE, b""),
    )
    marker, head = heads[generator.integers(len(heads))]
    return "jpg", _jpeg(*[_segment(marker, head + bytes(65_000))] * 800)


def _deep_exif(generator: Generator) -> Bomb:
    """EXIF whose directories point at each other, or claim more entries than there are."""
    tag = int(generator.choice([0x8769, 0x8825, 0xA005, 0x014A]))
    count = int(generator.choice([1, 1, 65_535]))
    entry = struct.pack("<HHIHHII", count, tag, 4, 1, 0, 8, 0)
    return "jpg", _jpeg(_segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0" + entry))


def _large_jpeg(generator: Generator) -> Bomb:
    """100 megapixels of one colour, progressive or not, in all modes."""
    mode = ("RGB", "L", "CMYK")[generator.integers(3)]
    progressive = bool(generator.random() < 0.5)
    buffer = io.BytesIO()
    Image.new(mode, (10_000, 10_000)).save(buffer, "JPEG", quality=50, progressive=progressive)
    return "jpg", buffer.getvalue()


def _many_scans(generator: Generator) -> Bomb:
    """A progressive JPEG that repeats its last scan: each is gone through in full."""
    buffer = io.BytesIO()
    Image.new("L", (3_000, 3_000)).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    start = content.rindex(b"\xff\xda")
    return "jpg", content[:start] + content[start:-2] * 500 + content[-2:]


def _lying_bmp(generator: Generator) -> Bomb:
    width, height = (
        int(each) for each in generator.choice([0, -1, 1, 9_999, -9_999, 2**31 - 1, -(2**31)], 2)
    )
    depth = int(generator.choice([1, 4, 8, 16, 24, 32, 64]))
    colours = int(generator.choice([0, 2, 256, 2**24, 2**31 - 1]))
    compression = int(generator.choice([0, 1, 2, 3, 4, 5, 9]))
    header = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, depth, compression, 0, 0, 0, colours, 0
    )
    start = int(generator.choice([0, 54, 2**31]))
    return "bmp", b"BM" + struct.pack("<IHHI", 200, 0, 0, start) + header + bytes(146)


def _lying_webp(generator: Generator) -> Bomb:
    """A WebP of 16,384 × 16,384 pixels and nothing in it."""
    size = struct.pack("<I", 2**24 - 1)[:3]
    extended = struct.pack("<4sIB3x", b"VP8X", 10, int(generator.integers(256))) + size * 2
    lossless = struct.pack("<4sIBI", b"VP8L", 5, 0x2F, 2**28 - 1) + b"\0"
    body = b"WEBP" + (extended if generator.random() < 0.5 else lossless)
    return "webp", struct.pack("<4sI", b"RIFF", len(body)) + body


IMAGES: tuple[Callable[[Generator], Bomb], ...] = (
    *(_compressed_text, _large_plain_text, _many_chunks, _as_many_pixels_as_allowed),
    *(_more_pixels_than_there_are, _long_and_thin, _many_frames, _large_frames, _lying_tiff),
    *(_lying_tiff, _loop_of_directories, _large_tiff_tag, _many_segments, _deep_exif),
    *(_large_jpeg, _many_scans, _lying_bmp, _lying_bmp, _lying_webp),
)


def _dataset(file: h5py.File, generator: Generator) -> str:
    name = str(generator.choice(datasets_of(file)))
    del file[name]
    return name


def _other_dataset(file: h5py.File, generator: Generator) -> None:
    """Replace a dataset by one of another type or shape."""
    values = (
        *(np.zeros(40), np.float32(3), np.zeros((40, 4, 4, 4), "complex64"), b"text", np.zeros(0)),
        *(np.zeros((40, 0), "float16"), np.full((40, 4), np.nan, "float16"), ["a"] * 40),
        *(np.zeros(40, "int64"), np.full(40, 9, "int32"), np.zeros(40, [("a", "i4")])),
        *(np.array([b"\xff\n"] * 40), np.array([b"z" * 64] * 40), h5py.Empty("f4")),
    )
    file[_dataset(file, generator)] = values[generator.integers(len(values))]


def _group_in_its_place(file: h5py.File, generator: Generator) -> None:
    file.create_group(_dataset(file, generator))


def _missing_dataset(file: h5py.File, generator: Generator) -> None:
    _dataset(file, generator)


def _huge(file: h5py.File, generator: Generator) -> None:
    """Claim very many images, without storing any."""
    n_images = int(generator.choice([10**6, 10**8, 10**10, 2**62]))
    tails = {"codes": (4, 4, 4), "labels": (), "paths": (), "digests": ()}
    dtypes = {"codes": "float16", "labels": "int32", "paths": "S8", "digests": "S64"}
    some = list(tails) if generator.random() < 0.7 else [str(generator.choice(list(tails)))]
    for name in some:
        del file[name]
        shape = (n_images, *tails[name])
        file.create_dataset(name, shape, dtypes[name], chunks=(1024, *tails[name]))


def _huge_codes(file: h5py.File, generator: Generator) -> None:
    """Claim that each image has very many numbers, in chunks as large."""
    del file["codes"]
    length = int(generator.choice([10**6, 10**8, 10**9]))
    n_images = len(file["labels"])
    file.create_dataset(
        "codes", (n_images, length), "float16", chunks=(1, min(length, 10**9)), compression="gzip"
    )


def _other_attribute(file: h5py.File, generator: Generator) -> None:
    values = (
        *("", "{}", "[]", "null", "[" * 2000, "[1]", '["\\ud800"]', '["a", "a"]', "2", "\x1b[2J\n"),
        *(np.bytes_(b"\xff"), 1.5, np.arange(3), h5py.Empty("f4"), np.array(["a", "b"], object)),
        *('{"cnncodes.input_size": 1e999}', "9" * 5000),
    )
    name = str(generator.choice(ATTRIBUTES))
    value = values[generator.integers(len(values))]
    file.attrs[name] = value


def _missing_attribute(file: h5py.File, generator: Generator) -> None:
    del file.attrs[str(generator.choice(sorted(file.attrs)))]


def _odd_names(file: h5py.File, generator: Generator) -> None:
    """Give images and classes names that a terminal would obey."""
    odd = "\x1b[31m<b>\n\u202e" + "x" * int(generator.integers(100_000))
    file["paths"][:] = [odd] * len(file["paths"])
    file.attrs["class_names"] = json.dumps([f"{odd[:100]}{number}" for number in range(10)])
    file.attrs["source"] = odd[:60_000]


def _damaged_chunk(file: h5py.File, generator: Generator) -> None:
    """Store a chunk that cannot be unpacked, or unpacks to more than it may."""
    codes = file["codes"]
    number = int(generator.integers(codes.id.get_num_chunks()))
    offset = codes.id.get_chunk_info(number).chunk_offset
    contents = (b"\0", generator.bytes(100), zeros(10_000_000), zlib.compress(b"short"))
    codes.id.write_direct_chunk(offset, contents[generator.integers(len(contents))])


def _not_finite(file: h5py.File, generator: Generator) -> None:
    value = float(generator.choice([np.nan, np.inf, -np.inf, 65504]))
    file["codes"][int(generator.integers(40))] = value


CODES: tuple[Callable[[h5py.File, Generator], None], ...] = (
    *(_other_dataset, _other_dataset, _group_in_its_place, _missing_dataset),
    *(_huge, _huge_codes, _other_attribute, _other_attribute),
    *(_missing_attribute, _odd_names, _damaged_chunk, _not_finite),
)
