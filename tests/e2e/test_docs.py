"""The pages in docs: the generated ones are current, and what the tutorial shows is printed."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers import run_program

DOCS = Path(__file__).parent.parent.parent / "docs"
TUTORIAL = (DOCS / "tutorial.md").read_text("utf-8")
# What differs with the weights: confusions, the curve's conclusion, settings of quantization; and
# with TensorFlow, how close the codes are to Keras's.
VARYING = re.compile("^(note: |from N |C predicted as C|check |calibration ranges)")


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_docs", DOCS / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs of the tutorial."""
    folder = tmp_path_factory.mktemp("tutorial")
    subprocess.run([sys.executable, DOCS / "tutorial_photos.py", folder], check=True)
    return folder


def test_reference_of_the_commands_is_current() -> None:
    """In a process of its own: parsing a command line leaves traces in click's parameters."""
    code = "import runpy; print(runpy.run_path('docs/build.py')['command_reference'](), end='')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=DOCS.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout == (DOCS / "cli.md").read_text("utf-8"), "run: python docs/build.py"


def test_index_names_every_page() -> None:
    index = (DOCS / "README.md").read_text("utf-8")
    pages = {path.name for path in DOCS.glob("*.md")} - {"README.md"}
    assert set(re.findall(r"^- \[.*?\]\((.*?)\): ", index, flags=re.MULTILINE)) == pages


def _masked(page: str, classes: list[str]) -> set[str]:
    """Return the lines of a page's console blocks, with what may differ masked."""
    lines = "".join(re.findall(r"^```console\n(.*?)^```$", page, flags=re.M | re.S)).splitlines()
    masked = set()
    for line in lines:
        line = line.replace("  (random weights)", "")
        line = re.sub(r"random weights \(seed 0\)|weights of \S+ \(\w{8}\)", "WEIGHTS", line)
        line = re.sub(rf"\b({'|'.join(classes)})\b", "C", line)
        line = re.sub(r"\d[\d.,]*", "N", line)
        line = line.replace("N iterations", "N iteration")
        masked.add(" ".join(line.split()))
    return {line for line in masked if not VARYING.search(line)}


def test_tutorial_names_what_has_to_be_installed() -> None:
    before, after = TUTORIAL.split("tutorial_photos.py .\n")
    assert "pip install 'cnncodes[report]'\n" in before
    assert "pip install scikit-image\n" in before
    assert "--report" in after


def test_tutorial_names_each_photograph_that_it_gets_wrong_with_confidence() -> None:
    """Photographs are numbered through the classes, in the order of their names."""
    predicted = re.findall(r"^new/(IMG_(\d+))\.jpg  (\w+) +([\d.]+)%", TUTORIAL, flags=re.M)
    assert len(predicted) == 8
    classes = sorted(re.findall(r"(\w+) 24\b", TUTORIAL))
    text = re.sub(r"^```.*?^```$", "", TUTORIAL, flags=re.M | re.S)
    for name, number, label, percent in predicted:
        is_wrong = label != classes[(int(number) - 1) // 25]
        assert (f"`{name}`" in text) == (is_wrong and float(percent) > 60)


def test_tutorial_prints_what_its_page_shows(build: ModuleType, photos: Path) -> None:
    classes = sorted(each.name for each in (photos / "photos").iterdir())
    added = {"cnncodes export inception_v3": "--weights random --input-size 75"}
    page = build.run_page(TUTORIAL, lambda each: build.run_in_shell(each, photos, added))
    assert _masked(page, classes) == _masked(TUTORIAL, classes)
    (program,) = re.findall(r"^```python\n(.*?)^```$", TUTORIAL, flags=re.M | re.S)
    lines = run_program(program, photos).stdout.splitlines()
    answers = dict(line.split(maxsplit=1) for line in lines)
    assert answers.keys() == {path.name for path in (photos / "new").iterdir()}
    assert set(answers.values()) <= {*classes, "not sure"}
