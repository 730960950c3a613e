"""The score of "none of these", from training to prediction."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from cnncodes import Classifier, CodeStore
from cnncodes.head.train import train_head
from cnncodes.head.unknown import auroc
from tests.helpers import (
    BACKBONE_INFO,
    error_of,
    run_command,
    train_json,
    write_backbone,
    write_codes,
)

COLOURS = {"green": (40, 200, 40), "red": (200, 40, 40), "none": (30, 30, 220)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A backbone, images of two colours, and of a third that is of no class."""
    folder = tmp_path_factory.mktemp("unknown")
    generator = np.random.default_rng(0)
    for label, colour in COLOURS.items():
        (folder / "images" / label).mkdir(parents=True)
        for number in range(30):
            pixels = np.clip(generator.normal(colour, 12, (4, 4, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "images" / label / f"{number}.png")
    (folder / "images" / "none").rename(folder / "foreign")
    write_backbone(folder / "b.onnx", pooled=False)
    run_command("extract", folder / "b.onnx", folder / "images", "-o", folder / "c.h5")
    (folder / "of").mkdir()
    (folder / "foreign").rename(folder / "of" / "blue")
    run_command("extract", folder / "b.onnx", folder / "of", "-o", folder / "f.h5")
    run_command("train", folder / "c.h5", "-o", folder / "h.onnx", "--unknown", "0.1")
    run_command(
        "bundle",
        folder / "b.onnx",
        folder / "h.onnx",
        "-o",
        folder / "a.onnx",
        "--golden",
        folder / "golden",
    )
    return folder


def session_of(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def images_of(folder):
    return folder / "of" / "blue" / "3.png", folder / "images" / "red" / "3.png"


def test_predict_says_none_of_these(folder):
    foreign, known = images_of(folder)
    lines = run_command("predict", folder / "a.onnx", foreign, known).stdout.splitlines()
    assert "none of these (nearest: " in lines[0]
    assert "none of these" not in lines[1]
    assert "red" in lines[1]


def test_csv_and_json_have_the_score(folder):
    foreign, known = images_of(folder)
    arguments = ("predict", folder / "a.onnx", foreign, known, "--format")
    rows = list(csv.DictReader(run_command(*arguments, "csv").stdout.splitlines()))
    images = json.loads(run_command(*arguments, "json").stdout)
    assert [float(row["unknown"]) >= 0.5 for row in rows] == [True, False]
    assert [image["is_known"] for image in images] == [False, True]
    assert [image["unknown"] for image in images] == pytest.approx(
        [float(row["unknown"]) for row in rows], abs=1e-6
    )
    assert set(images[0]["predictions"][0]) == {"label", "probability"}


def test_classifier_and_golden_images_have_it(folder):
    classifier = Classifier(folder / "a.onnx")
    scores = [classifier.predict(path)[0].unknown for path in images_of(folder)]
    assert [classifier.predict(path, 1)[0].is_known for path in images_of(folder)] == [False, True]
    assert [image.unknown for image in classifier.predict_files(images_of(folder))] == scores
    golden = json.loads((folder / "golden" / "golden.json").read_text("utf-8"))
    for image in golden["images"]:
        (prediction, *_) = classifier.predict(folder / "golden" / image["path"])
        assert prediction.unknown == pytest.approx(image["unknown"], abs=1e-6)


def test_app_keeps_the_score_in_every_form(folder, tmp_path):
    pixels = np.stack([np.asarray(Image.open(path)) for path in images_of(folder)])
    (wanted,) = session_of(folder / "a.onnx").run(["unknown"], {"images": pixels})
    for options in (["--half"], ["--winograd"], ["--batch", "2"]):
        app = tmp_path / "app.onnx"
        run_command(
            "bundle", folder / "b.onnx", folder / "h.onnx", "-o", app, "--overwrite", *options
        )
        (actual,) = session_of(app).run(["unknown"], {"images": pixels})
        assert actual == pytest.approx(wanted, abs=1e-2)
        names = [each.name for each in onnx.load(str(app)).graph.output]
        assert (names[0], names[-1]) == ("probabilities", "unknown")


@pytest.mark.parametrize("data", ["f.h5", "of"])
def test_evaluate_measures_it_on_images_of_no_class(folder, data):
    """A head on codes, an app on images."""
    model, known = ("h.onnx", "c.h5") if data == "f.h5" else ("a.onnx", "images")
    arguments = ("evaluate", folder / model, folder / known)
    result = json.loads(run_command(*arguments, "--unknown", folder / data, "--json").stdout)[
        "unknown"
    ]
    assert result["auroc"] == result["refused"] == 1
    assert result["n_images"] == 30
    assert [each["label"] for each in result["classes"]] == ["blue"]
    trained = json.loads(run_command("info", folder / "h.onnx", "--json").stdout)["training"]
    assert result["refused_known"] == pytest.approx(trained["unknown"]["test_refused"])
    text = run_command(*arguments, "--unknown", folder / data).stdout
    assert "blue  AUROC 1.000  refused 100.0%  images 30" in text
    assert "of these images are refused" in run_command(*arguments).stdout


def test_report_shows_it(folder, tmp_path):
    run_command(
        "evaluate",
        folder / "h.onnx",
        folder / "c.h5",
        "--unknown",
        folder / "f.h5",
        "--report",
        tmp_path / "report",
    )
    assert "Images of none of the classes" in (tmp_path / "report" / "index.html").read_text(
        "utf-8"
    )


def test_images_of_the_classes_are_not_of_no_class(folder):
    message = error_of(
        "evaluate",
        folder / "h.onnx",
        folder / "c.h5",
        "--unknown",
        folder / "images",
        "--backbone",
        folder / "b.onnx",
    )
    assert "has no image of no class" in message
    assert "green, red" in message


def draws(n, offset=0.0, *, shape=(8,), seed=0):
    """Codes around one of two points, and `offset` in a direction in which they do not differ."""
    generator = np.random.default_rng(seed)
    y = np.arange(n) % 2
    X = generator.normal(0, 0.3, (n, *shape)).astype(np.float32)
    X[..., 0] += 5
    X[..., 1] += y.reshape(-1, *[1] * (len(shape) - 1))
    X[..., 2] += offset
    return X, y


@pytest.mark.parametrize("estimator", ["logistic", "sgd"])
@pytest.mark.parametrize("shape", [(8,), (2, 3, 8)], ids=str)
def test_as_many_known_images_are_refused_as_asked_for(tmp_path, run, estimator, shape):
    codes, head = write_codes(tmp_path / "c.h5", *draws(1200, shape=shape)), tmp_path / "h.onnx"
    options = ("--estimator", estimator, *["--C", 1] * (estimator == "logistic"))
    result = train_json(run, codes, "-o", head, "--unknown", *options)
    assert result["unknown"]["share"] == 0.05
    assert 0.02 < result["unknown"]["test_refused"] < 0.09
    session = session_of(head)
    for offset, refused in ((0.0, (0.02, 0.09)), (9.0, (1, 1))):
        X, _ = draws(1000, offset, shape=shape, seed=1)
        (scores,) = session.run(["unknown"], {"codes": X})
        assert scores.shape == (1000,)
        assert refused[0] <= (scores >= 0.5).mean() <= refused[1]
        assert (scores.min(), scores.max()) >= (0, 0)
        assert scores.max() <= 1
    with CodeStore.open(codes) as store:
        (stored,) = session.run(["unknown"], {"codes": store.codes[:].astype(np.float32)})
    assert np.median(stored) == pytest.approx(0.1, abs=0.03)
    table = tmp_path / "predictions.csv"
    words = ("evaluate", head, codes, "--include-training", "--predictions", table, "--json")
    figures = json.loads(run(*words).stdout)
    rows = csv.DictReader(table.read_text("utf-8").splitlines())
    written = [float(row["unknown"]) for row in rows]
    assert np.mean(np.array(written) >= 0.5) == figures["unknown"]["refused_known"]


def test_class_of_no_class_does_not_train_and_is_measured(tmp_path, run):
    X, y = draws(200)
    Z, _ = draws(40, 9.0, seed=2)
    codes = write_codes(tmp_path / "c.h5", np.concatenate([X, Z]), np.r_[y, np.full(40, 2)])
    result = train_json(run, codes, "-o", tmp_path / "h.onnx", "--unknown", "--none", "02")
    assert result["labels"] == ["00", "01"]
    assert result["train"]["n_images"] + result["test"]["n_images"] == 200
    described = result["unknown"]
    assert (described["none"], described["none_images"], described["none_refused"]) == ("02", 40, 1)
    assert described["auroc"] == 1
    assert "of 40 images of 02 (AUROC 1.000)" in run("info", tmp_path / "h.onnx").stdout
    message = error_of("train", codes, "-o", tmp_path / "x.onnx", "--unknown", "--none", "zebra")
    assert "zebra" in message
    assert "00, 01" in message


def test_without_it_nothing_is_added(tmp_path, run):
    codes, head = write_codes(tmp_path / "c.h5", *draws(60)), tmp_path / "h.onnx"
    assert "unknown" not in train_json(run, codes, "-o", head)
    assert [each.name for each in onnx.load(str(head)).graph.output] == ["probabilities"]
    assert "none of these" not in run("evaluate", head, codes, "--include-training").stdout
    message = error_of("evaluate", head, codes, "--unknown", codes)
    assert message.endswith("make one with: cnncodes train --unknown")


@pytest.mark.parametrize("estimator", ["logistic", "sgd"])
def test_same_head_but_for_the_score(tmp_path, estimator):
    """It does not change the answers, and the same codes give the same file."""
    codes = write_codes(tmp_path / "c.h5", *draws(60))
    for name, share in (("without", None), ("with", 0.05), ("again", 0.05)):
        train_head(codes, tmp_path / f"{name}.onnx", estimator=estimator, unknown=share)
    X, _ = draws(20, seed=3)
    answers = [
        session_of(tmp_path / f"{name}.onnx").run(["probabilities"], {"codes": X})[0]
        for name in ("without", "with")
    ]
    assert (answers[0] == answers[1]).all()
    assert (tmp_path / "with.onnx").read_bytes() == (tmp_path / "again.onnx").read_bytes()


def test_too_few_or_equal_images_are_refused(tmp_path):
    few = write_codes(tmp_path / "few.h5", *draws(16))
    message = error_of("train", few, "-o", tmp_path / "h.onnx", "--unknown")
    assert "a refused share of 0.05 needs 19 training images or more" in message
    X, y = draws(60)
    same = write_codes(tmp_path / "same.h5", np.ones_like(X), y)
    message = error_of("train", same, "-o", tmp_path / "h.onnx", "--unknown")
    assert "do not differ enough" in message
    run_command("train", few, "-o", tmp_path / "h.onnx", "--none", "00", exit_code=2)
    assert not (tmp_path / "h.onnx").exists()


@pytest.mark.parametrize("factor", [1e-30, 1e-3, 1e18])
def test_size_of_the_codes_does_not_matter(tmp_path, factor):
    X, y = draws(200)
    scores = []
    for number, each in enumerate((1, factor)):
        codes = write_codes(tmp_path / f"{number}.h5", (X * each).astype(np.float32), y)
        train_head(codes, tmp_path / f"{number}.onnx", C=1, unknown=0.1)
        session = session_of(tmp_path / f"{number}.onnx")
        scores.append(session.run(["unknown"], {"codes": (X * each).astype(np.float32)})[0])
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


def test_auroc_counts_pairs():
    known, foreign = np.array([0.1, 0.2, 0.5]), np.array([0.5, 0.15])
    pairs = np.sign(foreign[:, None] - known) / 2 + 0.5
    assert auroc(known, foreign) == pytest.approx(pairs.mean())
    assert auroc(known, np.empty(0)) is None


def test_with_views_it_is_the_score_of_the_image_itself(folder, tmp_path):
    codes, head, app = tmp_path / "c.h5", tmp_path / "h.onnx", tmp_path / "a.onnx"
    for images, output in (("images", codes), ("of", tmp_path / "f.h5")):
        words = ("extract", folder / "b.onnx", folder / images, "-o", output)
        run_command(*words, "--augment", "hflip")
    run_command("train", codes, "-o", head, "--unknown", "0.1", "--tta")
    run_command("bundle", folder / "b.onnx", head, "-o", app, "--tta")
    words = ("evaluate", head, codes, "--tta", "--json", "--unknown")
    with_views = json.loads(run_command(*words, tmp_path / "f.h5").stdout)["unknown"]
    assert with_views == json.loads(run_command(*words, folder / "f.h5").stdout)["unknown"] | {
        "path": str(tmp_path / "f.h5")
    }
    assert with_views["n_images"] == 30
    images = [Image.open(path) for path in images_of(folder)]
    pixels = np.stack([np.asarray(image) for image in images])
    (scores,) = session_of(app).run(["unknown"], {"images": pixels})
    with CodeStore.open(codes) as store:
        rows = [row for row, path in enumerate(store.paths) if path == "red/3.png"][:1]
        stored = store.codes[rows[0]][None].astype(np.float32)
    (score,) = session_of(head).run(["unknown"], {"codes": stored})
    assert scores[1] == pytest.approx(score[0], abs=1e-3)
    assert scores[0] > 0.5 > scores[1]


def test_of_two_networks_side_by_side(folder, tmp_path):
    network, codes, head = tmp_path / "b.onnx", tmp_path / "c.h5", tmp_path / "h.onnx"
    other = replace(BACKBONE_INFO, backbone="other").to_metadata()
    write_backbone(network, factor=3.0, metadata=other)
    run_command("extract", network, folder / "images", "-o", codes)
    run_command("train", folder / "c.h5", codes, "-o", head, "--unknown", "0.1")
    app = tmp_path / "a.onnx"
    run_command("bundle", folder / "b.onnx", network, head, "-o", app)
    foreign, known = images_of(folder)
    classifier = Classifier(app)
    assert classifier.predict(foreign)[0].unknown > 0.5 > classifier.predict(known)[0].unknown


def test_codes_behind_the_option_are_not_its_share(tmp_path):
    result = run_command(
        *("train", "-o", tmp_path / "head.onnx", "--unknown", "codes.h5"), exit_code=2
    )
    assert (
        "'codes.h5' is no number; put --unknown at the end of the line, or write --unknown=0.05"
        in " ".join(result.stderr.split())
    )
