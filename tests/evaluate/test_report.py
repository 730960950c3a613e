from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shutil
import sys
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from cnncodes.errors import OutputError
from cnncodes.evaluate.curve import CurvePoint
from cnncodes.evaluate.evaluate import evaluate
from cnncodes.evaluate.report import Report, render, thumbnails
from tests.helpers import error_of, logits_of, make_curve, write_head, write_labelled_codes

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """A page's elements; fails where tags are not nested as they should be."""

    def __init__(self, html):
        super().__init__()
        self.elements, self._open, self._texts = [], [], []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        if tag in ("td", "th"):
            self._texts.append(" ")

    def handle_data(self, data):
        if "style" not in self._open:
            self._texts.append(data)

    @property
    def text(self):
        return " ".join("".join(self._texts).split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(folder):
    return Page((folder / "index.html").read_text("utf-8"))


def page_of_case(tmp_path, labels, predicted, y, **codes):
    """The page of a head and codes made for the purpose."""
    head = write_head(tmp_path / "head.onnx", labels)
    data = write_labelled_codes(
        tmp_path / "codes.h5", logits_of(predicted, len(labels)), y, labels, **codes
    )
    Report(tmp_path / "report").write(evaluate(head, data))
    return page_of(tmp_path / "report")


def test_page_reports_the_figures(small, tmp_path, run):
    printed = run("evaluate", *small, "--report", tmp_path / "report").stdout
    page = page_of(tmp_path / "report")
    for message in (
        "How good is head.onnx?",
        "Evaluated on 4 images of codes.h5, in 3 classes. It was trained on none of them.",
        "Accuracy 75.0%",
        "Balanced accuracy 83.3%",
        "Always predicting c, the most common class, would give 50.0%",
        "c predicted as a: 1 image",
        "not evaluated: 2 images that trained the model",
        "logistic",
        "of layer ",
    ):
        assert message in page.text
    assert "Top-5" not in page.text  # of three classes
    day = datetime.fromtimestamp(small[0].stat().st_mtime)
    assert re.search(f"a head, [0-9.]+ MB, written on {day.day} {day:%B %Y}", page.text)
    assert printed.endswith(f"{tmp_path / 'report' / 'index.html'}: the report, for a browser\n")
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "evaluation.json",
        "index.html",
    ]


def test_json_beside_it_is_what_is_printed(small, tmp_path, run):
    printed = run("evaluate", *small, "--json", "--report", tmp_path / "report").stdout
    written = (tmp_path / "report" / "evaluation.json").read_text("utf-8")
    assert json.loads(written) == json.loads(printed)
    assert json.loads(written)["kind"] == "evaluation"


def test_page_loads_nothing_and_runs_nothing(codes, head, tmp_path):
    Report(tmp_path / "report").write(evaluate(head, codes))
    page = page_of(tmp_path / "report")
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.elements}
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "data", "action"):
                assert value.startswith(("data:image/jpeg;base64,", "#")), (tag, name, value)
    html = (tmp_path / "report" / "index.html").read_text("utf-8")
    assert set(re.findall(r"https?://[^\"' )]*", html)) == {"http://www.w3.org/2000/svg"}
    assert "@import" not in html
    assert set(re.findall(r"url\([^)#]*", html)) <= {"url("}
    (policy,) = (each for each in page.all("meta") if "http-equiv" in each)
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert policy["content"].split("; ")[:3] == [
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        "img-src data:",
    ]


def test_page_can_be_read_without_seeing_it(codes, head, tmp_path):
    Report(tmp_path / "report").write(evaluate(head, codes))
    page = page_of(tmp_path / "report")
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    assert all(each.get("scope") for each in page.all("th"))
    assert all(each.get("alt") for each in page.all("img"))
    assert all(each.get("role") == "img" and each["aria-label"] for each in page.all("svg"))
    identifiers = [each["id"] for _, each in page.elements if "id" in each]
    assert len(identifiers) == len(set(identifiers))
    for _, each in page.elements:
        assert each.get("aria-labelledby", identifiers[0]) in identifiers
    for link in re.findall(
        r"(?:href=\"|url\()#([\w-]+)", (tmp_path / "report/index.html").read_text()
    ):
        assert link in identifiers


def test_same_evaluation_gives_the_same_page(small, tmp_path):
    for name in ("one", "two"):
        Report(tmp_path / name).write(evaluate(*small))
    for file in ("index.html", "evaluation.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_confusion_matrix_of_few_classes_is_a_table(tmp_path):
    page = page_of_case(tmp_path, list("abc"), [0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 2, 0])
    cells = [each for each in page.all("td") if "shade" in each.get("class", "")]
    shares = [each["style"] for each in cells]
    assert shares[:3] == ["--share: 0.500", "--share: 0.000", "--share: 0.500"]
    assert [each["class"] for each in cells[:4]] == ["shade right", *["shade"] * 3]
    assert len(page.all("svg")) == 1, "the reliability diagram"


@pytest.mark.parametrize("n_classes", [13, 102])
def test_many_classes(tmp_path, n_classes):
    labels = [f"class {number}" for number in range(n_classes)]
    predicted = list(range(n_classes)) * 3
    y = list(predicted)
    y[7] = 11
    page = page_of_case(tmp_path, labels, predicted, y)
    assert len(page.all("svg")) == 2
    assert "class 11 predicted as class 7: 1 image" in page.text
    assert ("The numbers of the classes are in the table below" in page.text) == (n_classes > 40)
    table = page.text.split("Metrics of each class")[1]
    assert ("number in the matrix" in table) == (n_classes > 40)
    assert ("8 class 7 80.0%" in table) == (n_classes > 40), "the number in the heat map"
    rows = re.findall(r"(class \d+) (\d+\.\d%)", table)
    assert rows[0] == ("class 7", "80.0%")
    assert len(rows) == n_classes
    assert [float(row[1][:-1]) for row in rows] == sorted(float(row[1][:-1]) for row in rows)
    assert page.text.count("Top-5 accuracy") == 1
    assert "Not defined" not in page.text


def test_class_without_images_comes_last_without_figures(tmp_path):
    page = page_of_case(tmp_path, ["a", "b", "c"], [1, 1, 2], [1, 1, 2])
    table = page.text.split("Metrics of each class")[1].split("Calibration")[0]
    assert table.rstrip().endswith(" a – – – 0 0")


def test_no_mistakes(tmp_path):
    page = page_of_case(tmp_path, ["a", "b"], [0, 1], [0, 1])
    assert "Nothing was confused." in page.text
    assert "There are none." in page.text
    assert not page.all("img")


def test_random_weights_are_marked(codes, head, small, tmp_path):
    Report(tmp_path / "random").write(evaluate(head, codes))
    Report(tmp_path / "trained").write(evaluate(*small))
    text = page_of(tmp_path / "random").text
    for name in ("Accuracy", "Balanced accuracy", "Log loss", "Calibration error"):
        assert f"{name} (random weights)" in text
    assert "say nothing about a trained network" in text
    assert "random weights" not in page_of(tmp_path / "trained").text


HOSTILE = "<script>alert(1)</script>\"' & {{ 7*7 }} $x$ \x1b[31m\n\u202eevil"


@pytest.mark.parametrize("n_classes", [2, 20])
def test_hostile_names_come_out_as_text(tmp_path, n_classes):
    labels = [HOSTILE, "b\udcff", *map(str, range(2, n_classes))]
    head = write_head(tmp_path / "head.onnx", labels, training={HOSTILE: {HOSTILE: HOSTILE}})
    codes = write_labelled_codes(
        tmp_path / "codes.h5",
        logits_of([1, 0, 0], n_classes),
        [0, 1, 0],
        labels,
        paths=["a\udcff.png", f"x/{HOSTILE}.png", "c.png"],
        source=HOSTILE,
        skipped=[(HOSTILE, HOSTILE)],
    )
    Report(tmp_path / "report").write(evaluate(head, codes))
    page = page_of(tmp_path / "report")
    assert not page.all("script")
    shown = "<script>alert(1)</script>\"' & {{ 7*7 }} $x$ \\x1b[31m\\n\\u202eevil"
    assert f"{shown} predicted as b\\udcff: 1 image" in page.text
    assert f"x/{shown}.png" in page.text
    assert not re.search(
        "[\x00-\x09\x0b-\x1f\u202a-\u202e]", (tmp_path / "report/index.html").read_text("utf-8")
    )
    result = json.loads((tmp_path / "report" / "evaluation.json").read_text("utf-8"))
    assert result["mistakes"][0]["label"] in labels


def test_curves_are_shown(small, tmp_path):
    evaluation = evaluate(*small)
    curves = [make_curve(), make_curve("two.h5", backbone="<b>", weights="random:0")]
    last = CurvePoint(64, 640, 1.0, (0.8,))
    points = (*curves[0].points, last)
    curves[0] = replace(curves[0], notes=("a note of the curve",), points=points, majority=0.25)
    page = Page(render(evaluation, curves, []))
    assert "Learning curve: would more images help?" in page.text
    assert "<b>, random weights" in page.text
    assert "codes.h5: a note of the curve" in page.text
    assert "two.h5 1 10 45.0% (random weights) 7.1%" in page.text
    assert "codes.h5 64 640 80.0% one fit" in page.text
    assert "codes.h5 always predicting the most common class 25.0%" in page.text
    assert f"codes.h5: {curves[0].summary}." in page.text
    assert f"two.h5: {curves[1].summary}. (random weights)" in page.text
    assert len(page.all("svg")) == 2
    assert "Learning curve" not in Page(render(evaluation, [], [])).text


def write_photos(folder, n):
    """Photographs, as `write_codes` calls them, and their digests."""
    folder.mkdir()
    digests = []
    for number in range(n):
        Image.new("RGB", (300, 200), (10 * number, 128, 255)).save(folder / f"{number}.png")
        digests.append(hashlib.sha256((folder / f"{number}.png").read_bytes()).hexdigest())
    return digests


@pytest.fixture
def illustrated(tmp_path):
    """A head, and codes of six photographs in a folder, all of them mistaken."""
    digests = write_photos(tmp_path / "photos", 6)
    head = write_head(tmp_path / "head.onnx", ["a", "b"])
    logits = [[1 - number / 10, 0] for number in range(6)]
    codes = write_labelled_codes(
        tmp_path / "codes.h5", logits, [1] * 6, ["a", "b"], source=tmp_path / "photos"
    )
    with h5py.File(codes, "r+") as file:
        file["digests"][:] = np.array(digests, "S64")
    return head, codes, tmp_path / "photos"


def pictures(page):
    return [
        Image.open(io.BytesIO(base64.b64decode(each["src"].partition(",")[2])))
        for each in page.all("img")
    ]


def test_gallery_shows_the_images(illustrated, tmp_path):
    head, codes, _ = illustrated
    Report(tmp_path / "report").write(evaluate(head, codes))
    page = page_of(tmp_path / "report")
    shown = pictures(page)
    assert [image.size for image in shown] == [(300, 200)] * 6
    for number, image in enumerate(shown):
        assert image.format == "JPEG"
        middle = image.width // 2, image.height // 2
        assert image.getpixel(middle) == pytest.approx((10 * number, 128, 255), abs=4)
    p = np.exp(1) / (np.exp(1) + 1)
    assert f"b, predicted as a with {p:.1%} 0.png b, predicted as a" in page.text


def test_pictures_are_upright_and_not_larger_than_is_useful(illustrated, tmp_path):
    head, codes, photos = illustrated
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (900, 600)).save(photos / "0.png", exif=exif)
    with h5py.File(codes, "r+") as file:
        digest = hashlib.sha256((photos / "0.png").read_bytes()).hexdigest()
        file["digests"][0] = digest.encode()
    Report(tmp_path / "report").write(evaluate(head, codes))
    assert pictures(page_of(tmp_path / "report"))[0].size == (267, 400)


@pytest.mark.parametrize("width", [390, 1280])
def test_page_in_a_browser(illustrated, tmp_path, browser, width):
    head, codes, _ = illustrated
    Report(tmp_path / "report").write(evaluate(head, codes))
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto((tmp_path / "report" / "index.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    picture = page.locator(".gallery img").first
    assert picture.evaluate("each => getComputedStyle(each).objectFit") == "contain"
    small = picture.bounding_box()
    assert small["width"] < width / 2
    picture.click()
    assert picture.bounding_box() == {"x": 0, "y": 0, "width": width, "height": 800}
    page.keyboard.press("Space")
    assert picture.bounding_box()["width"] == small["width"]
    overlap = """() => [...document.querySelectorAll("tbody .bar")].every(bar => {
        const number = document.createRange();
        number.selectNode(bar.previousSibling);
        return number.getBoundingClientRect().right <= bar.getBoundingClientRect().left;
    })"""
    assert page.evaluate(overlap)


def test_image_that_is_gone_or_another_is_not_shown(illustrated, tmp_path):
    head, codes, photos = illustrated
    (photos / "1.png").unlink()
    Image.new("RGB", (9, 9), "red").save(photos / "2.png")
    (photos / "3.png").write_bytes(b"no image")
    Report(tmp_path / "report").write(evaluate(head, codes))
    page = page_of(tmp_path / "report")
    assert len(pictures(page)) == 3
    assert page.text.count("image not found") == 1
    assert page.text.count("file changed since") == 2


def test_image_that_cannot_be_decoded_is_reported(illustrated):
    head, codes, photos = illustrated
    (photos / "0.png").write_bytes(b"no image")
    mistake = evaluate(head, codes).mistakes[0]
    changed = replace(mistake, digest=hashlib.sha256(b"no image").hexdigest())
    (thumbnail,) = thumbnails([changed], photos)
    assert thumbnail.picture.uri == ""
    assert thumbnail.picture.problem.startswith("not a JPEG")


def test_images_may_have_moved(illustrated, tmp_path, run):
    head, codes, photos = illustrated
    photos.rename(tmp_path / "elsewhere")
    run("evaluate", head, codes, "--report", tmp_path / "one")
    assert not page_of(tmp_path / "one").all("img")
    warned = run("evaluate", head, codes, "--report", tmp_path / "zero").stderr
    assert warned == (
        f"note: no picture of 6 mistakes in the report, since the files are not in {photos}; "
        "--images FOLDER names where they are now\n"
    )
    run("evaluate", head, codes, "--report", tmp_path / "two", "--images", tmp_path / "elsewhere")
    assert len(page_of(tmp_path / "two").all("img")) == 6
    deep = tmp_path / "archive" / "2026"
    deep.mkdir(parents=True)
    for number, path in enumerate(sorted((tmp_path / "elsewhere").iterdir())):
        path.rename(deep / f"renamed {number}.png")
    archive = ("--images", tmp_path / "archive")
    result = run("evaluate", head, codes, "--report", tmp_path / "by content", *archive)
    assert len(page_of(tmp_path / "by content").all("img")) == 6
    assert "no picture" not in result.stderr
    message = error_of("evaluate", head, codes, "--report", tmp_path / "three", "--images", photos)
    assert f"{photos}: no such folder; name the one that holds the images" in message
    null = ("--report", tmp_path / "three", "--images", os.devnull)
    message = error_of("evaluate", head, codes, *null)
    assert f"{os.devnull}: is no folder; name the one that holds the images" in message


@pytest.mark.parametrize("is_there", [True, False])
def test_images_of_a_csv_file_lie_beside_it(illustrated, tmp_path, is_there):
    head, codes, photos = illustrated
    with h5py.File(codes, "r+") as file:
        file.attrs["source"] = str(photos / "labels.csv")
    if is_there:
        (photos / "labels.csv").write_text("path,label\n")
    Report(tmp_path / "report").write(evaluate(head, codes))
    assert len(page_of(tmp_path / "report").all("img")) == 6


def test_report_of_an_app_shows_its_images(app, photos, tmp_path, run):
    run("evaluate", app, photos, "--report", tmp_path / "report")
    page = page_of(tmp_path / "report")
    result = json.loads((tmp_path / "report" / "evaluation.json").read_text("utf-8"))
    assert len(page.all("img")) == len(result["mistakes"]) > 0
    assert "an app" in page.text


@pytest.mark.parametrize("name", ["index.html", "evaluation.json"])
def test_report_that_is_there_is_kept_unless_overwritten(small, tmp_path, run, name):
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / name).write_text("mine")
    (folder / "other").write_text("too")
    message = error_of("evaluate", *small, "--report", folder)
    assert message.startswith(f"Error: {folder / name}: exists already; ")
    assert sorted(path.name for path in folder.iterdir()) == sorted([name, "other"])
    run("evaluate", *small, "--report", folder, "--overwrite")
    assert "75.0%" in page_of(folder).text
    assert (folder / "other").read_text() == "too"


def test_report_where_none_can_be(small, tmp_path):
    (tmp_path / "file").write_text("mine")
    message = error_of("evaluate", *small, "--report", tmp_path / "file", "--overwrite")
    assert message == f"Error: {tmp_path / 'file'}: is not a folder; name a folder for the report"
    message = error_of("evaluate", *small, "--report", tmp_path / "absent" / "report")
    assert "does not exist; create it first" in message


def test_report_never_replaces_what_it_is_made_from(small, tmp_path):
    head, codes = small
    folder = tmp_path / "report"
    folder.mkdir()
    shutil.move(codes, folder / "index.html")
    message = error_of("evaluate", head, folder / "index.html", "--report", folder, "--overwrite")
    assert "is what the result is made from" in message


def test_failed_evaluation_leaves_no_report(small, tmp_path):
    with h5py.File(small[1], "r+") as file:
        file["codes"][4, 1] = np.nan
    error_of("evaluate", *small, "--report", tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_failed_write_leaves_no_folder(small, tmp_path, monkeypatch):
    evaluation = evaluate(*small)
    report = Report(tmp_path / "report")

    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match="No space left on device"):
        report.write(evaluation)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_missing_packages_are_reported_before_any_work(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    absent = tmp_path / "absent.onnx"
    message = error_of("evaluate", absent, tmp_path / "absent.h5", "--report", tmp_path / "report")
    assert message == (
        "Error: a report needs matplotlib and jinja2; pip install 'cnncodes[report]'"
    )


def test_evaluation_needs_neither(small, monkeypatch, run):
    for package in ("matplotlib", "jinja2"):
        monkeypatch.setitem(sys.modules, package, None)
    assert "accuracy" in run("evaluate", *small).stdout


def test_curve_that_cannot_be_read_is_reported_before_any_work(small, tmp_path):
    absent = tmp_path / "absent.json"
    message = error_of("evaluate", *small, "--report", tmp_path / "report", "--curve", absent)
    assert str(absent) in message
    assert not (tmp_path / "report").exists()
