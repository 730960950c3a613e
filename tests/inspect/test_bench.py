"""The results of a measurement; durations are never tested."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnncodes.errors import ParameterError
from cnncodes.inspect.bench import MAX_ROUNDS, MIN_ROUNDS, benchmark, peak_bytes
from cnncodes.progress import NoProgress
from tests.conftest import Run
from tests.helpers import BACKBONE_INFO, BACKBONE_SIZE, error_of, run_process, write_backbone

QUICK = ("--seconds", "0.001", "--batch-sizes", "1,3", "--threads", "2")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_backbone(tmp_path / "tiny.onnx")


def measured(run: Run, *arguments: object) -> list[dict[str, Any]]:
    measurements: list[dict[str, Any]] = json.loads(run("bench", *arguments, "--json").stdout)
    return measurements


def test_reports_all_of_each_file(run: Run, small_backbone: Path, app: Path) -> None:
    measurements = measured(run, small_backbone, app, *QUICK)
    assert [each["path"] for each in measurements] == [str(small_backbone), str(app)]
    assert [each["kind"] for each in measurements] == ["backbone", "app"]
    for path, each in zip((small_backbone, app), measurements, strict=True):
        assert (each["backbone"], each["weights"]) == ("inception_v3", "random:0")
        assert (each["precision"], each["input_size"]) == ("float32", 75)
        assert each["provider"] == "CPUExecutionProvider"
        assert each["file_bytes"] == path.stat().st_size
        assert each["load_seconds"] > 0
        assert 0 < each["latency_p50"] <= each["latency_p95"]
        assert each["peak_bytes"] > each["file_bytes"]


def test_measures_both_ways_and_reports_the_faster(run: Run, small_backbone: Path) -> None:
    (measurements,) = measured(run, small_backbone, *QUICK)
    ways = [(each["callers"], each["threads"]) for each in measurements["throughputs"]]
    assert ways == [(1, 2), (1, 2), (2, 1), (2, 1)]
    assert [each["batch_size"] for each in measurements["throughputs"]] == [1, 3, 1, 3]
    rates = [each["images_per_second"] for each in measurements["throughputs"]]
    assert min(rates) > 0
    assert measurements["best"] == measurements["throughputs"][int(np.argmax(rates))]
    for each in measurements["throughputs"]:
        assert each["slowest"] <= each["images_per_second"] <= each["fastest"]
        assert MIN_ROUNDS <= each["rounds"] <= MAX_ROUNDS


def test_batch_sizes_are_measured_once_and_in_order(tiny: Path) -> None:
    (measurements,) = benchmark([tiny], batch_sizes=[3, 1, 3], threads=1, seconds=0.001)
    assert [each.batch_size for each in measurements.throughputs] == [1, 3]


def test_command_runs_as_a_process(tiny: Path) -> None:
    done = run_process("bench", tiny, *QUICK)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].startswith(str(tiny))


def test_one_thread_has_one_way(run: Run, tiny: Path) -> None:
    (measurements,) = measured(run, tiny, *QUICK, "--threads", "1", "--batch-sizes", "4")
    (way,) = measurements["throughputs"]
    assert (way["callers"], way["threads"], way["batch_size"]) == (1, 1, 4)


def test_table_compares_with_the_first(run: Run, tiny: Path, small_backbone: Path) -> None:
    header, *lines = run("bench", tiny, small_backbone, *QUICK).stdout.splitlines()
    assert header.split()[-1] == "ratio"
    assert [line.split()[0] for line in lines[:2]] == [str(tiny), str(small_backbone)]
    rates = [float(line.split()[-4]) for line in lines[:2]]
    for rate, line in zip(rates, lines[:2], strict=True):
        slowest, fastest = map(float, line.split()[-3].split("–"))
        assert slowest <= rate <= fastest
    ratios = [float(line.split()[-1]) for line in lines[:2]]
    assert ratios == [1, pytest.approx(rates[1] / rates[0], abs=0.006)]
    assert "rounds, the files in turn; min–max are the slowest and the fastest" in lines[2]
    assert "half take at most p50" in lines[3]
    assert lines[6].split() == ["1", "3"]
    assert [line.split()[1:4] for line in lines[7:]] == [["1", "×", "2"], ["2", "×", "1"]] * 2
    starred = [[each[:-1] for each in line.split() if each.endswith("*")] for line in lines[7:]]
    assert [float(each) for stars in starred for each in stars] == rates


def test_single_file_has_no_ratio(run: Run, tiny: Path) -> None:
    printed = run("bench", tiny, *QUICK).stdout
    assert "ratio" not in printed.splitlines()[0]
    assert "in turn" not in printed


def test_files_take_turns_in_every_round(tiny: Path, tmp_path: Path) -> None:
    """The second would otherwise be opened when the first has been measured."""
    second = write_backbone(tmp_path / "second.onnx")
    counts: list[int] = []

    class Watched(NoProgress):
        def advance(self, amount: int) -> None:
            counts.append(len(measuring()))

    one, two = benchmark(
        [tiny, second], batch_sizes=[1], threads=2, seconds=0.001, progress=Watched()
    )
    assert set(counts) == {2}
    assert len(counts) == sum(each.rounds for found in (one, two) for each in found.throughputs)
    for each, other in zip(one.throughputs, two.throughputs, strict=True):
        assert each.rounds == other.rounds
    assert one.ratio == 1
    assert two.ratio == two.best.images_per_second / one.best.images_per_second
    assert measuring() == []


def test_memory_is_that_of_a_process_of_its_own(tiny: Path) -> None:
    content = np.ones(1_000_000_000, np.uint8)
    (measurements,) = benchmark([tiny], batch_sizes=[1], threads=1, seconds=0.001)
    assert measurements.peak_bytes is not None
    assert 10_000_000 < measurements.peak_bytes < content.nbytes


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Name:\tpython\nVmPeak:\t9999 kB\nVmHWM:\t    1234 kB\nVmRSS:\t 99 kB\n", 1234 * 1024),
        ("Name:\tpython\nVmPeak:\t9999 kB\n", None),
        ("", None),
    ],
)
def test_peak_memory_is_unknown_where_the_system_does_not_report_it(
    tmp_path: Path, content: str, expected: int | None
) -> None:
    status = tmp_path / "status"
    status.write_text(content)
    assert peak_bytes(status) == expected


def test_files_that_cannot_be_measured(head: Path, codes: Path, tiny: Path, tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "absent.onnx", "no such file; make one with: cnncodes export"),
        (head, "is a head (evaluate and bundle take it), not a backbone or an app"),
        (codes, "is a codes file ("),
        (write_backbone(tmp_path / "x.onnx", shape=("N", 3, 3, 3)), "its input is not that"),
    ):
        assert f"{path}: {reason}" in error_of("bench", tiny, path, *QUICK)


def test_network_that_cannot_be_run_is_reported(tmp_path: Path) -> None:
    fixed = write_backbone(tmp_path / "fixed.onnx", shape=(1, BACKBONE_SIZE, BACKBONE_SIZE, 3))
    message = error_of("bench", fixed, *QUICK)
    assert message.startswith(f"Error: {fixed}: cannot be run (")
    assert message.endswith("; pass other --batch-sizes")


def test_batch_that_memory_cannot_hold_is_reported(tmp_path: Path) -> None:
    side = 10**6
    described = replace(BACKBONE_INFO, input_size=side).to_metadata()
    vast = write_backbone(tmp_path / "v.onnx", metadata=described, shape=("N", side, side, 3))
    message = error_of("bench", vast, "--batch-sizes", 1)
    assert f"{vast}: measuring it ended early, most likely for lack of memory" in message


def test_absent_provider_is_reported(tiny: Path) -> None:
    assert "Error: provider cuda: this onnxruntime has" in error_of(
        "bench", tiny, "--provider", "cuda"
    )


@pytest.mark.parametrize(
    ("option", "value"), [("--batch-sizes", "0"), ("--threads", "0"), ("--seconds", "0")]
)
def test_wrong_usage(tiny: Path, run: Run, option: str, value: str) -> None:
    assert option in run("bench", tiny, option, value, exit_code=2).stderr


@pytest.mark.parametrize(
    "parameters", [{"batch_sizes": []}, {"batch_sizes": [0]}, {"threads": 0}, {"seconds": 0.0}]
)
def test_library_refuses_what_cannot_be(tiny: Path, parameters: dict[str, Any]) -> None:
    (name,) = parameters
    with pytest.raises(ParameterError, match=f"{name} must "):
        benchmark([tiny], **parameters)


def measuring() -> list[SpawnProcess]:
    """Return the processes that measure; others may be exporting networks for later tests."""
    return [each for each in multiprocessing.active_children() if isinstance(each, SpawnProcess)]


def endless_with(act: Callable[[SpawnProcess], None], path: Path) -> None:
    """Measure without end, and act when the process that measures is there."""

    def wait() -> None:
        while not (measurements := measuring()):
            time.sleep(0.01)
        act(measurements[0])

    waiting = threading.Thread(target=wait)
    waiting.start()
    try:
        benchmark([path], seconds=86_400)
    finally:
        waiting.join()


def test_process_that_is_killed_is_reported(tiny: Path) -> None:
    with pytest.raises(ParameterError, match=r"tiny\.onnx: measuring it ended early"):
        endless_with(lambda process: process.kill(), tiny)


def test_interrupt_leaves_no_process(tiny: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        endless_with(lambda _: os.kill(os.getpid(), signal.SIGINT), tiny)
    assert measuring() == []
