"""Models whose fields are changed, at random or to be harmful."""

from __future__ import annotations

from collections.abc import Callable

import onnx
from numpy.random import Generator
from onnx import ModelProto, TensorProto, helper

from tests.fuzz.files import DECOYS
from tests.fuzz.noise import change_bytes

TEXTS = ("", "{}", "[]", "null", "9" * 5000, "-1", "nan", '"\\ud800"', "[" * 2000, "\x1b[2J\n", "∞")
DEEP = '{"a":' * 400 + "1" + "}" * 400
Edit = Callable[[ModelProto, Generator], None]


def _change_metadata(model: ModelProto, generator: Generator) -> None:
    entry = model.metadata_props[generator.integers(len(model.metadata_props))]
    if generator.random() < 0.5:
        entry.value = (*TEXTS, DEEP)[generator.integers(len(TEXTS) + 1)]
    else:
        changed = change_bytes(entry.value.encode(), generator)
        entry.value = changed.decode("utf-8", "replace")


def _drop_metadata(model: ModelProto, generator: Generator) -> None:
    del model.metadata_props[generator.integers(len(model.metadata_props))]


def _change_dimension(model: ModelProto, generator: Generator) -> None:
    values = [*model.graph.input, *model.graph.output]
    shape = values[generator.integers(len(values))].type.tensor_type.shape
    dimension = shape.dim[generator.integers(len(shape.dim))]
    dimension.dim_value = int(generator.choice([-1, 0, 1, 7, 2**31, 2**62]))


def _change_type(model: ModelProto, generator: Generator) -> None:
    values = [*model.graph.input, *model.graph.output]
    value = values[generator.integers(len(values))]
    value.type.tensor_type.elem_type = int(generator.integers(30))


def _change_tensor(model: ModelProto, generator: Generator) -> None:
    tensor = model.graph.initializer[generator.integers(len(model.graph.initializer))]
    if generator.random() < 0.5 and tensor.dims:
        tensor.dims[generator.integers(len(tensor.dims))] = int(generator.choice([0, -1, 9, 2**40]))
    else:
        tensor.raw_data = change_bytes(tensor.raw_data, generator)


def _keep_tensor_outside(model: ModelProto, generator: Generator) -> None:
    """Say that weights are in another file, which may be any."""
    tensor = model.graph.initializer[generator.integers(len(model.graph.initializer))]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    locations = ("/etc/passwd", "../../../../etc/passwd", "/dev/zero", "absent", "")
    for key, value in (("location", str(generator.choice(locations))), ("length", "64")):
        tensor.external_data.add(key=key, value=value)


def _change_node(model: ModelProto, generator: Generator) -> None:
    node = model.graph.node[generator.integers(len(model.graph.node))]
    node.op_type = str(generator.choice(["Identity", "Sum", "Exp", "Nonsense", "Reshape", "Gemm"]))


def _reconnect(model: ModelProto, generator: Generator) -> None:
    nodes = model.graph.node
    node, other = (nodes[generator.integers(len(nodes))] for _ in range(2))
    node.input[generator.integers(len(node.input))] = other.output[0]


def _drop_node(model: ModelProto, generator: Generator) -> None:
    del model.graph.node[generator.integers(len(model.graph.node))]


def _repeat_node(model: ModelProto, generator: Generator) -> None:
    node = model.graph.node[generator.integers(len(model.graph.node))]
    model.graph.node.append(node)


def _change_attribute(model: ModelProto, generator: Generator) -> None:
    attributes = [each for node in model.graph.node for each in node.attribute]
    if attributes:
        attribute = attributes[generator.integers(len(attributes))]
        attribute.i = int(generator.choice([-1, 0, 5, 2**40]))
        for index in range(len(attribute.ints)):
            attribute.ints[index] = int(generator.choice([-1, 0, 1, 3, 2**31, 2**62]))


def _change_versions(model: ModelProto, generator: Generator) -> None:
    model.ir_version = int(generator.choice([0, 1, 8, 99, 2**40]))
    model.opset_import[0].version = int(generator.choice([-1, 0, 1, 13, 99, 2**40]))


def _add_node(model: ModelProto, generator: Generator) -> None:
    """Let the graph make much of a few bytes."""
    count = int(generator.choice([2**28, 2**33, 2**40]))
    shape = helper.make_tensor("many", TensorProto.INT64, [1], [count])
    model.graph.initializer.append(shape)
    model.graph.node.append(helper.make_node("ConstantOfShape", ["many"], ["filled"]))
    model.graph.node.append(helper.make_node("ReduceSum", ["filled"], ["sum"]))
    last = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if name == last else name for name in node.output]
    model.graph.node.append(helper.make_node("Add", ["before", "sum"], [last]))


# Weights in other files.


def tensor_outside(generator: Generator) -> TensorProto:
    """Make a tensor whose numbers are the bytes of another file, and are there."""
    length = 27
    tensor = TensorProto(name="outside", data_type=TensorProto.FLOAT, dims=[length])
    tensor.data_location = TensorProto.EXTERNAL
    folder = (DECOYS, f"/proc/self/cwd/{DECOYS}", f"./{DECOYS}/../{DECOYS}")[generator.integers(3)]
    entries = {"location": f"{folder}/weights.bin", "offset": "0", "length": str(4 * length)}
    for key, value in entries.items():
        if key == "location" or generator.random() < 0.7:
            tensor.external_data.add(key=key, value=value)
    return tensor


def add_sum(model: ModelProto, name: str) -> None:
    """Let the result depend on another value."""
    last = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if each == last else each for each in node.output]
    model.graph.node.append(helper.make_node("ReduceSum", [name], ["total"], keepdims=0))
    model.graph.node.append(helper.make_node("Add", ["before", "total"], [last]))


def _outside_initializer(model: ModelProto, generator: Generator) -> None:
    model.graph.initializer.append(tensor_outside(generator))
    add_sum(model, "outside")


def _outside_attribute(model: ModelProto, generator: Generator) -> None:
    """Have a constant, or another node, whose attribute is a tensor in another file."""
    tensor = tensor_outside(generator)
    node = helper.make_node("Constant", [], ["outside"])
    attribute = node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    attribute.t.CopyFrom(tensor)
    if generator.random() < 0.3:
        attribute.type = onnx.AttributeProto.TENSORS
        attribute.tensors.append(tensor)
        attribute.ClearField("t")
    model.graph.node.insert(0, node)
    add_sum(model, "outside")


def _outside_sparse(model: ModelProto, generator: Generator) -> None:
    """Have sparse numbers in another file: initializers, or in an attribute."""
    sparse = onnx.SparseTensorProto(dims=[100])
    sparse.values.CopyFrom(tensor_outside(generator))
    sparse.indices.CopyFrom(helper.make_tensor("positions", TensorProto.INT64, [27], range(27)))
    if generator.random() < 0.3:
        sparse.indices.CopyFrom(tensor_outside(generator))
    if generator.random() < 0.5:
        model.graph.sparse_initializer.append(sparse)
    else:
        node = helper.make_node("Constant", [], ["outside"])
        attribute = node.attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR)
        attribute.sparse_tensor.CopyFrom(sparse)
        if generator.random() < 0.3:
            attribute.sparse_tensors.append(sparse)
        model.graph.node.insert(0, node)
    add_sum(model, "outside")


def _outside_in_a_branch(model: ModelProto, generator: Generator) -> None:
    """Have a tensor in another file in a graph of a graph."""
    inner = helper.make_graph(
        [helper.make_node("Identity", ["outside"], ["branch"])],
        *("inner", [], [helper.make_tensor_value_info("branch", TensorProto.FLOAT, None)]),
        [tensor_outside(generator)],
    )
    model.graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    node = helper.make_node("If", ["yes"], ["chosen"], then_branch=inner, else_branch=inner)
    model.graph.node.append(node)
    add_sum(model, "chosen")


def _outside_elsewhere(model: ModelProto, generator: Generator) -> None:
    """Have a tensor in another file where training, functions or metadata are described."""
    index = generator.integers(3)
    if index == 0:
        model.training_info.add().initialization.initializer.append(tensor_outside(generator))
    elif index == 1:
        node = helper.make_node("Constant", [], ["y"], value=tensor_outside(generator))
        opsets = [helper.make_opsetid("", 18)]
        model.functions.append(helper.make_function("", "Relu", ["x"], ["y"], [node], opsets))
    else:
        function = model.functions.add(name="Relu", domain="")
        attribute = function.attribute_proto.add(name="value", type=onnx.AttributeProto.TENSOR)
        attribute.t.CopyFrom(tensor_outside(generator))


# Sizes and depths.


def _huge_dimensions(model: ModelProto, generator: Generator) -> None:
    """Claim very many numbers: of a weight, a constant, or the shape of a value."""
    lengths = (2**31, 2**32, 2**40, 2**62, -1)
    dims = [int(generator.choice(lengths)) for _ in range(int(generator.integers(1, 4)))]
    dtype = int(generator.choice([1, 7, 8, 10, 16, 17, 22, 99]))
    tensor = TensorProto(name="many", data_type=dtype, dims=dims)
    index = generator.integers(4)
    if index == 0:
        tensor.raw_data = b"\0" * 64
    elif index == 1:
        tensor.string_data.extend([b"text"] * 16)
    if generator.random() < 0.5:
        model.graph.initializer.append(tensor)
    else:
        node = helper.make_node("Constant", [], ["many"], value=tensor)
        model.graph.node.insert(0, node)
    shape = [int(generator.choice(lengths)) for _ in range(3)]
    model.graph.value_info.append(helper.make_tensor_value_info("many", dtype % 20, shape))
    add_sum(model, "many")


def _too_much_metadata(model: ModelProto, generator: Generator) -> None:
    """Have metadata of more bytes, entries or labels than any file of cnncodes."""
    way = generator.integers(6)
    if way == 0:
        model.metadata_props.add(key="cnncodes.note", value="x" * int(15.9e6))
    elif way == 1:
        model.metadata_props.add(key="x" * 17_000_000, value="")
    elif way == 2:
        for number in range(210_000):
            model.metadata_props.add(key=str(number), value="")
    elif way == 3:
        _set(model, "cnncodes.labels", "[" + ",".join(["1"] * 3_000_000) + "]")
    elif way == 4:
        names = ",".join(f'"{number:x}"' for number in range(1_000_000))
        _set(model, "cnncodes.labels", f"[{names}]")
    else:
        entry = model.metadata_props[generator.integers(len(model.metadata_props))]
        entry.value = "{" + '"a":[' * 2_000_000


def _entries_twice(model: ModelProto, generator: Generator) -> None:
    """Have an entry of metadata twice, with another value."""
    entry = model.metadata_props[generator.integers(len(model.metadata_props))]
    changed = change_bytes(entry.value.encode(), generator).decode("utf-8", "replace")
    model.metadata_props.insert(
        int(generator.integers(2)) * len(model.metadata_props),
        onnx.StringStringEntryProto(key=entry.key, value=changed),
    )


def _set(model: ModelProto, key: str, value: str) -> None:
    for entry in model.metadata_props:
        if entry.key == key:
            entry.value = value


def _deep_types(model: ModelProto, generator: Generator) -> None:
    """Have a type in a type, without end."""
    inner = onnx.TypeProto()
    inner.tensor_type.elem_type = 1
    for _ in range(int(generator.choice([10, 45, 90]))):
        outer = onnx.TypeProto()
        if generator.random() < 0.5:
            outer.sequence_type.elem_type.CopyFrom(inner)
        else:
            outer.optional_type.elem_type.CopyFrom(inner)
        inner = outer
    model.graph.value_info.add(name="deep").type.CopyFrom(inner)
    if generator.random() < 0.5:
        model.graph.input.add(name="deep").type.CopyFrom(inner)


def _many_parts(model: ModelProto, generator: Generator) -> None:
    """Have nodes, values or texts in great number, each of a few bytes."""
    way, number = generator.integers(4), int(generator.choice([10_000, 250_000]))
    if way == 0:
        model.graph.node.extend([onnx.NodeProto(op_type="Relu")] * (number // 50))
    elif way == 1:
        model.graph.value_info.extend([onnx.ValueInfoProto(name="v")] * number)
    elif way == 2:
        model.graph.node[0].input.extend(["x"] * (number // 5))
    else:
        model.opset_import.extend([helper.make_opsetid("ai.onnx.ml", 3)] * number)


def _flipped_weight(model: ModelProto, generator: Generator) -> None:
    """Flip a bit of a weight, and nothing else."""
    weights = [each for each in model.graph.initializer if each.raw_data]
    tensor = weights[generator.integers(len(weights))]
    data = bytearray(tensor.raw_data)
    data[generator.integers(len(data))] ^= 1 << int(generator.integers(8))
    tensor.raw_data = bytes(data)


AT_RANDOM: tuple[Edit, ...] = (
    *(_change_metadata, _change_metadata, _change_metadata, _drop_metadata, _change_dimension),
    *(_change_type, _change_tensor, _change_tensor, _keep_tensor_outside, _change_node),
    *(_reconnect, _drop_node, _repeat_node, _change_attribute, _change_versions, _add_node),
)
OUTSIDE: tuple[Edit, ...] = (
    *(_outside_initializer, _outside_attribute, _outside_sparse, _outside_in_a_branch),
    _outside_elsewhere,
)
LARGE: tuple[Edit, ...] = (
    *(_huge_dimensions, _too_much_metadata, _entries_twice, _deep_types, _many_parts),
    _flipped_weight,
)
