"""The examples of docs/serve.md are run, and its bounds are those of the server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cnncodes import Classifier
from cnncodes.serve.limits import MB, Limits
from tests.helpers import run_program
from tests.serve.servers import Server

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, photos: Path, images: list[Path]) -> Path:
    shutil.copytree(photos / "7", tmp_path / "new")
    shutil.copy(images[0], tmp_path / "new.jpg")
    (tmp_path / "other.jpg").write_bytes(images[1].read_bytes()[:100])
    return tmp_path


def test_commands_answer_as_shown(server: Server, app: Path, folder: Path) -> None:
    predict, explain = (
        block.replace(f"{ADDRESS}/", server.url).replace("label=cat", "label=7")
        for block in blocks("bash")
    )
    answers = [
        json.loads(
            subprocess.run(
                ["bash", "-c", command], cwd=folder, capture_output=True, check=True
            ).stdout
        )
        for command in (predict, explain)
    ]
    shown = json.loads(blocks("json")[0])
    for actual, example in zip(answers[0]["results"], shown["results"], strict=True):
        assert actual.keys() == example.keys()
        assert actual["name"] == example["name"]
        assert len(actual["predictions"]) == len(example["predictions"])
        assert bool(actual["problem"]) == bool(example["problem"])
    wanted = Classifier(app).explain(folder / "new.jpg", "7")
    assert answers[1]["logit"] == pytest.approx(wanted.logit, rel=1e-3)


def test_program_runs(server: Server, folder: Path) -> None:
    (program,) = blocks("python")
    printed = run_program(program.replace(f"{ADDRESS}/", server.url), folder).stdout
    lines = printed.splitlines()
    assert len(lines) == len(list((folder / "new").iterdir()))
    assert all(re.fullmatch(r"\S+\.png \d", line) for line in lines)


def test_bounds_are_those_of_the_server() -> None:
    limits = Limits()
    rows = dict(re.findall(r"^\| (.*?) \| (.*?) \|", PAGE, flags=re.MULTILINE))
    for name, value in (
        ("requests that are received or answered at a time", f"{limits.max_requests}"),
        ("bodies of all of these", f"{limits.max_held / MB:g} MB"),
        ("images that wait for a worker", f"{limits.max_waiting}"),
        ("time for the answer", f"{limits.seconds_to_answer:g} s"),
        ("body of a request", f"{limits.max_body / MB:g} MB"),
        ("files, and other fields, of a request", f"{limits.max_files}, and {limits.max_fields}"),
        ("time to send the head of a request, and its body", f"{limits.seconds_to_send:g} s each"),
        ("pixels of an image", f"{limits.max_pixels / 1e6:g} million"),
    ):
        assert rows[name] == value
