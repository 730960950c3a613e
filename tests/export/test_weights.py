"""Where weights come from, and what random ones are."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from cnncodes.errors import WeightsError
from cnncodes.export.architectures import layers_of
from cnncodes.export.backbones import BACKBONES, BackboneSpec
from cnncodes.export.weights import fetch_weights, random_weights
from tests.helpers import unprivileged

CONTENT = b"weights" * 1000


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BackboneSpec:
    """MobileNetV2, of which a server of ours publishes weights for three sizes."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    published = BACKBONES["mobilenet_v2"]
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / published.weights_file).write_bytes(CONTENT)
    (folder / published.weights_file_for(96)).write_bytes(CONTENT[:-7])
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    return replace(
        published,
        weights_address=f"http://127.0.0.1:{server.server_port}",
        weights_bytes=len(CONTENT),
    )


def test_weights_are_cached_where_keras_does(spec: BackboneSpec, tmp_path: Path) -> None:
    notes: list[str] = []
    path = fetch_weights(spec, 224, on_note=notes.append)
    assert path == tmp_path / "keras" / "models" / spec.weights_file
    assert path.read_bytes() == CONTENT
    address = f"{spec.weights_address}/{spec.weights_file}"
    assert notes == [f"downloading {address}, 0 MB, to {path}"]
    offline = replace(spec, weights_address="http://name.invalid")
    assert fetch_weights(offline, 299, on_note=notes.append) == path
    assert len(notes) == 1


def test_weights_for_another_size(spec: BackboneSpec) -> None:
    path = fetch_weights(spec, 96)
    assert path.name == "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_96_no_top.h5"
    assert path.read_bytes() == CONTENT[:-7]


def test_damaged_file_in_the_cache_is_fetched_again(spec: BackboneSpec) -> None:
    path = fetch_weights(spec, 224)
    path.write_bytes(CONTENT[:-1] + b"x")
    spec = replace(spec, weights_checksum=f"md5:{hashlib.md5(CONTENT).hexdigest()}")
    notes: list[str] = []
    assert fetch_weights(spec, 224, on_note=notes.append).read_bytes() == CONTENT
    (note,) = notes
    assert note.startswith(f"{path} is not the file that Keras publishes (its MD5 is ")


def test_no_network_names_the_address_and_ways_on(spec: BackboneSpec) -> None:
    offline = replace(spec, weights_address="http://name.invalid/keras")
    with pytest.raises(WeightsError) as caught:
        fetch_weights(offline, 224)
    message = str(caught.value)
    assert message.startswith(f"http://name.invalid/keras/{spec.weights_file}: cannot be down")
    assert message.endswith("; fetch it with a browser and pass weights='FILE'")


@pytest.mark.skipif(os.name != "posix", reason="Windows has other permissions")
def test_cache_that_cannot_be_written_names_ways_on(spec: BackboneSpec, tmp_path: Path) -> None:
    (tmp_path / "keras").mkdir(mode=0o555)
    with pytest.raises(WeightsError) as caught, unprivileged(tmp_path):
        fetch_weights(spec, 224)
    assert str(caught.value).endswith(
        "cannot be written (Permission denied); set KERAS_HOME to a folder that can be written "
        "to, or fetch the file with a browser and pass weights='FILE'"
    )


def test_addresses_are_those_of_keras() -> None:
    """Keras's own sources name them, and the checksums."""
    import importlib.util

    package = importlib.util.find_spec("keras")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "src" / "applications"
    for spec in BACKBONES.values():
        source = (folder / f"{spec.keras_module.replace('resnet50', 'resnet')}.py").read_text()
        address = spec.weights_address.rpartition("/tensorflow/")[2]
        assert address in "".join(source.split('"\n    "')), spec.name
        assert spec.weights_checksum.removeprefix("md5:") in source, spec.name


def test_random_weights_are_drawn_from_the_seed() -> None:
    layers = layers_of("efficientnet_v2_b0", 64)
    one, two, other = (random_weights(layers, seed) for seed in (0, 0, 1))
    for name, arrays in one.items():
        for array, same in zip(arrays, two[name], strict=True):
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, same)
    assert not np.array_equal(one["stem_conv"][0], other["stem_conv"][0])
    assert [each.name for each in layers if each.weights] == list(one)


@pytest.mark.parametrize(
    ("name", "layer", "variance"),
    [
        ("vgg16", "block4_conv1", 2 / (9 * (256 + 512))),
        ("mobilenet_v2", "block_16_depthwise", 2 / (9 * (960 + 1))),
        ("efficientnet_v2_b0", "block6a_expand_conv", 2 / 672),
        ("efficientnet_v2_b0", "block6a_dwconv2", 2 / 9),
    ],
)
def test_random_kernels_have_the_variance_of_keras(name: str, layer: str, variance: float) -> None:
    weights = random_weights(layers_of(name, 75), 0)[layer]
    assert weights[0].mean() == pytest.approx(0, abs=0.1 * variance**0.5)
    assert weights[0].var() == pytest.approx(variance, rel=0.05)
    assert not any(each.any() for each in weights[1:])
