"""The contributions against logits that onnxruntime computes, and against what is planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from cnncodes import Classifier
from cnncodes.app.bundle import bundle
from cnncodes.errors import FileFormatError, ParameterError
from cnncodes.images.decoding import decode_image
from cnncodes.models.checksum import save_checked
from tests.conftest import Exports
from tests.helpers import make_app, run_command, write_pooling_backbone


def logits_of(app: Path, pixels: np.ndarray) -> np.ndarray:
    """Compute the logits of a batch by a copy of the app that ends in them."""
    model = onnx.load(str(app))
    (softmax,) = (node for node in model.graph.node if node.op_type == "Softmax")
    logits = onnx.helper.make_tensor_value_info(softmax.input[0], onnx.TensorProto.FLOAT, None)
    model.graph.output.append(logits)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run([softmax.input[0]], {"images": pixels})[0]


def backbone_options(pool: str) -> list[str]:
    return ["--input-size", "96", "--pool", pool]


@pytest.fixture(scope="module", autouse=True)
def _begun(exports: Exports) -> None:
    """Exports take a while, and may run beside each other."""
    for pool in ("avg", "max"):
        exports.begin("mobilenet_v2", *backbone_options(pool))


@pytest.fixture(
    scope="module",
    params=[
        ("none", "none"),
        ("avg", "none"),
        ("max", "none"),
        ("none", "length"),
        ("avg", "sqrt+length"),
        ("max", "sqrt"),
    ],
)
def explained_app(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    exports: Exports,
    photos: Path,
) -> Path:
    """An app of a head that may normalise codes first."""
    pool, normalize = request.param
    backbone = exports.get("mobilenet_v2", *backbone_options(pool))
    return make_app(tmp_path_factory.mktemp(pool), backbone, photos, "--normalize", normalize)


@pytest.fixture(scope="module", params=["none", "avg", "max"])
def pooled_app(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    exports: Exports,
    photos: Path,
) -> Path:
    """An app of MobileNetV2, whose last layer has 3 × 3 cells for 96 × 96 pixels."""
    backbone = exports.get("mobilenet_v2", *backbone_options(request.param))
    return make_app(tmp_path_factory.mktemp(request.param), backbone, photos)


def test_contributions_and_bias_add_up_to_the_logit(explained_app: Path, photos: Path) -> None:
    classifier = Classifier(explained_app)
    for path in sorted(photos.rglob("*.png"))[::40]:
        pixels = decode_image(path.read_bytes(), 96)[np.newaxis]
        wanted = logits_of(explained_app, pixels)[0]
        probabilities = {each.label: each.probability for each in classifier.predict(path)}
        for label, logit in zip(classifier.labels, wanted, strict=True):
            explanation = classifier.explain(path, label)
            assert explanation.label == label
            assert explanation.contributions.shape == (3, 3)
            assert explanation.contributions.dtype == np.float32
            total = explanation.bias + explanation.contributions.sum()
            assert total == pytest.approx(logit, rel=1e-4, abs=1e-4 * float(np.abs(wanted).max()))
            assert explanation.logit == pytest.approx(total, abs=1e-4)
            assert explanation.probability == pytest.approx(probabilities[label], abs=1e-6)
        assert np.ptp(explanation.contributions) > 0
        assert classifier.explain(path).label == classifier.predict(path, 1)[0].label


def test_contributions_of_pooled_codes(pooled_app: Path, photos: Path) -> None:
    """Class activation maps, and the cells with the maximum of each channel."""
    classifier = Classifier(pooled_app)
    path = next(photos.rglob("*.png"))
    model = onnx.load(str(pooled_app))
    tensors = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    session = onnxruntime.InferenceSession(str(pooled_app), providers=["CPUExecutionProvider"])
    pixels = decode_image(path.read_bytes(), 96)[np.newaxis]
    (features,) = session.run(["features"], {"images": pixels})[0]
    weights = tensors["head/weights"][:, 4].astype(np.float64)
    wanted = np.zeros((3, 3))
    for row, column in np.ndindex(3, 3):
        cell = features[row, column]
        if classifier.info.backbone.pool == "none":
            wanted[row, column] = cell @ weights.reshape(3, 3, -1)[row, column]
        elif classifier.info.backbone.pool == "avg":
            wanted[row, column] = cell @ weights / 9
        else:
            is_largest = features == features.max(axis=(0, 1))
            shares = is_largest[row, column] / is_largest.sum(axis=(0, 1))
            wanted[row, column] = (cell * shares) @ weights
    contributions = classifier.explain(path, classifier.labels[4]).contributions
    assert contributions == pytest.approx(wanted, rel=1e-3, abs=1e-4 * np.abs(wanted).max())


def test_files_are_explained_as_one_by_one(pooled_app: Path, photos: Path) -> None:
    classifier = Classifier(pooled_app)
    paths = sorted(photos.rglob("*.png"))[::6]
    for each in classifier.predict_files([*paths, photos], explain=True):
        if each.path == photos:
            assert each.problem
            assert each.explanation is None
            continue
        alone = classifier.explain(each.path)
        assert each.explanation is not None
        assert each.explanation.label == each.predictions[0].label == alone.label
        assert each.explanation.contributions == pytest.approx(alone.contributions, abs=1e-4)
    assert all(each.explanation is None for each in classifier.predict_files(paths[:2]))


def test_codes_of_an_int8_network(tmp_path: Path, exports: Exports, photos: Path) -> None:
    backbone = exports.get("mobilenet_v2", *backbone_options("avg"))
    int8 = tmp_path / "int8.onnx"
    run_command("quantize", backbone, "--images", photos, "-o", int8)
    app = make_app(tmp_path, int8, photos)
    path = next(photos.rglob("*.png"))
    wanted = logits_of(app, decode_image(path.read_bytes(), 96)[np.newaxis])[0]
    classifier = Classifier(app)
    for label, logit in zip(classifier.labels, wanted, strict=True):
        explanation = classifier.explain(path, label)
        total = explanation.bias + explanation.contributions.sum()
        assert total == pytest.approx(logit, rel=1e-2, abs=1e-2)


def test_cell_of_what_was_planted_speaks_for_its_class(tmp_path: Path) -> None:
    """Grey images, those of one class with a red patch in one of the corners."""
    rng = np.random.default_rng(0)
    for index in range(80):
        pixels = rng.integers(120, 136, (75, 75, 3), np.uint8)
        row, column = (4 * int(each) for each in rng.integers(0, 2, 2))
        if index % 2:
            pixels[15 * row : 15 * row + 15, 15 * column : 15 * column + 15] = [250, 20, 20]
        folder = tmp_path / "photos" / ("grey", "red")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{row}{column}-{index}.png")
    backbone = tmp_path / "backbone.onnx"
    write_pooling_backbone(backbone)
    classifier = Classifier(make_app(tmp_path, backbone, tmp_path / "photos"))
    # Beside a grey image, since the weights of the cells differ.
    grey = classifier.explain(next((tmp_path / "photos" / "grey").iterdir()), "red")
    for path in (tmp_path / "photos" / "red").iterdir():
        evidence = classifier.explain(path, "red").contributions - grey.contributions
        row, column = np.unravel_index(evidence.argmax(), (5, 5))
        assert path.name.startswith(f"{row}{column}-")


def test_class_that_is_not_there(app: Path, photos: Path) -> None:
    with pytest.raises(ParameterError, match="label must be one of the classes"):
        Classifier(app).explain(next(photos.rglob("*.png")), "ten")


def test_head_that_is_not_linear(
    tmp_path: Path, small_backbone: Path, codes: Path, photos: Path
) -> None:
    run_command("train", codes, "-o", tmp_path / "head.onnx", "--estimator", "knn")
    bundle(small_backbone, tmp_path / "head.onnx", tmp_path / "app.onnx")
    classifier = Classifier(tmp_path / "app.onnx")
    image = next(photos.rglob("*.png"))
    assert classifier.predict(image)
    for call in (classifier.explain, lambda each: classifier.predict_files([each], explain=True)):
        with pytest.raises(FileFormatError, match="holds nothing to explain") as caught:
            call(image)
        assert "this head: knn" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_app_of_an_earlier_release(tmp_path: Path, app: Path, photos: Path) -> None:
    model = onnx.load(str(app))
    del model.graph.output[1]
    save_checked(model, tmp_path / "old.onnx")
    classifier = Classifier(tmp_path / "old.onnx")
    image = next(photos.rglob("*.png"))
    assert classifier.predict(image) == Classifier(app).predict(image)
    with pytest.raises(FileFormatError, match="holds nothing to explain"):
        classifier.explain(image)


def test_weights_that_do_not_give_the_answers(tmp_path: Path, app: Path, photos: Path) -> None:
    """The answers come from another initializer than the one of the documented name."""
    model = onnx.load(str(app))
    (gemm,) = (node for node in model.graph.node if node.op_type == "Gemm")
    (weights,) = (each for each in model.graph.initializer if each.name == "head/weights")
    other = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights) * 2, "other")
    model.graph.initializer.append(other)
    gemm.input[1] = "other"
    save_checked(model, tmp_path / "changed.onnx")
    with pytest.raises(FileFormatError, match="do not give its answers"):
        Classifier(tmp_path / "changed.onnx").explain(next(photos.rglob("*.png")))


def test_weights_of_half_precision_are_read(tmp_path: Path, app: Path, photos: Path) -> None:
    model = onnx.load(str(app))
    (gemm,) = (node for node in model.graph.node if node.op_type == "Gemm")
    for weights in model.graph.initializer:
        if weights.name == "head/weights":
            half = onnx.numpy_helper.to_array(weights).astype(np.float16)
            weights.CopyFrom(onnx.numpy_helper.from_array(half, "head/weights"))
    index = list(model.graph.node).index(gemm)
    cast = onnx.helper.make_node("Cast", ["head/weights"], ["wide"], to=onnx.TensorProto.FLOAT)
    gemm.input[1] = "wide"
    model.graph.node.insert(index, cast)
    save_checked(model, tmp_path / "half.onnx")
    image = next(photos.rglob("*.png"))
    wanted = Classifier(app).explain(image)
    explanation = Classifier(tmp_path / "half.onnx").explain(image)
    assert explanation.contributions == pytest.approx(wanted.contributions, rel=0.02, abs=0.02)
