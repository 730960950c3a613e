"""The command merge: which codes files go into one, and what becomes of their images."""

from __future__ import annotations

import json
import shutil
import signal
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from cnncodes import CodeStore, merge_codes
from cnncodes.errors import FileFormatError, OutputError, ParameterError, SourceError
from cnncodes.extract.merge import Merge
from cnncodes.progress import Progress
from tests.helpers import (
    BACKBONE_INFO,
    append_rows,
    create_journal,
    digest_of,
    error_of,
    names_in,
    run_command,
)

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(
    name: str,
    images: dict[str, str],
    labels: dict[str, str] | None = None,
    *,
    classes: tuple[str, ...] = ("cat", "dog"),
    groups: dict[str, str] | None = None,
    skipped: tuple[tuple[str, str], ...] = (),
    dtype: str = "float32",
    **info: object,
) -> Path:
    """Write a codes file of images with these contents; their codes follow from the contents."""
    path, labels = Path(name), labels or {}
    values = {"class_names": classes, "code_shape": (6,), "dtype": dtype, **info}
    with create_journal(path.with_suffix(".partial"), **values) as journal:
        n_views = journal.info.n_views
        codes = [codes_of(content) for content in images.values() for _ in range(n_views)]
        append_rows(
            journal,
            np.array(codes, np.float32).reshape(-1, 6),
            labels=[classes.index(labels[path]) if path in labels else -1 for path in images],
            paths=list(images),
            digests=[digest_of(content) for content in images.values()],
            groups=[] if groups is None else [groups.get(path, "") for path in images],
            skipped=list(skipped),
        )
        journal.finish(path)
    return path


def codes_of(content: str) -> np.ndarray:
    return np.random.default_rng(sum(content.encode())).normal(size=6).astype(np.float32)


def contents(path: str | Path) -> dict[str, tuple[str, str]]:
    """Label and group of each image; its codes must be its own."""
    with CodeStore.open(path) as store:
        names = [*store.class_names, ""]
        labels = [names[label] for label in store.labels]
        groups = store.groups or [""] * len(labels)
        known = {digest_of(content): content for content in "abcdefgh"}
        for digest, row in zip(store.digests, store.codes[:], strict=True):
            np.testing.assert_array_equal(row, codes_of(known[digest]))
        paths = store.of_images(store.paths)
        assert len(set(paths)) == len(paths)
        return dict(zip(store.paths, zip(labels, groups, strict=True), strict=True))


def merged(*names: str, **options: bool) -> Merge:
    return merge_codes(list(names), "merged.h5", **options)


def refusal(kind: type[Exception], *names: str) -> str:
    """Return the line of an error; nothing is written."""
    before = names_in(Path())
    with pytest.raises(kind) as caught:
        merged(*names)
    assert names_in(Path()) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.filterwarnings("ignore::cnncodes.errors.SourceWarning")
def test_collections_are_joined_in_the_order_of_their_paths() -> None:
    write("b.h5", {"1.png": "a", "2.png": "b"}, {"1.png": "dog"}, source="day 2")
    write("a.h5", {"3.png": "c"}, {"3.png": "cat"}, source="day 1", skipped=(("x.png", "odd"),))
    result = merged("b.h5", "a.h5")
    assert contents("merged.h5") == {"3.png": ("cat", ""), "1.png": ("dog", ""), "2.png": ("", "")}
    assert list(contents("merged.h5")) == ["3.png", "1.png", "2.png"]
    assert (result.n_images, result.n_skipped) == (3, 1)
    assert result.notes == ["1 image without a label"]
    assert result.files == [Path("a.h5"), Path("b.h5")]
    with CodeStore.open("merged.h5") as store:
        assert store.source == "day 1 + day 2"
        assert store.skipped == [("x.png", "odd")]
        assert store.groups == []
    write("c.h5", {"4.png": "d"}, source="day 1")
    merge_codes(["merged.h5", "c.h5"], "all.h5")
    with CodeStore.open("all.h5") as store:
        assert store.source == "day 1 + day 2"
        assert store.source_name == "day 1 + day 2"


def test_chunks_are_not_compressed_again() -> None:
    """Another program may have compressed better."""
    write("a.h5", {"1.png": "a"})
    with h5py.File("a.h5", "r+") as file:
        values = file["codes"][:]
        file["codes"].id.write_direct_chunk((0, 0), stronger := zlib.compress(values.tobytes(), 9))
    write("b.h5", {"2.png": "b"})
    merged("a.h5", "b.h5")
    with h5py.File("merged.h5") as file:
        assert file["codes"].id.read_direct_chunk((0, 0))[1] == stronger


def test_chunks_in_any_order_on_the_disk() -> None:
    """HDF5 and other programs may put them anywhere."""
    write("a.h5", {f"{content}.png": content for content in "abcdefgh"})
    with h5py.File("a.h5", "r+") as file:
        codes, values = file["codes"], file["codes"][:]
        for row in (6, 1, 4):  # larger ones no longer fit, and go to the end of the file
            larger = zlib.compressobj(0)
            chunk = larger.compress(values[row].tobytes()) + larger.flush()
            codes.id.write_direct_chunk((row, 0), chunk)
    merged("a.h5")
    assert list(contents("merged.h5")) == [f"{content}.png" for content in "abcdefgh"]


def test_files_without_checksums_get_them() -> None:
    old = DATA / "codes_without_checksums.h5"
    merge_codes([old], "merged.h5")
    with CodeStore.open(old) as before, CodeStore.open("merged.h5") as after:
        assert before.checksums is None
        assert after.checksums is not None
        assert after.paths == before.paths
        np.testing.assert_array_equal(
            list(after.rows(range(len(after)))), list(before.rows(range(len(before))))
        )


def test_classes_are_united_and_labels_keep_their_names() -> None:
    write(
        "a.h5",
        {"1.png": "a", "2.png": "b"},
        {"1.png": "dog", "2.png": "cow"},
        classes=("dog", "cow"),
    )
    write("b.h5", {"3.png": "c"}, {"3.png": "cat"}, classes=("cat", "dog"))
    result = merged("a.h5", "b.h5")
    labels = {path: label for path, (label, _) in contents("merged.h5").items()}
    assert labels == {"1.png": "dog", "2.png": "cow", "3.png": "cat"}
    assert result.class_names == ["cat", "cow", "dog"]
    assert result.notes == ["the classes of the files differ; together they are 3"]


def test_classes_that_differ_in_case_are_refused() -> None:
    write("a.h5", {"1.png": "a"}, classes=("cat", "dog"))
    write("b.h5", {"2.png": "b"}, classes=("Cat", "dog"))
    assert refusal(SourceError, "a.h5", "b.h5").startswith(
        "a.h5 and b.h5: the classes cat and Cat differ only in case"
    )


def test_image_of_two_files_is_kept_once() -> None:
    write("a.h5", {"1.png": "a", "2.png": "b"}, {"1.png": "dog"})
    write("b.h5", {"2.png": "b", "3.png": "c"}, {"3.png": "cat"})
    result = merged("a.h5", "b.h5")
    assert list(contents("merged.h5")) == ["1.png", "2.png", "3.png"]
    assert result.n_images == 3
    assert result.notes == [
        "1 image in two files with the same path and content, kept once: 2.png",
        "1 image without a label",
    ]


def test_equal_images_of_other_paths_are_kept() -> None:
    write("a.h5", {"1.png": "a", "2.png": "b"})
    write("b.h5", {"copy.png": "b"})
    result = merged("a.h5", "b.h5")
    assert list(contents("merged.h5")) == ["1.png", "2.png", "copy.png"]
    assert result.notes[1:] == ["3 images without a label"]
    assert "1 image equal to one of another path" in result.notes[0]
    assert "cnncodes overlap" in result.notes[0]


def test_other_image_of_the_same_path_is_refused_or_renamed() -> None:
    write("a.h5", {"1.png": "a", "2.png": "b"}, skipped=(("x.png", "odd"),))
    write("b.h5", {"1.png": "c", "2.png": "b"}, skipped=(("x.png", "empty"),))
    message = refusal(SourceError, "a.h5", "b.h5")
    assert message.startswith("a.h5 and b.h5: have different images called 1.png; pass rename=True")
    line = error_of("merge", "a.h5", "b.h5", "-o", "merged.h5")
    assert "pass --rename to put" in line
    result = run_command("merge", "a.h5", "b.h5", "-o", "merged.h5", "--rename")
    assert list(contents("merged.h5")) == ["a/1.png", "a/2.png", "b/1.png"]
    assert "kept once: 2.png" in result.stdout
    with CodeStore.open("merged.h5") as store:
        assert store.skipped == [("a/x.png", "odd"), ("b/x.png", "empty")]


def test_renaming_needs_names_that_differ() -> None:
    Path("sub").mkdir()
    write("a.h5", {"1.png": "a"})
    write("sub/a.h5", {"1.png": "b"})
    with pytest.raises(ParameterError, match=r"^a\.h5 and sub/a\.h5: have one name"):
        merged("a.h5", "sub/a.h5", rename=True)


@pytest.mark.filterwarnings("ignore::cnncodes.errors.SourceWarning")
def test_image_that_was_skipped_once_and_is_whole_now() -> None:
    write("a.h5", {"1.png": "a"}, skipped=(("2.png", "damaged"), ("3.png", "empty")))
    write("b.h5", {"2.png": "b"}, skipped=(("3.png", "damaged"),))
    merged("a.h5", "b.h5")
    with CodeStore.open("merged.h5") as store:
        assert store.skipped == [("3.png", "empty")]


@pytest.mark.parametrize("swapped", [False, True])
def test_label_and_group_win_over_none(swapped: bool) -> None:
    write("a.h5", {"1.png": "a", "2.png": "b"}, {"2.png": "cat"})
    write("b.h5", {"1.png": "a"}, {"1.png": "dog"}, groups={"1.png": "scene"})
    if swapped:
        shutil.move("a.h5", "c.h5")
    result = merged("b.h5", "c.h5" if swapped else "a.h5")
    assert contents("merged.h5") == {"1.png": ("dog", "scene"), "2.png": ("cat", "")}
    assert result.n_images == 2
    notes = "\n".join(result.notes)
    assert "1 image with label in one file and none in another, kept with the label" in notes
    assert "1 image with group in one file and none in another, kept with the group" in notes
    assert "1 file without groups" in notes


def test_contradicting_labels_and_groups_are_refused() -> None:
    write("a.h5", {"1.png": "a"}, {"1.png": "cat"}, groups={"1.png": "one"})
    write("b.h5", {"1.png": "a"}, {"1.png": "dog"}, groups={"1.png": "one"})
    assert refusal(SourceError, "a.h5", "b.h5").startswith(
        "a.h5 and b.h5: 1.png is labelled cat in one and dog in the other"
    )
    write("c.h5", {"1.png": "a"}, groups={"1.png": "two"})
    assert "c.h5: 1.png is in the group one in one and two in the other" in refusal(
        SourceError, "a.h5", "c.h5"
    )


def test_third_file_is_compared_with_what_the_second_gave_the_first() -> None:
    write("a.h5", {"1.png": "a"})
    write("b.h5", {"1.png": "a"}, {"1.png": "dog"})
    write("c.h5", {"1.png": "a"}, {"1.png": "cat"})
    assert "1.png is labelled dog in one and cat in the other" in refusal(
        SourceError, "a.h5", "b.h5", "c.h5"
    )


def test_views_go_with_their_images() -> None:
    write("a.h5", {"1.png": "a", "2.png": "b"}, augment="hflip")
    write("b.h5", {"2.png": "b", "3.png": "c"}, augment="hflip")
    result = merged("a.h5", "b.h5")
    with CodeStore.open("merged.h5") as store:
        assert store.of_images(store.paths) == ["1.png", "2.png", "3.png"]
        assert store.n_images == result.n_images == 3
        expected = [codes_of(content) for content in "aabbcc"]
        np.testing.assert_array_equal(store.codes[:], expected)


@pytest.mark.parametrize(
    ("info", "difference"),
    [
        ({"backbone_sha256": "cd" * 32}, "are of different networks (vgg16"),
        (
            {
                "backbone_sha256": "cd" * 32,
                "backbone": replace(
                    BACKBONE_INFO, precision="int8", parent_sha256="ab" * 32, quantization="{}"
                ),
            },
            "are of different networks (vgg16 in float32, not in int8)",
        ),
        ({"dtype": "float16"}, "were extracted with different dtype (float32, not float16)"),
        ({"augment": "hflip"}, "were extracted with different augment (none, not hflip)"),
        ({"white": 4095}, "were extracted with different white (guessed, not 4095)"),
    ],
)
def test_codes_that_do_not_go_together(info: dict[str, object], difference: str) -> None:
    write("a.h5", {"1.png": "a"})
    write("b.h5", {"2.png": "b"}, **info)
    assert refusal(FileFormatError, "a.h5", "b.h5").startswith(f"a.h5 and b.h5: {difference}")


def test_largest_max_pixels_is_recorded() -> None:
    write("a.h5", {"1.png": "a"}, max_pixels=100)
    write("b.h5", {"2.png": "b"}, max_pixels=200)
    assert "recorded is the largest, 200" in merged("a.h5", "b.h5").notes[0]
    with CodeStore.open("merged.h5") as store:
        assert store.max_pixels == 200


def test_output_and_inputs_are_files_of_their_own() -> None:
    write("a.h5", {"1.png": "a"})
    Path("link.h5").symlink_to("a.h5")
    with pytest.raises(OutputError, match=r"link\.h5: is what the result is made from"):
        merge_codes(["a.h5"], "link.h5", overwrite=True)
    assert "are the same file" in refusal(ParameterError, "a.h5", "link.h5")
    assert "absent.h5: no such file" in refusal(FileFormatError, "a.h5", "absent.h5")
    with pytest.raises(OutputError, match="exists already"):
        merge_codes(["a.h5"], write("b.h5", {"2.png": "b"}))


def test_damaged_input_is_named_and_nothing_is_written() -> None:
    write("a.h5", {"1.png": "a"})
    write("b.h5", {"2.png": "b", "3.png": "c"})
    with h5py.File("b.h5", "r+") as file:
        file["codes"].id.write_direct_chunk((1, 0), file["codes"].id.read_direct_chunk((0, 0))[1])
    message = refusal(FileFormatError, "a.h5", "b.h5")
    assert message.startswith("b.h5: the codes of 3.png in row 1 are damaged")


def _interrupt(progress: Progress) -> None:
    raise KeyboardInterrupt


def _write_again(progress: Progress) -> None:
    write("b.h5", {"2.png": "b"}, {"2.png": "cat"})


@pytest.mark.parametrize(
    ("event", "expected"),
    [(_interrupt, KeyboardInterrupt), (_write_again, FileFormatError)],
)
def test_nothing_half_written(
    event: Callable[[Progress], None], expected: type[BaseException]
) -> None:
    class Eventful(Progress):
        def advance(self, amount: int) -> None:
            if self.unit == "images":
                event(self)

    write("a.h5", {"1.png": "a"})
    write("b.h5", {"2.png": "b"})
    with pytest.raises(expected):
        merge_codes(["a.h5", "b.h5"], "merged.h5", progress=Eventful("", ""))
    assert names_in(Path()) == ["a.h5", "b.h5"]


def test_full_disk_is_one_line() -> None:
    write("a.h5", {f"{number}.png": "abcdefgh"[number % 8] for number in range(2000)})
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        message = error_of("merge", "a.h5", "-o", "merged.h5")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert message == "Error: merged.h5: cannot be written (File too large)"
    assert names_in(Path()) == ["a.h5"]


def test_json_and_help_of_the_command() -> None:
    write("a.h5", {"1.png": "a"})
    write("b.h5", {"2.png": "b"})
    result = json.loads(run_command("merge", "b.h5", "a.h5", "-o", "c.h5", "--json").stdout)
    assert result["files"] == ["a.h5", "b.h5"]
    assert (result["path"], result["n_images"]) == ("c.h5", 2)
    assert result["notes"] == ["2 images without a label"]


def test_unusable_images_of_all_files_are_counted() -> None:
    write("a.h5", {"1.png": "a"}, skipped=(("2.png", "odd"),))
    write("b.h5", {"3.png": "b"})
    result = run_command("merge", "a.h5", "b.h5", "-o", "c.h5")
    assert "Warning: 1 of 3 image files (33%) cannot be used" in result.stderr
    assert "1 image skipped before" in result.stdout
