"""CPUs and memory available to this process, container limits included.

A container's limits are in the files of its control group, version 1 or 2 (cgroups(7)).
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path("/")
_MMAP_THRESHOLD = -3  # glibc's malloc.h
_LARGE_BLOCK = 2**20
_INSTRUCTION_SETS = (
    *("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8"),
    *("asimddp", "i8mm"),  # of ARM
)


def available_threads(root: Path = ROOT) -> int:
    """Return the number of processors this process may use; a container's quota is rounded up.

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` are.

    Returns
    -------
    int
        1 or more.
    """
    if hasattr(os, "sched_getaffinity"):
        processors = len(os.sched_getaffinity(0))
    else:
        processors = os.cpu_count() or 1
    for group in _groups(root, "cpu"):
        old = _numbers(group / "cpu.cfs_quota_us") + _numbers(group / "cpu.cfs_period_us")
        for limit in (_numbers(group / "cpu.max"), old):
            if len(limit) == 2 and limit[0] > 0:
                processors = min(processors, math.ceil(limit[0] / limit[1]))
    return processors


def available_memory(root: Path = ROOT) -> int | None:
    """Return the bytes of memory that this process may still allocate.

    The least of what is free, of limits of its control groups, and of its address space
    (``ulimit -v``, which schedulers of clusters set).

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` are.

    Returns
    -------
    int or None
        None where it is unknown.
    """
    free = _field(root / "proc/meminfo", "MemAvailable:")
    if free is None:
        return None
    free *= 1024
    for group in _groups(root, "memory"):
        for limit, used, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            numbers = _numbers(group / limit) + _numbers(group / used)
            if len(numbers) == 2:
                # Files that were read are in memory too, and make room when asked to.
                reclaimable = _field(group / "memory.stat", cache) or 0
                free = min(free, numbers[0] - numbers[1] + reclaimable)
    most, size = _soft_limit("RLIMIT_AS"), _field(root / "proc/self/status", "VmSize:")
    if most is not None and size is not None:
        free = min(free, most - 1024 * size)
    return max(0, free)


def max_open_files() -> int | None:
    """Return how many files this process may have open at once; None where it is unknown."""
    return _soft_limit("RLIMIT_NOFILE")


def instruction_sets(root: Path = ROOT) -> str:
    """Return the processor's architecture and what it has of instructions that networks use.

    Parameters
    ----------
    root : Path
        Where ``proc`` is; elsewhere than on Linux only the architecture is known.

    Returns
    -------
    str
        Such as "x86_64 with avx2, avx512f".
    """
    import platform  # only clusters ask

    words = set(_text(root / "proc/cpuinfo").split())
    sets = sorted(words.intersection(_INSTRUCTION_SETS))
    return " with ".join(filter(None, [platform.machine(), ", ".join(sets)]))


def give_memory_back() -> None:
    """Return large freed blocks to the system, where the allocator is glibc's.

    By default it keeps blocks of up to 32 MB once one as large was freed. onnxruntime copies
    weights several times while it opens a file, and 100 MB and more would stay allocated. Only
    the command line calls this: the allocator belongs to the whole process.
    """
    if hasattr(os, "confstr") and "CS_GNU_LIBC_VERSION" in os.confstr_names:
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE_BLOCK)
    # Read when Pillow is imported. Blocks of its default size may be kept for each thread.
    os.environ.setdefault("PILLOW_BLOCK_SIZE", "1024m")


def _soft_limit(name: str) -> int | None:
    """Return a limit of this process; None without one."""
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    most = resource.getrlimit(getattr(resource, name))[0]
    return None if most == resource.RLIM_INFINITY else most


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control group and of its parents."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        group = top / name.strip("/")
        yield from (group, *(each for each in group.parents if each.is_relative_to(top)))


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError):
        return ""


def _numbers(path: Path) -> list[int]:
    """Read the whole numbers of a file; none where it is absent or has no limit."""
    words = _text(path).split()
    return [int(word) for word in words] if all(map(_is_whole, words)) else []


def _field(path: Path, name: str) -> int | None:
    for line in _text(path).splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == name and _is_whole(words[1]):
            return int(words[1])
    return None


def _is_whole(word: str) -> bool:
    return word.removeprefix("-").isascii() and word.removeprefix("-").isdecimal()
