"""The SGD head on the codes of a file: the order, the memory and the checkpoint."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from cnncodes import CodeStore
from cnncodes.errors import OutputError, ParameterError, TrainingError
from cnncodes.head import SGDSoftmax
from cnncodes.head.rows import CodeRows
from cnncodes.head.scaling import Scaling, read_all
from cnncodes.head.sgd import fit as sgd
from cnncodes.head.sgd.fit import StandardisedRows, fit_sgd, measured
from cnncodes.head.split import split_by_class
from cnncodes.head.train import train_head
from tests.conftest import Run
from tests.helpers import InMemory, unprivileged, write_codes

N_IMAGES, N_FEATURES = 210, 64


@pytest.fixture(scope="module")
def digits():
    """Codes and classes of digits, as a file would hold them: a class after the other."""
    X, y = load_digits(n_class=4, return_X_y=True)
    chosen = np.argsort(y[:N_IMAGES], kind="stable")
    return X[chosen].astype(np.float32), y[chosen].astype(np.int32)


@pytest.fixture(scope="module")
def file(tmp_path_factory, digits):
    """A file of these codes."""
    return write_codes(tmp_path_factory.mktemp("sgd") / "digits.h5", *digits)


@pytest.fixture(scope="module")
def opened(file):
    """Two in three of its images."""
    with CodeStore.open(file) as store:
        yield CodeRows(store, np.flatnonzero(np.arange(N_IMAGES) % 3))


@pytest.fixture
def targets(digits):
    return digits[1][np.arange(N_IMAGES) % 3 > 0]


def standardised(rows: CodeRows, n_read: int = 10_000) -> StandardisedRows:
    """Codes of which so many images are read at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sgd, "READ_BYTES", n_read * N_FEATURES * 4)
        return StandardisedRows(rows, Scaling.of([read_all(rows)]))


@given(
    places=st.permutations(range(140)),
    n_places=st.integers(0, 140),
    size=st.integers(1, 150),
    n_read=st.integers(1, 150),
)
def test_batches_are_what_was_asked_for(
    opened: CodeRows,
    digits: tuple[np.ndarray, np.ndarray],
    places: list[int],
    n_places: int,
    size: int,
    n_read: int,
) -> None:
    order = np.array(places[:n_places], np.intp)
    batches = list(standardised(opened, n_read).batches(order, size))
    assert [place for batch, _ in batches for place in batch] == places[:n_places]
    assert all(len(batch) == len(X) == size for batch, X in batches[:-1])
    assert all(0 < len(batch) == len(X) <= size for batch, X in batches[-1:])
    chosen = digits[0][np.arange(N_IMAGES) % 3 > 0].astype(np.float64)
    centred = chosen - chosen.mean(axis=0)
    wanted = centred / np.sqrt(np.square(centred).sum(axis=1).mean())
    for batch, X in batches:
        np.testing.assert_allclose(X, wanted[batch], atol=1e-6)


@pytest.mark.parametrize("n_read", [1, 30, 1000])
def test_order_is_random_and_the_seeds(opened, n_read):
    images = standardised(opened, n_read)
    places = np.arange(3, 130)  # some are held out
    random, same, other = (np.random.RandomState(seed) for seed in (1, 1, 2))
    first, second = images.shuffled(places, random), images.shuffled(places, random)
    assert sorted(first) == sorted(second) == list(places)
    assert not np.array_equal(first, second), "each epoch has an order of its own"
    assert np.array_equal(first, images.shuffled(places, same))
    assert np.array_equal(second, images.shuffled(places, same))
    assert not np.array_equal(first, images.shuffled(places, other))


@pytest.mark.parametrize("n_read", [1, 20, 1000])
def test_all_images_mix(opened, n_read):
    images, places = standardised(opened, n_read), np.arange(140)
    random = np.random.RandomState(0)
    orders = [images.shuffled(places, random) for _ in range(400)]
    for image in (0, 77):
        where = [int(np.flatnonzero(order == image)[0]) for order in orders]
        # Each quarter is as likely; six standard deviations are 52.
        assert np.bincount([place // 35 for place in where], minlength=4) == pytest.approx(
            [100] * 4, abs=52
        )
    together = sum(abs(np.flatnonzero(order < 2) @ [1, -1]) == 1 for order in orders)
    assert together < 30, "two neighbours stay so by chance in 1 order of 70"


class SameOrder(InMemory):
    """Codes in memory, shuffled as those of a file are."""

    def __init__(self, images: StandardisedRows, X: np.ndarray) -> None:
        super().__init__(X)
        self.shuffled = images.shuffled


@pytest.mark.parametrize(("optimizer", "rate"), [("momentum", 3.0), ("adam", 0.02)])
def test_weights_are_those_of_codes_in_memory(monkeypatch, opened, targets, optimizer, rate):
    rows = opened
    monkeypatch.setattr(sgd, "READ_BYTES", 50 * N_FEATURES * 4)
    parameters = {"epochs": 6, "optimizer": optimizer, "learning_rate": rate, "batch_size": 20}
    told = []
    weights, bias, fitted = fit_sgd(
        rows, targets, seed=3, parameters=parameters, on_epoch=told.append
    )
    assert (weights.shape, weights.dtype) == ((N_FEATURES, 4), np.float32)
    assert (bias.shape, bias.dtype) == ((4,), np.float32)
    X = read_all(rows)
    scaling = measured(rows)
    scaling.apply(X)
    model = SGDSoftmax(random_state=3, **parameters)
    order = SameOrder(StandardisedRows(rows, scaling), X)
    assert list(model.train(order, targets.astype(np.intp), 4)) == told
    logits = read_all(rows) @ weights + bias
    np.testing.assert_allclose(logits, X @ model.coef_.T + model.intercept_, atol=1e-4)
    assert fitted["best_epoch"] == model.best_epoch_
    best = told[model.best_epoch_ - 1]
    assert fitted["validation_accuracy"] == best.validation_accuracy
    fit = SGDSoftmax(random_state=3, **parameters).fit(X, targets)  # in an order of its own
    accuracy = (logits.argmax(axis=1) == targets).mean()
    assert accuracy == pytest.approx(fit.score(X, targets), abs=0.03)
    assert accuracy > 0.9


@pytest.mark.parametrize(("n_measured", "tolerance"), [(1024, 1e-5), (30, 0.2), (1, np.inf)])
def test_scaling_is_measured_on_images_of_all_classes(
    monkeypatch, opened, targets, n_measured, tolerance
):
    monkeypatch.setattr(sgd, "N_MEASURED", n_measured)
    found, exact = measured(opened), Scaling.of([read_all(opened)])
    assert found.scale == pytest.approx(exact.scale, rel=tolerance)
    assert np.linalg.norm(found.mean - exact.mean) <= tolerance * exact.scale
    if n_measured > 1:
        weights, bias, _ = fit_sgd(opened, targets, parameters={"epochs": 6})
        assert ((read_all(opened) @ weights + bias).argmax(axis=1) == targets).mean() > 0.9


def test_bad_parameter_is_told(opened, targets):
    with pytest.raises(TrainingError, match="sgd: no schedule 'steep'"):
        fit_sgd(opened, targets, parameters={"schedule": "steep"})


def test_little_is_in_memory_at_a_time(monkeypatch, tmp_path):
    n_images, n_features, n_classes = 8192, 1024, 3
    generator = np.random.default_rng(0)
    X = np.zeros((n_images, n_features), np.float32)
    X[:, :20] = generator.integers(0, 3, (n_images, 20))
    y = (X[:, 0] + np.arange(n_images) % 2 > 1).astype(np.int32)
    path = write_codes(tmp_path / "codes.h5", X, y)
    all_bytes, weights_bytes = X.nbytes, n_features * n_classes * 4
    del X
    read_bytes = 2**20  # as much as 256 images, which are looked at together
    monkeypatch.setattr(sgd, "READ_BYTES", read_bytes)
    with CodeStore.open(path) as store:
        rows = CodeRows(store, np.arange(n_images))
        tracemalloc.start()
        fit_sgd(rows, y, parameters={"epochs": 1}, checkpoint=tmp_path / "x.partial")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    told_of_images = 400 * n_images  # their digests
    assert peak < 6 * read_bytes + 6 * weights_bytes + told_of_images < all_bytes / 3


@pytest.fixture
def output(tmp_path):
    """Where the head goes: a folder of its own, so that leftovers show."""
    (tmp_path / "heads").mkdir()
    return tmp_path / "heads" / "head.onnx"


@pytest.fixture
def save_always(monkeypatch):
    monkeypatch.setattr(sgd, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)


def partial_of(output: Path) -> Path:
    return output.with_name(output.name + ".partial")


def left_in(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def train(codes: Path, output: Path, stop: int | None = None, *, seed: int = 0, **sgd_parameters):
    """Train six epochs and give the numbers of those that were told; interrupt one."""
    told: list[int] = []

    def tell(epoch):
        told.append(epoch.number)
        if epoch.number == stop:
            raise KeyboardInterrupt

    parameters = {"epochs": 6, "batch_size": 20} | sgd_parameters
    train_head(codes, output, estimator="sgd", seed=seed, sgd=parameters, on_epoch=tell)
    return told


@pytest.fixture
def interrupted(file, output, save_always):
    """The checkpoint of a training that was interrupted after its third epoch."""
    with pytest.raises(KeyboardInterrupt, match="run the same command again to go on from there"):
        train(file, output, stop=4)
    assert left_in(output.parent) == ["head.onnx.partial"]
    return partial_of(output)


@pytest.fixture(scope="module")
def whole(file, tmp_path_factory):
    """What the same training gives when nobody interrupts it."""
    path = tmp_path_factory.mktemp("whole") / "head.onnx"
    assert train(file, path) == [1, 2, 3, 4, 5, 6]
    assert left_in(path.parent) == ["head.onnx"]
    return path.read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="Windows has no permission bits")
def test_checkpoint_is_private(interrupted):
    assert interrupted.stat().st_mode & 0o777 == 0o600


def test_interrupted_training_goes_on(file, output, interrupted, whole):
    assert train(file, output) == [4, 5, 6]
    assert left_in(output.parent) == ["head.onnx"]
    assert output.read_bytes() == whole


@pytest.mark.parametrize(
    "parameters",
    [{"optimizer": "adam"}, {"patience": 3}, {"validation_fraction": 0.0}],
    ids=str,
)
def test_any_training_can_be_interrupted_again_and_again(file, output, save_always, parameters):
    for stop in (3, 5):
        with pytest.raises(KeyboardInterrupt):
            train(file, output, stop=stop, **parameters)
    told = train(file, output, **parameters)
    went_on = output.read_bytes()
    output.unlink()
    assert train(file, output, **parameters) == [1, 2, 3, 4, *told]
    assert told[0] == 5
    assert output.read_bytes() == went_on


def test_training_interrupted_after_its_last_epoch_is_done(file, output, interrupted, whole):
    with pytest.raises(KeyboardInterrupt):
        train(file, output, stop=6)
    assert train(file, output) == [6]
    assert output.read_bytes() == whole


@pytest.mark.parametrize(
    "changed",
    [{"seed": 1}, {"learning_rate": 2.0}, {"epochs": 7}, {"patience": 9}, {"l2": 0.0}],
    ids=str,
)
def test_another_training_starts_anew(file, output, interrupted, changed):
    epochs = list(range(1, changed.get("epochs", 6) + 1))
    assert train(file, output, **changed) == epochs
    assert left_in(output.parent) == ["head.onnx"]
    after_another = output.read_bytes()
    output.unlink()
    train(file, output, **changed)
    assert output.read_bytes() == after_another


@pytest.mark.parametrize("change", ["codes", "number of codes", "labels"])
def test_other_codes_of_the_same_images_start_anew(digits, tmp_path, output, interrupted, change):
    X, y = digits[0].copy(), digits[1].copy()
    if change == "codes":  # as of another network
        X = X[:, ::-1].copy()
    elif change == "number of codes":
        X = X[:, 8:].copy()
    else:
        y = 3 - y
    codes = write_codes(tmp_path / "other.h5", X, y)
    assert train(codes, output) == [1, 2, 3, 4, 5, 6]
    after_another = output.read_bytes()
    output.unlink()
    train(codes, output)
    assert output.read_bytes() == after_another


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def write_foreign(path: Path, kind: str, trap: Path) -> None:
    content = path.read_bytes()
    with path.open("wb") as file:
        if kind == "empty":
            pass
        elif kind == "text":
            file.write(b"my notes\n")
        elif kind == "truncated":
            file.write(content[: len(content) // 2])
        elif kind == "damaged":
            file.write(content.replace(b"\x93NUMPY", b"\x93NUMPX"))
        elif kind == "encrypted":  # as its table of contents says
            flags = content.index(b"PK\x01\x02") + 8
            file.write(content[:flags] + b"\x01" + content[flags + 1 :])
        elif kind == "array":
            np.save(file, np.zeros(3))
        elif kind == "arrays":
            np.savez(file, weights=np.zeros(3))
        elif kind == "pickle":
            file.write(pickle.dumps(Trap(trap)))
        elif kind == "pickled array":
            np.save(file, np.array([Trap(trap)]))
        elif kind == "pickled arrays":
            np.savez(file, request=np.array(Trap(trap)), weights=np.array([Trap(trap)]))
        else:
            arrays = {"cnncodes_request": np.array(Trap(trap)), "weights": np.array([Trap(trap)])}
            {"pickled": np.savez, "deflated": np.savez_compressed}[kind](file, **arrays)


@pytest.mark.parametrize(
    "kind", ["text", "array", "arrays", "pickle", "pickled array", "pickled arrays", "link"]
)
def test_what_is_no_checkpoint_is_refused_and_stays(file, output, interrupted, tmp_path, kind):
    trap, other = tmp_path / "sprung", tmp_path / "other"
    if kind == "link":
        interrupted.rename(other)
        interrupted.symlink_to(other)
    else:
        write_foreign(interrupted, kind, trap)
    before = interrupted.read_bytes()
    epochs = []
    with pytest.raises(OutputError) as caught:
        train_head(file, output, estimator="sgd", on_epoch=epochs.append)
    what = "a symbolic link" if kind == "link" else "no checkpoint of cnncodes train"
    assert str(caught.value) == (
        f"{interrupted}: is {what}, and unfinished work is kept under that name; move it away, or "
        "choose another output name"
    )
    assert not epochs
    assert not trap.exists()
    assert interrupted.read_bytes() == before
    assert interrupted.is_symlink() == (kind == "link")
    assert left_in(output.parent) == ["head.onnx.partial"]


@pytest.mark.parametrize(
    "kind", ["empty", "truncated", "damaged", "encrypted", "pickled", "deflated"]
)
def test_damaged_checkpoint_starts_anew(file, output, interrupted, whole, tmp_path, kind):
    trap = tmp_path / "sprung"
    pickle.loads(pickle.dumps(Trap(trap)))
    trap.unlink()  # it works
    write_foreign(interrupted, kind, trap)
    assert train(file, output) == [1, 2, 3, 4, 5, 6]
    assert not trap.exists()
    assert left_in(output.parent) == ["head.onnx"]
    assert output.read_bytes() == whole


@settings(max_examples=40)
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_damage_of_any_bit_does_no_harm(
    opened: CodeRows,
    checkpoint: tuple[Path, bytes, np.ndarray],
    share: float,
    bit: int,
) -> None:
    path, content, expected = checkpoint
    damaged = bytearray(content)
    damaged[int(share * len(content))] ^= 1 << bit
    path.write_bytes(damaged)
    if damaged[:4] != content[:4] or damaged[30:46] != content[30:46]:
        with pytest.raises(OutputError, match="is no checkpoint of cnncodes train"):
            fit_sgd(
                opened,
                np.arange(140, dtype=np.int32) % 4,
                parameters={"epochs": 2},
                checkpoint=path,
            )
        return
    y = np.arange(140, dtype=np.int32) % 4
    weights = fit_sgd(opened, y, parameters={"epochs": 2}, checkpoint=path)[0]
    np.testing.assert_array_equal(weights, expected)


@pytest.fixture(scope="module")
def checkpoint(opened, tmp_path_factory):
    """A checkpoint's place, what stands in it after the first of two epochs, the weights."""
    path = tmp_path_factory.mktemp("checkpoint") / "head.onnx.partial"

    def stop(epoch):
        if epoch.number == 2:
            raise KeyboardInterrupt

    y = np.arange(140, dtype=np.int32) % 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sgd, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            fit_sgd(opened, y, parameters={"epochs": 2}, checkpoint=path, on_epoch=stop)
    return path, path.read_bytes(), fit_sgd(opened, y, parameters={"epochs": 2})[0]


def test_failure_after_the_last_epoch_does_not_cost_the_training(
    file, tmp_path, output, save_always, whole
):
    """As that of the disk or an interrupt: the checkpoint goes only when the head is there."""
    damaged = Path(shutil.copy(file, tmp_path / "damaged.h5"))
    with h5py.File(damaged, "r+") as edited:
        del edited["checksums"]
        tested = split_by_class(edited["labels"][:], 0.7).test[-1]
        edited["codes"][tested, 0] = np.nan
    with pytest.raises(TrainingError, match="are not finite"):
        train(damaged, output)
    assert left_in(output.parent) == ["head.onnx.partial"]
    assert train(file, output) == []
    assert left_in(output.parent) == ["head.onnx"]
    assert output.read_bytes() == whole


def test_interrupt_before_the_first_checkpoint_promises_nothing(file, output, interrupted):
    """What stands there is of another training."""
    before = interrupted.read_bytes()
    with pytest.raises(KeyboardInterrupt) as caught:
        train(file, output, stop=1, seed=1)
    assert str(caught.value) == ""
    assert interrupted.read_bytes() == before


def test_interrupt_without_a_checkpoint(opened, targets, save_always):
    def stop(epoch):
        if epoch.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        fit_sgd(opened, targets, on_epoch=stop)
    assert str(caught.value) == ""


def test_training_that_diverges_leaves_no_checkpoint(file, output, save_always):
    told = []
    # A penalty this large makes each step overshoot by more than the last.
    parameters = {"epochs": 9, "batch_size": 40, "l2": 100.0}
    with pytest.raises(
        TrainingError, match=r"sgd: diverged in epoch \d; lower the learning rate or l2$"
    ):
        train_head(
            file,
            output,
            estimator="sgd",
            sgd=parameters,
            on_epoch=lambda _: told.append(left_in(output.parent)),
        )
    assert told[-1] == ["head.onnx.partial"], "there must have been one"
    assert left_in(output.parent) == []


def test_wrong_parameter_does_not_cost_the_checkpoint(file, output, interrupted):
    with pytest.raises(ParameterError, match="sgd: no schedule 'steep'"):
        train(file, output, schedule="steep")
    assert train(file, output) == [4, 5, 6]


def test_folder_in_the_checkpoints_place_is_told_first(file, output):
    partial_of(output).mkdir()
    told = []
    with pytest.raises(OutputError, match=r"head\.onnx\.partial: is a folder"):
        train_head(file, output, estimator="sgd", on_epoch=told.append)
    assert told == []
    assert left_in(output.parent) == ["head.onnx.partial"]


def test_folder_that_becomes_read_only_is_told(file, tmp_path, save_always, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an ordinary user may not look into the folders above it
    codes, locked = Path(shutil.copy(file, "codes.h5")), Path("locked")
    with unprivileged(tmp_path):
        locked.mkdir()
        with pytest.raises(OutputError) as caught:
            train_head(
                codes,
                locked / "head.onnx",
                estimator="sgd",
                on_epoch=lambda _: locked.chmod(0o555),
            )
        locked.chmod(0o755)
    told = "locked/head.onnx.partial: the folder locked cannot be written to"
    assert str(caught.value) == told
    assert left_in(locked) == []


def test_folder_that_goes_away_is_told(file, output, save_always):
    with pytest.raises(OutputError, match="does not exist"):
        train_head(file, output, estimator="sgd", on_epoch=lambda _: output.parent.rmdir())


# As `python -m cnncodes`, but each epoch leaves a checkpoint.
CAREFUL = """
from cnncodes.__main__ import main
from cnncodes.head.sgd import fit as sgd
sgd.SECONDS_BETWEEN_CHECKPOINTS = 0
main()
"""


def test_interrupted_command_goes_on_when_given_again(file, output, run: Run):
    arguments = ("train", file, "-o", output, "--estimator", "sgd", "--epochs", "100")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        [sys.executable, "-c", CAREFUL, *map(str, arguments)], **pipes
    ) as command:
        assert command.stderr.readline() == "reading the codes and training …\n"
        for number in (1, 2):  # by then one checkpoint is there
            assert re.match(rf"  epoch +{number}  train loss", command.stderr.readline())
        command.send_signal(signal.SIGINT)
        printed, errors = command.communicate()
    assert command.returncode == 1
    assert printed == ""
    *lines, error = errors.splitlines()
    assert all(re.match(r"  epoch +\d+  train loss", line) for line in lines)
    assert error == "Error: interrupted; run the same command again to go on from there"
    assert left_in(output.parent) == ["head.onnx.partial"]
    told = [line for line in run(*arguments).stderr.splitlines() if "epoch" in line]
    assert 0 < len(told) < 100
    assert told[-1].startswith("  epoch 100  train loss")
    assert left_in(output.parent) == ["head.onnx"]
    went_on = output.read_bytes()
    run(*arguments, "--overwrite")
    assert output.read_bytes() == went_on
