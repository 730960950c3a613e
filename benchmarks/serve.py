"""``cnncodes serve`` under load, beside the session alone.

Usage: python benchmarks/serve.py APP.onnx… [--seconds 60] [--clients 200] [--rounds 3] [--write]

Needs the extra ``serve``. Clients are as many connections of one process, on the same machine and
its processors; each sends a photograph, waits for the answer and sends the next. The images are
JPEG crops of the two photographs that come with scikit-learn. The session alone runs on pixels
that are ready, in its best setting: all its threads or a session of one thread for each worker, in
batches of 1 to 16. It takes turns with the server, so that both have the same share of a machine
with other work. ``--write`` puts the figures into docs/serve.md.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from page import machine, run_apart, table, write_section
from PIL import Image
from sklearn.datasets import load_sample_images

from cnncodes import Classifier
from cnncodes.app.classifier import MANY
from cnncodes.images.decoding import decode_image
from cnncodes.machine import available_threads

PAGE = Path(__file__).parent.parent / "docs" / "serve.md"
BATCH_SIZES = (1, 2, 4, 8, 16)
N_IMAGES, CROP = 64, (400, 300)  # pixels, about those of Caltech-101
PACKAGES = ("onnxruntime", "starlette", "uvicorn", "python-multipart")


def photographs() -> list[bytes]:
    """Return JPEG files."""
    random = np.random.default_rng(0)
    files = []
    for index in range(N_IMAGES):
        photo = Image.fromarray(load_sample_images().images[index % 2])
        left, top = (
            int(random.integers(0, whole - part + 1))
            for whole, part in zip(photo.size, CROP, strict=True)
        )
        buffer = io.BytesIO()
        photo.crop((left, top, left + CROP[0], top + CROP[1])).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


class Bare:
    """The session alone, on pixels that are ready.

    Parameters
    ----------
    app : str
        The app.
    n_workers : int
        Threads that call the session: 1, of a session with all threads, or one for each CPU, of
        a session with one.
    """

    def __init__(self, app: str, n_workers: int) -> None:
        n_images = MANY if n_workers > 1 else 1
        self._classifier = Classifier(app, threads=available_threads(), n_images=n_images)
        self._n_workers = n_workers

    def measure(self, batch_size: int, seconds: float) -> dict[str, float]:
        """Return images per second in batches of a size, and processor seconds per image."""
        size = self._classifier.input_size
        random = np.random.default_rng(0)
        pixels = random.integers(0, 256, (batch_size, size, size, 3), dtype=np.uint8)
        self._classifier.predict_proba(pixels)
        counts = [0] * self._n_workers
        begin, begin_busy = time.perf_counter(), time.process_time()

        def work(worker: int) -> None:
            while time.perf_counter() < begin + seconds:
                self._classifier.predict_proba(pixels)
                counts[worker] += batch_size

        workers = [Thread(target=work, args=[worker]) for worker in range(self._n_workers)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        busy = time.process_time() - begin_busy
        return {
            "rate": sum(counts) / (time.perf_counter() - begin),
            "busy": busy / sum(counts),
        }


def rates_of_settings(app: str) -> dict[str, float]:
    """Return images per second for each number of workers and batch size, as "WORKERS SIZE"."""
    rates = {}
    for n_workers in sorted({1, available_threads()}):
        bare = Bare(app, n_workers)
        for size in BATCH_SIZES:
            rates[f"{n_workers} {size}"] = bare.measure(size, 2)["rate"]
    return rates


def request_of(content: bytes) -> bytes:
    """Return the bytes of a request with one image."""
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="photo.jpg"\r\n\r\n'
    body = part + content + b"\r\n--b--\r\n"
    head = (
        "POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def send_all(port: int, n_clients: int, seconds: float) -> dict[str, Any]:
    """Send images from many connections; return statuses, latencies and the duration."""
    requests = [request_of(content) for content in photographs()]
    statuses: Counter[str] = Counter()
    latencies: list[float] = []
    begin = time.perf_counter()

    async def client(number: int) -> None:
        reader = writer = None
        while time.perf_counter() < begin + seconds:
            sent = time.perf_counter()
            try:
                if writer is None or reader is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(requests[number % len(requests)])
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
            except (OSError, asyncio.IncompleteReadError) as error:
                statuses[type(error).__name__] += 1
                reader = writer = None
                continue
            status = head.split(b" ", 2)[1].decode()
            statuses[status] += 1
            number += 1
            if status == "200":
                latencies.append(time.perf_counter() - sent)
            else:
                await asyncio.sleep(1)
        if writer is not None:
            writer.close()

    await asyncio.gather(*map(client, range(n_clients)))
    return {
        "statuses": statuses,
        "latencies": latencies,
        "seconds": time.perf_counter() - begin,
    }


@contextmanager
def served(app: str) -> Iterator[tuple[int, int]]:
    """Start the server; yield its process and port."""
    command = [sys.executable, "-m", "cnncodes", "serve", app, "--port", "0", "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = re.search(r":(\d+)/", process.stdout.readline())
            assert port is not None
            yield process.pid, int(port[1])
        finally:
            process.send_signal(signal.SIGINT)


def memory_of(process: int) -> float:
    """Return the resident memory of a process, in MB."""
    status = Path(f"/proc/{process}/status").read_text("utf-8")
    resident = re.search(r"VmRSS:\s*(\d+) kB", status)
    assert resident is not None
    return int(resident[1]) / 1024


def measure(app: str, n_clients: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Measure server and session in turns; the server is the same process in all rounds."""
    rates = run_apart(__file__, app, "--part", "settings")
    sys.stdout.write(f"{app}: images/s of the session by workers and batch size {rates}\n")
    workers, size = max(rates, key=lambda setting: rates[setting]).split()
    rates_alone, rates_served, busy_alone, busy_served = [], [], [], []
    memory, latencies = [], []
    statuses: Counter[str] = Counter()
    with served(app) as (process, port):
        for _ in range(rounds):
            arguments = workers, size, seconds / rounds / 3
            alone = run_apart(__file__, app, "--part", "bare", *arguments)
            rates_alone.append(alone["rate"])
            busy_alone.append(alone["busy"])
            arguments = port, n_clients, seconds / rounds, process
            load = run_apart(__file__, app, "--part", "load", *arguments)
            statuses += Counter(load["statuses"])
            latencies += load["latencies"]
            rates_served.append(len(load["latencies"]) / load["seconds"])
            busy_served.append(load["busy"] / len(load["latencies"]))
            memory += load["memory"]
    return {
        "app": app,
        "bare": f"{workers} × {size}",
        "rate": statistics.median(rates_served),
        "ratio": statistics.median(np.array(rates_served) / np.array(rates_alone)),
        "busy_alone": statistics.median(busy_alone),
        "busy_decoding": seconds_to_decode(app),
        "busy_served": statistics.median(busy_served),
        "statuses": dict(statuses),
        "p50": float(np.percentile(latencies, 50)),
        "p95": float(np.percentile(latencies, 95)),
        "memory": [memory[index * (len(memory) - 1) // 5] for index in range(6)],
    }


def seconds_to_decode(app: str) -> float:
    """Return processor seconds to decode one of the photographs."""
    size, files = Classifier(app).input_size, photographs()
    begin = time.process_time()
    for content in files:
        decode_image(content, size)
    return (time.process_time() - begin) / len(files)


def busy_of(process: int) -> float:
    """Return the processor seconds that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load_of(port: int, n_clients: int, seconds: float, process: int) -> dict[str, Any]:
    """Send images, and look at the server's memory each second."""
    memory = []

    async def watch() -> None:
        while True:
            memory.append(memory_of(process))
            await asyncio.sleep(1)

    watching = asyncio.create_task(watch())
    begin = busy_of(process)
    result = await send_all(port, n_clients, seconds)
    watching.cancel()
    return {**result, "memory": memory, "busy": busy_of(process) - begin}


def section(results: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """Return the figures as text."""
    loads = table(
        ("app", "images/s", "of the session alone", "p50", "p95", "answers", "memory over time"),
        [
            (
                name_of(each["app"]),
                f"{each['rate']:.1f}",
                f"{each['ratio']:.0%} ({each['bare']})",
                f"{each['p50']:.2f} s",
                f"{each['p95']:.2f} s",
                ", ".join(f"{n:,} × {status}" for status, n in each["statuses"].items()),
                " → ".join(f"{value:.0f}" for value in each["memory"]) + " MB",
            )
            for each in results
        ],
    )
    times = table(
        ("app", "session alone", "with decoding", "server", "of the session", "with decoding"),
        [
            (
                name_of(each["app"]),
                f"{1000 * each['busy_alone']:.1f} ms",
                f"{1000 * (each['busy_alone'] + each['busy_decoding']):.1f} ms",
                f"{1000 * each['busy_served']:.1f} ms",
                f"{each['busy_alone'] / each['busy_served']:.0%}",
                f"{(each['busy_alone'] + each['busy_decoding']) / each['busy_served']:.0%}",
            )
            for each in results
        ],
    )
    return (
        f"Machine: {machine(PACKAGES)}; load average {os.getloadavg()[2]:.1f}. {options.clients} "
        f"clients on the same machine for {options.seconds:g} seconds, in {options.rounds} rounds "
        "beside the session alone in its best setting, which is in brackets as workers × batch.\n\n"
        f"{loads}\nProcessor time per image, which other work on the machine changes less. *Of the "
        "session* is the most that the server can reach of the session's images per second:\n\n"
        f"{times}"
    )


def name_of(app: str) -> str:
    """Return the network of an app, and its precision."""
    network = Classifier(app).info.backbone
    return f"{network.backbone} {network.precision}"


def main() -> None:
    """Run the benchmark, or a part of it in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("apps", nargs="+")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        part, *words = options.part
        if part == "settings":
            result = rates_of_settings(options.apps[0])
        elif part == "bare":
            workers, size, seconds = words
            result = Bare(options.apps[0], int(workers)).measure(int(size), float(seconds))
        else:
            port, clients, seconds, process = words
            result = asyncio.run(load_of(int(port), int(clients), float(seconds), int(process)))
        sys.stdout.write("\n" + json.dumps(result))
        return
    results = [
        measure(app, options.clients, options.seconds, options.rounds) for app in options.apps
    ]
    text = section(results, options)
    sys.stdout.write(text)
    if options.write:
        write_section("serve", text, PAGE)


if __name__ == "__main__":
    main()
