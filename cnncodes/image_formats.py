"""Image file formats: recognised by their first bytes or their ending, decoded or refused.

Every format of the table counts as an image when a folder is listed, so that none is left out in
silence. One that cannot be decoded here is refused with a reason and a remedy. Needs nothing but
the standard library.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec

SIGNATURE_LENGTH = 132  # bytes that `format_of` looks at, at most
DECODED = "JPEG, PNG, WebP, AVIF, HEIC, BMP, GIF, TIFF, PPM, JPEG 2000 or TGA"


@dataclass(frozen=True)
class Format:
    """One image file format.

    Attributes
    ----------
    name : str
        Its name in messages.
    suffixes : tuple of str
        Endings of file names, in lower case, with the dot.
    signatures : tuple of bytes
        First bytes of its files; ``????`` stands for any four bytes.
    pillow : str
        Name of the Pillow plugin that decodes it; empty if it is never decoded.
    remedy : str
        What the user can do about a file that is not decoded.
    offset : int
        Index of the signatures' first byte in the file.
    """

    name: str
    suffixes: tuple[str, ...]
    signatures: tuple[bytes, ...] = ()
    pillow: str = ""
    remedy: str = "save it as JPEG or PNG"
    offset: int = 0

    def matches(self, head: bytes) -> bool:
        """Return whether a file with these first bytes is of this format."""
        return any(_starts_with(head[self.offset :], each) for each in self.signatures)


def _row(name: str, suffixes: str, *signatures: bytes, pillow: str = "", offset: int = 0) -> Format:
    """Return a row of the table; `suffixes` are separated by blanks, without dots."""
    endings = tuple(f".{suffix}" for suffix in suffixes.split())
    return Format(name, endings, signatures, pillow, offset=offset)


# Signatures that also begin texts and data of other kinds.
_SHORT = (b"\xff\x0a", b"\x01\xda", b"IIRO", b"IIRS", b"MMOR", b"FOVb")
_PPM_HEADER = re.compile(rb"P[1-6]\s+(#[^\n]*\n\s*)*\d+\s+\d")
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # bytes; a length field follows the first 14
_PPM = tuple(b"P%d%c" % (kind, blank) for kind in range(1, 7) for blank in b" \t\r\n#")
_RAW_SUFFIXES = (
    "3fr arw cr2 cr3 crw dcr dng erf fff gpr iiq k25 kdc mef mos mrw nef nrw orf pef ptx raf raw "
    "rw2 rwl sr2 srf srw x3f"
)
RAW = Format(
    "camera raw",
    tuple(f".{suffix}" for suffix in _RAW_SUFFIXES.split()),
    (
        b"????ftypcrx ",  # CR3
        b"II*\0????CR",  # CR2
        b"II\x1a\0\0\0HEAPCCDR",  # CRW
        b"FUJIFILMCCD-RAW",
        b"IIRO",  # ORF, as the next two
        b"IIRS",
        b"MMOR",
        b"IIU\0",  # RW2
        b"FOVb",  # X3F
        b"\0MRM",
    ),
    remedy="develop it to JPEG, or use the JPEG that the camera stored beside it",
)
TIFF = _row("TIFF", "tif tiff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", pillow="TIFF")
HEIF = _row(
    "HEIC",
    "heic heif hif heics heifs",
    *(
        b"????ftyp" + brand.encode()
        for brand in "heic heix hevc hevx heim heis hevm hevs mif1 msf1".split()  # noqa: SIM905
    ),
    pillow="HEIF",
)
BMP = _row("BMP", "bmp dib", b"BM", pillow="BMP")
JPEG = _row("JPEG", "jpg jpeg jpe jfif jif pjpeg pjp", b"\xff\xd8\xff", pillow="JPEG")
AVIF = _row("AVIF", "avif avifs", b"????ftypavif", b"????ftypavis", pillow="AVIF")
PPM = _row("PPM", "ppm pgm pbm pnm", *_PPM, pillow="PPM")
TGA = _row("TGA", "tga", pillow="TGA")

# Camera raw first: its files may begin as a TIFF does.
TABLE = (
    RAW,
    JPEG,
    _row("PNG", "png apng", b"\x89PNG\r\n\x1a\n", pillow="PNG"),
    _row("WebP", "webp", b"RIFF????WEBP", pillow="WEBP"),
    BMP,
    _row("GIF", "gif", b"GIF87a", b"GIF89a", pillow="GIF"),
    TIFF,
    AVIF,
    HEIF,
    PPM,
    _row(
        "JPEG 2000",
        "jp2 j2k jpc jpf jpx j2c jpm",
        b"\0\0\0\x0cjP  \r\n\x87\n",
        b"\xff\x4f\xff\x51",
        pillow="JPEG2000",
    ),
    TGA,
    _row("JPEG XL", "jxl", b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"),
    _row("JPEG XR", "jxr wdp hdp", b"II\xbc\x01"),
    _row("Photoshop", "psd psb", b"8BPS"),
    _row("GIMP", "xcf", b"gimp xcf"),
    _row("SVG", "svg svgz"),
    _row("ICO", "ico cur"),
    _row("ICNS", "icns", b"icns"),
    _row("DDS", "dds", b"DDS "),
    _row("QOI", "qoi", b"qoif"),
    _row("OpenEXR", "exr", b"v/1\x01"),
    _row("Radiance HDR", "hdr", b"#?RADIANCE"),
    _row("PFM or PAM", "pfm pam"),
    _row("PCX", "pcx"),
    _row("SGI", "sgi rgb rgba bw", b"\x01\xda"),
    _row("FITS", "fits fit", b"SIMPLE  ="),
    _row("DICOM", "dcm dicom", b"DICM", offset=128),
    _row("PostScript", "eps ai"),
    _row("Windows metafile", "wmf emf"),
    _row("X bitmap", "xbm xpm"),
    _row("PICT", "pict pct"),
    _row("Krita", "kra"),
    _row("BPG", "bpg", b"BPG\xfb"),
    _row("FLIF", "flif", b"FLIF"),
    _row("MNG", "mng jng", b"\x8aMNG\r\n\x1a\n", b"\x8bJNG\r\n\x1a\n"),
    _row("a microscope's file", "czi lif nd2"),
)
_BY_SUFFIX = {suffix: each for each in TABLE for suffix in each.suffixes}
SUFFIXES = frozenset(_BY_SUFFIX)


def format_of(head: bytes, suffix: str = "") -> Format | None:
    """Return the format of an image file.

    Parameters
    ----------
    head : bytes
        The first `SIGNATURE_LENGTH` bytes of the file, or all of it.
    suffix : str
        Ending of its name, with the dot. It decides where the content has no signature, and
        between camera raw and TIFF.

    Returns
    -------
    Format or None
        None if the content is not an image of `TABLE`.
    """
    by_suffix = _BY_SUFFIX.get(suffix.lower())
    if by_suffix is RAW and TIFF.matches(head):
        return RAW
    # An AVIF or a HEIC may be marked as an image of either kind, with its own kind named later.
    if HEIF.matches(head) and b"avif" in head[12:SIGNATURE_LENGTH]:
        return AVIF
    for each in TABLE:
        if each.matches(head):
            return each
    return by_suffix if by_suffix is not None and not by_suffix.signatures else None


def is_image(head: bytes) -> bool:
    """Return whether the first `SIGNATURE_LENGTH` bytes of a file are those of an image.

    Files whose format has no signature of its own, or too short a one, are recognised by their
    ending only.
    """
    recognised = format_of(head)
    if recognised is PPM:
        return _PPM_HEADER.match(head) is not None
    if recognised is BMP:
        return int.from_bytes(head[14:18], "little") in _BMP_HEADERS
    return recognised is not None and not head.startswith(_SHORT)


def is_decoded(suffix: str) -> bool:
    """Return whether files with this ending are decoded on this machine.

    A file without an ending of `TABLE` is only listed if its content is that of an image.
    """
    claimed = _BY_SUFFIX.get(suffix.lower())
    return claimed is None or not reason_not_decoded(claimed)


def reason_not_decoded(image_format: Format) -> str:
    """Return why files of a format are not decoded on this machine, and a remedy; "" if they are.

    Parameters
    ----------
    image_format : Format
        A row of `TABLE`.

    Returns
    -------
    str
        For the list of skipped images.
    """
    if image_format is HEIF:
        if find_spec("pillow_heif") is not None:
            return ""
        return "HEIC: pip install 'cnncodes[heic]', or save it as JPEG"
    if image_format is AVIF:
        if find_spec("PIL._avif") is not None:
            return ""
        return "AVIF: install Pillow 11.3 or later, or save it as JPEG"
    if image_format.pillow:
        return ""
    if not image_format.signatures:
        return _by_ending(image_format)
    return f"{image_format.name} is not decoded: {image_format.remedy}"


def reason_of_suffix(suffix: str) -> str:
    """Return why a file with this ending but other content is not used, and a remedy."""
    claimed = _BY_SUFFIX.get(suffix.lower())
    if claimed is not None and not claimed.pillow:
        return _by_ending(claimed)
    return f"not a {DECODED} image"


def _by_ending(claimed: Format) -> str:
    return f"its ending is that of {claimed.name}, which is not decoded: {claimed.remedy}"


def _starts_with(head: bytes, signature: bytes) -> bool:
    before, wild, after = signature.partition(b"????")
    return head.startswith(before) and head[len(before) + len(wild) :].startswith(after)
