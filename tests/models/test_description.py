"""Descriptions of networks in words."""

from __future__ import annotations

from cnncodes.models.description import weights_text


def test_weights_of_several_networks_are_each_named() -> None:
    assert (
        weights_text("random:0 + file:" + "ab" * 32 + " + imagenet", "mine.h5")
        == "random weights (seed 0) + weights of mine.h5 (abababab) + imagenet weights"
    )
