"""int8 from the command line: near, checked on other images, and kept apart from float32."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from cnncodes import Backbone, CodeStore, cli
from cnncodes.errors import ParameterError, SaturationWarning
from cnncodes.images.decoding import digest_images
from cnncodes.images.sources import find_images
from cnncodes.models import session
from cnncodes.models.checksum import read_checksum
from cnncodes.models.metadata import BackboneInfo
from cnncodes.quantize.quantize import compare_codes, quantize_backbone
from tests.conftest import Exports, Run
from tests.export.networks import Network
from tests.fuzz.files import Chain
from tests.helpers import error_of, run_command


@pytest.fixture(scope="module")
def quantized(
    tmp_path_factory: pytest.TempPathFactory, small_backbone: Path, photos: Path
) -> tuple[Path, str]:
    """`small_backbone` in int8, and what was printed."""
    path = tmp_path_factory.mktemp("int8") / "small.int8.onnx"
    arguments = ("quantize", small_backbone, "--images", photos, "-o", path, "--n-images", 64)
    return path, run_command(*arguments).stdout


@pytest.fixture(scope="module")
def int8(quantized: tuple[Path, str]) -> Path:
    """`small_backbone` in int8."""
    return quantized[0]


@pytest.fixture(scope="module")
def int8_codes(tmp_path_factory: pytest.TempPathFactory, int8: Path, photos: Path) -> Path:
    """Codes of `photos` by `int8`."""
    path = tmp_path_factory.mktemp("int8-codes") / "codes.h5"
    run_command("extract", int8, photos, "-o", path)
    return path


class Terminal(io.StringIO):
    """A stream on which a progress bar is drawn."""

    def isatty(self) -> bool:
        return True


def weights_of(path: Path) -> list[np.ndarray]:
    return [
        onnx.numpy_helper.to_array(each)
        for each in onnx.load(str(path)).graph.initializer
        if each.data_type == onnx.TensorProto.INT8 and len(each.dims) == 4
    ]


def test_codes_are_near_and_the_file_small(
    int8: Path, int8_codes: Path, codes: Path, small_backbone: Path
) -> None:
    with CodeStore.open(codes) as one, CodeStore.open(int8_codes) as two:
        assert one.paths == two.paths
        near = compare_codes(one.codes[:], two.codes[:])
        assert two.backbone.precision == "int8"
    assert near.cosine > 0.99
    assert near.relative_error > 0  # it is not the float32 network
    assert int8.stat().st_size < 0.3 * small_backbone.stat().st_size


def test_every_convolution_is_in_integers(int8: Path) -> None:
    # 94 of the network, and seven average pools; the last two pool a single pixel.
    assert len(weights_of(int8)) == 94 + 7
    assert all(np.abs(each).max() == 127 for each in weights_of(int8))


def test_exported_and_quantized_file_have_a_checksum(small_backbone: Path, int8: Path) -> None:
    for path in (small_backbone, int8):
        recorded, computed = read_checksum(path)
        assert recorded == computed


def test_what_is_printed_is_in_the_file(
    run: Run, quantized: tuple[Path, str], small_backbone: Path, photos: Path, tmp_path: Path
) -> None:
    int8, text = quantized
    path = tmp_path / "again.onnx"
    path.write_text("to be replaced")
    arguments = ("quantize", small_backbone, "--images", photos, "-o", path, "--n-images", 64)
    printed = json.loads(run(*arguments, "--overwrite", "--json").stdout)
    described = json.loads(run("info", path, "--json").stdout)
    assert described["precision"] == "int8"
    assert described["quantization"]["cosine"] == pytest.approx(
        printed["closeness"]["cosine"], abs=1e-6
    )
    assert printed["closeness"]["n_images"] == 16
    assert printed["n_calibration"] == 32
    assert printed["info"]["parent_sha256"] == Backbone(small_backbone).sha256
    assert printed["file_sizes"] == [small_backbone.stat().st_size, path.stat().st_size]
    for median, (slowest, fastest) in zip(
        printed["images_per_second"], printed["images_per_second_spread"], strict=True
    ):
        assert 0 < slowest <= median <= fastest
    assert path.read_bytes() == int8.read_bytes()  # same images, same seed: same file
    assert "cosine 0.9" in text
    assert "size" in text


@pytest.fixture
def convolution(tmp_path: Path) -> Path:
    """A backbone of one convolution."""
    network = Network(16)
    model = network.graph(network.conv_relu(network.pixels(), 8)).model()
    info = BackboneInfo("vgg16", "random:0", 16, "pool", "none", "float32", 0.0, "none", "test")
    onnx.helper.set_model_props(model, info.to_metadata())
    onnx.save(model, str(tmp_path / "network.onnx"))
    return tmp_path / "network.onnx"


@pytest.mark.usefixtures("convolution")
def test_seed_draws_other_images(photos: Path, tmp_path: Path) -> None:
    contents, metadata = [], []
    for seed in (0, 0, 1):
        arguments = ("--images", photos, "--n-images", 64, "--seed", seed, "--overwrite")
        run_command("quantize", tmp_path / "network.onnx", *arguments)
        contents.append((tmp_path / "network.int8.onnx").read_bytes())
        metadata.append(json.loads(Backbone(tmp_path / "network.int8.onnx").info.quantization))
    assert contents[0] == contents[1] != contents[2]
    assert [each["seed"] for each in metadata] == [0, 0, 1]
    assert [each["images"] for each in metadata] == [64, 64, 64]
    assert metadata[0]["images_sha256"] != metadata[2]["images_sha256"]


def test_reduced_weights_use_seven_bits_and_output_has_a_name_of_its_own(
    small_backbone: Path, photos: Path, tmp_path: Path
) -> None:
    backbone, path = tmp_path / "mine.onnx", tmp_path / "mine.int8.onnx"
    shutil.copy(small_backbone, backbone)
    some = tmp_path / "some"
    some.mkdir()
    for number, image in enumerate(sorted(photos.rglob("*.png"))[:16]):
        shutil.copy(image, some / f"{number}.png")
    arguments = ["--images", some, "--n-images", 99, "--weights", "reduced"]
    printed = run_command("quantize", backbone, *arguments).stdout
    assert "weights of 7 bits" in printed
    assert all(np.abs(each).max() == 63 for each in weights_of(path))
    metadata = json.loads(Backbone(path).info.quantization)
    assert metadata["weight_limit"] == 63
    digests = sorted(hashlib.sha256(each.read_bytes()).hexdigest() for each in some.iterdir())
    assert metadata["images_sha256"] == hashlib.sha256("".join(digests).encode()).hexdigest()
    assert metadata["images"] == 16


def test_whole_chain_in_int8(int8: Path, int8_codes: Path, photos: Path, tmp_path: Path) -> None:
    head, app = tmp_path / "head.onnx", tmp_path / "app.onnx"
    trained = json.loads(run_command("train", int8_codes, "-o", head, "--json").stdout)
    run_command("bundle", int8, head, "-o", app)
    image = next(photos.rglob("*.png"))
    answer = json.loads(run_command("predict", app, image, "--format", "json").stdout)
    assert trained["test"]["accuracy"] > 0.8
    assert answer[0]["predictions"][0]["label"] in {path.name for path in photos.iterdir()}


def test_precisions_are_not_mixed_by_accident(
    run: Run, int8: Path, int8_codes: Path, head: Path, codes: Path, photos: Path, tmp_path: Path
) -> None:
    app = tmp_path / "app.onnx"
    line = error_of("bundle", int8, head, "-o", app)
    assert line == (
        f"Error: {head}: was trained on codes of inception_v3 in float32, not in int8, as {int8} "
        "is: the same network, but its codes differ a little; train on codes of the same file, or "
        "pass --allow-mixed"
    )
    assert not app.exists()
    assert "--allow-mixed" in error_of("evaluate", head, int8_codes)
    assert "--allow-mixed" in error_of("evaluate", head, photos, "--backbone", int8)
    line = error_of("extract", int8, photos, "-o", codes)
    assert "with another backbone (inception_v3 in float32, not in int8); choose" in line
    run("bundle", int8, head, "-o", app, "--allow-mixed")
    described = json.loads(run("info", app, "--json").stdout)
    assert described["precision"] == "int8"
    assert described["backbone_sha256"] == Backbone(int8).sha256
    mixed, same = (
        json.loads(run("evaluate", head, each, *more, "--json").stdout)["figures"]["accuracy"]
        for each, more in ((int8_codes, ["--allow-mixed"]), (codes, []))
    )
    assert mixed == pytest.approx(same, abs=0.1)


def test_another_network_is_refused_whatever_is_allowed(
    exports: Exports, head: Path, tmp_path: Path
) -> None:
    other = exports.get("vgg16", "--input-size", "32")
    line = error_of("bundle", other, head, "-o", tmp_path / "app.onnx", "--allow-mixed")
    assert "another backbone" in line


def test_int8_is_not_quantized_again(int8: Path, photos: Path, tmp_path: Path) -> None:
    line = error_of("quantize", int8, "--images", photos, "-o", tmp_path / "twice.onnx")
    assert line.startswith(
        f"Error: {int8}: is a quantized backbone (extract, bundle and bench take it), not"
    )


def test_network_that_contradicts_itself(photos: Path, tmp_path: Path) -> None:
    """It can be run, since onnxruntime ignores the metadata."""
    path = Chain.make(tmp_path).backbone
    there = sorted(tmp_path.iterdir())
    model = onnx.load(str(path))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2**62
    onnx.save(model, str(path))
    message = error_of("quantize", path, "--images", photos, "-o", tmp_path / "int8.onnx")
    assert f"{path}: cannot be quantized (" in message
    assert sorted(tmp_path.iterdir()) == there


def test_network_of_a_hostile_name(photos: Path, tmp_path: Path) -> None:
    path = Chain.make(tmp_path).backbone
    model = onnx.load(str(path))
    (name,) = (each for each in model.metadata_props if each.key == "cnncodes.backbone")
    name.value = "vgg\x1b[31m"
    onnx.save(model, str(path))
    printed = run_command("quantize", path, "--images", photos, "-o", tmp_path / "int8.onnx").stdout
    assert printed.splitlines()[0].endswith(r": vgg\x1b[31m, int8")


def test_too_few_images(small_backbone: Path, photos: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for number, image in enumerate(sorted(photos.rglob("*.png"))[:7]):
        shutil.copy(image, few / f"{number}.png")
    (few / "8.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    line = error_of("quantize", small_backbone, "--images", few, "-o", tmp_path / "few.onnx")
    assert "7 of its 8 images can be used" in line
    assert not (tmp_path / "few.onnx").exists()


def test_images_that_are_not_there(small_backbone: Path, tmp_path: Path) -> None:
    line = error_of("quantize", small_backbone, "--images", tmp_path / "no", "-o", tmp_path / "x")
    assert str(tmp_path / "no") in line


def test_output_that_is_there_stays(small_backbone: Path, photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "kept.onnx"
    path.write_text("mine")
    assert "--overwrite" in error_of("quantize", small_backbone, "--images", photos, "-o", path)
    assert path.read_text() == "mine"


def test_head_is_no_backbone(head: Path, photos: Path, tmp_path: Path) -> None:
    line = error_of("quantize", head, "--images", photos, "-o", tmp_path / "x.onnx")
    assert "is a head" in line


@pytest.mark.parametrize("options", [{"n_images": 7}, {"weights": "some"}])
def test_parameters_out_of_range(
    options: dict[str, object], small_backbone: Path, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(ParameterError):
        quantize_backbone(small_backbone, photos, tmp_path / "x.onnx", **options)  # type: ignore[arg-type]


def test_images_are_drawn_as_ever(convolution: Path, photos: Path, tmp_path: Path) -> None:
    """Where none is left out, they are the first of a permutation."""
    files = find_images(photos).files()
    first = np.random.default_rng(3).permutation(len(files))[:64]
    digests = [hashlib.sha256(files[index].read_bytes()).hexdigest() for index in first]
    quantized = quantize_backbone(convolution, photos, tmp_path / "x.onnx", n_images=64, seed=3)
    assert json.loads(quantized.info.quantization)["images_sha256"] == digest_images(digests)
    assert quantized.notes == ()
    assert len(quantize_backbone(convolution, photos, tmp_path / "y.onnx").notes) == 0  # 120 of 256


def test_library_call_without_progress_writes_nothing(
    convolution: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    quantize_backbone(convolution, photos, tmp_path / "x.onnx", n_images=16)
    assert terminal.getvalue() == ""


def test_copies_count_once(convolution: Path, photos: Path, tmp_path: Path) -> None:
    """Be they the same file or the same picture in another format."""
    source = tmp_path / "copies"
    source.mkdir()
    for number, path in enumerate(sorted(photos.rglob("*.png"))[:12]):
        for copy in range(9):
            shutil.copy(path, source / f"{number}-{copy}.png")
        Image.open(path).save(source / f"{number}.bmp")
    words = ("quantize", convolution, "--images", source, "--overwrite")
    printed = run_command(*words).stdout
    result = json.loads(run_command(*words, "--json").stdout)
    assert json.loads(result["info"]["quantization"])["images"] == 12
    assert result["closeness"]["n_images"] == 3
    assert result["notes"] == [
        "of the images drawn, 108 are repeated; these are not used",
        "12 images are few, use up to 256 for a better calibration",
    ]
    assert [f"  note: {note}" for note in result["notes"]] == printed.splitlines()[-2:]


def test_blank_images_are_left_out(convolution: Path, photos: Path, tmp_path: Path) -> None:
    source = tmp_path / "with-blank"
    source.mkdir()
    for number, path in enumerate(sorted(photos.rglob("*.png"))[:40]):
        shutil.copy(path, source / f"{number}.png")
    noise = np.random.default_rng(0)
    for number in range(200):
        colour = noise.integers(1, 255, 3)
        pixels = colour + noise.integers(0, 2, (16, 16, 3))  # as the sensor of a covered lens
        Image.fromarray(pixels.astype(np.uint8)).save(source / f"blank{number}.png")
    (source / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    quantized = quantize_backbone(convolution, source, tmp_path / "x.onnx", n_images=100)
    assert json.loads(quantized.info.quantization)["images"] == 40
    note, example = quantized.notes
    assert example.startswith("the first unusable image, broken.png: damaged: ")
    assert note == "of the images drawn, 1 is unusable, 200 are blank; these are not used"


def test_nothing_but_blank_images_and_copies(
    convolution: Path, photos: Path, tmp_path: Path
) -> None:
    source = tmp_path / "grey"
    source.mkdir()
    for level in range(0, 256, 16):
        Image.new("RGB", (20, 20), (level, level, 200)).save(source / f"{level}.png")
    output = tmp_path / "grey.onnx"
    line = error_of("quantize", convolution, "--images", source, "-o", output)
    assert line == (
        f"Error: {source}: 0 of its 16 images can be used (16 are blank), 8 or more are needed; "
        "give a folder with more of them"
    )
    shutil.copy(next(photos.rglob("*.png")), source / "one.png")
    shutil.copy(source / "one.png", source / "two.png")
    line = error_of("quantize", convolution, "--images", source, "-o", output)
    assert "1 of its 18 images can be used (16 are blank, 1 is repeated), 8 or" in line
    assert not output.exists()


def test_comparison_of_codes() -> None:
    one = np.array([[3, 4], [1, 0], [0, 0], [0, 0]], np.float32)
    two = np.array([[3, 4], [0, 1], [0, 0], [0, 1]], np.float32)
    near = compare_codes(one, two)
    assert near.cosine == pytest.approx((1 + 0 + 1 + 0) / 4)
    assert near.min_cosine == 0
    assert near.n_images == 4
    assert compare_codes(one[:1], np.array([[3, 3]], np.float32)).relative_error == pytest.approx(
        0.2
    )


def test_saturation_is_reported_where_the_file_is_opened(
    int8: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # No such processor is at hand, so its known behaviour replaces the measured one.
    monkeypatch.setattr(session, "kernels_saturate", lambda: True)
    with pytest.warns(SaturationWarning, match="with reduced weights"):
        Backbone(int8)
    result = run_command("extract", int8, photos, "-o", tmp_path / "codes.h5")
    warned = [line for line in result.stderr.splitlines() if line.startswith("Warning: ")]
    assert len(warned) == 1
    assert str(int8) in warned[0]


def test_probe_of_saturation_is_as_documented() -> None:
    import base64

    model = onnx.load_from_string(base64.b64decode(session._PRODUCT))
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["MatMulInteger"]
    assert isinstance(session.kernels_saturate(), bool)


def test_description_that_is_not_one() -> None:
    info = BackboneInfo("vgg16", "w", 32, "pool", "avg", "int8", 0.0, "n", "t", "ab", "[1]")
    with pytest.raises(cli.CnncodesError, match="not an object"):
        BackboneInfo.from_metadata(info.to_metadata(), Path("here.onnx"))


def test_memory_does_not_grow_with_the_images(exports: Exports, tmp_path: Path) -> None:
    """Outputs of the first layers are 52 MB an image here, and a quarter of 80 are compared."""
    options = ("--input-size", "320", "--layer", "block1_pool", "--pool", "avg", "--no-winograd")
    backbone, photos = exports.get("vgg16", *options), tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for number in range(80):
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{number}.png")
    program = f"""
from cnncodes.quantize.quantize import quantize_backbone
quantize_backbone({str(backbone)!r}, {str(photos)!r}, {str(tmp_path / "int8.onnx")!r})
print(open("/proc/self/status").read())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", done.stdout, flags=re.MULTILINE)
    assert 0.1e9 < 1024 * int(peak) < 1.3e9  # 0.85 GB; all at once take 1.9
