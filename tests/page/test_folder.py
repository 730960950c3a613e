"""The folder in a real browser, opened from the disk, against `Classifier` in this process."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from cnncodes import Classifier
from cnncodes.page.folder import RUNTIME_VERSION
from tests.conftest import Exports
from tests.helpers import error_of, make_app, names_in, run_command

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The npm package, as ``npm pack`` gets it."""
    folder = tmp_path_factory.mktemp("npm")
    subprocess.run(
        ["npm", "pack", "--silent", f"onnxruntime-web@{RUNTIME_VERSION}"], cwd=folder, check=True
    )
    (packed,) = folder.iterdir()
    return packed


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, exports: Exports, photos: Path) -> Path:
    """Of MobileNetV2, which a browser opens ten times as fast as InceptionV3."""
    backbone = exports.get("mobilenet_v2", "--input-size", "96", "--pool", "avg")
    return make_app(tmp_path_factory.mktemp("app"), backbone, photos)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, app: Path, package: Path) -> Path:
    path = tmp_path_factory.mktemp("pages") / "page"
    done = run_command("page", app, "-o", path, "--runtime", package)
    assert re.match(rf"{path}: 10 classes, \d+ MB; open {path}/index.html\n", done.stdout)
    return path


@pytest.fixture
def images(tmp_path: Path, photos: Path) -> list[Path]:
    """A picture of each kind whose way to pixels differs."""
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((800, 600))
    digit = Image.open(sorted(photos.rglob("*.png"))[7])
    exif = Image.Exif()
    exif[0x0112] = 6
    saved = {
        "digit.png": (digit, {}),
        "small.png": (smooth.resize((20, 30)), {}),
        "large.png": (smooth, {}),  # blocks of pixels are averaged first
        "odd.png": (smooth.crop((0, 0, 797, 151)), {}),
        "palette.gif": (smooth.resize((90, 70)).convert("P"), {}),
        "clear.png": (smooth.resize((90, 70)).convert("LA"), {}),
        "photo.jpg": (smooth.resize((120, 100)), {"quality": 90}),
        "turned.jpg": (smooth.resize((120, 100)), {"quality": 90, "exif": exif}),
    }
    clear = saved["clear.png"][0]
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    for name, (image, options) in saved.items():
        image.save(tmp_path / name, **options)
    return [tmp_path / name for name in saved]


def opened(browser: Browser, folder: Path, **options: object) -> Page:
    page = browser.new_page(**options)
    page.on("pageerror", lambda error: pytest.fail(str(error)))
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto((folder / "index.html").as_uri())
    page.requests = requests  # type: ignore[attr-defined]
    return page


def classify(page: Page, paths: list[Path]) -> list[dict[str, str]]:
    """Choose files; return the rows of the CSV file that the page offers."""
    page.set_input_files("#choose", paths)
    page.wait_for_selector("#download:enabled", timeout=120_000)
    with page.expect_download() as download:
        page.click("#download")
    return list(csv.DictReader(io.StringIO(download.value.path().read_text("utf-8"))))


def test_answers_equal_those_of_python(
    browser: Browser, folder: Path, app: Path, images: list[Path]
) -> None:
    page = opened(browser, folder)
    assert "10 classes" in page.text_content("#about")
    assert "nothing is sent anywhere" in page.text_content("#privacy")
    rows = classify(page, images)
    classifier = Classifier(app)
    for path in images:
        wanted = {each.label: each.probability for each in classifier.predict(path, top=5)}
        actual = {
            each["label"]: float(each["probability"]) for each in rows if each["path"] == path.name
        }
        assert actual == pytest.approx(wanted, abs=1e-3), path.name
    assert all(url.startswith(("file:", "blob:", "data:")) for url in page.requests)


EXPLAIN = """
([bytes, label]) => cnncodes.backend.explain(new File([Uint8Array.from(bytes)], "photo"), label)
"""


@pytest.mark.parametrize(
    ("pool", "normalize"),
    [
        ("none", "none"),
        ("avg", "none"),
        ("max", "none"),
        ("avg", "sqrt+length"),
        ("none", "length"),
    ],
)
def test_evidence_equals_that_of_python(
    browser: Browser,
    tmp_path: Path,
    exports: Exports,
    photos: Path,
    package: Path,
    images: list[Path],
    pool: str,
    normalize: str,
) -> None:
    backbone = exports.get("mobilenet_v2", "--input-size", "96", "--pool", pool)
    options = () if normalize == "none" else ("--normalize", normalize)
    app, output = make_app(tmp_path, backbone, photos, *options), tmp_path / "page"
    run_command("page", app, "-o", output, "--runtime", package)
    page = opened(browser, output)
    classify(page, images[:1])
    page.hover(".classes button")
    page.wait_for_selector(".evidence:not(:empty)")
    assert page.is_visible(".picture canvas")
    classifier = Classifier(app)
    best = classifier.explain(images[0])
    assert page.text_content(".evidence").startswith(f"Evidence for {best.label}: ")
    for label in classifier.labels[::4]:
        wanted = classifier.explain(images[0], label)
        actual = page.evaluate(EXPLAIN, [list(images[0].read_bytes()), label])
        assert actual["logit"] == pytest.approx(wanted.logit, abs=1e-3)
        assert actual["bias"] == pytest.approx(wanted.bias)
        scale = float(np.abs(wanted.contributions).max())
        contributions = np.array(actual["contributions"])
        assert contributions == pytest.approx(wanted.contributions, abs=1e-3 * scale)


def test_images_that_a_browser_cannot_use(
    browser: Browser, folder: Path, images: list[Path], tmp_path: Path
) -> None:
    deep, damaged, text = (tmp_path / name for name in ("deep.png", "damaged.png", "text.jpg"))
    Image.fromarray(np.full((8, 8), 500, np.uint16)).save(deep)
    damaged.write_bytes(images[0].read_bytes()[:60])
    text.write_text("no image")
    page = opened(browser, folder)
    rows = classify(page, [deep, damaged, images[0], text])
    problems = {row["path"]: row["problem"] for row in rows if row["problem"]}
    assert problems.keys() == {"deep.png", "damaged.png", "text.jpg"}
    assert "16-bit grey" in problems["deep.png"]
    assert "not an image that this browser can decode" in problems["text.jpg"]
    assert [row["label"] for row in rows if row["path"] == images[0].name]


def test_page_fits_a_phone_and_is_accessible(
    browser: Browser, folder: Path, images: list[Path]
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = opened(browser, folder, viewport={"width": 390, "height": 844}, bypass_csp=True)
    classify(page, images[:3])
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    findings = Axe().run(page).response["violations"]
    assert not [each["id"] for each in findings if each["impact"] in ("serious", "critical")]


def test_head_that_is_not_linear(
    browser: Browser,
    tmp_path: Path,
    exports: Exports,
    photos: Path,
    package: Path,
    images: list[Path],
) -> None:
    backbone = exports.get("mobilenet_v2", "--input-size", "96", "--pool", "avg")
    app, output = make_app(tmp_path, backbone, photos, "--estimator", "knn"), tmp_path / "page"
    run_command("page", app, "-o", output, "--runtime", package)
    page = opened(browser, output)
    rows = classify(page, images[:1])
    assert len(rows) == 5
    page.hover(".classes button")
    page.wait_for_selector(".evidence:not(:empty)")
    assert page.text_content(".evidence") == "No evidence map: its head is not linear"


def test_package_is_got_by_npm(tmp_path: Path, app: Path) -> None:
    done = run_command("page", app, "-o", tmp_path / "page")
    assert done.stderr == f"note: getting onnxruntime-web {RUNTIME_VERSION} by npm, 30 MB\n"
    assert (tmp_path / "page" / "index.html").is_file()
    assert names_in(tmp_path) == ["page"]


def test_without_npm(tmp_path: Path, app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    error = error_of("page", app, "-o", tmp_path / "page")
    assert "install npm, or name the package by --runtime FILE" in error
    assert names_in(tmp_path) == []


def test_what_cannot_be_written_or_read_is_refused(
    tmp_path: Path, app: Path, head: Path, package: Path, folder: Path
) -> None:
    mine, file = tmp_path / "mine", tmp_path / "file"
    mine.mkdir()
    (mine / "index.html").write_text("kept")
    file.write_text("kept")
    for output, options, text in (
        (mine, [], "exists already; choose another name or pass --overwrite"),
        (mine, ["--overwrite"], "is not a folder of this command"),
        (file, ["--overwrite"], "is not a folder"),
        (tmp_path / "absent" / "page", [], "does not exist"),
    ):
        assert text in error_of("page", app, "-o", output, "--runtime", package, *options)
    output = tmp_path / "page"
    assert "is a head" in error_of("page", head, "-o", output, "--runtime", package)
    for runtime, text in (
        (file, "is not the npm package onnxruntime-web"),
        (mine, "has no dist/"),
        (tmp_path / "absent.tgz", "is not the npm package onnxruntime-web"),
    ):
        assert text in error_of("page", app, "-o", output, "--runtime", runtime)
    assert names_in(tmp_path) == ["file", "mine"]
    assert (mine / "index.html").read_text() == file.read_text() == "kept"


def test_page_is_replaced_when_asked(tmp_path: Path, app: Path, package: Path) -> None:
    output = tmp_path / "page"
    for options in ([], ["--overwrite"]):
        run_command("page", app, "-o", output, "--runtime", package, *options)
        assert names_in(tmp_path) == ["page"]
    (output / "stale.js").write_text("")
    run_command("page", app, "-o", output, "--runtime", package, "--overwrite")
    assert not (output / "stale.js").exists()


def test_weights_of_half_precision_are_passed_on(
    tmp_path: Path, small_backbone: Path, head: Path, package: Path
) -> None:
    written = {}
    for options in ((), ("--half",)):
        name = f"app{len(options)}"
        run_command("bundle", small_backbone, head, "-o", tmp_path / f"{name}.onnx", *options)
        output = tmp_path / name
        run_command("page", tmp_path / f"{name}.onnx", "-o", output, "--runtime", package)
        data = (output / "app-data.js").read_text("utf-8")
        described = json.loads(data[data.index("{ app: ") + 7 : data.rindex(" };")])
        written[name] = np.frombuffer(base64.b64decode(described["weights"]), "<f4")
    assert len(written["app0"]) == 2048 * 10
    assert written["app1"] == pytest.approx(written["app0"], rel=1e-3, abs=1e-6)


def test_app_of_a_fixed_batch_is_refused(
    tmp_path: Path, small_backbone: Path, head: Path, package: Path
) -> None:
    """A page classifies one image at a time."""
    app, output = tmp_path / "app.onnx", tmp_path / "page"
    run_command("bundle", small_backbone, head, "-o", app, "--batch", 2)
    error = error_of("page", app, "-o", output, "--runtime", package)
    assert "takes batches of 2 images only" in error
    assert not output.exists()
