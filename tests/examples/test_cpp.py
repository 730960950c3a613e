"""The app in C++, with onnxruntime's headers from Debian and its library from the wheel."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import onnxruntime
import pytest

from tests.examples.conftest import EXAMPLES, Golden, skip_without

# .ci/run puts those of onnxruntime into the second folder where Debian's release has none.
HEADERS = [Path("/usr/include"), Path("/usr/local/include")]
NEEDED = ("onnxruntime/onnxruntime_cxx_api.h", "stb/stb_image.h", "libexif/exif-data.h")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    skip_without("g++", there=shutil.which("g++") is not None)
    for name in NEEDED:
        skip_without(name, there=any((folder / name).exists() for folder in HEADERS))
    folder = tmp_path_factory.mktemp("cpp")
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(library)
    (line,) = re.findall("^// *(g[+][+] .*)$", _source(), flags=re.MULTILINE)
    words = line.replace("classify.cpp", str(EXAMPLES / "cpp" / "classify.cpp")).split()
    extra = [f"-I{each}/onnxruntime" for each in HEADERS] + [f"-L{folder}", f"-Wl,-rpath,{folder}"]
    done = subprocess.run(
        [words[0], *extra, *words[1:]], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "classify"


def _source() -> str:
    return (EXAMPLES / "cpp" / "classify.cpp").read_text("utf-8")


def run_cpp(program: Path, app: Path, *photos: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, app, *photos], capture_output=True, text=True, errors="replace", check=False
    )


def answers_of(program: Path, golden: Golden) -> dict[Path, dict[str, float]]:
    done = run_cpp(program, golden.app, *golden.images)
    assert done.returncode == 0, done.stderr
    answers: dict[Path, dict[str, float]] = {path: {} for path in golden.images}
    for line in sorted(done.stdout.splitlines(), reverse=True):
        probability, rest = line.split(" ", 1)
        label, end = json.JSONDecoder().raw_decode(rest)
        answers[Path(rest[end + 1 :])][label] = float(probability)
    return answers


def test_answers_are_golden(program: Path, golden: Golden) -> None:
    golden.check(answers_of(program, golden), tolerance=2e-3)


def test_photographs_are_decoded_as_the_package_does(program: Path, photographs: Golden) -> None:
    photographs.check(answers_of(program, photographs), tolerance=0.01)


def test_deep_grey_is_refused(program: Path, golden: Golden, deep: Path) -> None:
    done = run_cpp(program, golden.app, deep)
    assert done.returncode != 0
    assert "16 bits" in done.stderr
