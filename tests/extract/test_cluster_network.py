"""A cluster in network namespaces of its own, whose workers are killed, cut off and added.

It takes two minutes, most of it waiting: ``CNNCODES_NETWORK=1 python -m pytest -m network``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnncodes import CodeStore
from tests.extract.test_cluster import content_of, wait_for
from tests.helpers import run_command, write_backbone

pytest.importorskip("distributed")
pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(
        not os.environ.get("CNNCODES_NETWORK") or shutil.which("ip") is None or os.getuid() != 0,
        reason="set CNNCODES_NETWORK=1; needs root and iproute2",
    ),
]
N_IMAGES = 600
DELAY = 0.1  # of the server, for each image
SECONDS_CUT = 20
HUB, SERVER, FIRST_WORKER = 1, 2, 10  # last numbers of addresses
# Notes which address reads what, after a delay that a file holds.
SERVING = """
import sys, time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
folder, log, delay = sys.argv[1:]
class Handler(SimpleHTTPRequestHandler):
    def do_GET(self):
        time.sleep(float(open(delay).read()))
        with open(log, "a") as file:
            file.write(f"{self.client_address[0]} {self.path}\\n")
        super().do_GET()
    def log_message(self, *_):
        pass
ThreadingHTTPServer(("0.0.0.0", 80), lambda *a: Handler(*a, directory=folder)).serve_forever()
"""


def ip(*words: object) -> None:
    subprocess.run(["ip", *map(str, words)], check=True)


class Network:
    """A bridge in a namespace, and namespaces joined to it by veth pairs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = f"cnncodes{os.getpid()}"
        self._namespaces: list[str] = []
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        hub = self._add(HUB)
        ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        ip("-n", hub, "address", "add", f"{self.address(HUB)}/24", "dev", "bridge")
        ip("-n", hub, "link", "set", "bridge", "up")

    def address(self, number: int) -> str:
        return f"10.213.7.{number}"

    def _add(self, number: int) -> str:
        name = f"{self._name}n{number}"
        ip("netns", "add", name)
        self._namespaces.append(name)
        ip("-n", name, "link", "set", "lo", "up")
        return name

    def join(self, number: int) -> None:
        hub, name = self._namespaces[0], self._add(number)
        ip("-n", hub, "link", "add", f"v{number}", "type", "veth", "peer", "eth0", "netns", name)
        ip("-n", hub, "link", "set", f"v{number}", "master", "bridge", "up")
        ip("-n", name, "address", "add", f"{self.address(number)}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")

    def set_link(self, number: int, state: str) -> None:
        ip("-n", self._namespaces[0], "link", "set", f"v{number}", state)

    def start(self, number: int, *words: object, key: int = 0) -> subprocess.Popen[bytes]:
        command = ["ip", "netns", "exec", f"{self._name}n{number}", sys.executable]
        with (self._folder / f"{number}.{key}.log").open("wb") as log:
            process = subprocess.Popen([*command, *map(str, words)], stdout=log, stderr=log)
        self.processes[number * 10 + key] = process
        return process

    def add_worker(self, number: int) -> None:
        number += FIRST_WORKER
        self.join(number)
        words = ("-m", "dask", "worker", f"tcp://{self.address(HUB)}:8786", "--no-dashboard")
        own = ("--no-nanny", "--nthreads", 1, "--host", self.address(number))
        folder = ("--local-directory", self._folder / f"worker{number}")
        self.start(number, *words, *own, *folder)

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        for name in self._namespaces:
            ip("netns", "delete", name)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    network = Network(tmp_path)
    try:
        yield network
    finally:
        network.close()


def test_cluster_that_loses_workers_and_a_network(network: Network, tmp_path: Path) -> None:
    photos, log, delay = tmp_path / "photos", tmp_path / "read", tmp_path / "delay"
    generator = np.random.default_rng(0)
    rows = ["path,label"]
    for index in range(N_IMAGES):
        label = "ab"[index * 2 // N_IMAGES]
        path = photos / label / f"{index:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
        if index % 100 == 7:
            path.write_bytes(b"no image")
        rows.append(f"http://{network.address(SERVER)}/{label}/{path.name},{label}")
    source = tmp_path / "urls.csv"
    source.write_text("\n".join(rows))
    delay.write_text(str(DELAY))
    backbone = write_backbone(tmp_path / "mean.onnx")

    network.join(SERVER)
    network.start(SERVER, "-c", SERVING, photos, log, delay)
    network.start(HUB, "-m", "dask", "scheduler", "--port", 8786, "--no-dashboard")
    for number in range(4):
        network.add_worker(number)
    output, partial = tmp_path / "codes.h5", tmp_path / "codes.h5.partial"
    words = ("-m", "cnncodes", "extract", backbone, source, "-o")
    scheduler = ("--scheduler", f"tcp://{network.address(HUB)}:8786")
    scheduler_log = tmp_path / f"{HUB}.0.log"
    wait_for(lambda: scheduler_log.read_text().count("Register worker") == 4)
    client = network.start(HUB, *words, output, *scheduler, key=1)
    wait_for(lambda: log.exists() and log.read_text().count("\n") > N_IMAGES // 10)
    assert partial.exists()
    network.set_link(FIRST_WORKER + 2, "down")
    for number in (0, 1):
        network.processes[(FIRST_WORKER + number) * 10].kill()
    network.add_worker(4)
    time.sleep(SECONDS_CUT)
    assert client.poll() is None, "the network comes back while it computes"
    network.set_link(FIRST_WORKER + 2, "up")
    assert client.wait(timeout=300) == 0, (tmp_path / f"{HUB}.1.log").read_text()

    readers = {network.address(FIRST_WORKER + number) for number in range(5)}
    reads = [line.split(" ") for line in log.read_text().splitlines()]
    n_read = Counter(path for reader, path in reads if reader in readers)
    assert len(n_read) == N_IMAGES
    assert max(n_read.values()) <= 2
    assert {reader for reader, _ in reads} >= readers, "the added worker takes part"
    assert re.search(r"6 images skipped", (tmp_path / f"{HUB}.1.log").read_text())

    delay.write_text("0")
    alone = tmp_path / "alone.h5"
    local = ("--scheduler", "local", "--threads", 1)
    assert network.start(HUB, *words, alone, *local, key=2).wait(timeout=300) == 0
    assert output.read_bytes() == alone.read_bytes()
    plain = tmp_path / "plain.h5"
    run_command("extract", backbone, photos, "-o", plain)
    assert content_of(output) == content_of(plain)
    with CodeStore.open(output) as store:
        assert len(store) == N_IMAGES - 6
