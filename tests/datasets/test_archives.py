"""Archives made to write elsewhere, to fill the disk, or of bytes that are none."""

from __future__ import annotations

import io
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cnncodes.datasets.archives import read_archive
from cnncodes.errors import SourceError
from tests.datasets.archives import INNER, tar_of, zip_of

MEMBERS = re.compile(r"(?:[^/]+/)*(?P<path>images/\w+\.png)", re.ASCII)
MOST = 1_000_000
GOOD = {"root/images/a.png": b"first", "root/images/b.png": b"second"}


def read(path: Path, content: bytes) -> dict[str, bytes]:
    path.write_bytes(content)
    return dict(read_archive(path, MEMBERS, inner=INNER, most=MOST))


def refusal(path: Path, content: bytes) -> str:
    with pytest.raises(SourceError) as caught:
        read(path, content)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.endswith("; download it again")
    assert "\n" not in message
    return message


def nested(content: bytes) -> bytes:
    return zip_of({f"root/{INNER}": content})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.mark.parametrize("content", [zip_of(GOOD), tar_of(GOOD), nested(tar_of(GOOD))])
def test_wanted_members_only(path: Path, content: bytes) -> None:
    assert read(path, content) == {"images/a.png": b"first", "images/b.png": b"second"}
    others = {"images/a.txt": b"", "a.png": b"", "root/images/a b.png": b"", "images/é.png": b""}
    for make in (zip_of, tar_of):
        assert read(path, make({**GOOD, **others})).keys() == {"images/a.png", "images/b.png"}


@pytest.mark.parametrize("make", [zip_of, tar_of, lambda members: nested(tar_of(members))])
@pytest.mark.parametrize(
    "name",
    ["../images/a.png", "/images/a.png", "x/../../images/a.png", "..\\images\\a.png", "C:/x"],
)
def test_name_that_leads_outside(
    path: Path, make: Callable[[dict[str, bytes]], bytes], name: str
) -> None:
    assert "in it leads outside its folder" in refusal(path, make({name: b"content"}))


@pytest.mark.parametrize(
    "kind",
    [
        *(tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE),
        tarfile.DIRTYPE,
    ],
)
def test_member_that_is_no_file(path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("images/c.png")
    member.type, member.linkname = kind, "/etc/passwd"
    assert "'images/c.png' in it is no regular file" in refusal(path, tar_of(GOOD, member))
    other = tarfile.TarInfo("unwanted")
    other.type, other.linkname = kind, "/etc/passwd"
    assert len(read(path, tar_of(GOOD, other))) == 2  # it is not unpacked at all


def test_link_in_a_zip_archive(path: Path) -> None:
    link = zipfile.ZipInfo("images/c.png")
    link.external_attr = 0o120777 << 16
    assert "'images/c.png' in it is no regular file" in refusal(path, zip_of({link: b"/etc"}))
    pipe = zipfile.ZipInfo(INNER)
    pipe.external_attr = 0o010644 << 16
    assert f"'{INNER}' in it is no regular file" in refusal(path, zip_of({pipe: b""}))


@pytest.mark.parametrize(
    "make",
    [
        zip_of,
        tar_of,
        lambda members: nested(tar_of(members)),
    ],
)
def test_more_bytes_than_expected(path: Path, make: Callable[[dict[str, bytes]], bytes]) -> None:
    assert len(read(path, make({"images/a.png": bytes(MOST // 2)}))) == 1
    bomb = make({"images/a.png": bytes(MOST // 2), "images/b.png": bytes(MOST // 2 + 1)})
    assert len(bomb) < 10_000
    assert "(it unpacks to more than 1 MB)" in refusal(path, bomb)


def test_unwanted_bytes_count_where_they_must_be_read(path: Path) -> None:
    assert "more than 1 MB" in refusal(path, tar_of({"unwanted": bytes(2 * MOST)}))
    assert read(path, zip_of({"unwanted": bytes(2 * MOST)})) == {}


def test_header_that_fills_the_memory(path: Path) -> None:
    """A tar archive's extended header is read as a whole."""
    assert "more than 1 MB" in refusal(path, tar_of({"x" * 2 * MOST: b""}))


def test_size_that_is_a_lie(path: Path) -> None:
    content = bytearray(zip_of({"images/a.png": bytes(2 * MOST)}))
    directory = content.rfind(b"PK\1\2")
    for at in (22, directory + 24):  # uncompressed size, in both headers
        content[at : at + 4] = struct.pack("<I", 10)
    # Python reads 10 bytes and finds that the checksum does not fit.
    assert "cannot be unpacked (Bad CRC-32 for file" in refusal(path, bytes(content))


def test_many_members(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnncodes.datasets.archives.MOST_MEMBERS", 20)
    many = {f"unwanted/{number}": b"" for number in range(21)}
    for make in (zip_of, tar_of):
        assert "it has more than 20 files" in refusal(path, make(many))
    content = bytearray(zip_of(GOOD))
    at = content.rfind(b"PK\5\6") + 12
    content[at : at + 4] = struct.pack("<I", 1 << 30)
    assert "it has more than 20 files" in refusal(path, bytes(content))


def test_member_twice(path: Path) -> None:
    assert "it holds images/a.png twice" in refusal(
        path, tar_of({"a/images/a.png": b"1", "b/images/a.png": b"2"})
    )


def test_unusual_compression(path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("images/a.png", b"content")
    assert "is compressed in an unusual way" in refusal(path, file.getvalue())


def test_encrypted_member(path: Path) -> None:
    content = bytearray(zip_of({"images/a.png": b"content"}))
    for at in (6, content.rfind(b"PK\1\2") + 8):
        content[at] |= 1
    assert "is encrypted" in refusal(path, bytes(content))


@pytest.mark.parametrize("whole", [zip_of(GOOD), tar_of(GOOD), nested(tar_of(GOOD))])
def test_archive_that_is_cut_off(path: Path, whole: bytes) -> None:
    for n_bytes in range(0, len(whole) - 8, 7):
        refusal(path, whole[:n_bytes])


def test_unreadable_file(path: Path) -> None:
    with pytest.raises(SourceError, match=r"archive: cannot be unpacked \(No such file"):
        list(read_archive(path, MEMBERS, most=MOST))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_archives_are_refused_in_one_line(path: Path, data: st.DataObject) -> None:
    """Any bytes give plain paths within the bound, or a line."""
    names = st.one_of(st.sampled_from([*GOOD, INNER]), st.text(max_size=20))
    files = data.draw(st.dictionaries(names, st.binary(max_size=50), max_size=4))
    files = {name: content for name, content in files.items() if name and name.isprintable()}
    make = data.draw(st.sampled_from([zip_of, tar_of, lambda members: nested(tar_of(members))]))
    content = bytearray(make(files))
    for at, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=4)
    ):
        content[at] = value
    unpacked, message = {}, ""
    try:
        unpacked = read(path, bytes(content))
    except SourceError as error:
        message = str(error)
    assert "\n" not in message
    assert all(re.fullmatch(r"images/\w+\.png", each, re.ASCII) for each in unpacked)
    assert sum(map(len, unpacked.values())) <= MOST
