"""The command extract: what it writes, what it refuses, and what an interruption leaves."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from cnncodes import Backbone, CodeStore
from cnncodes.errors import FileFormatError, ImageError, OutputError
from cnncodes.extract import pipeline
from cnncodes.extract.pipeline import extract
from cnncodes.images.decoding import decode_image
from cnncodes.progress import Progress
from tests.conftest import Run
from tests.helpers import (
    BACKBONE_SIZE,
    encode_image,
    error_of,
    names_in,
    unprivileged,
    write_backbone,
)


@pytest.fixture(scope="module")
def few(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images of each of three classes."""
    folder = tmp_path_factory.mktemp("few")
    for number in "027":
        (folder / number).mkdir()
        for path in sorted((photos / number).iterdir())[:4]:
            shutil.copy(path, folder / number)
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Where codes go: a folder of their own, so that whatever else is left there is seen."""
    (tmp_path / "results").mkdir()
    return tmp_path / "results" / "codes.h5"


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    """A network that gives the mean colour, for tests that care little about codes."""
    return write_backbone(tmp_path / "mean.onnx")


def assert_codes_are_of(path: Path, network: Path, root: Path) -> None:
    """Compare everything in a codes file with the images it was made from."""
    backbone = Backbone(network)
    with CodeStore.open(path) as store:
        contents = [(root / name).read_bytes() for name in store.paths]
        images = [decode_image(content, backbone.info.input_size) for content in contents]
        expected = backbone.extract(np.stack(images))
        # A step of float16, or what the order of a sum may change.
        rtol, atol = (2**-10, 2**-24) if store.codes.dtype == np.float16 else (1e-5, 1e-8)
        np.testing.assert_allclose(store.codes[:], expected, rtol=rtol, atol=atol)
        assert store.digests == [hashlib.sha256(content).hexdigest() for content in contents]
        assert store.backbone == backbone.info
        assert store.backbone_sha256 == hashlib.sha256(network.read_bytes()).hexdigest()
    assert expected.std(axis=0).max() > 1e-4  # or any order would do


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_codes_of_class_folders(
    run: Run, small_backbone: Path, few: Path, output: Path, dtype: str
) -> None:
    result = run("extract", small_backbone, few, "-o", output, "--dtype", dtype)
    assert result.stderr == f"{few}: 12 image files, 3 classes: 0 4, 2 4, 7 4\n"
    line, workers = result.stdout.splitlines()
    assert line.startswith(f"{output}: 12 images, 3 classes, codes 2048; ")
    assert re.fullmatch(r"  by \d+ workers?, 1 image at a time in each", workers)
    assert names_in(output.parent) == ["codes.h5"]
    assert_codes_are_of(output, small_backbone, few)
    with CodeStore.open(output) as store:
        assert store.codes.dtype == dtype
        assert store.paths == sorted(str(path.relative_to(few)) for path in few.rglob("*.png"))
        assert store.class_names == ["0", "2", "7"]
        names = [store.class_names[label] for label in store.labels]
        assert names == [Path(path).parent.name for path in store.paths]
        assert store.source == str(few)
        assert store.skipped == []
    again = output.with_name("again.h5")
    run("extract", small_backbone, few, "-o", again, "--dtype", dtype)
    assert again.read_bytes() == output.read_bytes()


def test_codes_of_a_flat_folder(run: Run, small_backbone: Path, few: Path, output: Path) -> None:
    result = run("extract", small_backbone, few / "2", "-o", output)
    assert f"{output}: 4 images, no labels, codes 2048; " in result.output
    assert "  note: to train on them, make a folder for each class" in result.stderr
    assert_codes_are_of(output, small_backbone, few / "2")
    with CodeStore.open(output) as store:
        assert store.labels.tolist() == [-1] * 4
        assert store.class_names == []


def test_codes_of_a_table(
    run: Run, small_backbone: Path, few: Path, tmp_path: Path, output: Path
) -> None:
    few = shutil.copytree(few, tmp_path / "few")
    paths = sorted(str(path.relative_to(few)) for path in few.rglob("*.png"))[::-1]
    labels = ["odd" if path.startswith("7") else "even" for path in paths[:-1]] + [""]
    rows = [f"{path},{label}" for path, label in zip(paths, labels, strict=True)]
    table = few / "list.csv"
    table.write_text("\n".join(["path,label", *rows[:5], "missing.png,odd", *rows[5:]]))
    result = run("extract", small_backbone, table, "-o", output, "--batch-size", "2", "--json")
    reported = json.loads(result.stdout)
    missing = ["missing.png", "cannot be read: No such file or directory"]
    assert (reported["path"], reported["class_names"]) == (str(output), ["even", "odd"])
    assert (reported["n_images"], reported["n_unlabelled"], reported["n_resumed"]) == (12, 1, 0)
    assert (reported["skipped"], reported["code_shape"]) == ([missing], [2048])
    assert_codes_are_of(output, small_backbone, few)
    with CodeStore.open(output) as store:
        assert store.paths == paths
        assert [["even", "odd", ""][label] for label in store.labels] == labels
        assert store.skipped == [tuple(missing)]


def test_keeps_the_shape_of_codes_that_are_not_pooled(
    run: Run, tmp_path: Path, few: Path, output: Path
) -> None:
    network = write_backbone(tmp_path / "plain.onnx", pooled=False)
    assert "codes 4 × 4 × 3; " in run("extract", network, few, "-o", output).output
    assert_codes_are_of(output, network, few)


def test_does_not_depend_on_the_batch_size(
    run: Run, small_backbone: Path, few: Path, tmp_path: Path
) -> None:
    actual = []
    for size in (1, 3, 64):
        path = tmp_path / f"{size}.h5"
        options = ("--batch-size", size, "--dtype", "float32", "--threads", 1)
        run("extract", small_backbone, few, "-o", path, *options)
        with CodeStore.open(path) as store:
            actual.append((store.codes[:], store.paths, store.labels.tolist(), store.digests))
    for codes, *others in actual[1:]:
        np.testing.assert_allclose(codes, actual[0][0], rtol=1e-5, atol=1e-8)
        assert others == list(actual[0][1:])


PNG = encode_image(Image.effect_noise((64, 64), 50), "PNG")
GOOD = {"e good.png": PNG, "g good": encode_image(Image.new("RGB", (3, 5), "orange"), "JPEG")}
ODD = {
    "a empty.jpg": (b"", "empty file"),
    "b text.jpg": (b"no image", "not a JPEG, PNG, WebP, AVIF, "),
    "c half.png": (PNG[: len(PNG) // 2], "damaged: "),
    "d head.png": (PNG[:20], "damaged: "),
    "f large.png": (encode_image(Image.new("1", (100, 101)), "PNG"), "100 x 101 is "),
    "h two\nlines.png": (b"", "empty file"),
    "i \udcff.png": (b"", "empty file"),
}


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Two good images among all kinds that cannot be used."""
    folder = tmp_path / "odd"
    folder.mkdir()
    for name, content in (GOOD | {name: content for name, (content, _) in ODD.items()}).items():
        (folder / name).write_bytes(content)
    return folder


def test_skips_what_cannot_be_used(run: Run, backbone: Path, odd: Path, output: Path) -> None:
    result = run("extract", backbone, odd, "-o", output, "--max-pixels", "10000")
    first, _, count, *listed = result.stdout.splitlines()
    assert first.startswith(f"{output}: 2 images, no labels, codes 3; ")
    assert count == "  7 images skipped (cnncodes info lists all):"
    assert listed[0] == "    a empty.jpg and 2 more: empty file"
    assert [line.split(":")[0].strip() for line in listed[1:]] == list(ODD)[1:5]
    assert_codes_are_of(output, backbone, odd)
    with CodeStore.open(output) as store:
        assert store.paths == list(GOOD)
        assert [path for path, _ in store.skipped] == list(ODD)
        for path, reason in store.skipped:
            assert reason.startswith(ODD[path][1])


def test_prints_no_control_characters(run: Run, backbone: Path, odd: Path, output: Path) -> None:
    for name in list(ODD)[:4]:
        (odd / name).unlink()
    options = ("-o", output, "--max-pixels", "10100")  # now the largest may stay
    (odd / "j \udcff.png").write_bytes(PNG[:20])
    *_, count, lines, undecodable = run("extract", backbone, odd, *options).stdout.splitlines()
    assert count == "  3 images skipped (cnncodes info lists all):"
    assert lines == "    h two\\nlines.png and 1 more: empty file"
    assert undecodable.startswith("    j \\udcff.png: damaged")


def test_skips_a_path_with_a_null_byte(
    run: Run, backbone: Path, tmp_path: Path, output: Path
) -> None:
    (tmp_path / "good.png").write_bytes(PNG)
    (tmp_path / "list.csv").write_bytes(b"path,label\na\0b.png,cat\ngood.png,cat\n")
    assert "null byte" in run("extract", backbone, tmp_path / "list.csv", "-o", output).output
    with CodeStore.open(output) as store:
        assert store.paths == ["good.png"]


def test_fails_on_an_image_when_asked_to(backbone: Path, odd: Path, output: Path) -> None:
    message = error_of("extract", backbone, odd, "-o", output, "--on-error", "fail")
    assert (
        message
        == "Error: a empty.jpg: empty file; mend or remove it, or skip it with --on-error skip"
    )
    assert names_in(output.parent) == []


def test_leaves_no_file_without_codes(backbone: Path, odd: Path, output: Path) -> None:
    for name in GOOD:
        (odd / name).unlink()
    for options in ((), ("--batch-size", 1)):
        message = error_of("extract", backbone, odd, "-o", output, "--max-pixels", 1, *options)
        expected = "none of its 7 images can be used; the first, a empty.jpg: empty file"
        assert message == f"Error: {odd}: {expected}"
        assert names_in(output.parent) == []


def test_reports_when_codes_do_not_fit(run: Run, tmp_path: Path, few: Path, output: Path) -> None:
    network = write_backbone(tmp_path / "large.onnx", factor=1e6)
    message = error_of("extract", network, few, "-o", output)
    assert "do not fit float16; store them with --dtype float32" in message
    assert ".partial" not in message, "a file that the user has not named"
    assert names_in(output.parent) == []
    run("extract", network, few, "-o", output, "--dtype", "float32")
    assert_codes_are_of(output, network, few)


def test_checks_the_output_first(run: Run, backbone: Path, few: Path, output: Path) -> None:
    output.write_text("old")
    for path, reason in (
        (output.parent, "is a folder; name a file inside it"),
        (output / "codes.h5", f"{output} is no folder; choose another name"),
        (output, "exists already; choose another name or pass --overwrite"),
    ):
        # A fault of the output is reported before one of the source.
        message = error_of("extract", backbone, few / "typo", "-o", path)
        assert message == f"Error: {path}: {reason}"
    assert output.read_text() == "old"
    run("extract", backbone, few, "-o", output, "--overwrite")
    assert_codes_are_of(output, backbone, few)
    assert names_in(output.parent) == ["codes.h5"]


def test_keeps_the_old_file_when_it_fails(
    head: Path, backbone: Path, few: Path, odd: Path, output: Path
) -> None:
    output.write_bytes(b"old")
    text = odd / "b text.jpg"
    for arguments, reason in (
        ((few / "missing.onnx", few), "no such file; make one with: cnncodes export"),
        ((text, few), "is a text (no command takes it), not a backbone"),
        (
            (head, few),
            "is a head (evaluate and bundle take it), not a backbone; make one",
        ),
        ((backbone, few / "typo"), "no such file; name a folder of images, or a CSV file"),
        ((backbone, text), "has no column path and no column label"),
        ((backbone, odd, "--on-error", "fail"), "a empty.jpg: empty file"),
        ((backbone, odd, "--max-pixels", "1"), "none of its 9 images can be used"),
    ):
        message = error_of("extract", *arguments, "-o", output, "--overwrite")
        assert reason in message
        assert output.read_bytes() == b"old"
        assert names_in(output.parent) == ["codes.h5"]


class Interrupting(Progress):
    """Progress that is interrupted after some batches, as by Ctrl-C at that moment."""

    n_batches = 2

    def begin(self, total: int, done: int = 0) -> None:
        super().begin(total, done)
        self.advance(0)

    def advance(self, amount: int) -> None:
        super().advance(amount)
        if self.n_batches == 0:
            raise KeyboardInterrupt
        self.n_batches -= 1


def interrupt(*arguments: Path, n_batches: int = 2, **options: object) -> str:
    progress = Interrupting("extract", "images")
    progress.n_batches = n_batches
    with pytest.raises(KeyboardInterrupt) as caught:
        extract(*arguments, progress=progress, overwrite=True, **options)
    return str(caught.value)


def test_keeps_nothing_when_interrupted_at_once(backbone: Path, few: Path, output: Path) -> None:
    assert "keeps" not in interrupt(backbone, few, output, n_batches=0)
    assert names_in(output.parent) == []


def test_goes_on_after_an_interruption(run: Run, backbone: Path, odd: Path, output: Path) -> None:
    partial = output.with_name("codes.h5.partial")
    message = interrupt(backbone, odd, output, n_batches=7, max_pixels=10_000)
    assert message == f"{partial} keeps 7 of 9 images; the same command goes on from there"
    assert names_in(output.parent) == [partial.name]
    result = run("extract", backbone, odd, "-o", output, "--max-pixels", "10000")
    assert "\n  went on after 7 images of an earlier run\n" in result.output
    assert names_in(output.parent) == ["codes.h5"]
    assert_codes_are_of(output, backbone, odd)
    with CodeStore.open(output) as store:
        assert store.paths == list(GOOD)
        assert [path for path, _ in store.skipped] == list(ODD)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_goes_on_from_a_journal_that_is_torn(
    run: Run, backbone: Path, few: Path, output: Path, share: float
) -> None:
    whole = output.with_name("whole.h5")
    run("extract", backbone, few, "-o", whole)
    interrupt(backbone, few, output, n_batches=9)
    partial = output.with_name("codes.h5.partial")
    os.truncate(partial, int(share * partial.stat().st_size))
    run("extract", backbone, few, "-o", output)
    assert output.read_bytes() == whole.read_bytes()
    assert names_in(output.parent) == ["codes.h5", "whole.h5"]


def test_starts_anew_for_another_request(
    run: Run, backbone: Path, few: Path, tmp_path: Path, output: Path
) -> None:
    source = shutil.copytree(few, tmp_path / "source")
    image = next(source.rglob("*.png"))
    other = write_backbone(tmp_path / "other.onnx", factor=2)
    for change, arguments in (
        (lambda: None, (backbone, source, "--dtype", "float32")),
        (lambda: None, (backbone, source, "--max-pixels", "5000")),
        (lambda: None, (backbone, source, "--provider", "azure")),
        (lambda: None, (other, source)),
        (lambda: os.utime(image, ns=(1, 1)), (backbone, source)),
        (lambda: (source / "0").rename(source / "1"), (backbone, source)),
    ):
        interrupt(backbone, source, output, batch_size=2)
        change()
        partial = output.with_name("codes.h5.partial")
        kept = partial.read_bytes()
        words = ("extract", *arguments, "-o", output)
        if not output.exists():  # else that is refused first
            assert f"Error: {partial}: keeps the codes of " in error_of(*words)
            assert partial.read_bytes() == kept
        result = run(*words, "--overwrite")
        assert "went on" not in result.output
        assert "discarded the codes of " in result.output
        assert_codes_are_of(output, arguments[0], source)
        assert names_in(output.parent) == ["codes.h5"]


def test_does_not_forgive_what_an_earlier_run_skipped(
    backbone: Path, odd: Path, output: Path
) -> None:
    interrupt(backbone, odd, output, n_batches=5)
    with pytest.raises(ImageError, match=r"a empty\.jpg: empty file"):
        extract(backbone, odd, output, on_error="fail")


# As `python -m cnncodes`, but a line is printed for each batch, so that the test knows when to act.
TALKATIVE = """
from cnncodes import progress
from cnncodes.__main__ import main
progress.SECONDS_BETWEEN_LINES = 0
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_command_goes_on_when_run_again(
    run: Run, small_backbone: Path, photos: Path, tmp_path: Path, output: Path, number: int
) -> None:
    arguments = ("extract", small_backbone, photos, "-o", output)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", TALKATIVE, *arguments], **pipes) as command:
        assert "120 image files, 10 classes" in command.stderr.readline()
        for _ in range(4):  # by then three images are in the file
            assert re.match(r"extract: \d+ of 120 images", command.stderr.readline())
        command.send_signal(number)
        printed, errors = command.communicate()
    partial = output.with_name("codes.h5.partial")
    assert command.returncode == 1
    assert printed == ""
    *lines, error = errors.splitlines()
    assert all(re.match(r"extract: \d+ of 120 images", line) for line in lines)
    start = f"Error: interrupted; {re.escape(str(partial))} keeps"
    (n_kept,) = re.fullmatch(rf"{start} (\d+) of 120 images; the same .+", error).groups()
    assert 3 <= int(n_kept) < 120
    assert names_in(output.parent) == [partial.name]
    refusal = error_of("train", partial, "-o", tmp_path / "head.onnx")
    assert "is unfinished; run the same cnncodes extract again to go on with it" in refusal
    assert "unfinished codes" in run("info", partial).output
    result = run(*arguments)
    assert f"\n  went on after {n_kept} images of an earlier run\n" in result.output
    assert names_in(output.parent) == ["codes.h5"]
    whole = tmp_path / "whole.h5"
    run("extract", small_backbone, photos, "-o", whole)
    assert output.read_bytes() == whole.read_bytes()


def test_second_extraction_reports_the_first(
    backbone: Path, few: Path, output: Path, run: Run
) -> None:
    refusal = []

    class Watching(Progress):
        def advance(self, amount: int) -> None:
            if not refusal:
                refusal.append(error_of("extract", backbone, few, "-o", output))

    extract(backbone, few, output, progress=Watching("extract", "images"))
    partial = output.with_name("codes.h5.partial")
    assert refusal == [f"Error: {partial}: another process is writing it; wait for it"]
    assert_codes_are_of(output, backbone, few)


def test_image_that_vanishes_meanwhile_is_skipped(
    backbone: Path, few: Path, tmp_path: Path, output: Path
) -> None:
    source = shutil.copytree(few, tmp_path / "source")
    last = max(source.rglob("*.png"))

    class Removing(Progress):
        def begin(self, total: int, done: int = 0, unit: str | None = None) -> None:
            last.unlink()

    done = extract(backbone, source, output, progress=Removing("extract", "images"))
    reason = "cannot be read: No such file or directory"
    assert done.skipped == [(str(last.relative_to(source)), reason)]
    assert done.n_images == 11


def test_does_not_heed_the_clock(
    backbone: Path, few: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backwards = iter(range(10**9, 0, -(10**6)))
    monkeypatch.setattr("time.time", lambda: next(backwards))
    assert 0 <= extract(backbone, few, output).seconds < 1000
    assert_codes_are_of(output, backbone, few)


@pytest.mark.skipif(sys.platform == "win32", reason="knows no such limit")
@pytest.mark.parametrize("limit", [2_000, 4_000, 6_000])
def test_disk_that_refuses_more_loses_nothing(
    run: Run, backbone: Path, few: Path, output: Path, limit: int
) -> None:
    """A limit on the size of files stands for a full disk or a quota: writing stops midway."""
    whole = output.with_name("whole.h5")
    run("extract", backbone, few, "-o", whole)
    code = "import resource, sys; from cnncodes.cli import main; limit = int(sys.argv.pop(1)); "
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)); main(prog_name='cnncodes')"
    command = [sys.executable, "-c", code, str(limit), "extract", backbone, few, "-o", output]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 2  # what is in the source, and the failure
    assert "cannot be written (File too large)" in done.stderr
    partial = output.with_name("codes.h5.partial")
    assert names_in(output.parent) == [partial.name, "whole.h5"]
    reported = run("extract", backbone, few, "-o", output).output
    assert "went on after" in reported
    assert output.read_bytes() == whole.read_bytes()


@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="only root may mount")
def test_full_disk_loses_nothing(run: Run, backbone: Path, few: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk]
    if subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("this root may not mount")
    try:
        output = disk / "codes.h5"
        refusal = error_of("extract", backbone, few, "-o", output)
        assert "cannot be written (No space left on device)" in refusal
        assert names_in(disk) == ["codes.h5.partial"]
        subprocess.run(["mount", "-o", "remount,size=1m", disk], check=True)
        assert "went on after" in run("extract", backbone, few, "-o", output).output
        run("extract", backbone, few, "-o", tmp_path / "whole.h5")
        assert output.read_bytes() == (tmp_path / "whole.h5").read_bytes()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_folder_that_becomes_read_only_keeps_what_was_done(
    run: Run, backbone: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # an ordinary user may not look into the folders above it
    network, source = Path(shutil.copy(backbone, "own.onnx")), Path(shutil.copytree(few, "photos"))
    source.chmod(0o755)  # the copy is as private as what pytest made
    locked = Path("locked")

    class Locking(Progress):
        def advance(self, amount: int) -> None:
            locked.chmod(0o555)

    with unprivileged(tmp_path):
        locked.mkdir()
        with pytest.raises(OutputError, match="the folder locked cannot be written to; locked/"):
            extract(network, source, locked / "codes.h5", progress=Locking("extract", "images"))
        locked.chmod(0o755)
    assert names_in(locked) == ["codes.h5.partial"]
    assert (
        "went on after 12 images"
        in run("extract", network, source, "-o", locked / "codes.h5").output
    )


@pytest.fixture
def changing(few: Path, tmp_path: Path) -> Path:
    """A source that may be changed."""
    return shutil.copytree(few, tmp_path / "changing")


def change_everything(source: Path) -> None:
    """Remove, change, move, rename, copy and add images, and add a class and what is no image."""
    zero, two, seven = (sorted((source / name).iterdir()) for name in "027")
    zero[0].unlink()
    zero[1].write_bytes(encode_image(Image.new("L", (8, 8), 99), "PNG"))
    two[0].rename(source / "7" / "moved.png")
    two[1].rename(two[1].with_name("renamed.png"))
    shutil.copy(seven[0], source / "7" / "copied.png")
    (source / "new").mkdir()
    (source / "new" / "new.png").write_bytes(encode_image(Image.new("L", (8, 8), 200), "PNG"))
    (source / "new" / "text.jpg").write_bytes(b"no image")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_update_is_as_if_made_anew(
    run: Run, small_backbone: Path, changing: Path, output: Path, dtype: str
) -> None:
    options = ("--dtype", dtype)
    run("extract", small_backbone, changing, "-o", output, *options)
    change_everything(changing)
    updating = ("extract", small_backbone, changing, "-o", output, *options, "--update")
    reported = json.loads(run(*updating, "--json").stdout)
    assert (reported["n_images"], reported["n_reused"]) == (13, 11)
    assert len(reported["skipped"]) == 1
    fresh = output.with_name("fresh.h5")
    run("extract", small_backbone, changing, "-o", fresh, *options)
    assert output.read_bytes() == fresh.read_bytes()
    again = run(*updating).output
    assert "\n  kept the codes of 13 images from the file as it was before\n" in again
    assert output.read_bytes() == fresh.read_bytes()
    assert names_in(output.parent) == ["codes.h5", "fresh.h5"]


def test_update_names_images_that_are_gone(
    run: Run, backbone: Path, changing: Path, output: Path
) -> None:
    update = ("extract", backbone, changing, "-o", output, "--update")
    run(*update)
    assert "no longer in the source" not in run(*update).output
    shutil.rmtree(changing / "2")
    (changing / "7").rename(changing / "seven")
    printed = run(*update).output
    assert "\n  kept the codes of 8 images from the file as it was before\n" in printed
    assert (
        "\n  note: 8 paths of the earlier file are no longer in the source, such as 2/"
    ) in printed
    assert "removed, renamed, or of another source" in printed


def test_update_of_a_part_misses_no_image_of_another_part(
    run: Run, backbone: Path, changing: Path, output: Path
) -> None:
    update = ("extract", backbone, changing, "-o", output, "--update", "--part", "2/2")
    run(*update)
    names = [changing / "7" / f"new_{number}.png" for number in range(6)]
    for number, name in enumerate(names):
        name.write_bytes(encode_image(Image.new("L", (8, 8), number), "PNG"))
    printed = run(*update).output
    assert "kept the codes of" in printed
    assert "no longer in the source" not in printed


def test_reused_images_do_not_count_in_the_rate(
    backbone: Path, changing: Path, output: Path
) -> None:
    class Counting(Progress):
        n_computed = n_skipped = 0

        def advance(self, amount: int) -> None:
            self.n_computed += amount

        def skip(self, amount: int) -> None:
            self.n_skipped += amount

    first = extract(backbone, changing, output)
    assert first.images_per_second * first.seconds == pytest.approx(first.n_images)
    folder = next(path for path in changing.iterdir() if path.is_dir())
    (folder / "new.png").write_bytes(encode_image(Image.new("L", (8, 8), 3), "PNG"))
    (folder / "text.png").write_bytes(b"no image")
    progress = Counting("extract", "images")
    updated = extract(backbone, changing, output, update=True, progress=progress)
    assert updated.images_per_second * updated.seconds == pytest.approx(2)
    assert (progress.n_computed, progress.n_skipped) == (2, first.n_images)


def test_update_of_nothing_is_an_extraction(
    run: Run, backbone: Path, few: Path, output: Path
) -> None:
    update = ("extract", backbone, few, "-o", output, "--update")
    assert "kept the codes" not in run(*update).output
    assert_codes_are_of(output, backbone, few)


def test_update_without_new_images_gives_no_rate(
    run: Run, backbone: Path, few: Path, output: Path
) -> None:
    update = ("extract", backbone, few, "-o", output, "--update")
    run(*update)
    printed = run(*update).stdout.splitlines()
    assert printed[0].startswith(f"{output}: 12 images, 3 classes, codes ")
    assert printed[1:] == ["  kept the codes of 12 images from the file as it was before"]
    assert "per second" not in printed[0]


def test_update_that_is_interrupted_leaves_the_old_file_and_goes_on(
    run: Run, backbone: Path, changing: Path, output: Path
) -> None:
    run("extract", backbone, changing, "-o", output)
    before = output.read_bytes()
    change_everything(changing)
    progress = Interrupting("extract", "images")
    progress.n_batches = 6
    with pytest.raises(KeyboardInterrupt):
        extract(backbone, changing, output, update=True, progress=progress)
    assert output.read_bytes() == before
    reported = json.loads(
        run("extract", backbone, changing, "-o", output, "--update", "--json").stdout
    )
    assert reported["n_resumed"] == 6
    run("extract", backbone, changing, "-o", output.with_name("fresh.h5"))
    assert output.read_bytes() == output.with_name("fresh.h5").read_bytes()


def test_update_refuses_codes_of_another_kind(
    run: Run, backbone: Path, few: Path, tmp_path: Path, output: Path
) -> None:
    run("extract", backbone, few, "-o", output)
    before = output.read_bytes()
    other = write_backbone(tmp_path / "other.onnx", factor=2)
    for arguments, what in (
        ((other,), "another backbone"),
        ((backbone, "--dtype", "float32"), "another dtype (float16, not float32)"),
        ((backbone, "--max-pixels", "77"), "another --max-pixels (100000000, not 77)"),
    ):
        refusal = error_of("extract", arguments[0], few, *arguments[1:], "-o", output, "--update")
        assert f"{output}: was made with {what}" in refusal
        assert output.read_bytes() == before
        assert names_in(output.parent) == ["codes.h5"]


def test_update_refuses_what_is_no_codes_file(backbone: Path, few: Path, output: Path) -> None:
    output.write_text("mine")
    refusal = error_of("extract", backbone, few, "-o", output, "--update")
    assert f"{output}: is a text (no command takes it), not a codes file" in refusal
    assert output.read_text() == "mine"


def test_update_refuses_codes_that_are_not_there(
    run: Run, backbone: Path, few: Path, output: Path
) -> None:
    run("extract", backbone, few, "-o", output)
    with h5py.File(output, "r+") as file:
        codes = file["codes"]
        shape, dtype = codes.shape, codes.dtype
        del file["codes"]
        file.create_dataset("codes", shape, dtype, chunks=(1, *shape[1:]), compression="gzip")
    before = output.read_bytes()
    refusal = error_of("extract", backbone, few, "-o", output, "--update")
    assert f"{output}: the codes of 0/digit_0000.png in row 0 are damaged (" in refusal
    assert output.read_bytes() == before


def test_update_gives_checksums_to_codes_without(
    run: Run, backbone: Path, few: Path, output: Path
) -> None:
    run("extract", backbone, few, "-o", output)
    before = output.read_bytes()
    with h5py.File(output, "r+") as file:
        del file["checksums"]
    run("extract", backbone, few, "-o", output, "--update")
    assert output.read_bytes() == before


def test_refuses_codes_of_too_many_bytes_an_image(
    few: Path, tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = write_backbone(tmp_path / "all.onnx", pooled=False)
    n_numbers = BACKBONE_SIZE * BACKBONE_SIZE * 3
    monkeypatch.setattr(pipeline, "MAX_ROW_BYTES", 2 * n_numbers)
    extract(network, few, output)
    with pytest.raises(
        FileFormatError, match=rf"^{re.escape(str(network))}: the codes of an image"
    ):
        extract(network, few, output, dtype="float32", overwrite=True)
    assert names_in(output.parent) == ["codes.h5"]
