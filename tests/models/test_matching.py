"""Which file is of which network of a head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cnncodes.models.matching import match_networks
from cnncodes.models.metadata import Part
from tests.helpers import HEAD_INFO, VGG16_INFO


def test_the_very_file_of_a_network_is_preferred():
    """Of a network in float32 and in int8 each file would do for both with `allow_mixed`."""
    quantized = replace(VGG16_INFO, precision="int8", parent_sha256="ab" * 32)
    parts = (Part(VGG16_INFO, "ab" * 32, 4), Part(quantized, "cd" * 32, 4))
    head = replace(HEAD_INFO, parts=parts)
    others = [
        (Path("int8.onnx"), quantized, "cd" * 32),
        (Path("float32.onnx"), VGG16_INFO, "ab" * 32),
    ]
    assert match_networks(Path("head.onnx"), head, others, allow_mixed=True) == [1, 0]
