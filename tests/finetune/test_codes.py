from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from cnncodes.export.architectures import layers_of
from cnncodes.finetune.codes import Codes
from cnncodes.finetune.heads import Fitted
from cnncodes.head.head_onnx import make_head
from cnncodes.head.normalize import normalization_nodes, normalized
from cnncodes.head.scaling import Scaling


def _codes(outputs: list[str], pool: str) -> Codes:
    return Codes.of(layers_of("vgg16", 64), outputs, pool, "block4_pool")


def test_codes_of_the_cut_are_normalised_each_pool_by_itself() -> None:
    codes = _codes(["block5_conv3", "block4_pool"], "avg+max")
    assert codes.normalize == "512:none,512:none,512:sqrt+length,512:sqrt+length"
    X = np.abs(np.random.default_rng(0).normal(size=(3, 2048)).astype(np.float32))
    expected = X.copy()
    for start in (1024, 1536):
        part = np.sqrt(X[:, start : start + 512])
        expected[:, start : start + 512] = part / np.linalg.norm(part, axis=1, keepdims=True)
    np.testing.assert_allclose(normalized(X, codes.normalize), expected, rtol=1e-6)
    assert _codes(["block5_conv3"], "avg+max").normalize == "none"


def test_graph_normalises_blocks_as_numpy_does() -> None:
    how = "2:none,3:sqrt+length,1:sqrt,2:length"
    X = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    X[1] = 0
    nodes, constants, name = normalization_nodes(how)
    nodes[-1].output[:] = ["probabilities"]
    assert name == "normalized"
    model = make_head(nodes, constants, (8,), 8, {"": 18})
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    computed = session.run(None, {"codes": X})[0]
    np.testing.assert_allclose(computed, normalized(X, how), rtol=1e-6)


def test_codes_of_one_block_are_scaled_by_one_number_those_of_several_each_by_its_own() -> None:
    assert isinstance(_codes(["block5_pool"], "avg").scaling(np.ones((2, 512), "f4")), Scaling)
    codes = _codes(["block5_conv3"], "avg+max")
    X = np.random.default_rng(0).normal(5, 2, (50, 1024)).astype(np.float32)
    X[:, 512:] *= 1000
    X[:, 3] = 7  # the same for all images
    X[:, 4] *= 1e-6
    scaled = X.copy()
    scaling = codes.scaling(X)
    scaling.apply(scaled)
    lengths = np.square(scaled).sum(axis=1).mean()
    assert lengths == pytest.approx(1, abs=0.01)
    assert (scaled[:, 3] == 0).all()
    deviations = scaled.std(axis=0)
    assert deviations[4] < 0.01 * deviations[5]  # its noise is not amplified
    np.testing.assert_allclose(deviations[[0, 600]], 1024**-0.5, rtol=1e-3)
    random = np.random.default_rng(1)
    weights, bias = (random.normal(size=each).astype(np.float32) for each in ((1024, 2), 2))
    head = Fitted(scaling, weights, bias, codes.normalize).head
    np.testing.assert_allclose(head.logits(X), scaled @ weights + bias, atol=2e-3)
