"""Several codes files of one network: trained on and evaluated as if they were one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnncodes.errors import FileFormatError
from cnncodes.extract.store import CodeStore
from cnncodes.head.joined import JoinedStore, open_codes
from cnncodes.head.stacked import StackedStore
from cnncodes.head.train import train_head
from tests.helpers import (
    BACKBONE_INFO,
    append_rows,
    create_journal,
    error_of,
    run_command,
    write_backbone,
    write_colours,
)

N_IMAGES, N_VIEWS = 60, 2
NAMES = ("ant", "bee", "cat")
OTHER = replace(BACKBONE_INFO, backbone="other")


def path_of(image: int) -> str:
    return f"{NAMES[image % 3]}/{image}.png"


def write_images(path: Path, images: Sequence[int], **options: object) -> Path:
    """Write codes of some of the images, in this order."""
    digests = options.pop("digests", [f"{image // 2:064x}" for image in images])
    labels = options.pop("labels", [image % 3 for image in images])
    names = options.setdefault("class_names", NAMES)
    groups = options.pop("groups", [])
    n_views = 2 if options.get("augment") == "hflip" else 1
    factor = 7.0 if options.get("backbone") == OTHER else 1.0
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(N_IMAGES, n_views, 2, 2, 3)).astype(np.float32) * factor
    codes += np.arange(N_IMAGES).reshape(-1, 1, 1, 1, 1) % 3
    with create_journal(path.with_suffix(".partial"), **options) as journal:
        append_rows(
            journal,
            codes[list(images)].reshape(-1, 2, 2, 3),
            labels=[list(names).index(NAMES[label]) if label >= 0 else -1 for label in labels],
            paths=[path_of(image) for image in images],
            digests=digests,
            groups=groups,
            skipped=[],
        )
        journal.finish(path)
    return path


def write_halves(folder: Path, **options: object) -> tuple[Path, list[Path]]:
    """Write all images in one file, and in three files that follow each other there."""
    groups = options.pop("groups", None)

    def written(name: str, images: Sequence[int]) -> Path:
        more = {} if groups is None else {"groups": [groups[image] for image in images]}
        return write_images(folder / name, images, **options, **more)

    shuffled = np.random.default_rng(1).permutation(N_IMAGES)
    parts = [shuffled[:20], shuffled[20:21], shuffled[21:]]
    files = [written(f"part{number}.h5", part.tolist()) for number, part in enumerate(parts)]
    return written("whole.h5", shuffled.tolist()), files


@pytest.mark.parametrize(
    ("stored", "options"),
    [
        ({}, ()),
        ({}, ("--estimator", "sgd", "--epochs", "3", "--per-class", "9")),
        ({"augment": "hflip"}, ("--tta", "--unknown", "--refit", "--C", "1")),
        (
            {"groups": [f"{image // 4}" for image in range(N_IMAGES)]},
            ("--train-fraction", "1", "--C", "1"),
        ),
        ({"dtype": "float16", "white": 4095}, ("--estimator", "ridge", "--exclude", "list.csv")),
    ],
    ids=["logistic", "sgd", "views", "groups", "ridge"],
)
def test_head_is_that_of_one_file(
    stored: dict[str, object], options: tuple[str, ...], tmp_path: Path
) -> None:
    whole, parts = write_halves(tmp_path, **stored)
    (tmp_path / "list.csv").write_text(f"path\n{path_of(3)}\n{path_of(44)}\n")
    words = [tmp_path / word if word == "list.csv" else word for word in options]
    one, several = tmp_path / "one.onnx", tmp_path / "several.onnx"
    run_command("train", whole, "-o", one, *words)
    printed = run_command("train", *parts[::-1], "-o", several, *words).output
    assert "the images of 3 codes files are stacked" in printed
    assert several.read_bytes() == one.read_bytes()
    evaluated = [
        json.loads(run_command("evaluate", one, *files, "--include-training", "--json").stdout)
        for files in ([whole], parts[::-1])
    ]
    for each in evaluated:
        del each["data"]["path"], each["notes"]
    assert evaluated[0] == evaluated[1]


def test_rows_are_those_of_one_file(tmp_path: Path) -> None:
    groups = [f"{image // 4}" if image % 3 else "" for image in range(N_IMAGES)]
    whole, parts = write_halves(tmp_path, augment="hflip", groups=groups)
    with CodeStore.open(whole) as one, open_codes(parts) as stack:
        assert isinstance(stack, StackedStore)
        assert stack.codes.shape == one.codes.shape
        assert (len(stack), stack.n_images) == (N_IMAGES * N_VIEWS, N_IMAGES)
        assert [each.path for each in stack._stores] == sorted(parts)
        for name in ("paths", "digests", "groups", "class_names", "skipped", "files", "sources"):
            assert getattr(stack, name) == getattr(one, name), name
        np.testing.assert_array_equal(stack.labels, one.labels)
        rows = [7, 3, 119, 0]
        for own, wanted in zip(stack.rows(rows), one.rows(rows), strict=True):
            np.testing.assert_array_equal(own, wanted)
        stack.release()
        assert stack.paths == one.paths


def test_two_networks_of_two_halves_each(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    whole, parts = write_halves(tmp_path)
    other, others = write_halves(tmp_path / "other", backbone=OTHER, backbone_sha256="cd" * 32)
    mixed = [others[1], parts[2], others[0], parts[0], parts[1], others[2]]
    with open_codes(mixed) as store:
        assert isinstance(store, JoinedStore)
        assert [part.backbone.backbone for part in store.parts] == ["other", "vgg16"]
    train_head([other, whole], tmp_path / "one.onnx")
    notes = train_head(mixed, tmp_path / "mixed.onnx").notes
    assert (tmp_path / "mixed.onnx").read_bytes() == (tmp_path / "one.onnx").read_bytes()
    assert "the images of 3 codes files are stacked" in notes
    words = ("--include-training", "--json")
    for files in ([*parts, other], [whole, *others]):
        result = json.loads(run_command("evaluate", tmp_path / "one.onnx", *files, *words).stdout)
        assert result["figures"]["n_images"] == N_IMAGES


def test_curve_of_several_files_is_that_of_one(tmp_path: Path) -> None:
    whole, parts = write_halves(tmp_path)
    words = ("--join", "--seeds", "2", "--per-class", "4,8", "--C", "1", "--json", "-o")
    points = [
        json.loads(run_command("curve", *files, *words, tmp_path / f"{name}.json").stdout)
        for name, files in (("one", [whole]), ("several", parts))
    ]
    one, several = (each["curves"][0] for each in points)
    assert several["points"] == one["points"]
    assert several["images_sha256"] == one["images_sha256"]


def test_image_of_two_files_counts_once(tmp_path: Path) -> None:
    """The later file may have the label, or the group, that the first has not."""
    first = write_images(tmp_path / "a.h5", range(40), labels=[-1, *(i % 3 for i in range(1, 40))])
    second = write_images(
        tmp_path / "b.h5", range(60), class_names=("cat", "bee", "ant"), groups=["g"] * 60
    )
    notes = train_head([first, second], tmp_path / "head.onnx", train_fraction=0.5).notes
    text = "40 images are in several files, with the same path and content; each counts once"
    assert text in notes
    with open_codes([first, second]) as store:
        assert len(store) == N_IMAGES
        assert store.class_names == list(NAMES)
        assert [store.class_names[label] for label in store.labels] == [
            NAMES[image % 3] for image in range(N_IMAGES)
        ]
        assert set(store.groups) == {"g"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"digests": ["ee" * 32] * 60}, "{path} has another content in each; extract one of"),
        ({"labels": [(i + 1) % 3 for i in range(60)]}, "{path} is labelled ant in one and bee in"),
        ({"groups": ["h"] * 60}, "{path} is of the group g in one and h in the other"),
        ({"dtype": "float16"}, "with different dtype (float32 and float16); extract one"),
        ({"augment": "hflip"}, "with different views (none and hflip)"),
        ({"white": 1023}, "with different white (None and 1023)"),
        ({"class_names": ("Ant", *NAMES)}, "the classes ant and Ant differ only in case or"),
    ],
)
def test_what_contradicts_is_refused(options: dict[str, object], text: str, tmp_path: Path) -> None:
    first = write_images(tmp_path / "a.h5", range(60), groups=["g"] * 60)
    second = write_images(tmp_path / "b.h5", range(60), **options)
    message = error_of("train", first, second, "-o", tmp_path / "head.onnx")
    assert message.startswith(f"Error: {first} and {second}: ")
    assert text.format(path=path_of(0)) in message


def test_files_of_one_network_in_two_forms_are_refused(tmp_path: Path) -> None:
    first = write_images(tmp_path / "a.h5", range(30))
    second = write_images(tmp_path / "b.h5", range(60), backbone_sha256="cd" * 32)
    assert "hold codes of the same network, vgg16, but by two files of it" in error_of(
        "train", first, second, "-o", tmp_path / "head.onnx"
    )


def test_file_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    file = write_images(tmp_path / "a.h5", range(60))
    message = error_of("train", file, file, "-o", tmp_path / "head.onnx")
    assert message == f"Error: {file} and {file}: are the same file; name it once"


def test_more_files_than_can_be_open_are_refused(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")  # not on Windows
    file = write_images(tmp_path / "a.h5", range(60))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        message = error_of("train", *[file] * 100, "-o", tmp_path / "head.onnx")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert message == (
        f"Error: {file} + 99 other codes files: need 264 open files, and the system allows 256; "
        "join them first with cnncodes merge, or raise the limit: ulimit -n 264"
    )
    with pytest.raises(FileFormatError, match="no such file"):
        open_codes([file, tmp_path / "absent.h5"])


def test_report_has_pictures_from_each_source(tmp_path: Path) -> None:
    rng, files = np.random.default_rng(0), []
    network = write_backbone(tmp_path / "net.onnx")
    for day in ("one", "two"):
        for image in range(16):
            target = tmp_path / day / "ab"[image % 2] / f"{day}{image}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(target)
        files.append(tmp_path / f"{day}.h5")
        run_command("extract", network, tmp_path / day, "-o", files[-1])
    head, report = tmp_path / "head.onnx", tmp_path / "report"
    run_command("train", *files, "-o", head)
    assert json.loads(run_command("info", head, "--json").stdout)["training"]["data"] == "one + two"
    words = ("--include-training", "--report", report, "--json")
    printed = run_command("evaluate", head, *files, *words)
    result = json.loads(printed.stdout)
    assert result["data"]["source"] == str(tmp_path / "one")
    assert result["data"]["other_sources"] == [str(tmp_path / "two")]
    page = (report / "index.html").read_text()
    wrong = {mistake["path"][2:5] for mistake in result["mistakes"]}
    assert wrong == {"one", "two"}
    assert page.count("data:image/") >= len(result["mistakes"])
    assert "no picture of" not in printed.stderr


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of photos in the working folder, beside a network; one class of them is damaged."""
    monkeypatch.chdir(tmp_path)
    write_backbone(tmp_path / "mean.onnx")
    paths = sorted(path.as_posix() for path in write_colours(Path("photos")).rglob("*.png"))
    for name in paths[14:18]:
        Path(name).write_bytes(b"")
    return paths


def write_lines(name: str, header: str, lines: Sequence[str]) -> str:
    Path(name).write_text("\n".join([header, *lines]), "utf-8")
    return name


def weighted(path: str, number: int) -> str:
    label = Path(path).parent.name if number % 7 else ""
    weight = "" if number % 4 else 0.5 + number % 3
    return f"{path},{label},s{number // 3},{weight},{'' if number % 5 else 0.75}"


def several(path: str, number: int) -> str:
    label = f"{Path(path).parent.name}{';odd' * (number % 2)}" if number % 7 else ""
    return f"{path},{label},s{number // 3}"


TABLES = [
    ("path,label,group,weight,probability", weighted),
    ("path,label,group", several),
]


def check_against_merge(files: Sequence[str]) -> None:
    """Train and evaluate on files and on what merge makes of them."""
    run_command("merge", *files, "-o", "merged.h5")
    results = []
    for head, codes in (("one.onnx", ["merged.h5"]), ("several.onnx", files)):
        run_command("train", *codes, "-o", head, "--C", 1)
        printed = run_command("evaluate", head, *codes, "--include-training", "--json").stdout
        results.append(json.loads(printed))
        del results[-1]["data"], results[-1]["notes"], results[-1]["model"]["path"]
    assert Path("several.onnx").read_bytes() == Path("one.onnx").read_bytes()
    assert results[0] == results[1]


@pytest.mark.parametrize(("header", "line"), TABLES, ids=["weights", "labels"])
@pytest.mark.filterwarnings("ignore::cnncodes.errors.SourceWarning")
def test_head_of_parts_is_that_of_their_merged_file(
    header: str, line: Callable[[str, int], str], photos: list[str]
) -> None:
    """The fifth of the eight parts has no usable image."""
    write_lines("list.csv", header, [line(path, at) for at, path in enumerate(photos)])
    files = [f"part-{number}.h5" for number in range(8, 0, -1)]
    for file in files:
        part = f"{file[5]}/8"
        run_command("extract", "mean.onnx", "list.csv", "-o", file, "--part", part)
    with CodeStore.open("part-5.h5") as store:
        assert len(store) == 0
    check_against_merge(files)
    run_command("extract", "mean.onnx", "list.csv", "-o", "whole.h5")
    assert Path("merged.h5").read_bytes() == Path("whole.h5").read_bytes()


@pytest.mark.parametrize(("header", "line"), TABLES, ids=["weights", "labels"])
@pytest.mark.filterwarnings("ignore::cnncodes.errors.SourceWarning")
def test_head_of_collections_is_that_of_their_merged_file(
    header: str, line: Callable[[str, int], str], photos: list[str]
) -> None:
    """They share images, of which only one of them has the label."""
    lines = [line(path, at) for at, path in enumerate(photos)]
    n_columns = header.count(",")
    first = [*lines[:18], f"{photos[18]}{',' * n_columns}", *lines[25:]]
    second = [f"{photos[5]}{',' * n_columns}", *lines[6:]]
    for name, own in (("one", first), ("two", second)):
        table = write_lines(f"{name}.csv", header, own)
        run_command("extract", "mean.onnx", table, "-o", f"{name}.h5")
    check_against_merge(["two.h5", "one.h5"])
    with CodeStore.open("merged.h5") as store, open_codes([Path("one.h5"), Path("two.h5")]) as both:
        assert store.paths == both.paths
        for each in ("labels", "weights", "probabilities", "label_matrix"):
            np.testing.assert_array_equal(getattr(store, each), getattr(both, each), each)
        texts = dict(zip(store.paths, store.label_texts, strict=True))
    assert texts[photos[5]] == f"b{'; odd' * (line is several)}"
    assert texts[photos[18]] == "g"


def test_parts_among_other_files_are_noted(photos: list[str]) -> None:
    """Files of which each is whole, or a part, may go together; the other parts may be missing."""
    for name, options in (("part", ["--part", "1/2"]), ("whole", [])):
        run_command("extract", "mean.onnx", "photos", "-o", f"{name}.h5", *options)
    notes = train_head(["whole.h5", "part.h5"], "head.onnx", C=1).notes
    assert "the images of 2 codes files are stacked, of which 1 is a part of a source" in notes


def test_other_lists_of_several_labels_are_refused(photos: list[str]) -> None:
    """Also where an image of both files is the first thing to differ."""
    for name, lines in (
        ("one", [several(path, at) for at, path in enumerate(photos[:10], start=1)]),
        ("two", [several(path, at) for at, path in enumerate(photos, start=1) if at != 7]),
        ("single", [f"{path},b,s" for path in photos[:3]] + [f"{photos[-1]},g,s"]),
    ):
        table = write_lines(f"{name}.csv", "path,label,group", lines)
        run_command("extract", "mean.onnx", table, "-o", f"{name}.h5")
    for files in (("one.h5", "two.h5"), ("one.h5", "single.h5"), ("single.h5", "two.h5")):
        message = error_of("train", *files, "-o", "head.onnx")
        assert "have other labels, or several for an image in one of them only" in message
        assert message.startswith("Error: ")
        assert error_of("merge", *files, "-o", "all.h5").startswith(f"Error: {' and '.join(files)}")


def test_other_labels_of_an_image_are_refused(photos: list[str]) -> None:
    for name, label in (("one", "b"), ("two", "b;g")):
        lines = [f"{photos[0]},{label}", f"{photos[1]},g;b"]
        run_command(
            "extract",
            "mean.onnx",
            write_lines(f"{name}.csv", "path,label", lines),
            "-o",
            f"{name}.h5",
        )
    assert error_of("merge", "one.h5", "two.h5", "-o", "all.h5") == (
        f"Error: one.h5 and two.h5: {photos[0]} is labelled b in one and b; g in the other; "
        "correct one and extract it again"
    )
    message = error_of("train", "one.h5", "two.h5", "-o", "head.onnx")
    assert f"{photos[0]} has other labels in each; correct one and" in message
