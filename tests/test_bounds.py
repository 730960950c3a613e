"""What may be written may be read, and what may not is refused before the work."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnncodes import bounds
from cnncodes.bounds import (
    MAX_GROUP_LENGTH,
    MAX_LABEL_LENGTH,
    MAX_LABELS,
    MAX_PATH_LENGTH,
    MAX_TRAINING_IMAGES,
    fault_of_text,
)
from cnncodes.errors import FileFormatError, OutputError, ParameterError, TrainingError
from cnncodes.evaluate.curve import (
    MAX_BYTES,
    MAX_HEADS,
    Curve,
    CurvePoint,
    read_curves,
    save_curves,
)
from cnncodes.evaluate.learning_curve import learning_curves
from cnncodes.extract.store import CodeStore
from cnncodes.head import train
from cnncodes.head.train import train_head
from cnncodes.images.decoding import load_image
from cnncodes.models.metadata import HeadInfo
from cnncodes.models.safety import check_model
from tests.helpers import HEAD_INFO, PATHS, append_rows, create_journal, error_of, write_codes

HERE = Path("here.onnx")


def written(info: HeadInfo, folder: Path) -> Path:
    """Write metadata into a model that has nothing else."""
    graph = onnx.helper.make_graph([], "empty", [], [])
    model = onnx.helper.make_model(graph)
    onnx.helper.set_model_props(model, info.to_metadata("head"))
    path = folder / "head.onnx"
    onnx.save(model, str(path))
    return path


def test_as_much_as_may_be_written_is_read(tmp_path: Path) -> None:
    labels = [f"{number:076}" for number in range(MAX_LABELS)]
    info = dataclasses.replace(
        HEAD_INFO,
        labels=tuple(labels),
        training_images=frozenset(f"{number:012x}" for number in range(MAX_TRAINING_IMAGES)),
        training={"fitted": {"it": "x" * (bounds.MAX_ENTRY_BYTES - 50)}},
    )
    path = written(info, tmp_path)
    assert HeadInfo.from_metadata(check_model(path).metadata, path) == info


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ("a", "b" * (MAX_LABEL_LENGTH + 1))}, "a label has 4,097 characters"),
        ({"labels": tuple(map(str, range(MAX_LABELS + 1)))}, "there are 100,001 labels"),
        ({"labels": ("é" * 4000,) * 400}, "all labels together take 9.6 MB, and at most 8 MB"),
        ({"training": {"fitted": "x" * 1_000_001}}, "training takes 1.0 MB"),
        ({"created_with": "ä" * 500_001}, "created_with takes 1.0 MB"),
        ({"training": json.loads("[" * 19 + "1" + "]" * 19)}, "nested deeper than 20 times"),
    ],
    ids=["label", "labels", "all labels", "training", "versions", "depth"],
)
def test_what_could_not_be_read_is_not_written(change: dict[str, object], message: str) -> None:
    if isinstance(change.get("training"), list):
        change = {"training": {"fitted": {"it": change["training"]}}}
    with pytest.raises(OutputError, match=message):
        dataclasses.replace(HEAD_INFO, **change).to_metadata("head")


def test_too_many_training_images_are_neither_written_nor_read() -> None:
    many = frozenset(f"{number:012x}" for number in range(MAX_TRAINING_IMAGES + 2))
    with pytest.raises(OutputError, match=r"training_images takes 20.0 MB, and at most 20 MB"):
        dataclasses.replace(HEAD_INFO, training_images=many).to_metadata("head")
    metadata = HEAD_INFO.to_metadata("head") | {"cnncodes.training_images": "AAAA" * 5_000_003}
    with pytest.raises(FileFormatError, match=r"training_images takes 20.0 MB"):
        HeadInfo.from_metadata(metadata, HERE)


@given(st.lists(st.text(max_size=50), min_size=2, unique=True))
def test_labels_of_any_letters_that_are_written_are_read(labels: list[str]) -> None:
    info = dataclasses.replace(HEAD_INFO, labels=tuple(labels))
    assert HeadInfo.from_metadata(info.to_metadata("head"), HERE) == info


@pytest.fixture
def codes(tmp_path: Path) -> Path:
    """Codes of three classes, of eight images each."""
    random = np.random.default_rng(0)
    return write_codes(
        tmp_path / "codes.h5",
        random.normal(size=(24, 5)).astype(np.float32),
        np.repeat([0, 1, 2], 8).astype(np.int32),
    )


@pytest.mark.parametrize("command", ["train", "curve"])
def test_label_of_an_older_codes_file_is_refused_at_the_start(
    codes: Path, tmp_path: Path, command: str
) -> None:
    with h5py.File(codes, "r+") as file:
        file.attrs["class_names"] = json.dumps(["a", "b", "c" * (MAX_LABEL_LENGTH + 1)])
    message = error_of(command, codes, "-o", tmp_path / "new")
    assert message.startswith(f"Error: {codes}: a label has 4,097 characters, and at most 4,096 ")
    assert not (tmp_path / "new").exists()


def test_label_without_images_may_be_long(codes: Path, tmp_path: Path) -> None:
    with h5py.File(codes, "r+") as file:
        file.attrs["class_names"] = json.dumps(["a", "b", "c", "d" * (MAX_LABEL_LENGTH + 1)])
    assert train_head(codes, tmp_path / "head.onnx").labels == ["a", "b", "c"]


@pytest.mark.parametrize("estimator", ["logistic", "sgd"])
def test_more_training_images_than_a_head_remembers(
    codes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, estimator: str
) -> None:
    monkeypatch.setattr(train, "MAX_TRAINING_IMAGES", 14)
    epochs: list[object] = []
    with pytest.raises(TrainingError, match=r"codes\.h5: 15 training images are more than the 14 "):
        train_head(codes, tmp_path / "head.onnx", estimator=estimator, on_epoch=epochs.append)
    assert not epochs
    monkeypatch.setattr(train, "MAX_TRAINING_IMAGES", 15)
    train_head(codes, tmp_path / "head.onnx", estimator=estimator)


def test_head_of_more_than_onnx_can_hold(
    codes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "MAX_MODEL_BYTES", bounds.MAX_ENTRIES_BYTES + 71)
    with pytest.raises(TrainingError, match=r"codes\.h5: its head would have .* GB, and ONNX ends"):
        train_head(codes, tmp_path / "head.onnx")
    monkeypatch.setattr(train, "MAX_MODEL_BYTES", bounds.MAX_ENTRIES_BYTES + 72)
    train_head(codes, tmp_path / "head.onnx")


@pytest.mark.parametrize("n_features", [5, 40])
def test_curve_reports_no_accuracy_of_a_head_that_train_refuses(
    tmp_path: Path, n_features: int
) -> None:
    random = np.random.default_rng(0)
    y = np.repeat([0, 1], 10).astype(np.int32)
    X = 1e-15 * random.normal(size=(20, n_features)) + 1e-15 * y[:, np.newaxis]
    X[[9, 19]] *= 1e41  # with the first of each class for training, these test
    codes = write_codes(tmp_path / "codes.h5", X.astype(np.float32), y)
    for command in ("train", "curve"):
        message = error_of(command, codes, "-o", tmp_path / "new", "--split", "first", "--C", "1e4")
        assert "the head's logits overflow for 2 images; remove images whose" in message
        assert "learning" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["codes.h5"]


def curve(n_points: int, n_draws: int) -> Curve:
    points = tuple(
        CurvePoint(10**8 + number, 10**9, 1.2345678901234567e-5, (1 / 3,) * n_draws)
        for number in range(n_points)
    )
    described = dict.fromkeys(("codes", "backbone", "weights", "created_with"), "ж" * 1000)
    sums = dict.fromkeys(("backbone_sha256", "images_sha256"), "0" * 64)
    return Curve(
        **described, **sums, split="stratified", train_fraction=0.7, seed=0, class_weight=None,
        n_classes=2, n_test=7, points=points, notes=("ж" * 5000,), majority=0.5,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("n_curves", "n_points", "n_draws"),
    [(1, 20_000, 1), (1, 20, 1000), (20, 1000, 1), (4, 50, 100)],
)
def test_as_many_heads_as_are_measured_can_be_read(
    tmp_path: Path, n_curves: int, n_points: int, n_draws: int
) -> None:
    assert n_curves * n_points * n_draws == MAX_HEADS
    curves = [curve(n_points, n_draws)] * n_curves
    save_curves(curves, tmp_path / "curve.json", overwrite=False)
    assert read_curves(tmp_path / "curve.json") == curves


def test_a_file_of_curves_that_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    curves = [curve(1, 1)] * (MAX_BYTES // 40_000)
    with pytest.raises(OutputError, match=r"would be larger than the 10 MiB that can be read"):
        save_curves(curves, tmp_path / "curve.json", overwrite=False)
    assert not list(tmp_path.iterdir())


def test_more_heads_than_a_file_can_hold_are_refused_at_the_start(tmp_path: Path) -> None:
    y = np.repeat([0, 1], 60).astype(np.int32)
    codes = write_codes(tmp_path / "codes.h5", np.eye(120, dtype=np.float32), y)
    with pytest.raises(ParameterError, match="39,001 heads are more than the 20,000 that"):
        learning_curves(
            [codes], tmp_path / "curve.json", seeds=1000, per_class=[*range(1, 40), 42, 10**9]
        )
    assert not (tmp_path / "curve.json").exists()


def test_reason_of_a_skipped_image_is_short(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 200)
    loaded = load_image(0, Path(str(path) + "/y" * 30_000), 8)
    assert 0 < len(loaded.problem) <= bounds.MAX_REASON_LENGTH


@pytest.mark.parametrize("letter", ["p", "ж", "한", "\0", "\udcff"])
def test_longest_path_and_group_come_back_from_the_codes_file(tmp_path: Path, letter: str) -> None:
    n_bytes = len(letter.encode("utf-8", "surrogateescape")) + letter.count("\0")
    path = letter * min(MAX_PATH_LENGTH, bounds.MAX_TEXT_BYTES // n_bytes)
    group = letter * MAX_GROUP_LENGTH
    assert not fault_of_text(path, "a path", MAX_PATH_LENGTH)
    assert not fault_of_text(group, "a group", MAX_GROUP_LENGTH)
    assert fault_of_text(path + letter, "a path", MAX_PATH_LENGTH).startswith("a path has ")
    assert fault_of_text(group + letter, "a group", MAX_GROUP_LENGTH).startswith(
        "a group has 4,097"
    )
    paths, groups = [path, *PATHS[1:]], [group, "", "", "", ""]
    with create_journal(tmp_path / "codes.partial") as journal:
        append_rows(journal, paths=paths, groups=groups, skipped=[(path, "x" * 1000)])
        journal.finish(tmp_path / "codes.h5")
    with CodeStore.open(tmp_path / "codes.h5") as store:
        assert store.paths[0] == store.skipped[0][0] == path.replace("\0", "\\0")
        assert store.groups[0] == group.replace("\0", "\\0")
