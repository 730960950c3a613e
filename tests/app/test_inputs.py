from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnncodes import Classifier
from cnncodes.app.inputs import predict_inputs
from cnncodes.cli import shown
from cnncodes.errors import SourceError
from cnncodes.images.sources import find_images
from tests.helpers import error_of


@pytest.fixture(scope="module")
def classifier(app):
    return Classifier(app)


@pytest.fixture(scope="module")
def files(photos):
    return sorted(photos.rglob("*.png"))


def line_of(classifier, path, top=1, width=0):
    """The line of an image; its path is followed by blanks up to `width`, if there are several."""
    digits = 6 if width else 0
    named = [
        f"{each.label} {each.probability:{digits}.1%}" for each in classifier.predict(path, top=top)
    ]
    return f"{path!s:{width}}  {'  '.join(named)}"


def width_of(paths):
    return min(50, max(len(str(path)) for path in paths))


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_one_file(app, classifier, files, run):
    assert run("predict", app, files[0]).stdout == f"{line_of(classifier, files[0])}\n"


@pytest.mark.parametrize("top", [1, 3, 10, 11, 50])
def test_top(app, classifier, files, run, top):
    result = run("predict", app, files[5], files[6], "--top", top)
    assert result.stdout.splitlines() == [
        line_of(classifier, path, top, width_of(files[5:7])) for path in files[5:7]
    ]
    assert result.stdout.count("%") == 2 * min(top, 10)
    warning = f"{app}: has 10 classes; all are printed, not {top}\n"
    assert result.stderr == (warning if top > 10 else "")


def test_files_are_printed_in_the_order_of_the_arguments(app, classifier, files, run):
    paths = [files[40], files[2], files[90], files[2]]
    printed = run("predict", app, *paths).stdout.splitlines()
    assert printed == [line_of(classifier, path, width=width_of(paths)) for path in paths]


def test_columns_of_several_files_are_aligned(app, files, tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    paths = ["a.png", "longer.png", "é.png"]
    for file, path in zip(files[::30], paths, strict=False):
        shutil.copy(file, path)
    printed = run("predict", app, *paths, "--top", "2").stdout.splitlines()
    ends = [[match.end() for match in re.finditer("%", line)] for line in printed]
    assert len(ends) == 3
    assert ends[0] == ends[1] == ends[2]


def test_folders_are_walked_by_name(app, classifier, photos, files, run):
    printed = run("predict", app, photos / "8", files[0], photos / "3").stdout.splitlines()
    wanted = [*sorted((photos / "8").iterdir()), files[0], *sorted((photos / "3").iterdir())]
    assert printed == [line_of(classifier, path, width=width_of(files)) for path in wanted]
    whole = run("predict", app, photos).stdout.splitlines()
    assert [line.split("  ")[0] for line in whole] == [str(path) for path in files]


def test_other_files_in_a_folder_are_passed_over(app, files, tmp_path, run):
    shutil.copy(files[0], tmp_path / "photo.png")
    shutil.copy(files[0], tmp_path / ".hidden.png")
    (tmp_path / "notes.txt").write_text("no image")
    printed = run("predict", app, tmp_path).stdout.splitlines()
    assert [line.split("  ")[0] for line in printed] == [str(tmp_path / "photo.png")]


def test_standard_input(app, classifier, files, run):
    printed = run("predict", app, "-", "--top", "2", stdin=files[9].read_bytes()).stdout
    assert printed == line_of(classifier, files[9], 2).replace(str(files[9]), "-") + "\n"


def test_standard_input_between_files(app, classifier, files, run):
    printed = run("predict", app, files[0], "-", files[2], stdin=files[1].read_bytes()).stdout
    wanted = [line_of(classifier, path, width=width_of(files)) for path in files[:3]]
    width = width_of(files)
    wanted[1] = wanted[1].replace(str(files[1]).ljust(width), "-".ljust(width))
    assert printed.splitlines() == wanted


@pytest.mark.parametrize(
    ("content", "problem"), [(b"", "empty file"), (b"a text", "not a JPEG, PNG, WebP")]
)
def test_standard_input_that_is_no_image(app, content, problem, run):
    result = run("predict", app, "-", stdin=content, exit_code=1)
    assert result.stdout.startswith(f"-  {problem}")
    assert result.stderr == "Error: 1 image of 1 could not be used, as listed above\n"


def test_standard_input_without_end(app, classifier):
    with Path("/dev/zero").open("rb") as endless:
        (classified,) = predict_inputs(classifier, [None], endless)
    assert classified.problem.startswith("larger than the 664 MB that an image")


def test_file_called_dash(app, classifier, files, tmp_path, monkeypatch, run):
    """A path that only ends in a dash is a file, as it is to other programs."""
    shutil.copy(files[0], tmp_path / "-")
    monkeypatch.chdir(tmp_path)
    label = classifier.predict(files[0])[0].label
    assert run("predict", app, "./-", stdin=b"").stdout.split()[1] == label


def test_broken_images_do_not_stop_the_others(app, classifier, files, tmp_path, run):
    broken, absent = tmp_path / "broken.jpg", tmp_path / "absent.jpg"
    broken.write_bytes(b"no image")
    result = run("predict", app, broken, files[0], absent, files[1], exit_code=1)
    lines = result.stdout.splitlines()
    width = width_of([broken, files[0], absent, files[1]])
    reason = "not a JPEG, PNG, WebP, AVIF, HEIC, BMP, GIF, TIFF, "
    assert lines[0].startswith(f"{broken!s:{width}}  {reason}")
    assert lines[1] == line_of(classifier, files[0], width=width)
    assert lines[2] == f"{absent!s:{width}}  cannot be read: No such file or directory"
    assert lines[3] == line_of(classifier, files[1], width=width)
    assert len(lines) == 4
    assert result.stderr == "Error: 2 images of 4 could not be used, as listed above\n"


@pytest.mark.parametrize(
    ("typed", "remedy"),
    [
        ("new/*.jpg", "a pattern stands for files only without quotes around it"),
        ("cat[0-9].jpg", "a pattern stands for files only without quotes around it"),
        ("https://example.org/cat.jpg", "this is a web address; download the file, and name it"),
    ],
)
def test_pattern_and_web_address_are_explained(app, typed, remedy, run):
    result = run("predict", app, typed, exit_code=1)
    assert f"  cannot be read: No such file or directory; {remedy}" in result.stdout
    with pytest.raises(SourceError, match=f"no such file; {remedy}"):
        find_images(typed)


def test_file_whose_name_has_a_star_is_a_file(app, classifier, files, tmp_path, run):
    path = tmp_path / "a*.png"
    shutil.copy(files[0], path)
    label = classifier.predict(files[0])[0].label
    assert run("predict", app, path).stdout.split()[-2] == label


def test_json(app, classifier, files, tmp_path, run):
    absent = tmp_path / "absent.jpg"
    options = ("--format", "json", "--top", "2")
    result = run("predict", app, files[0], absent, *options, exit_code=1)
    good, bad = json.loads(result.stdout)
    assert good == {
        "path": str(files[0]),
        "predictions": [
            {"label": each.label, "probability": pytest.approx(each.probability, abs=1e-6)}
            for each in classifier.predict(files[0], top=2)
        ],
        "problem": "",
    }
    assert (bad["path"], bad["predictions"]) == (str(absent), [])
    assert "No such file" in bad["problem"]
    assert result.stderr.startswith("Error: 1 image of 2 could not")


def test_csv(app, classifier, files, tmp_path, run):
    absent = tmp_path / "absent, or so.jpg"
    options = ("--format", "csv", "--top", "3")
    result = run("predict", app, absent, files[0], *options, exit_code=1)
    bad, *good = rows_of(result.stdout)
    assert bad["path"] == str(absent)
    assert "No such file" in bad["problem"]
    assert (bad["rank"], bad["label"], bad["probability"]) == ("", "", "")
    assert [row["rank"] for row in good] == ["1", "2", "3"]
    for row, each in zip(good, classifier.predict(files[0], top=3), strict=True):
        assert (row["path"], row["label"], row["problem"]) == (str(files[0]), each.label, "")
        assert float(row["probability"]) == pytest.approx(each.probability, abs=1e-6)
    assert "\r" not in result.stdout


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        (b"new\nline.png", r"new\nline.png"),
        (b"red\x1b[31m.png", r"red\x1b[31m.png"),
        (b"back\rhome.png", r"back\rhome.png"),
        (b"latin\xe9.png", r"latin\udce9.png"),
        ("right\u202eto left.png".encode(), r"right\u202eto left.png"),
    ],
)
def test_odd_names_are_escaped(app, classifier, files, tmp_path, run, name, escaped):
    path = tmp_path / os.fsdecode(name)
    shutil.copy(files[0], path)
    label = classifier.predict(files[0])[0].label
    for source in (path, tmp_path):
        printed = run("predict", app, source).stdout
        assert printed.startswith(f"{tmp_path / escaped}  {label} ")
        assert printed.count("\n") == 1
        (row,) = rows_of(run("predict", app, source, "--format", "csv").stdout)
        assert (row["path"], row["label"]) == (str(tmp_path / escaped), label)
        (row,) = json.loads(run("predict", app, source, "--format", "json").stdout)
        assert row["path"] == str(path)


def test_readable_letters_stay_as_they_are(app, files, tmp_path, run):
    path = tmp_path / "Grüße 写真.png"
    shutil.copy(files[0], path)
    assert run("predict", app, path).stdout.startswith(f"{path}  ")


@settings(deadline=None)
@given(st.text())
def test_what_is_shown_is_one_plain_line(text):
    assert shown(text).isprintable()
    assert shown(text) == text or not text.isprintable()


@settings(deadline=None)
@given(content=st.binary(max_size=200), signature=st.sampled_from([b"", b"\xff\xd8\xff", b"BM"]))
def test_wild_bytes_are_classified_or_refused(classifier, content, signature):
    stream = io.BytesIO(signature + content)
    (classified,) = predict_inputs(classifier, [None], stream)
    assert bool(classified.predictions) != bool(classified.problem)


def test_folder_without_images_is_reported(app, tmp_path):
    """Nothing printed and success would look as if all had been classified."""
    (tmp_path / "notes.txt").write_text("no image")
    message = error_of("predict", app, tmp_path)
    assert str(tmp_path) in message
    assert "no images" in message


def test_max_pixels(app, files, run):
    result = run("predict", app, files[0], "--max-pixels", 64 * 64 - 1, exit_code=1)
    assert "max_pixels" in result.stdout
    run("predict", app, files[0], "--max-pixels", 64 * 64)


def test_head_is_not_an_app(head, files):
    message = error_of("predict", head, files[0])
    assert f"{head}: is a head" in message
    assert message.endswith("make one with: cnncodes bundle")


def test_missing_app(tmp_path, files):
    absent = tmp_path / "absent.onnx"
    message = error_of("predict", absent, files[0])
    assert message == f"Error: {absent}: no such file; make one with: cnncodes bundle"


@pytest.mark.parametrize("options", [("--top", "0"), ("--format", "xml")])
def test_wrong_usage(app, files, run, options):
    assert options[0] in run("predict", app, files[0], *options, exit_code=2).stderr


def test_no_image_named(app, run):
    assert "IMAGE" in run("predict", app, exit_code=2).stderr
