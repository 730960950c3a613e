"""Examples are short, and docs/apps.md has them all with the commands that they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.examples.conftest import EXAMPLES

PAGE = (EXAMPLES.parent / "docs" / "apps.md").read_text("utf-8")
PROGRAMS = [path for path in EXAMPLES.rglob("*.*") if path.suffix in (".py", ".mjs", ".cpp")]
BLOCKS = re.findall("^```console\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
COMMANDS = re.findall("^[$] (.*)$", "".join(BLOCKS), flags=re.MULTILINE)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_example_is_short_and_on_the_page(program: Path) -> None:
    assert len(program.read_text("utf-8").splitlines()) < 80
    name = program.relative_to(EXAMPLES).as_posix()
    assert f"[{name}](../examples/{name})" in PAGE


def test_commands_are_those_that_the_tests_run() -> None:
    heads = "".join(path.read_text("utf-8")[:600] for path in PROGRAMS)
    tools = [each for each in COMMANDS if each.split()[0] in ("apt", "g++", "pyinstaller")]
    assert len(tools) == 3
    for command in tools:
        assert f"{command}\n" in heads
    assert len(PROGRAMS) == 5
