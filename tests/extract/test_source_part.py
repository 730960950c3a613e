"""extract --part: parts of one source, which merge makes one file of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cnncodes import CodeStore, merge_codes
from cnncodes.errors import OutputError, ParameterError, SourceError
from cnncodes.extract.pipeline import extract
from cnncodes.progress import Progress
from tests.helpers import error_of, names_in, run_command, write_backbone, write_colours


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network, and photos of which some are damaged."""
    monkeypatch.chdir(tmp_path)
    write_backbone(tmp_path / "mean.onnx")
    for each in write_colours(tmp_path / "photos").iterdir():
        (each / "2.png").write_bytes((each / "2.png").read_bytes()[:60])
        (each / "empty.png").touch()
    return tmp_path


def extract_parts(source: str, *options: object, count: int) -> list[str]:
    """Extract all parts of a source; return their files."""
    files = [f"part-{number}.h5" for number in range(1, count + 1)]
    for number, file in enumerate(files, start=1):
        run_command(
            "extract", "mean.onnx", source, "-o", file, "--part", f"{number}/{count}", *options
        )
    return files


def write_csv() -> str:
    """A list with groups, an image twice, one without a label, and one that is not there."""
    lines = ["path,label,group"]
    for number, path in enumerate(sorted(Path("photos").rglob("*.png"))):
        group = f"scene {number // 3}" if number % 2 else ""
        lines.append(f"{path.as_posix()},{path.parent.name if number % 5 else ''},{group}")
    lines += [lines[-1], "photos/absent.png,red,"]
    Path("list.csv").write_text("\n".join(lines), "utf-8")
    return "list.csv"


def write_labels() -> str:
    """A list of images of several labels, some of them unknown."""
    lines = ["path,label:odd,label:b,group"]
    for number, path in enumerate(sorted(Path("photos").rglob("*.png"))):
        lines.append(f"{path.as_posix()},{number % 2},{['', 0, 1][number % 3]},{number // 4}")
    Path("labels.csv").write_text("\n".join(lines), "utf-8")
    return "labels.csv"


def write_weights() -> str:
    """A list with weights and probabilities of some of the images."""
    lines = ["path,label,weight,probability"]
    for number, path in enumerate(sorted(Path("photos").rglob("*.png"))):
        numbers = f"{number % 3 or ''},{'' if number % 5 else 0.75}"
        lines.append(f"{path.as_posix()},{path.parent.name},{numbers}")
    Path("weights.csv").write_text("\n".join(lines), "utf-8")
    return "weights.csv"


def make_groups() -> str:
    """Put the images of each class into two folders."""
    for path in sorted(Path("photos").rglob("*.png")):
        target = path.parent / f"scene {len(path.read_bytes()) % 2}" / path.name
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    return "photos"


@pytest.mark.parametrize(
    ("count", "make_source", "options"),
    [
        (8, lambda: "photos", []),
        (3, lambda: "photos", ["--augment", "d4", "--dtype", "float32", "--white", 4095]),
        (5, write_csv, ["--augment", "hflip"]),
        (4, write_labels, ["--augment", "hflip"]),
        (4, write_weights, ["--augment", "hflip"]),
        (2, make_groups, ["--group-by", "folder"]),
        (2, lambda: "photos/red", ["--max-pixels", 5000]),
    ],
    ids=["folder", "views", "csv", "labels", "weights", "groups", "flat"],
)
def test_merged_parts_are_the_file_of_one_extraction(
    folder: Path, count: int, make_source: Callable[[], str], options: list[object]
) -> None:
    source = make_source()
    files = extract_parts(source, *options, count=count)
    run_command("extract", "mean.onnx", source, "-o", "whole.h5", *options)
    result = run_command("merge", *reversed(files), "-o", "codes.h5")
    notes = [line for line in result.output.splitlines() if "note" in line]
    assert notes == ["  note: 6 images without a label"] * (make_source is write_csv)
    assert Path("codes.h5").read_bytes() == Path("whole.h5").read_bytes()
    with CodeStore.open("codes.h5") as store:
        assert store.skipped
        assert store.part is None
        assert store.notes == ()


def test_parts_are_resumed_and_updated(folder: Path) -> None:
    whole = extract("mean.onnx", "photos", "whole.h5", threads=1)
    assert "part" not in whole.as_dict()

    class Interruption(Progress):
        def advance(self, amount: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(
            *("mean.onnx", "photos", "b.h5"), part=(2, 2), progress=Interruption("", ""), threads=1
        )
    assert "b.h5.partial" in names_in(folder)
    refused = error_of("extract", "mean.onnx", "photos", "-o", "b.h5", "--part", "1/2")
    assert "another part (2/2, not 1/2)" in refused
    resumed = extract("mean.onnx", "photos", "b.h5", part=(2, 2), threads=1)
    assert resumed.n_resumed == 1
    extract("mean.onnx", "photos", "a.h5", part=(1, 2), threads=1)
    merge_codes(["b.h5", "a.h5"], "codes.h5")
    assert Path("codes.h5").read_bytes() == Path("whole.h5").read_bytes()
    assert extract("mean.onnx", "photos", "b.h5", part=(2, 2)).is_unchanged
    with pytest.raises(OutputError, match=r"b\.h5: exists already, made with another part \(2/2"):
        extract("mean.onnx", "photos", "b.h5", part=(1, 2))
    with pytest.raises(OutputError, match=r"another part \(2/2, not all\)"):
        extract("mean.onnx", "photos", "b.h5", update=True)
    shutil.copy("photos/b/0.png", "photos/b/00.png")
    with pytest.raises(OutputError, match="exists already, with other images"):
        extract("mean.onnx", "photos", "b.h5", part=(2, 2))
    updated = extract("mean.onnx", "photos", "b.h5", part=(2, 2), update=True)
    assert updated.n_reused == updated.n_images
    with pytest.raises(ParameterError, match=r"^a\.h5 and b\.h5: are parts of different sources"):
        merge_codes(["a.h5", "b.h5"], "new.h5")
    extract("mean.onnx", "photos", "a.h5", part=(1, 2), update=True)
    assert merge_codes(["a.h5", "b.h5"], "new.h5").n_images == whole.n_images + 1


def test_change_elsewhere_in_the_source_is_not_overlooked(folder: Path) -> None:
    extract("mean.onnx", "photos", "a.h5", part=(1, 2))
    Path("photos/red/9.png").rename("photos/red/99.png")
    message = error_of("extract", "mean.onnx", "photos", "-o", "a.h5", "--part", "1/2")
    assert "with other images (in other parts of the source); pass --update" in message


def test_part_without_a_usable_image(folder: Path) -> None:
    for path in Path("photos/g").iterdir():
        path.write_bytes(b"")
    files = extract_parts("photos", count=3)
    warned = run_command("extract", "mean.onnx", "photos", "-o", "whole.h5").stderr
    result = run_command("merge", *files, "-o", "codes.h5")
    assert Path("codes.h5").read_bytes() == Path("whole.h5").read_bytes()
    with CodeStore.open("part-2.h5") as store:
        assert len(store) == 0
        assert len(store.skipped) == 11
    many = "15 of 33 image files (45%) cannot be used"
    assert many in warned
    assert many in result.stderr
    assert "no usable image in 1 of the classes: g" in result.stdout


def test_info_training_and_verify_name_the_part(folder: Path) -> None:
    run_command("extract", "mean.onnx", "photos", "-o", "a.h5", "--part", "2/2")
    described = json.loads(run_command("info", "a.h5", "--json").stdout)
    assert described["part"] == [2, 2]
    assert "2 of 2" in run_command("info", "a.h5").stdout
    trained = run_command("train", "a.h5", "-o", "head.onnx", "--C", 1).output
    assert "a.h5 is part 2 of 2: cnncodes merge joins all parts" in trained
    run_command("extract", "mean.onnx", "photos", "-o", "b.h5", "--part", "1/3")
    assert error_of("train", "b.h5", "-o", "other.onnx", "--C", 1) == (
        "Error: b.h5: all its images are of one class, b; a classifier needs two or more (b.h5 is "
        "part 1 of 3: cnncodes merge joins all parts into the codes of all images)"
    )
    verified = run_command("verify", "a.h5", "--source", "photos", "--backbone", "mean.onnx")
    assert "nothing is wrong" in verified.stdout


@pytest.mark.parametrize("part", ["0/8", "8/0", "9/8", "3-8", "3/8/9", "", "-1/8", "1/9999999"])
def test_no_such_part(part: str, folder: Path) -> None:
    result = run_command(
        *("extract", "mean.onnx", "photos", "-o", "a.h5", "--part", part), exit_code=2
    )
    assert result.stderr.splitlines()[-1].endswith(
        f"{part!r} is no part: of eight these are 1/8, 2/8 to 8/8"
    )
    assert names_in(folder) == ["mean.onnx", "photos"]


@pytest.mark.parametrize("part", [(0, 8), (8, 0), (9, 8), "3/8", (1,), (1.5, 2), 3, (True, 2)])
def test_no_such_part_of_the_library(part: object, folder: Path) -> None:
    with pytest.raises(ParameterError, match="part"):
        extract("mean.onnx", "photos", "a.h5", part=part)


def test_more_parts_than_images(folder: Path) -> None:
    with pytest.raises(SourceError, match=r"^photos: has 33 images, too few for 34 parts; make"):
        extract("mean.onnx", "photos", "a.h5", part=(1, 34))
    extract("mean.onnx", "photos", "a.h5", part=(1, 33))
