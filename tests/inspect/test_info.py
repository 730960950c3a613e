from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import h5py
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cnncodes.evaluate import curve
from cnncodes.evaluate.curve import read_curves
from cnncodes.extract import store, writing
from cnncodes.models.description import training_rows
from cnncodes.models.kinds import GENERATOR
from tests.helpers import (
    BACKBONE_INFO,
    error_of,
    make_app,
    make_curve,
    run_command,
    write_backbone,
    write_colours,
    write_images,
)

helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT


def info_json(path):
    return json.loads(run_command("info", path, "--json").stdout)


def info_text(path):
    """The lines of the description, as pairs of name and value."""
    lines = run_command("info", path).stdout.splitlines()
    width = max(line.index("  ") for line in lines if line.startswith("what"))
    start = len(lines[0]) - len(lines[0][width:].lstrip())
    return {line[:start].strip(): line[start:] for line in lines}


def save_model(path, inputs, outputs, nodes, metadata=()):
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])
    helper.set_model_props(model, dict(metadata))
    onnx.save(model, str(path), format="protobuf")
    return path


def save_relu(path, metadata=()):
    values = [helper.make_tensor_value_info(name, FLOAT, ["N", 3]) for name in "xy"]
    return save_model(
        path, values[:1], values[1:], [helper.make_node("Relu", ["x"], ["y"])], metadata
    )


def with_entry(model, path, key, value):
    """Save a copy of a model with one metadata entry changed."""
    changed = onnx.load(str(model))
    metadata = {entry.key: entry.value for entry in changed.metadata_props} | {key: value}
    helper.set_model_props(changed, metadata)
    onnx.save(changed, str(path))
    return path


def test_backbone(small_backbone):
    result = info_json(small_backbone)
    assert result.pop("created_with").startswith("cnncodes ")
    assert 0 < result.pop("parity") < 1e-4
    assert result == {
        "what": "a backbone",
        "use": "extract, quantize, bundle and bench take it",
        "format": "1",
        "backbone": "inception_v3",
        "weights": "random:0",
        "input_size": 75,
        "layer": "mixed10",
        "pool": "avg",
        "precision": "float32",
        "parity_images": "2 photographs of scikit-learn and 2 images of noise",
        "converter": "direct",
        "input": "images: uint8 [N, 75, 75, 3]",
        "output": "codes: float32 [N, 2048]",
    }


def test_backbone_as_text(small_backbone):
    result, text = info_json(small_backbone), info_text(small_backbone)
    assert text["what"] == "a backbone"
    assert text["input size"] == "75"
    assert text.pop("check") == (
        f"codes as from Keras, to within {1e6 * result['parity']:.1f} millionths of the largest "
        f"({result['parity_images']})"
    )
    assert {name.replace(" ", "_") for name in text} == set(result) - {"parity", "parity_images"}


def test_head(head, small_backbone, codes):
    result = info_json(head)
    assert result["what"] == "a head"
    assert result["labels"] == list("0123456789")
    assert result["training"]["estimator"] == "logistic"
    assert result["training_images"] == result["training"]["train"]["n_images"]
    assert result["training"]["test"]["accuracy"] > 0.6
    assert result["weights"] == "random:0"
    assert result["parity"] == info_json(small_backbone)["parity"]
    assert result["backbone_sha256"] == info_json(codes)["backbone_sha256"]
    assert result["input"] == "codes: float32 [N, 2048]"
    assert result["output"] == "probabilities: float32 [N, 10]"


def test_head_as_text(head):
    result, text = info_json(head), info_text(head)
    assert text["labels"] == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert text["estimator"] == "logistic"
    assert text["split"] == "stratified, 70 % of each class for training, seed 0"
    score = result["training"]["test"]
    assert text["test part"] == (
        f"{score['n_images']} images, accuracy {score['accuracy']:.1%}, log loss "
        f"{score['loss']:.4f}"
    )
    assert re.fullmatch(
        r"C \S+ \(best of \d+ in cross-validation\), \d+ iterations?", text["fitted"]
    )
    assert text["backbone sha256"] == f"{result['backbone_sha256'][:8]}… (--json has all digits)"
    assert not [line for line in text.values() if "{" in line or "_" in line.split("v3")[-1]]


def test_app(app, head):
    result, heads = info_json(app), info_json(head)
    assert result["what"] == "an app"
    assert result["input"] == "images: uint8 [N, 75, 75, 3]"
    differing = {key for key in heads if result[key] != heads[key]}
    assert differing == {"what", "use", "input"}
    assert "other_outputs" not in heads
    assert info_text(app)["what"] == "an app"


def test_all_outputs_of_an_app(tmp_path):
    metadata = replace(BACKBONE_INFO, pool="none").to_metadata()
    backbone = write_backbone(tmp_path / "b.onnx", pooled=False, metadata=metadata)
    photos = write_colours(tmp_path / "photos")
    app = make_app(tmp_path, backbone, photos, "--unknown")
    result, lines = info_json(app), run_command("info", app).stdout.splitlines()
    assert result["output"] == "probabilities: float32 [N, 3]"
    assert result["other_outputs"] == ["features: float32 [N, 4, 4, 3]", "unknown: float32 [N]"]
    start = next(index for index, line in enumerate(lines) if line.startswith("output "))
    assert [line[line.index("  ") :].strip() for line in lines[start : start + 3]] == [
        result["output"],
        *result["other_outputs"],
    ]


def test_outputs_without_end(tmp_path):
    inputs = [helper.make_tensor_value_info("x", FLOAT, ["N", 3])]
    names = [f"y{number}" for number in range(1000)]
    nodes = [helper.make_node("Relu", ["x"], [name]) for name in names]
    outputs = [helper.make_tensor_value_info(name, FLOAT, ["N", 3]) for name in names]
    result = info_json(save_model(tmp_path / "many.onnx", inputs, outputs, nodes))
    assert result["output"] == "y0: float32 [N, 3]"
    assert result["other_outputs"] == [f"y{number}: float32 [N, 3]" for number in range(1, 100)]


def test_codes(codes, photos):
    result = info_json(codes)
    counts = {str(digit): len(list((photos / str(digit)).iterdir())) for digit in range(10)}
    assert result["what"] == "a codes file"
    assert result["images"] == 120
    assert result["images_by_class"] == counts
    assert result["images_skipped"] == 0
    assert result["code_shape"] == [2048]
    assert result["dtype"] == "float16"
    assert result["source"] == str(photos)
    assert result["backbone"] == "inception_v3"
    assert info_text(codes)["code shape"] == "2048"
    lines = run_command("info", codes).stdout.splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("images by class"))
    table = [line[len("images by class") :].split() for line in lines[first : first + 10]]
    assert table == [[name, str(n)] for name, n in counts.items()]


def test_numbers_of_images_are_aligned(tmp_path):
    for label, n in (("cat", 12), ("flamingo", 3)):
        for index in range(n):
            write_images(tmp_path, f"{label}/{index}.png")
    assert run_command("info", tmp_path).stdout.splitlines()[3:] == [
        "images by class  cat       12",
        "                 flamingo   3",
    ]


WEIGHTS = {"cnncodes.weights": f"file:{'ab12' * 16}"}


@pytest.mark.parametrize(
    ("file", "line"), [("my.weights.h5", "my.weights.h5 (ab12ab12)"), ("", "a file (ab12ab12)")]
)
def test_weight_file_is_named_with_8_digits(tmp_path, file, line):
    """A file of an earlier release has no name of it."""
    named = {"cnncodes.weights_file": file} if file else {}
    path = write_backbone(
        tmp_path / "b.onnx", metadata=BACKBONE_INFO.to_metadata() | WEIGHTS | named
    )
    assert info_text(path)["weights"] == line
    assert "weights file" not in info_text(path)
    result = info_json(path)
    assert result["weights"] == WEIGHTS["cnncodes.weights"]
    assert result.get("weights_file", "") == file


QUANTIZATION = {
    "method": "max",
    "equalization": 0.5,
    "bias_correction": True,
    "weight_limit": 63,
    "floats": 1,
    "seed": 0,
    "images": 64,
    "images_sha256": "ab" * 32,
    "calibration_images": 1,
    "cosine": 0.99876,
    "min_cosine": 0.98,
    "relative_error": 0.0312,
    "n_images": 16,
}


def write_int8(path, quantization):
    info = replace(BACKBONE_INFO, precision="int8", quantization=json.dumps(quantization))
    return write_backbone(path, metadata=info.to_metadata())


def test_int8_file_has_its_closeness_and_not_the_parity_of_the_float32_file(tmp_path):
    path = write_int8(tmp_path / "int8.onnx", QUANTIZATION)
    text = info_text(path)
    assert text["closeness"] == (
        "cosine 0.9988 to the float32 codes, at least 0.9800; relative error 3.1% (on 16 images "
        "not used for calibration)"
    )
    assert text["calibration"] == (
        "ranges by all values on 1 image, equalization 0.5, biases corrected, weights of 7 bits, "
        "1 convolution in float32, seed 0"
    )
    assert not {"parity", "parity images", "quantization"} & set(text)
    assert info_json(path)["quantization"] == QUANTIZATION


@settings(max_examples=100, deadline=None)
@given(
    wild=st.dictionaries(
        st.sampled_from([*QUANTIZATION, "\x1b[31m"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda each: st.lists(each, max_size=2) | st.dictionaries(st.text(), each, max_size=2),
            max_leaves=3,
        ),
        min_size=1,
        max_size=3,
    )
)
def test_quantization_of_another_program_is_described_too(tmp_path_factory, wild):
    folder = tmp_path_factory.getbasetemp()
    lines = run_command("info", write_int8(folder / "wild.onnx", QUANTIZATION | wild)).stdout
    assert all(line.isprintable() for line in lines.split("\n"))


NAMES = [
    "C_scores",
    "parameters",
    "method",
    "train_fraction",
    "seed",
    "n_images",
    "accuracy",
    "loss",
    "per_class",
]


@settings(max_examples=100, deadline=None)
@given(
    training=st.dictionaries(
        st.sampled_from(["estimator", "fitted", "split", "train", "test"]) | st.text(max_size=3),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda each: st.dictionaries(
                st.sampled_from(NAMES),
                each,
                max_size=5,
            ),
            max_leaves=6,
        ),
        max_size=4,
    )
)
def test_training_of_another_program_is_described_in_whole_lines(training):
    for name, text in training_rows(training):
        assert (name + text).isprintable()


def test_codes_without_labels(codes, tmp_path):
    path = tmp_path / "flat.h5"
    shutil.copy(codes, path)
    with h5py.File(path, "r+") as file:
        file["labels"][:] = -1
        file.attrs["class_names"] = "[]"
    assert info_json(path)["images_by_class"] == "no labels"
    assert info_text(path)["images by class"] == "no labels"


def test_images_of_no_class_are_counted(codes, tmp_path):
    """Else those of the classes are fewer than all, and nothing says why."""
    assert "images_without_a_label" not in info_json(codes)
    path = tmp_path / "codes.h5"
    shutil.copy(codes, path)
    with h5py.File(path, "r+") as file:
        file["labels"][:7] = -1
    assert info_json(path)["images_without_a_label"] == 7
    assert info_text(path)["images without a label"] == "7"


def test_unfinished_codes(codes, tmp_path):
    path = tmp_path / "codes.h5.partial"
    shutil.copy(codes, path)
    with h5py.File(path, "r+") as file:
        file.attrs["complete"] = False
    result = info_json(path)
    assert result["what"] == "an unfinished codes file"
    assert "cnncodes extract" in result["use"]


def test_damaged_codes(codes, tmp_path):
    path = tmp_path / "codes.h5"
    shutil.copy(codes, path)
    with h5py.File(path, "r+") as file:
        del file["labels"]
    message = error_of("info", path)
    assert message.startswith(f"Error: {path}: is damaged")
    assert message.endswith("extract it again")


def test_codes_that_are_neither_finished_nor_not(codes, tmp_path, run):
    path = tmp_path / "codes.h5"
    shutil.copy(codes, path)
    with h5py.File(path, "r+") as file:
        file.attrs["complete"] = [True, False]
    assert "an HDF5 file that cannot be opened" in run("info", path).stdout
    assert f"{path}: is damaged (" in error_of("train", path, "-o", tmp_path / "head.onnx")


def test_truncated_hdf5(codes, tmp_path):
    path = tmp_path / "codes.h5"
    path.write_bytes(codes.read_bytes()[:5000])
    result = info_json(path)
    assert result["what"] == "an HDF5 file that cannot be opened"
    assert "cut off after 5,000 of " in result["reason"]


@pytest.mark.parametrize("sign", ["layers", "layer_names", "model_weights"])
def test_keras_weights(tmp_path, sign):
    path = tmp_path / "vgg16.weights.h5"
    with h5py.File(path, "w") as file:
        if sign == "layers":
            file["layers/conv2d/vars/0"] = np.zeros(3)
        else:
            target = file if sign == "layer_names" else file.create_group(sign)
            target.attrs["layer_names"] = [b"conv2d"]
    result = info_text(path)
    assert result["what"] == "Keras weights"
    assert result["use"] == "export --weights takes them"


@pytest.mark.parametrize("kind", [None, "weights", [1, 2], 7])
def test_foreign_hdf5(tmp_path, kind):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["numbers"] = np.zeros(3)
        if kind is not None:
            file.attrs["kind"] = kind
    assert info_json(path)["what"] == "an HDF5 file of another program"


def test_foreign_model(tmp_path):
    assert info_json(save_relu(tmp_path / "relu.onnx")) == {
        "what": "an ONNX model of another program",
        "use": "no command takes it",
        "input": "x: float32 [N, 3]",
        "output": "y: float32 [N, 3]",
    }


def test_foreign_model_without_inputs(tmp_path):
    value = helper.make_tensor("value", FLOAT, [1], [2.0])
    node = helper.make_node("Constant", [], ["y"], value=value)
    output = helper.make_tensor_value_info("y", FLOAT, [1])
    result = info_json(save_model(tmp_path / "constant.onnx", [], [output], [node]))
    assert result["what"] == "an ONNX model of another program"
    assert result["input"] == "none"


def test_foreign_model_that_takes_a_sequence(tmp_path):
    sequence = helper.make_tensor_sequence_value_info("x", FLOAT, None)
    length = helper.make_tensor_value_info("y", onnx.TensorProto.INT64, [])
    node = helper.make_node("SequenceLength", ["x"], ["y"])
    result = info_json(save_model(tmp_path / "length.onnx", [sequence], [length], [node]))
    assert result["what"] == "an ONNX model of another program"
    assert result["input"].startswith("x: ")
    assert result["output"] == "y: int64 []"


@pytest.mark.parametrize("number", [0, 99])
def test_foreign_model_of_an_unknown_type(tmp_path, number):
    path = save_relu(tmp_path / "relu.onnx")
    model = onnx.load(str(path))
    model.graph.input[0].type.tensor_type.elem_type = number
    onnx.save(model, str(path))
    result = info_json(path)
    assert result["what"] == "an ONNX model of another program"
    assert result["input"].startswith("x: ")


def test_foreign_model_with_metadata(tmp_path):
    path = save_relu(tmp_path / "relu.onnx", {"author": "another", "cnncodes.kind": "wheel"})
    assert info_json(path)["what"] == "an ONNX model of another program"


def refused_models():
    """Models that no command would open, each by its reason."""
    values = [helper.make_tensor_value_info(name, FLOAT, ["N", 3]) for name in "xy"]

    def model(node, **options):
        graph = helper.make_graph([node], "g", values[:1], values[1:])
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.another", 1)]
        return helper.make_model(graph, ir_version=8, opset_imports=opsets, **options)

    relu = helper.make_node("Relu", ["x"], ["y"])
    outside = model(relu)
    weight = outside.graph.initializer.add(name="w", data_type=FLOAT, dims=[3])
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="/etc/passwd")
    function = helper.make_function(
        "another", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], []
    )
    return {
        "operator": model(helper.make_node("Resize", ["x", "", "s"], ["y"])),
        "domain": model(helper.make_node("Anything", ["x"], ["y"], domain="com.another")),
        "weights": outside,
        "function": model(relu, functions=[function]),
    }


@pytest.mark.parametrize("reason", refused_models())
def test_foreign_model_that_is_not_opened_is_described_all_the_same(tmp_path, reason):
    path, model = tmp_path / "model.onnx", refused_models()[reason]
    path.write_bytes(model.SerializeToString())
    assert info_json(path) == {
        "what": "an ONNX model of another program",
        "use": "no command takes it",
        "input": "x: float32 [N, 3]",
        "output": "y: float32 [N, 3]",
    }
    helper.set_model_props(model, {"cnncodes.kind": "head", "cnncodes.format": "1"})
    path.write_bytes(model.SerializeToString())
    assert error_of("info", path).startswith(f"Error: {path}: ")


def test_model_whose_input_is_described_without_end(tmp_path):
    path = save_relu(tmp_path / "relu.onnx")
    model = onnx.load(str(path))
    model.graph.input[0].doc_string = "x" * 200_000
    onnx.save(model, str(path))
    assert info_json(path) == {
        "what": "an ONNX model of another program",
        "use": "no command takes it",
        "input": "none",
        "output": "y: float32 [N, 3]",
    }


def test_foreign_model_with_metadata_without_end_or_that_are_no_text(tmp_path):
    path = save_relu(tmp_path / "relu.onnx", {"note": "x" * 17_000_000})
    assert info_json(path)["what"] == "an ONNX model of another program"
    path = save_relu(tmp_path / "relu.onnx", {"note": "yyyy"})
    path.write_bytes(path.read_bytes().replace(b"yyyy", b"\xff\xfe\xff\xfe"))
    assert info_json(path)["what"] == "an ONNX model of another program"


def test_fields_without_end_are_no_model(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(save_relu(path).read_bytes() + b"\x08\x08" * 300_000)
    assert info_json(path)["what"] == "nothing cnncodes knows"


def test_model_of_a_later_format(head, tmp_path):
    path = with_entry(head, tmp_path / "head.onnx", "cnncodes.format", "99")
    assert info_json(path)["what"] == "a head of another format"


@pytest.mark.parametrize(
    ("entry", "value"),
    [("labels", "{"), ("training", "7"), ("backbone_info", "{}"), ("backbone_info", "7")],
)
def test_head_with_damaged_metadata(head, tmp_path, entry, value):
    path = with_entry(head, tmp_path / "head.onnx", f"cnncodes.{entry}", value)
    message = error_of("info", path)
    assert message.startswith(f"Error: {path}: ")
    assert message.endswith("again")


def test_labels_cannot_forge_a_line(head, tmp_path):
    labels = json.dumps(["cat\nweights           imagenet", "dog\x1b[31m"])
    path = with_entry(head, tmp_path / "head.onnx", "cnncodes.labels", labels)
    lines = run_command("info", path).stdout.splitlines()
    (message,) = (line for line in lines if line.startswith("weights"))
    assert message.endswith("random:0")
    assert all(line.isprintable() for line in lines)


def test_image(tmp_path):
    path = tmp_path / "photo"
    Image.new("RGB", (8, 8)).save(path, "PNG")
    assert info_json(path) == {
        "what": "an image",
        "use": "predict takes it, and extract a folder of such",
        "bytes": path.stat().st_size,
    }


def test_empty_file(tmp_path):
    path = tmp_path / "empty.onnx"
    path.touch()
    assert info_json(path) == {"what": "an empty file", "bytes": 0}


@pytest.mark.parametrize("suffix", ["", ".txt", ".onnx", ".h5", ".json", ".textproto", ".onnxtxt"])
@pytest.mark.parametrize("content", [b"a text\n", b'{"a": 1}\n', b"name: 1\n", b"\xff\xfe\0\1"])
def test_other_files_whatever_they_are_called(tmp_path, suffix, content):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    result = info_json(path)
    assert result["what"] == ("nothing cnncodes knows" if b"\0" in content else "a text")
    assert result["bytes"] == len(content)


def test_model_whatever_it_is_called(tmp_path):
    path = save_relu(tmp_path / "model.json")
    assert info_json(path)["what"] == "an ONNX model of another program"


@pytest.fixture(scope="module")
def small_files(tmp_path_factory):
    """The bytes of a small ONNX model, a small HDF5 file and nothing, to spoil."""
    folder = tmp_path_factory.mktemp("small")
    model = save_relu(folder / "relu.onnx", {"cnncodes.kind": "head", "cnncodes.format": "1"})
    with h5py.File(folder / "codes.h5", "w") as file:
        file.attrs["kind"] = "codes"
    return {
        "nothing": b"",
        "onnx": model.read_bytes(),
        "hdf5": (folder / "codes.h5").read_bytes()[:1000],
    }


@settings(max_examples=150, deadline=None)
@given(
    start=st.sampled_from(["nothing", "onnx", "hdf5"]),
    position=st.floats(0, 1),
    wild=st.binary(max_size=60),
)
def test_wild_bytes(tmp_path_factory, small_files, start, position, wild):
    content = bytearray(small_files[start])
    offset = int(position * len(content))
    content[offset : offset + len(wild)] = wild
    path = tmp_path_factory.getbasetemp() / "wild"
    path.write_bytes(content)
    try:
        result = info_json(path)
    except AssertionError:  # damaged, but recognised: then one line reports it
        message = error_of("info", path)
        assert message.startswith(f"Error: {path}: ")
        assert "--debug" not in message
    else:
        assert isinstance(result["what"], str)


def test_folder_of_images(photos):
    result = info_json(photos)
    assert result["what"] == "a folder of images"
    assert result["images"] == 120
    assert result["images_by_class"]["8"] == len(list((photos / "8").iterdir()))
    assert info_text(photos)["images"] == "120"


def test_each_note_on_a_folder_is_a_line(tmp_path):
    write_images(tmp_path, "cat/a.png", "dog/b.png")
    (tmp_path / "cat" / "film.mp4").write_bytes(b"no image")
    (tmp_path / "emu").mkdir()
    assert run_command("info", tmp_path).stdout.splitlines()[-2:] == [
        "notes            left out: 1 file that is no image: film.mp4",
        "                 no images in 1 class folder: emu",
    ]


def test_flat_folder(photos):
    result = info_json(photos / "3")
    assert result["images"] == len(list((photos / "3").iterdir()))
    assert result["images_by_class"] == "no labels"


def test_folder_without_images(tmp_path):
    assert f"{tmp_path}: no images in it" in error_of("info", tmp_path)


def test_csv(tmp_path):
    path = tmp_path / "list.CSV"
    path.write_text("path,label\na.png,cat\nb.png,dog\nc.png,cat\nd.png,\n")
    result = info_json(path)
    assert result["what"] == "a CSV file"
    assert result["images"] == 4
    assert result["images_by_class"] == {"cat": 2, "dog": 1}
    assert result["images_without_a_label"] == 1


def test_files_for_people_and_other_programs(head, app, codes, photos, tmp_path):
    """Each as the command writes it; none of them is an input of a command but by chance."""
    report, predicted, chart = (tmp_path / name for name in ("report", "of all.csv", "curve.svg"))
    run_command("evaluate", head, codes, "--report", report, "--predictions", predicted)
    run_command("curve", codes, "-o", tmp_path / "curve.json", "--C", "3", "--plot", chart)
    run_command("overlap", photos, "-o", tmp_path / "copies")
    printed = tmp_path / "printed.csv"
    printed.write_text(run_command("predict", app, photos / "3", "--format", "csv").stdout)
    for path, what in (
        (report, "a report of evaluate or overlap"),
        (report / "index.html", "a report of evaluate or overlap"),
        (report / "evaluation.json", "the result of an evaluation"),
        (predicted, "predictions for images"),
        (tmp_path / "copies" / "overlap.csv", "copies that overlap found"),
        (tmp_path / "copies" / "index.html", "a report of evaluate or overlap"),
        (printed, "predictions for images"),
        (chart, "a picture in SVG"),
    ):
        assert info_json(path)["what"] == what
    for suffix in (".csv", ".tab", ".npz"):
        converted = tmp_path / f"codes{suffix}"
        run_command("convert", codes, "-o", converted)
        assert info_json(converted)["what"] == "codes for other programs"


def test_folder_of_photographs_beside_a_report_is_one_of_images(photos, tmp_path):
    (tmp_path / "index.html").write_text(f"<!DOCTYPE html>{GENERATOR}")
    shutil.copy(next((photos / "3").iterdir()), tmp_path)
    assert info_json(tmp_path)["what"] == "a folder of images"


def test_csv_of_something_else(tmp_path):
    path = tmp_path / "prices.csv"
    path.write_text("item,price\nbread,2\n")
    assert f"{path}: has no column path and no column label" in error_of("info", path)


@pytest.mark.parametrize("name", ["absent", "absent.onnx", "absent.csv"])
def test_missing_file(tmp_path, name):
    message = error_of("info", tmp_path / name)
    assert message.startswith(f"Error: {tmp_path / name}: ")
    assert "o such f" in message


def test_learning_curve(codes, tmp_path):
    path = tmp_path / "curve.json"
    run_command("curve", codes, "-o", path, "--per-class", "3,2", "--C", "3", "--seeds", "2")
    assert info_json(path) == {
        "what": "a learning curve",
        "use": "evaluate --curve takes it",
        "format": "1",
        "codes": [str(codes)],
        "backbones": ["inception_v3, random weights (seed 0)"],
        "images_a_class": [2, 3],
        "seeds": 2,
        "split": "stratified",
        "train_fraction": 0.7,
        "seed": 0,
        "created_with": read_curves(path)[0].created_with,
    }
    assert info_text(path)["images a class"] == "2, 3"


def test_format_is_that_of_the_kind_of_file(head, codes, tmp_path, monkeypatch):
    """The formats of models, codes and curves change independently."""
    curves, copied = tmp_path / "curve.json", tmp_path / "codes.h5"
    shutil.copy(codes, copied)
    with h5py.File(copied, "r+") as file:
        file.attrs["format"] = "8"
    monkeypatch.setattr(store, "FORMAT", "8")  # which it reads
    monkeypatch.setattr(writing, "FORMAT", "8")
    monkeypatch.setattr(curve, "FORMAT", "9")
    curve.save_curves([make_curve()], curves, overwrite=False)
    formats = [info_json(path)["format"] for path in (head, copied, curves)]
    assert formats == ["1", "8", "9"]


def test_damaged_learning_curve(tmp_path):
    path = tmp_path / "curve.json"
    for version, reason in (("1", "is damaged (curves must be"), ("2", "install a newer cnncodes")):
        path.write_text(json.dumps({"kind": "curve", "format": version}))
        message = error_of("info", path)
        assert message.startswith(f"Error: {path}: ")
        assert reason in message
