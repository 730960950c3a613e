"""The whole of it, in processes in which TensorFlow is loaded already."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from cnncodes import Classifier, CodeStore
from cnncodes.errors import OutputError
from cnncodes.finetune.finetune import finetune
from cnncodes.finetune.plan import check_disk
from cnncodes.progress import Progress
from tests.export.keras_process import KerasProcess, command, run_with_keras
from tests.finetune.process import NETWORK, OPTIONS, check_top, tune
from tests.helpers import error_of, names_in, run_command


@pytest.fixture(scope="module")
def tuned(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``whole.onnx``, ``resumed.onnx`` and what `tune` tells of them."""
    folder = tmp_path_factory.mktemp("tuned")
    done = run_with_keras(tune, str(photos), str(folder))
    assert done.returncode == 0, done.stderr
    # A library call writes nothing, and TensorFlow's chatter reaches nobody.
    assert (done.stdout, done.stderr) == ("", "")
    return folder


@pytest.fixture(scope="module")
def results(tuned: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((tuned / "results.json").read_text())
    return loaded


def test_training_starts_from_the_linear_classifier_and_improves_on_it(
    results: dict[str, Any],
) -> None:
    whole = results["whole"]
    start, *epochs = whole["epochs"]
    assert start["number"] == 0
    assert start["train_loss"] is None
    assert [each["number"] for each in epochs] == [1, 2, 3]
    best = min(whole["epochs"], key=lambda each: each["validation_loss"])
    assert whole["best_epoch"] == best["number"]
    assert whole["before"]["accuracy"] > 0.5  # of ten classes: it is a classifier, not noise
    n_images = whole["n_train"] + whole["n_validation"] + whole["before"]["n_images"]
    assert n_images == 120


def test_app_gives_the_labels_of_keras(results: dict[str, Any]) -> None:
    parity = results["whole"]["parity"]
    assert parity["n_images"] == results["whole"]["after"]["figures"]["n_images"]
    assert parity["n_equal"] == parity["n_images"]


def test_interrupted_training_goes_on_to_the_same_app(tuned: Path, results: dict[str, Any]) -> None:
    message = results["interrupt"]["message"]
    assert "keeps 1 of 3 epochs" in message
    assert "the same command goes on from there" in message
    assert not results["interrupt"]["is_written"]
    whole, resumed = results["whole"], results["resumed"]
    for each in (*whole["epochs"], *resumed["epochs"]):
        del each["seconds"]
    assert resumed["epochs"] == whole["epochs"]
    assert any("kept, it has the activations of all images" in line for line in resumed["plan"])
    one, two = (_weights(tuned / name) for name in ("whole.onnx", "resumed.onnx"))
    assert one.keys() == two.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, two[name])


@pytest.mark.skipif(os.name != "posix", reason="Windows has other groups of processes")
def test_ctrl_c_in_the_middle_of_an_epoch(tuned: Path, photos: Path, tmp_path: Path) -> None:
    """A terminal sends it to all processes of the command, that of TensorFlow too."""
    app, work = tmp_path / "whole.onnx", tmp_path / "whole.finetune"
    work.mkdir()
    for path in (tuned / "whole.finetune").glob("*-block5_conv2*"):
        shutil.copy(path, work)
    words = ["finetune", photos, NETWORK, "-o", app]
    for name, value in OPTIONS.items():
        words += [f"--{name.replace('_', '-')}", value]
    command = [sys.executable, "-m", "cnncodes", *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, start_new_session=True) as interrupted:
        lines = []
        for line in interrupted.stderr:
            lines.append(line)
            if line.startswith("  epoch   1 "):
                os.killpg(interrupted.pid, signal.SIGINT)
        assert interrupted.stdout.read() == ""
    assert interrupted.returncode == 1
    with pytest.raises(ProcessLookupError):
        os.killpg(interrupted.pid, 0)
    *lines, kept, error = lines
    (checkpoint,) = work.glob("*/checkpoint.npz")
    n_kept = int(kept.split()[1])  # 1, unless others came while the signal did
    assert n_kept < OPTIONS["epochs"]
    assert error.startswith(f"Error: interrupted; {checkpoint} keeps {n_kept} of 3 epochs, ")
    assert error.endswith("; the same command goes on from there\n")
    assert not app.exists()
    assert names_in(checkpoint.parent) == ["checkpoint.npz"]
    epochs, _ = _state_in(checkpoint)
    resumed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    whole = tuned / "whole.finetune" / checkpoint.parent.name
    all_epochs, arrays = _state_in(checkpoint)
    # With the time that they took: they are not trained again.
    assert all_epochs[: len(epochs)] == epochs
    assert arrays == _state_in(whole / checkpoint.name)[1]
    assert app.read_bytes() == (tuned / "whole.onnx").read_bytes()
    for name in set(names_in(checkpoint.parent)) - {checkpoint.name}:
        assert (checkpoint.parent / name).read_bytes() == (whole / name).read_bytes()


def _state_in(checkpoint: Path) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Return the epochs of a checkpoint, and its arrays."""
    with np.load(checkpoint) as file:
        arrays = {name: file[name].tobytes() for name in file.files}
        described = json.loads(str(file["described"]))
    del arrays["described"]
    return described["epochs"], arrays


def test_interrupt_before_the_training_keeps_what_is_done(
    tuned: Path, photos: Path, tmp_path: Path
) -> None:
    class Interruption(Progress):
        def begin(self, *_: object, **__: object) -> None:
            raise KeyboardInterrupt

    work = tmp_path / "app.finetune"
    work.mkdir()
    shutil.copy(tuned / "whole.finetune" / "frozen-block5_conv2.onnx", work)
    with pytest.raises(KeyboardInterrupt, match=r"app\.finetune keeps what is done; the same com"):
        finetune(
            *(photos, NETWORK, tmp_path / "app.onnx"),
            frozen_int8=True,
            progress=Interruption("", ""),
            **OPTIONS,
        )
    assert names_in(work) == ["frozen-block5_conv2.onnx"]


HOLD = """
import sys
from cnncodes.finetune.finetune import finetune
from cnncodes.progress import Progress
from tests.finetune.process import NETWORK, OPTIONS

class Waiting(Progress):
    def begin(self, *_, **__):
        print("held", flush=True)
        input()

source, app = sys.argv[1:]
finetune(source, NETWORK, app, frozen_int8=True, progress=Waiting("", ""), **OPTIONS)
"""


def test_only_one_process_works_in_a_folder(photos: Path, tmp_path: Path) -> None:
    class Interruption(Progress):
        def begin(self, *_: object, **__: object) -> None:
            raise KeyboardInterrupt

    app, work = tmp_path / "app.onnx", tmp_path / "app.finetune"
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", HOLD, str(photos), str(app)]
    with subprocess.Popen(command, **pipes) as other:
        assert other.stdout.readline() == "held\n"
        before = names_in(work)
        start = ("finetune", photos, NETWORK, "-o", tmp_path / "b.onnx", "--weights", "random")
        assert error_of(*start, "--work", work) == (
            f"Error: {work / 'finetune.lock'}: another process is writing it; wait for it, or name "
            "another folder as --work FOLDER"
        )
        assert names_in(work) == before
        other.kill()
    assert "finetune.lock" in names_in(work)
    with pytest.raises(KeyboardInterrupt, match=r"app\.finetune keeps what is done"):
        finetune(photos, NETWORK, app, frozen_int8=True, progress=Interruption("", ""), **OPTIONS)
    assert names_in(work) == ["frozen-block5_conv2.onnx"]


def test_time_memory_and_disk_are_reported_before_it_starts(results: dict[str, Any]) -> None:
    plans = [line for line in results["whole"]["plan"] if line.startswith("activations: ")]
    assert len(plans) == 1
    assert "activations: 120 images, " in plans[0]
    assert "an epoch " in plans[0]


def test_app_tells_what_it_was_made_of(tuned: Path) -> None:
    app = tuned / "whole.onnx"
    described = json.loads(run_command("info", app, "--json").stdout)
    assert described["finetuned"]["from"] == "random:0"
    assert described["finetuned"]["from_layer"] == "block5_conv2"
    assert len(described["finetuned"]["images_sha256"]) == 64
    assert described["weights_file"] == "whole.weights.h5"
    assert described["training"]["estimator"] == "fine-tuning"
    assert "finetuned" in run_command("info", app).stdout


def test_app_is_one_like_any_other(tuned: Path, photos: Path, results: dict[str, Any]) -> None:
    image = next(photos.rglob("*.png"))
    assert len(Classifier(tuned / "whole.onnx").predict(image)) > 0
    evaluated = json.loads(run_command("evaluate", tuned / "whole.onnx", photos, "--json").stdout)
    assert evaluated["figures"] == results["whole"]["after"]["figures"]
    run_command("verify", tuned / "whole.onnx")


def test_int8_app_is_written_beside_it(tuned: Path, results: dict[str, Any]) -> None:
    int8 = tuned / "whole.int8.onnx"
    assert int8.stat().st_size < 0.5 * (tuned / "whole.onnx").stat().st_size
    figures = results["whole"]["int8"]["figures"]
    assert figures["n_images"] == results["whole"]["parity"]["n_images"]
    assert results["resumed"]["int8"] is None
    assert not (tuned / "resumed.int8.onnx").exists()


def test_command_prints_metrics_before_and_after(tuned: Path, photos: Path) -> None:
    """Views, two layers, int8 activations, no image held out; frozen layers are those of above."""
    words = ["finetune", photos, NETWORK, "-o", tuned / "again.onnx", "--class-weight", "balanced"]
    words += ["--work", tuned / "whole.finetune", "--augment", "hflip", "--frozen-int8"]
    words += ["--layers", "block5_conv3,block5_conv2", "--pool", "avg+max", "--tta"]
    words += ["--validation-fraction", 0]
    for name, value in OPTIONS.items():
        words += [f"--{name.replace('_', '-')}", value]
    process = KerasProcess(command, *map(str, words), log=tuned / "log")
    done = process.result()
    assert done.returncode == 0, done.stderr
    assert "vgg16 fine-tuned above block5_conv2 on 81 images, 0 held out" in done.stdout
    for line in ("linear classifier", "fine-tuned", "same label from Keras", "accuracy"):
        assert line in done.stdout
    assert "weights of the last of 3 epochs" in done.stdout
    assert "note: activations in int8 have a mean cosine of 0.9" in done.stderr
    assert "note: activations: 120 images × 2 views, " in done.stderr
    assert "start, a linear classifier" in done.stderr
    assert "epoch   3  train loss" in done.stderr
    assert "tensorflow" not in done.stderr.lower().replace("since tensorflow", "")
    with CodeStore.open(tuned / "whole.finetune/activations-block5_conv2-hflip-int8.h5") as store:
        assert len(store) == 240
    with CodeStore.open(tuned / "whole.finetune/activations-block5_conv2-none.h5") as store:
        assert len(store) == 120  # they are kept
    described = json.loads(run_command("info", tuned / "again.onnx", "--json").stdout)
    assert (described["layer"], described["pool"]) == ("block5_conv3,block5_conv2", "avg+max")
    assert described["card"]["tta"] == described["training"]["augment"] == "hflip"
    assert described["training"]["validation"] == {"n_images": 0, "accuracy": None}


def test_top_learns_soft_targets_and_weighted_images(tmp_path: Path) -> None:
    done = run_with_keras(check_top, str(tmp_path))
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "top.json").read_text())
    for name in ("hard", "soft", "first"):
        assert results[name]["losses"][-1] < results[name]["losses"][0]
        assert results[name]["difference"] < 1e-4  # of the head on codes as they are
    np.testing.assert_allclose(results["soft"]["end"], np.full((8, 2), (0.2, 0.8)), atol=0.05)
    assert results["is_read"]
    # Statistics, scale and shift of batch normalizations stay.
    assert any("kernel" in path for path in results["moved"])
    assert not [path for path in results["moved"] if "_bn" in path.lower()]


def test_wrong_use_is_one_line_before_any_work(photos: Path, tmp_path: Path) -> None:
    app = tmp_path / "app.onnx"
    start = ("finetune", photos, NETWORK, "-o", app, "--weights", "random")
    assert "did you mean block4_pool?" in error_of(*start, "--from-layer", "block4_pol")
    assert "--from-layer is one of" in error_of(*start, "--from-layer", "block5_pool")
    assert "needs an --input-size of 75" in error_of(
        "finetune", photos, "inception_v3", "-o", app, "--input-size", "64"
    )
    assert "--tta averages the views of an image, which has one; --augment hflip" in error_of(
        *start, "--tta"
    )
    line = error_of(*start, "--layers", "block5_conv3,block3_pool")
    assert "'block3_pool' of vgg16 is below 'block4_pool'" in line
    assert "nothing to fine-tune" in error_of(*start, "--layers", "block4_pool")
    one = tmp_path / "one"
    (one / "a").mkdir(parents=True)
    image = next(photos.rglob("*.png"))
    (one / "a" / "x.png").write_bytes(image.read_bytes())
    assert "all its images are of one class, a" in error_of("finetune", one, *start[2:])
    assert "none of its images has a label" in error_of("finetune", one / "a", *start[2:])
    app.touch()
    assert "exists already; choose another name or pass --overwrite" in error_of(*start)
    app.unlink()
    assert "is a folder; name a file inside it" in error_of(*start[:4], ".", *start[5:])
    own = tmp_path / "frozen-block4_pool.int8.onnx"
    line = error_of(*start[:4], own, *start[5:], "--work", tmp_path)
    assert "is a file of the work itself; choose another name" in line
    line = error_of(*start, "--work", photos)
    assert "is what the result is made from; name another folder for the activations" in line
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.parametrize("name", ["frozen-block4_pool.onnx", "activations-block4_pool-none.h5"])
def test_damaged_file_of_the_work_is_one_line(name: str, photos: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"damaged")
    start = ("finetune", photos, NETWORK, "-o", tmp_path / "app.onnx", "--weights", "random")
    for overwrite in ((), ("--overwrite",)):
        line = error_of(*start, "--work", tmp_path, *overwrite)
        assert line.startswith(f"Error: {tmp_path / name}: ")
        assert line.endswith("; delete it, and it is made again")
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_lost_process_is_one_line(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the system ends it for want of memory."""
    monkeypatch.setattr("sys.executable", shutil.which("false"))
    start = ("finetune", photos, NETWORK, "-o", tmp_path / "app.onnx", "--weights", "random")
    line = error_of(*start, "--input-size", "32", "--from-layer", "block5_conv2")
    assert "the process that trains has ended (1), probably for want of memory" in line
    assert "lower --batch-size, or choose a later --from-layer" in line


def test_missing_tensorflow_is_one_line(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnncodes.finetune.request.find_spec", lambda name: None)
    line = error_of("finetune", photos, NETWORK, "-o", tmp_path / "app.onnx", "--weights", "random")
    assert "fine-tuning needs keras and tensorflow; install the extra" in line
    assert "pip install 'cnncodes[export]'" in line


def _weights(path: Path) -> dict[str, np.ndarray]:
    model = onnx.load(path)
    return {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}


def test_activations_that_do_not_fit_on_the_disk_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as error:
        check_disk(tmp_path / "activations.h5", 10**18)
    assert "the activations need 2000000000.0 GB while they are written" in str(error.value)
    check_disk(tmp_path / "activations.h5", 1000)
