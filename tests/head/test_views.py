"""Codes with views of each image: train, evaluate, curve, overlap, bundle and predict."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from scipy.special import log_softmax, softmax
from sklearn.linear_model import Ridge

from cnncodes import Classifier, CodeStore
from cnncodes.errors import FileFormatError
from cnncodes.head.logistic.solve import stratified_folds
from cnncodes.head.split import split_by_class
from cnncodes.head.temperature import OutOfFold
from cnncodes.images.decoding import decode_image
from tests.helpers import BACKBONE_SIZE, encode_image, error_of, run_command, write_backbone

N_EACH = 12
V = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three classes, each brighter in another place; codes with and without views."""
    folder = tmp_path_factory.mktemp("views")
    rng = np.random.default_rng(0)
    for label in range(3):
        for number in range(N_EACH):
            pixels = rng.integers(0, 200, (BACKBONE_SIZE, BACKBONE_SIZE, 3)).astype(np.uint8)
            pixels[label, : label + 1] += 55
            path = folder / "photos" / f"class{label}" / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_image(Image.fromarray(pixels), "PNG"))
    write_uneven_backbone(folder / "backbone.onnx")
    for augment in ("none", "hvflip", "d4"):
        command = (
            "extract",
            folder / "backbone.onnx",
            folder / "photos",
            "--augment",
            augment,
            "--dtype",
            "float32",
        )
        run_command(*command, "-o", folder / f"{augment}.h5")
    return folder


def write_uneven_backbone(path: Path) -> None:
    """Write a network that sees parts of an image unequally.

    On codes that turn with the image, heads trained on all views have equal answers for them.
    """
    model = onnx.load(write_backbone(path, pooled=False))
    factors = np.random.default_rng(5).uniform(0.1, 2, (BACKBONE_SIZE, BACKBONE_SIZE, 3))
    (old,) = model.graph.initializer
    old.CopyFrom(onnx.numpy_helper.from_array(factors.astype(np.float32), old.name))
    onnx.save(model, path)


def train(folder: Path, augment: str, output: Path, *options: object) -> dict:
    command = ("train", folder / f"{augment}.h5", "-o", output, *options, "--json")
    return json.loads(run_command(*command).stdout)


def in_onnxruntime(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {name: values})[0]


@pytest.mark.parametrize("estimator", ["logistic", "sgd"])
def test_splits_images_as_without_views(folder: Path, tmp_path: Path, estimator: str) -> None:
    heads = {}
    for augment in ("none", "d4"):
        heads[augment] = tmp_path / f"{augment}.onnx"
        options = ("--estimator", estimator, "--per-class", 7, "--seed", 3)
        result = train(folder, augment, heads[augment], *options)
        assert (result["train"]["n_images"], result["test"]["n_images"]) == (21, 12)
    evaluated = [
        json.loads(run_command("evaluate", head, folder / "none.h5", "--json").stdout)
        for head in heads.values()
    ]
    assert len({each["data"]["images_sha256"] for each in evaluated}) == 1
    assert "tta" not in evaluated[1]["data"]
    assert heads["none"].read_bytes() != heads["d4"].read_bytes()


def test_all_views_train_and_the_image_is_tested(folder: Path, tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    result = train(folder, "d4", tmp_path / "head.onnx", "--C", 1)
    assert any(
        "24 images × 8 views (d4) train; the scores are of the images them" in n
        for n in result["notes"]
    )
    with CodeStore.open(folder / "d4.h5") as store:
        X, y = store.codes[:].astype(np.float64).reshape(len(store), -1), store.labels
    parts = split_by_class(y[::V], 0.7)
    rows = (parts.train[:, None] * V + np.arange(V)).ravel()
    mean = X[rows].mean(axis=0)
    scale = np.sqrt(((X[rows] - mean) ** 2).sum(axis=1).mean())
    model = LogisticRegression(C=1, tol=1e-10, max_iter=10_000)
    model.fit((X[rows] - mean) / scale, y[rows])
    expected = model.predict_proba((X - mean) / scale)
    computed = in_onnxruntime(
        tmp_path / "head.onnx", "codes", X.astype(np.float32).reshape(-1, 4, 4, 3)
    )
    np.testing.assert_allclose(computed, expected, atol=2e-4)
    own = parts.test * V
    right = computed[own].argmax(axis=1) == y[own]
    assert result["test"]["accuracy"] == pytest.approx(right.mean())


@pytest.mark.parametrize("estimator", ["logistic", "ridge"])
def test_refit_trains_on_all_views_of_all_images(
    folder: Path, tmp_path: Path, estimator: str
) -> None:
    from sklearn.linear_model import LogisticRegression, Ridge

    head = tmp_path / "head.onnx"
    options = ("--C", 1, "--estimator", estimator, "--refit", "--unknown", 0.1)
    result = train(folder, "d4", head, *options)
    assert result["unknown"]["n_images"] == 3 * N_EACH
    before = train(folder, "d4", tmp_path / "before.onnx", *options[:4], "--unknown", 0.1)
    assert result["test"] == before["test"]
    assert result["unknown"]["test_refused"] == before["unknown"]["test_refused"]
    with CodeStore.open(folder / "d4.h5") as store:
        X, y = store.codes[:].astype(np.float64).reshape(len(store), -1), store.labels
    mean = X.mean(axis=0)
    points = (X - mean) / np.sqrt(((X - mean) ** 2).sum(axis=1).mean())
    if estimator == "ridge":
        model = Ridge(alpha=1).fit(points, np.eye(3)[y])
        logits = model.predict(points) / result["fitted"]["temperature"]
    else:
        model = LogisticRegression(C=1, tol=1e-10, max_iter=10_000).fit(points, y)
        logits = model.decision_function(points)
    computed = in_onnxruntime(head, "codes", X.astype(np.float32).reshape(-1, 4, 4, 3))
    atol = 1e-5 if estimator == "ridge" else 1e-4  # the logistic fit stops at its tolerance
    np.testing.assert_allclose(computed, softmax(logits, axis=1), atol=atol)


@pytest.mark.parametrize(
    ("estimator", "augment", "n_views"),
    [("logistic", "d4", 8), ("knn", "d4", 8), ("logistic", "hvflip", 4)],
)
def test_tta_is_the_mean_of_logits_everywhere(
    folder: Path, tmp_path: Path, estimator: str, augment: str, n_views: int
) -> None:
    codes_file = folder / f"{augment}.h5"
    head, app = tmp_path / "head.onnx", tmp_path / "app.onnx"
    result = train(folder, augment, head, "--tta", "--estimator", estimator)
    evaluated = json.loads(run_command("evaluate", head, codes_file, "--tta", "--json").stdout)
    assert evaluated["data"]["tta"] == {"augment": augment, "views": n_views}
    options = ("--tta", "--report", tmp_path / "report")
    stdout = run_command("evaluate", head, codes_file, *options).stdout
    assert f"  averaged over {n_views} views of each image ({augment})\n" in stdout
    assert f"{n_views} views of each image ({augment})" in (
        tmp_path / "report" / "index.html"
    ).read_text("utf-8")
    assert evaluated["figures"]["accuracy"] == pytest.approx(result["test"]["accuracy"])
    assert evaluated["figures"]["log_loss"] == pytest.approx(result["test"]["loss"], rel=1e-3)
    run_command("bundle", folder / "backbone.onnx", head, "-o", app, "--tta")
    for command in (
        ("evaluate", head, folder / "photos", "--backbone", folder / "backbone.onnx", "--tta"),
        ("evaluate", app, folder / "photos"),
    ):
        again = json.loads(run_command(*command, "--json").stdout)
        assert again["figures"]["log_loss"] == pytest.approx(evaluated["figures"]["log_loss"], 1e-5)
        assert again["data"]["tta"] == evaluated["data"]["tta"]
    with CodeStore.open(codes_file) as store:
        codes, paths = store.codes[:].astype(np.float32), store.of_images(store.paths)
    by_view = in_onnxruntime(head, "codes", codes).clip(
        1e-38 if estimator == "logistic" else 2**-23
    )
    expected = softmax(
        log_softmax(np.log(by_view), axis=1).reshape(-1, n_views, 3).mean(axis=1), axis=1
    )
    images = np.stack(
        [decode_image((folder / "photos" / each).read_bytes(), BACKBONE_SIZE) for each in paths]
    )
    np.testing.assert_allclose(Classifier(app).predict_proba(images), expected, atol=1e-5)
    np.testing.assert_allclose(Classifier(app).predict_proba(images[:1]), expected[:1], atol=1e-5)
    assert np.abs(expected - by_view[::n_views]).max() > 0.01


def test_app_with_views_is_checked_and_not_explained(folder: Path, tmp_path: Path) -> None:
    head, app = tmp_path / "head.onnx", tmp_path / "app.onnx"
    train(folder, "d4", head)
    options = ("--tta", "--batch", 2, "--golden", tmp_path / "golden")
    stdout = run_command("bundle", folder / "backbone.onnx", head, "-o", app, "--tta").stdout
    assert "the accuracy in its card is that of single images" in stdout
    assert "nothing is wrong" in run_command("verify", app).stdout
    assert "tta" in run_command("info", app).stdout
    image = next((folder / "photos" / "class0").iterdir())
    refused = error_of("predict", app, image, "--explain", tmp_path / "why")
    assert refused.endswith("are not explained; cnncodes bundle without --tta makes one whose are")
    with pytest.raises(FileFormatError, match="averages mirrored views"):
        Classifier(app).explain(image)
    fixed = tmp_path / "fixed.onnx"
    run_command("bundle", folder / "backbone.onnx", head, "-o", fixed, *options)
    pixels = np.random.default_rng(1).integers(0, 256, (2, 4, 4, 3), np.uint8)
    np.testing.assert_array_equal(
        in_onnxruntime(fixed, "images", pixels), in_onnxruntime(app, "images", pixels)
    )


def test_without_views_tta_is_refused(folder: Path, tmp_path: Path) -> None:
    head, none = tmp_path / "head.onnx", folder / "none.h5"
    said = error_of("train", none, "-o", head, "--tta")
    assert "its images have no views to average; leave out --tta, or extract them" in said
    run_command("train", none, "-o", head)
    assert "have no views to average" in error_of("evaluate", head, none, "--tta")
    backbone = folder / "backbone.onnx"
    for command in (
        ("bundle", backbone, head, "-o", tmp_path / "app.onnx", "--tta"),
        ("evaluate", head, folder / "photos", "--backbone", backbone, "--tta"),
    ):
        assert "was not trained on views of the images" in error_of(*command)
    run_command("bundle", backbone, head, "-o", tmp_path / "app.onnx")
    said = error_of("evaluate", tmp_path / "app.onnx", folder / "photos", "--tta")
    assert "is an app that takes one view of an image; leave out --tta, or bundle" in said


@pytest.mark.parametrize("options", [(), ("--per-class", "2")])  # on codes; by the Gram matrix
def test_curve_counts_images(folder: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    codes = [folder / f"{augment}.h5" for augment in ("none", "d4")]
    command = ("curve", *codes, "-o", tmp_path / "curve.json", *options, "--seeds", 1, "--json")
    without, with_views = json.loads(run_command(*command).stdout)["curves"]
    assert without["n_test"] == with_views["n_test"] == 12
    assert without["images_sha256"] == with_views["images_sha256"]
    sizes = [(each["per_class"], each["n_train"]) for each in without["points"]]
    assert sizes == [(each["per_class"], each["n_train"]) for each in with_views["points"]]
    head = train(folder, "d4", tmp_path / "head.onnx", *options)
    assert with_views["points"][-1]["accuracies"] == [pytest.approx(head["test"]["accuracy"])]


@pytest.mark.parametrize("options", [(), ("--tta",)])
def test_penalty_and_temperature_are_chosen_on_what_is_tested(
    folder: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    fitted = train(
        *(folder, "d4", tmp_path / "head.onnx", "--estimator", "ridge"),
        *("--train-fraction", 1, *options),
    )["fitted"]
    with CodeStore.open(folder / "d4.h5") as store:
        X, y = store.codes[:].reshape(len(store), -1).astype(np.float64), store.labels
    X -= X.mean(axis=0)
    X /= np.sqrt(np.square(X).sum(axis=1).mean())
    groups, n_averaged = np.repeat(np.arange(len(y) // V), V), V if options else 1

    def out_of_fold(C: float, folds: list[np.ndarray]) -> OutOfFold:
        logits = np.zeros((len(y), 3))
        for held in folds:
            others = np.setdiff1d(np.arange(len(y)), held)
            logits[held] = Ridge(alpha=1 / C).fit(X[others], np.eye(3)[y[others]]).predict(X[held])
        means = logits.reshape(-1, n_averaged, 3).mean(axis=1)
        return OutOfFold(means, y[::n_averaged].astype(np.intp))

    folds = [held for _, held in stratified_folds(y, 5, 0, groups)]
    for C, loss in fitted["C_scores"].items():
        held_out = out_of_fold(float(C), folds)
        assert held_out.loss(held_out.temperature()) == pytest.approx(loss, rel=1e-4)
    single = out_of_fold(fitted["C"], np.split(np.arange(len(y)), len(y) // V))
    assert single.temperature() == pytest.approx(fitted["temperature"], rel=1e-3)


def test_views_are_no_copies(folder: Path, tmp_path: Path) -> None:
    for pair in ([folder / "d4.h5"], [folder / "d4.h5", folder / "none.h5"]):
        result = json.loads(
            run_command("overlap", *pair, "-o", tmp_path / f"{len(pair)}", "--json").stdout
        )
        n_same = sum(each["kind"] == "same" for each in result["pairs"])
        assert n_same == (0 if len(pair) == 1 else 3 * N_EACH)
    result = train(folder, "d4", tmp_path / "head.onnx")
    assert not any("cop" in note for note in result["notes"])


def test_groups_are_of_images(folder: Path, tmp_path: Path) -> None:
    command = ("extract", folder / "backbone.onnx", folder / "photos", "--augment", "hflip")
    run_command(*command, "-o", tmp_path / "grouped.h5")
    with h5py.File(tmp_path / "grouped.h5") as file:
        assert "groups" not in file
    lines = ["path,label,group"]
    for path in sorted((folder / "photos").rglob("*.png")):
        lines.append(f"{path},{path.parent.name},{path.parent.name}{int(path.stem) // 3}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    grouped = tmp_path / "groups.h5"
    options = ("--augment", "hflip", "-o", grouped)
    run_command("extract", folder / "backbone.onnx", tmp_path / "list.csv", *options)
    command = ("train", grouped, "-o", tmp_path / "head.onnx", "--json")
    result = json.loads(run_command(*command).stdout)
    assert result["train"]["n_images"] + result["test"]["n_images"] == 3 * N_EACH
    assert "the images are of 12 groups, which stay on one side of the split" in result["notes"]
