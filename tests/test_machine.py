"""CPUs and memory available to this process, as Linux reports them in files."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from cnncodes.machine import available_memory, available_threads

PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
GIB = 2**30


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with 8 GiB free and no control groups."""
    write(tmp_path, {"proc/meminfo": f"MemTotal: 99 kB\nMemAvailable: {8 * GIB // 1024} kB\n"})
    return tmp_path


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("quota", "threads"),
    [
        ("max 100000", PROCESSORS),
        ("50000 100000", 1),
        ("100000 100000", 1),
        ("garbage", PROCESSORS),
    ],
)
@pytest.mark.parametrize("folder", ["", "/pod/box"])
def test_processors_of_a_container(root: Path, quota: str, threads: int, folder: str) -> None:
    write(
        root,
        {"proc/self/cgroup": f"0::{folder}\n", f"sys/fs/cgroup{folder}/cpu.max": f"{quota}\n"},
    )
    assert available_threads(root) == threads


@pytest.mark.parametrize(("quota", "threads"), [(-1, PROCESSORS), (30_000, 1)])
def test_processors_of_a_container_of_the_first_version(
    root: Path, quota: int, threads: int
) -> None:
    folder = "sys/fs/cgroup/cpu/box"
    write(root, {"proc/self/cgroup": "4:memory:/\n1:cpu,cpuacct:/box/inner\n0::/\n"})
    write(root, {f"{folder}/cpu.cfs_quota_us": f"{quota}\n"})
    write(root, {f"{folder}/cpu.cfs_period_us": "100000\n"})
    assert available_threads(root) == threads


def test_quota_is_rounded_up_and_the_smallest_counts(root: Path) -> None:
    write(root, {"proc/self/cgroup": "0::/outer/inner\n"})
    write(root, {"sys/fs/cgroup/outer/cpu.max": "10000 100000"})
    write(root, {"sys/fs/cgroup/outer/inner/cpu.max": "9900000 100000"})
    assert available_threads(root) == 1


def test_memory_without_a_container(root: Path) -> None:
    assert available_memory(root) == 8 * GIB


def test_memory_of_a_container(root: Path) -> None:
    write(root, {"proc/self/cgroup": "0::/box\n"})
    box = "sys/fs/cgroup/box"
    write(root, {f"{box}/memory.max": "max\n", f"{box}/memory.current": f"{GIB}\n"})
    assert available_memory(root) == 8 * GIB
    write(root, {f"{box}/memory.max": f"{4 * GIB}\n"})
    assert available_memory(root) == 3 * GIB
    # Files in the cache are counted as used, and make room when they must.
    write(root, {f"{box}/memory.stat": f"anon 5\ninactive_file {GIB // 2}\n"})
    assert available_memory(root) == 3 * GIB + GIB // 2
    write(root, {f"{box}/memory.current": f"{9 * GIB}\n"})
    assert available_memory(root) == 0


def test_memory_of_a_container_of_the_first_version(root: Path) -> None:
    write(root, {"proc/self/cgroup": "4:memory:/box\n0::/\n"})
    box = "sys/fs/cgroup/memory/box"
    write(root, {f"{box}/memory.limit_in_bytes": f"{2 * GIB}\n"})
    write(root, {f"{box}/memory.usage_in_bytes": f"{GIB}\n"})
    write(root, {f"{box}/memory.stat": f"inactive_file 9\ntotal_inactive_file {GIB // 4}\n"})
    assert available_memory(root) == GIB + GIB // 4


def test_a_system_that_reports_nothing(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None
    assert available_threads(tmp_path) == PROCESSORS


def test_this_machine() -> None:
    assert 1 <= available_threads() <= PROCESSORS
    assert available_memory() is None or available_memory() > 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is for glibc's allocator only")
def test_large_blocks_go_back_to_the_system() -> None:
    """After a block of 30 MB was freed, glibc by itself keeps one of 20 MB that is freed."""
    script = """
import ctypes, re
from cnncodes.machine import give_memory_back
give_memory_back()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def resident():
    return int(re.search(r"VmRSS:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
def filled(megabytes):
    block = libc.malloc(megabytes * 2**20)
    ctypes.memset(block, 1, megabytes * 2**20)
    return block
libc.free(filled(30))
before = resident()
blocks = [filled(20), libc.malloc(1000)]
assert resident() > before + 15
libc.free(blocks[0])
assert resident() < before + 5
"""
    subprocess.run([sys.executable, "-c", script], check=True)
