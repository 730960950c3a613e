"""The extraction as a step of a scikit-learn pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cnncodes import Backbone, CodeStore
from cnncodes.errors import FileFormatError, ImageError, ParameterError
from cnncodes.extract import CodeExtractor
from cnncodes.images.decoding import decode_image


@pytest.fixture(scope="module")
def paths(photos: Path) -> list[str]:
    return sorted(map(str, photos.rglob("*.png")))


def test_classifies_photos_in_a_pipeline(small_backbone: Path, paths: list[str]) -> None:
    labels = [Path(path).parent.name for path in paths]
    model = make_pipeline(
        CodeExtractor(small_backbone), StandardScaler(), LogisticRegression(max_iter=1000)
    )
    model.fit(paths[::2], labels[::2])
    assert model.score(paths[1::2], labels[1::2]) > 0.7  # ten classes: chance gives 0.1


def test_gives_the_codes_of_the_command(
    small_backbone: Path, photos: Path, paths: list[str], codes: Path
) -> None:
    actual = CodeExtractor(small_backbone, batch_size=5, threads=1).fit_transform(paths)
    assert actual.dtype == np.float32
    with CodeStore.open(codes) as store:
        assert [str(photos / path) for path in store.paths] == paths
        stored = store.codes[:].reshape(len(paths), -1)
    np.testing.assert_allclose(actual, stored, rtol=2**-10, atol=2**-23)


@pytest.mark.parametrize("kind", [str, Path, np.array])
def test_takes_paths_of_any_kind(small_backbone: Path, paths: list[str], kind: type) -> None:
    some = np.array(paths[:3]) if kind is np.array else [kind(path) for path in paths[:3]]
    actual = CodeExtractor(small_backbone, batch_size=2).transform(some)
    images = np.stack([decode_image(Path(path).read_bytes(), 75) for path in paths[:3]])
    expected = Backbone(small_backbone).extract(images)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-7)


def test_gives_no_rows_for_no_images(small_backbone: Path) -> None:
    assert CodeExtractor(small_backbone).transform([]).shape == (0, 2048)


def test_names_the_image_it_cannot_use(
    small_backbone: Path, paths: list[str], tmp_path: Path
) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    for name, reason in (
        (
            "text.jpg",
            "not a JPEG, PNG, WebP, AVIF, HEIC, BMP, GIF, TIFF, PPM, JPEG 2000 or TGA image",
        ),
        ("missing.png", "cannot be read: No such file or directory"),
    ):
        with pytest.raises(ImageError) as caught:
            CodeExtractor(small_backbone, batch_size=2).transform(
                [*paths[:3], tmp_path / name, *paths[3:]]
            )
        assert str(caught.value) == f"{tmp_path / name}: {reason}"


@pytest.mark.parametrize("images", [None, "photo.jpg", [None], [["photo.jpg"]]])
def test_refuses_what_are_no_paths(small_backbone: Path, images: object) -> None:
    with pytest.raises(ParameterError, match="X must be"):
        CodeExtractor(small_backbone).transform(images)


def test_names_a_backbone_that_is_none(tmp_path: Path, paths: list[str]) -> None:
    with pytest.raises(FileFormatError, match="no such file"):
        CodeExtractor(tmp_path / "missing.onnx").transform(paths)


def test_can_be_cloned(small_backbone: Path) -> None:
    extractor = CodeExtractor(small_backbone, batch_size=3, threads=1)
    assert clone(extractor).get_params() == extractor.get_params()


def test_is_shown_as_it_is_made() -> None:
    assert repr(CodeExtractor("vgg16.onnx")) == "CodeExtractor(backbone='vgg16.onnx')"
