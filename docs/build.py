"""Write the generated parts of the documentation.

Usage: python docs/build.py                            the commands' help, docs/cli.md
       python docs/build.py tutorial INCEPTION_V3.h5   the output and pictures of docs/tutorial.md

The tutorial's commands are run in a temporary folder, with the photographs of
``tutorial_photos.py`` and the weights of that file in place of a download, in an environment with
the extra ``report``, scikit-image and playwright. Tests fail when either page is out of date.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import click
from PIL import Image

from cnncodes.cli import main as commands

DOCS = Path(__file__).parent
WIDTH = 100  # columns of help text
COLUMNS, TILE = 12, 80  # of the sheet of photographs; pixels
BLOCK = re.compile(r"^```console\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
PROGRESS = re.compile(r"^.* of .* left$")
INTRODUCTION = """\
# The commands

What `cnncodes COMMAND --help` prints, for reading and searching; `python docs/build.py` writes \
this page.
"""


def command_reference() -> str:
    """Return the content of `docs/cli.md`: the help of the group and of each command."""
    settings = {**commands.context_settings, "max_content_width": WIDTH, "terminal_width": WIDTH}
    group = click.Context(commands, info_name="cnncodes", **settings)
    sections = [_section("cnncodes", commands.get_help(group))]
    for name in commands.list_commands(group):
        command = commands.get_command(group, name)
        assert command is not None
        context = click.Context(command, parent=group, info_name=name)
        sections.append(_section(f"cnncodes {name}", command.get_help(context)))
    return "\n".join([INTRODUCTION, *sections])


def _section(title: str, text: str) -> str:
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return f"## {title}\n\n```text\n{lines}\n```\n"


def run_page(text: str, run: Callable[[str], str]) -> str:
    """Return a page with the output of its commands renewed.

    Parameters
    ----------
    text : str
        A page, in whose console blocks a line ``$ command`` stands before its output.
    run : callable
        Runs a command and returns its output.
    """

    def renewed(block: re.Match[str]) -> str:
        lines = [line for line in block[1].splitlines() if line.startswith("$ ")]
        return "```console\n" + "".join(f"{line}\n{run(line[2:])}" for line in lines) + "```"

    return BLOCK.sub(renewed, text)


def run_in_shell(command: str, folder: Path, added: Mapping[str, str]) -> str:
    """Run a command of a page in a folder; return what it prints, without progress.

    Parameters
    ----------
    command : str
        The command as the page has it.
    folder : Path
        Where it runs.
    added : mapping of str to str
        Options to add to commands, such as weights that are there already.
    """
    scripts = Path(sys.executable).parent
    path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", f"{command} {added.get(command, '')}"],
        cwd=folder,
        env={**os.environ, "PATH": path, "COLUMNS": str(WIDTH)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{command}: exit code {done.returncode}\n{done.stdout}")
    lines = [line for line in done.stdout.splitlines() if not PROGRESS.match(line)]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def build_tutorial(weights: Path) -> None:
    """Renew the output and the pictures of docs/tutorial.md."""
    page = DOCS / "tutorial.md"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, str(DOCS / "tutorial_photos.py"), str(folder)], check=True)
        added = {"cnncodes export inception_v3": f"--weights {weights.absolute()}"}
        page.write_text(
            run_page(page.read_text("utf-8"), lambda each: run_in_shell(each, folder, added)),
            "utf-8",
        )
        shutil.copy(folder / "curve.svg", DOCS / "tutorial-curve.svg")
        _save_sheet(folder / "photos", DOCS / "tutorial-photos.jpg")
        _save_screenshot(folder / "report" / "index.html", DOCS / "tutorial-report.png")


def _save_sheet(photos: Path, path: Path) -> None:
    """Save a picture with a row of photographs for each class."""
    rows = [sorted(each.iterdir())[:COLUMNS] for each in sorted(photos.iterdir())]
    sheet = Image.new("RGB", (COLUMNS * TILE, len(rows) * TILE))
    for y, row in enumerate(rows):
        for x, file in enumerate(row):
            with Image.open(file) as image:
                sheet.paste(image.resize((TILE, TILE)), (x * TILE, y * TILE))
    sheet.save(path, quality=80)


def _save_screenshot(page: Path, path: Path) -> None:
    """Save how a page begins in the system's Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        view = browser.new_page(viewport={"width": 1000, "height": 1120})
        view.goto(page.as_uri())
        view.screenshot(path=path)
        browser.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["tutorial"]:
        build_tutorial(Path(sys.argv[2]))
    else:
        (DOCS / "cli.md").write_text(command_reference(), "utf-8")
