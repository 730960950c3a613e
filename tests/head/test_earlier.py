"""Training that goes on from an earlier head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from cnncodes import CodeStore
from cnncodes.head.split import split_by_class
from cnncodes.models.metadata import image_key
from tests.helpers import error_of, info_of, run_command, train_json, write_labelled_codes

DIGITS, CLASSES = load_digits(return_X_y=True)
N_FEATURES = {"codes": 64, "gram": 512}


def write_digits(path: Path, n: int, n_classes: int, names=None, kind: str = "codes") -> Path:
    """Write the first digits of some classes; a longer file has those of a shorter one first."""
    labels = [int(y) if y < n_classes else -1 for y in CLASSES[:n]]
    X = DIGITS[:n] + 3
    if kind == "gram":
        X = X @ np.random.default_rng(0).normal(size=(64, N_FEATURES[kind]))
    return write_labelled_codes(path, X, labels, names or [f"d{y}" for y in range(n_classes)])


def parameters_of(head: Path) -> tuple[np.ndarray, np.ndarray]:
    tensors = {each.name: each for each in onnx.load(str(head)).graph.initializer}
    weights, bias = (onnx.numpy_helper.to_array(tensors[name]) for name in ("weights", "bias"))
    return weights, bias


def keys_of(codes: Path) -> np.ndarray:
    with CodeStore.open(codes) as store:
        return np.array([image_key(digest) for digest in store.digests])


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A head of three classes, trained on 100 digits."""
    codes = write_digits(tmp_path / "old.h5", 100, 3)
    run_command("train", codes, "-o", tmp_path / "old.onnx", "--C", 3)
    return tmp_path / "old.onnx"


@pytest.mark.parametrize("kind", N_FEATURES)
def test_weights_are_those_of_scikit_learn_on_the_same_images(tmp_path, kind):
    old_codes = write_digits(tmp_path / "old.h5", 300, 3, kind=kind)
    run_command("train", old_codes, "-o", tmp_path / "old.onnx", "--C", 3)
    codes = write_digits(tmp_path / "codes.h5", 330, 4, kind=kind)
    arguments = ("train", codes, "-o", tmp_path / "new.onnx", "--from", tmp_path / "old.onnx")
    run_command(*arguments)
    trained = np.isin(keys_of(codes), list(info_of(tmp_path / "new.onnx").training_images))
    with CodeStore.open(codes) as store:
        X, y = store.codes[:][trained].astype(np.float64), store.labels[trained]
    assert (len(X) < X.shape[1]) == (kind == "gram")
    mean = X.mean(axis=0)
    spread = np.sqrt(np.square(X - mean).sum(axis=1).mean())
    model = LogisticRegression(C=3, tol=1e-10, max_iter=10_000).fit((X - mean) / spread, y)
    weights, bias = parameters_of(tmp_path / "new.onnx")
    centred = weights - weights.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(centred, model.coef_.T / spread, atol=1e-5)
    intercept = bias + mean @ weights
    np.testing.assert_allclose(intercept - intercept.mean(), model.intercept_, atol=1e-3)


def test_fit_starts_from_the_weights(old, tmp_path):
    codes = tmp_path / "old.h5"
    cold = train_json(run_command, codes, "-o", tmp_path / "cold.onnx", "--C", 3)
    warm = train_json(run_command, codes, "-o", tmp_path / "warm.onnx", "--from", old)
    assert warm["fitted"]["C"] == 3
    assert warm["fitted"]["n_iterations"] < cold["fitted"]["n_iterations"]
    assert info_of(tmp_path / "warm.onnx").training_images == info_of(old).training_images
    for change in warm["growth"]["classes"]:
        assert change["before"] == change["after"]


def test_sgd_starts_from_the_weights(tmp_path):
    codes = write_digits(tmp_path / "codes.h5", 100, 3)
    options = ("--estimator", "sgd", "--learning-rate", 1e-7, "--epochs", 1)
    run_command("train", codes, "-o", tmp_path / "old.onnx", "--estimator", "sgd")
    arguments = ("-o", tmp_path / "new.onnx", "--from", tmp_path / "old.onnx")
    run_command("train", codes, *arguments, *options)
    old, new = parameters_of(tmp_path / "old.onnx")[0], parameters_of(tmp_path / "new.onnx")[0]
    np.testing.assert_allclose(
        new, old - old.mean(axis=1, keepdims=True), atol=1e-5 * np.abs(old).max()
    )


def test_both_heads_are_compared_on_images_that_neither_was_trained_on(old, tmp_path):
    codes = write_digits(tmp_path / "codes.h5", 200, 4)
    result = train_json(run_command, codes, "-o", tmp_path / "new.onnx", "--from", old)
    before, after = info_of(old), info_of(tmp_path / "new.onnx")
    assert before.training_images <= after.training_images
    growth = result["growth"]
    assert sum(each["n_images"] for each in growth["classes"]) == result["test"]["n_images"]
    assert {each["label"]: each["before"] is None for each in growth["classes"]} == {
        **{"d0": False, "d1": False, "d2": False},
        "d3": True,
    }
    with CodeStore.open(codes) as store:
        labels = store.labels
    share = len(after.training_images) / (labels >= 0).sum()
    assert share == pytest.approx(0.7, abs=0.03), "the split of all images is as wanted"
    tested = ~np.isin(keys_of(codes), list(after.training_images)) & (labels >= 0) & (labels < 3)
    weights, bias = parameters_of(old)
    with CodeStore.open(codes) as store:
        predicted = (store.codes[:][tested] @ weights + bias).argmax(axis=1)
    assert growth["before"] == pytest.approx((predicted == labels[tested]).mean())
    assert after.training["from"]["before"] == growth["before"]


def test_table_has_a_dash_for_a_new_class(old, tmp_path):
    codes = write_digits(tmp_path / "codes.h5", 200, 4)
    lines = run_command(
        "train", codes, "-o", tmp_path / "new.onnx", "--from", old
    ).stdout.splitlines()
    assert "  accuracy before, of old.onnx, and after, on the same test images:" in lines
    (row,) = [line for line in lines if line.startswith("    d3")]
    assert row.split()[1] == "-"
    assert "  note: new: d3" in lines
    assert any("C = 3; " in line for line in lines)


def test_choices_that_are_replaced_are_not_reported_as_kept(old, tmp_path):
    arguments = (tmp_path / "old.h5", "-o", tmp_path / "new.onnx", "--from", old, "--C", 1)
    result = train_json(run_command, *arguments)
    assert result["fitted"]["C"] == 1
    assert any("with its choices: logistic; " in note for note in result["notes"])


def test_score_of_none_of_these_that_is_lost_is_reported(tmp_path):
    codes, first = write_digits(tmp_path / "codes.h5", 60, 3), tmp_path / "first.onnx"
    run_command("train", codes, "-o", first, "--unknown", 0.1)
    command = ("train", codes, "-o", tmp_path / "next.onnx", "--from", first)
    lost = "first.onnx has a score of none of these, and the new head has none"
    assert lost in run_command(*command).stdout
    again = run_command(*command, "--unknown", 0.1, "--overwrite").stdout
    assert "has a score of none" not in again


def test_images_of_a_refitted_head_all_train(tmp_path):
    old_codes = write_digits(tmp_path / "old.h5", 100, 3)
    run_command("train", old_codes, "-o", tmp_path / "old.onnx", "--C", 3, "--refit")
    codes = write_digits(tmp_path / "codes.h5", 200, 3)
    result = train_json(
        run_command, codes, "-o", tmp_path / "new.onnx", "--from", tmp_path / "old.onnx"
    )
    old = info_of(tmp_path / "old.onnx").training_images
    assert len(old) == (CLASSES[:100] < 3).sum()
    assert old < info_of(tmp_path / "new.onnx").training_images
    n_new = int((CLASSES[100:200] < 3).sum())
    assert 0 < result["test"]["n_images"] <= n_new * 0.3 + 3
    assert any("on new images only" in note for note in result["notes"])


def test_a_class_without_images_is_reported(tmp_path):
    run_command(
        *("train", write_digits(tmp_path / "old.h5", 100, 4), "-o", tmp_path / "old.onnx"),
        *("--C", 3),
    )
    codes = write_digits(tmp_path / "codes.h5", 120, 3)
    result = train_json(
        run_command, codes, "-o", tmp_path / "new.onnx", "--from", tmp_path / "old.onnx"
    )
    assert result["labels"] == ["d0", "d1", "d2"]
    assert "without an image, so that the new head does not know them: d3" in result["notes"]


@pytest.mark.parametrize("how", ["sqrt", "sqrt+standardize"])
def test_ridge_and_normalisation_are_kept(tmp_path, how):
    codes = write_digits(tmp_path / "codes.h5", 100, 3)
    options = ("--estimator", "ridge", "--normalize", how, "--C", 0.3)
    run_command("train", codes, "-o", tmp_path / "old.onnx", *options)
    result = train_json(
        run_command, codes, "-o", tmp_path / "new.onnx", "--from", tmp_path / "old.onnx"
    )
    assert (result["estimator"], result["fitted"]["C"]) == ("ridge", 0.3)
    assert info_of(tmp_path / "new.onnx").normalize == "sqrt"
    assert result["fitted"].get("standardize", False) == (how != "sqrt")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--estimator", "ridge"), "is a logistic head, and training goes on with that kind"),
        (("--normalize", "sqrt"), "its weights are on codes with the normalisation none"),
        (("--train-fraction", 1), "no image is left to compare the earlier head on"),
        (("--per-class", 3), "would leave out images that the earlier head was trained on"),
    ],
)
def test_contradicting_options_are_refused(old, tmp_path, options, reason):
    arguments = ("train", tmp_path / "old.h5", "-o", tmp_path / "new.onnx", "--from", old)
    assert reason in error_of(*arguments, *options)


def test_codes_of_other_classes_or_shape_are_refused(old, tmp_path):
    arguments = ("-o", tmp_path / "new.onnx", "--from", old)
    other = write_digits(tmp_path / "other.h5", 50, 3, names=["x", "y", "z"])
    assert "has no class of" in error_of("train", other, *arguments)
    wide = write_digits(tmp_path / "wide.h5", 50, 3, kind="gram")
    assert "takes codes of another shape" in error_of("train", wide, *arguments)


def test_known_training_images_keep_the_split_as_it_was():
    y = (np.arange(60) % 3).astype(np.int32)
    before = split_by_class(y, 0.7, seed=1)
    trained = np.zeros(60, bool)
    trained[before.train] = True
    again = split_by_class(y, 0.7, seed=5, trained=trained)
    assert again.train.tolist() == before.train.tolist()
