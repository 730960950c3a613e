"""The whole chain on images with more than one label."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
from PIL import Image

from cnncodes import Classifier, CodeStore
from cnncodes.app.prediction import LabelPrediction
from cnncodes.models.metadata import HeadInfo
from cnncodes.models.session import open_session
from tests.helpers import (
    error_of,
    run_command,
    write_backbone,
    write_codes,
    write_pooling_backbone,
)
from tests.serve.servers import form_of, running

NAMES = ("blue", "green", "red")
N_IMAGES = 60
SIZE = 75  # of the network, whose codes are 5 × 5 × 3: more numbers than training images


def write_photos(folder: Path) -> tuple[list[str], np.ndarray]:
    """Write images that have a label for each colour that is bright in them; return both."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    paths, rows = [], []
    for number in range(N_IMAGES):
        bright = generator.random(3) < 0.4
        colour = np.where(bright, 190, 70) + generator.integers(-30, 30, 3)
        pixels = np.full((SIZE, SIZE, 3), colour, np.uint8)
        paths.append(f"{number:03}.png")
        Image.fromarray(pixels).save(folder / paths[-1])
        rows.append(bright[::-1])  # blue, green, red
    return paths, np.array(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, tables of their labels, and the files of the chain."""
    folder = tmp_path_factory.mktemp("several")
    paths, has = write_photos(folder / "photos")
    with (folder / "photos/joined.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        for path, row in zip(paths, has, strict=True):
            names = [name for name, each in zip(NAMES, row, strict=True) if each]
            writer.writerow([path, ";".join(names) or ";"])
    with (folder / "photos/columns.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label:red", "label:blue", "label:green"])
        for path, (blue, green, red) in zip(paths, has.astype(int), strict=True):
            writer.writerow([path, red, blue, green])
    write_pooling_backbone(folder / "bb.onnx")
    for name in ("joined", "columns"):
        table = folder / f"photos/{name}.csv"
        run_command("extract", folder / "bb.onnx", table, "-o", folder / f"{name}.h5")
    run_command("train", folder / "joined.h5", "-o", folder / "head.onnx")
    run_command("bundle", folder / "bb.onnx", folder / "head.onnx", "-o", folder / "app.onnx")
    return folder


def test_both_tables_are_the_same_labels(folder: Path) -> None:
    matrices = []
    for name in ("joined", "columns"):
        with CodeStore.open(folder / f"{name}.h5") as store:
            assert store.class_names == list(NAMES)
            assert (store.labels == -1).all()
            assert store.label_matrix is not None
            matrices.append(store.label_matrix)
    assert matrices[0].dtype == np.uint8
    assert matrices[0].sum() > N_IMAGES / 2
    np.testing.assert_array_equal(*matrices)


def test_extract_names_what_it_read(folder: Path, tmp_path: Path) -> None:
    table = folder / "photos/joined.csv"
    result = run_command("extract", folder / "bb.onnx", table, "-o", tmp_path / "codes.h5")
    assert "more than one label per image: 3 labels, 1." in result.stderr
    assert "joins several with ;" in result.stderr
    assert ": 60 images, 3 labels, codes 5 × 5 × 3" in result.stdout
    again = run_command("extract", folder / "bb.onnx", table, "-o", tmp_path / "codes.h5")
    assert "nothing to do" in again.stdout
    run_command("verify", tmp_path / "codes.h5", "--source", table)


def test_merge_and_page_call_them_labels(folder: Path, tmp_path: Path) -> None:
    header, *lines = (folder / "photos/columns.csv").read_text().splitlines(keepends=True)
    files = []
    for number in range(2):
        table = folder / f"photos/half-{number}.csv"
        table.write_text("".join([header, *lines[number::2]]))
        files.append(tmp_path / f"{number}.h5")
        run_command("extract", folder / "bb.onnx", table, "-o", files[-1])
    merged = run_command("merge", *files, "-o", tmp_path / "codes.h5").stdout
    assert ": 60 images of 2 files, 3 labels, codes 5 × 5 × 3\n" in merged
    with CodeStore.open(tmp_path / "codes.h5") as store:
        assert ": 60 images, 3 labels, codes" in repr(store)
    runtime = tmp_path / "onnxruntime-web"
    for name in ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"):
        (runtime / "dist").mkdir(parents=True, exist_ok=True)
        (runtime / "dist" / name).write_text("no browser reads it here")
    page = tmp_path / "page"
    made = run_command("page", folder / "app.onnx", "-o", page, "--runtime", runtime).stdout
    assert made.startswith(f"{page}: 3 labels, ")
    assert ": 3 labels (blue, green, red), " in repr(Classifier(folder / "app.onnx"))


def test_train_reports_average_precision_and_thresholds(folder: Path, tmp_path: Path) -> None:
    arguments = ("train", folder / "joined.h5", "-o", tmp_path / "head.onnx")
    text = run_command(*arguments).stdout
    assert "3 labels, of which an image may have several, logistic" in text
    assert "mean average precision 100.0%" in text
    assert "an image has a label from a probability of: blue " in text
    described = json.loads(run_command(*arguments, "--overwrite", "--json").stdout)
    assert described["labels"] == list(NAMES)
    assert described["test"]["mean_average_precision"] == 1
    assert described["test"]["micro_f1"] > 0.9
    assert len(described["fitted"]["C"]) == len(described["fitted"]["thresholds"]) == 3


def test_head_has_thresholds_and_a_format_of_its_own(folder: Path) -> None:
    _, metadata = open_session(folder / "head.onnx", "head")
    info = HeadInfo.from_metadata(metadata, folder / "head.onnx")
    assert info.has_several_labels
    assert metadata["cnncodes.format"] == "2"  # which earlier releases refuse
    assert all(0 < threshold < 1 for threshold in info.thresholds)


def test_evaluate_of_codes_images_and_app_agree(folder: Path, tmp_path: Path) -> None:
    head, app, table = folder / "head.onnx", folder / "app.onnx", folder / "photos/columns.csv"
    results = [
        json.loads(run_command("evaluate", *arguments, "--json").stdout)["figures"]
        for arguments in (
            (head, folder / "columns.h5"),
            (head, table, "--backbone", folder / "bb.onnx"),
            (app, table),
        )
    ]
    assert results[0]["n_images"] < N_IMAGES / 2  # those that trained are left out
    for result in results[1:]:
        assert result["mean_average_precision"] == results[0]["mean_average_precision"] == 1
        assert result["micro_f1"] == results[0]["micro_f1"] > 0.9
        assert [each["n_with"] for each in result["labels"]] == [
            each["n_with"] for each in results[0]["labels"]
        ]
    predictions = tmp_path / "predictions.csv"
    text = run_command("evaluate", app, table, "--predictions", predictions).stdout
    assert "mean average precision  100.0%" in text
    assert "labels, worst first" in text
    with predictions.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["path", "label", "predicted", *(f"probability:{each}" for each in NAMES)]
    assert sum(row[1] == row[2] for row in rows) >= 0.9 * len(rows)


def test_evaluate_writes_a_report(folder: Path, tmp_path: Path) -> None:
    run_command("evaluate", folder / "head.onnx", folder / "columns.h5", "--report", tmp_path)
    page = (tmp_path / "index.html").read_text("utf-8")
    assert "Mean average precision" in page
    assert "green" in page
    result = json.loads((tmp_path / "evaluation.json").read_text("utf-8"))
    assert result["figures"]["mean_average_precision"] == 1


def test_predict_prints_the_labels_above_their_thresholds(folder: Path, tmp_path: Path) -> None:
    for name, colour in (("two", (230, 40, 230)), ("none", (40, 40, 40))):
        pixels = np.full((SIZE, SIZE, 3), colour, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    files = [tmp_path / "two.png", tmp_path / "none.png"]
    lines = run_command("predict", folder / "app.onnx", *files).stdout.splitlines()
    assert "blue " in lines[0]
    assert "red " in lines[0]
    assert "green" not in lines[0]
    assert "no label (nearest: " in lines[1]
    text = run_command("predict", folder / "app.onnx", *files, "--format", "csv").stdout
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["present"] for row in rows] == ["1", "1", "0", "0", "0", "0"]
    described = json.loads(
        run_command("predict", folder / "app.onnx", *files, "--format", "json").stdout
    )
    assert [each["present"] for each in described[0]["predictions"]] == [True, True, False]
    two, none = Classifier(folder / "app.onnx").predict_files(files)
    assert sorted(two.labels) == ["blue", "red"]
    assert none.labels == []


def test_explain_is_of_the_logit_of_a_label(folder: Path) -> None:
    classifier = Classifier(folder / "app.onnx")
    image = folder / "photos/000.png"
    for label in NAMES:
        explanation = classifier.explain(image, label)
        logit = explanation.bias + explanation.contributions.sum()
        assert explanation.probability == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-5)


def test_info_and_verify_know_several_labels(folder: Path, tmp_path: Path) -> None:
    codes = run_command("info", folder / "joined.h5").stdout
    assert "labels per image" in codes
    for name in ("head", "app"):
        text = run_command("info", folder / f"{name}.onnx").stdout
        assert "an image may have any of them: blue from " in text
        assert "mean average precision 100.0%" in text
        run_command("verify", folder / f"{name}.onnx")
    assert "labels" in run_command("info", folder / "photos/columns.csv").stdout


def test_half_and_golden_apps_compare_labels(folder: Path, tmp_path: Path) -> None:
    app = tmp_path / "app.onnx"
    arguments = (folder / "bb.onnx", folder / "head.onnx", "-o", app, "--half")
    run_command("bundle", *arguments, "--golden", tmp_path / "golden")
    assert "labels are the same" in run_command("info", app).stdout
    golden = json.loads((tmp_path / "golden/golden.json").read_text("utf-8"))
    assert all({*image["has"]} <= {*NAMES} for image in golden["images"])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--estimator", "ridge"), "the estimator is logistic alone"),
        (("--estimator", "sgd"), "the estimator is logistic alone"),
        (("--normalize", "auto"), "--normalize auto is not for"),
        (("--normalize", "standardize"), "--normalize standardize is not for"),
        (("--normalize", "sqrt+standardize"), "--normalize sqrt+standardize is not for"),
        (("--train-fraction", "1"), "--train-fraction"),
        (("--unknown",), "--unknown SHARE is not for"),
        (("--classes", "classes.csv"), "--classes MAP is not for"),
        (("--from", "one.onnx"), "--from HEAD is not for"),
        (("--from", "head.onnx"), "is a head of several labels per image"),
    ],
)
def test_train_refuses_what_is_for_one_label(
    folder: Path, tmp_path: Path, options: tuple[str, ...], reason: str
) -> None:
    output = tmp_path / "new.onnx"
    (folder / "classes.csv").write_text("from,to\nred,warm\n")
    if "one.onnx" in options:
        codes = write_codes(tmp_path / "one.h5", np.eye(75), np.arange(75) % 2)
        kept = ("--C", 1, "--normalize", "standardize")  # choices that labels do not have
        run_command("train", codes, "-o", folder / "one.onnx", *kept, "--overwrite")
    files = [folder / each if (folder / each).is_file() else each for each in options]
    assert reason in error_of("train", folder / "joined.h5", "-o", output, *files)
    assert not output.exists()


@pytest.mark.parametrize("column", ["weight", "probability"])
def test_train_refuses_what_its_loss_would_leave_out(
    folder: Path, tmp_path: Path, column: str
) -> None:
    rows = (folder / "photos/joined.csv").read_text().splitlines()
    (folder / "photos/counted.csv").write_text(
        "\n".join([f"{rows[0]},{column}", *[f"{row},0.5" for row in rows[1:]]])
    )
    codes = tmp_path / "codes.h5"
    run_command("extract", folder / "bb.onnx", folder / "photos/counted.csv", "-o", codes)
    error = error_of("train", codes, "-o", tmp_path / "head.onnx")
    assert f"{codes}: has {'weights' if column == 'weight' else 'probabilities'}, which" in error


def test_other_commands_refuse_several_labels(folder: Path, tmp_path: Path) -> None:
    several = "more than one label"
    assert several in error_of("curve", folder / "joined.h5", "-o", tmp_path / "curve.json")
    assert several in error_of("convert", folder / "joined.h5", "-o", tmp_path / "codes.csv")


def test_models_and_images_of_different_kinds_are_refused(folder: Path, tmp_path: Path) -> None:
    table = folder / "photos/single.csv"
    with table.open("w") as file:
        file.write("path,label\n")
        file.writelines(f"{number:03}.png,{NAMES[number % 2]}\n" for number in range(20))
    run_command("extract", folder / "bb.onnx", table, "-o", tmp_path / "one.h5")
    run_command("train", tmp_path / "one.h5", "-o", tmp_path / "one.onnx")
    error = error_of("evaluate", folder / "head.onnx", tmp_path / "one.h5")
    assert "one label per image" in error
    error = error_of("evaluate", tmp_path / "one.onnx", folder / "joined.h5")
    assert "several labels per image" in error
    classes = tmp_path / "classes.csv"
    classes.write_text("from,to\nred,warm\n")
    error = error_of("evaluate", folder / "head.onnx", folder / "joined.h5", "--classes", classes)
    assert "is of several labels per image; leave out --classes MAP" in error


def test_refit_trains_on_all(folder: Path, tmp_path: Path) -> None:
    head = tmp_path / "head.onnx"
    text = run_command("train", folder / "joined.h5", "-o", head, "--refit").stdout
    assert f"trained on all {N_IMAGES} images" in text
    assert "no image left" in error_of("evaluate", head, folder / "joined.h5")


def test_views_of_images_train_and_are_averaged(folder: Path, tmp_path: Path) -> None:
    table, codes, head = (
        folder / "photos/columns.csv",
        tmp_path / "codes.h5",
        tmp_path / "head.onnx",
    )
    network = folder / "bb.onnx"
    run_command("extract", network, table, "-o", codes, "--augment", "hflip")
    text = run_command("train", codes, "-o", head, "--tta", "--normalize", "sqrt").stdout
    assert "images × 2 views (hflip) train" in text
    text = run_command("bundle", network, head, "-o", tmp_path / "app.onnx", "--tta").stdout
    assert ": 3 labels, " in text
    figures = [
        json.loads(run_command("evaluate", *arguments, "--json").stdout)["figures"]
        for arguments in (
            (head, codes, "--tta"),
            (head, table, "--backbone", network, "--tta"),
            (tmp_path / "app.onnx", table),
        )
    ]
    for each in figures[1:]:
        assert each["log_loss"] == pytest.approx(figures[0]["log_loss"], abs=1e-3)
        assert each["micro_f1"] == figures[0]["micro_f1"]


def test_codes_of_two_networks_go_side_by_side(folder: Path, tmp_path: Path) -> None:
    table, codes = folder / "photos/columns.csv", tmp_path / "other.h5"
    other = write_backbone(tmp_path / "other.onnx")
    error = error_of(
        "train",
        folder / "columns.h5",
        _one_label(folder, other, tmp_path),
        "-o",
        tmp_path / "x.onnx",
    )
    assert "have several labels, and not the same ones in all files" in error
    run_command("extract", other, table, "-o", codes)
    head = tmp_path / "head.onnx"
    run_command("train", folder / "columns.h5", codes, "-o", head)
    text = run_command("evaluate", head, codes, folder / "columns.h5").stdout
    assert "mean average precision  100.0%" in text


def _one_label(folder: Path, network: Path, output: Path) -> Path:
    table = folder / "photos/first.csv"
    table.write_text("path,label\n000.png,red\n001.png,blue\n")
    run_command("extract", network, table, "-o", output / "first.h5")
    return output / "first.h5"


def test_codes_files_of_one_label_have_nothing_of_several(folder: Path, tmp_path: Path) -> None:
    with h5py.File(_one_label(folder, folder / "bb.onnx", tmp_path)) as file:
        assert "label_matrix" not in file


@pytest.mark.parametrize(
    "matrix",
    [
        np.full((N_IMAGES, 3), 2, np.uint8),
        np.zeros((N_IMAGES, 2), np.uint8),
        np.zeros((N_IMAGES - 1, 3), np.uint8),
        np.zeros((N_IMAGES, 3), np.int8),
        np.zeros(N_IMAGES, np.uint8),
    ],
)
def test_codes_file_with_a_damaged_matrix_is_refused(
    folder: Path, tmp_path: Path, matrix: np.ndarray
) -> None:
    codes = tmp_path / "codes.h5"
    shutil.copy(folder / "joined.h5", codes)
    with h5py.File(codes, "r+") as file:
        del file["label_matrix"]
        file["label_matrix"] = matrix
    assert "extract it again" in error_of("train", codes, "-o", tmp_path / "head.onnx")


@pytest.mark.parametrize(
    "thresholds", ["[0.5]", "[0.5, 0.5, 2]", "0.5", '["a", 1, 1]', "[1, 1, NaN]"]
)
def test_head_with_foreign_thresholds_is_refused(
    folder: Path, tmp_path: Path, thresholds: str
) -> None:
    head = tmp_path / "head.onnx"
    model = onnx.load(folder / "head.onnx")
    for entry in model.metadata_props:
        if entry.key == "cnncodes.thresholds":
            entry.value = thresholds
    onnx.save(model, head)
    assert "threshold" in error_of("info", head)


def test_server_marks_the_labels_that_an_image_has(folder: Path) -> None:
    image = folder / "photos/000.png"
    wanted = {
        each.label: each.is_present
        for each in Classifier(folder / "app.onnx").predict(image)
        if isinstance(each, LabelPrediction)
    }
    with running(folder / "app.onnx") as server:
        answer = server.client.post("/api/predict?top=1", files=form_of(image.read_bytes())).json()
    predictions = answer["results"][0]["predictions"]
    assert len(predictions) == max(1, sum(wanted.values()))
    assert {each["label"]: each["present"] for each in predictions}.items() <= wanted.items()
