from __future__ import annotations

import io

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from cnncodes import Classifier, CodeStore, Prediction
from cnncodes.errors import FileFormatError, ImageError, ParameterError
from cnncodes.extract.images import decode_image
from cnncodes.head.classifier import BATCH_SIZE


@pytest.fixture(scope="module")
def classifier(app):
    return Classifier(app)


@pytest.fixture(scope="module")
def files(photos):
    return sorted(photos.rglob("*.png"))


def test_what_the_file_says_of_itself(classifier):
    assert classifier.labels == tuple("0123456789")
    assert classifier.input_size == 75
    assert classifier.info.backbone.backbone == "inception_v3"
    assert classifier.info.training["estimator"] == "logistic"


def test_all_classes_likeliest_first(classifier, files):
    found = classifier.predict(files[0])
    assert {each.label for each in found} == set("0123456789")
    likelihoods = [each.probability for each in found]
    assert sum(likelihoods) == pytest.approx(1, abs=1e-5)
    assert likelihoods == sorted(likelihoods, reverse=True)
    assert all(type(each.probability) is float for each in found)


def test_path_text_bytes_and_opened_image_agree(classifier, files):
    path = files[7]
    wanted = classifier.predict(path)
    assert classifier.predict(str(path)) == wanted
    assert classifier.predict(path.read_bytes()) == wanted
    with Image.open(path) as image:
        assert classifier.predict(image) == wanted
        assert classifier.predict(image.convert("RGB")) == wanted
    assert classifier.predict(files[50]) != wanted


@pytest.mark.parametrize("top", [1, 3, 10, 99])
def test_top(classifier, files, top):
    assert classifier.predict(files[3], top=top) == classifier.predict(files[3])[:top]
    assert len(classifier.predict(files[3], top=top)) == min(top, 10)


def test_probabilities_of_a_batch(classifier, app, files):
    images = np.stack([decode_image(path.read_bytes(), 75) for path in files[::9]])
    found = classifier.predict_proba(images)
    assert found.shape == (len(images), 10)
    assert found.dtype == np.float32
    assert found.sum(axis=1) == pytest.approx(1, abs=1e-5)
    session = onnxruntime.InferenceSession(str(app), providers=["CPUExecutionProvider"])
    assert np.abs(found - session.run(None, {"images": images})[0]).max() < 1e-6
    for path, row in zip(files[::9], found, strict=True):
        by_label = {each.label: each.probability for each in classifier.predict(path)}
        assert [by_label[label] for label in classifier.labels] == pytest.approx(row, abs=1e-5)


def test_probabilities_of_no_image(classifier):
    assert classifier.predict_proba(np.empty((0, 75, 75, 3), np.uint8)).shape == (0, 10)


def test_same_labels_as_the_head_on_stored_codes(classifier, head, codes, photos):
    with CodeStore.open(codes) as store:
        X, paths = store.codes[:].astype(np.float32), store.paths
        truth = [store.class_names[label] for label in store.labels]
    session = onnxruntime.InferenceSession(str(head), providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"codes": X})[0]
    found = list(classifier.predict_files([photos / path for path in paths]))
    assert len(found) == 120
    for image, row in zip(found, wanted, strict=True):
        assert image.predictions[0].label == classifier.labels[row.argmax()]
        # The stored codes have 16 bits.
        assert image.predictions[0].probability == pytest.approx(row.max(), abs=0.01)
    right = [image.predictions[0].label == label for image, label in zip(found, truth, strict=True)]
    assert np.mean(right) > 0.9


def test_broken_files_among_good_ones(classifier, files, tmp_path):
    contents = {"text.jpg": b"a text", "empty.png": b"", "cut.png": files[0].read_bytes()[:100]}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    broken = [tmp_path / "absent.png", *(tmp_path / name for name in contents), tmp_path]
    paths = [*broken[:2], *files[:BATCH_SIZE], broken[2], *files[20:33], *broken[3:]]
    found = list(classifier.predict_files(paths, top=2))
    assert [image.path for image in found] == paths
    for image in found:
        if image.path in broken:
            assert image.predictions == []
        else:
            assert image.problem == ""
            assert image.predictions == [
                Prediction(each.label, pytest.approx(each.probability, abs=1e-5))
                for each in classifier.predict(image.path, top=2)
            ]
    problems = {image.path: image.problem for image in found}
    assert "No such file" in problems[broken[0]]
    assert (
        problems[broken[1]]
        == "not a JPEG, PNG, WebP, AVIF, HEIC, BMP, GIF, TIFF, PPM, JPEG 2000 or TGA image"
    )
    assert problems[broken[2]] == "empty file"
    assert problems[broken[3]].startswith("damaged")
    assert problems[tmp_path].startswith("cannot be read: ")


def test_no_files(classifier):
    assert list(classifier.predict_files([])) == []


def test_nothing_but_broken_files(classifier, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(3 * BATCH_SIZE)]
    found = list(classifier.predict_files(paths))
    assert [image.path for image in found] == paths
    assert all(image.problem for image in found)


@pytest.mark.parametrize("name", ["absent.png", "folder", "text.jpg", "null\0byte.png"])
def test_problem_of_one_file_names_it(classifier, tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.jpg").write_text("a text")
    with pytest.raises(ImageError) as caught:
        classifier.predict(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")


@pytest.mark.parametrize("content", [b"", b"a text", b"\x89PNG\r\n\x1a\n"])
def test_bytes_that_are_no_image(classifier, content):
    with pytest.raises(ImageError):
        classifier.predict(content)


def test_opened_image_that_turns_out_damaged(classifier):
    """Pillow opens a file by its header and reads the pixels only when they are needed."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    with (
        Image.open(io.BytesIO(buffer.getvalue()[:5000])) as image,
        pytest.raises(ImageError, match="truncated"),
    ):
        classifier.predict(image)


def test_image_with_too_many_pixels(classifier, files):
    with pytest.raises(ImageError, match="max-pixels"):
        classifier.predict(files[0], max_pixels=64 * 64 - 1)
    assert classifier.predict(files[0], top=1, max_pixels=64 * 64)
    refused = next(classifier.predict_files(files[:1], max_pixels=64 * 64 - 1))
    assert "max-pixels" in refused.problem


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "CMYK", "I;16", "YCbCr"])
def test_opened_images_of_any_mode(classifier, mode):
    assert len(classifier.predict(Image.new(mode, (30, 20)), top=1)) == 1


def test_one_thread_gives_the_same(app, classifier, files):
    single = Classifier(str(app), threads=1).predict(files[0])
    for one, other in zip(single, classifier.predict(files[0]), strict=True):
        assert one == Prediction(other.label, pytest.approx(other.probability, abs=1e-5))


@pytest.mark.parametrize("kind", ["head", "backbone"])
def test_other_models_are_refused(head, small_backbone, kind):
    path = head if kind == "head" else small_backbone
    with pytest.raises(FileFormatError, match=f"is a {kind}, but an? app is needed"):
        Classifier(path)


def test_missing_app(tmp_path):
    with pytest.raises(FileFormatError, match="no such file; make one with: cnncodes bundle"):
        Classifier(tmp_path / "absent.onnx")


@pytest.mark.parametrize("top", [0, -1])
def test_top_below_one_is_refused(app, photos, top):
    with pytest.raises(ParameterError, match="top must be 1 or more"):
        Classifier(app).predict(next(photos.rglob("*.png")), top)


def test_other_arrays_are_refused(app):
    with pytest.raises(ParameterError, match=r"must be uint8 of shape \(n_images, 75, 75, 3\)"):
        Classifier(app).predict_proba(np.zeros((1, 80, 80, 3), np.uint8))
