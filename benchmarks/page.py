"""What the benchmarks share: processes of their own, medians, and the page they write."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def run_apart(script: str, *arguments: object) -> dict[str, Any]:
    """Run a script in a process of its own, and return the JSON object it prints last."""
    command = [sys.executable, script, *map(str, arguments)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def cnncodes(*arguments: object) -> None:
    """Run a command of cnncodes."""
    command = [sys.executable, "-m", "cnncodes", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def weights_text(weights: str) -> str:
    """Return the origin of a network's weights in words, from that in a model's metadata."""
    return {"imagenet": "ImageNet's", "file": "trained"}.get(weights.partition(":")[0], "random")


def medians(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of each figure over several runs."""
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def peak_megabytes() -> float:
    """Return the most memory this process has had resident, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts what the parent had too, up to the call of exec
        match = re.search(r"VmHWM:\s*(\d+) kB", status.read_text("utf-8"))
        if match:
            return int(match[1]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Lay out a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def machine(packages: Sequence[str]) -> str:
    """Describe the machine and the versions of some packages, in a line."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text("utf-8") if cpuinfo.exists() else ""
    flags = set(re.findall(r"\b(avx2|avx512f|avx512_vnni|avx512_bf16|amx_int8)\b", text))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    features = f" with {', '.join(sorted(flags))}" if flags else ""
    hardware = f"{platform.machine()}{features}, {cores} cores"
    return f"{hardware}; Python {platform.python_version()}, {versions}"


def write_section(name: str, text: str, path: Path = PAGE) -> None:
    """Replace a section of a page, between its two comments."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    page = path.read_text("utf-8")
    before, rest = page.split(begin)
    path.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}", "utf-8")
