"""The network behind its file, and the files that are none."""

from __future__ import annotations

import copy
import hashlib
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cnncodes import Backbone
from cnncodes.errors import FileFormatError
from tests.helpers import BACKBONE_INFO, BACKBONE_SIZE, write_backbone


def refusal(path: Path) -> str:
    with pytest.raises(FileFormatError) as caught:
        Backbone(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def noise(n_images: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n_images, size, size, 3), np.uint8)


def test_no_images_have_no_codes(small_backbone: Path) -> None:
    assert Backbone(small_backbone).extract(noise(0, 75)).shape == (0, 2048)


def test_states_what_it_is(small_backbone: Path) -> None:
    backbone = Backbone(small_backbone)
    assert backbone.code_shape == (2048,)
    assert backbone.info.backbone == "inception_v3"
    assert (backbone.info.input_size, backbone.info.pool) == (75, "avg")
    assert backbone.sha256 == hashlib.sha256(small_backbone.read_bytes()).hexdigest()


def test_computes_each_image_for_itself(small_backbone: Path) -> None:
    images = noise(5, 75)
    codes = Backbone(str(small_backbone)).extract(images)
    assert codes.shape == (5, 2048)
    assert codes.dtype == np.float32
    assert np.abs(codes[0] - codes[3]).max() > 1e-4  # or the comparison below means nothing
    alone = Backbone(small_backbone, threads=1).extract(images[3:4])
    np.testing.assert_allclose(alone[0], codes[3], rtol=1e-4, atol=1e-7)


def test_every_copy_computes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_backbone(tmp_path / "mean.onnx", factor=2)
    monkeypatch.chdir(tmp_path)
    backbone = Backbone("mean.onnx")
    content = pickle.dumps(backbone)
    monkeypatch.chdir("/")
    for other in (pickle.loads(content), copy.copy(backbone), copy.deepcopy(backbone)):
        images = noise(3, BACKBONE_SIZE)
        np.testing.assert_array_equal(other.extract(images), backbone.extract(images))


def test_computes_the_graph(tmp_path: Path) -> None:
    images = noise(3, BACKBONE_SIZE)
    backbone = Backbone(write_backbone(tmp_path / "mean.onnx", factor=2))
    assert backbone.code_shape == (3,)
    assert backbone.info == BACKBONE_INFO
    np.testing.assert_allclose(backbone.extract(images), 2 * images.mean(axis=(1, 2)), rtol=1e-6)
    assert backbone.extract(images[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, BACKBONE_SIZE, BACKBONE_SIZE, 3), np.float32),
        np.zeros((BACKBONE_SIZE, BACKBONE_SIZE, 3), np.uint8),
        np.zeros((1, 3, BACKBONE_SIZE, BACKBONE_SIZE), np.uint8),
        np.zeros((1, BACKBONE_SIZE + 1, BACKBONE_SIZE, 3), np.uint8),
        np.zeros((1, BACKBONE_SIZE, BACKBONE_SIZE, 4), np.uint8),
        [np.zeros((BACKBONE_SIZE, BACKBONE_SIZE, 3), np.uint8)],
        None,
    ],
    ids=lambda images: f"{getattr(images, 'dtype', '')} {np.shape(images)}",
)
def test_refuses_other_arrays(tmp_path: Path, images: np.ndarray) -> None:
    backbone = Backbone(write_backbone(tmp_path / "mean.onnx"))
    with pytest.raises(ValueError, match=r"must be uint8 of shape \(n_images, 4, 4, 3\), not "):
        backbone.extract(images)


def test_refuses_what_is_no_model(tmp_path: Path) -> None:
    for name, content in (("text", b"no model"), ("empty", b""), ("zeros", b"\0" * 100)):
        (tmp_path / name).write_bytes(content)
        refusal(tmp_path / name)
    folder = "is a folder without images (no command takes it), not a backbone"
    for name, fault in (("missing", "no such file"), (".", folder)):
        assert f"{fault}; make one with: cnncodes export" in refusal(tmp_path / name)


def test_refuses_a_damaged_model(tmp_path: Path, small_backbone: Path) -> None:
    content = small_backbone.read_bytes()
    (tmp_path / "half.onnx").write_bytes(content[: len(content) // 2])
    assert "cannot be opened as an ONNX model" in refusal(tmp_path / "half.onnx")


def test_refuses_heads_and_apps(head: Path, app: Path) -> None:
    assert "is a head (evaluate and bundle take it), not a backbone; make" in refusal(head)
    assert "is an app" in refusal(app)


GOOD = BACKBONE_INFO.to_metadata()


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({}, "not a backbone; make one with: cnncodes export"),
        ({"author": "another program"}, "is an ONNX model of another program "),
        (GOOD | {"cnncodes.format": "2"}, "is in format '2', this release reads format 1"),
        (GOOD | {"cnncodes.kind": "head"}, "is a head (evaluate and bundle take it)"),
        (
            {k: v for k, v in GOOD.items() if k != "cnncodes.kind"},
            "is an ONNX model of another program",
        ),
        ({k: v for k, v in GOOD.items() if k != "cnncodes.layer"}, "cnncodes.layer is missing"),
        (GOOD | {"cnncodes.input_size": "large"}, "the metadata are damaged"),
        (GOOD | {"cnncodes.input_size": "5"}, "its input or output is not that of a backbone"),
    ],
)
def test_refuses_metadata_it_cannot_use(
    tmp_path: Path, metadata: dict[str, str], reason: str
) -> None:
    assert reason in refusal(write_backbone(tmp_path / "odd.onnx", metadata=metadata))


@pytest.mark.parametrize(
    "options",
    [
        {"shape": (1, BACKBONE_SIZE, BACKBONE_SIZE, "channels")},
        {"shape": ("N", 3, BACKBONE_SIZE, BACKBONE_SIZE)},
        {"names": ("pixels", "codes")},
        {"names": ("images", "probabilities")},
    ],
    ids=str,
)
def test_refuses_a_graph_that_differs_from_its_claim(
    tmp_path: Path, options: dict[str, object]
) -> None:
    path = write_backbone(tmp_path / "odd.onnx", **options)
    assert "its input or output is not that of a backbone; export it again" in refusal(path)


def test_network_that_opens_but_cannot_be_computed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_backbone(tmp_path / "broken.onnx")
    model = onnx.load(path)
    model.graph.initializer.append(
        helper.make_tensor(
            "shape", TensorProto.INT64, (4,), [0, BACKBONE_SIZE, BACKBONE_SIZE + 1, 3]
        )
    )
    model.graph.node[0].output[0] = "cast"
    model.graph.node.insert(1, helper.make_node("Reshape", ["cast", "shape"], ["numbers"]))
    onnx.save(model, path)
    backbone = Backbone(path)
    with pytest.raises(FileFormatError, match=r"broken\.onnx: cannot be run \("):
        backbone.extract(np.zeros((1, BACKBONE_SIZE, BACKBONE_SIZE, 3), np.uint8))
    assert capfd.readouterr() == ("", "")  # onnxruntime does not print it a second time


def test_is_shown_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_backbone(Path("mean.onnx"))
    assert repr(Backbone("mean.onnx")) == (
        "<Backbone 'mean.onnx': vgg16 float32, weights random:0, 4 pixels to codes (3,)>"
    )
    trained = replace(BACKBONE_INFO, weights=f"file:{'0123456789abcdef' * 4}")
    write_backbone(Path("own.onnx"), metadata=trained.to_metadata())
    assert "weights file:01234567," in repr(Backbone("own.onnx"))
