"""Codes of several networks side by side, from the images to the app."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from scipy.special import softmax
from sklearn.linear_model import Ridge

from cnncodes import Classifier
from cnncodes.errors import FileFormatError
from cnncodes.extract.store import CodeStore
from cnncodes.head.joined import JoinedStore, open_codes
from cnncodes.head.train import train_head
from tests.helpers import BACKBONE_INFO, error_of, run_command, write_backbone


def network(path: Path, name: str, **options: object) -> Path:
    info = replace(BACKBONE_INFO, backbone=name, **options.pop("info", {}))  # type: ignore[arg-type]
    return write_backbone(path, metadata=info.to_metadata(), **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images of three classes, of which the mean colour alone tells two apart."""
    folder, rng = tmp_path_factory.mktemp("joined") / "photos", np.random.default_rng(0)
    for index in range(60):
        pixels = rng.integers(60, 200, (12, 12, 3)).astype(np.uint8)
        pixels[:, : 6 if index % 3 else 12] //= 1 + index % 3
        target = folder / "abc"[index % 3]
        target.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(target / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def files(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two networks, the codes of one a thousand times as large, and their codes of the photos."""
    folder = tmp_path_factory.mktemp("files")
    made = {
        "A": network(folder / "A.onnx", "large", factor=100.0),
        "B": network(folder / "B.onnx", "small", factor=0.1, pooled=False),
    }
    for name in ("A", "B"):
        made[name.lower()] = folder / f"{name}.h5"
        dtype = "float32" if name == "A" else "float16"
        run_command("extract", made[name], photos, "-o", made[name.lower()], "--dtype", dtype)
    made["head"] = folder / "head.onnx"
    done = run_command("train", made["a"], made["b"], "-o", made["head"])
    assert "the codes of 2 networks are side by side: large, small" in done.output
    return made


def test_rows_are_those_of_each_file(files: dict[str, Path]) -> None:
    with (
        open_codes([files["b"], files["a"]]) as joined,
        CodeStore.open(files["a"]) as one,
        CodeStore.open(files["b"]) as two,
    ):
        assert isinstance(joined, JoinedStore)
        assert len(joined) == len(one) == 60
        wanted = np.hstack([two.codes[:].reshape(60, -1), one.codes[:]])
        np.testing.assert_array_equal(np.stack(list(joined.rows(range(60)))), wanted)
        assert joined.labels.tolist() == one.labels.tolist()
        assert joined.paths == one.paths
        joined.scale(np.arange(40))
        part = np.stack(list(joined.rows(range(40))))[:, : two.codes[0].size]
        assert np.square(part - part.mean(axis=0)).sum(axis=1).mean() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("options", [(), ("--batch", "1"), ("--half",)])
def test_app_answers_as_evaluated_on_stored_codes(
    files: dict[str, Path], photos: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Networks and codes are named in any order."""
    app, table = tmp_path / "app.onnx", tmp_path / "predictions.csv"
    head = files["head"]
    run_command("evaluate", head, files["b"], files["a"], "--predictions", table)
    run_command("bundle", files["B"], files["A"], head, "-o", app, *options)
    classifier = Classifier(app)
    assert [part.backbone.backbone for part in classifier.info.parts] == ["large", "small"]
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 15
    for row in rows:
        (best,) = classifier.predict(photos / row["path"], 1)
        assert best.label == row["predicted"]
        assert best.probability == pytest.approx(float(row["probability"]), abs=2e-3)
    on_images = json.loads(run_command("evaluate", app, photos, "--json").stdout)
    on_codes = json.loads(run_command("evaluate", head, files["a"], files["b"], "--json").stdout)
    assert on_images["figures"]["accuracy"] == on_codes["figures"]["accuracy"]
    for path in (head, app):
        assert run_command("verify", path, "--backbone", files["B"]).output
        parts = json.loads(run_command("info", path, "--json").stdout)["parts"]
        assert [part["backbone"] for part in parts] == ["large", "small"]
    assert "large" in run_command("info", app).stdout
    assert "its codes are of several networks" in error_of(
        "predict", app, photos / rows[0]["path"], "--explain", tmp_path / "why"
    )


@pytest.mark.parametrize("whole", [False, True])
def test_normalised_head_of_all_images(
    files: dict[str, Path], photos: Path, tmp_path: Path, whole: bool
) -> None:
    """Parts are scaled by the images that train the head that is written, then normalised."""
    head, app = tmp_path / "head.onnx", tmp_path / "app.onnx"
    trained = train_head(
        [files["a"], files["b"]],
        head,
        estimator="ridge",
        normalize="sqrt+length",
        unknown=0.1,
        **({"train_fraction": 1} if whole else {"refit": True}),
    )
    assert trained.test.n_images == (60 if whole else 18)
    assert trained.unknown is not None
    assert trained.unknown["n_images"] == 60
    assert trained.unknown["test_refused"] is None or not whole
    with open_codes([files["a"], files["b"]]) as store:
        assert isinstance(store, JoinedStore)
        raw = np.stack(list(store.rows(range(60))))
        store.scale(np.arange(60))
        X, y = np.stack(list(store.rows(range(60)))), store.labels
        paths = store.paths
    X = np.sqrt(np.abs(X)) * np.sign(X)
    X = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float64)
    X -= X.mean(axis=0)
    X /= np.sqrt(np.square(X).sum(axis=1).mean())
    model = Ridge(alpha=1 / trained.fitted["C"]).fit(X, np.eye(3)[y])
    wanted = softmax(model.predict(X) / trained.fitted["temperature"], axis=1)
    session = onnxruntime.InferenceSession(str(head), providers=["CPUExecutionProvider"])
    probabilities, unknown = session.run(["probabilities", "unknown"], {"codes": raw})
    np.testing.assert_allclose(probabilities, wanted, atol=2e-5)
    assert (unknown >= 0.5).mean() <= 0.1
    run_command("bundle", files["A"], files["B"], head, "-o", app)
    for row in range(0, 60, 7):
        (best,) = Classifier(app).predict(photos / paths[row], 1)
        assert best.probability == pytest.approx(wanted[row].max(), abs=2e-3)


def test_both_parts_count(files: dict[str, Path], tmp_path: Path) -> None:
    """The head is better than the one of the large codes alone, which the small ones complete."""
    alone = train_head(files["a"], tmp_path / "alone.onnx")
    both = train_head([files["a"], files["b"]], tmp_path / "both.onnx")
    assert both.test.loss is not None
    assert alone.test.loss is not None
    assert both.test.loss < alone.test.loss
    swapped = train_head([files["b"], files["a"]], tmp_path / "swapped.onnx")
    assert swapped.test.loss == pytest.approx(both.test.loss, rel=1e-3)


def test_other_estimators(files: dict[str, Path], tmp_path: Path) -> None:
    for estimator in ("sgd", "knn"):
        head = tmp_path / f"{estimator}.onnx"
        run_command("train", files["a"], files["b"], "-o", head, "--estimator", estimator)
        run_command("evaluate", head, files["a"], files["b"])
        run_command("bundle", files["A"], files["B"], head, "-o", tmp_path / f"{estimator}.app")


def test_curve_of_joined_codes(files: dict[str, Path], tmp_path: Path) -> None:
    words = ("--seeds", "1", "--per-class", "4,8", "--json")
    printed = run_command(
        *("curve", files["a"], files["b"], "--join", "-o", tmp_path / "j.json", *words)
    )
    (curve,) = json.loads(printed.stdout)["curves"]
    assert curve["backbone"] == "large + small"
    printed = run_command("curve", files["a"], files["b"], "-o", tmp_path / "s.json", *words)
    assert len(json.loads(printed.stdout)["curves"]) == 2


def test_images_of_one_file_only_are_left_out(
    files: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    """The files list them in different orders, and an earlier one gives theirs."""
    listed = sorted(photos.rglob("*.png"))[10:][::-1]
    lines = [f"{path.relative_to(photos).as_posix()},{path.parent.name}" for path in listed]
    table = photos / "some.csv"
    table.write_text("\n".join(["path,label", *lines]) + "\n")
    run_command("extract", files["B"], table, "-o", tmp_path / "some.h5")
    table.unlink()
    with open_codes([tmp_path / "some.h5", files["a"]]) as joined, CodeStore.open(files["a"]) as a:
        assert len(joined) == 50
        rows = [a.paths.index(path) for path in joined.paths]
        names = [joined.class_names[label] for label in joined.labels]
        assert names == [a.class_names[a.labels[row]] for row in rows]
        own = np.stack(list(joined.rows(range(50))))[:, -3:]
        np.testing.assert_array_equal(own, a.codes[:][rows])
        assert "10 images of" in joined.notes[1]
        assert "are left out, as not all files have them" in joined.notes[1]


def test_what_contradicts_or_does_not_belong_is_refused(
    files: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    a, b, head = files["a"], files["b"], files["head"]
    out = ("-o", tmp_path / "x.onnx")
    others = tmp_path / "others"
    for name in "ab":
        (others / name).mkdir(parents=True)
        for index in range(3):
            pixels = np.full((9, 9, 3), 40 * index + ord(name), np.uint8)
            Image.fromarray(pixels).save(others / name / f"{index}{name}.png")
    for network_name in "AB":
        target = tmp_path / f"other{network_name}.h5"
        run_command("extract", files[network_name], others, "-o", target)
    assert "have no image in common" in error_of("train", a, tmp_path / "otherB.h5", *out)
    assert "was trained on codes of 2 networks side by side (large, small)" in error_of(
        "evaluate", head, a
    )
    assert "was trained on codes of 2 networks side by side" in error_of(
        "bundle", files["A"], head, *out
    )
    run_command("train", a, "-o", tmp_path / "single.onnx")
    assert "was trained on codes of 1 network (large); name one file for each, not 2" in error_of(
        "evaluate", tmp_path / "single.onnx", a, b
    )
    table = photos / "wrong.csv"
    table.write_text("path,label\na/0.png,b\nb/1.png,b\n")
    run_command("extract", files["B"], table, "-o", tmp_path / "wrong.h5")
    table.unlink()
    assert "a/0.png is labelled a in one and b in another (1 image so)" in error_of(
        "train", a, tmp_path / "wrong.h5", *out
    )
    assert "photos: is no codes file, and images have one source: put" in error_of(
        "evaluate", head, a, photos
    )


def write_with_columns(model: Path, target: Path, *n_columns: int) -> Path:
    """Write a copy of a head or app with other numbers of codes in its metadata."""
    changed = onnx.load(str(model))
    (entry,) = (each for each in changed.metadata_props if each.key == "cnncodes.parts")
    parts = json.loads(entry.value)
    assert [part["n_columns"] for part in parts] == [3, 48]
    for part, n in zip(parts, n_columns, strict=True):
        part["n_columns"] = n
    entry.value = json.dumps(parts)
    onnx.save(changed, str(target))
    return target


def test_numbers_of_codes_that_contradict_the_head_are_refused(
    files: dict[str, Path], tmp_path: Path
) -> None:
    bundle = ("bundle", files["A"], files["B"])
    line = "the metadata are damaged (they tell of 52 codes, and there are 51); make the file again"
    head = write_with_columns(files["head"], tmp_path / "head.onnx", 4, 48)
    assert line in error_of(*bundle, head, "-o", tmp_path / "x.onnx")
    assert line in error_of("evaluate", head, files["a"], files["b"])
    swapped = write_with_columns(files["head"], tmp_path / "head.onnx", 48, 3)
    message = error_of(*bundle, swapped, "-o", tmp_path / "x.onnx")
    assert f"the metadata are damaged ({files['A']} has 3 codes, not 48); make" in message


@pytest.mark.parametrize("estimator", ["logistic", "knn"])
@pytest.mark.parametrize("options", [(), ("--half", "--batch", "2")])
def test_numbers_of_codes_that_contradict_the_networks_are_refused(
    files: dict[str, Path], photos: Path, tmp_path: Path, options: tuple[str, ...], estimator: str
) -> None:
    head, app = tmp_path / "head.onnx", tmp_path / "app.onnx"
    run_command("train", files["a"], files["b"], "-o", head, "--estimator", estimator)
    run_command("bundle", files["A"], files["B"], head, "-o", app, *options)
    onnx.checker.check_model(onnx.load(str(app)), full_check=True)
    Classifier(app)
    for columns in ((3, 49), (48, 3)):
        changed = write_with_columns(app, tmp_path / "changed.onnx", *columns)
        text = f"they tell of {columns[0]} + {columns[1]} codes, and there are 3 + 48"
        line = f"Error: {changed}: the metadata are damaged ({text}); make the file again"
        assert error_of("predict", changed, photos / "a" / "0.png") == line
        assert error_of("evaluate", changed, photos) == line
        with pytest.raises(FileFormatError, match="and there are 3"):
            Classifier(changed)


def test_networks_of_different_sizes_train_but_are_not_bundled(
    files: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    large = network(tmp_path / "L.onnx", "larger", shape=("N", 40, 40, 3), info={"input_size": 40})
    run_command("extract", large, photos, "-o", tmp_path / "l.h5")
    run_command("train", files["a"], tmp_path / "l.h5", "-o", tmp_path / "head.onnx")
    run_command("evaluate", tmp_path / "head.onnx", tmp_path / "l.h5", files["a"])
    message = error_of(
        *("bundle", files["A"], large, tmp_path / "head.onnx", "-o", tmp_path / "x.onnx")
    )
    assert message.startswith("Error: an app takes images of one size, and ")
    assert message.endswith("with a network size where one is to see them in another")


@pytest.mark.parametrize("option", ["--backbone", "--unknown"])
def test_what_is_of_one_network_is_refused_for_a_head_of_several(
    files: dict[str, Path], photos: Path, tmp_path: Path, option: str
) -> None:
    head, codes = tmp_path / "head.onnx", (files["a"], files["b"])
    run_command("train", *codes, "-o", head, "--unknown", "0.2", "--C", "1")
    data = (photos,) if option == "--backbone" else codes
    other = files["A" if option == "--backbone" else "a"]
    message = error_of("evaluate", head, *data, option, other)
    assert f"takes the codes of 2 networks, and {other}, " in message
    assert "evaluate the app on images" in message
