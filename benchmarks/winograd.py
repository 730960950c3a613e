"""The cost model by which `cnncodes export` chooses how to compute a convolution.

    python benchmarks/winograd.py [REPEATS]

Every algorithm of some convolutions of InceptionV3, VGG16 and ResNet50 is timed on one thread, in
processor time. Printed are, for each convolution, the algorithm that the model chooses, its time
and that of the fastest beside the plain one; then the costs that fit the times best, in relative
least squares, beside those in use. It takes a few minutes.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from scipy.optimize import nnls

from cnncodes.export import winograd
from cnncodes.export.graph import Graph
from cnncodes.export.winograd import _candidates, _Convolution, _ConvolutionWriter, _cost, _work

N_RUNS = 5
# Input channels, output channels, kernel, height and width.
CONVOLUTIONS = (
    (32, 64, (3, 3), 109),
    (96, 96, (3, 3), 25),
    (48, 64, (5, 5), 25),
    (128, 128, (1, 7), 12),
    (192, 192, (7, 1), 12),
    (448, 384, (3, 3), 5),
    (384, 384, (1, 3), 5),
    (64, 64, (3, 3), 224),
    (128, 128, (3, 3), 112),
    (256, 256, (3, 3), 56),
    (512, 512, (3, 3), 28),
    (512, 512, (3, 3), 14),
    (64, 64, (3, 3), 56),
    (256, 256, (3, 3), 14),
)


def session(plan: _Convolution) -> onnxruntime.InferenceSession:
    """Load a network of one convolution, computed as planned."""
    weights = np.ones((plan.n_out, plan.n_in, *plan.kernel), np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=2 * plan.pads)
    graph = helper.make_graph(
        [node],
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", plan.n_in, *plan.size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights, "w")],
    )
    editable = Graph(onnx.helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
    if any(plan.algorithms):
        editable.nodes = _ConvolutionWriter(editable, node, plan).write()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = editable.model()
    model.ir_version = 8
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def times(plans: list[_Convolution], repeats: int) -> list[float]:
    """Time plans in turn; return the median seconds of each."""
    sessions = [session(plan) for plan in plans]
    x = np.random.default_rng(0).normal(size=(1, plans[0].n_in, *plans[0].size)).astype(np.float32)
    rounds = []
    for _ in range(repeats + 1):
        seconds = []
        for each in sessions:
            start = time.process_time()
            for _ in range(N_RUNS):
                each.run(None, {"x": x})
            seconds.append((time.process_time() - start) / N_RUNS)
        rounds.append(seconds)
    return [statistics.median(column) for column in zip(*rounds[1:], strict=True)]


def main() -> None:
    """Time all, print the choices and the fit."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    work, measured = [], []
    for n_in, n_out, kernel, size in CONVOLUTIONS:
        pads = (kernel[0] // 2, kernel[1] // 2)
        plans = list(_candidates(_Convolution(n_in, n_out, kernel, (size, size), pads)))
        seconds = times(plans, repeats)
        best = min(range(len(plans)), key=[_cost(plan) for plan in plans].__getitem__)
        chosen = best if _cost(plans[best]) < winograd._WORTHWHILE * _cost(plans[0]) else 0
        names = [each.name if each else "plain" for each in plans[chosen].algorithms]
        sys.stdout.write(
            f"{n_in} -> {n_out}, {kernel[0]} × {kernel[1]} on {size} × {size}: "
            f"{' and '.join(names)} {seconds[chosen] / seconds[0]:.2f} × (expected "
            f"{_cost(plans[chosen]) / _cost(plans[0]):.2f} ×), fastest "
            f"{min(seconds) / seconds[0]:.2f} ×\n"
        )
        work += [_work(plan) for plan in plans]
        measured += seconds
    scale = np.array(measured)[:, None]
    costs, _ = nnls(np.array(work) / scale, np.ones(len(work)))
    fitted = tuple((costs / costs[0]).round(1).tolist())
    sys.stdout.write(f"costs that fit best: {fitted}, in use: {winograd._COSTS}\n")


if __name__ == "__main__":
    main()
