"""Every command and program in the README is run, in an empty folder, in its order."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from cnncodes import Classifier
from cnncodes.cli import main
from cnncodes.export.backbones import BACKBONES
from cnncodes.images.decoding import decode_image
from tests.helpers import run_program

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.removeprefix("$ ")
    for language, block in BLOCKS
    if language == "console"
    for line in block.splitlines()
]
PROGRAMS = [block for language, block in BLOCKS if language == "python"]
(WITHOUT_PACKAGE,) = (each for each in PROGRAMS if "InferenceSession" in each)

# These set things up for a person; test_distribution.py installs the wheel, .ci/run runs make.
RUN_ELSEWHERE = ("pip install cnncodes", "make demo", "make test")
# The first runs until it is stopped, the second needs npm: tests/serve and tests/page.
PAGES = ("cnncodes serve app.onnx", "cnncodes page app.onnx -o page")
# ImageNet's weights would have to be downloaded; large images and exact figures take time only.
ADDED = {
    "cnncodes export inception_v3": "--weights random --input-size 75",
    "cnncodes bench inception_v3.onnx inception_v3.int8.onnx": "--seconds 0.01",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """A newcomer's folder: photographs in class folders, and a new one."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(photos, folder / "photos")
    shutil.copy(next(photos.rglob("*.png")), folder / "new.jpg")
    return folder


def test_blocks_are_commands_or_programs() -> None:
    assert {language for language, _ in BLOCKS} == {"console", "python"}
    assert [each for each in COMMANDS if not each.startswith("cnncodes ")] == [*RUN_ELSEWHERE]
    names = {command.split()[1] for command in COMMANDS if command.startswith("cnncodes ")}
    elsewhere = {"info", "demo", "fetch", "merge", "overlap", "experiment", "finetune"}
    assert names == {*main.commands} - elsewhere


def test_make_targets_that_the_readme_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in ("demo", "test"):
        assert re.search(f"^{target}:", makefile, flags=re.MULTILINE)
        assert f"make {target}" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_commands_and_programs_run(folder: Path) -> None:
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    assert ADDED.keys() <= set(COMMANDS)
    for command in COMMANDS:
        if command in (*RUN_ELSEWHERE, *PAGES):
            continue
        done = subprocess.run(
            ["bash", "-c", f"{command} {ADDED.get(command, '')}"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert len(PROGRAMS) == 3
    answers = [run_program(program, folder).stdout for program in PROGRAMS]
    assert 0 <= float(answers[0]) <= 1
    label = re.search(r"label='(\d)'", answers[1])
    assert label is not None
    assert answers[2].split()[0] == label.group(1)


def test_program_without_the_package_is_an_example() -> None:
    example = (ROOT / "examples" / "ten_lines.py").read_text("utf-8")
    assert example.split('"""\n\n', 1)[1] == WITHOUT_PACKAGE


def _photo(width: int = 90, height: int = 70) -> Image.Image:
    """A colour gradient with a noisy bright disc: no two of its eight orientations are alike."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 40, (height, width, 3))
    colours = np.stack([2 * x, 2 * y, x + y], axis=2) + noise
    colours[(x - 30) ** 2 + (y - 25) ** 2 < 300] += 60
    return Image.fromarray(colours.clip(0, 255).astype(np.uint8))


def _masked(image: Image.Image) -> Image.Image:
    """The same image, transparent to the left and half so in the middle."""
    mask = Image.linear_gradient("L").rotate(90).resize(image.size)
    layers = [*image.split(), mask.point(lambda value: max(0, min(255, 2 * value - 100)))]
    return Image.merge("RGBA" if len(layers) == 4 else "LA", layers)


def _deep(scale: int = 257, photo: Image.Image | None = None) -> Image.Image:
    grey = np.asarray((photo or _photo()).convert("L")).astype(np.uint16)
    return Image.fromarray(grey * scale + grey // 3)


def _write_images(folder: Path) -> None:
    """Write each kind of image whose decoding has a rule of its own."""
    photo, grey = _photo(), _photo().convert("L")
    palette = photo.quantize(16)
    for name, image, options in (
        ("rgb.png", photo, {}),
        ("rgba.png", _masked(photo), {}),
        ("rgba.webp", _masked(photo), {"lossless": True}),
        ("la.png", _masked(grey), {}),
        ("index.png", palette, {"transparency": 3}),
        ("bytes.png", palette, {"transparency": bytes(range(0, 256, 17))}),
        ("rgb_key.png", photo, {"transparency": photo.getpixel((20, 20))}),
        ("l_key.png", grey, {"transparency": grey.getpixel((20, 20))}),
        ("bilevel.png", photo.convert("1"), {}),
        ("bilevel_key.png", photo.convert("1"), {"transparency": 0}),
        ("deep.png", _deep(), {}),
        ("deep_key.png", _deep(), {"transparency": _deep().getpixel((20, 20))}),
        ("deep.tif", _deep(), {}),
        ("cmyk.jpg", photo.convert("CMYK"), {}),
        ("cmyk.tif", photo.convert("CMYK"), {}),
        ("animated.gif", palette, {"save_all": True, "append_images": [photo.rotate(180)]}),
        ("animated.webp", photo, {"save_all": True, "append_images": [photo.rotate(180)]}),
        ("large.jpg", _photo(1300, 900), {}),
        ("large.png", _masked(_photo(1300, 900)), {}),
        ("large_deep.png", _deep(photo=_photo(1300, 900)), {}),
    ):
        image.save(folder / name, **options)
    big_endian = _deep()
    Image.frombytes("I;16B", big_endian.size, np.asarray(big_endian).astype(">u2").tobytes()).save(
        folder / "deep_big_endian.tif"
    )
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        photo.save(folder / f"turned{orientation}.jpg", exif=exif)
        _deep().save(folder / f"turned{orientation}.png", exif=exif)
        _masked(photo).save(folder / f"masked{orientation}.png", exif=exif)


def _run_without_package(image: Path) -> dict[str, Any]:
    """Run the README's program on an image, beside ``app.onnx``; return its variables."""
    assert WITHOUT_PACKAGE.count('"new.jpg"') == 1
    variables: dict[str, Any] = {}
    exec(WITHOUT_PACKAGE.replace('"new.jpg"', repr(str(image))), variables)
    return variables


@pytest.fixture
def beside_app(app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(app, tmp_path / "app.onnx")
    (tmp_path / "images").mkdir()
    return tmp_path


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # it leaves files to be closed at its end
def test_program_without_the_package_answers_as_the_classifier(
    beside_app: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier = Classifier("app.onnx")
    _write_images(beside_app / "images")
    paths = sorted((beside_app / "images").iterdir())
    assert len(paths) == 45
    for path in paths:
        actual = _run_without_package(path)
        if not path.name.startswith("large"):  # of large images both see nearly the same
            wanted = decode_image(path.read_bytes(), classifier.input_size)
            np.testing.assert_array_equal(np.asarray(actual["pixels"]), wanted, path.name)
        best, *_ = predictions = classifier.predict(path)
        by_label = {each.label: each.probability for each in predictions}
        np.testing.assert_allclose(
            actual["probabilities"], [by_label[label] for label in classifier.labels], atol=0.02
        )
        assert capsys.readouterr().out.split()[0] == best.label, path.name


def test_program_without_the_package_scales_by_the_white_of_the_app(beside_app: Path) -> None:
    model = onnx.load("app.onnx")
    model.metadata_props.add(key="cnncodes.white", value="4095")
    onnx.save(model, "app.onnx")
    twelve_bits = np.asarray(_photo().convert("L")).astype(np.float64) * (4095 / 255)
    for name, array in (("deep.png", twelve_bits.round()), ("over.png", 20 * twelve_bits)):
        Image.fromarray(array.clip(0, 65535).astype(np.uint16)).save(beside_app / name)
    actual = np.asarray(_run_without_package(beside_app / "deep.png")["image"])
    np.testing.assert_array_equal(actual, np.asarray(_photo().convert("L").convert("RGB")))
    over = np.asarray(_run_without_package(beside_app / "over.png")["image"])
    assert over.max() == 255
    assert (over[20 * twelve_bits > 4095] == 255).all()


@pytest.mark.parametrize(
    "page",
    [
        *("README.md", "CONTRIBUTING.md", "CHANGELOG.md"),
        *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
    ],
)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert ((ROOT / page).parent / link).exists(), link


def test_docstring_of_each_folder_names_its_modules() -> None:
    package = ROOT / "cnncodes"
    for folder in (each.parent for each in package.rglob("__init__.py")):
        if folder in (package, package / "__pyinstaller"):
            continue
        text = (folder / "__init__.py").read_text("utf-8").split('"""')[1]
        listed = re.findall(r"^- `(\w+)`: ", text, flags=re.MULTILINE)
        there = {path.stem for path in folder.glob("*.py") if path.stem != "__init__"}
        assert there == set(listed), folder


def test_each_fault_is_backed_by_a_test_that_is_there() -> None:
    rows = [
        line
        for line in (ROOT / "docs" / "reliability.md").read_text("utf-8").splitlines()
        if line.startswith("| ") and not line.startswith(("| fault", "| ---"))
    ]
    assert len(rows) > 5
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row)
        assert named, row
        for file, test in named:
            assert f"def {test}(" in (ROOT / file).read_text("utf-8"), row


def test_drawing_names_the_networks_and_the_commands() -> None:
    drawn = (ROOT / "docs" / "chain.svg").read_text("utf-8")
    visible = re.sub(r"<[^>]*>", " ", drawn[drawn.index("</style>") :])
    letters = re.sub("[^a-z0-9]", "", visible.lower())
    for name in BACKBONES:
        assert name.replace("_", "") in letters
    chain = {"export", "quantize", "extract", "train", "evaluate", "curve", "bundle", "predict"}
    assert chain <= set(main.commands)
    assert chain <= set(re.findall(r"\w+", visible))
