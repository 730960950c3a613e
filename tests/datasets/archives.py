"""Small archives in the layout of the published ones, and rows of the table for them."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

from cnncodes.datasets.registry import DATASETS, Archive, Dataset

INNER = "101_ObjectCategories.tar.gz"
CLASSES = {"accordion": 3, "yin_yang": 2, "BACKGROUND_Google": 4}
IMAGES = {
    f"{name}/image_{number:04}.jpg": Random(f"{name}{number}").randbytes(20_000)
    for name, n in CLASSES.items()
    for number in range(1, n + 1)
}
CELLS = {f"images/cell{number:04}.png": Random(number).randbytes(900) for number in range(1, 5)}
LABELS = b"".join(
    f"images/cell{number:04}.png  {probability:<20}{kind}\n".encode()
    for number, probability, kind in (
        (1, 1.0, "mono"),
        (2, 0.3333333333333333, "poly"),
        (3, 0.6666666666666666, "poly"),
        (4, 0.0, "mono"),
    )
)


def tar_of(members: Mapping[str, bytes], *others: tarfile.TarInfo) -> bytes:
    """Return a tar.gz archive of files, and of `others` without content."""
    file = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as archive,
    ):
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in others:
            archive.addfile(member)
    return file.getvalue()


def zip_of(members: Mapping[str | zipfile.ZipInfo, bytes]) -> bytes:
    """Return a zip archive of files."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name)  # of 1980
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return file.getvalue()


def caltech_tar(images: Mapping[str, bytes] = IMAGES) -> bytes:
    """Return Caltech-101 as its former home had it, with a file that is no image."""
    root = "101_ObjectCategories"
    members = {f"{root}/{path}": content for path, content in images.items()}
    return tar_of({**members, f"{root}/BACKGROUND_Google/tmp": b"tmp"})


def caltech_zip(images: Mapping[str, bytes] = IMAGES) -> bytes:
    """Return Caltech-101 as its home has it."""
    return zip_of(
        {
            f"caltech-101/{INNER}": caltech_tar(images),
            f"__MACOSX/caltech-101/._{INNER}": b"of a Mac",
            "caltech-101/Annotations.tar": b"outlines",
        }
    )


def cells_zip(prefix: str, cells: Mapping[str, bytes] = CELLS, labels: bytes = LABELS) -> bytes:
    """Return the solar cells below the folder that a wheel or a repository has them in."""
    members = {**cells, "labels.csv": labels}
    return zip_of(
        {
            **{f"{prefix}/{path}": content for path, content in members.items()},
            "other/images/overview.jpg": b"another image",
        }
    )


def caltech_row(address: str, content: bytes) -> Dataset:
    """Return the row of Caltech-101 for a small archive at an address."""
    return replace(
        DATASETS["caltech101"],
        n_images=len(IMAGES),
        n_classes=len(CLASSES),
        archives=(
            archive_of("caltech-101.zip", content, address),
            archive_of(INNER, caltech_tar()),
        ),
    )


def archive_of(name: str, content: bytes, address: str = "") -> Archive:
    digest = hashlib.sha256(content).hexdigest()
    return Archive(name=name, size=len(content), checksum=f"sha256:{digest}", address=address)


def cells_row() -> Dataset:
    """Return the row of the solar cells for four of them."""
    files = {**CELLS, "labels.csv": LABELS}
    listing = "".join(
        f"{hashlib.sha256(files[path]).hexdigest()}  {path}\n" for path in sorted(files)
    )
    return replace(
        DATASETS["elpv"],
        n_images=len(CELLS),
        content=hashlib.sha256(listing.encode()).hexdigest(),
    )


def files_below(folder: Path) -> dict[str, bytes]:
    """Return the content of each file below a folder, by its path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
