"""The layers at which a network can be cut: all that the layers above them read is their output."""

from __future__ import annotations

from collections.abc import Sequence

from cnncodes.errors import ParameterError
from cnncodes.export.architectures import Layer, layers_before
from cnncodes.export.backbones import BackboneSpec
from cnncodes.export.export import named_layers
from cnncodes.text import similar

_PIXELS = ("input_layer", "rescaling", "normalization")
# The layers above these are one block or two: few enough weights for some hundred images, and a
# tenth to a third of the network's operations.
DEFAULT_CUTS = {
    "inception_v3": "mixed8",
    "vgg16": "block4_pool",
    "vgg19": "block4_pool",
    "mobilenet_v2": "block_12_add",
    "resnet50": "conv4_block6_out",
    "efficientnet_v2_b0": "block5e_add",
}


def cuts_of(layers: Sequence[Layer]) -> list[str]:
    """Return the layers at which a network can be cut, with convolutions above them.

    Parameters
    ----------
    layers : sequence of Layer
        All layers of the network, from the input on.

    Returns
    -------
    list of str
        Their names, in the order of `layers`.
    """
    return [
        layer.name
        for layer in layers
        if len(layer.shape) == 3
        and layer.kind not in _PIXELS
        and _trains(layers_above(layers, layer.name))
        and not _bypasses(layers, layer.name)
    ]


def layers_above(layers: Sequence[Layer], cut: str) -> list[Layer]:
    """Return the layers that are computed after a cut, in the order of `layers`."""
    below = {layer.name for layer in layers_before(layers, cut)}
    return [layer for layer in layers if layer.name not in below]


def check_cut(name: str, layers: Sequence[Layer], wanted: str | None) -> str:
    """Return the layer at which to cut a network.

    Parameters
    ----------
    name : str
        The network.
    layers : sequence of Layer
        All its layers.
    wanted : str, optional
        The layer; by default that of `DEFAULT_CUTS`.

    Raises
    ------
    ParameterError
        It is no layer, has nothing above it to train, or others bypass it.
    """
    wanted = DEFAULT_CUTS[name] if wanted is None else wanted
    cuts = cuts_of(layers)
    if wanted in cuts:
        return wanted
    named = {layer.name: layer for layer in layers}
    if wanted not in named:
        near = similar(wanted, named)
        meant = f"did you mean {near[0]}? " if near else ""
        raise ParameterError(
            f"{name} has no layer {wanted!r}; {meant}from_layer is one of {_some(cuts)}"
        )
    if not _trains(layers_above(layers, wanted)):
        raise ParameterError(
            f"{name} has no convolutions above {wanted!r}, so nothing to fine-tune; from_layer is "
            f"one of {_some(cuts)}"
        )
    if named[wanted].kind in _PIXELS:
        raise ParameterError(
            f"layer {wanted!r} of {name} gives no codes; from_layer is one of {_some(cuts)}"
        )
    passed = [each for each in _bypasses(layers, wanted) if each not in _PIXELS]
    raise ParameterError(
        f"{name} cannot be cut at {wanted!r}, since layers above it also read {passed[0]!r}; "
        f"from_layer is one of {_some(cuts)}"
    )


def check_outputs(
    spec: BackboneSpec,
    layers: Sequence[Layer],
    wanted: str | Sequence[str] | None,
    pool: str,
    cut: str,
) -> list[str]:
    """Return the layers whose pooled outputs the head sees.

    Parameters
    ----------
    spec : BackboneSpec
        The network.
    layers : sequence of Layer
        All its layers.
    wanted : str or sequence of str, optional
        The layers, also as one string with commas; by default the last.
    pool : {"avg", "max", "avg+max", "grid2"}
        The pooling.
    cut : str
        The layer at which the network is cut.

    Raises
    ------
    ParameterError
        One is no layer or below the cut, or nothing between the cut and them is trained.
    """
    names = named_layers(wanted, layers, spec, pool)
    above = {layer.name for layer in layers_above(layers, cut)}
    for name in names:
        if name not in above and name != cut:
            raise ParameterError(
                f"layer {name!r} of {spec.name} is below {cut!r}, whose output is all that is kept "
                "of an image; name layers above it in layers, or an earlier from_layer"
            )
    if not _trains([layer for layer in layers_before(layers, *names) if layer.name in above]):
        raise ParameterError(
            f"there are no convolutions between {cut!r} and layers {', '.join(names)} of "
            f"{spec.name}, so nothing to fine-tune; name a later layer too"
        )
    return names


def _trains(layers: Sequence[Layer]) -> bool:
    """Return whether there is a kernel: batch normalization alone is not trained."""
    return any(len(shape) > 1 for layer in layers for shape in layer.weights)


def _bypasses(layers: Sequence[Layer], cut: str) -> list[str]:
    """Return the other layers up to a cut that layers above it read."""
    below = {layer.name for layer in layers_before(layers, cut)} - {cut}
    return [
        source for layer in layers_above(layers, cut) for source in layer.inputs if source in below
    ]


def _some(cuts: Sequence[str], most: int = 24) -> str:
    """List cuts, the last ones where they are many: they leave the fewest layers to train."""
    dropped = "… " if len(cuts) > most else ""
    return dropped + ", ".join(cuts[-most:])
