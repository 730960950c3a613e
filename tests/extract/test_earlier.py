"""Extraction to a codes file that is there already, without --update or --overwrite."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import h5py
import pytest
from PIL import Image

from tests.helpers import encode_image, error_of, names_in, run_command, write_backbone


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    return write_backbone(tmp_path / "backbone.onnx")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four images in two class folders."""
    folder = tmp_path / "photos"
    for number, name in enumerate(("cat/a.png", "cat/b.png", "dog/a.png", "dog/b.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(number))
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "results").mkdir()
    return tmp_path / "results" / "codes.h5"


def png(grey: int) -> bytes:
    return encode_image(Image.new("L", (8, 8), 40 * grey), "PNG")


def test_complete_codes_of_the_same_images_are_kept(
    backbone: Path, photos: Path, output: Path
) -> None:
    (photos / "cat" / "empty.png").touch()
    first = json.loads(run_command("extract", backbone, photos, "-o", output, "--json").stdout)
    status, content = output.stat(), output.read_bytes()
    assert run_command("extract", backbone, photos, "-o", output).stdout.splitlines() == [
        f"{output}: complete already, with the same 4 images and network; nothing to do",
        "  note: 1 skipped image tried again and left out as before",
    ]
    again = json.loads(run_command("extract", backbone, photos, "-o", output, "--json").stdout)
    assert again["is_unchanged"]
    assert not first["is_unchanged"]
    same = ("n_images", "n_unlabelled", "skipped", "class_names", "code_shape", "source_notes")
    assert {key: again[key] for key in same} == {key: first[key] for key in same}
    assert (output.stat().st_mtime_ns, output.read_bytes()) == (status.st_mtime_ns, content)
    assert names_in(output.parent) == ["codes.h5"]
    said = error_of("extract", backbone, photos, "-o", output, "--on-error", "fail")
    assert "cat/empty.png: empty file" in said


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ("new", "1 image new"),
        ("gone", "1 image gone"),
        ("changed", "1 image changed"),
        ("moved", "1 image new, 1 image gone"),
    ],
)
def test_codes_of_other_images_are_not_replaced_unasked(
    backbone: Path, photos: Path, output: Path, change: str, counts: str
) -> None:
    run_command("extract", backbone, photos, "-o", output)
    before = output.read_bytes()
    first = photos / "cat" / "a.png"
    if change == "new":
        first.with_name("new.png").write_bytes(png(5))
    elif change == "changed":
        status = first.stat()
        first.write_bytes(png(5))
        os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "moved":
        first.rename(first.with_name("moved.png"))
    else:
        first.unlink()
    assert error_of("extract", backbone, photos, "-o", output) == (
        f"Error: {output}: exists already, with other images ({counts}); pass --update to compute "
        "what is new, or --overwrite to compute all again"
    )
    assert output.read_bytes() == before
    run_command("extract", backbone, photos, "-o", output, "--update")
    assert "nothing to do" in run_command("extract", backbone, photos, "-o", output).stdout


def test_doubtful_classes_and_many_unusable_images_are_warned_of(
    backbone: Path, photos: Path, output: Path
) -> None:
    words = ("--quiet", "extract", backbone, photos, "-o", output)
    (photos / "cat" / "empty.png").touch()
    assert run_command(*words).stderr == "", "one of five is ordinary"
    (photos / "dog" / "text.png").write_text("no picture")
    for option in ("--update", "--max-pixels=100000000"):  # the second has nothing to do
        (line,) = run_command(*words, option).stderr.splitlines()
        assert line.startswith("Warning: 2 of 6 image files (33%) cannot be used, and ")
        assert "the first, cat/empty.png: empty file" in line
    (photos / "cat").rename(photos / "2024-05-01")
    (photos / "dog").rename(photos / "2024-05-02")
    first, *_ = run_command(*words, "--update").stderr.splitlines()
    assert first.startswith("Warning: 2024-05-01, 2024-05-02 look like days ")
    assert "note: 2024" not in run_command(*words[1:], "--update").stderr


def test_labels_and_groups_count_as_changes(
    backbone: Path, photos: Path, tmp_path: Path, output: Path
) -> None:
    table = tmp_path / "list.csv"

    def write(label: str, group: str) -> None:
        rows = [f"photos/{name}.png,{label},{group}" for name in ("cat/a", "dog/a")]
        table.write_text("\n".join(["path,label,group", *rows]))

    write("cat", "")
    run_command("extract", backbone, table, "-o", output)
    assert "nothing to do" in run_command("extract", backbone, table, "-o", output).stdout
    for label, group, what in (("dog", "", "label"), ("cat", "one", "group")):
        write(label, group)
        said = error_of("extract", backbone, table, "-o", output)
        assert f"exists already, with other images (2 images of another {what})" in said
    run_command("extract", backbone, table, "-o", output, "--update")
    write("cat", "")
    said = error_of("extract", backbone, table, "-o", output)
    assert said.endswith("; add the column group again, or pass --update for codes without groups")


def test_forgotten_grouping_is_named(backbone: Path, photos: Path, output: Path) -> None:
    (photos / "cat" / "tom").mkdir()
    (photos / "cat" / "tom" / "a.png").write_bytes(png(5))
    run_command("extract", backbone, photos, "-o", output, "--group-by", "folder")
    said = error_of("extract", backbone, photos, "-o", output)
    assert said == (
        f"Error: {output}: exists already, with groups of images, which are missing now; pass "
        "--group-by folder as before, or pass --update for codes without groups"
    )
    printed = run_command("extract", backbone, photos, "-o", output, "--update").stdout
    assert "  note: 1 group of the file that was there " in printed
    assert "--group-by folder makes groups of folders" in printed


def test_skipped_image_that_can_be_used_now_is_one_to_compute(
    backbone: Path, photos: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pillow_heif").from_pillow(Image.new("RGB", (64, 64), 7)).save(
        photos / "cat" / "phone.heic"
    )
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pillow_heif", None)
        printed = run_command("extract", backbone, photos, "-o", output).stdout
        assert "phone.heic: HEIC: pip install 'cnncodes[heic]'" in printed
        assert "tried again" in run_command("extract", backbone, photos, "-o", output).stdout
    said = error_of("extract", backbone, photos, "-o", output)
    assert "(1 image skipped before and usable now); pass --update" in said
    assert "5 images" in run_command("extract", backbone, photos, "-o", output, "--update").stdout


def test_codes_of_another_network_or_setting_are_not_replaced_unasked(
    backbone: Path, photos: Path, tmp_path: Path, output: Path
) -> None:
    run_command("extract", backbone, photos, "-o", output)
    other = write_backbone(tmp_path / "other.onnx", factor=2)
    for words, what in (
        ((other, photos), "another backbone (vgg16, random:0, SHA-256 "),
        ((backbone, photos, "--dtype", "float32"), "another dtype (float16, not float32)"),
        ((backbone, photos, "--white", "4095"), "another white (guessed, not 4095)"),
    ):
        said = error_of("extract", *words, "-o", output)
        assert said.startswith(f"Error: {output}: exists already, made with {what}")
        assert said.endswith("; choose another name or pass --overwrite")


def test_damaged_codes_are_not_taken_for_complete_ones(
    backbone: Path, photos: Path, output: Path
) -> None:
    run_command("extract", backbone, photos, "-o", output)
    output.write_bytes(output.read_bytes()[:-100])
    assert "exists already; choose" in error_of("extract", backbone, photos, "-o", output)


def test_damaged_rows_are_not_taken_for_complete_ones(
    backbone: Path, photos: Path, output: Path
) -> None:
    run_command("extract", backbone, photos, "-o", output)
    with h5py.File(output, "r+") as file:
        offset = file["codes"].id.get_chunk_info(2)
    content = bytearray(output.read_bytes())
    content[offset.byte_offset + offset.size // 2] ^= 1
    output.write_bytes(content)
    said = error_of("extract", backbone, photos, "-o", output)
    assert said.startswith(f"Error: {output}: exists already, but its codes of dog/a.png are dama")
    assert said.endswith("; pass --overwrite to compute all again")
    assert output.read_bytes() == content
