from __future__ import annotations

import pytest

from cnncodes.errors import ParameterError
from cnncodes.export.architectures import layers_before, layers_of
from cnncodes.export.backbones import BACKBONES
from cnncodes.finetune.cuts import DEFAULT_CUTS, check_cut, cuts_of, layers_above


@pytest.mark.parametrize("name", BACKBONES)
def test_layers_above_a_cut_read_nothing_else_of_those_below(name: str) -> None:
    layers = layers_of(name, 96)
    cuts = cuts_of(layers)
    assert DEFAULT_CUTS[name] in cuts
    for cut in cuts:
        above = layers_above(layers, cut)
        allowed = {layer.name for layer in above} | {cut}
        assert all(source in allowed for layer in above for source in layer.inputs)
        assert len(above) + len(layers_before(layers, cut)) == len(layers)


def test_every_other_layer_with_an_image_as_output_is_bypassed_or_the_end() -> None:
    """The converse: the list of cuts is complete."""
    layers = layers_of("mobilenet_v2", 96)
    cuts = set(cuts_of(layers))
    for layer in layers:
        if layer.name in cuts:
            continue
        allowed = {each.name for each in layers_above(layers, layer.name)} | {layer.name}
        above = layers_above(layers, layer.name)
        bypassed = any(source not in allowed for each in above for source in each.inputs)
        has_kernel = any(len(shape) > 1 for each in above for shape in each.weights)
        assert bypassed or not has_kernel or layer.kind in ("input_layer", "rescaling")


WRONG = {
    ("vgg16", "block4_pol"): "has no layer 'block4_pol'; did you mean block4_pool?",
    ("vgg16", "nonsense"): "has no layer 'nonsense'; from_layer is one of block1_conv1",
    ("vgg16", "block5_pool"): "no convolutions above 'block5_pool', so nothing to fine-tune",
    ("mobilenet_v2", "Conv_1"): "no convolutions above 'Conv_1'",
    ("vgg16", "input_layer"): "layer 'input_layer' of vgg16 gives no codes",
    ("inception_v3", "mixed9_0"): "cannot be cut at 'mixed9_0', since layers above it also read",
    ("resnet50", "conv5_block2_1_relu"): "conv4_block6_out, conv5_block1_add, conv5_block1_out",
}


@pytest.mark.parametrize(("name", "layer"), WRONG)
def test_layer_that_is_no_cut_is_refused_with_those_that_are(name: str, layer: str) -> None:
    with pytest.raises(ParameterError) as error:
        check_cut(name, layers_of(name, 96), layer)
    assert WRONG[name, layer] in str(error.value)


def test_default_cut_is_that_of_the_table() -> None:
    assert check_cut("vgg16", layers_of("vgg16", 96), None) == "block4_pool"
