"""ONNX files from strangers: what reaches outside of its own file is not opened."""

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
from cnncodes.model_check import check_model
from cnncodes.model_file import open_session
from tests.conftest import error_of

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
    """Save a model of ours whose last weights are in the file `where`."""
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
    said = [
        error_of("extract", backbone2, photos, "-o", output),
        error_of("quantize", backbone2, "--images", photos, "-o", output),
        error_of("bundle", backbone2, head, "-o", output),
        error_of("bundle", small_backbone, head2, "-o", output),
        error_of("predict", app2, next(photos.rglob("*.png"))),
        error_of("evaluate", app2, photos),
        error_of("bench", app2),
        *(error_of("info", path) for path in names),
    ]
    assert all("is in another file, which" in line for line in said)
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
    node = helper.make_node("Anything", ["x"], ["y"])
    node.attribute.add(name="list", type=onnx.AttributeProto.TENSORS).tensors.append(external())
    return model_of(node)


def branch() -> GraphProto:
    return model_of(initializer=external()).graph


def sparse() -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=external(), dims=[1])


def sparse_initializer() -> ModelProto:
    model = model_of()
    model.graph.sparse_initializer.append(sparse())
    return model


def function() -> ModelProto:
    model = model_of()
    model.functions.append(
        helper.make_function("", "F", ["x"], ["y"], list(constant().graph.node), [])
    )
    return model


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
        lambda: model_of(helper.make_node("If", ["x"], ["y"], then_branch=branch())),
        lambda: model_of(helper.make_node("Scan", ["x"], ["y"], bodies=[branch(), branch()])),
        lambda: model_of(helper.make_node("Constant", [], ["y"], sparse_value=sparse())),
        sparse_initializer,
        function,
        training,
        after_many_numbers,
        flag_alone,
    ],
)
def test_weights_elsewhere_are_found_wherever_they_are(
    make: Callable[[], ModelProto], tmp_path: Path
) -> None:
    path = save(make(), tmp_path)
    with pytest.raises(FileFormatError, match=rf"^{path}: its weight .* is in another file"):
        check_model(path)


@pytest.mark.parametrize("domain", ["com.microsoft", "mine", "ai.onnx.preview.training", "\x1b"])
def test_operators_of_others_are_refused(domain: str, tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"], domain=domain)
    inside = helper.make_node("If", ["x"], ["y"], then_branch=model_of(node).graph)
    with_function = model_of()
    with_function.functions.append(helper.make_function(domain, "F", ["x"], ["y"], [], []))
    for model in (model_of(node), model_of(inside), with_function):
        with pytest.raises(FileFormatError, match=r"uses operators of '.*', not of ONNX alone"):
            check_model(save(model, tmp_path))


@pytest.mark.parametrize("domain", ["", "ai.onnx", "ai.onnx.ml"])
def test_operators_of_onnx_are_let_through(domain: str, tmp_path: Path) -> None:
    check_model(save(model_of(helper.make_node("Relu", ["x"], ["y"], domain=domain)), tmp_path))


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
    helper.set_model_props(model, {f"key{number}": "x" * 1_000_000 for number in range(17)})
    with pytest.raises(FileFormatError, match="more than 16 MB of metadata"):
        check_model(save(model, tmp_path))


@pytest.mark.parametrize("content", [b"", b"a text\n", b"\x08\x07", b"\x8a\x8a", b"\x3a\x7f\x01"])
def test_what_is_no_model(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=f"^{path}: cannot be opened as an ONNX model"):
        check_model(path)


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
    said = error_of("predict", save(model, tmp_path), "x.jpg")
    assert f"it is of opset {opset} and IR version {ir_version}, and onnxruntime " in said
    assert said.endswith("may be too old for it: install a newer one")


def test_onnxruntimes_own_format_is_not_opened(app: Path, tmp_path: Path) -> None:
    """It has no messages to look through, and onnxruntime would take it by its name."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "app.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(str(app), options, providers=["CPUExecutionProvider"])
    with pytest.raises(FileFormatError, match="cannot be opened as an ONNX model"):
        open_session(tmp_path / "app.ort", "app")
