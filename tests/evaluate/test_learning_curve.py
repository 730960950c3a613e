"""The command curve: every head of a curve against the same head trained on its own."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tracemalloc
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.datasets import load_digits

from cnncodes import CodeStore
from cnncodes.errors import ParameterError
from cnncodes.evaluate.curve import read_curves
from cnncodes.evaluate.curve_plan import default_sizes, draw_images
from cnncodes.evaluate.learning_curve import fit_part, learning_curves
from cnncodes.head.groups import number_groups
from cnncodes.head.logistic.fit import fit_logistic
from cnncodes.head.logistic.gram import gram_matrix
from cnncodes.head.logistic.solve import new_solver
from cnncodes.head.rows import CodeRows
from cnncodes.head.scaling import Scaling, read_all
from cnncodes.head.split import split_by_class
from tests.helpers import append_rows, create_journal, error_of, write_codes


@pytest.fixture
def output(tmp_path):
    """Where the curve goes: a folder of its own, so that leftovers show."""
    folder = tmp_path / "curves"
    folder.mkdir()
    return folder / "curve.json"


@pytest.fixture
def edited(codes, tmp_path):
    """Make a copy of the codes file, changed by a function of the open file."""

    def copy(change=None, name="edited.h5"):
        path = tmp_path / name
        shutil.copy(codes, path)
        with h5py.File(path, "r+") as file:
            del file["checksums"]  # they would be those of other codes
            if change is not None:
                change(file)
        return path

    return copy


@pytest.fixture
def digits(tmp_path):
    """Codes of 400 digits with `n_features` numbers, not centred and of uneven size."""

    def made(n_features):
        X, y = load_digits(return_X_y=True)
        mix = np.random.default_rng(0).standard_normal((64, n_features))
        X, y = np.maximum(X[:400] @ mix, 0) / 30 + 1, y[:400]
        path = tmp_path / "digits.h5"
        info = {"code_shape": (n_features,), "class_names": tuple("0123456789")}
        with create_journal(path.with_suffix(".partial"), **info) as journal:
            digests = [f"{index:064x}" for index in range(400)]
            columns = {"labels": y.tolist(), "paths": ["x"] * 400, "digests": digests}
            append_rows(journal, X, **columns, skipped=[])
            journal.finish(path)
        return path

    return made


def train_counts(path):
    """Training images of each class."""
    with CodeStore.open(path) as store:
        return np.bincount(store.labels[split_by_class(store.labels, 0.7).train])


def noise_in_copies(file):
    """Two classes of noise, of 15 images each, every one of them four times."""
    codes = np.random.default_rng(0).standard_normal((30, *file["codes"].shape[1:]))
    file["codes"][:] = np.repeat(codes, 4, axis=0)
    file["digests"][:] = np.repeat([f"{index:064x}" for index in range(30)], 4).astype("S64")
    file["labels"][:] = np.repeat([0, 1], 60)


def curve_json(run, *arguments):
    return json.loads(run("curve", *arguments, "--json").stdout)["curves"]


def set_labels(labels):
    def change(file):
        file["labels"][:] = labels(file["labels"][:])

    return change


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--C", "0.1", "--seed", "3"),
        ("--C", "10", "--split", "first"),
        ("--C", "1", "--class-weight", "balanced", "--train-fraction", "0.5"),
    ],
    ids=" ".join,
)
def test_first_seed_is_what_train_gives(codes, output, run, options):
    (curve,) = curve_json(run, codes, "-o", output, "--per-class", "1,3,5", *options)
    for point in curve["points"]:
        head = output.with_name("head.onnx")
        arguments = ("--per-class", point["per_class"], *options, "--overwrite", "--json")
        trained = json.loads(run("train", codes, "-o", head, *arguments).stdout)
        assert point["n_train"] == trained["train"]["n_images"]
        assert curve["n_test"] == trained["test"]["n_images"]
        assert point["accuracies"][0] == pytest.approx(trained["test"]["accuracy"], abs=1e-9)
        assert point["C"] == trained["fitted"]["C"]


@pytest.mark.parametrize("C", [0.1, 10.0, 100.0])
@pytest.mark.parametrize("per_class", [1, 3, 20])
def test_logits_are_those_of_the_head_on_its_own(digits, per_class, C):
    with CodeStore.open(digits(640)) as store:
        y = store.labels
        parts = split_by_class(y, 0.7, per_class=per_class)
        rows = np.sort(np.concatenate([parts.train, parts.test]))
        K = gram_matrix(CodeRows(store, rows).read, len(rows), block=150, dtype=np.float32)
        train, test = (np.searchsorted(rows, part) for part in (parts.train, parts.test))
        computed, used = fit_part(K, train, test, y[parts.train], new_solver(), C)
        weights, bias, _ = fit_logistic(CodeRows(store, parts.train), y[parts.train], C=C)
        expected = read_all(CodeRows(store, parts.test)) @ weights + bias
    assert used == C
    np.testing.assert_allclose(computed, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("C", [0.1, 10.0, 100.0])
def test_more_images_than_features(digits, C):
    """The Gram matrix then has no inverse; scikit-learn on the codes themselves knows the truth."""
    model = new_solver(tol=1e-6)
    with CodeStore.open(digits(30)) as store:
        y = store.labels
        parts = split_by_class(y, 0.7)
        K = gram_matrix(CodeRows(store, np.arange(400)).read, 400, block=150, dtype=np.float32)
        computed, _ = fit_part(K, parts.train, parts.test, y[parts.train], model, C)
        X, unseen = (read_all(CodeRows(store, part)) for part in (parts.train, parts.test))
        scaling = Scaling.of([X])
    for each in (X, unseen):
        scaling.apply(each)
    expected = model.set_params(C=C).fit(X.astype(np.float64), y[parts.train]).predict_proba(unseen)
    np.testing.assert_allclose(softmax(computed, axis=1), expected, atol=5e-3)


@pytest.mark.parametrize("n_features", [30, 640])
def test_accuracy_is_counted_on_the_codes(digits, output, n_features):
    path = digits(n_features)
    (curve,) = learning_curves([path], output, per_class=(2, 9), seeds=3, C=3.0)
    with CodeStore.open(path) as store:
        y = store.labels
        parts, draws = draw_images(y, (2, 9), 0.7, "stratified", 3, 0)
        for point in curve.points:
            for train, accuracy in zip(draws[point.per_class], point.accuracies, strict=True):
                weights, bias, _ = fit_logistic(CodeRows(store, train), y[train], C=3.0)
                logits = read_all(CodeRows(store, parts.test)) @ weights + bias
                right = (logits.argmax(axis=1) == y[parts.test]).mean()
                assert accuracy == pytest.approx(right, abs=1.5 / len(parts.test))
    assert 0.4 < curve.points[0].mean < curve.points[1].mean < 1


@pytest.mark.parametrize(
    ("n_features", "train_fraction", "per_class", "seeds"), [(300, 0.05, 3, 2), (100, 0.7, 9, 30)]
)
def test_memory_is_not_that_of_all_pairs_of_images(
    tmp_path, output, n_features, train_fraction, per_class, seeds
):
    """Few of 3,000 images train, or in all draws more than there are features."""
    rng = np.random.default_rng(0)
    path = write_codes(
        tmp_path / "x.h5", rng.standard_normal((3000, n_features)), rng.integers(0, 10, 3000)
    )
    options = {"per_class": [per_class], "seeds": seeds, "train_fraction": train_fraction}
    tracemalloc.start()
    try:
        learning_curves([path], output, C=1.0, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12_000_000, "products of all pairs take 24 MB or more"


@pytest.mark.parametrize("seed", [0, 7])
def test_draws_are_nested_and_balanced_and_leave_the_test_part_alone(seed):
    y = np.array([0] * 20 + [-1] * 5 + [1] * 9 + [2] * 50 + [0] * 7, np.int32)
    parts, draws = draw_images(y, (2, 5, 30), 0.7, "stratified", 4, seed)
    whole = split_by_class(y, 0.7, seed=seed)
    np.testing.assert_array_equal(parts.test, whole.test)
    for number in range(4):
        few, more, all_there_are = (draws[size][number] for size in (2, 5, 30))
        assert set(few) < set(more) < set(all_there_are) <= set(whole.train)
        assert np.bincount(y[few]).tolist() == [2, 2, 2]
        assert np.bincount(y[all_there_are]).tolist() == [18, 6, 30]
        assert (np.diff(all_there_are) > 0).all(), "rows are read in increasing order"
    assert len({tuple(draw) for draw in draws[5]}) == 4
    other = draw_images(y, (5,), 0.7, "stratified", 4, seed + 1)[1][5]
    assert {tuple(draw) for draw in draws[5]}.isdisjoint(tuple(draw) for draw in other)


def test_first_images_need_one_seed(codes, output, run):
    options = ("--per-class", "2,4", "--split", "first")
    (curve,) = curve_json(run, codes, "-o", output, *options)
    assert [len(point["accuracies"]) for point in curve["points"]] == [1, 1]
    assert [point["deviation"] for point in curve["points"]] == [0, 0]
    assert any("the same for every seed: one seed is used" in note for note in curve["notes"])
    options += ("--seeds", "1", "--overwrite")
    assert "seed" not in str(curve_json(run, codes, "-o", output, *options)[0]["notes"])


def test_result_and_file_report_the_same(codes, output, run):
    reported = curve_json(run, codes, "-o", output, "--per-class", "5,2,5", "--seeds", "3")
    assert json.loads(output.read_text())["curves"] == reported
    (curve,) = reported
    with CodeStore.open(codes) as store:
        n_test = len(split_by_class(store.labels, 0.7).test)
    assert curve["codes"] == str(codes)
    assert (curve["backbone"], curve["weights"]) == ("inception_v3", "random:0")
    assert (curve["n_classes"], curve["n_test"]) == (10, n_test)
    assert curve["notes"] == [
        f"there are up to {train_counts(codes).max()} training images per class"
    ]
    assert [(each["per_class"], each["n_train"]) for each in curve["points"]] == [(2, 20), (5, 50)]
    for point in curve["points"]:
        assert point["mean"] == pytest.approx(np.mean(point["accuracies"]))
        assert point["deviation"] == pytest.approx(np.std(point["accuracies"], ddof=1))
        assert 0.001 <= point["C"] <= 10_000
    assert curve["points"][1]["mean"] > 0.5, "chance is 0.1"
    assert [each.codes for each in read_curves(output)] == [str(codes)]


def test_file_reports_what_it_was_made_from(codes, photos, small_backbone, output, run):
    options = ("--seeds", "2", "--seed", "5", "--C", "1")
    options += ("--train-fraction", "0.5", "--class-weight", "balanced")
    (curve,) = curve_json(run, codes, "-o", output, *options)
    digests = sorted(
        hashlib.sha256(path.read_bytes()).hexdigest() for path in photos.rglob("*.png")
    )
    reported = {key: curve[key] for key in ("split", "train_fraction", "seed", "class_weight")}
    assert reported == {
        "split": "stratified",
        "train_fraction": 0.5,
        "seed": 5,
        "class_weight": "balanced",
    }
    assert curve["images_sha256"] == hashlib.sha256("".join(digests).encode()).hexdigest()
    assert curve["backbone_sha256"] == hashlib.sha256(small_backbone.read_bytes()).hexdigest()
    versions = [f"{name} {version(name)}" for name in ("cnncodes", "scikit-learn")]
    assert curve["created_with"] == ", ".join(versions)


def test_table(codes, output, run):
    result = run("curve", codes, "-o", output, "--per-class", "2,4", "--C", "3")
    lines = result.stdout.splitlines()
    (curve,) = read_curves(output)
    points, n_test = curve.points, curve.n_test
    assert (
        lines[0]
        == f"{codes}: inception_v3, random weights (seed 0), 10 classes; tested on {n_test} images"
    )
    assert (
        lines[1] == "  for comparison, always predicting the most common class is right for "
        f"{curve.majority:.1%} of the test images"
    )
    for line, point in zip(lines[3:5], points, strict=True):
        assert line.split()[:3] == [str(point.per_class), str(point.n_train), "3"]
        assert line.endswith(f"  {point.mean:.1%} ± {point.deviation:.1%}")
    assert lines[5] == "  mean ± standard deviation over 5 draws of the training images"
    assert lines[6] == f"  {curve.summary}"
    assert lines[-1] == f"{output}: the numbers"


def test_sizes_follow_the_data_up_to_all_there_is(codes, output, run):
    (curve,) = curve_json(run, codes, "-o", output, "--C", "3")
    head = output.with_name("head.onnx")
    trained = json.loads(run("train", codes, "-o", head, "--C", "3", "--json").stdout)
    counts = train_counts(codes)
    assert [each["per_class"] for each in curve["points"]] == default_sizes(int(counts.max()))
    *others, last = curve["points"]
    assert last["n_train"] == trained["train"]["n_images"]
    assert last["accuracies"] == [pytest.approx(trained["test"]["accuracy"])], "one fit, not five"
    assert all(len(each["accuracies"]) == 5 for each in others)
    assert curve["majority"] == pytest.approx(trained["majority"])
    lines = run("curve", codes, "-o", output, "--C", "3", "--overwrite").stdout.splitlines()
    rows = lines[3 : 3 + len(curve["points"])]
    assert ["±" in row for row in rows] == [True] * len(others) + [False]
    assert lines[3 + len(rows)].endswith(
        "over 5 draws of the training images; with all of them there is one fit"
    )


@given(st.integers(1, 10**9))
def test_default_sizes_are_halves_down_to_about_five(most):
    sizes = default_sizes(most)
    assert sizes[-1] == most
    assert all(0 < one < two and two - 2 * one in (0, -1) for one, two in pairwise(sizes))
    assert len(sizes) >= min(most, 3)
    assert sizes[0] < 10
    assert sizes[0] >= 5 or len(sizes) <= 3


@pytest.mark.parametrize(
    ("most", "sizes"),
    [
        (1, [1]),
        (2, [1, 2]),
        (9, [3, 5, 9]),
        (30, [8, 15, 30]),
        (40, [5, 10, 20, 40]),
        (570, [5, 9, 18, 36, 72, 143, 285, 570]),
    ],
)
def test_default_sizes(most, sizes):
    assert default_sizes(most) == sizes


def test_sizes_that_no_class_has(codes, output):
    most = train_counts(codes).max()
    message = error_of("curve", codes, "-o", output, "--per-class", "50,100")
    assert message == (
        f"Error: {codes}: no class has 50 training images; name numbers up to {most}"
    )
    assert not list(output.parent.iterdir())


def test_copies_are_on_one_side_of_the_split(edited, output, run):
    """Every image four times, of noise: nothing can be learned but the copies themselves."""
    path = edited(noise_in_copies)
    (curve,) = curve_json(run, path, "-o", output, "--C", "10")
    assert all(each["mean"] < 0.65 for each in curve["points"])
    assert any("90 of 120 images are copies of others" in note for note in curve["notes"])
    with CodeStore.open(path) as store:
        parts, draws = draw_images(
            store.labels, (3, 50), 0.7, "stratified", 4, 0, number_groups(store.digests)
        )
        digests = np.array(store.digests)
    for draw in (parts.train, *draws[3], *draws[50]):
        assert not set(digests[draw]) & set(digests[parts.test])


def test_classes_that_are_one_file_each(edited, output):
    def change(file):
        file["digests"][:] = np.array([f"{label:064x}" for label in file["labels"][:]], "S64")

    message = error_of("curve", edited(change), "-o", output)
    assert "no class has two images (copies of a file and images of a group count once)" in message


def test_one_seed_has_no_deviation(codes, output, run):
    options = ("--per-class", "2", "--C", "3", "--seeds", "1")
    assert "±" not in run("curve", codes, "-o", output, *options).stdout


def test_trained_weights_are_not_called_random(edited, output, run):
    def change(file):
        backbone = json.loads(file.attrs["backbone"]) | {"cnncodes.weights": "imagenet"}
        file.attrs["backbone"] = json.dumps(backbone)

    path = edited(change)
    printed = run("curve", path, "-o", output, "--per-class", "2", "--C", "3").stdout
    assert "imagenet weights" in printed
    assert "random" not in printed


def test_same_seed_same_curve(codes, output, run):
    options = ("--per-class", "3", "--overwrite", "--seed")
    first, same, other = (curve_json(run, codes, "-o", output, *options, s) for s in (1, 1, 2))
    assert first == same != other


def test_classes_with_fewer_images_are_noted(edited, output, run):
    def rarer(labels):
        for label, kept in ((8, 1), (9, 3)):
            labels[np.flatnonzero(labels == label)[kept:]] = -1
        return labels

    path = edited(set_labels(rarer))
    (curve,) = curve_json(run, path, "-o", output, "--per-class", "1,2,3,50,60", "--C", "3")
    most = train_counts(path).max()
    assert curve["notes"][1:] == [
        "classes of one image train but are not tested: 8",
        f"left out: 50, 60 images per class, since no class has more than {most} training images",
        "classes with fewer images than a size train on all of them: 1 of 10 have fewer than 2 "
        "(8); 2 of 10 have fewer than 3 (8, 9)",
    ]
    assert [each["n_train"] for each in curve["points"]] == [10, 19, 27]


def test_long_list_of_classes_is_cut(edited, output, run):
    def rarer(labels):
        for label in range(5):
            labels[np.flatnonzero(labels == label)[2:]] = -1
        return labels

    path = edited(set_labels(rarer))
    printed = run("curve", path, "-o", output, "--per-class", "2", "--C", "3").stdout
    assert "of them: 5 of 10 have fewer than 2 (0, 1, 2, …)\n" in printed


def test_several_files(codes, edited, output, run):
    merged = edited(set_labels(lambda labels: np.where(labels == 9, -1, labels)))
    options = ("--per-class", "2,3", "--C", "3", "--seeds", "2")
    curves = curve_json(run, codes, merged, "-o", output, *options)
    assert [curve["codes"] for curve in curves] == [str(codes), str(merged)]
    assert [curve["n_classes"] for curve in curves] == [10, 9]
    assert curves[0]["notes"] == [
        f"there are up to {train_counts(codes).max()} training images per class"
    ]
    assert curves[1]["notes"][-1] == (
        f"has other classes than {codes}: the accuracies cannot be compared"
    )
    text = run("curve", codes, merged, "-o", output, "--overwrite", *options).stdout
    assert text.count("images per class  in all") == 2


def test_file_named_twice(codes, tmp_path, output):
    (tmp_path / "link.h5").symlink_to(codes)
    message = error_of("curve", codes, tmp_path / "link.h5", "-o", output)
    assert message == f"Error: {tmp_path / 'link.h5'}: is named twice; name each codes file once"


def test_names_from_elsewhere_are_escaped(edited, output, run):
    def change(file):
        names = json.loads(file.attrs["class_names"])
        file.attrs["class_names"] = json.dumps(["\x1b[31m\nred\u202e", *names[1:]])
        labels = file["labels"][:]
        labels[np.flatnonzero(labels == 0)[1:]] = -1
        file["labels"][:] = labels

    path = edited(change, "a\x1b[2Jb.h5")
    printed = run("curve", path, "-o", output, "--per-class", "2", "--C", "3").stdout
    assert "\x1b" not in printed
    assert "\u202e" not in printed
    assert r"not tested: \x1b[31m\nred\u202e" in printed
    assert "a\\x1b[2Jb.h5: " in printed


@pytest.mark.parametrize("suffix", [".png", ".SVG"])
def test_chart(codes, output, run, suffix):
    chart = output.with_name(f"curve{suffix}")
    printed = run("curve", codes, "-o", output, "--per-class", "2", "--C", "3", "--plot", chart)
    assert printed.stdout.endswith(f"\n{output}: the numbers\n{chart}: the chart\n")
    content = chart.read_bytes()
    assert content.startswith(b"\x89PNG") if suffix == ".png" else b"<svg" in content
    assert {each.name for each in output.parent.iterdir()} == {output.name, chart.name}


def test_chart_of_another_kind_is_refused(codes, output):
    message = error_of("curve", codes, "-o", output, "--plot", output.with_name("curve.pdf"))
    assert message.endswith("curve.pdf: a chart is a .png or .svg file; name it so")
    assert not list(output.parent.iterdir())


def test_chart_needs_matplotlib(codes, output, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # so that it cannot be found
    monkeypatch.setattr(sys, "path", [])
    message = error_of("curve", codes, "-o", output, "--plot", output.with_name("curve.png"))
    assert "needs matplotlib; pip install 'cnncodes[report]'" in message
    assert not list(output.parent.iterdir())


def test_outputs_that_are_there_or_are_inputs(codes, edited, output):
    chart = output.with_name("curve.png")
    path = edited(name="curve.svg")
    for there, options in (
        (output, ("-o", output)),
        (chart, ("-o", output.with_name("other.json"), "--plot", chart)),
    ):
        there.write_text("mine")
        message = error_of("curve", codes, *options)
        assert message == f"Error: {there}: exists already; choose another name or pass --overwrite"
        assert there.read_text() == "mine"
    before = path.read_bytes()
    for options in (("-o", path), ("-o", output, "--plot", path)):
        message = error_of("curve", path, *options, "--overwrite")
        assert message == f"Error: {path}: is what the result is made from; choose another name"
    assert path.read_bytes() == before
    same = output.with_name("same")
    same.symlink_to(chart)
    message = error_of("curve", codes, "-o", same, "--plot", chart, "--overwrite")
    assert "is both the result and its chart" in message
    assert "does not exist" in error_of("curve", codes, "-o", output.parent / "no" / "curve.json")


def test_codes_that_cannot_train(codes, edited, output):
    cases = {
        "none of its images has a label": set_labels(lambda labels: labels * 0 - 1),
        "all its images are of one class, 7": set_labels(lambda labels: labels * 0 + 7),
        "is unfinished": lambda file: file.attrs.update({"complete": False}),
        "nothing is left to test on": set_labels(
            lambda labels: np.where(np.arange(120) < 10, np.arange(120), -1)
        ),
        "are not finite": lambda file: file["codes"].write_direct(
            np.full(file["codes"].shape, np.nan, np.float16)
        ),
    }
    for number, (fault, change) in enumerate(cases.items()):
        path = edited(change, f"{number}.h5")
        # A fault in the second file is reported before the first is read, where that is possible.
        message = error_of("curve", codes, path, "-o", output, "--per-class", "1", "--C", "3")
        assert f"{path}: " in message
        assert fault in message
    absent = output.with_name("absent.h5")
    assert f"{absent}: no such file" in error_of("curve", absent, "-o", output)
    assert not list(output.parent.iterdir())


def test_failure_keeps_the_former_curve(edited, output):
    def change(file):
        file["codes"][:, 0] = np.nan

    output.write_text("mine")
    error_of("curve", edited(change), "-o", output, "--overwrite")
    assert output.read_text() == "mine"
    assert list(output.parent.iterdir()) == [output]


@pytest.mark.parametrize("sizes", ["", "0", "5,0", "-1", "5,,6", "five", "5;6", "1.5", "9" * 5000])
def test_list_of_sizes_that_is_none(codes, output, run, sizes):
    message = run("curve", codes, "-o", output, "--per-class", sizes, exit_code=2).stderr
    wanted = "is not a list of whole numbers from 1 to 1,000,000,000, such as 5,10,20"
    assert wanted in " ".join(message.split())


def test_wrong_usage(codes, output, run):
    run("curve", "-o", output, exit_code=2)
    for option in (("--seeds", "0"), ("--C", "much"), ("--train-fraction", "1"), ("--seed", "-1")):
        assert option[0] in run("curve", codes, "-o", output, *option, exit_code=2).stderr


@pytest.mark.parametrize(
    "parameters",
    [
        {"per_class": ()},
        {"per_class": (0, 5)},
        {"per_class": (10**12,)},
        {"seeds": 0},
        {"C": 0},
        {"train_fraction": 1},
        {"split": "last"},
    ],
    ids=str,
)
def test_bad_parameters_of_the_function(codes, output, parameters):
    with pytest.raises(ParameterError):
        learning_curves([codes], output, **parameters)
    assert not list(output.parent.iterdir())


def test_no_codes_at_all(output):
    with pytest.raises(ParameterError, match="there is no codes file"):
        learning_curves([], output)


def test_default_name_is_that_of_the_help(codes, tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("curve", codes, "--per-class", "2", "--C", "3")
    assert len(read_curves(Path("curve.json"))) == 1


def test_codes_that_are_all_the_same_are_noted(edited, output, run):
    def equal(file):
        file["codes"][:] = file["codes"][0]

    (curve,) = curve_json(run, edited(equal), "-o", output, "--per-class", "1,3")
    assert [note for note in curve["notes"] if note.startswith("the codes of all")]
    assert all(each["mean"] == pytest.approx(0.1, abs=0.05) for each in curve["points"])


def test_int8_network_is_named(edited, output, run):
    def quantized(file):
        info = json.loads(file.attrs["backbone"])
        file.attrs["backbone"] = json.dumps(info | {"cnncodes.precision": "int8"})

    path = edited(quantized)
    words = ("curve", path, "-o", output, "--C", "1", "--seeds", "1", "--per-class", "3")
    assert f"{path}: inception_v3 int8, random weights" in run(*words).stdout
    assert read_curves(output)[0].network == "inception_v3 int8"
    assert "inception_v3 int8, random weights" in run("info", output).stdout


@pytest.mark.parametrize("n_features", [4, 200])
def test_one_image_per_class_ends_without_a_warning(n_features, tmp_path):
    """Warnings are errors here; scikit-learn has one for 20 images of more than ten classes."""
    y = np.repeat(np.arange(24), 2).astype(np.int32)
    X = np.random.default_rng(0).random((len(y), n_features)).astype(np.float32)
    path = write_codes(tmp_path / "codes.h5", X, y)
    (curve,) = learning_curves([path], tmp_path / "curve.json", C=1.0)
    assert [point.per_class for point in curve.points] == [1]
