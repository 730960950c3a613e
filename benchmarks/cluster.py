"""What a Dask cluster costs: against threads of one machine, and for its scheduler.

::

    python benchmarks/cluster.py efficiency inception_v3.int8.onnx photos --workers 2
    python benchmarks/cluster.py simulated --workers 64 --images 200000

`efficiency` compares worker processes of one thread each with as many threads of plain `extract`,
in turn on the same images. In `simulated` workers sleep as long as a network takes and return as
many bytes; all of them are in a few processes, but for the scheduler they are workers like others.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from page import machine, peak_megabytes

from cnncodes import Backbone
from cnncodes.extract import remote
from cnncodes.extract.cluster import Cluster
from cnncodes.extract.pipeline import extract
from cnncodes.images.decoding import LoadedImage
from cnncodes.models.metadata import BackboneInfo
from cnncodes.progress import NoProgress

HOSTS = 2  # processes that hold the simulated workers
CHUNK = 20_000  # bytes of InceptionV3's codes of a photograph, compressed
SECONDS_IDLE = 10.0
TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def started(commands: list[list[str]]) -> Iterator[tuple[str, list[int]]]:
    """Start a scheduler and what is to join it; yield its address and the process ids."""
    processes = []
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        words = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        with log.open("wb") as file:
            command = [sys.executable, "-m", "dask", *words]
            processes.append(subprocess.Popen(command, stderr=file, stdout=file))
        try:
            while not (match := re.search(r"tcp://127\.0\.0\.1:\d+", log.read_text())):
                time.sleep(0.1)
            for each in commands:
                words = [word.replace("ADDRESS", match[0]) for word in each]
                processes.append(subprocess.Popen(words, stderr=subprocess.DEVNULL))
            yield match[0], [process.pid for process in processes]
        finally:
            for process in processes[::-1]:
                process.kill()
                process.wait()


def cpu_seconds(pid: int | str) -> float:
    """Return the processor time of a process, of user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure_efficiency(backbone: Path, source: Path, n: int, rounds: int) -> dict[str, Any]:
    """Extract in turn by threads and by workers of a cluster."""
    worker = [sys.executable, "-m", "dask", "worker", "ADDRESS", "--nthreads", "1", "--no-nanny"]
    ratios, shares, rates = [], [], {"threads": [], "cluster": []}
    with (
        started([[*worker, "--no-dashboard"]] * n) as (address, pids),
        tempfile.TemporaryDirectory(dir=".") as folder,
    ):
        for number in range(rounds + 1):
            options = {"threads": {"threads": n}, "cluster": {"scheduler": address}}
            names = ("threads", "cluster") if number % 2 else ("cluster", "threads")
            done, cpu = {}, {}
            for name in names:
                before = sum(map(cpu_seconds, ["self", *pids]))
                output = Path(folder) / f"{name}.h5"
                done[name] = extract(backbone, source, output, overwrite=True, **options[name])
                cpu[name] = sum(map(cpu_seconds, ["self", *pids])) - before
            if not number:  # the workers open the backbone, and the images come into the cache
                continue
            for name, result in done.items():
                rates[name].append(round(result.images_per_second, 2))
            shares.append(cpu["threads"] / cpu["cluster"])
            ratios.append(rates["cluster"][-1] / rates["threads"][-1])
    return {
        "images": done["cluster"].n_images,
        "load": os.getloadavg(),
        "images per second": rates,
        "ratios": [round(each, 3) for each in ratios],
        "processor time, threads' by the cluster's": [round(each, 3) for each in shares],
        "median ratio": round(float(np.median(ratios)), 3),
    }


def write_small_backbone(path: Path) -> None:
    """Write a network that workers open and never run."""
    info = BackboneInfo(
        "mean", "random:0", 32, "mean", "avg", "float32", 0.0, "none", "a benchmark"
    )
    nodes = [
        helper.make_node("Cast", ["images"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers"], ["codes"], axes=[1, 2], keepdims=0),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 32, 32, 3])
    codes = helper.make_tensor_value_info("codes", TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph(nodes, "mean", [images], [codes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, info.to_metadata())
    onnx.save(model, path)


def host(address: str, n: int, seconds: float) -> None:
    """Be several workers, whose network sleeps."""
    from distributed import Worker

    noise = os.urandom(2 * CHUNK)

    def sleep(_: object, __: object, ___: object, locations: list[str]) -> remote.Outcome:
        most = max(1, int(remote.SECONDS_AT_MOST / seconds))
        names = locations[:most]
        time.sleep(seconds * len(names))
        images = [LoadedImage(index, None, "ab" * 32, "") for index in range(len(names))]
        chunks = [noise[index % CHUNK :][:CHUNK] for index in range(len(names))]
        return remote.Outcome("", images, chunks, seconds * len(names))

    remote.compute_batches = sleep

    async def run() -> None:
        workers = [await Worker(address, nthreads=1, name=f"{os.getpid()}-{i}") for i in range(n)]
        await asyncio.gather(*(worker.finished() for worker in workers))

    asyncio.run(run())


def simulate(n_workers: int, n_images: int, seconds: float) -> dict[str, Any]:
    """Take the codes of many names from workers that sleep, and drop them."""
    each = [sys.executable, __file__, "host", "ADDRESS", str(n_workers // HOSTS), str(seconds)]
    with started([each] * HOSTS) as (address, (pid, *_)), tempfile.TemporaryDirectory() as folder:
        from distributed import Client

        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(n_workers)
        idle = cpu_seconds(pid)
        time.sleep(SECONDS_IDLE)
        idle = (cpu_seconds(pid) - idle) / SECONDS_IDLE  # heartbeats
        path = Path(folder) / "mean.onnx"
        write_small_backbone(path)
        cluster = Cluster(Backbone(path, threads=1), address, 4, 1, "cpu", NoProgress())
        names = [f"/absent/{index:07}.jpg" for index in range(n_images)]
        cpu, own, start = cpu_seconds(pid), time.process_time(), time.monotonic()
        n_done = n_bytes = n_tasks = 0
        for images, chunks in cluster.run(names, len, max_pixels=10**8):  # type: ignore[arg-type]
            n_done += len(images)
            n_bytes += sum(map(len, chunks))
            n_tasks += 1
        wall = time.monotonic() - start
        cpu, own = cpu_seconds(pid) - cpu, time.process_time() - own
    assert n_done == n_images
    return {
        "workers": n_workers,
        "images": n_images,
        "seconds per image": seconds,
        "tasks": n_tasks,
        "wall": round(wall, 1),
        "ideal": round(n_images * seconds / n_workers, 1),
        "scheduler's CPU": round(cpu, 2),
        "scheduler's share": round(cpu / wall, 4),
        "scheduler's share without tasks": round(idle, 4),
        "ms of the scheduler's CPU per task": round(1000 * (cpu - idle * wall) / n_tasks, 2),
        "client's CPU": round(own, 2),
        "MB of results": round(n_bytes / 1e6),
        "client's peak MB": round(peak_megabytes()),
        "load": os.getloadavg(),
    }


def main() -> None:
    """Measure what the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    kind = kinds.add_parser("efficiency")
    kind.add_argument("backbone", type=Path)
    kind.add_argument("source", type=Path)
    kind.add_argument("--workers", type=int, default=2)
    kind.add_argument("--rounds", type=int, default=3)
    kind = kinds.add_parser("simulated")
    kind.add_argument("--workers", type=int, default=64)
    kind.add_argument("--images", type=int, default=200_000)
    kind.add_argument("--seconds", type=float, default=0.033)
    kind = kinds.add_parser("host")
    kind.add_argument("address")
    kind.add_argument("n", type=int)
    kind.add_argument("seconds", type=float)
    given = parser.parse_args()
    if given.kind == "host":
        host(given.address, given.n, given.seconds)
        return
    sys.stdout.write(machine(["numpy", "onnxruntime", "distributed"]) + "\n")
    if given.kind == "efficiency":
        result = measure_efficiency(given.backbone, given.source, given.workers, given.rounds)
    else:
        result = simulate(given.workers, given.images, given.seconds)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
