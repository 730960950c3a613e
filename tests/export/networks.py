"""Small networks built as real backbones are: images in NHWC at one end, codes at the other."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from cnncodes.export.graph import Graph
from cnncodes.quantize.calibration import run_graph


class Network:
    """A network of random weights; each call adds a node and returns the tensor it makes."""

    def __init__(self, size: int = 16, seed: int = 0) -> None:
        self.size = size
        self.random = np.random.default_rng(seed)
        self.channels: dict[str, int] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, NDArray[np.generic]] = {}

    def constant(self, value: ArrayLike) -> str:
        name = f"constant{len(self._constants)}"
        self._constants[name] = np.asarray(value)
        return name

    def node(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind}{len(self._nodes)}"
        if "auto_pad" in attributes:
            attributes.pop("pads", None)
        self._nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        self.channels[name] = self.channels.get(inputs[0], 3)
        return name

    def pixels(self, scale: ArrayLike = 1 / 127.5, shift: ArrayLike = -1.0) -> str:
        """Add what makes the bytes numbers and NCHW: x · scale + shift."""
        numbers = self.node("Cast", "images", to=TensorProto.FLOAT)
        scaled = self.node("Mul", numbers, self.constant(np.float32(scale)))
        shifted = self.node("Add", scaled, self.constant(np.float32(shift)))
        return self.node("Transpose", shifted, perm=[0, 3, 1, 2])

    def conv(
        self,
        source: str,
        n_out: int,
        kernel: int = 3,
        *,
        weights: NDArray[np.float64] | None = None,
        bias: NDArray[np.float64] | None = None,
        **attributes: object,
    ) -> str:
        """Add a convolution that keeps height and width; `bias` of no values leaves it out."""
        groups = attributes.get("group", 1)
        assert isinstance(groups, int)
        n_in = self.channels[source] // groups
        if weights is None:
            shape = (n_out, n_in, kernel, kernel)
            weights = self.random.normal(0, (2 / (n_in * kernel**2)) ** 0.5, shape)
        if bias is None:
            bias = self.random.normal(0, 0.1, n_out)
        inputs = [source, self.constant(weights.astype(np.float32))]
        if bias.size:
            inputs.append(self.constant(bias.astype(np.float32)))
        name = self.node("Conv", *inputs, **{"pads": [weights.shape[2] // 2] * 4, **attributes})
        self.channels[name] = n_out
        return name

    def conv_relu(self, source: str, n_out: int, kernel: int = 3, **options: object) -> str:
        return self.node("Relu", self.conv(source, n_out, kernel, **options))  # type: ignore[arg-type]

    def pool(self, kind: str, source: str, kernel: int = 3, **attributes: object) -> str:
        options = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4, **attributes}
        return self.node(kind, source, **options)

    def concat(self, *sources: str) -> str:
        name = self.node("Concat", *sources, axis=1)
        self.channels[name] = sum(self.channels[each] for each in sources)
        return name

    def graph(self, output: str, *, transpose: bool = True) -> Graph:
        """End with `output`, in NHWC as Keras's networks do or, without `transpose`, as it is."""
        nodes = list(self._nodes)
        if transpose:
            nodes.append(helper.make_node("Transpose", [output], ["codes"], perm=[0, 2, 3, 1]))
        else:
            nodes.append(helper.make_node("Identity", [output], ["codes"]))
        return self._graph_of(nodes, "codes")

    def graph_without_end(self, output: str) -> Graph:
        """Make the tensor itself the output of the graph."""
        return self._graph_of(self._nodes, output)

    def _graph_of(self, nodes: list[onnx.NodeProto], output: str) -> Graph:
        shape = ["N", self.size, self.size, 3]
        graph = helper.make_graph(
            nodes,
            "test",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in self._constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        return Graph(onnx.shape_inference.infer_shapes(model, data_prop=True))


def images(n: int = 8, size: int = 16, seed: int = 1) -> NDArray[np.uint8]:
    """Patches of colours: unlike noise, their codes differ from image to image."""
    random = np.random.default_rng(seed)
    patches = random.integers(0, 256, (n, -(-size // 4), -(-size // 4), 3), np.uint8)
    return patches.repeat(4, axis=1).repeat(4, axis=2)[:, :size, :size]


def codes_of(graph: Graph, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    onnx.checker.check_model(graph.model(), full_check=True)
    codes: NDArray[np.float32] = run_graph(graph, threads=1).run(None, {graph.input: pixels})[0]
    return codes


def optimized(graph: Graph) -> onnx.ModelProto:
    """Return what onnxruntime makes of a graph before it runs it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(
            graph.model().SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return onnx.load(str(path))


def operators(graph: Graph) -> list[str]:
    return [node.op_type for node in graph.nodes]
