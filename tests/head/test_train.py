from __future__ import annotations

import hashlib
import json
import re
import shutil
from contextlib import contextmanager

import h5py
import numpy as np
import onnx
import pytest
from sklearn.datasets import load_digits

from cnncodes import CodeStore, progress
from cnncodes.errors import ParameterError
from cnncodes.head.split import split_by_class
from cnncodes.head.train import train_head
from tests.helpers import error_of, info_of, labels_in, measure_head, train_json, write_codes

SGD = ("--estimator", "sgd")
ADAM = (*SGD, "--optimizer", "adam", "--learning-rate", "0.01")
NOTHING_HELD_OUT = (
    "too few training images per class to hold out a share of 0.1: the last epoch is kept, and "
    "patience has no effect"
)
METHODS = [pytest.param(each, id=" ".join(each)) for each in ((), SGD, ADAM)]


@pytest.fixture
def output(tmp_path):
    """Where the head goes: a folder of its own, so that leftovers show."""
    folder = tmp_path / "heads"
    folder.mkdir()
    return folder / "head.onnx"


@pytest.fixture
def edited(codes, tmp_path):
    """A copy of the codes file to edit."""

    @contextmanager
    def open_copy():
        shutil.copy(codes, tmp_path / "edited.h5")
        with h5py.File(tmp_path / "edited.h5", "r+") as file:
            del file["checksums"]  # they would be those of other codes
            yield file

    open_copy.path = tmp_path / "edited.h5"
    return open_copy


def weights_of(head):
    return onnx.numpy_helper.to_array(onnx.load(str(head)).graph.initializer[0])


@pytest.mark.parametrize("options", METHODS)
def test_figures_are_what_the_written_head_gives(codes, output, run, options):
    result = train_json(run, codes, "-o", output, *options)
    split = split_by_class(labels_in(codes), 0.7)
    assert result["train"] == measure_head(output, codes, split.train)
    assert result["test"] == measure_head(output, codes, split.test)
    assert result["test"]["accuracy"] > 0.6, "chance is 0.1"
    assert result["train"]["n_images"] + result["test"]["n_images"] == 120


@pytest.mark.parametrize("options", METHODS)
def test_json_reports_all(codes, output, run, options):
    result = train_json(run, codes, "-o", output, *options)
    assert result["path"] == str(output)
    assert result["labels"] == list("0123456789")
    assert result["estimator"] == ("sgd" if options else "ridge"), "auto: few images, ten classes"
    assert result["weights"] == "random:0"
    assert result["notes"] == ([NOTHING_HELD_OUT] if options else [])
    assert 0 < result["majority"] < 0.2


@pytest.mark.parametrize("options", METHODS)
def test_table_reports_the_same_figures(codes, output, run, options):
    result = train_json(run, codes, "-o", output, *options)
    lines = run("train", codes, "-o", output, "--overwrite", *options).stdout.splitlines()
    name = "sgd" if options else "ridge"
    assert lines[0] == f"{output}: 10 classes, {name}  (random weights)"
    for part, line in (("train", lines[1]), ("test ", lines[2])):
        score = result[part.strip()]
        assert line == (
            f"  {part}  {score['n_images']} images  loss {score['loss']:.4f}  "
            f"accuracy {score['accuracy']:.1%}"
        )
    assert f"{result['majority']:.1%} of the test images" in lines[3]
    assert "_" not in lines[4], "names of parameters have blanks"
    assert [line for line in lines if "note" in line] == [
        f"  note: {note}" for note in result["notes"]
    ]


def test_most_common_class_is_that_of_the_training_images(edited, output, run):
    with edited() as file:
        labels = file["labels"][:]
        labels[np.flatnonzero((labels == 0) | (labels == 2))[:12]] = 6
        file["labels"][:] = labels
    result = train_json(run, edited.path, "-o", output)
    test = split_by_class(labels, 0.7).test
    assert result["majority"] == pytest.approx((labels[test] == 6).mean())
    assert result["majority"] != pytest.approx((labels[test] == 0).mean())


def test_trained_weights_are_not_called_random(edited, output, run):
    with edited() as file:
        backbone = json.loads(file.attrs["backbone"]) | {"cnncodes.weights": "imagenet"}
        file.attrs["backbone"] = json.dumps(backbone)
    printed = run("train", edited.path, "-o", output).stdout
    assert "accuracy" in printed
    assert "random" not in printed


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Codes of 30 images per class, of which sgd holds out some."""
    X, y = load_digits(n_class=4, return_X_y=True)
    chosen = np.concatenate([np.flatnonzero(y == label)[:30] for label in range(4)])
    X += np.random.default_rng(0).normal(0, 8, X.shape)
    path = tmp_path_factory.mktemp("many") / "many.h5"
    return write_codes(path, X[chosen].astype(np.float32), y[chosen].astype(np.int32))


def test_epochs_are_reported_on_standard_error(many, output, run):
    result = run("train", many, "-o", output, *SGD, "--epochs", "3", "--json")
    reported = [line.split()[:2] for line in result.stderr.splitlines() if "train loss" in line]
    assert reported == [["epoch", "1"], ["epoch", "2"], ["epoch", "3"]]
    fitted = json.loads(result.stdout)["fitted"]
    assert fitted["epochs"] == 3
    assert fitted["best_epoch"] in (1, 2, 3)
    assert 0 <= fitted["validation_accuracy"] <= 1


def test_options_of_sgd_reach_it(codes, output, run):
    options = ("--epochs", "2", "--batch-size", "5", "--learning-rate", "0.25", "--seed", "4")
    fitted = train_json(run, codes, "-o", output, *SGD, *options)["fitted"]
    arguments = ("epochs", "batch_size", "learning_rate", "random_state", "optimizer")
    assert [fitted[name] for name in arguments] == [2, 5, 0.25, 4, "momentum"]


def test_schedule_penalty_and_patience_reach_it(codes, output, run):
    options = ("--schedule", "constant", "--l2", "0.125", "--patience", "2")
    fitted = train_json(run, codes, "-o", output, *SGD, *options)["fitted"]
    assert [fitted[name] for name in ("schedule", "l2", "patience")] == ["constant", 0.125, 2]
    plain = train_json(run, codes, "-o", output, "--overwrite", *SGD)["fitted"]
    assert [plain[name] for name in ("schedule", "l2", "patience")] == ["cosine", 1e-5, None]
    assert info_of(output).training["fitted"] == plain


def test_schedule_and_penalty_make_another_head(codes, output, run):
    weights = []
    for options in ((), ("--schedule", "constant"), ("--l2", "0.5")):
        run("train", codes, "-o", output, "--overwrite", *SGD, "--epochs", "5", *options)
        weights.append(weights_of(output))
    plain, constant, penalised = weights
    assert not np.allclose(plain, constant, rtol=1e-3)
    assert np.square(penalised).sum() < np.square(plain).sum() / 2


def test_patience_stops_the_training(many, output, run):
    options = (*SGD, "--epochs", "60", "--patience", "2", "--json")
    result = run("train", many, "-o", output, *options)
    reported = [line for line in result.stderr.splitlines() if "train loss" in line]
    best = json.loads(result.stdout)["fitted"]["best_epoch"]
    assert len(reported) == best + 2 < 60


@pytest.mark.parametrize(
    ("option", "value"),
    [("--schedule", "linear"), ("--l2", "-1"), ("--patience", "0"), ("--epochs", "0")],
)
def test_wrong_usage_of_sgd(codes, output, run, option, value):
    message = run("train", codes, "-o", output, *SGD, option, value, exit_code=2).stderr
    assert option in message
    assert not list(output.parent.iterdir())


def test_progress_of_sgd_is_reported_in_plain_lines(codes, output, run, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    result = run("train", codes, "-o", output, *SGD, "--epochs", "2", "--json")
    counts = re.findall(r"^train: (\d+) of (\d+) images, ", result.stderr, re.MULTILINE)
    n_images = json.loads(result.stdout)["train"]["n_images"]
    assert [(int(done), int(total)) for done, total in counts][-1] == (2 * n_images, 2 * n_images)
    assert all(int(done) <= int(total) for done, total in counts)
    assert "\x1b" not in result.stderr
    assert len(result.stderr.splitlines()) == 1 + len(counts) + 2  # a line for each epoch


def test_metadata_report_how_it_was_trained(codes, output, run, small_backbone):
    result = train_json(
        run, codes, "-o", output, "--split", "first", "--per-class", "3", "--seed", "5"
    )
    info = info_of(output)
    assert info.labels == tuple("0123456789")
    assert info.training["split"] == {
        "method": "first",
        "train_fraction": 0.7,
        "per_class": 3,
        "seed": 5,
    }
    assert info.training["train"] == result["train"]
    assert info.training["test"] == result["test"]
    assert info.backbone_sha256 == hashlib.sha256(small_backbone.read_bytes()).hexdigest()


@pytest.mark.parametrize("options", [(), ("--per-class", "2", *SGD)])
def test_head_remembers_the_images_it_was_trained_on(codes, photos, output, run, options):
    run("train", codes, "-o", output, *options)
    per_class = 2 if options else None
    train = split_by_class(labels_in(codes), 0.7, per_class=per_class).train
    with CodeStore.open(codes) as store:
        files = [photos / store.paths[row] for row in train]
    keys = [hashlib.sha256(file.read_bytes()).hexdigest()[:12] for file in files]
    assert info_of(output).training_images == set(keys)


@pytest.mark.parametrize("fraction", [0.7, 0.25])
def test_first_images_of_each_class(codes, output, run, fraction):
    result = train_json(run, codes, "-o", output, "--split", "first", "--train-fraction", fraction)
    split = split_by_class(labels_in(codes), fraction, method="first")
    assert result["train"] == measure_head(output, codes, split.train)
    assert result["test"] == measure_head(output, codes, split.test)


def test_per_class_leaves_the_test_images_alone(codes, output, run):
    result = train_json(run, codes, "-o", output, "--per-class", "2")
    train = split_by_class(labels_in(codes), 0.7, per_class=2).train  # 20 images
    assert result["train"] == measure_head(output, codes, train)
    assert result["test"] == measure_head(output, codes, split_by_class(labels_in(codes), 0.7).test)


def test_classes_with_fewer_images_than_per_class_are_reported(edited, output, run):
    with edited() as file:  # leave 2 fours and 5 sevens; of each 70 % train
        labels = file["labels"][:]
        labels[np.flatnonzero(labels == 4)[2:]] = -1
        labels[np.flatnonzero(labels == 7)[5:]] = -1
        file["labels"][:] = labels
    notes = train_json(run, edited.path, "-o", output, "--per-class", "4", "--C", "1")["notes"]
    assert notes[1:] == ["2 classes have fewer than 4 training images: 4 (1), 7 (3)"]
    overwrite = ("-o", output, "--C", "1", "--overwrite", "--per-class")
    notes = train_json(run, edited.path, *overwrite, "3")["notes"]
    assert notes[1:] == ["1 class has fewer than 3 training images: 4 (1)"]
    assert train_json(run, edited.path, *overwrite, "1")["notes"] == notes[:1]
    notes = train_json(run, edited.path, *overwrite, "5000")["notes"]
    assert notes[1].startswith("10 classes have fewer than 5,000 training images: 0 (")
    assert notes[1].endswith("), …")
    printed = run("train", edited.path, *overwrite, "4").stdout
    assert "  note: 2 classes have fewer than 4 training images: 4 (1), 7 (3)\n" in printed


def test_one_image_a_class_trains_by_sgd_too(codes, output, run):
    result = run("train", codes, "-o", output, *SGD, "--per-class", "1")
    assert "nan" not in result.output
    assert "10 images" in result.stdout


def test_larger_c_fits_closer(codes, output, run):
    losses = [
        train_json(run, codes, "-o", output, "--overwrite", "--C", C)["train"]["loss"]
        for C in (1e-3, 10, 1000)
    ]
    assert losses[0] > 10 * losses[1] > 20 * losses[2]


@pytest.mark.parametrize("options", METHODS)
def test_seed_decides(codes, output, run, options):
    weights = []
    for seed in (1, 1, 2):
        run("train", codes, "-o", output, "--overwrite", "--seed", seed, *options)
        weights.append(weights_of(output))
    assert np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


# The last is a single step: its weights show that it diverged, its training loss does not.
@pytest.mark.parametrize(("rate", "epochs"), [("1e30", 20), ("3e38", 1)])
def test_diverged_training_writes_no_head(codes, output, rate, epochs):
    options = ("--learning-rate", rate, "--epochs", epochs, "--batch-size", 1000 // epochs)
    message = error_of("train", codes, "-o", output, *SGD, *options)
    assert "learning rate" in message.replace("_", " ").replace("-", " ")
    assert "--debug" not in message
    assert not list(output.parent.iterdir())


def test_images_without_labels(small_backbone, photos, tmp_path, output, run):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in list(photos.rglob("*.png"))[:4]:
        shutil.copy(path, flat)
    run("extract", small_backbone, flat, "-o", tmp_path / "flat.h5")
    message = error_of("train", tmp_path / "flat.h5", "-o", output)
    assert f"{tmp_path / 'flat.h5'}: none of its images has a label" in message
    assert not list(output.parent.iterdir())


def test_one_class_only(edited, output):
    with edited() as file:
        file["labels"][:] = 7
    assert "all its images are of one class, 7; " in error_of("train", edited.path, "-o", output)


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_codes_that_are_not_finite(edited, output, part, value):
    with edited() as file:
        bad = getattr(split_by_class(file["labels"][:], 0.7), part)[-1]
        file["codes"][bad, 5] = value
        path = file["paths"][bad].decode()
    message = error_of("train", edited.path, "-o", output)
    assert f"{edited.path}: the codes of {path} are not finite" in message
    assert not list(output.parent.iterdir())


def test_failure_keeps_the_former_head(edited, output):
    with edited() as file:
        file["codes"][:, 0] = np.nan
    output.write_text("mine")
    error_of("train", edited.path, "-o", output, "--overwrite")
    assert output.read_text() == "mine"
    assert list(output.parent.iterdir()) == [output]


def test_class_of_one_image_trains_and_is_noted(edited, output, run):
    with edited() as file:
        file["labels"][np.flatnonzero(file["labels"][:] == 9)[1:]] = -1
        n_unlabelled = int((file["labels"][:] < 0).sum())
    result = train_json(run, edited.path, "-o", output)
    assert result["notes"][:2] == [
        f"{n_unlabelled} images without a label are left out",
        "classes of one image train but are not tested: 9",
    ]
    assert result["labels"] == list("0123456789")
    assert result["train"]["n_images"] + result["test"]["n_images"] == 120 - n_unlabelled
    printed = run("train", edited.path, "-o", output, "--overwrite").stdout
    assert printed.endswith("".join(f"  note: {note}\n" for note in result["notes"]))


def test_long_list_of_classes_is_cut(edited, output, run):
    with edited() as file:
        labels = np.full(len(file["labels"]), -1)
        labels[:6] = range(6)
        file["labels"][:] = labels
    result = train_json(run, edited.path, "-o", output)
    untested = result["notes"].pop(-2)
    assert untested.startswith(
        "nothing was tested, so how good the head is on new images is unknown"
    )
    assert result["notes"][-2:] == [
        "4 classes without a usable image are left out",
        "classes of one image train but are not tested: 0, 1, 2, …",
    ]
    assert result["test"] == {"n_images": 0, "loss": None, "accuracy": None}
    assert result["majority"] is None
    printed = run("train", edited.path, "-o", output, "--overwrite").stdout
    assert "  test   no images: nothing is tested\n" in printed
    assert f"  note: {untested}\n" in printed
    assert "None" not in printed
    words = ("train", edited.path, "-o", output, "--overwrite", "--train-fraction", 1)
    validated = run(*words).stdout
    assert f"  note: {untested}\n" in validated
    assert "measured by" not in validated


def test_class_without_a_usable_image_is_left_out(small_backbone, photos, tmp_path, output, run):
    source = tmp_path / "photos"
    shutil.copytree(photos, source)
    for path in (source / "4").iterdir():
        path.write_bytes(b"not an image")
    codes = tmp_path / "codes.h5"
    run("extract", small_backbone, source, "-o", codes)
    result = train_json(run, codes, "-o", output)
    assert result["notes"] == ["1 class without a usable image is left out"]
    assert result["labels"] == list("012356789")
    labels = labels_in(codes)
    assert (labels == 9).any(), "the labels must have a gap for a meaningful test"
    assert result["test"] == measure_head(output, codes, split_by_class(labels, 0.7).test)
    assert result["test"]["accuracy"] > 0.6


@pytest.mark.parametrize("options", METHODS)
def test_two_classes(edited, output, run, options):
    with edited() as file:
        file["labels"][:] = np.where(file["labels"][:] > 1, -1, file["labels"][:])
    result = train_json(run, edited.path, "-o", output, *options)
    assert result["labels"] == ["0", "1"]
    split = split_by_class(labels_in(edited.path), 0.7)
    assert result["test"] == measure_head(output, edited.path, split.test)
    assert result["test"]["accuracy"] > 0.8


def test_missing_file(tmp_path, output):
    absent = tmp_path / "absent.h5"
    message = error_of("train", absent, "-o", output)
    assert message == f"Error: {absent}: no such file; make one with: cnncodes extract"


@pytest.mark.parametrize("content", [b"", b"a text\n", b"\x89HDF\r\n\x1a\n and no more"])
def test_file_that_is_not_hdf5(tmp_path, output, content):
    path = tmp_path / "codes.h5"
    path.write_bytes(content)
    said = error_of("train", path, "-o", output)
    reasons = {b"": "is an empty file; make one with: cnncodes extract", b"a": "is a text ("}
    reason = reasons.get(content[:1], "cannot be opened as HDF5")
    assert f"{path}: {reason}" in said


def test_truncated_codes(codes, tmp_path, output):
    path = tmp_path / "codes.h5"
    path.write_bytes(codes.read_bytes()[:-1000])
    assert f"{path}: cannot be opened as HDF5" in error_of("train", path, "-o", output)


@pytest.mark.parametrize("kind", [None, "weights", [1, 2]])
def test_foreign_hdf5(tmp_path, output, kind):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["codes"] = np.zeros((3, 4))
        if kind is not None:
            file.attrs["kind"] = kind
    assert f"{path}: is an HDF5 file of another program " in error_of("train", path, "-o", output)


def test_unfinished_codes(edited, output):
    with edited() as file:
        file.attrs["complete"] = False
    assert f"{edited.path}: is unfinished" in error_of("train", edited.path, "-o", output)


@pytest.mark.parametrize("label", [10, -2])
def test_labels_that_name_no_class(edited, output, label):
    with edited() as file:
        file["labels"][3] = label
    message = error_of("train", edited.path, "-o", output)
    assert message == f"Error: {edited.path}: contradicts itself; extract it again"
    assert not list(output.parent.iterdir())


@pytest.mark.parametrize("estimator", ["logistic", "sgd", "knn"])
def test_more_classes_than_half_the_images(edited, output, run, estimator):
    """A program that takes any targets would doubt that these are classes."""
    with edited() as file:
        file["labels"][:] = np.arange(120) // 3
        file.attrs["class_names"] = json.dumps([f"{number:02}" for number in range(40)])
    options = ("--estimator", estimator, "--per-class", "1")
    result = train_json(run, edited.path, "-o", output, *options)
    assert len(result["labels"]) == result["train"]["n_images"] == 40


def test_existing_output(codes, output, run):
    output.write_text("mine")
    message = error_of("train", codes, "-o", output)
    assert message == f"Error: {output}: exists already; choose another name or pass --overwrite"
    other_name = output.with_name("kept")
    other_name.hardlink_to(output)
    run("train", codes, "-o", output, "--overwrite")
    assert info_of(output).training["estimator"] == "ridge"
    # The new head replaced the old one when it was complete; it was not written over it.
    assert other_name.read_text() == "mine"


def test_output_without_a_folder(codes, output):
    absent = output.parent / "absent" / "head.onnx"
    assert "does not exist; create it first" in error_of("train", codes, "-o", absent)
    assert "is a folder" in error_of("train", codes, "-o", output.parent)


@pytest.mark.parametrize(
    "options",
    [
        ("--train-fraction", "0"),
        ("--train-fraction", "1.5"),
        ("--per-class", "0"),
        ("--C", "0"),
        ("--seed", "-1"),
    ],
)
def test_wrong_usage(codes, output, run, options):
    assert options[0] in run("train", codes, "-o", output, *options, exit_code=2).stderr


@pytest.mark.parametrize(
    "parameters",
    [
        {"estimator": "svn"},
        {"C": 0},
        {"C": float("nan")},
        {"train_fraction": 1.5},
        {"split": "last"},
        {"class_weight": "x"},
        {"class_weight": {0: 1.0}},
    ],
    ids=str,
)
def test_bad_parameters_of_the_function(codes, output, parameters):
    with pytest.raises(ParameterError):
        train_head(codes, output, **parameters)
    assert not list(output.parent.iterdir())


@pytest.mark.parametrize("C", ["inf", "nan", "0", "-1", "much", "1e-300", "1e300"])
def test_c_that_is_no_number_is_refused(codes, output, run, C):
    message = run("train", codes, "-o", output, "--C", C, exit_code=2).stderr
    assert "is neither auto nor a number from 1e-06 to 1e+08" in " ".join(message.split())


@pytest.mark.parametrize("C", [0, np.inf, np.nan, "much", 1e-300])
def test_library_refuses_such_a_c_too(codes, output, C):
    with pytest.raises(ParameterError, match=r"^C must be (at least 1e-06|auto or a number)"):
        train_head(codes, output, C=C)


def test_c_is_chosen_and_its_scores_reported(codes, output, run):
    logistic = ("--estimator", "logistic")
    reported = train_json(run, codes, "-o", output, *logistic)["fitted"]
    assert str(reported["C"]) in reported["C_scores"]
    text = run("train", codes, "-o", output, "--overwrite", *logistic).stdout
    chosen = rf"C {reported['C']:g} \(best of {len(reported['C_scores'])} in cross-validation\)"
    iterations = rf"{reported['n_iterations']} iterations?"
    assert re.search(rf"\n  fitted in \d+\.\d s: {chosen}, {iterations}\n", text)


@pytest.mark.parametrize("estimator", ["logistic", "sgd"])
def test_codes_that_are_all_the_same_train_a_head_with_a_note(edited, output, run, estimator):
    with edited() as file:
        file["codes"][:] = file["codes"][0]
        labels = file["labels"][:]
    reported = train_json(run, edited.path, "-o", output, "--estimator", estimator)
    assert reported["test"]["accuracy"] == reported["majority"]
    assert reported["train"]["loss"] == pytest.approx(np.log(len(np.unique(labels))), abs=0.05)
    (note,) = [each for each in reported["notes"] if each.startswith("the codes of all")]
    assert "the head knows only how common each class is" in note
    text = run("train", edited.path, "-o", output, "--estimator", estimator, "--overwrite").stdout
    assert f"note: {note}" in text


def test_a_fixed_camera_is_no_trouble(edited, output, run):
    """One scene and a small mark: nearly all of the codes is common to all images."""
    with edited() as file:
        labels, shape = file["labels"][:], file["codes"].shape
        generator = np.random.default_rng(0)
        scene, marks = generator.uniform(1, 2, shape[1:]), generator.uniform(0, 1, (10, *shape[1:]))
        noise = generator.normal(0, 0.1, shape)
        del file["codes"]
        codes = (scene + 1e-3 * (marks[labels] + noise)).astype(np.float32)
        file.create_dataset("codes", data=codes, chunks=(1, *shape[1:]), compression="gzip")
    reported = train_json(run, edited.path, "-o", output)
    assert reported["test"]["accuracy"] == 1
    assert reported["test"]["loss"] < 0.1


def test_classes_can_be_balanced(codes, output, run):
    plain = train_json(run, codes, "-o", output, "--C", "1")
    balanced = train_json(
        run, codes, "-o", output, "--overwrite", "--C", "1", "--class-weight", "balanced"
    )
    assert plain["train"]["loss"] != balanced["train"]["loss"]
