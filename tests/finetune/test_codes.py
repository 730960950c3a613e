from __future__ import annotations

import numpy as np
import pytest

from cnncodes.export.architectures import layers_of
from cnncodes.finetune.codes import Codes
from cnncodes.finetune.heads import Fitted
from cnncodes.head.scaling import Scaling


def _codes(outputs: list[str], pool: str) -> Codes:
    return Codes.of(layers_of("vgg16", 64), outputs, pool)


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
    head = Fitted(scaling, weights, bias).head
    np.testing.assert_allclose(head.logits(X), scaled @ weights + bias, atol=2e-3)
