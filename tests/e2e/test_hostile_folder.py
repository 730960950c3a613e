"""A folder of every hostile name and every kind of thing goes through the whole chain."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import shutil
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnncodes import Classifier, CodeStore
from tests.conftest import Run
from tests.helpers import run_process

NAMES = [
    "new\nline",
    "tab\there",
    "\x1b[31mred\x1b[0m",
    "right\u202eleft",
    os.fsdecode(b"bytes \xff\xfe"),
    "n" * 251,
    "-dash",
    "--help",
    "=1+1",
    "+1+1",
    "@SUM(1)",
    "<script>alert(1)<",
    "\"quotes' `$(id)`",
    "[red]markup[ ] %s {0}",
    " spaces ",
    "e\u0301 combining",
    "\U0001f600",
]
FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "bmp": "BMP", "gif": "GIF", "tif": "TIFF"}


def picture(number: int, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def saved(number: int, kind: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    picture(number).save(content, kind, **options)
    return content.getvalue()


def png_chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def with_chunk(png: bytes, chunk: bytes) -> bytes:
    """Put a chunk behind the header of a PNG file."""
    return png[:33] + chunk + png[33:]


def fill_names(folder: Path) -> Iterator[str]:
    for number, name in enumerate(NAMES):
        (folder / f"{name}.png").write_bytes(saved(number))
        yield f"{name}.png"
    (folder / "...png").write_bytes(b"hidden, since its name begins with a dot")


def fill_usable(folder: Path) -> Iterator[str]:
    """Odd images that are whole."""
    picture(1, size=(1, 1)).save(folder / "one pixel.png")
    picture(2, size=(20_000, 1)).save(folder / "wide.png")
    picture(3, "CMYK").save(folder / "print.jpg", icc_profile=b"no profile")
    Image.fromarray(np.arange(900, dtype=np.uint16).reshape(30, 30)).save(folder / "deep.png")
    frames = [Image.new("P", (9, 9), number % 256) for number in range(2_000)]
    frames[0].save(folder / "frames.gif", save_all=True, append_images=frames[1:])
    text = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(50_000_000), 9))
    (folder / "metadata.png").write_bytes(saved(4) + text)
    (folder / "photograph").write_bytes(saved(5, "JPEG"))
    yield from ("one pixel.png", "wide.png", "print.jpg", "deep.png", "frames.gif", "photograph")
    yield "metadata.png"


def fill_unusable(folder: Path) -> Iterator[tuple[str, str]]:
    """Give the name and part of the reason of each."""
    for ending, kind in FORMATS.items():
        content = saved(6, kind)
        (folder / f"cut off.{ending}").write_bytes(content[: len(content) // 3])
        yield f"cut off.{ending}", "damaged"
        (folder / f"lying.{ending}").write_bytes(content[:12] + bytes(200))
        yield f"lying.{ending}", "Unsupported BMP header" if kind == "BMP" else "damaged"
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("a text")
    yield from (("empty.jpg", "empty file"), ("text.jpg", "not a JPEG"))
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)
    (folder / "pixels.png").write_bytes(bomb + png_chunk(b"IDAT", zlib.compress(bytes(9))))
    yield "pixels.png", "(max_pixels)"
    text = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(50_000_000), 9))
    (folder / "metadata bomb.png").write_bytes(with_chunk(saved(7), text))
    yield "metadata bomb.png", "damaged"


def fill_things(folder: Path) -> None:
    """What is no image at all, and is passed over."""
    (folder / "up").symlink_to("..")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "to a device.jpg").symlink_to("/dev/zero")
    before = Path.cwd()
    os.chdir(folder)  # a socket's path must be short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket.jpg")
    finally:
        os.chdir(before)


def test_hostile_folder(run: Run, small_backbone: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    classes = ["<b>=1+1", "=cmd|' /C calc'!A0", "\x1b[2J\u202e\n"]
    for name in classes:
        (source / name).mkdir(parents=True)
    first, second, third = (source / name for name in classes)
    usable = {f"{classes[0]}/{name}" for name in fill_names(first)}
    usable |= {f"{classes[1]}/{name}" for name in fill_usable(second)}
    refused = dict(fill_unusable(third))
    for number in range(9):
        (third / f"{number}.png").write_bytes(saved(number))
        usable.add(f"{classes[2]}/{number}.png")
    fill_things(third)
    (source / "again").symlink_to(".")
    (source / "above").symlink_to("..")
    (third / "loop.jpg").symlink_to("loop.jpg")
    (third / "dangling.jpg").symlink_to("nowhere")
    refused["loop.jpg"] = "cannot be read: Too many levels of symbolic links"
    refused["dangling.jpg"] = "cannot be read: No such file"
    (third / "locked.jpg").write_bytes(saved(8, "JPEG"))
    (third / "locked.jpg").chmod(0)
    refused["locked.jpg"] = "cannot be read: Permission denied"

    codes, head, app = (tmp_path / name for name in ("codes.h5", "head.onnx", "app.onnx"))
    arguments = ("extract", small_backbone, source, "-o", codes)
    extracted = run_process(*arguments, bound_by_permissions=True)
    assert extracted.returncode == 0, extracted.stderr
    outputs = [extracted.stdout + extracted.stderr]
    with CodeStore.open(codes) as store:
        assert set(store.paths) == usable
        assert len(store) == len(usable)
        skipped = {Path(path).name: reason for path, reason in store.skipped}
        assert len(skipped) == len(store.skipped)
    assert set(skipped) == set(refused)
    for name, reason in refused.items():
        assert reason in skipped[name], name

    outputs.append(run("train", codes, "-o", head).output)
    outputs.append(run("bundle", small_backbone, head, "-o", app).output)
    report = tmp_path / "report"
    options = ("--include-training", "--report", report)
    outputs.append(run("evaluate", app, source, *options).output)
    run("verify", codes, "--source", source, "--backbone", small_backbone)
    table = run("predict", app, first, second, "--top", "2").output
    assert all(line.isprintable() for text in [*outputs, table] for line in text.split("\n"))
    page = (report / "index.html").read_text("utf-8")
    assert "<script" not in page
    assert "<b>=1" not in page
    assert "&lt;b&gt;=1+1" in page
    json.loads((report / "evaluation.json").read_text("utf-8"))


def test_folder_whose_name_is_not_utf8(
    run: Run, small_backbone: Path, photos: Path, tmp_path: Path
) -> None:
    """onnxruntime takes the path of a model as text only."""
    folder = tmp_path / os.fsdecode(b"f\xff")
    folder.mkdir()
    shutil.copy(small_backbone, folder / "backbone.onnx")
    shutil.copytree(photos, folder / "photos")
    image = next((folder / "photos").rglob("*.png"))
    for words in (
        "extract F/backbone.onnx F/photos -o F/codes.h5",
        "extract F/backbone.onnx F/photos -o F/codes.h5 --update",
        "train F/codes.h5 -o F/head.onnx",
        "train F/codes.h5 -o F/sgd.onnx --estimator sgd",
        "train F/codes.h5 -o F/knn.onnx --estimator knn",
        "evaluate F/head.onnx F/codes.h5 --report F/report",
        "curve F/codes.h5 --per-class 2,4 --seeds 2 -o F/curve.json --plot F/curve.png",
        "bundle F/backbone.onnx F/head.onnx -o F/app.onnx",
        f"predict F/app.onnx F/{image.relative_to(folder)}",
        "verify F/codes.h5 --source F/photos --backbone F/backbone.onnx",
        "verify F/app.onnx",
        "info F/app.onnx",
        "info F/codes.h5",
        "bench F/app.onnx --seconds 0.01 --batch-sizes 1",
        "quantize F/backbone.onnx --images F/photos -o F/int8.onnx",
    ):
        run(*(each.replace("F/", f"{folder}/") for each in words.split()))
    copied = pickle.loads(pickle.dumps(Classifier(folder / "app.onnx")))
    assert copied.predict(image)


def test_no_cell_is_a_formula(
    run: Run, small_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    for label in ("=1+1", "@cmd", "-1"):
        (source / label).mkdir(parents=True)
        for number in range(4):
            (source / label / f"{number}.png").write_bytes(saved(number))
    codes, head, app = (tmp_path / name for name in ("codes.h5", "head.onnx", "app.onnx"))
    run("extract", small_backbone, source, "-o", codes)
    run("train", codes, "-o", head)
    run("bundle", small_backbone, head, "-o", app)
    monkeypatch.chdir(tmp_path)
    for name in ("=1+1.png", "+1.png", "@x.png", "\tx.png"):
        Path(name).write_bytes(saved(1))
    images = ["=1+1.png", "+1.png", "@x.png", "\tx.png", "-"]
    printed = run("predict", app, *images, "--top", "3", "--format", "csv", stdin=saved(2)).stdout
    rows = list(csv.DictReader(io.StringIO(printed)))
    paths = ["'=1+1.png", "'+1.png", "'@x.png", "\\tx.png", "-"]
    assert [row["path"] for row in rows] == [path for path in paths for _ in range(3)]
    assert {row["label"] for row in rows} == {"'=1+1", "'@cmd", "-1"}


def test_paths_of_a_csv_file_are_read_and_never_written(
    run: Run, small_backbone: Path, tmp_path: Path
) -> None:
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    work.mkdir()
    elsewhere.mkdir()
    lines = ["path,label"]
    for number in range(12):
        file = elsewhere / f"{number}.png"
        file.write_bytes(saved(number))
        path = file if number % 2 else f"../elsewhere/{file.name}"
        lines.append(f"{path},{'ab'[number % 3 == 0]}")
    (work / "list.csv").write_text("\n".join(lines))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in elsewhere.iterdir()}
    run("extract", small_backbone, work / "list.csv", "-o", work / "codes.h5")
    run("train", work / "codes.h5", "-o", work / "head.onnx")
    run("bundle", small_backbone, work / "head.onnx", "-o", work / "app.onnx")
    options = ("--include-training", "--report", work / "report")
    run("evaluate", work / "head.onnx", work / "codes.h5", *options)
    run("curve", work / "codes.h5", "-o", work / "curve.json", "--per-class", "1,2")
    run("verify", work / "codes.h5", "--source", work / "list.csv")
    made = ["codes.h5", "head.onnx", "app.onnx", "report", "curve.json", "list.csv"]
    assert {path.name for path in work.iterdir()} == set(made)
    assert {path.name for path in (work / "report").iterdir()} == {"index.html", "evaluation.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"work", "elsewhere"}
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in elsewhere.iterdir()}
    assert after == before
