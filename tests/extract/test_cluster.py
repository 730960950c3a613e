"""Codes computed by the workers of a Dask cluster: real ones, in processes of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import s3fs
from moto.server import ThreadedMotoServer

from cnncodes import CodeStore, merge_codes
from cnncodes.errors import ImageError
from cnncodes.extract import cluster, dispatch
from cnncodes.extract.pipeline import extract
from cnncodes.images.sources import find_images
from cnncodes.progress import Progress
from tests.helpers import error_of, run_command, write_backbone, write_colours

pytest.importorskip("distributed")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="its workers run on Linux")
SECONDS = 60.0  # within which everything here happens
DELAY = 0.03  # of the server, for each image


class Dask:
    """A scheduler on the loopback, and workers of one thread each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self.workers: list[subprocess.Popen[bytes]] = []

    def start(self, **environment: str) -> None:
        self._run("scheduler", "--host", "127.0.0.1", "--port", "0", **environment)
        log = self._folder / "0.log"
        self.address = wait_for(lambda: re.search(r"tcp://127\.0\.0\.1:\d+", log.read_text()))[0]

    def add(self, *options: str, before: tuple[str, ...] = (), nanny: bool = False) -> None:
        kind = "--nanny" if nanny else "--no-nanny"
        words = ("worker", self.address, kind, "--nthreads", "1", "--local-directory")
        name = str(self._folder / f"worker{len(self.workers)}")
        self.workers.append(self._run(*words, name, *options, before=before))

    def _run(
        self, *words: str, before: tuple[str, ...] = (), **environment: str
    ) -> subprocess.Popen[bytes]:
        log = (self._folder / f"{len(self._processes)}.log").open("wb")
        command = [*before, sys.executable, "-m", "dask", words[0], "--no-dashboard", *words[1:]]
        # Its temporary folders and what tests preload are found from the same working folder.
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | environment, start_new_session=True
        )
        log.close()
        self._processes.append(process)
        return process

    def stop(self) -> None:
        for process in self._processes[::-1]:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(condition: Callable[[], object]) -> object:
    until = time.monotonic() + SECONDS
    while not (value := condition()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return value


@contextmanager
def running(folder: Path, n_workers: int = 0, **environment: str) -> Iterator[Dask]:
    folder.mkdir(exist_ok=True)
    dask = Dask(folder)
    try:
        dask.start(**environment)
        for _ in range(n_workers):
            dask.add()
        yield dask
    finally:
        dask.stop()


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dask]:
    with running(tmp_path_factory.mktemp("dask"), 2) as started:
        yield started


class Handler(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        time.sleep(DELAY)
        self.server.read.append(self.path.lstrip("/"))
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


class FileServer(ThreadingHTTPServer):
    """A server of a folder, each file after a while; it notes what was read."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), lambda *a: Handler(*a, directory=str(folder)))
        self.read: list[str] = []


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Thirty images, and three of which no codes can be made."""
    folder = write_colours(tmp_path / "photos")
    (folder / "b" / "3b.png").write_bytes(b"")
    (folder / "g" / "odd.jpg").write_bytes(b"\xff\xd8\xff not an image")
    (folder / "red" / "lost.png").symlink_to("nowhere.png")
    return folder


@pytest.fixture
def served(photos: Path, tmp_path: Path) -> Iterator[FileServer]:
    """The images at URLs; they are listed in urls.csv."""
    with FileServer(photos) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        source = find_images(photos)
        names = [*source.class_names, ""]
        rows = [
            f"http://127.0.0.1:{server.server_port}/{path},{names[label]}"
            for path, label in zip(source.paths, source.labels, strict=True)
        ]
        (tmp_path / "urls.csv").write_text("\n".join(["path,label", *rows]))
        try:
            yield server
        finally:
            server.shutdown()


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return write_backbone(tmp_path / "models" / "mean.onnx")


def content_of(codes: Path) -> list[object]:
    """What a codes file holds, but for where its images are."""
    with CodeStore.open(codes) as store:
        parts = [store.codes[:], store.labels, store.checksums]
        skipped = [path.rpartition("/")[2] for path, _ in store.skipped]
        return [*(each.tobytes() for each in parts), store.digests, store.class_names, skipped]


def test_file_is_that_of_one_machine(
    dask: Dask, backbone: Path, photos: Path, tmp_path: Path
) -> None:
    for name, *options in (("one",), ("many", "--scheduler", dask.address)):
        output = tmp_path / f"{name}.h5"
        done = run_command("extract", backbone, photos, "-o", output, "--json", *options)
        assert len(json.loads(done.stdout)["skipped"]) == 3
    assert (tmp_path / "many.h5").read_bytes() == (tmp_path / "one.h5").read_bytes()
    with pytest.raises(ImageError, match="mend or remove it"):
        extract(backbone, photos, output, scheduler=dask.address, on_error="fail", overwrite=True)


def test_update_computes_what_is_new(
    dask: Dask, backbone: Path, photos: Path, tmp_path: Path
) -> None:
    """And knows images by their content: one was renamed."""
    one, many = tmp_path / "one.h5", tmp_path / "many.h5"
    for output in (one, many):
        extract(backbone, photos, output, augment="hflip")
    (photos / "b" / "0.png").rename(photos / "g" / "renamed.png")
    (photos / "b" / "1.png").write_bytes((photos / "red" / "1.png").read_bytes())
    write_colours(tmp_path / "more", seed=1)
    (tmp_path / "more" / "red").rename(photos / "new")
    options = {"augment": "hflip", "update": True}
    own = extract(backbone, photos, one, **options)
    result = extract(backbone, photos, many, scheduler=dask.address, **options)
    assert result.n_reused == own.n_reused == 30
    assert many.read_bytes() == one.read_bytes()


def test_parts_of_weighted_images_of_several_labels(
    dask: Dask, backbone: Path, photos: Path, tmp_path: Path
) -> None:
    """One of them interrupted on the cluster, and finished on one machine."""
    table, whole = tmp_path / "list.csv", tmp_path / "whole.h5"
    paths = sorted(path.relative_to(tmp_path).as_posix() for path in photos.rglob("*.*"))
    rows = [f"{path},{path[7]};{at % 2},{at % 3 or ''},{at // 4}" for at, path in enumerate(paths)]
    table.write_text("\n".join(["path,label,weight,group", *rows]))
    parts = [tmp_path / "1.h5", tmp_path / "2.h5"]
    extract(backbone, table, parts[0], part=(1, 2), scheduler=dask.address)

    class Interruption(Progress):
        def advance(self, amount: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="the same command goes on from there"):
        extract(
            *(backbone, table, parts[1]),
            part=(2, 2),
            scheduler=dask.address,
            progress=Interruption("", ""),
        )
    assert extract(backbone, table, parts[1], part=(2, 2)).n_resumed > 0
    merge_codes(parts, tmp_path / "merged.h5")
    extract(backbone, table, whole)
    assert (tmp_path / "merged.h5").read_bytes() == whole.read_bytes()


def test_urls_of_fsspec(dask: Dask, backbone: Path, photos: Path, tmp_path: Path) -> None:
    """And the same command again has nothing to do."""
    urls = {path: path.absolute().as_uri() for path in photos.rglob("*.png")}
    words = ["extract", backbone, list_of(urls, tmp_path), "-o", tmp_path / "c.h5", "--scheduler"]
    done = json.loads(run_command(*words, dask.address, "--json").stdout)
    assert (done["n_images"], len(done["skipped"])) == (30, 2)
    assert "nothing to do" in run_command(*words, dask.address).stdout
    assert rows_of(tmp_path / "c.h5") == rows_of(extract(backbone, photos, tmp_path / "1.h5").path)


def test_objects_of_s3(
    backbone: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of which one is not there, of whose bucket another, and one has a name of its own."""
    (photos / "b" / "0.png").rename(photos / "b" / "müller 100% #1?.png")
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        files = s3fs.S3FileSystem()
        files.mkdir("bucket")
        urls = {}
        for path in photos.rglob("*.png"):
            urls[path] = f"s3://bucket/{path.relative_to(photos).as_posix()}"
            if path.exists():
                files.put_file(str(path), urls[path])
        urls[photos / "b" / "absent"] = "s3://nowhere/1.png"
        with running(tmp_path / "dask", 2) as dask:
            output = tmp_path / "c.h5"
            words = ["extract", backbone, list_of(urls, tmp_path), "-o", output, "--json"]
            done = json.loads(run_command(*words, "--scheduler", dask.address).stdout)
    finally:
        server.stop()
    reasons = {path.rpartition("/")[2]: reason for path, reason in done["skipped"]}
    assert reasons["3b.png"] == "empty file"
    assert reasons["lost.png"].startswith("cannot be read: ")
    assert "bucket does not exist" in reasons["1.png"]
    assert rows_of(output) == rows_of(extract(backbone, photos, tmp_path / "1.h5").path)


def list_of(urls: dict[Path, str], folder: Path) -> Path:
    """Write a table of images, each in the class of its folder."""
    rows = sorted(f"{url},{path.parent.name}" for path, url in urls.items())
    table = folder / "list.csv"
    table.write_text("\n".join(["path,label", *rows]), "utf-8")
    return table


def rows_of(codes: Path) -> set[tuple[str, int]]:
    """Digest and checksum of each row."""
    with CodeStore.open(codes) as store:
        return {*zip(store.digests, store.checksums, strict=True)}


def test_image_that_one_worker_cannot_read_is_read_by_another(
    backbone: Path, photos: Path, tmp_path: Path
) -> None:
    """Where none can it is reported, and so is a scheduler that is gone."""
    blind = tmp_path / "blind.py"
    blind.write_text("""
import cnncodes.extract.remote as remote
from cnncodes.images.decoding import LoadedImage
problem = "cannot be read: Stale file handle"
remote.load_location = lambda index, *a, **k: (LoadedImage(index, None, "", problem), True)
""")
    output = tmp_path / "codes.h5"
    words = ["extract", backbone, photos, "-o", output, "--scheduler"]
    with running(tmp_path / "dask") as dask:
        dask.add("--preload", str(blind))
        message = error_of(*words, dask.address)
        assert "b/0.png: cannot be read: Stale file handle (3 tries, the last by tcp:" in message
        dask.add()
        log = tmp_path / "dask" / "2.log"
        wait_for(lambda: b"Registered" in log.read_bytes())
        run_command(*words, dask.address)
        (photos / "b" / "new.png").write_bytes((photos / "b" / "0.png").read_bytes())
        for worker in dask.workers:
            worker.kill()
        command = [sys.executable, "-m", "cnncodes", *map(str, [*words, dask.address, "--update"])]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as client:
            assert client.stderr is not None
            assert any("no workers; waiting for one" in line for line in client.stderr)
            dask.stop()
            assert "the Dask scheduler is gone" in client.stderr.read()
    (photos / "b" / "new.png").unlink()
    extract(backbone, photos, tmp_path / "one.h5")
    assert output.read_bytes() == (tmp_path / "one.h5").read_bytes()


def test_killed_client_goes_on(
    dask: Dask, backbone: Path, served: FileServer, tmp_path: Path
) -> None:
    output, partial = tmp_path / "codes.h5", tmp_path / "codes.h5.partial"
    words = ["extract", backbone, tmp_path / "urls.csv", "-o", output, "--batch-size", 1]
    words += ["--scheduler", dask.address]
    command = [sys.executable, "-m", "cnncodes", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
        wait_for(lambda: partial.exists() and partial.stat().st_size > 2000)
        client.kill()
        client.communicate()
    result = json.loads(run_command(*words, "--json").stdout)
    assert 0 < result["n_resumed"] < 30
    assert result["n_images"] == 30
    local = tmp_path / "local.h5"
    extract(backbone, tmp_path / "photos", local)
    assert content_of(output) == content_of(local)


def test_images_of_a_killed_worker_are_computed_elsewhere(
    backbone: Path, served: FileServer, tmp_path: Path
) -> None:
    output = tmp_path / "codes.h5"
    with running(tmp_path / "dask", 2) as dask:

        def kill_one() -> None:
            wait_for(lambda: len(served.read) > 8)
            dask.workers[0].kill()
            dask.add()

        Thread(target=kill_one).start()
        source = tmp_path / "urls.csv"
        result = extract(backbone, source, output, scheduler=dask.address, batch_size=2)
        assert result.n_images == 30
    local = tmp_path / "local.h5"
    extract(backbone, tmp_path / "photos", local)
    assert content_of(output) == content_of(local)
    n_read = Counter(served.read)
    del n_read["red/lost.png"]  # which the client looks for too
    assert max(n_read.values()) <= 2


def test_worker_of_another_version_is_refused(backbone: Path, photos: Path, tmp_path: Path) -> None:
    """Also one without the images, while one without the backbone is sent it."""
    older = tmp_path / "older.py"
    older.write_text("import cnncodes.extract.remote as r\nr.__version__ = '0.0.1'\n")
    output = tmp_path / "codes.h5"
    with running(tmp_path / "dask") as dask:
        words = ["extract", backbone, photos, "-o", output, "--scheduler", dask.address]
        dask.add("--preload", str(older))
        message = error_of(*words)
        assert "this worker has cnncodes 0.0.1 instead of" in message
        assert not output.with_name("codes.h5.partial").exists()
        dask.workers[0].kill()
        if os.getuid() != 0:
            return
        for number, (folder, refusal) in enumerate(
            {photos: f"does not see {photos}", backbone.parent: ""}.items(), start=1
        ):
            hide = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {folder}; exec "$@"')
            dask.add(before=(*hide, "sh"))
            if refusal:
                assert refusal in error_of(*words)
                dask.workers[number].kill()
            else:
                run_command(*words)
    extract(backbone, photos, tmp_path / "one.h5")
    assert output.read_bytes() == (tmp_path / "one.h5").read_bytes()


def test_image_that_ends_workers_is_named_and_left_out(
    backbone: Path, photos: Path, tmp_path: Path
) -> None:
    deadly = tmp_path / "deadly.py"
    deadly.write_text("""
import os
import cnncodes.extract.remote as remote
from cnncodes.images.urls import load_location
def load_or_die(index, location, *rest, **options):
    if location.endswith("b/0.png"):
        os._exit(9)
    return load_location(index, location, *rest, **options)
remote.load_location = load_or_die
""")
    allowed = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
    with running(tmp_path / "dask", **allowed) as dask:
        dask.add("--preload", str(deadly), nanny=True)
        options = {"scheduler": dask.address, "batch_size": 1}
        result = extract(backbone, photos, tmp_path / "codes.h5", **options)
    reasons = dict(result.skipped)
    assert reasons["b/0.png"].startswith("ended the 1 worker that computed it")
    assert result.n_images == 29
    assert any("b/0.png" in note for note in result.notes)


def test_worker_that_hangs_is_not_waited_for(
    backbone: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "SECONDS_UNTIL_COPIED", 5.0)
    hanging = tmp_path / "hanging.py"
    hanging.write_text("""
import time
import cnncodes.extract.remote as remote
remote.load_location = lambda *a, **k: time.sleep(1000)
""")
    with running(tmp_path / "dask", 1) as dask:
        dask.add("--preload", str(hanging))
        wait_for(lambda: b"Registered" in (tmp_path / "dask" / "2.log").read_bytes())
        output = tmp_path / "codes.h5"
        result = extract(backbone, photos, output, scheduler=dask.address, batch_size=1)
    assert any("computed elsewhere" in note for note in result.notes)
    extract(backbone, photos, tmp_path / "one.h5")
    assert output.read_bytes() == (tmp_path / "one.h5").read_bytes()


def test_waits_for_a_worker(backbone: Path, photos: Path, tmp_path: Path) -> None:
    with running(tmp_path / "dask") as dask:
        words = ["extract", backbone, photos, "-o", tmp_path / "c.h5", "--scheduler", dask.address]
        command = [sys.executable, "-m", "cnncodes", *map(str, words)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as client:
            assert client.stderr is not None
            assert any("no workers; waiting for one" in line for line in client.stderr)
            client.send_signal(signal.SIGINT)
            assert client.stderr.read().endswith("the same command starts from the beginning\n")
        assert client.returncode == 1


def test_scheduler_on_this_machine(backbone: Path, photos: Path, tmp_path: Path) -> None:
    before = dict(os.environ)
    result = extract(backbone, photos, tmp_path / "many.h5", scheduler="local", threads=1)
    assert result.workers == 1
    assert dict(os.environ) == before, "that of the workers is theirs"
    extract(backbone, photos, tmp_path / "one.h5")
    assert (tmp_path / "many.h5").read_bytes() == (tmp_path / "one.h5").read_bytes()


def test_wrong_addresses_are_refused(
    backbone: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "SECONDS_TO_CONNECT", 0.5)
    words = ["extract", backbone, photos, "-o", tmp_path / "codes.h5", "--scheduler"]
    for address, expected in (
        ("tcp://127.0.0.1:9", "no Dask scheduler can be reached there"),
        ("nowhere", "scheduler must be an address, such as tcp://host:8786, or 'local'"),
        ("http://127.0.0.1:9", "scheduler must be an address"),
    ):
        assert expected in error_of(*words, address)
    assert "leave it out" in error_of(*words, "tcp://127.0.0.1:9", "--threads", 2)
    assert not (tmp_path / "codes.h5.partial").exists()
