from __future__ import annotations

import copy
import io
import mmap
import multiprocessing
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from cnncodes import Classifier, CodeStore, Prediction
from cnncodes.app.classifier import MANY
from cnncodes.errors import CnncodesError, FileFormatError, ImageError, ParameterError
from cnncodes.images.decoding import decode_image
from cnncodes.models.checksum import save_checked


@pytest.fixture(scope="module")
def classifier(app):
    return Classifier(app)


@pytest.fixture(scope="module")
def files(photos):
    return sorted(photos.rglob("*.png"))


def test_what_the_file_records_of_itself(classifier):
    assert classifier.labels == tuple("0123456789")
    assert classifier.input_size == 75
    assert classifier.info.backbone.backbone == "inception_v3"
    assert classifier.info.training["estimator"] == "logistic"


def test_all_classes_likeliest_first(classifier, files):
    predicted = classifier.predict(files[0])
    assert {each.label for each in predicted} == set("0123456789")
    likelihoods = [each.probability for each in predicted]
    assert sum(likelihoods) == pytest.approx(1, abs=1e-5)
    assert likelihoods == sorted(likelihoods, reverse=True)
    assert all(type(each.probability) is float for each in predicted)


def test_path_text_bytes_and_opened_image_agree(classifier, files):
    path = files[7]
    wanted = classifier.predict(path)
    assert classifier.predict(str(path)) == wanted
    assert classifier.predict(path.read_bytes()) == wanted
    with Image.open(path) as image:
        assert classifier.predict(image) == wanted
        assert classifier.predict(image.convert("RGB")) == wanted
    assert classifier.predict(files[50]) != wanted


def test_files_and_buffers_agree_with_the_path(classifier, files):
    wanted, content = classifier.predict(files[7]), files[7].read_bytes()
    with files[7].open("rb") as file, io.BytesIO(b"header" + content) as behind_header:
        assert classifier.predict(file) == wanted
        behind_header.seek(len(b"header"))
        assert classifier.predict(behind_header) == wanted
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            assert classifier.predict(mapped) == wanted
    for kind in (bytearray, memoryview, io.BytesIO):
        assert classifier.predict(kind(content)) == wanted


def test_arrays_agree_with_the_images_they_show(classifier):
    rgb = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    rgba = np.dstack([rgb, rgb[..., :1]])
    for array in (rgb, rgba, rgb[..., 0]):
        wanted = classifier.predict(Image.fromarray(array))
        assert classifier.predict(array) == wanted
        assert classifier.predict(array[::-1, ::-1][::-1, ::-1]) == wanted  # not contiguous
    assert classifier.predict(rgb[..., ::-1]) != classifier.predict(rgb)  # BGR


class Camera:
    """Like OpenCV's captures, it reads without an argument for the size."""

    def read(self):
        return True, np.zeros((4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    "image",
    [
        None,
        3,
        1.5,
        object(),
        ["photo.jpg"],
        b"",
        bytearray(),
        Camera(),
        io.BytesIO(),
        io.StringIO("a text"),
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(400, np.uint8),
        np.zeros((), np.uint8),
        np.broadcast_to(np.uint8(3), (20_000, 20_000)),
        Image.new("RGB", (0, 4)),
        "no such file.png",
        "n" * 300,
        "",
    ],
    ids=lambda image: type(image).__name__,
)
def test_what_holds_no_image_is_refused_by_an_error_of_cnncodes(classifier, image):
    with pytest.raises(CnncodesError) as caught:
        classifier.predict(image)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(classifier, files, tmp_path):
    with files[0].open("rb") as closed:
        pass
    with pytest.raises(ImageError, match=r"cannot be read: .*closed file"):
        classifier.predict(closed)
    with files[0].open() as text, pytest.raises(ParameterError, match="open it with mode 'rb'"):
        classifier.predict(text)
    with (tmp_path / "new").open("wb") as output, pytest.raises(ImageError, match="cannot be read"):
        classifier.predict(output)
    view = memoryview(b"abc")
    view.release()
    with pytest.raises(ParameterError, match="not memoryview"):
        classifier.predict(view)


def test_file_without_end_is_refused(classifier):
    with (
        Path("/dev/zero").open("rb") as endless,
        pytest.raises(ImageError, match="larger than the 664 MB that an image"),
    ):
        classifier.predict(endless)


def test_every_copy_answers_the_same(app, files, tmp_path, monkeypatch):
    monkeypatch.chdir(app.parent)
    classifier = Classifier(app.name, threads=1)
    wanted = classifier.predict(files[0])
    content = pickle.dumps(classifier)
    assert len(content) < 1000
    monkeypatch.chdir(tmp_path)  # as a worker may be elsewhere
    for other in (pickle.loads(content), copy.copy(classifier), copy.deepcopy(classifier)):
        assert other.predict(files[0]) == wanted


def test_pickle_of_an_app_that_is_gone_names_it(app, tmp_path):
    path = tmp_path / "gone.onnx"
    path.write_bytes(app.read_bytes())
    content = pickle.dumps(Classifier(path))
    path.unlink()
    with pytest.raises(FileFormatError, match=r"gone\.onnx: no such file"):
        pickle.loads(content)


def test_other_processes_use_it(app, files):
    classifier = Classifier(app, threads=1)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        predicted = list(pool.map(partial(classifier.predict, top=1), files[:3]))
    assert predicted == [classifier.predict(path, top=1) for path in files[:3]]


def test_several_threads_use_it_at_once(app, files):
    classifier = Classifier(app, threads=1)  # with more the last digits may differ
    wanted = [classifier.predict(path) for path in files[:10]]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(classifier.predict, files[:10] * 3)) == wanted * 3


def test_files_by_any_kind_of_path(classifier, files):
    wanted = list(classifier.predict_files(files[:3], top=2))
    assert [image.path for image in wanted] == files[:3]
    for paths in (map(str, files[:3]), tuple(files[:3]), np.array(list(map(str, files[:3])))):
        assert list(classifier.predict_files(paths, top=2)) == wanted


def test_files_without_end_are_read_as_they_are_asked_for(classifier, files):
    predicted = classifier.predict_files(files[number % 5] for number in count())
    for number in range(20):
        assert next(predicted).path == files[number % 5]
    predicted.close()


@pytest.mark.parametrize("paths", [None, 3, "photo.jpg", b"photo.jpg", Path("photo.jpg")])
def test_files_that_are_no_list_are_refused_at_once(classifier, paths):
    with pytest.raises(ParameterError, match="paths must be"):
        classifier.predict_files(paths)


def test_file_that_is_no_path_is_refused(classifier, files):
    with pytest.raises(ParameterError, match="each of paths must be a str or a Path, not None"):
        list(classifier.predict_files([files[0], None]))


@pytest.mark.parametrize(
    "options", [{"top": "3"}, {"top": 1.5}, {"max_pixels": "many"}, {"max_pixels": 0}], ids=str
)
def test_numbers_of_another_type_are_refused(classifier, files, options):
    for predict in (classifier.predict, classifier.predict_files):
        with pytest.raises(ParameterError, match=f"{next(iter(options))} must be "):
            predict(files[0] if predict == classifier.predict else files, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"path": None},
        {"path": b"app.onnx"},
        {"path": "n" * 300},
        {"threads": 0},
        {"threads": -1},
        {"threads": 1.0},
        {"threads": "2"},
        {"provider": None},
        {"provider": ["cpu"]},
    ],
    ids=str,
)
def test_app_is_not_opened_with_wrong_parameters(app, options):
    with pytest.raises(CnncodesError):
        Classifier(**{"path": app, **options})


@pytest.mark.parametrize("top", [1, 3, 10, 99])
def test_top(classifier, files, top):
    assert classifier.predict(files[3], top=top) == classifier.predict(files[3])[:top]
    assert len(classifier.predict(files[3], top=top)) == min(top, 10)


def test_probabilities_of_a_batch(classifier, app, files):
    images = np.stack([decode_image(path.read_bytes(), 75) for path in files[::9]])
    predicted = classifier.predict_proba(images)
    assert predicted.shape == (len(images), 10)
    assert predicted.dtype == np.float32
    assert predicted.sum(axis=1) == pytest.approx(1, abs=1e-5)
    session = onnxruntime.InferenceSession(str(app), providers=["CPUExecutionProvider"])
    assert np.abs(predicted - session.run(None, {"images": images})[0]).max() < 1e-6
    for path, row in zip(files[::9], predicted, strict=True):
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
    predicted = list(classifier.predict_files([photos / path for path in paths]))
    assert len(predicted) == 120
    for image, row in zip(predicted, wanted, strict=True):
        assert image.predictions[0].label == classifier.labels[row.argmax()]
        # The stored codes have 16 bits.
        assert image.predictions[0].probability == pytest.approx(row.max(), abs=0.01)
    right = [
        image.predictions[0].label == label for image, label in zip(predicted, truth, strict=True)
    ]
    assert np.mean(right) > 0.9


def test_broken_files_among_good_ones(classifier, files, tmp_path):
    contents = {"text.jpg": b"a text", "empty.png": b"", "cut.png": files[0].read_bytes()[:100]}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    broken = [tmp_path / "absent.png", *(tmp_path / name for name in contents), tmp_path]
    paths = [*broken[:2], *files[:MANY], broken[2], *files[20:33], *broken[3:]]
    predicted = list(classifier.predict_files(paths, top=2))
    assert [image.path for image in predicted] == paths
    for image in predicted:
        if image.path in broken:
            assert image.predictions == []
        else:
            assert image.problem == ""
            assert image.predictions == [
                Prediction(each.label, pytest.approx(each.probability, abs=1e-5))
                for each in classifier.predict(image.path, top=2)
            ]
    problems = {image.path: image.problem for image in predicted}
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
    paths = [tmp_path / f"{number}.png" for number in range(3 * MANY)]
    predicted = list(classifier.predict_files(paths))
    assert [image.path for image in predicted] == paths
    assert all(image.problem for image in predicted)


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
    with pytest.raises(ImageError, match="max_pixels"):
        classifier.predict(files[0], max_pixels=64 * 64 - 1)
    assert classifier.predict(files[0], top=1, max_pixels=64 * 64)
    refused = next(classifier.predict_files(files[:1], max_pixels=64 * 64 - 1))
    assert "max_pixels" in refused.problem


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
    with pytest.raises(FileFormatError, match=rf"is a {kind} \(.* it\), not an app;"):
        Classifier(path)


def test_missing_app(tmp_path):
    with pytest.raises(FileFormatError, match="no such file; make one with: cnncodes bundle"):
        Classifier(tmp_path / "absent.onnx")


@pytest.mark.parametrize("top", [0, -1])
def test_top_below_one_is_refused(app, photos, top):
    with pytest.raises(ParameterError, match="top must be from 1 to "):
        Classifier(app).predict(next(photos.rglob("*.png")), top)


def test_other_arrays_are_refused(app):
    with pytest.raises(ParameterError, match=r"must be uint8 of shape \(n_images, 75, 75, 3\)"):
        Classifier(app).predict_proba(np.zeros((1, 80, 80, 3), np.uint8))


def worker_threads():
    return [each for each in threading.enumerate() if each.name.startswith("worker")]


@pytest.fixture
def opened(monkeypatch):
    """The number of threads of each session that is opened."""
    threads = []

    class Recorded(onnxruntime.InferenceSession):
        def __init__(self, path, options, **others):
            threads.append(options.intra_op_num_threads)
            super().__init__(path, options, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Recorded)
    return threads


def test_few_images_need_one_session_of_all_threads(app, files, opened):
    classifier = Classifier(app, threads=3)
    classifier.predict(files[0])
    assert len(list(classifier.predict_files(files[: MANY - 1]))) == MANY - 1
    assert opened == [3]


def test_many_images_share_a_session_of_one_thread(app, files, opened):
    classifier = Classifier(app, threads=3)
    for _ in range(2):
        assert len(list(classifier.predict_files(files[:MANY]))) == MANY
    assert opened == [3, 1]


def test_many_images_that_are_announced_need_one_session(app, files, opened):
    classifier = Classifier(app, threads=3, n_images=MANY)
    assert len(list(classifier.predict_files(files[:MANY]))) == MANY
    assert opened == [1]
    assert pickle.loads(pickle.dumps(classifier)).predict(files[0]) == classifier.predict(files[0])
    assert opened == [1, 1]


@pytest.mark.parametrize("after", ["deleted", "replaced"])
def test_file_may_go_once_it_is_open(app, files, tmp_path, after):
    path = tmp_path / "app.onnx"
    path.write_bytes(app.read_bytes())
    classifier = Classifier(path, threads=2)
    path.unlink()
    if after == "replaced":
        model = onnx.load(app)
        (weights,) = (each for each in model.graph.initializer if list(each.dims) == [2048, 10])
        weights.raw_data = bytes(len(weights.raw_data))
        save_checked(model, path)
    results = list(classifier.predict_files(files[:MANY], top=1))
    for result, each in zip(results, files, strict=False):
        (expected,) = classifier.predict(each, top=1)
        assert result.predictions[0].label == expected.label
        assert result.predictions[0].probability == pytest.approx(expected.probability, abs=1e-5)


def test_threads_end_when_left_early(classifier, files):
    predictions = classifier.predict_files(files * 20)
    next(predictions)
    assert worker_threads()
    predictions.close()
    assert not worker_threads()


def test_threads_end_when_the_network_fails(app, files):
    class Failing(Classifier):
        def _answers(self, images, *_, **__):
            raise ArithmeticError("failed")

    with pytest.raises(ArithmeticError) as caught:
        list(Failing(app).predict_files(files * 20))
    assert caught.traceback  # which keeps what the functions were working with
    assert not worker_threads()


def test_is_shown_in_one_line(app, tmp_path, monkeypatch):
    monkeypatch.chdir(app.parent)
    assert repr(Classifier(app.name)) == (
        f"<Classifier {app.name!r}: 10 classes (0, 1, 2, …), inception_v3 float32>"
    )
