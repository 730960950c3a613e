"""Results are written whole or not at all."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cnncodes.errors import OutputError
from cnncodes.output import MODEL, check_output, is_open_elsewhere, replacing
from tests.helpers import NOBODY, error_of, unprivileged


def windows_error(number: int) -> OSError:
    """Return an error as it is on Windows, where it holds a number of Windows's own."""
    error = PermissionError(13, "The process cannot access the file")
    error.winerror = number  # type: ignore[attr-defined]
    return error


def test_writes_a_new_file(tmp_path: Path) -> None:
    with replacing(tmp_path / "new", overwrite=False) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.read_bytes() == b""
        temporary.write_text("new")
        assert not (tmp_path / "new").exists()
    assert [each.name for each in tmp_path.iterdir()] == ["new"]
    assert (tmp_path / "new").read_text() == "new"


def test_replaces_a_file_at_the_end_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with replacing(tmp_path / "file", overwrite=True) as temporary:
        temporary.write_text("new")
        assert (tmp_path / "file").read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.skipif(os.name != "posix", reason="Windows has no permission bits")
def test_replacement_is_private_until_it_is_renamed(tmp_path: Path) -> None:
    (tmp_path / "file").touch(0o644)
    with replacing(tmp_path / "file", overwrite=True) as temporary:
        assert temporary.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit, OutputError])
@pytest.mark.parametrize("existing", [True, False])
def test_leaves_everything_as_it_was(
    tmp_path: Path, failure: type[BaseException], existing: bool
) -> None:
    if existing:
        (tmp_path / "file").write_text("old")

    def write() -> None:
        with replacing(tmp_path / "file", overwrite=True) as temporary:
            temporary.write_text("half")
            raise failure("of another part")

    with pytest.raises(failure, match="of another part"):
        write()
    assert [each.name for each in tmp_path.iterdir()] == ["file"] * existing
    if existing:
        assert (tmp_path / "file").read_text() == "old"


def test_reports_what_the_file_system_refused(tmp_path: Path) -> None:
    def write() -> None:
        with replacing(tmp_path / "file", overwrite=False) as temporary:
            temporary.unlink()
            temporary.mkdir()
            try:
                temporary.write_text("new")
            finally:
                temporary.rmdir()

    with pytest.raises(OutputError) as caught:
        write()
    assert str(caught.value) == f"{tmp_path / 'file'}: cannot be written (Is a directory)"
    assert not list(tmp_path.iterdir())


def test_umask_of_a_host_program_is_never_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for a moment: another thread may create a file meanwhile."""
    monkeypatch.delattr(os, "umask")
    for overwrite in (False, True):
        with replacing(tmp_path / "file", overwrite=overwrite) as temporary:
            temporary.write_text("new")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o027, 0o077])
def test_gives_the_permissions_of_a_plain_open(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        (tmp_path / "plain").write_text("")
        with replacing(tmp_path / "file", overwrite=False):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


# The longest names a file can have, in one and in three bytes a letter.
@pytest.mark.parametrize(
    "name", ["x" * 255, "日" * 85, "two\nlines", "\udcff"], ids=["long", "wide", "lines", "bytes"]
)
def test_writes_files_of_any_name(tmp_path: Path, name: str) -> None:
    with replacing(tmp_path / name, overwrite=False) as temporary:
        temporary.write_text("new")
    assert [each.name for each in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("links", [["file"], ["second", "file"], ["folder/file"], ["absent"]])
def test_links_stay_and_their_target_is_replaced(tmp_path: Path, links: list[str]) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("file", "folder/file"):
        (tmp_path / name).write_text("old")
    for name, target in zip(["first", "second"], links, strict=False):
        (tmp_path / name).symlink_to(target)
    with replacing(tmp_path / "first", overwrite=True) as temporary:
        assert temporary.parent == (tmp_path / links[-1]).parent
        temporary.write_text("new")
    assert (tmp_path / "first").readlink() == Path(links[0])
    assert (tmp_path / links[-1]).read_text() == "new"
    for name in {"file", "folder/file"} - {links[-1]}:
        assert (tmp_path / name).read_text() == "old"
    assert not list(tmp_path.rglob(".cnncodes-*"))


def test_links_are_files_that_exist_and_those_that_lead_nowhere_are_not(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "lost").symlink_to("absent/file")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "new").symlink_to("target")
    for name, reason in (
        ("link", "exists already"),
        ("lost", f"the folder {tmp_path / 'absent'} does not exist"),
        ("loop", "cannot be written (Too many levels of symbolic links)"),
    ):
        with pytest.raises(OutputError) as caught:
            check_output(tmp_path / name, overwrite=False)
        assert str(caught.value).startswith(f"{tmp_path / name}: {reason}")
    check_output(tmp_path / "new", overwrite=False)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o755])
def test_replaced_file_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "file").chmod(mode)
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with replacing(tmp_path / name, overwrite=True) as temporary:
            temporary.write_text("new")
            assert temporary.stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "file").stat().st_mode & 0o7777 == mode


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs to be root")
def test_replaced_file_keeps_its_owner_where_that_may_be_set(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o640)
    os.chown(path, NOBODY, NOBODY)
    with replacing(path, overwrite=True):
        pass
    assert (path.stat().st_uid, path.stat().st_gid) == (NOBODY, NOBODY)
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs to be root")
def test_group_that_cannot_be_kept_passes_on_no_permissions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # an ordinary user may not look into the folders above it
    path = Path("file")
    path.write_text("old")
    path.chmod(0o664)
    os.chown(path, 0, 1234)
    groups = os.getgroups()
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, 0)
    try:
        with unprivileged(tmp_path), replacing(path, overwrite=True):
            pass
    finally:
        os.setresgid(0, 0, 0)
        os.setgroups(groups)
    assert (path.stat().st_uid, path.stat().st_gid) == (NOBODY, NOBODY)
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("link", ["hard", "symbolic"])
def test_input_by_any_name_is_never_replaced(tmp_path: Path, link: str) -> None:
    (tmp_path / "input").write_text("mine")
    if link == "hard":
        (tmp_path / "other").hardlink_to(tmp_path / "input")
    else:
        (tmp_path / "other").symlink_to("input")
    for output, used in (("other", "input"), ("input", "other")):
        with pytest.raises(OutputError, match="is what the result is made from"):
            check_output(tmp_path / output, overwrite=True, inputs=["gone", tmp_path / used])


def test_checks_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    for name, overwrite, reason in (
        ("file", False, "exists already; choose another name or pass overwrite=True"),
        ("folder", True, "is a folder; name a file inside it"),
        ("missing/file", True, f"the folder {tmp_path / 'missing'} does not exist; create it"),
        ("file/file", True, f"{tmp_path / 'file'} is no folder; choose another name"),
        ("file/a/b", True, f"{tmp_path / 'file'} is no folder; choose another name"),
    ):
        for use in (check_output, lambda *args, **kw: replacing(*args, **kw).__enter__()):
            with pytest.raises(OutputError) as caught:
                use(tmp_path / name, overwrite=overwrite)
            assert str(caught.value).startswith(f"{tmp_path / name}: {reason}")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]
    check_output(tmp_path / "file", overwrite=True)
    check_output(tmp_path / "new", overwrite=False)


def test_refuses_a_folder_that_is_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # an ordinary user may not look into the folders above it
    (tmp_path / "locked").mkdir(mode=0o555)
    path = Path("locked", "file")
    with unprivileged(tmp_path):
        check_output(Path("file"), overwrite=False)
        for use in (check_output, lambda *args, **kw: replacing(*args, **kw).__enter__()):
            with pytest.raises(OutputError) as caught:
                use(path, overwrite=False)
            assert str(caught.value) == "locked/file: the folder locked cannot be written to"
    assert not list((tmp_path / "locked").iterdir())


@pytest.mark.parametrize("command", ["extract", "train", "bundle"])
def test_input_is_never_replaced(
    command: str, small_backbone: Path, photos: Path, codes: Path, head: Path
) -> None:
    inputs = {
        "extract": [small_backbone, photos],
        "train": [codes],
        "bundle": [small_backbone, head],
    }[command]
    for path in inputs:
        if path.is_file():
            before = path.read_bytes()
            message = error_of(command, *inputs, "-o", path, "--overwrite")
            assert "is what the result is made from" in message
            assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BlockingIOError(11, "Resource temporarily unavailable"), True),
        (windows_error(32), True),  # a sharing violation
        (windows_error(33), True),  # a lock violation
        (windows_error(5), False),  # denied, for any reason
        (OSError("unable to lock file, errno = 0, Win32 GetLastError() = 33"), True),
        (
            OSError(37, "unable to lock file, errno = 37, error message = 'No locks available'"),
            False,
        ),
        (PermissionError(13, "Permission denied"), False),
    ],
)
def test_file_that_is_open_elsewhere(error: OSError, expected: bool) -> None:
    assert is_open_elsewhere(error) == expected


def test_names_what_is_open_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "codes.h5"
    path.write_text("precious")
    for number in (5, 32):  # what Windows answers where it is to be replaced
        with pytest.raises(OutputError) as caught, replacing(path, overwrite=True):
            raise windows_error(number)
        assert str(caught.value).startswith(f"{path}: is open in another program; close it there")
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="Windows has no /dev/stdout")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("by_name", [True, False])
def test_file_that_a_standard_stream_goes_to_is_never_replaced(
    head: Path, small_backbone: Path, tmp_path: Path, stream: str, by_name: bool
) -> None:
    log = tmp_path / "log"
    output = log if by_name else Path("/dev") / stream
    command = [sys.executable, "-m", "cnncodes", "bundle", small_backbone, head, "-o", output]
    with log.open("w") as file:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: file}
        done = subprocess.run([*command, "--overwrite"], **streams, text=True, check=False)
    message = log.read_text() if stream == "stderr" else done.stderr
    assert done.returncode == 1
    assert message == (
        f"Error: {output}: is where standard output or standard error goes; choose another name\n"
    )
    assert [each.name for each in tmp_path.iterdir()] == ["log"]


@pytest.mark.parametrize(
    ("arguments", "written", "remedy"),
    [
        ("export vgg16 --weights random -o net.h5", "a .onnx file", "net.onnx"),
        ("quantize net --images photos -o net.H5", "a .onnx file", "net.onnx"),
        (
            "extract net photos -o codes.csv",
            "a .h5 file",
            "codes.h5, and make a .csv file of it by cnncodes convert",
        ),
        ("extract net photos -o codes.onnx", "a .h5 file", "codes.h5"),
        ("extract net photos -o codes.csv --update", "a .h5 file", "codes.h5, and"),
        ("train codes -o head.h5", "a .onnx file", "head.onnx"),
        ("bundle net head -o app.h5", "a .onnx file", "app.onnx"),
        ("curve codes -o curve.png", "a .json file", "curve.json"),
        ("evaluate head codes --predictions all.json", "a .csv file", "all.csv"),
        ("evaluate head codes --report report.html", "a folder", "report"),
        ("demo demo.zip", "a folder", "demo"),
    ],
)
def test_ending_of_another_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, written: str, remedy: str
) -> None:
    monkeypatch.chdir(tmp_path)
    message = error_of(*arguments.split())
    (name,) = re.findall(r"\S+\.(?:csv|png|html|zip|json|onnx|h5|H5)\b", arguments)
    suffix = Path(name).suffix.lower()
    wanted = f"{name}: {written} is written, not a {suffix} file; choose a name such as {remedy}"
    assert message.startswith(f"Error: {wanted}")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["head", "head.v2", "head.2026", "head.ONNX", "a.h5.onnx"])
def test_any_other_ending_is_the_users_own(tmp_path: Path, name: str) -> None:
    check_output(tmp_path / name, overwrite=False, endings=MODEL)
