"""ONNX files from strangers: what reaches outside of itself, or makes much of it, is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import GraphProto, ModelProto, TensorProto, helper

from cnncodes import Backbone, Classifier
from cnncodes.errors import FileFormatError
from cnncodes.models.safety import OPERATORS, check_model
from cnncodes.models.session import open_session
from tests.helpers import error_of

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def model_of(*nodes: onnx.NodeProto, initializer: TensorProto | None = None) -> ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph(
        nodes or [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        values[:1],
        values[1:],
        [initializer] if initializer else [],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])


def save(model: ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def external(where: str = "weights.bin", name: str = "stolen") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=where)
    return tensor


def with_external_weight(model: Path, path: Path, where: str) -> Path:
    """Save a model of cnncodes whose last weights are in the file `where`."""
    changed = onnx.load(str(model))
    tensor = max(changed.graph.initializer, key=lambda each: len(each.raw_data))
    target = path.parent / where
    target.write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=where)
    path.write_bytes(changed.SerializeToString())
    return path


@pytest.fixture(params=["absolute", "above", "beside"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    (tmp_path / "models").mkdir()
    names = {"absolute": str(tmp_path / "w.bin"), "above": "../w.bin", "beside": "w.bin"}
    return names[request.param]


def test_weights_elsewhere_are_refused_everywhere(
    where: str, small_backbone: Path, head: Path, app: Path, photos: Path, tmp_path: Path
) -> None:
    names = [tmp_path / "models" / f"{kind}.onnx" for kind in ("backbone", "head", "app")]
    backbone2, head2, app2 = (
        with_external_weight(model, path, where)
        for model, path in zip((small_backbone, head, app), names, strict=True)
    )
    output = tmp_path / "output"
    lines = [
        error_of("extract", backbone2, photos, "-o", output),
        error_of("quantize", backbone2, "--images", photos, "-o", output),
        error_of("bundle", backbone2, head, "-o", output),
        error_of("bundle", small_backbone, head2, "-o", output),
        error_of("predict", app2, next(photos.rglob("*.png"))),
        error_of("evaluate", app2, photos),
        error_of("bench", app2),
        *(error_of("info", path) for path in names),
    ]
    assert all("is in another file, which" in line for line in lines)
    assert not output.exists()
    for model, path in ((Backbone, backbone2), (Classifier, app2)):
        with pytest.raises(FileFormatError, match="is in another file"):
            model(path)


def test_onnxruntime_alone_would_read_a_file_beside_the_model(app: Path, tmp_path: Path) -> None:
    """Else the check were for nothing."""
    path = with_external_weight(app, tmp_path / "app.onnx", "w.bin")
    onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def constant() -> ModelProto:
    return model_of(helper.make_node("Constant", [], ["y"], value=external()))


def constants() -> ModelProto:
    node = helper.make_node("Constant", [], ["y"])
    node.attribute.add(name="list", type=onnx.AttributeProto.TENSORS).tensors.append(external())
    return model_of(node)


def branch() -> GraphProto:
    return model_of(initializer=external()).graph


def training() -> ModelProto:
    model = model_of()
    model.training_info.add().initialization.CopyFrom(branch())
    return model


def after_many_numbers() -> ModelProto:
    """As a forest of trees has them, before what matters."""
    numbers = {"floats": np.linspace(-1, 1, 3001), "ints": np.arange(-9, 3000) ** 3}
    node = helper.make_node("Constant", [], ["y"], **numbers)
    node.attribute.extend(constant().graph.node[0].attribute)
    return model_of(node)


def flag_alone() -> ModelProto:
    tensor = TensorProto(name="x", data_location=TensorProto.EXTERNAL)
    return model_of(initializer=tensor)


@pytest.mark.parametrize(
    "make",
    [
        lambda: model_of(initializer=external()),
        constant,
        constants,
        lambda: model_of(helper.make_node("Scan", ["x"], ["y"], body=branch())),
        lambda: model_of(helper.make_node("Scan", ["x"], ["y"], bodies=[branch(), branch()])),
        training,
        after_many_numbers,
        flag_alone,
    ],
)
def test_weights_elsewhere_are_detected_wherever_they_are(
    make: Callable[[], ModelProto], tmp_path: Path
) -> None:
    path = save(make(), tmp_path)
    with pytest.raises(FileFormatError, match=rf"^{path}: its weight .* is in another file"):
        check_model(path)


@pytest.mark.parametrize("domain", ["com.microsoft", "mine", "ai.onnx.preview.training", "\x1b"])
def test_operators_of_others_are_refused(domain: str, tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"], domain=domain)
    inside = helper.make_node("Scan", ["x"], ["y"], body=model_of(node).graph)
    for model in (model_of(node), model_of(inside)):
        with pytest.raises(FileFormatError, match=r"uses operators of '.*', not of ONNX alone"):
            check_model(save(model, tmp_path))


@pytest.mark.parametrize(
    ("domain", "operator"), [("", "Relu"), ("ai.onnx", "Relu"), ("ai.onnx.ml", "Normalizer")]
)
def test_operators_of_onnx_are_let_through(domain: str, operator: str, tmp_path: Path) -> None:
    check_model(save(model_of(helper.make_node(operator, ["x"], ["y"], domain=domain)), tmp_path))


@pytest.mark.parametrize(
    "operator",
    [
        *("Expand", "Tile", "Range", "Resize", "Upsample", "OneHot", "EyeLike", "RandomNormal"),
        *(
            "ConvTranspose",
            "GridSample",
            "ImageDecoder",
            "Loop",
            "If",
            "SequenceMap",
            "Mine",
            "\x1b",
        ),
    ],
)
def test_operators_that_make_much_of_little_are_refused(operator: str, tmp_path: Path) -> None:
    node = helper.make_node(operator, ["x"], ["y"])
    inside = helper.make_node("Scan", ["x"], ["y"], body=model_of(node).graph)
    for model in (model_of(node), model_of(inside)):
        with pytest.raises(FileFormatError) as error:
            check_model(save(model, tmp_path))
        assert f"uses the operator {operator!r}, whose results may have any size" in str(
            error.value
        )


def test_list_of_operators_has_those_of_onnx_only() -> None:
    assert {each.name for each in onnx.defs.get_all_schemas()} >= OPERATORS


def test_functions_are_refused(tmp_path: Path) -> None:
    model = model_of()
    model.functions.append(helper.make_function("", "F", ["x"], ["y"], [], []))
    with pytest.raises(FileFormatError, match="has functions, which can call each other"):
        check_model(save(model, tmp_path))


def test_sparse_tensors_are_refused(tmp_path: Path) -> None:
    sparse = onnx.SparseTensorProto(dims=[2**40])
    with_weights = model_of()
    with_weights.graph.sparse_initializer.append(sparse)
    for model in (
        with_weights,
        model_of(helper.make_node("Constant", [], ["y"], sparse_value=sparse)),
    ):
        with pytest.raises(FileFormatError, match="has sparse tensors, which claim any size"):
            check_model(save(model, tmp_path))


def zeros(shape_of: str = "x") -> tuple[onnx.NodeProto, onnx.NodeProto]:
    return (
        helper.make_node("Shape", [shape_of], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
    )


def test_constant_is_as_large_as_something_that_is_there(tmp_path: Path) -> None:
    check_model(save(model_of(*zeros()), tmp_path))


@pytest.mark.parametrize(
    "model",
    [
        lambda: model_of(zeros()[1]),
        lambda: model_of(zeros()[1], initializer=numbers("shape", 2**40)),
        lambda: model_of(helper.make_node("Mul", ["x", "x"], ["shape"]), zeros()[1]),
        # The shape that is meant is another one of that name, in a graph inside.
        lambda: model_of(
            zeros()[0],
            helper.make_node(
                "Scan",
                ["x"],
                ["y"],
                body=model_of(zeros()[1], initializer=numbers("shape", 2**40)).graph,
            ),
        ),
    ],
)
def test_constant_of_any_size_is_refused(model: Callable[[], ModelProto], tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="gives the operator 'ConstantOfShape' a size that"):
        check_model(save(model(), tmp_path))


def numbers(name: str, *values: int) -> TensorProto:
    return onnx.numpy_helper.from_array(np.array(values, np.int64), name)


PAD = helper.make_node("Pad", ["x", "pads"], ["y"])


def test_padding_by_little_is_let_through(tmp_path: Path) -> None:
    check_model(save(model_of(PAD, initializer=numbers("pads", -1, 0, 3, 1024)), tmp_path))
    pool = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[9, 9], pads=[-1, 0, 3, 1024])
    check_model(save(model_of(pool), tmp_path))


@pytest.mark.parametrize("number", [1025, -1025, 2**31, 2**62, -(2**63)])
def test_padding_by_much_is_refused(number: int, tmp_path: Path) -> None:
    for operator in ("Conv", "Pad"):
        node = helper.make_node(operator, ["x"], ["y"], pads=[1, number])
        with pytest.raises(FileFormatError, match="pads by more than 1,024 on a side"):
            check_model(save(model_of(node), tmp_path))
    with pytest.raises(FileFormatError, match="gives the operator 'Pad' a size that is not known"):
        check_model(save(model_of(PAD, initializer=numbers("pads", 1, number)), tmp_path))


def test_padding_is_detected_in_the_other_way_that_protobuf_reads(tmp_path: Path) -> None:
    attribute = b"\x2a\x0b\x0a\x04pads\x42\x03\x01\xd0\x0f"
    path = save(model_of(), tmp_path)
    path.write_bytes(path.read_bytes() + b"\x3a\x15\x0a\x13\x22\x04Conv" + attribute)
    read = ModelProto.FromString(path.read_bytes()).graph.node[-1]
    assert list(read.attribute[0].ints) == [1, 2000]
    with pytest.raises(FileFormatError, match="pads by more than 1,024 on a side"):
        check_model(path)


def test_padding_that_is_computed_is_refused(tmp_path: Path) -> None:
    model = model_of(helper.make_node("Mul", ["x", "x"], ["pads"]), PAD)
    with pytest.raises(FileFormatError, match="gives the operator 'Pad' a size that is not known"):
        check_model(save(model, tmp_path))


def test_parts_without_end_are_refused(tmp_path: Path) -> None:
    model = model_of()
    model.graph.node.extend([onnx.NodeProto(op_type="Relu")] * 200_001)
    with pytest.raises(FileFormatError, match="more than 200,000 parts"):
        check_model(save(model, tmp_path))


def test_onnxruntime_alone_would_make_much_of_little() -> None:
    """Else the check were for nothing."""
    model = model_of(zeros()[1], initializer=numbers("shape", 50_000_000))
    model.graph.output[0].name = "zeros"
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "many"
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {"x": np.zeros(1, np.float32)})
    assert made.nbytes > 100_000 * len(content)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(TEXTS, TEXTS, max_size=4), st.integers(0, 2**40), st.integers(0, 2**62))
def test_reads_what_onnx_wrote(
    tmp_path: Path, metadata: dict[str, str], ir_version: int, opset: int
) -> None:
    model = model_of()
    helper.set_model_props(model, metadata)
    model.ir_version = ir_version
    model.opset_import[0].version = opset
    outline = check_model(save(model, tmp_path))
    assert (outline.metadata, outline.ir_version, outline.opset) == (metadata, ir_version, opset)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.data())
def test_what_is_let_through_is_what_onnx_reads(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes changed at random: what both read has the same metadata, and nothing external."""
    model = model_of(*constant().graph.node)
    helper.set_model_props(model, {"key": "value"})
    content = bytearray(model.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    try:
        outline = check_model(path)
    except FileFormatError:
        return
    try:
        read = ModelProto.FromString(bytes(content))
    except Exception:  # protobuf's own errors; onnxruntime refuses such a file too
        return
    assert outline.metadata == {entry.key: entry.value for entry in read.metadata_props}
    tensors = [each.t for node in read.graph.node for each in node.attribute]
    tensors += read.graph.initializer
    assert not any(each.external_data or each.data_location for each in tensors)


def test_metadata_without_end_are_refused(tmp_path: Path) -> None:
    model = model_of()
    helper.set_model_props(model, {f"key{number}": "x" * 1_000_000 for number in range(33)})
    with pytest.raises(FileFormatError, match="more than 32 MB of metadata"):
        check_model(save(model, tmp_path))


@pytest.mark.parametrize("content", [b"a text\n", b"\x08\x07", b"\x8a\x8a", b"\x3a\x7f\x01"])
def test_what_is_no_model(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=f"^{path}: cannot be opened as an ONNX model"):
        check_model(path)


def test_empty_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    with pytest.raises(FileFormatError, match=r"model\.onnx: is an empty file$"):
        check_model(tmp_path / "model.onnx")


def test_model_is_cut_off(app: Path, tmp_path: Path) -> None:
    path = tmp_path / "app.onnx"
    shutil.copy(app, path)
    with path.open("r+b") as file:
        file.truncate(app.stat().st_size // 2)
    assert "cannot be opened as an ONNX model" in error_of("predict", path, "x.jpg")


@pytest.mark.parametrize(("ir_version", "opset"), [(999, 18), (8, 999)])
def test_model_of_a_later_onnx(ir_version: int, opset: int, app: Path, tmp_path: Path) -> None:
    model = onnx.load(str(app))
    model.ir_version = ir_version
    for each in model.opset_import:
        each.version = opset
    message = error_of("predict", save(model, tmp_path), "x.jpg")
    assert f"it is of opset {opset} and IR version {ir_version}, and onnxruntime " in message
    assert message.endswith("may be too old for it: install a newer one")


def test_onnxruntimes_own_format_is_not_opened(app: Path, tmp_path: Path) -> None:
    """It has no messages to look through, and onnxruntime would take it by its name."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "app.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(str(app), options, providers=["CPUExecutionProvider"])
    with pytest.raises(FileFormatError, match="cannot be opened as an ONNX model"):
        open_session(tmp_path / "app.ort", "app")
