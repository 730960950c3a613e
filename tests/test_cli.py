"""The program as a whole: help, defaults, and how failures are reported."""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from PIL import Image

from cnncodes import __version__
from cnncodes.app.bundle import bundle
from cnncodes.app.classifier import Classifier
from cnncodes.app.inputs import predict_inputs
from cnncodes.app.overlays import Overlays
from cnncodes.cli import main
from cnncodes.cli_options import with_option_names
from cnncodes.datasets.fetch import fetch_dataset
from cnncodes.errors import OutputError
from cnncodes.evaluate.evaluate import evaluate
from cnncodes.evaluate.learning_curve import learning_curves
from cnncodes.evaluate.report import Report
from cnncodes.experiment.experiment import run_experiment
from cnncodes.export.export import export_backbone
from cnncodes.extract.convert import convert_codes
from cnncodes.extract.merge import merge_codes
from cnncodes.extract.pipeline import extract
from cnncodes.head.sgd.softmax import SGDSoftmax
from cnncodes.head.train import train_head
from cnncodes.inspect.bench import benchmark
from cnncodes.inspect.verify import verify
from cnncodes.overlap.overlap import find_overlap
from cnncodes.overlap.pairs import OverlapFolder
from cnncodes.page.folder import write_page
from cnncodes.quantize.quantize import quantize_backbone
from cnncodes.serve.server import serve
from tests.conftest import Run
from tests.helpers import error_of, run_command, run_process, write_backbone, write_images

COMMANDS = {
    "export": [export_backbone],
    "quantize": [quantize_backbone],
    "fetch": [fetch_dataset],
    "extract": [extract],
    "merge": [merge_codes],
    "convert": [convert_codes],
    "overlap": [find_overlap, OverlapFolder],
    "train": [train_head, SGDSoftmax],
    "evaluate": [evaluate, Report],
    "curve": [learning_curves],
    "experiment": [run_experiment],
    "bundle": [bundle],
    "predict": [predict_inputs, Classifier, Overlays],
    "serve": [serve],
    "page": [write_page],
    "bench": [benchmark],
    "verify": [verify],
}
# The command line chooses these differently from the library, or has them for itself alone.
OWN = {
    "as_json",
    "explain",
    "layout",
    "list_all",
    "open_page",
    "output",
    "predictions",
    "report",
    "top",
}


OUTPUTS = [
    *(
        (name, "-o")
        for name in (
            "export",
            "quantize",
            "extract",
            "merge",
            "convert",
            "train",
            "curve",
            "bundle",
        )
    ),
    ("curve", "--plot"),
    ("evaluate", "--predictions"),
]


@pytest.mark.parametrize(
    ("name", "option"), [*OUTPUTS, ("evaluate", "--report"), ("overlap", "-o"), ("demo", "--")]
)
def test_output_is_no_standard_output(name: str, option: str, run: Run) -> None:
    said = run(name, option, "-", exit_code=2).stderr
    assert "results go to files, not to standard output; name one" in said


@pytest.mark.parametrize(("name", "option"), OUTPUTS)
def test_output_that_ends_with_a_slash_is_no_file(name: str, option: str, run: Run) -> None:
    assert (
        "'x.onnx/' names a folder; name a file" in run(name, option, "x.onnx/", exit_code=2).stderr
    )


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("inceptionv3", "inception_v3"),
        ("ResNet50", "resnet50"),
        ("efficientnet", "efficientnet_v2_b0"),
    ],
)
def test_name_of_a_network_that_is_misspelt(typed: str, meant: str, run: Run) -> None:
    message = run("export", typed, exit_code=2).stderr
    assert " export [OPTIONS] [NETWORK]\n" in message
    assert f"'{typed}' is no network of the table; did you mean {meant}? cnncodes export" in message
    assert "did you mean" not in run("export", "zzz", exit_code=2).stderr


@pytest.mark.parametrize(
    "words",
    [
        "extract bb.onnx photos/cat photos/dog -o codes.h5",
        "quantize bb.onnx --images photos/cat photos/dog",
    ],
)
def test_several_sources_are_refused_with_what_to_do(words: str, run: Run) -> None:
    message = run(*words.split(), exit_code=2).stderr
    assert "one argument too many: photos/dog; SOURCE is one folder or CSV file, so" in message
    assert "SOURCE" not in run("info", "a", "b", exit_code=2).stderr


def test_file_whose_name_looks_like_an_option(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-cats").mkdir()
    message = run("extract", "bb.onnx", "-cats", "-o", "codes.h5", exit_code=2).stderr
    assert "No such option '-c'. For the file of that name, write ./-cats" in message
    assert "./" not in run("extract", "bb.onnx", "-dogs", "-o", "a.h5", exit_code=2).stderr


@pytest.mark.parametrize("name", [*main.commands])
def test_help_has_an_example(name: str, run: Run) -> None:
    text = run(name, "--help").output
    assert f"Example: cnncodes {name}" in " ".join(text.split())


def test_commands_are_listed_in_the_order_of_their_use(run: Run) -> None:
    lines = run("--help").output.split("Commands:")[1].splitlines()
    listed = [line.split()[0] for line in lines if line.strip()]
    assert listed == [
        "export",
        "quantize",
        "fetch",
        "extract",
        "merge",
        "convert",
        "overlap",
        "train",
        "evaluate",
        "curve",
        "experiment",
        "bundle",
        "finetune",
        "predict",
        "serve",
        "page",
        "bench",
        "info",
        "verify",
        "demo",
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_defaults_are_those_of_the_library(name: str) -> None:
    defaults: dict[str, object] = {}
    for function in COMMANDS[name]:
        signature = inspect.signature(function)
        defaults = {key: each.default for key, each in signature.parameters.items()} | defaults
    for parameter in main.commands[name].params:
        if isinstance(parameter, click.Option) and parameter.name not in OWN:
            assert parameter.name in defaults
            if not parameter.required:
                # Without a default click keeps a marker of its own, which differs by version.
                plain = isinstance(parameter.default, str | int | float | tuple)
                default = parameter.default if plain else (False if parameter.is_flag else None)
                assert default == defaults[parameter.name], parameter.name


def test_version(run: Run) -> None:
    assert __version__ in run("--version").output


def test_wrong_usage_exits_with_2(run: Run) -> None:
    run("train", exit_code=2)
    run("nonsense", exit_code=2)
    run("export", "vgg61", exit_code=2)
    assert "export --list" in run("export", exit_code=2).stderr


def test_failure_is_one_line_unless_debugged(tmp_path: Path) -> None:
    missing = tmp_path / "missing.onnx"
    plain = run_process("predict", missing, "x.jpg")
    assert plain.returncode == 1
    assert plain.stdout == ""
    assert plain.stderr == f"Error: {missing}: no such file; make one with: cnncodes bundle\n"
    debugged = run_process("--debug", "predict", missing, "x.jpg")
    assert debugged.returncode == 1
    assert "Traceback" in debugged.stderr


@pytest.mark.parametrize(
    ("locked", "command"),
    [
        ("network.onnx", "extract network.onnx images -o new"),
        ("network.onnx", "quantize network.onnx --images images -o new"),
        ("network.onnx", "bench network.onnx"),
        ("head.onnx", "bundle network.onnx head.onnx -o new"),
        ("head.onnx", "evaluate head.onnx codes.h5"),
        ("codes.h5", "evaluate head.onnx codes.h5"),
        ("codes.h5", "convert codes.h5 -o new.csv"),
        ("codes.h5", "train codes.h5 -o new"),
        ("codes.h5", "curve codes.h5 -o new"),
        ("codes.h5", "verify codes.h5"),
        ("app.onnx", "predict app.onnx images"),
        ("app.onnx", "info app.onnx"),
        ("images", "extract network.onnx images -o new"),
        ("images", "predict app.onnx images"),
        ("list.csv", "extract network.onnx list.csv -o new"),
    ],
)
def test_file_that_may_not_be_read_is_reported(chain: Path, locked: str, command: str) -> None:
    names = {"new", *(path.name for path in chain.iterdir())}
    arguments = [chain / word if word in names else word for word in command.split()]
    mode = (chain / locked).stat().st_mode
    (chain / locked).chmod(0)
    done = run_process(*arguments, bound_by_permissions=True)
    (chain / locked).chmod(mode)
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith(f"Error: {chain / locked}: ")
    assert "Permission denied" in done.stderr
    assert "--debug" not in done.stderr  # reported on purpose, not by accident
    assert not (chain / "new").exists()


@pytest.fixture(scope="module")
def chain(
    tmp_path_factory: pytest.TempPathFactory,
    small_backbone: Path,
    photos: Path,
    codes: Path,
    head: Path,
    app: Path,
) -> Path:
    """A folder with a file of each kind."""
    folder = tmp_path_factory.mktemp("chain")
    files = {"network.onnx": small_backbone, "codes.h5": codes, "head.onnx": head, "app.onnx": app}
    for name, file in files.items():
        shutil.copy(file, folder / name)
    (folder / "list.csv").write_text("path,label\n")
    (folder / "images").mkdir()
    for number, image in enumerate(sorted(photos.rglob("*.png"))[:2]):
        shutil.copy(image, folder / "images" / f"{number}.png")
    return folder


def test_image_that_may_not_be_read_does_not_stop_the_others(chain: Path) -> None:
    images = [chain / "images" / f"{number}.png" for number in range(2)]
    images[0].chmod(0)
    done = run_process("predict", chain / "app.onnx", *images, bound_by_permissions=True)
    images[0].chmod(0o644)
    assert done.returncode == 1
    first, second = done.stdout.splitlines()
    assert first == f"{images[0]}  cannot be read: Permission denied"
    assert second.startswith(f"{images[1]}  ")
    assert second.endswith("%")


def test_provider_reaches_the_network(
    run: Run, small_backbone: Path, photos: Path, head: Path, app: Path, tmp_path: Path
) -> None:
    image = next(photos.rglob("*.png"))
    output = tmp_path / "codes.h5"
    for command in (
        ("extract", small_backbone, photos, "-o", output),
        ("predict", app, image),
        ("evaluate", app, photos),
        ("evaluate", head, photos, "--backbone", small_backbone),
    ):
        message = error_of(*command, "--provider", "cuda")
        assert message.startswith("Error: provider cuda: this onnxruntime has azure, cpu; ")
        assert list(tmp_path.iterdir()) == []
    plain = run("predict", app, image, "--format", "json").stdout
    assert run("predict", app, image, "--format", "json", "--provider", "azure").stdout == plain


def test_module_runs_as_the_script_does() -> None:
    script = Path(sys.executable).parent / "cnncodes"
    by_script = subprocess.run([script, "--version"], capture_output=True, check=True)
    assert run_process("--version").stdout.encode() == by_script.stdout


def test_reader_that_leaves_early_is_no_failure(app: Path, photos: Path) -> None:
    command = f"{sys.executable} -m cnncodes predict {app} {photos} | head -n 1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=os.environ, check=True
    )
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ("x: too large; raise max_pixels", "x: too large; raise --max-pixels"),
        ("x: exists; pass overwrite=True", "x: exists; pass --overwrite"),
        ("x: too large; pass dtype='float32'", "x: too large; pass --dtype float32"),
        ("max_pixels/max_pixels.png: overwrite it", "max_pixels/max_pixels.png: overwrite it"),
        ("group_by, on_error: odd", "--group-by, --on-error: odd"),
        ("train_fraction: of another command", "train_fraction: of another command"),
    ],
)
def test_parameters_of_the_library_become_options(message: str, wanted: str) -> None:
    assert with_option_names(message, main.commands["extract"]) == wanted


def test_command_names_options_and_library_parameters(codes: Path, tmp_path: Path) -> None:
    output = tmp_path / "head.onnx"
    output.touch()
    with pytest.raises(OutputError, match="choose another name or pass overwrite=True"):
        train_head(codes, output)
    assert error_of("train", codes, "-o", output).endswith("name or pass --overwrite")


def test_quiet_leaves_results_warnings_and_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = write_backbone(tmp_path / "backbone.onnx")
    write_images(tmp_path / "photos", "cat/a.png", "dog/b.png")
    for number, path in enumerate((tmp_path / "photos").rglob("*.png")):
        Image.new("L", (8, 8), 99 * number).save(path)
    words = ("extract", backbone, tmp_path / "photos", "-o")
    loud = run_command(*words, tmp_path / "loud.h5")
    quiet = run_command("--quiet", *words, tmp_path / "quiet.h5")
    assert "2 image files" in loud.stderr
    assert quiet.stderr == ""
    assert "2 images, 2 classes" in quiet.stdout
    said = run_command("--quiet", "train", backbone, "-o", tmp_path / "head", exit_code=1).stderr
    assert said.startswith(f"Error: {backbone}: is a backbone")
    monkeypatch.setattr("cnncodes.output._lock", _refuse_lock)
    warned = run_command("--quiet", *words, tmp_path / "warned.h5").stderr
    assert warned.startswith("Warning: ")
    assert len(warned.splitlines()) == 1


def _refuse_lock(_: object) -> None:
    raise OSError(38, "Function not implemented")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_that_the_readme_names(shell: str) -> None:
    if shell == "bash" and shutil.which("bash") is None:
        pytest.skip("click asks bash for its version")
    done = subprocess.run(
        [sys.executable, "-m", "cnncodes"],
        env={**os.environ, "_CNNCODES_COMPLETE": f"{shell}_source"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "_CNNCODES_COMPLETE" in done.stdout
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    assert f"_CNNCODES_COMPLETE={shell}_source cnncodes" in readme
