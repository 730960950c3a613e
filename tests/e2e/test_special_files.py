"""Each path that a command takes leads to a FIFO, a device or a hole: one line, and no harm."""

from __future__ import annotations

import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cnncodes.errors import ParameterError
from tests.fuzz.files import Chain
from tests.helpers import error_of, run_command

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows has none of these")

HOLE = 3 * 2**30
SECONDS = 60  # to end a test that waits for a FIFO; none takes more than a few
INPUTS = (
    "info X",
    "verify X",
    "verify CODES --source X",
    "verify CODES --backbone X",
    "extract X PHOTOS -o NEW",
    "extract BACKBONE X -o NEW",
    "train X -o NEW",
    "train X -o NEW --estimator sgd",
    "evaluate X CODES",
    "evaluate HEAD X",
    "evaluate APP X",
    "evaluate HEAD X --backbone BACKBONE",
    "evaluate HEAD PHOTOS --backbone X",
    "evaluate HEAD CODES --report NEW --curve X",
    "curve X -o NEW",
    "curve CODES X -o NEW",
    "bundle X HEAD -o NEW",
    "bundle BACKBONE X -o NEW",
    "predict X PHOTO",
    "predict APP X",
    "bench X",
    "bench BACKBONE X",
    "quantize X --images PHOTOS -o NEW",
    "quantize BACKBONE --images X -o NEW",
    "export mobilenet_v2 --weights X -o NEW",
)
OUTPUTS = (
    "export mobilenet_v2 --weights random -o X --overwrite",
    "quantize BACKBONE --images PHOTOS -o X --overwrite",
    "extract BACKBONE PHOTOS -o X --overwrite",
    "extract BACKBONE PHOTOS -o X --update",
    "train CODES -o X --overwrite",
    "train CODES -o X --overwrite --estimator sgd",
    "evaluate HEAD CODES --report X --overwrite",
    "curve CODES -o X --overwrite",
    "curve CODES -o NEW --plot X --overwrite",
    "bundle BACKBONE HEAD -o X --overwrite",
    "demo X",
)
UNFINISHED = ("extract BACKBONE PHOTOS -o NEW",)
KINDS = ("FIFO", "socket", "folder", "device", "lost", "loop", "empty", "long", "hole")


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain.make(tmp_path_factory.mktemp("chain"))


@pytest.fixture(autouse=True)
def _ends() -> Iterator[None]:
    """End a test that hangs, as an error that no command catches as one of its own."""

    def end(*_: object) -> None:
        raise AssertionError(f"still running after {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def put(path: Path, kind: str) -> Path:
    """Create something of a kind at a path; return the path as a command's argument."""
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        folder = os.open(path.parent, os.O_RDONLY)  # the path of a socket must be short
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":  # a node of its own where that may be made, for no test to harm /dev
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
        except PermissionError:
            path.symlink_to("/dev/zero")
    elif kind == "lost":
        path.symlink_to("absent/file")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "long":
        return path.with_name("x" * 300 + path.name)
    else:
        path.touch()
        os.truncate(path, HOLE if kind == "hole" else 0)
    return path


def words(command: str, chain: Chain, special: Path, new: Path) -> list[str]:
    """Fill in the paths of a command."""
    paths = {
        **{name.upper(): path for name, path in vars(chain).items()},
        "PHOTO": chain.photo(),
        "NEW": new,
        "X": special,
    }
    return [str(paths.get(word, word)) for word in command.split()]


def state(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What is in a folder, and of which kind, size and time."""
    return {
        each.name: (status.st_mode, status.st_size, status.st_mtime_ns)
        for each in folder.iterdir()
        for status in [each.lstat()]
    }


# The digest of a sparse file of weights would take long, before TensorFlow opens it.
GIVEN = [
    (command, kind)
    for command in INPUTS
    for kind in KINDS
    if not ("--weights" in command and kind == "hole")
]


@pytest.mark.parametrize(("command", "kind"), GIVEN)
def test_input(command: str, kind: str, chain: Chain, tmp_path: Path) -> None:
    for suffix in ("", ".h5", ".csv") if kind in ("FIFO", "hole") else ("",):
        special = put(tmp_path / f"special{suffix}", kind)
        before = state(tmp_path)
        arguments = words(command, chain, special, tmp_path / "new.out")
        if command == "info X" and kind in ("empty", "hole") and suffix != ".csv":
            assert run_command(*arguments).stdout.startswith("what   ")
        elif command == "predict APP X" and kind != "folder":
            assert str(special) in run_command(*arguments, exit_code=1).stdout
        else:
            error = error_of(*arguments)
            # A head is passed codes, an app images, whatever is in a file of another kind.
            assert f"{special}: " in error or ("evaluate" in command and "; give it" in error)
        assert state(tmp_path) == before


@pytest.mark.parametrize("kind", [*KINDS[:-2], "link to FIFO"])
@pytest.mark.parametrize("command", OUTPUTS)
def test_output(command: str, kind: str, chain: Chain, tmp_path: Path) -> None:
    if kind in ("folder", "empty") and ("demo" in command or "--report" in command):
        kind = "FIFO"  # these write into a folder
    if kind == "empty" and "--update" not in command:
        kind = "long"  # an empty file may be replaced
    name = "special.png" if "--plot" in command else "special"
    if kind == "link to FIFO":
        put(tmp_path / "pipe", "FIFO")
        (tmp_path / name).symlink_to("pipe")
        special = tmp_path / name
    else:
        special = put(tmp_path / name, kind)
    before = state(tmp_path)
    error = error_of(*words(command, chain, special, tmp_path / "new"))
    assert error.startswith(f"Error: {special}: ")
    assert state(tmp_path) == before


@pytest.mark.parametrize("kind", ["FIFO", "socket", "folder", "device", "lost", "loop", "text"])
@pytest.mark.parametrize("command", UNFINISHED)
def test_unfinished_work(command: str, kind: str, chain: Chain, tmp_path: Path) -> None:
    special = tmp_path / "new.partial"
    if kind == "text":
        special.write_text("my diary")
    else:
        put(special, kind)
    before = state(tmp_path)
    error = error_of(*words(command, chain, special, tmp_path / "new"))
    assert error.startswith(f"Error: {special}: is ")
    assert error.endswith("; move it away")
    assert state(tmp_path) == before
    if kind == "text":
        assert special.read_text() == "my diary"


@pytest.mark.parametrize("command", UNFINISHED)
@pytest.mark.parametrize("what", ["codes", "backbone", "photos"])
def test_input_at_the_path_of_unfinished_work(
    command: str, what: str, chain: Chain, tmp_path: Path
) -> None:
    special = tmp_path / "new.partial"
    special.hardlink_to(chain.photo() if what == "photos" else getattr(chain, what))
    before = state(tmp_path)
    assert f"{special}: is no " in error_of(*words(command, chain, special, tmp_path / "new"))
    assert state(tmp_path) == before


@pytest.mark.parametrize(
    "command", ["extract BACKBONE X -o Y", "quantize BACKBONE --images X -o Y"]
)
@pytest.mark.parametrize("link", ["same", "hard", "symbolic"])
def test_image_of_the_source_is_never_replaced(
    command: str, link: str, chain: Chain, tmp_path: Path
) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    for number, photo in enumerate(sorted(chain.photos.rglob("*.png"))):
        (source / f"{number}.png").write_bytes(photo.read_bytes())
    photo = (source / "0.png").rename(source / "0")  # an output must not be called .png
    output = photo if link == "same" else tmp_path / "output"
    if link == "hard":
        output.hardlink_to(photo)
    elif link == "symbolic":
        output.symlink_to(photo)
    before = state(source)
    arguments = [
        str(output) if each == "Y" else each for each in words(command, chain, source, output)
    ]
    assert "is what the result is made from" in error_of(*arguments, "--overwrite")
    assert state(source) == before


@pytest.mark.parametrize("data", ["photos", "codes"])
def test_evaluated_image_is_never_replaced(data: str, chain: Chain, tmp_path: Path) -> None:
    model = {"photos": chain.app, "codes": chain.head}[data]
    photo = chain.photo()
    before = state(photo.parent)
    link = tmp_path / "predictions.csv"  # whose ending is right
    link.symlink_to(photo)
    words = ("evaluate", model, getattr(chain, data), "--predictions", link, "--overwrite")
    assert error_of(*words) == (
        f"Error: {link}: is what the result is made from; choose another name"
    )
    assert state(photo.parent) == before


@pytest.mark.parametrize(
    "name", ["report", "report/index.html", "report/../report/EVALUATION.json"]
)
@pytest.mark.parametrize("is_there", [False, True])
def test_predictions_replace_no_part_of_a_report(
    name: str, is_there: bool, chain: Chain, tmp_path: Path
) -> None:
    evaluated = ("evaluate", chain.head, chain.codes, "--report", tmp_path / "report")
    if is_there:
        run_command(*evaluated)
    before = state(tmp_path)
    error_of(*evaluated, "--predictions", tmp_path / name, "--overwrite")
    assert state(tmp_path) == before


@pytest.mark.parametrize("command", ["info X", "verify X", "predict X PHOTO", "evaluate APP X"])
@pytest.mark.parametrize("content", ["hole", "noise"])
def test_large_files_take_little_memory(
    command: str, content: str, chain: Chain, tmp_path: Path
) -> None:
    """In a process of its own that may have no more than half a gigabyte for its data."""
    special = tmp_path / "special"
    put(special, "hole")
    if content == "noise":
        with special.open("r+b") as file:
            file.write(os.urandom(2**20))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (2**29, 2**29))

    done = subprocess.run(
        [sys.executable, "-m", "cnncodes", *words(command, chain, special, tmp_path / "new")],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
        timeout=SECONDS,
    )
    if command == "info X":
        assert done.stdout == (
            f"what   nothing cnncodes knows\nuse    no command takes it\nbytes  {HOLE}\n"
        )
    else:
        assert done.returncode == 1
        assert done.stderr.startswith(f"Error: {special}: "), done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_standard_streams_are_no_files_to_write(chain: Chain, tmp_path: Path) -> None:
    special = tmp_path / "stdout"
    special.symlink_to("/proc/self/fd/1")  # as /dev/stdout, which no test should risk
    command = "train CODES -o X --overwrite"
    done = subprocess.run(
        [sys.executable, "-m", "cnncodes", *words(command, chain, special, tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 1
    (error,) = done.stderr.splitlines()
    assert error.startswith(f"Error: {special}: is a named pipe (FIFO), which is never replaced")
    assert special.is_symlink()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("command", ["info X", "verify X", "predict APP X", "evaluate HEAD X"])
def test_files_of_size_0_are_not_read(command: str, chain: Chain, tmp_path: Path) -> None:
    """A file of /proc has size 0 whatever is in it, and reading some blocks; this one has lines."""
    special = tmp_path / "special"
    special.symlink_to("/proc/self/status")
    result = run_command(
        *words(command, chain, special, tmp_path / "new"), exit_code=int(command != "info X")
    )
    assert "empty file" in result.output


@pytest.mark.parametrize("value", [None, 7, b"bytes", [7]])
def test_what_is_no_path_is_refused_by_functions(value: object, chain: Chain) -> None:
    from cnncodes import Backbone, Classifier
    from cnncodes.app.bundle import bundle
    from cnncodes.evaluate.curve import read_curves
    from cnncodes.evaluate.evaluate import evaluate
    from cnncodes.evaluate.learning_curve import learning_curves
    from cnncodes.evaluate.report import Report
    from cnncodes.export.export import export_backbone
    from cnncodes.extract.pipeline import extract
    from cnncodes.head.train import train_head
    from cnncodes.images.sources import find_images
    from cnncodes.inspect.bench import benchmark
    from cnncodes.inspect.info import describe
    from cnncodes.inspect.verify import verify
    from cnncodes.quantize.quantize import quantize_backbone

    good = chain.codes.with_name("new")
    calls = (
        (Classifier, (value,)),
        (Backbone, (value,)),
        (describe, (value,)),
        (find_images, (value,)),
        (read_curves, (value,)),
        (verify, (value,)),
        *((bundle, paths) for paths in one_wrong(value, 3)),
        *((extract, paths) for paths in one_wrong(value, 3)),
        *((train_head, paths) for paths in one_wrong(value, 2)),
        *((quantize_backbone, paths) for paths in one_wrong(value, 3)),
        *((evaluate, paths) for paths in one_wrong(value, 2)),
        (Report, (value,)),
        (export_backbone, ("mobilenet_v2", value)),
        (benchmark, ([value],)),
        (learning_curves, ([value], good)),
        (learning_curves, (good, good)),
        (learning_curves, ([good], value)),
    )
    for function, arguments in calls:
        with pytest.raises(ParameterError, match=r"must be|several paths"):
            function(*arguments)
    with pytest.raises(ParameterError, match="weights must be a str or a Path"):
        export_backbone("mobilenet_v2", good, weights=value)


def one_wrong(value: object, number: int) -> Iterator[tuple[object, ...]]:
    """Give arguments that are paths but for one."""
    for wrong in range(number):
        yield tuple(value if index == wrong else "absent" for index in range(number))
