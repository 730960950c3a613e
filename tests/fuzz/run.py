"""Give our commands damaged files, and watch what they do.

Usage: python -m tests.fuzz.run [--images N] [--codes N] [--models N] [--seed S] [--jobs N]
       [--findings DIR]

Each mutant goes through the commands that take such a file, in a process that is watched: no
traceback, no message but the one line that was meant, no control character on the terminal, no
hang, no memory beyond a gigabyte, nothing written but the result that was asked for, no other file
opened that the mutant leads to, and no text of such a file printed or written. What fails is kept
in ``--findings``, with the command. The same seed makes the same mutants.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import resource
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from tests.fuzz.files import DECOYS, SECRET, SECRET_DIGEST, Chain, write_decoys
from tests.fuzz.mutants import KINDS, make

SECONDS = 5.0  # of all processors together, whatever else the machine does
HANGING_SECONDS = 30.0
MEGABYTES = 1000
MAKING_SECONDS = 120.0
NUMBERS = {"images": 20_000, "codes": 5_000, "models": 5_000}
UNPLANNED = "--debug shows where"
IN_ACCESS, IN_OPEN = 1, 32  # of Linux's inotify
HANGS = f"has not ended after {HANGING_SECONDS:g} s"


@dataclass(frozen=True)
class Finding:
    """A mutant that did what no file may do.

    Attributes
    ----------
    kind : str
        What it is a mutant of.
    number : int
        Which one.
    how : str
        How it was made.
    fault : str
        What it did.
    """

    kind: str
    number: int
    how: str
    fault: str


@dataclass
class Report:
    """What came of some mutants.

    Attributes
    ----------
    findings : list of Finding
        In order.
    megabytes : int
        The most memory that one of the others took.
    seconds : float
        The most processor time that one of the others took.
    """

    findings: list[Finding] = field(default_factory=list)
    megabytes: int = 0
    seconds: float = 0.0


def commands(kind: str, path: Path, chain: Chain, out: Path) -> Iterator[list[object]]:
    """List the commands that take such a file."""
    if kind == "images":
        yield ["predict", chain.app, path, "--format", "json"]
        return
    yield ["info", path]
    if kind == "codes":
        yield ["train", path, "-o", out / "head.onnx", "--C", 1]
        yield ["evaluate", chain.head, path, "--include-training"]
        yield ["verify", path, "--source", chain.photos, "--backbone", chain.backbone]
    elif path.name.endswith("backbone.onnx"):
        yield ["extract", path, chain.photos, "-o", out / "codes.h5"]
        yield ["quantize", path, "--images", chain.photos, "-o", out / "int8.onnx", "--n-images", 8]
    elif path.name.endswith("head.onnx"):
        yield ["evaluate", path, chain.codes, "--include-training"]
        yield ["bundle", chain.backbone, path, "-o", out / "app.onnx"]
    else:
        yield ["predict", path, chain.photo(), "--format", "json"]
    if kind == "models":
        yield ["verify", path]


class Watch:
    """Notices that a file of a folder is opened, or read through a descriptor.

    Parameters
    ----------
    folder : Path
        The folder.
    """

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK)
        added = libc.inotify_add_watch(self._descriptor, bytes(folder), IN_ACCESS | IN_OPEN)
        if self._descriptor < 0 or added < 0:
            raise OSError(ctypes.get_errno(), f"{folder}: cannot be watched")

    def opened(self) -> set[str]:
        """Return which files were opened since the last call."""
        try:
            events = os.read(self._descriptor, 1 << 20)
        except BlockingIOError:
            return set()
        names, start = set(), 0
        while start < len(events):
            (length,) = struct.unpack_from("I", events, start + 12)
            start += 16 + length
            names.add(events[start - length : start].rstrip(b"\0").decode())
        return names - {""}  # the folder itself is looked into by others


class Runner(CliRunner):
    """click's runner, without what it leaves behind.

    click keeps a stream for each standard output that it has ever written to, and with it all that
    was written: megabytes where a mutant has long names.
    """

    @contextmanager
    def isolation(self, *args: Any, **options: Any) -> Iterator[Any]:
        """Set up what a command reads and writes; clear it afterwards."""
        with super().isolation(*args, **options) as streams:
            yield streams
        for stream in streams:
            stream.seek(0)
            stream.truncate()


def fault_of(command: Sequence[object], out: Path, *, refused: bool = False) -> str:
    """Run a command in this process; return what is wrong with what it did, or ""."""
    from cnncodes.cli import main

    result = Runner().invoke(main, [str(each) for each in command])
    error = f"{command[0]}: "
    written = [each.read_bytes() for each in out.iterdir()]
    for content in (result.output.encode(), *written):
        if SECRET in content or SECRET_DIGEST in content:
            return f"{error}gives away what is in another file"
    if refused and not result.exit_code:
        return f"{error}accepts it"
    if result.exit_code not in (0, 1):
        return f"{error}exit code {result.exit_code}"
    last = result.stderr.splitlines()[-1] if result.stderr else ""
    if UNPLANNED in result.stderr or "Traceback" in result.output:
        return error + last
    if result.exit_code and not last.startswith("Error: "):
        return f"{error}fails without an error: {last!r}"
    if any(not letter.isprintable() and letter != "\n" for letter in result.output):
        return f"{error}prints control characters"
    if result.exit_code and any(out.iterdir()):
        left = [each.name for each in out.iterdir()]
        return f"{error}fails and leaves {', '.join(left)}"
    return ""


def try_whole_files(kind: str, chain: Chain, out: Path) -> None:
    """Run the commands on files that are whole, since the first time they import much."""
    files = {"images": [chain.photo()], "codes": [chain.codes]}
    for path in files.get(kind, [chain.backbone, chain.head, chain.app]):
        for command in commands(kind, path, chain, out):
            fault = fault_of(command, out)
            assert not fault, fault
            empty(out)


def reset_peak() -> None:
    """Let the most memory of this process be counted from now on."""
    Path("/proc/self/clear_refs").write_text("5", "ascii")


def peak_megabytes() -> int:
    """Return the most memory resident since then."""
    status = Path("/proc/self/status").read_text("ascii")
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def work(kind: str, seed: int, folder: Path) -> None:
    """Make and try the mutants whose numbers come on standard input; runs watched."""
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))  # the machine is not to suffer
    chain = Chain.make(folder / "chain")
    out = folder / "out"
    write_decoys(folder, chain)
    allowed = set(folder.rglob("*"))
    os.chdir(folder)  # from which HDF5 looks for other files too
    watch = Watch(folder / DECOYS)
    try_whole_files(kind, chain, out)
    assert not watch.opened()
    for line in sys.stdin:
        mutant = make(kind, seed, int(line), chain)
        path = folder / f"mutant.{mutant.suffix}"
        path.write_bytes(mutant.content)
        large, how, refused_by = len(mutant.content) > 1 << 20, mutant.how, mutant.refused_by
        del mutant
        if large:
            gc.collect()
        reset_peak()
        started = time.process_time()
        _tell({"made": how})
        fault = ""
        for command in commands(kind, path, chain, out):
            name = str(command[0])
            findings = fault_of(command, out, refused=name in refused_by)
            if opened := watch.opened():
                findings = f"{name}: opens {', '.join(sorted(opened))}"
            fault = fault or findings
            empty(out)
        seconds, megabytes = time.process_time() - started, peak_megabytes()
        if megabytes > MEGABYTES:
            fault = fault or f"takes {megabytes:,} MB"
        if seconds > SECONDS:
            fault = fault or f"takes {seconds:.1f} s"
        path.unlink()
        strange = set(folder.rglob("*")) - allowed
        if strange:
            fault = fault or f"leaves {', '.join(each.name for each in strange)}"
            for each in strange:
                each.unlink()
        _tell({"fault": fault, "megabytes": megabytes, "seconds": seconds})


def empty(folder: Path) -> None:
    """Remove what is in a folder."""
    for left in folder.iterdir():
        left.unlink()


def _tell(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class Worker:
    """A watched process that tries mutants of a kind.

    Parameters
    ----------
    kind : str
        Of what.
    seed : int
        Which ones.
    folder : Path
        Where it works; holds the chain of small files.
    """

    def __init__(self, kind: str, seed: int, folder: Path) -> None:
        self._arguments = ("--work", kind, "--seed", str(seed), "--folder", str(folder))
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None

    def try_mutant(self, number: int) -> dict[str, Any]:
        """Try a mutant; return how it was made, and what it did."""
        done = self._try(number)
        if done["fault"] == HANGS:  # perhaps the machine was halted
            done = self._try(number)
        if done["fault"]:
            self.close()  # so that what it left behind does not count as the next one's
        return done

    def _try(self, number: int) -> dict[str, Any]:
        if self._process is None:
            for left in self._folder.glob("mutant.*"):
                left.unlink()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.run", *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "PYTHONWARNINGS": "ignore"},
            )
        assert self._process.stdin is not None
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        made = self._answer(MAKING_SECONDS)
        if made is None:
            raise RuntimeError(f"{' '.join(self._arguments)}: mutant {number} cannot be made")
        done = self._answer(HANGING_SECONDS)
        if done is not None:
            return made | done
        code = self._process.poll()
        self.close()
        return made | {"fault": HANGS if code is None else f"crashes ({code})"}

    def _answer(self, seconds: float) -> dict[str, Any] | None:
        """Wait for a line; None if none comes in time, or the process has ended."""
        assert self._process is not None
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        line = self._process.stdout.readline() if ready else ""
        if ready and not line:
            self._process.wait()
        answer: dict[str, Any] | None = json.loads(line) if line else None
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def fuzz(
    kind: str,
    numbers: Sequence[int],
    *,
    seed: int,
    folder: Path,
    keep: Path | None = None,
    jobs: int = 1,
) -> Report:
    """Try mutants of a kind.

    Parameters
    ----------
    kind : {"images", "codes", "models"}
        Mutants of what.
    numbers : sequence of int
        Which ones.
    seed : int
        Seed of all mutants.
    folder : Path
        An empty folder to work in.
    keep : Path, optional
        Where the mutants that fail are kept.
    jobs : int
        How many processes try them.

    Returns
    -------
    Report
        What came of them.
    """
    Chain.make(folder / "chain")
    parts = [numbers[job::jobs] for job in range(jobs)]
    folders = [folder / str(job) for job in range(jobs)]
    for each in folders:
        shutil.copytree(folder / "chain", each / "chain", dirs_exist_ok=True)
        (each / "out").mkdir(exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        reports = list(
            pool.map(lambda each, part: _fuzz(kind, part, seed, each, keep), folders, parts)
        )
    return Report(
        sorted(
            (each for report in reports for each in report.findings), key=lambda one: one.number
        ),
        max(report.megabytes for report in reports),
        max(report.seconds for report in reports),
    )


def _fuzz(kind: str, numbers: Sequence[int], seed: int, folder: Path, keep: Path | None) -> Report:
    """Try mutants one after the other."""
    chain, worker, report = Chain.make(folder / "chain"), Worker(kind, seed, folder), Report()
    try:
        for number in numbers:
            done = worker.try_mutant(number)
            if not done["fault"]:
                report.megabytes = max(report.megabytes, done["megabytes"])
                report.seconds = max(report.seconds, done["seconds"])
                continue
            report.findings.append(Finding(kind, number, done["made"], done["fault"]))
            if keep is not None:
                mutant = make(kind, seed, number, chain)
                name = f"{kind}-{seed}-{number}.{mutant.suffix}"
                (keep / name).write_bytes(mutant.content)
    finally:
        worker.close()
    return report


def summary(kind: str, n_mutants: int, report: Report) -> str:
    """Tell what came of some mutants, in a line, and a line for each kind of finding."""
    lines = [
        f"{n_mutants:,} {kind}: {len(report.findings)} findings; "
        f"at most {report.megabytes:,} MB, {report.seconds:.1f} s"
    ]
    alike: dict[tuple[str, str], list[int]] = defaultdict(list)
    for each in report.findings:
        alike[each.how, each.fault[:120]].append(each.number)
    for (how, fault), numbers in sorted(alike.items(), key=lambda item: -len(item[1])):
        lines.append(f"  {len(numbers):5} × {how}, as number {numbers[0]}: {fault}")
    return "\n".join(lines)


def main() -> None:
    """Try all mutants asked for, and report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for kind, number in NUMBERS.items():
        parser.add_argument(f"--{kind}", type=int, default=number, help="mutants to try")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes that try them")
    parser.add_argument("--seed", type=int, default=0, help="of all mutants")
    parser.add_argument(
        "--findings", type=Path, default=Path("findings"), help="what fails goes here"
    )
    parser.add_argument("--work", choices=list(KINDS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.seed, options.folder)
        return
    options.findings.mkdir(exist_ok=True)
    findings: list[Finding] = []
    for kind in NUMBERS:
        numbers = range(options.first, options.first + getattr(options, kind))
        if not numbers:
            continue
        with tempfile.TemporaryDirectory() as folder:
            report = fuzz(
                kind,
                numbers,
                seed=options.seed,
                folder=Path(folder),
                keep=options.findings,
                jobs=options.jobs,
            )
        findings += report.findings
        sys.stdout.write(summary(kind, len(numbers), report) + "\n")
        sys.stdout.flush()
    listed = options.findings / f"report-{options.seed}.json"
    listed.write_text(json.dumps([asdict(each) for each in findings], indent=1), "utf-8")
    raise SystemExit(bool(findings))


if __name__ == "__main__":
    main()
