"""Copies and groups in a codes file: what `train` and `evaluate` do with them, and report."""

from __future__ import annotations

import hashlib
import json

import h5py
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.naive_bayes import GaussianNB

from cnncodes import CodeStore
from cnncodes.errors import TrainingError
from cnncodes.head.estimators import NAMED
from cnncodes.head.groups import groups_of
from cnncodes.head.split import split_by_class
from cnncodes.head.train import train_head
from cnncodes.models.metadata import HeadInfo, image_key
from tests.helpers import append_rows, create_journal

N_FEATURES = 200
N_COPIES = 4
NOTE = "96 of 128 images are copies of others (the same file); copies stay on one side of the split"


def digest_of(number):
    return hashlib.sha256(str(number).encode()).hexdigest()


def write(path, X, y, digests, groups=None):
    """A codes file of two or more classes, which are called a, b and so on."""
    names = tuple("abcdefgh"[: max(y) + 1])
    paths = [f"{names[label]}/{row}.png" for row, label in enumerate(y)]
    with create_journal(
        path.with_suffix(".new"), code_shape=X.shape[1:], class_names=names
    ) as journal:
        columns = {"labels": list(map(int, y)), "paths": paths, "digests": digests, "skipped": []}
        append_rows(journal, X.astype(np.float32), **columns)
        journal.finish(path)
    if groups is not None:
        with h5py.File(path, "r+") as file:
            file.create_dataset("groups", data=groups, dtype=h5py.string_dtype())
    return path


@pytest.fixture
def noise(tmp_path):
    """Two classes of 16 images of noise, each four times: nothing can be learned but the copies."""
    X = np.random.default_rng(0).standard_normal((32, N_FEATURES)).repeat(N_COPIES, axis=0)
    digests = [digest_of(row // N_COPIES) for row in range(len(X))]
    return write(tmp_path / "noise.h5", X, np.repeat([0, 1], 64), digests)


@pytest.fixture
def patients(tmp_path):
    """Two classes of 60 images: five of each patient, who looks alike in both classes."""
    random = np.random.default_rng(1)
    faces = 10 * random.standard_normal((24, N_FEATURES)).repeat(5, axis=0)
    X = faces + random.standard_normal((120, N_FEATURES))
    groups = [f"patient {row // 5:02}" for row in range(120)]
    digests = [digest_of(row) for row in range(120)]
    return write(tmp_path / "patients.h5", X, np.repeat([0, 1], 60), digests, groups)


@pytest.fixture
def output(tmp_path):
    return tmp_path / "head.onnx"


def info_of(head):
    metadata = {entry.key: entry.value for entry in onnx.load(str(head)).metadata_props}
    return HeadInfo.from_metadata(metadata, head)


def trained(run, codes, output, *options):
    return json.loads(run("train", codes, "-o", output, "--json", *options).stdout)


@pytest.mark.parametrize("split", ["stratified", "first"])
@pytest.mark.parametrize("estimator", ["logistic", "sgd", "svm", "knn"])
def test_noise_in_copies_tests_as_noise(noise, output, run, estimator, split):
    result = trained(run, noise, output, "--estimator", estimator, "--split", split)
    assert result["test"]["accuracy"] < 0.75, "with copies on both sides it is 1"
    assert result["notes"] == [NOTE]
    keys = info_of(output).training_images
    with CodeStore.open(noise) as store:
        n_known = sum(image_key(digest) in keys for digest in store.digests)
    assert result["train"]["n_images"] == n_known, "no copy of a training image tests"
    assert result["train"]["n_images"] == 88  # of 44.8, eleven times four


def test_split_in_the_metadata_is_that_of_the_groups(noise, output, run):
    trained(run, noise, output, "--seed", "3")
    with CodeStore.open(noise) as store:
        split = info_of(output).training["split"]
        parts = split_by_class(store.labels, **split, groups=groups_of(store))
        keys = {image_key(store.digests[row]) for row in parts.train}
    assert keys == info_of(output).training_images


def test_sgd_validates_on_images_it_does_not_train_on(noise, output):
    training = train_head(noise, output, estimator="sgd", seed=1, sgd={"validation_fraction": 0.5})
    assert training.fitted["validation_accuracy"] < 0.9, "with copies on both sides it is 1"


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12)), min_size=8, max_size=60))
def test_svm_calibrates_on_images_it_did_not_see(images):
    images += [(label, 20 + 2 * label + number) for label in range(3) for number in (0, 1)]
    y, groups = (np.array(each, np.int32) for each in zip(*images, strict=True))
    try:
        model = NAMED["svm"](y, groups, N_FEATURES, 0)
    except TrainingError:
        return  # groups of several classes may leave no way
    folds = model.steps[1][1].cv
    parts = folds if isinstance(folds, list) else list(folds.split(y, y))
    for rest, held_out in parts:
        assert not set(groups[rest]) & set(groups[held_out])
        assert set(y[rest]) == {0, 1, 2}
    tested = [row for _, held_out in parts for row in held_out]
    assert sorted(tested) == list(range(len(y)))


def test_folds_of_a_head_are_described_in_few_words(noise, output, run):
    result = trained(run, noise, output, "--estimator", "svm")
    assert "5 folds that keep groups together" in result["fitted"]["parameters"]["steps"]


def test_svm_needs_two_files_of_each_class(tmp_path, output, run):
    X = np.random.default_rng(0).standard_normal((20, N_FEATURES))
    digests = [digest_of(0)] * 5 + [digest_of(row) for row in range(5, 20)]
    path = write(tmp_path / "codes.h5", X, np.repeat([0, 1], [5, 15]), digests)
    message = run("train", path, "-o", output, "--estimator", "svm", exit_code=1).stderr
    assert "svm: the training images of a class are all copies of one or of one group" in message
    assert "use knn or logistic" in message
    notes = trained(run, path, output)["notes"]
    assert notes[1:3] == [
        "copies and groups leave 25% of the images to test on",
        "classes whose images must stay on one side train but are not tested: a",
    ]


def test_folds_of_another_estimator_are_warned_of(noise, output):
    estimator = CalibratedClassifierCV(GaussianNB(), ensemble=False)
    notes = train_head(noise, output, estimator=estimator).notes
    assert notes[0] == NOTE
    assert notes[1].startswith("CalibratedClassifierCV has folds of its own, which may separate")
    assert train_head(noise, output, estimator=GaussianNB(), overwrite=True).notes == [NOTE]


def test_training_images_are_counted_alike(noise, output, run, tmp_path):
    run("train", noise, "-o", output)
    n_files = len(info_of(output).training_images)
    result = trained(run, noise, tmp_path / "later.onnx", "--from", output)
    n_images = result["train"]["n_images"]
    assert n_images == N_COPIES * n_files
    assert result["growth"]["n_kept"] == n_files
    kept = f"{n_files} of its {n_files} training images, copies counted once, are among the"
    assert any(f"{kept} {n_images} that train" in note for note in result["notes"])
    assert f"{n_files}, copies counted once" in run("info", output).stdout


def test_files_with_two_labels_are_named(tmp_path, output, run):
    X = np.random.default_rng(0).standard_normal((40, N_FEATURES))
    X[20:22] = X[:2]
    digests = [digest_of(row) for row in range(40)]
    digests[20:22] = digests[:2]
    path = write(tmp_path / "codes.h5", X, np.repeat([0, 1], 20), digests)
    assert trained(run, path, output)["notes"] == [
        "2 of 40 images are copies of others (the same file); copies stay on one side of the split",
        "2 files have more than one label: a/0.png (a) and b/20.png (b), a/1.png (a) and b/21.png "
        "(b)",
    ]


def test_copies_without_a_label_do_not_count(noise, output, run):
    with h5py.File(noise, "r+") as file:
        labels = file["labels"][:]
        labels[np.arange(128) % N_COPIES > 0] = -1
        file["labels"][:] = labels
    notes = trained(run, noise, output)["notes"]
    assert notes == ["96 images without a label are left out"]


@pytest.mark.parametrize("estimator", ["logistic", "sgd", "svm", "knn"])
def test_groups_stay_on_one_side(patients, output, run, estimator):
    result = trained(run, patients, output, "--estimator", estimator)
    assert result["test"]["accuracy"] < 0.85, "with a patient on both sides it is 1"
    note, *others = result["notes"]
    assert note == "the images are of 24 groups, which stay on one side of the split"
    # A patient's images are more than a tenth of a class.
    assert len(others) == (estimator == "sgd")
    assert all(each.startswith("too few training images per class") for each in others)
    keys = info_of(output).training_images
    with CodeStore.open(patients) as store:
        groups = np.array(store.groups)
        trains = np.array([image_key(digest) in keys for digest in store.digests])
    assert not set(groups[trains]) & set(groups[~trains])
    assert len(set(groups[trains])) == 16  # eight of twelve patients of each class


def test_one_large_group_is_reported(patients, output, run):
    with h5py.File(patients, "r+") as file:
        groups = file["groups"].asstr()[:]
        groups[5:60], groups[65:] = "", ""
        groups[:50], groups[65:115] = "one", "one"
        file["groups"][:] = groups
    assert trained(run, patients, output)["notes"] == [
        "the images are of 2 groups, which stay on one side of the split; 15 images have none",
        "copies and groups leave 17% of the images to test on",
    ]


def test_evaluation_counts_copies_and_leaves_out_those_of_training_images(noise, output, run):
    result = trained(run, noise, output)
    reported = json.loads(run("evaluate", output, noise, "--json").stdout)
    assert reported["figures"]["n_images"] == result["test"]["n_images"] == 40
    assert reported["notes"] == [
        "not evaluated: 88 images that trained the model",
        "30 of 40 images are copies of others (the same file); each of them counts",
    ]


def test_evaluation_leaves_out_groups_of_training_images(patients, output, run):
    result = trained(run, patients, output, "--per-class", "9")
    reported = json.loads(run("evaluate", output, patients, "--json").stdout)
    with CodeStore.open(patients) as store:
        keys, groups = info_of(output).training_images, np.array(store.groups)
        known = np.array([image_key(digest) in keys for digest in store.digests])
        n_related = np.isin(groups, groups[known]).sum() - known.sum()
    assert n_related > 0
    assert reported["notes"] == [
        "not evaluated: 18 images that trained the model",
        f"not evaluated: {n_related} images of the same groups as images that trained the model",
    ]
    assert reported["figures"]["n_images"] == 120 - 18 - n_related >= result["test"]["n_images"]
    options = ("--include-training", "--json")
    everything = json.loads(run("evaluate", output, patients, *options).stdout)
    assert everything["figures"]["n_images"] == 120


def test_app_leaves_out_images_of_the_groups_that_trained_it(run, small_backbone, photos, tmp_path):
    """The same CSV file as source of the codes and of the evaluation: groups are in both."""
    images = [path.relative_to(photos) for path in sorted(photos.rglob("*.png"))]
    lines = ["path,label,group"]
    lines += [
        f"{photos / path},{path.parent},{f'writer {row // 3}' if row < 60 else ''}"
        for row, path in enumerate(images)
    ]
    source = tmp_path / "list.csv"
    source.write_text("\n".join(lines))
    codes, head, app = (tmp_path / name for name in ("codes.h5", "head.onnx", "app.onnx"))
    run("extract", small_backbone, source, "-o", codes)
    run("train", codes, "-o", head, "--per-class", 4)  # so that groups are used in part
    run("bundle", small_backbone, head, "-o", app)
    by_codes = json.loads(run("evaluate", head, codes, "--json").stdout)
    by_images = json.loads(run("evaluate", app, source, "--json").stdout)
    assert any("of the same groups as images that trained" in note for note in by_codes["notes"])
    assert by_images["data"]["images_sha256"] == by_codes["data"]["images_sha256"]
    assert by_images["figures"]["accuracy"] == by_codes["figures"]["accuracy"]


def test_folders_group_images_of_an_evaluation_too(run, small_backbone, photos, tmp_path):
    source = tmp_path / "source"
    for row, path in enumerate(sorted(photos.rglob("*.png"))[:48]):
        target = source / "ab"[row % 2] / f"writer {row // 6}" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    codes, head, app = (tmp_path / name for name in ("codes.h5", "head.onnx", "app.onnx"))
    run("extract", small_backbone, source, "-o", codes, "--group-by", "folder")
    assert json.loads(run("info", codes, "--json").stdout)["groups"] == 16
    run("train", codes, "-o", head, "--per-class", 5)
    run("bundle", small_backbone, head, "-o", app)
    by_codes = json.loads(run("evaluate", head, codes, "--json").stdout)
    grouped = json.loads(run("evaluate", app, source, "--group-by", "folder", "--json").stdout)
    alone = json.loads(run("evaluate", app, source, "--json").stdout)
    assert grouped["data"]["images_sha256"] == by_codes["data"]["images_sha256"]
    assert alone["figures"]["n_images"] > grouped["figures"]["n_images"]
    message = run("evaluate", head, codes, "--group-by", "folder", exit_code=1).stderr
    assert "has its own groups, if any; leave --group-by out" in message
