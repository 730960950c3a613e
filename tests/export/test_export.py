"""The export by both converters, in processes of their own: TensorFlow stays out of this one."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import onnx
import pytest
from PIL import Image

from cnncodes import Backbone
from cnncodes.errors import MissingDependencyError, ParameterError
from cnncodes.export.backbones import BACKBONES, CONVERTERS
from cnncodes.export.export import DIRECT_PARITY, export_backbone
from cnncodes.export.graph import Graph
from cnncodes.export.winograd import restore_convolutions
from tests.conftest import Exports
from tests.export.keras_process import (
    command,
    export_as_a_program,
    export_without_download,
    print_refused,
    run_with_keras,
    save_codes,
)
from tests.export.networks import codes_of, operators
from tests.helpers import run_command, run_process

CODE_SHAPES = {
    "inception_v3": (5, 5, 2048),
    "vgg16": (7, 7, 512),
    "vgg19": (7, 7, 512),
    "mobilenet_v2": (7, 7, 1280),
    "resnet50": (7, 7, 2048),
    "efficientnet_v2_b0": (7, 7, 1280),
}
TF2ONNX = ("--converter", "tf2onnx")
BEFORE_THE_NETWORK = {"Cast", "Slice", "Concat", "Sub", "Add", "Mul", "Transpose"}
IN_THE_NETWORK = {"Conv", "Relu", "Clip", "Sigmoid", "Add", "Mul", "Concat", "Pad", "Transpose"}
IN_THE_NETWORK |= {"MaxPool", "AveragePool", "GlobalAveragePool"}
OF_WINOGRAD = {"Gather", "MatMul", "Reshape", "Slice"}


def keras_codes(
    name: str, images: np.ndarray, folder: Path, *, trained: bool = False
) -> np.ndarray:
    """Return Keras's own codes; the weights that gave them are in codes.npy.weights.h5."""
    path = folder / "codes.npy"
    done = run_with_keras(save_codes, name, images, path, trained)
    assert done.returncode == 0, done.stderr
    codes: np.ndarray = np.load(path)
    return codes


def run_export(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``cnncodes export`` as `run_process` does, without waiting for TensorFlow."""
    return run_with_keras(command, "export", *map(str, arguments))


def relative_difference(codes: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(codes - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="session")
def vgg16_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``.weights.h5`` file of VGG16, small enough to tamper with."""
    folder = tmp_path_factory.mktemp("weights")
    keras_codes("vgg16", np.zeros((1, 32, 32, 3), np.uint8), folder)
    return folder / "codes.npy.weights.h5"


@pytest.mark.parametrize("name", CODE_SHAPES)
def test_codes_are_those_of_keras(name: str, exports: Exports, tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    images[1] = images[1] // 16  # a dark and, below, a bright one
    images[2] = 255 - images[1]
    exports.begin(name)
    exports.begin(name, *TF2ONNX)
    expected = keras_codes(name, images, tmp_path)
    for options in ((), TF2ONNX):
        backbone = Backbone(exports.get(name, *options))
        codes = backbone.extract(images)
        assert codes.shape == (3, *CODE_SHAPES[name])
        assert relative_difference(codes, expected) <= 5e-6
        assert backbone.info.parity <= 5e-6
        assert backbone.info.parity_images == "2 photographs of scikit-learn and 2 images of noise"
        assert backbone.info.weights == "random:0"
        assert backbone.info.converter == ("tf2onnx" if options else "direct")


@pytest.mark.parametrize("converter", CONVERTERS)
@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50", "efficientnet_v2_b0"])
def test_batch_normalization_is_folded_into_the_convolutions(
    name: str, converter: str, tmp_path: Path
) -> None:
    """With statistics as training leaves them: those of random weights do nothing."""
    images = np.random.default_rng(2).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    expected = keras_codes(name, images, tmp_path, trained=True)
    weights, path = tmp_path / "codes.npy.weights.h5", tmp_path / "trained.onnx"
    options = ("--input-size", "64", "--no-winograd", "--converter", converter)
    done = run_export(name, "--weights", weights, *options, "-o", path)
    assert done.returncode == 0, done.stderr
    assert relative_difference(Backbone(path).extract(images), expected) <= 1e-4
    graph = onnx.load(str(path)).graph
    constants = {each.name for each in graph.initializer}
    first = [node.op_type for node in graph.node].index("Conv")
    assert {node.op_type for node in graph.node[:first]} <= BEFORE_THE_NETWORK
    assert {node.op_type for node in graph.node[first:]} <= IN_THE_NETWORK
    for node in graph.node[first:]:
        assert node.op_type not in ("Mul", "Add") or constants.isdisjoint(node.input)


@pytest.mark.parametrize(("converter", "most"), [("direct", 0.6e9), ("tf2onnx", 2.5e9)])
def test_memory(converter: str, most: float, tmp_path: Path) -> None:
    """As a laptop has it; TensorFlow is hidden from the direct way, which would compare with it."""
    program = f"""
import sys
sys.modules.update(dict.fromkeys(["tensorflow"] * ({converter!r} == "direct")))
from cnncodes.cli import main
words = ["export", "inception_v3", "--weights", "random", "--converter", {converter!r}]
main([*words, "-o", {str(tmp_path / "b.onnx")!r}], standalone_mode=False)
print(open("/proc/self/status").read())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", done.stdout, flags=re.MULTILINE)
    assert 0.1e9 < 1024 * int(peak) < most


@pytest.mark.parametrize("name", CODE_SHAPES)
def test_figures_in_the_table_are_those_of_the_graph(name: str, exports: Exports) -> None:
    graph = Graph.load(exports.get(name))
    restore_convolutions(graph)
    shapes = graph.shapes()
    convolutions = [node for node in graph.nodes if node.op_type == "Conv"]
    kernels = [graph.constants[node.input[1]].shape for node in convolutions]
    # Random weights have biases of zero, which the graph may leave out: trained ones have all.
    n_parameters = sum(math.prod(kernel) + kernel[0] for kernel in kernels)
    n_multiply_adds = sum(
        math.prod(kernel) * math.prod(shapes[node.output[0]][2:])
        for kernel, node in zip(kernels, convolutions, strict=True)
    )
    spec = BACKBONES[name]
    assert (spec.n_parameters, spec.n_multiply_adds) == (n_parameters, n_multiply_adds)
    assert spec.code_shape == tuple(shapes["codes"][1:])


def test_smallest_input_is_that_of_keras() -> None:
    specs = BACKBONES.values()
    too_small = [[spec.keras_class, spec.min_input_size - 1] for spec in specs]
    smallest = [[spec.keras_class, spec.min_input_size] for spec in specs]
    done = run_with_keras(print_refused, [*too_small, *smallest])
    assert json.loads(done.stdout) == too_small


@pytest.mark.parametrize("name", CODE_SHAPES)
def test_operators_are_those_that_every_runtime_has(name: str, exports: Exports) -> None:
    graph = Graph.load(exports.get(name))
    assert set(operators(graph)) <= BEFORE_THE_NETWORK | IN_THE_NETWORK | OF_WINOGRAD
    assert [each.domain for each in graph.model().opset_import] == [""]
    restore_convolutions(graph)
    assert set(operators(graph)) <= BEFORE_THE_NETWORK | IN_THE_NETWORK
    assert operators(graph).count("Transpose") == 2  # to channels first and back


def test_winograd_can_be_left_out(exports: Exports) -> None:
    options = ("--input-size", "64", "--layer", "block2_pool")
    quick = Graph.load(exports.get("vgg16", *options))
    plain = Graph.load(exports.get("vgg16", *options, "--no-winograd"))
    assert restore_convolutions(plain) == 0
    assert restore_convolutions(quick) == 3
    assert operators(quick) == operators(plain)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(codes_of(quick, images), codes_of(plain, images))


def test_every_row_of_the_table_is_tested() -> None:
    assert list(BACKBONES) == list(CODE_SHAPES)
    assert all(name == spec.name for name, spec in BACKBONES.items())


def test_input_of_299_pixels(exports: Exports) -> None:
    backbone = Backbone(exports.get("inception_v3", "--input-size", "299"))
    assert backbone.code_shape == (8, 8, 2048)
    assert backbone.info.parity <= 1e-5


def test_earlier_layer_and_pooling(exports: Exports) -> None:
    options = ("--input-size", "64", "--layer", "block2_pool")
    plain = Backbone(exports.get("vgg16", *options))
    pooled = Backbone(exports.get("vgg16", *options, "--pool", "max"))
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    assert plain.code_shape == (16, 16, 128)
    assert plain.info.layer == "block2_pool"
    np.testing.assert_allclose(
        pooled.extract(images), plain.extract(images).max(axis=(1, 2)), rtol=1e-5
    )


def test_network_of_another_size_than_the_images(exports: Exports, tmp_path: Path) -> None:
    """In float32, and quantized: the resized pixels are not bytes any more."""
    path = exports.get("vgg16", "--input-size", "64", "--network-size", "40", "--pool", "avg")
    backbone = Backbone(path)
    assert backbone.info.input_size == 64
    assert backbone.info.network_size == 40
    assert backbone.info.parity <= 1e-5  # to Keras's codes of the images in 40 pixels
    assert json.loads(run_command("info", path, "--json").stdout)["network_size"] == 40
    images = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), dtype=np.uint8)
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(photos / f"{number}.png")
    int8 = tmp_path / "int8.onnx"
    run_command("quantize", path, "--images", photos, "-o", int8)
    one, two = backbone.extract(images), Backbone(int8).extract(images)
    assert one.shape == two.shape == (12, 512)
    cosines = (one * two).sum(axis=1) / np.sqrt((one**2).sum(axis=1) * (two**2).sum(axis=1))
    assert cosines.min() >= 0.99


def test_file_describes_itself(exports: Exports) -> None:
    model = onnx.load(str(exports.get("vgg19")))
    onnx.checker.check_model(model, full_check=True)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["cnncodes.format"] == "1"
    assert metadata["cnncodes.kind"] == "backbone"
    assert metadata["cnncodes.backbone"] == "vgg19"
    assert metadata["cnncodes.parity_images"].startswith("2 photographs")
    assert float(metadata["cnncodes.parity"]) > 0
    assert "tensorflow" in metadata["cnncodes.created_with"]  # with which it was compared
    assert metadata["cnncodes.converter"] == "direct"
    (images,) = model.graph.input
    (codes,) = model.graph.output
    assert (images.name, codes.name) == ("images", "codes")
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert images.type.tensor_type.shape.dim[0].dim_param == "N"
    assert model.opset_import[0].version <= 21


def test_seed_chooses_the_random_weights(exports: Exports) -> None:
    first = exports.get("vgg16", "--input-size", "32")
    second = exports.get("vgg16", "--input-size", "32", "--seed", "1")
    image = np.full((1, 32, 32, 3), 128, np.uint8)
    assert not np.allclose(Backbone(first).extract(image), Backbone(second).extract(image))
    assert Backbone(second).info.weights == "random:1"


@pytest.fixture(scope="module")
def vgg16_of_file(tmp_path_factory: pytest.TempPathFactory, vgg16_weights: Path) -> Backbone:
    """VGG16 with the weights of that file."""
    folder = tmp_path_factory.mktemp("vgg16")
    done = export_vgg16(vgg16_weights, folder)
    assert done.returncode == 0, done.stderr
    return Backbone(folder / "vgg16.onnx")


def test_weights_from_a_file(
    vgg16_weights: Path, vgg16_of_file: Backbone, exports: Exports
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    same = Backbone(exports.get("vgg16", "--input-size", "32"))
    np.testing.assert_allclose(vgg16_of_file.extract(image), same.extract(image), rtol=1e-5)
    assert vgg16_of_file.info.weights.startswith("file:")
    assert vgg16_of_file.info.weights_file == vgg16_weights.name


def test_published_layout_is_read_under_any_name(
    vgg16_weights: Path, vgg16_of_file: Backbone, tmp_path: Path
) -> None:
    """Keras publishes its weights in the layout of Keras 1, with named layers in order."""
    legacy = tmp_path / "downloaded.h5.1"
    to_legacy(vgg16_weights, legacy)
    done = export_vgg16(legacy, tmp_path)
    assert done.returncode == 0, done.stderr
    image = np.full((1, 32, 32, 3), 77, np.uint8)
    backbone = Backbone(tmp_path / "vgg16.onnx")
    np.testing.assert_array_equal(backbone.extract(image), vgg16_of_file.extract(image))


def test_weights_of_a_whole_model(
    vgg16_weights: Path, vgg16_of_file: Backbone, tmp_path: Path
) -> None:
    """A ``.keras`` file of a model around the network; its origin is that of the whole file."""
    inner = tmp_path / "model.weights.h5"
    with h5py.File(vgg16_weights) as source, h5py.File(inner, "w") as file:
        source.copy("layers", file.create_group("layers/functional"))
        file["layers/dense/vars/0"] = np.ones((512, 3))
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(inner, inner.name)
    done = export_vgg16(path, tmp_path)
    assert done.returncode == 0, done.stderr
    image = np.full((1, 32, 32, 3), 77, np.uint8)
    backbone = Backbone(tmp_path / "vgg16.onnx")
    np.testing.assert_array_equal(backbone.extract(image), vgg16_of_file.extract(image))
    assert backbone.info.weights == f"file:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_weights_that_do_not_fit(vgg16_weights: Path, tmp_path: Path) -> None:
    lacking = tmp_path / "lacking.weights.h5"
    lacking.write_bytes(vgg16_weights.read_bytes())
    with h5py.File(lacking, "r+") as file:
        del file["layers/conv2d_3/vars/0"]
    assert_fails(lacking, tmp_path, "layer block2_conv2 has weights of shape")

    reshaped = tmp_path / "reshaped.h5"
    to_legacy(vgg16_weights, reshaped)
    with h5py.File(reshaped, "r+") as file:
        group = file["conv2d_5"]
        del group["weight_0"]
        group["weight_0"] = np.zeros((3, 3, 8, 8), np.float32)
    assert_fails(reshaped, tmp_path, "layer block3_conv2 has weights of shape")

    other = run_export(
        *("inception_v3", "--input-size", "75", "-o", tmp_path / "x.onnx"),
        *("--weights", vgg16_weights),
    )
    assert other.returncode == 1
    assert "does not fit inception_v3 without its top: layer conv2d " in other.stderr
    assert not (tmp_path / "x.onnx").exists()


def test_weights_that_are_damaged(vgg16_weights: Path, tmp_path: Path) -> None:
    truncated = tmp_path / "truncated.weights.h5"
    truncated.write_bytes(vgg16_weights.read_bytes()[:1_000_000])
    assert_fails(truncated, tmp_path, "truncated.weights.h5: not a readable HDF5 file")

    foreign = tmp_path / "foreign.weights.h5"
    with h5py.File(foreign, "w") as file:
        file["numbers"] = [1, 2, 3]
    assert_fails(foreign, tmp_path, "foreign.weights.h5: an HDF5 file, but not Keras weights")

    assert_fails(
        tmp_path / "absent.h5", tmp_path, "absent.h5: no such file; weights must be imagenet"
    )
    assert_fails(
        tmp_path, tmp_path, ", not Keras weights; from the Keras model save model.save_weights"
    )

    broken = tmp_path / "broken.weights.h5"
    broken.write_bytes(vgg16_weights.read_bytes())
    with h5py.File(broken, "r+") as file:
        file["layers/conv2d_12/vars/1"][0] = np.nan
    assert_fails(broken, tmp_path, f"{broken}: the weights of layer block5_conv3 are not finite")
    done = export_vgg16(broken, tmp_path, *TF2ONNX)
    assert "its codes or Keras's are not finite" in done.stderr
    assert list(tmp_path.glob("*.onnx")) == []


def test_no_network_names_three_ways_on(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *("unshare", "--net", "--map-root-user", sys.executable, "-m", "cnncodes"),
            *("export", "vgg16", "-o", str(tmp_path / "vgg16.onnx")),
        ],
        env={**os.environ, "KERAS_HOME": str(tmp_path / "keras")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    spec = BACKBONES["vgg16"]
    address = f"{spec.weights_address}/{spec.weights_file}"
    for way in (
        f"{address}: cannot be downloaded (",
        "; fetch it with a browser and pass --weights FILE",
    ):
        assert way in line
    assert len(line) < 300
    assert f"note: downloading {address}, 59 MB, to {tmp_path}" in done.stderr
    assert list(tmp_path.glob("*.onnx")) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layer", "mixd8"], "inception_v3 has no layer 'mixd8'; name one such as mixed8"),
        (["--layer", ""], "inception_v3 has no layer ''; name one such as "),
        (["--input-size", "74"], "needs an --input-size of 75 pixels or more"),
        (["--network-size", "74"], "needs a --network-size of 75 pixels or more"),
        (["--network-size", "99", "--converter", "tf2onnx"], "needs --converter direct"),
        (["-o", "missing/x.onnx"], "missing/x.onnx: the folder missing does not exist"),
    ],
)
def test_requests_that_cannot_be_met(options: list[str], message: str, tmp_path: Path) -> None:
    done = run_export("inception_v3", "--weights", "random", "-o", tmp_path / "x.onnx", *options)
    assert done.returncode == 1
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_output_that_exists_is_kept(tmp_path: Path) -> None:
    (tmp_path / "vgg16.onnx").write_text("precious")
    done = run_export("vgg16", "--weights", "random", "-o", tmp_path / "vgg16.onnx")
    assert done.returncode == 1
    assert "exists already" in done.stderr
    assert (tmp_path / "vgg16.onnx").read_text() == "precious"


def test_json_has_the_parity_and_nothing_else_is_printed(tmp_path: Path) -> None:
    """In a process that has to load TensorFlow too, which prints much at that time."""
    path = tmp_path / "vgg16.onnx"
    path.write_text("to be replaced")
    done = run_process(
        *("export", "vgg16", "--weights", "random", "--input-size", "32"),
        *("-o", path, "--overwrite", "--json"),
    )
    printed = json.loads(done.stdout)
    assert printed["code_shape"] == [1, 1, 512]
    assert 0 < printed["parity"] <= 1e-5
    assert printed["converter"] == "direct"
    assert Backbone(path).info.backbone == "vgg16"
    assert done.stderr.count("\n") == 1, done.stderr


@pytest.fixture(scope="module")
def plain_vgg16(exports: Exports) -> Path:
    """VGG16 as it is exported without settings of anyone."""
    return exports.get("vgg16", "--input-size", "32")


@pytest.fixture(scope="module")
def converted_vgg16(exports: Exports) -> Path:
    """The same by tf2onnx."""
    return exports.get("vgg16", "--input-size", "32", *TF2ONNX)


def same_graphs(one: Path, two: Path) -> bool:
    """Whether two networks are equal, but for the parity, which may differ by rounding."""
    contents = []
    for path in (one, two):
        model = onnx.load(str(path))
        del model.metadata_props[:]
        contents.append(model.SerializeToString())
    return contents[0] == contents[1]


def test_settings_of_other_projects_do_not_matter(converted_vgg16: Path, tmp_path: Path) -> None:
    asked = {
        "floatx": "float16",
        "epsilon": 1e-4,
        "backend": "jax",
        "image_data_format": "channels_first",
    }
    settings = tmp_path / "keras.json"
    settings.write_text(json.dumps(asked))
    path = tmp_path / "vgg16.onnx"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "cnncodes", "export", "vgg16", "--weights", "random"),
            *("--input-size", "32", "-o", str(path), *TF2ONNX),
        ],
        env={**os.environ, "KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert same_graphs(path, converted_vgg16)
    assert json.loads(settings.read_text()) == asked


def test_settings_of_a_program_stay(plain_vgg16: Path, tmp_path: Path) -> None:
    done = run_with_keras(export_as_a_program, tmp_path / "vgg16.onnx")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "floatx": "float16",
        "image_data_format": "channels_first",
        "dtype_policy": "mixed_bfloat16",
        "logging": True,
        "random": True,
    }
    assert same_graphs(tmp_path / "vgg16.onnx", plain_vgg16)


def test_settings_that_keras_cannot_use(tmp_path: Path) -> None:
    """Only tf2onnx cannot do without Keras."""
    (tmp_path / "keras.json").write_text('{"floatx": "int8"}')
    reason = "Keras cannot be imported (Invalid `floatx` configuration."
    remedy = f"look at {tmp_path / 'keras.json'}, or let KERAS_HOME name another folder"
    lines, path = {}, tmp_path / "vgg16.onnx"
    for converter in CONVERTERS:
        options = ("--weights", "random", "--input-size", "32", "--converter", converter)
        done = subprocess.run(
            [sys.executable, "-m", "cnncodes", "export", "vgg16", *options, "-o", str(path)],
            env={**os.environ, "KERAS_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == (converter == "tf2onnx")
        lines[converter] = done.stderr.splitlines()[-1]
        assert remedy in lines[converter]
        if converter == "direct":
            info = Backbone(path).info
            assert info.parity == DIRECT_PARITY[True]
            assert info.parity_images.endswith("in the tests of this release, not with this file")
            assert "tensorflow" not in info.created_with
            path.unlink()
    assert lines["direct"].startswith(f"note: not compared with Keras: {reason}")
    assert lines["tf2onnx"].startswith(f"Error: {reason}")


def test_program_that_has_keras_on_another_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No other backend is installed here, so a stub answers as such a Keras does.
    other = SimpleNamespace(config=SimpleNamespace(backend=lambda: "torch"))
    monkeypatch.setitem(sys.modules, "keras", other)
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with pytest.raises(MissingDependencyError, match=r"imported it on torch; export in"):
        export_backbone("vgg16", tmp_path / "x.onnx", weights="random", converter="tf2onnx")
    assert os.environ["KERAS_BACKEND"] == "torch"


def test_download_on_a_disk_without_file_locks(
    vgg16_weights: Path, vgg16_of_file: Backbone, tmp_path: Path
) -> None:
    """HDF5 reads with a lock, which is refused here; we do without."""
    path = tmp_path / "models" / BACKBONES["vgg16"].weights_file
    path.parent.mkdir()
    to_legacy(vgg16_weights, path)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = run_with_keras(export_without_download, tmp_path / "vgg16.onnx", tmp_path)
    assert done.returncode == 0, done.stderr
    image = np.full((1, 32, 32, 3), 77, np.uint8)
    backbone = Backbone(tmp_path / "vgg16.onnx")
    np.testing.assert_array_equal(backbone.extract(image), vgg16_of_file.extract(image))
    assert backbone.info.weights == "imagenet"
    assert "downloading" not in done.stderr


@pytest.mark.parametrize(
    "parameters",
    [
        {"name": "vgg61"},
        {"name": "vgg16", "pool": "mean"},
        {"name": "vgg16", "converter": "tf2onxx"},
    ],
)
def test_library_refuses_what_is_not_in_the_table(
    parameters: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(ParameterError, match="must be"):
        export_backbone(**parameters, output=tmp_path / "x.onnx")


def export_vgg16(weights: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    path = folder / "vgg16.onnx"
    return run_export("vgg16", "--input-size", "32", "--weights", weights, *options, "-o", path)


def assert_fails(weights: Path, folder: Path, message: str) -> None:
    done = export_vgg16(weights, folder)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert message in line
    assert list(folder.glob("*.onnx")) == []
    assert list(folder.glob(".*")) == []


def to_legacy(weights: Path, legacy: Path) -> None:
    """Write the weights of a ``.weights.h5`` file of VGG16 in Keras's older layout."""
    with h5py.File(weights) as source, h5py.File(legacy, "w") as file:
        names = [f"conv2d_{number}" if number else "conv2d" for number in range(13)]
        file.attrs["layer_names"] = ["input_1", *names]
        file.create_group("input_1").attrs["weight_names"] = np.array([], "S1")
        for name in names:
            group = file.create_group(name)
            group.attrs["weight_names"] = ["weight_0", "weight_1"]
            for number in range(2):
                group[f"weight_{number}"] = source[f"layers/{name}/vars/{number}"][:]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
def test_folder_for_temporary_files_that_onnxruntime_cannot_name(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "cnncodes", "export", "vgg16", "--weights", "random"],
        env={**os.environ, "TMPDIR": str(folder)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (error,) = done.stderr.splitlines()
    assert error.endswith(
        "a name that is not UTF-8, which onnxruntime cannot use; let TMPDIR name another"
    )
    assert [each.name for each in tmp_path.iterdir()] == [folder.name]
