"""A head and codes made for the tests of this folder."""

from __future__ import annotations

import pytest

from tests.helpers import logits_of, write_head, write_labelled_codes


@pytest.fixture
def small(tmp_path):
    """A head of three classes and codes of six images: 0 and 1 are trained on, 5 is wrong."""
    head = write_head(tmp_path / "head.onnx", ["a", "b", "c"], trained=[0, 1])
    codes = write_labelled_codes(
        tmp_path / "codes.h5", logits_of([0, 1, 0, 1, 2, 0], 3), [0, 1, 0, 1, 2, 2], ["a", "b", "c"]
    )
    return head, codes
