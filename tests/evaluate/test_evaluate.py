from __future__ import annotations

import csv
import hashlib
import json
import shutil
from dataclasses import replace

import h5py
import numpy as np
import onnx
import pytest
from onnx import helper

from cnncodes import CodeStore
from cnncodes.evaluate.evaluate import evaluate
from cnncodes.head.split import split_by_class
from tests.helpers import (
    EVALUATED_BACKBONE,
    create_journal,
    digest_of,
    error_of,
    logits_of,
    write_head,
    write_labelled_codes,
)


def evaluate_json(run, *arguments):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(run("evaluate", *arguments, "--json").stdout, parse_constant=refuse)


def test_test_part_of_the_training_is_what_counts(codes, head, run):
    result = evaluate_json(run, head, codes)
    trained = json.loads(run("info", head, "--json").stdout)["training"]
    assert result["figures"]["n_images"] == trained["test"]["n_images"]
    assert result["figures"]["accuracy"] == pytest.approx(trained["test"]["accuracy"])
    assert result["figures"]["log_loss"] == pytest.approx(trained["test"]["loss"], rel=1e-4)
    assert result["notes"] == [
        f"not evaluated: {trained['train']['n_images']} images that trained the model"
    ]
    assert result["model"]["kind"] == "head"
    assert result["model"]["sha256"] == hashlib.sha256(head.read_bytes()).hexdigest()
    assert result["model"]["n_training_images"] == trained["train"]["n_images"]
    with CodeStore.open(codes) as store:
        test = split_by_class(store.labels, 0.7).test
        digests = sorted(store.digests[row] for row in test)
        wrong = {each["path"] for each in result["mistakes"]}
        assert wrong <= {store.paths[row] for row in test}
    digest = hashlib.sha256("".join(digests).encode()).hexdigest()
    assert result["data"]["images_sha256"] == digest


def test_training_images_count_where_asked_for(codes, head, run):
    result = evaluate_json(run, head, codes, "--include-training")
    assert result["figures"]["n_images"] == 120
    assert result["data"]["include_training"] is True
    (note,) = result["notes"]
    assert note.startswith("counted too: ")
    assert note.endswith(" images that trained the model; this flatters it")


def test_app_and_head_with_backbone_give_what_the_head_gives_on_codes(
    app, head, codes, small_backbone, photos, run
):
    by_head = evaluate_json(run, head, codes)
    by_app = evaluate_json(run, app, photos)
    by_both = evaluate_json(run, head, photos, "--backbone", small_backbone)
    assert by_app["model"]["kind"] == "app"
    assert by_app["figures"]["confusion_matrix"] == by_both["figures"]["confusion_matrix"]
    assert by_app["notes"] == by_both["notes"] == by_head["notes"]
    assert by_app["data"]["images_sha256"] == by_head["data"]["images_sha256"]
    for name in ("accuracy", "log_loss", "calibration_error"):  # codes are stored in 16 bits
        assert by_app["figures"][name] == pytest.approx(by_head["figures"][name], abs=0.03)


def test_training_images_are_known_wherever_they_lie(app, photos, tmp_path, run):
    paths = sorted(photos.rglob("*.png"))
    for number, path in enumerate(paths):
        shutil.copy(path, tmp_path / f"{number}.png")
    rows = [f"{number}.png,{path.parent.name}\n" for number, path in enumerate(paths)]
    (tmp_path / "all.csv").write_text("".join(["path,label\n", *rows]))
    moved, before = (evaluate_json(run, app, data) for data in (tmp_path / "all.csv", photos))
    assert moved["figures"] == before["figures"]
    assert moved["notes"] == before["notes"]


def test_figures_and_mistakes_of_a_small_case(small, run):
    result = evaluate_json(run, *small)
    assert result["figures"]["n_images"] == 4
    assert result["figures"]["accuracy"] == 0.75
    assert result["figures"]["confusion_matrix"] == [[1, 0, 0], [0, 1, 0], [1, 0, 1]]
    (mistake,) = result["mistakes"]
    assert mistake["probability"] == pytest.approx(np.exp(3) / (np.exp(3) + 2), rel=1e-5)
    del mistake["probability"]
    assert mistake == {"path": "5.png", "digest": digest_of(5), "label": "c", "predicted": "a"}


def test_csv_of_predictions(small, tmp_path, run):
    file = tmp_path / "predictions.csv"
    printed = run("evaluate", *small, "--predictions", file).stdout
    assert printed.endswith(f"{file}: the prediction for each image\n")
    with file.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    result = evaluate(*small)
    assert [each["path"] for each in rows] == [each.path for each in result.predictions]
    n_right = sum(each["label"] == each["predicted"] for each in rows)
    assert n_right / len(rows) == result.metrics.accuracy
    (mistake,) = result.mistakes
    (row,) = (each for each in rows if each["label"] != each["predicted"])
    assert row == {
        "path": mistake.path,
        "label": mistake.label,
        "predicted": mistake.predicted,
        "probability": f"{mistake.probability:.6f}",
    }
    before = file.read_bytes()
    assert f"{file}: exists already" in error_of("evaluate", *small, "--predictions", file)
    assert file.read_bytes() == before
    codes = small[1]
    refused = error_of("evaluate", *small, "--predictions", codes, "--overwrite")
    assert str(codes) in refused


def test_surest_mistakes_come_first_and_are_no_more_than_24(tmp_path):
    head = write_head(tmp_path / "head.onnx", ["a", "b"])
    sizes = np.random.default_rng(0).permutation(40) / 10
    codes = np.stack([sizes, np.zeros(40)], axis=1)
    mistakes = evaluate(
        head, write_labelled_codes(tmp_path / "codes.h5", codes, [1] * 40, ["a", "b"])
    ).mistakes
    expected = np.sort(1 / (1 + np.exp(-sizes)))[::-1][:24]
    assert [each.probability for each in mistakes] == pytest.approx(expected, rel=1e-5)


def test_classes_are_matched_by_name(tmp_path, run):
    head = write_head(tmp_path / "head.onnx", ["a", "b", "c"])
    codes = write_labelled_codes(
        tmp_path / "codes.h5", logits_of([2, 0, 0], 3), [1, 0, 0], ["a", "c"]
    )
    result = evaluate_json(run, head, codes)
    assert result["figures"]["confusion_matrix"] == [[2, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert result["notes"] == ["no image of 1 class of the model: b"]


def test_notes_report_all_that_does_not_count(tmp_path, run):
    head = write_head(tmp_path / "head.onnx", list("abcdef"), trained=[7, 8])
    names = ["a", "b", "u", "v", "w", "x"]
    labels = [0, 1, 2, 3, 4, 5, -1, 0, 1, -1, 5]
    codes = write_labelled_codes(
        tmp_path / "codes.h5",
        logits_of([0, 1, *[0] * 9], 6),
        labels,
        names,
        skipped=[("odd.png", "empty file"), ("z", "w")],
    )
    result = evaluate_json(run, head, codes)
    assert result["figures"]["n_images"] == 2
    assert result["notes"] == [
        "not evaluated: 2 images without a label",
        "not evaluated: 5 images of classes that the model does not know: u, v, w, …",
        "not evaluated: 2 images that cannot be used, such as odd.png: empty file",
        "not evaluated: 2 images that trained the model",
        "no image of 4 classes of the model: c, d, e, …",
    ]
    printed = run("evaluate", head, codes).stdout
    assert printed.endswith("".join(f"  note: {note}\n" for note in result["notes"]))


def test_unusable_images_of_a_folder_are_noted(app, photos, tmp_path, run):
    source = tmp_path / "photos"
    shutil.copytree(photos, source)
    (source / "4" / "broken.png").write_bytes(b"not an image")
    (source / "new").mkdir()
    shutil.copy(next((photos / "3").iterdir()), source / "new")
    notes = evaluate_json(run, app, source)["notes"]
    assert notes[0] == "not evaluated: 1 image of classes that the model does not know: new"
    assert notes[1].startswith(
        "not evaluated: 1 image that cannot be used, such as 4/broken.png: not a"
    )


def test_figures_are_printed(small, run):
    lines = run("evaluate", *small).stdout.splitlines()
    assert lines == [
        f"{small[0]}: evaluated on 4 images of {small[1]}, 3 classes",
        "  accuracy           75.0%",
        "  balanced accuracy  83.3%",
        f"  log loss           {np.log(1 + 2 * np.exp(-3)) + 3 / 4:.4f}",
        f"  calibration error  {np.exp(3) / (np.exp(3) + 2) - 0.75:.1%}",
        "  for comparison     50.0% is the accuracy of always predicting c",
        "  4 test images can say little: on others the accuracy may be 30% to 95%",
        "  classes, worst first:",
        "    a  F1  66.7%  precision  50.0%  recall 100.0%  images 1",
        "    c  F1  66.7%  precision 100.0%  recall  50.0%  images 2",
        "    b  F1 100.0%  precision 100.0%  recall 100.0%  images 1",
        "  c predicted as a: 1 image",
        "  note: not evaluated: 2 images that trained the model",
    ]


def test_of_many_classes_the_worst_five_are_printed(tmp_path, run):
    names = [f"class {number:2}" for number in range(12)]
    head = write_head(tmp_path / "head.onnx", names)
    predicted = [number % 12 for number in range(48)]
    y = list(predicted)
    y[5], y[6], y[7], y[17] = 8, 8, 9, 8
    codes = write_labelled_codes(tmp_path / "codes.h5", logits_of(predicted, 12), y, names)
    text = run("evaluate", head, codes).stdout
    assert "  classes, the worst 5:\n" in text
    result = evaluate_json(run, head, codes)["figures"]["classes"]
    worst = sorted(result, key=lambda each: each["f1"])[:5]
    listed = [line.split("  F1")[0].strip() for line in text.splitlines() if "  F1 " in line]
    assert listed == [each["label"] for each in worst]
    pairs = [line.strip() for line in text.splitlines() if " predicted as " in line]
    assert pairs[0] == "class  8 predicted as class  5: 2 images"
    assert len(pairs) == 3
    assert "top-5 accuracy     " in text


def test_random_weights_are_marked(codes, head, small, run):
    first, *others = run("evaluate", head, codes).stdout.splitlines()
    assert first.endswith(" classes  (random weights)")
    assert "(random" not in "".join(others), "once is enough"
    assert "(random" not in run("evaluate", *small).stdout


def test_hostile_names_are_escaped(tmp_path, run):
    names = ["a\x1b[31m", "b\nc", "\u202edc"]
    head = write_head(tmp_path / "head.onnx", names)
    codes = write_labelled_codes(
        tmp_path / "codes.h5",
        logits_of([1, 2, 0], 3),
        [0, 1, 2],
        names,
        skipped=[("\x1b[2J.png", "why\n")],
    )
    text = run("evaluate", head, codes).stdout
    assert "a\\x1b[31m predicted as b\\nc: 1 image" in text
    assert all(line.isprintable() for line in text.splitlines())
    assert evaluate_json(run, head, codes)["figures"]["classes"][0]["label"] == names[0]


def test_training_that_is_no_json_becomes_json(tmp_path, small, run):
    training = {"loss": float("nan"), "tried": [float("inf"), 1]}
    backbone = replace(EVALUATED_BACKBONE, parity=float("nan"))
    head = write_head(tmp_path / "odd.onnx", ["a", "b", "c"], training=training, backbone=backbone)
    result = evaluate_json(run, head, small[1], "--report", tmp_path / "report")
    assert result["model"]["training"] == {"loss": None, "tried": [None, 1]}
    assert result["model"]["backbone"]["parity"] is None
    assert "NaN" not in (tmp_path / "report" / "evaluation.json").read_text("utf-8")


def test_nothing_is_left(codes, head, photos, tmp_path):
    with CodeStore.open(codes) as store:
        train = split_by_class(store.labels, 0.7).train
        paths = [store.paths[row] for row in train]
    for path in paths:
        (tmp_path / "seen" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / path, tmp_path / "seen" / path)
    small = write_head(tmp_path / "head.onnx", ["a", "b"], trained=range(3))
    all_seen = write_labelled_codes(
        tmp_path / "codes.h5", logits_of([0, 1, 0], 2), [0, 1, 0], ["a", "b"]
    )
    message = error_of("evaluate", small, all_seen)
    assert message == (
        f"Error: {all_seen}: has no image left to evaluate (not evaluated: 3 images that trained "
        "the model); use images it has not seen, or pass --include-training"
    )


def test_all_images_of_a_folder_were_seen(app, codes, photos, tmp_path):
    with CodeStore.open(codes) as store:
        paths = [store.paths[row] for row in split_by_class(store.labels, 0.7).train]
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / path, tmp_path / path)
    message = error_of("evaluate", app, tmp_path)
    assert f"{tmp_path}: has no image left to evaluate" in message
    assert "--include-training" in message


def test_no_class_is_known(small, tmp_path):
    codes = write_labelled_codes(tmp_path / "other.h5", logits_of([0], 3), [0], ["zebra"])
    message = error_of("evaluate", small[0], codes)
    assert f"{codes}: its classes (zebra) are not those of the model (a, b, c); use" in message


def test_images_without_labels(small, app, photos, tmp_path):
    codes = write_labelled_codes(tmp_path / "flat.h5", logits_of([0], 3), [-1], [])
    assert f"{codes}: none of its images has a label; " in error_of("evaluate", small[0], codes)
    flat = photos / "3"
    assert f"{flat}: none of its images has a label; " in error_of("evaluate", app, flat)


def test_codes_of_another_backbone(small, tmp_path):
    other = replace(EVALUATED_BACKBONE, weights="random:1")
    names = ["a", "b", "c"]
    head = write_head(tmp_path / "other.onnx", names, sha256="cd" * 32, backbone=other)
    assert error_of("evaluate", head, small[1]) == (
        f"Error: {head}: was trained on codes of another backbone (vgg16, random:1, SHA-256 "
        f"cdcdcdcd…) than that of {small[1]} (vgg16, imagenet, SHA-256 abababab…); use files that "
        "belong together"
    )


def test_backbone_that_is_not_needed(app, head, codes, photos, small_backbone):
    option = ("--backbone", small_backbone)
    assert "has codes already; leave backbone out" in error_of("evaluate", head, codes, *option)
    assert "has its backbone; leave backbone" in error_of("evaluate", app, photos, *option)


def test_limit_of_pixels_is_not_for_codes(head, codes):
    message = error_of("evaluate", head, codes, "--max-pixels", 1000)
    assert message == f"Error: {codes}: has codes already; leave --max-pixels out"


@pytest.mark.parametrize("name", ["codes.h5", "photos"])
def test_missing_data(head, app, tmp_path, name):
    model = head if name == "codes.h5" else app
    message = error_of("evaluate", model, tmp_path / name)
    assert message.startswith(f"Error: {tmp_path / name}: no such f")


def test_codes_file_whatever_it_is_called(small, tmp_path, run):
    shutil.copy(small[1], tmp_path / "codes.hdf5")
    assert evaluate_json(run, small[0], tmp_path / "codes.hdf5")["figures"]["n_images"] == 4


def test_unfinished_codes(small):
    with h5py.File(small[1], "r+") as file:
        file.attrs["complete"] = False
    assert f"{small[1]}: is unfinished" in error_of("evaluate", *small)
    journal = small[1].with_name("codes.h5.partial")
    create_journal(journal).close()
    assert f"{journal}: is unfinished" in error_of("evaluate", small[0], journal)


def test_codes_that_are_not_finite(small):
    with h5py.File(small[1], "r+") as file:
        del file["checksums"]
        file["codes"][4, 1] = np.nan
    assert f"{small[1]}: the codes of 4.png are not finite" in error_of("evaluate", *small)


def test_damaged_list_of_training_images(small, tmp_path):
    model = onnx.load(str(small[0]))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(model, metadata | {"cnncodes.training_images": "!"})
    onnx.save(model, str(tmp_path / "damaged.onnx"))
    message = error_of("evaluate", tmp_path / "damaged.onnx", small[1])
    assert f"{tmp_path / 'damaged.onnx'}: the metadata are damaged" in message


@pytest.mark.parametrize("option", ["curve", "images"])
def test_options_of_a_report_need_one(small, tmp_path, run, option):
    words = ("evaluate", *small, f"--{option}", tmp_path)
    assert "are for a report; give --report too" in run(*words, exit_code=2).stderr


def test_training_images_are_not_decoded(app, photos, run):
    """They are left out by their digests, whatever else is wrong with them."""
    n_trained = json.loads(run("info", app, "--json").stdout)["training_images"]
    message = error_of("evaluate", app, photos, "--max-pixels", 1)
    assert f"not evaluated: {n_trained} images that trained the model" in message
    assert f"not evaluated: {120 - n_trained} images that cannot be used" in message
