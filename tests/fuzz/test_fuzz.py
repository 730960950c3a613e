"""Some hundreds of damaged files of each kind; ``python -m tests.fuzz.run`` tries them all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.fuzz.files import Chain
from tests.fuzz.mutants import make
from tests.fuzz.run import commands, fault_of, fuzz

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches memory through /proc")


@pytest.mark.parametrize(("kind", "number"), [("images", 300), ("codes", 200), ("models", 300)])
def test_damaged_files_are_told_in_one_line(tmp_path: Path, kind: str, number: int) -> None:
    found = fuzz(kind, range(number), seed=0, folder=tmp_path).found
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize("kind", ["images", "codes", "models"])
def test_same_seed_makes_the_same_mutants(tmp_path: Path, kind: str) -> None:
    chain = Chain.make(tmp_path)
    first, again = ([make(kind, 7, number, chain) for number in range(12)] for _ in range(2))
    other = [make(kind, 8, number, chain) for number in range(12)]
    assert first == again
    assert first != other


def test_whole_files_have_no_fault(tmp_path: Path) -> None:
    chain, out = Chain.make(tmp_path), tmp_path / "out"
    out.mkdir()
    for kind, path in (
        *(("images", chain.photo()), ("codes", chain.codes)),
        *(("models", chain.backbone), ("models", chain.head), ("models", chain.app)),
    ):
        for command in commands(kind, path, chain, out):
            assert fault_of(command, out) == ""
            for left in out.iterdir():
                left.unlink()


def test_failure_that_was_not_meant_is_a_fault(tmp_path: Path) -> None:
    assert "exit code 2" in fault_of(["predict"], tmp_path)
    (tmp_path / "left").touch()
    assert "leaves left" in fault_of(["info", tmp_path / "absent"], tmp_path)
