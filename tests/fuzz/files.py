"""Small real files of every kind, for `mutants` to damage."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image
from pillow_heif import from_pillow

from cnncodes.demo import write_digits
from cnncodes.models.checksum import save_checked
from tests.helpers import BACKBONE_INFO, run_command

SIZE = 8
DECOYS = "beside"  # folder of files that no command may open; it is beside the mutant
SECRET, SECRET_DIGEST = b"SECRET-", b"5ec4e75ec4e7"


@dataclass(frozen=True)
class Chain:
    """One file of each step, all of them small.

    Attributes
    ----------
    photos : Path
        Class folders with 40 digits in groups, and two images that cannot be used.
    backbone, codes, head, app : Path
        What the commands made of them.
    """

    photos: Path
    backbone: Path
    codes: Path
    head: Path
    app: Path

    @classmethod
    def make(cls, folder: Path) -> Chain:
        """Make the files, or find those made before."""
        names = ("photos", "backbone.onnx", "codes.h5", "head.onnx", "app.onnx")
        chain = cls(*(folder / name for name in names))
        if not chain.app.exists():
            _group(write_digits(chain.photos, 40))
            for folder_of_class in list(chain.photos.iterdir())[:2]:
                (folder_of_class / "unusable.png").write_bytes(b"\x89PNG\r\n\x1a\n")
            _write_backbone(chain.backbone)
            run_command(
                *("extract", chain.backbone, chain.photos, "-o", chain.codes),
                *("--group-by", "folder"),
            )
            run_command("train", chain.codes, "-o", chain.head, "--C", 1)
            run_command("bundle", chain.backbone, chain.head, "-o", chain.app)
        return chain

    def photo(self) -> Path:
        """Return one of the images."""
        return min(self.photos.rglob("digit*.png"))


def _group(digits: list[Path]) -> None:
    """Move images into folders below those of their classes."""
    for number, path in enumerate(digits):
        folder = path.parent / f"group {number % 3}"
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)


def write_decoys(folder: Path, chain: Chain) -> None:
    """Write files that must never be opened, with values that are right and others to be seen.

    Parameters
    ----------
    folder : Path
        Where the mutants are; the files come into its folder `DECOYS`.
    chain : Chain
        Files that are whole.
    """
    decoys = folder / DECOYS
    decoys.mkdir(exist_ok=True)
    secrets = [SECRET + str(number).encode() for number in range(40)]
    digests = [SECRET_DIGEST + b"%052d" % number for number in range(40)]
    (decoys / "secret.txt").write_bytes(b"\n".join(secrets))
    (decoys / "weights.bin").write_bytes(SECRET * 1_000)
    other = decoys / "other.h5"
    other.write_bytes(chain.codes.read_bytes())
    with h5py.File(other, "r+") as file:
        for name in ("paths", "groups", "skipped/paths", "skipped/reasons"):
            file[name][:] = secrets[: len(file[name])]
        file["digests"][:] = digests
        for name in ("codes", "labels", "digests", "checksums"):
            if name in file:
                (decoys / f"{name}.bin").write_bytes(file[name][:].tobytes())
    for name in ("paths", "groups", "skipped-paths", "skipped-reasons"):
        (decoys / f"{name}.bin").write_bytes(np.array(secrets, "S64").tobytes())


@cache
def images() -> tuple[tuple[str, bytes], ...]:
    """Return small images, in pairs of ending and content, of all formats and many modes."""
    noise = np.random.default_rng(0).integers(0, 256, (18, 24, 4), np.uint8)
    smooth = np.indices((18, 24)).sum(axis=0).astype(np.uint8)[..., np.newaxis] * 5
    rgba = Image.fromarray(noise // 8 + smooth)
    rgb, grey, palette = rgba.convert("RGB"), rgba.convert("L"), rgba.convert("P")
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    bilevel, cmyk = grey.convert("1"), rgb.convert("CMYK")
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [rgb.rotate(angle) for angle in (90, 180)]
    return (
        ("jpg", _saved(rgb, "JPEG", exif=exif)),
        ("jpg", _saved(rgb, "JPEG", progressive=True, icc_profile=b"profile" * 20)),
        ("jpg", _saved(cmyk, "JPEG")),
        ("jpg", _saved(grey, "JPEG", quality=30)),
        ("png", _saved(rgba, "PNG", exif=exif)),
        ("png", _saved(palette, "PNG", transparency=3)),
        ("png", _saved(sixteen, "PNG", icc_profile=b"profile" * 20)),
        ("png", _saved(bilevel, "PNG")),
        ("png", _saved(rgb, "PNG", save_all=True, append_images=frames)),
        ("webp", _saved(rgba, "WEBP", exif=exif)),
        ("webp", _saved(rgb, "WEBP", lossless=True)),
        ("webp", _saved(rgb, "WEBP", save_all=True, append_images=frames)),
        ("bmp", _saved(rgb, "BMP")),
        ("bmp", _saved(palette, "BMP")),
        ("gif", _saved(palette, "GIF", transparency=3)),
        ("gif", _saved(palette, "GIF", save_all=True, append_images=frames)),
        ("tiff", _saved(rgb, "TIFF")),
        ("tiff", _saved(rgba, "TIFF", compression="tiff_lzw")),
        ("tiff", _saved(sixteen, "TIFF", compression="tiff_adobe_deflate")),
        ("tiff", _saved(rgb, "TIFF", compression="jpeg")),
        ("tiff", _saved(bilevel, "TIFF", compression="group4")),
        ("tiff", _saved(cmyk, "TIFF", save_all=True, append_images=[cmyk, cmyk])),
        ("tiff", _saved(rgb, "TIFF", big_tiff=True)),
        ("avif", _saved(rgba, "AVIF", exif=exif)),
        ("avif", _saved(rgb, "AVIF", save_all=True, append_images=frames)),
        ("heic", _saved_as_heic(rgb)),
        ("heic", _saved_as_heic(rgba)),
        ("ppm", _saved(rgb, "PPM")),
        ("pgm", _saved(sixteen, "PPM")),
        ("pgm", b"P2 24 18 200\n" + " ".join(map(str, np.asarray(grey).ravel() // 2)).encode()),
        ("jp2", _saved(rgb, "JPEG2000")),
        ("j2k", _saved(sixteen, "JPEG2000", no_jp2=True)),
        ("tga", _saved(rgba, "TGA", compression="tga_rle")),
    )


def _write_backbone(path: Path) -> None:
    """Write a network of one convolution, with the operators that real ones have."""
    weights = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["images"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["numbers"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "weights"], ["sums"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["sums"], ["positive"]),
        helper.make_node("MaxPool", ["positive"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Transpose", ["pooled"], ["codes"], perm=[0, 2, 3, 1]),
    ]
    half = SIZE // 2
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ("N", SIZE, SIZE, 3))],
        [helper.make_tensor_value_info("codes", TensorProto.FLOAT, ("N", half, half, 4))],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, replace(BACKBONE_INFO, input_size=SIZE).to_metadata())
    save_checked(model, path)


def _saved_as_heic(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    from_pillow(image).save(buffer, quality=80)
    return buffer.getvalue()


def _saved(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()
