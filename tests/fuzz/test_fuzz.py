"""Some hundreds of damaged files of each kind; ``python -m tests.fuzz.run`` tries them all."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import onnxruntime
import pytest

from cnncodes.errors import FileFormatError
from cnncodes.extract.store import CodeStore
from tests.fuzz.files import DECOYS, Chain, write_decoys
from tests.fuzz.hdf5_links import STRUCTURES as LINKS
from tests.fuzz.hdf5_tools import Structure
from tests.fuzz.mutants import STRUCTURES, make
from tests.fuzz.protobuf import FORMS
from tests.fuzz.run import Watch, commands, fault_of, fuzz

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches memory through /proc")
N_MUTANTS = {"images": 150, "codes": 108, "models": 80}


@pytest.mark.parametrize("kind", N_MUTANTS)
def test_damaged_files_are_reported_in_one_line(tmp_path: Path, kind: str) -> None:
    findings = fuzz(kind, range(N_MUTANTS[kind]), seed=0, folder=tmp_path).findings
    assert not findings, "\n".join(map(str, findings))


@pytest.mark.parametrize(
    ("kind", "names"),
    [("codes", {each.name for each in STRUCTURES}), ("models", {each.name for each in FORMS})],
)
def test_every_harmful_structure_is_among_them(tmp_path: Path, kind: str, names: set[str]) -> None:
    chain = Chain.make(tmp_path)
    made = (make(kind, 0, number, chain).how for number in range(N_MUTANTS[kind]))
    assert names <= {how.partition(" of ")[0] for how in made}


@pytest.mark.parametrize("kind", N_MUTANTS)
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


def test_secrets_and_files_accepted_are_faults(tmp_path: Path) -> None:
    chain, out = Chain.make(tmp_path), tmp_path / "out"
    out.mkdir()
    assert "accepts it" in fault_of(["verify", chain.codes], out, refused=True)
    write_decoys(tmp_path, chain)
    assert "gives away" in fault_of(["info", tmp_path / DECOYS / "other.h5"], out)


@pytest.mark.parametrize(
    ("work", "megabytes"),
    [("_open_codes_files", 15), ("_print_long_names", 30)],  # not kept: 200 x 0.15, 12 x 4 MB
)
def test_nothing_is_left_behind(tmp_path: Path, work: str, megabytes: float) -> None:
    """In a new process: what the tests before this one have freed hides and moves figures."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(globals()[work], tmp_path).result() < megabytes


def _open_codes_files(folder: Path) -> float:
    """Open 100 whole and 100 refused files; return the megabytes by which memory has grown."""
    chain, refused = Chain.make(folder), folder / "refused.h5"
    refused.write_bytes(chain.codes.read_bytes())
    with h5py.File(refused, "r+") as file:
        file["labels"][:] = 99

    def open_both() -> None:
        with CodeStore.open(chain.codes) as store:
            assert len(store.paths) == len(store.groups) == len(store)
        with pytest.raises(FileFormatError):
            CodeStore.open(refused)

    open_both()
    before = _resident_megabytes()
    for _ in range(100):
        open_both()
    return _resident_megabytes() - before


def _print_long_names(folder: Path) -> float:
    """Run 12 verifications that print 2 MB each, of which click's own runner would keep 4 MB."""
    chain, long = Chain.make(folder), folder / "long.h5"
    long.write_bytes(chain.codes.read_bytes())
    with h5py.File(long, "r+") as file:
        file["paths"][:] = [f"{number}".rjust(50_000, "x") for number in range(len(file["paths"]))]
    command, out = ["verify", long, "--source", chain.photos], folder / "out"
    out.mkdir()
    for number in range(15):
        if number == 3:
            before = _resident_megabytes()
        assert fault_of(command, out) == ""
    return _resident_megabytes() - before


def _resident_megabytes() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.parametrize("structure", LINKS[:2], ids=[each.name for each in LINKS[:2]])
def test_codes_elsewhere_are_read_by_hdf5_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, structure: Structure
) -> None:
    """The mutants lead where they should, and the watch notices it."""
    chain = Chain.make(tmp_path)
    write_decoys(tmp_path, chain)
    monkeypatch.chdir(tmp_path)
    watch = Watch(tmp_path / DECOYS)
    with h5py.File(chain.codes, "r+") as file:
        structure.edit(file, "digests", np.random.default_rng(11))  # of all sources, a file
        assert not watch.opened()
        assert file["digests"][0].startswith(b"5ec4e7")
    assert watch.opened()


@pytest.mark.parametrize("name", ["outside_initializer", "outside_in_a_branch", "outside_by_parts"])
def test_weights_elsewhere_are_read_by_onnxruntime_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    chain = Chain.make(tmp_path)
    write_decoys(tmp_path, chain)
    monkeypatch.chdir(tmp_path)
    watch = Watch(tmp_path / DECOYS)
    (form,) = (form for form in FORMS if form.name == name)
    Path("m.onnx").write_bytes(form.edit(chain.head.read_bytes(), np.random.default_rng(0)))
    onnxruntime.InferenceSession("m.onnx", providers=["CPUExecutionProvider"])
    assert watch.opened() == {"weights.bin"}
