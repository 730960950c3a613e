"""The networks of the table, layer by layer, as ``keras.applications`` builds them.

Names, weights and order of the layers are Keras's, since weight files and ``--layer`` go by them:
`tests/export/test_architectures.py` compares every layer with Keras's own. A new network is a
function here and a row in `backbones`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

Size = tuple[int, int]


@dataclass(frozen=True)
class Layer:
    """A layer of a network.

    Attributes
    ----------
    name : str
        Its name in Keras.
    kind : str
        Its class in Keras, in snake case.
    inputs : tuple of str
        Names of the layers whose outputs it reads.
    shape : tuple of int
        Shape of its output for one image, channels last.
    weights : tuple of tuple of int
        Shapes of its weights, in Keras's order.
    kernel, strides : tuple of int
        Height and width of the windows of a convolution or pool, and the steps between them.
    pads : tuple of int
        Zeros at the top, left, bottom and right, which averages leave out.
    function : str
        Activation: ``relu``, ``relu6``, ``silu`` or ``sigmoid``, or none if empty.
    initializer : {"glorot", "fan_out"}
        How Keras draws the kernel of an untrained convolution: with the variance
        2 / (inputs + outputs) or 2 / outputs of a window.
    epsilon : float
        What a batch normalization adds to the variance.
    scale, shift : tuple of float
        Of the layers that scale pixels: x · scale + shift for each channel.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    weights: tuple[tuple[int, ...], ...] = ()
    kernel: Size = (1, 1)
    strides: Size = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    function: str = ""
    initializer: str = "glorot"
    epsilon: float = 0.0
    scale: tuple[float, ...] = ()
    shift: tuple[float, ...] = ()


def layers_of(name: str, input_size: int) -> list[Layer]:
    """Return the layers of a network without its top, in the order of Keras's ``model.layers``.

    Parameters
    ----------
    name : str
        A name in `BACKBONES`.
    input_size : int
        Height and width of the input, in pixels.

    Returns
    -------
    list of Layer
        From the input on; a layer stands behind those it reads.
    """
    builder = _Builder(input_size)
    output = _NETWORKS[name](builder)
    return _sorted_as_keras(builder.layers, output)


def layers_before(layers: Sequence[Layer], *last: str) -> list[Layer]:
    """Return some layers and all that they depend on, in the order of `layers`."""
    needed = set(last)
    for layer in reversed(layers):
        if layer.name in needed:
            needed.update(layer.inputs)
    return [layer for layer in layers if layer.name in needed]


def _sorted_as_keras(layers: dict[str, Layer], output: str) -> list[Layer]:
    """Sort by the distance to the output, then by a depth-first walk from there."""
    distances = dict.fromkeys(layers, 0)
    for layer in reversed(layers.values()):
        for name in layer.inputs:
            distances[name] = max(distances[name], distances[layer.name] + 1)
    walked: dict[str, int] = {}
    ahead = [output]
    while ahead:
        name = ahead.pop()
        if name not in walked:
            walked[name] = len(walked)
            ahead += reversed(layers[name].inputs)
    return sorted(layers.values(), key=lambda each: (-distances[each.name], walked[each.name]))


class _Builder:
    """Collects layers; each method adds one and returns its name.

    Keras names a layer for its class, and counts, unless the network names it.
    """

    def __init__(self, input_size: int) -> None:
        self.layers: dict[str, Layer] = {}
        self.initializer = "glorot"  # of the convolutions that follow
        self._counts: Counter[str] = Counter()
        self.input = self._add("input_layer", "", (), (input_size, input_size, 3))

    def channels(self, x: str) -> int:
        """Return the number of channels of a layer's output."""
        return self.layers[x].shape[-1]

    def conv(
        self,
        x: str,
        filters: int,
        kernel: int | Size,
        strides: int = 1,
        padding: str = "same",
        *,
        bias: bool = True,
        function: str = "",
        name: str = "",
    ) -> str:
        kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        size, options = self._windows(x, kernel, strides, padding)
        weights = ((*kernel, self.channels(x), filters), (filters,))[: 1 + bias]
        options |= {"weights": weights, "initializer": self.initializer, "function": function}
        return self._add("conv2d", name, (x,), (*size, filters), **options)

    def depthwise(self, x: str, strides: int, padding: str = "same", *, name: str) -> str:
        kernel, channels = (3, 3), self.channels(x)
        size, options = self._windows(x, kernel, strides, padding)
        options |= {"weights": ((*kernel, channels, 1),), "initializer": self.initializer}
        return self._add("depthwise_conv2d", name, (x,), (*size, channels), **options)

    def normalize(
        self, x: str, epsilon: float = 1e-3, *, scaled: bool = True, name: str = ""
    ) -> str:
        weights = ((self.channels(x),),) * (3 + scaled)
        return self._alike("batch_normalization", x, name, weights=weights, epsilon=epsilon)

    def activate(self, x: str, function: str, *, name: str = "", kind: str = "activation") -> str:
        return self._alike(kind, x, name, function=function)

    def pool(
        self,
        kind: str,
        x: str,
        kernel: int,
        strides: int,
        padding: str = "valid",
        *,
        name: str = "",
    ) -> str:
        size, options = self._windows(x, (kernel, kernel), strides, padding)
        return self._add(f"{kind}_pooling2d", name, (x,), (*size, self.channels(x)), **options)

    def pad(self, x: str, before: int, after: int, *, name: str) -> str:
        height, width, channels = self.layers[x].shape
        shape = (height + before + after, width + before + after, channels)
        pads = (before, before, after, after)
        return self._add("zero_padding2d", name, (x,), shape, pads=pads)

    def add(self, one: str, two: str, *, name: str) -> str:
        return self._add("add", name, (one, two), self.layers[one].shape)

    def multiply(self, one: str, two: str, *, name: str) -> str:
        return self._add("multiply", name, (one, two), self.layers[one].shape)

    def concatenate(self, *inputs: str, name: str = "") -> str:
        channels = sum(self.channels(each) for each in inputs)
        shape = (*self.layers[inputs[0]].shape[:2], channels)
        return self._add("concatenate", name, inputs, shape)

    def drop(self, x: str, *, name: str) -> str:
        return self._alike("dropout", x, name)

    def mean(self, x: str, *, name: str) -> str:
        return self._add("global_average_pooling2d", name, (x,), (self.channels(x),))

    def reshape(self, x: str, *, name: str) -> str:
        return self._add("reshape", name, (x,), (1, 1, self.channels(x)))

    def scale_pixels(
        self, kind: str, x: str, scale: tuple[float, ...], shift: tuple[float, ...]
    ) -> str:
        return self._alike(kind, x, "", scale=scale, shift=shift)

    def _alike(self, kind: str, x: str, name: str, **options: object) -> str:
        """Add a layer whose output has the shape of its input."""
        return self._add(kind, name, (x,), self.layers[x].shape, **options)

    def _add(
        self,
        kind: str,
        name: str,
        inputs: tuple[str, ...],
        shape: tuple[int, ...],
        **options: object,
    ) -> str:
        number = self._counts[kind]
        if not name:
            self._counts[kind] += 1
            name = f"{kind}_{number}" if number else kind
        self.layers[name] = Layer(name, kind, inputs, shape, **options)  # type: ignore[arg-type]
        return name

    def _windows(
        self, x: str, kernel: Size, strides: int, padding: str
    ) -> tuple[Size, dict[str, object]]:
        """Return the height and width of the output, and how the windows lie on the input."""
        lengths, before, after = [], [], []
        for length, taps in zip(self.layers[x].shape, kernel, strict=False):
            n_windows = ceil((length if padding == "same" else length - taps + 1) / strides)
            missing = max((n_windows - 1) * strides + taps - length, 0)
            lengths.append(n_windows)
            before.append(missing // 2)
            after.append(missing - missing // 2)
        options: dict[str, object] = {
            "kernel": kernel,
            "strides": (strides, strides),
            "pads": (*before, *after),
        }
        return (lengths[0], lengths[1]), options


def _inception_v3(builder: _Builder) -> str:
    def branch(x: str, *convolutions: tuple[int, ...]) -> str:
        """Add convolutions: filters, height and width; those with strides do not pad."""
        for filters, height, width, *strides in convolutions:
            steps, padding = (strides[0], "valid") if strides else (1, "same")
            x = builder.conv(x, filters, (height, width), steps, padding, bias=False)
            x = builder.activate(builder.normalize(x, scaled=False), "relu")
        return x

    def pooled(x: str, filters: int) -> str:
        return branch(builder.pool("average", x, 3, 1, "same"), (filters, 1, 1))

    def split(x: str, filters: int, name: str = "") -> str:
        one, two = branch(x, (filters, 1, 3)), branch(x, (filters, 3, 1))
        return builder.concatenate(one, two, name=name)

    x = branch(builder.input, (32, 3, 3, 2), (32, 3, 3, 1), (64, 3, 3))
    x = builder.pool("max", x, 3, 2)
    x = branch(x, (80, 1, 1), (192, 3, 3, 1))
    x = builder.pool("max", x, 3, 2)
    for number, filters in enumerate((32, 64, 64)):
        x = builder.concatenate(
            branch(x, (64, 1, 1)),
            branch(x, (48, 1, 1), (64, 5, 5)),
            branch(x, (64, 1, 1), (96, 3, 3), (96, 3, 3)),
            pooled(x, filters),
            name=f"mixed{number}",
        )
    x = builder.concatenate(
        branch(x, (384, 3, 3, 2)),
        branch(x, (64, 1, 1), (96, 3, 3), (96, 3, 3, 2)),
        builder.pool("max", x, 3, 2),
        name="mixed3",
    )
    for number, n in enumerate((128, 160, 160, 192), start=4):
        x = builder.concatenate(
            branch(x, (192, 1, 1)),
            branch(x, (n, 1, 1), (n, 1, 7), (192, 7, 1)),
            branch(x, (n, 1, 1), (n, 7, 1), (n, 1, 7), (n, 7, 1), (192, 1, 7)),
            pooled(x, 192),
            name=f"mixed{number}",
        )
    x = builder.concatenate(
        branch(x, (192, 1, 1), (320, 3, 3, 2)),
        branch(x, (192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3, 2)),
        builder.pool("max", x, 3, 2),
        name="mixed8",
    )
    for number in range(2):
        x = builder.concatenate(
            branch(x, (320, 1, 1)),
            split(branch(x, (384, 1, 1)), 384, name=f"mixed9_{number}"),
            split(branch(x, (448, 1, 1), (384, 3, 3)), 384),
            pooled(x, 192),
            name=f"mixed{9 + number}",
        )
    return x


def _vgg(builder: _Builder, n_convolutions: tuple[int, ...]) -> str:
    x = builder.input
    for block, n in enumerate(n_convolutions, start=1):
        filters = min(32 << block, 512)
        for number in range(1, n + 1):
            x = builder.conv(x, filters, 3, function="relu", name=f"block{block}_conv{number}")
        x = builder.pool("max", x, 2, 2, name=f"block{block}_pool")
    return x


def _vgg16(builder: _Builder) -> str:
    return _vgg(builder, (2, 2, 3, 3, 3))


def _vgg19(builder: _Builder) -> str:
    return _vgg(builder, (2, 2, 4, 4, 4))


def _mobilenet_v2(builder: _Builder) -> str:
    def relu(x: str, name: str) -> str:
        return builder.activate(x, "relu6", name=name, kind="re_lu")

    def block(x: str, number: int, filters: int, strides: int) -> str:
        first, prefix = x, f"block_{number}_" if number else "expanded_conv_"
        if number:
            x = builder.conv(x, 6 * builder.channels(x), 1, bias=False, name=f"{prefix}expand")
            x = relu(builder.normalize(x, name=f"{prefix}expand_BN"), f"{prefix}expand_relu")
        if strides == 2:
            is_odd = builder.layers[x].shape[0] % 2
            x = builder.pad(x, is_odd, 1, name=f"{prefix}pad")
        padding = "same" if strides == 1 else "valid"
        x = builder.depthwise(x, strides, padding, name=f"{prefix}depthwise")
        x = relu(builder.normalize(x, name=f"{prefix}depthwise_BN"), f"{prefix}depthwise_relu")
        x = builder.conv(x, filters, 1, bias=False, name=f"{prefix}project")
        x = builder.normalize(x, name=f"{prefix}project_BN")
        if strides == 1 and filters == builder.channels(first):
            x = builder.add(first, x, name=f"{prefix}add")
        return x

    x = builder.conv(builder.input, 32, 3, 2, bias=False, name="Conv1")
    x = relu(builder.normalize(x, name="bn_Conv1"), "Conv1_relu")
    number = 0
    for filters, n_blocks, strides in (
        *((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2)),
        *((96, 3, 1), (160, 3, 2), (320, 1, 1)),
    ):
        for repetition in range(n_blocks):
            x = block(x, number, filters, 1 if repetition else strides)
            number += 1
    x = builder.conv(x, 1280, 1, bias=False, name="Conv_1")
    return relu(builder.normalize(x, name="Conv_1_bn"), "out_relu")


def _resnet50(builder: _Builder) -> str:
    def conv(x: str, filters: int, kernel: int, strides: int, name: str, padding: str) -> str:
        x = builder.conv(x, filters, kernel, strides, padding, name=f"{name}_conv")
        return builder.normalize(x, 1.001e-5, name=f"{name}_bn")

    def conv_relu(
        x: str, filters: int, kernel: int, strides: int, name: str, padding: str = "same"
    ) -> str:
        x = conv(x, filters, kernel, strides, name, padding)
        return builder.activate(x, "relu", name=f"{name}_relu")

    def block(x: str, filters: int, strides: int, name: str, *, is_first: bool) -> str:
        shortcut = conv(x, 4 * filters, 1, strides, f"{name}_0", "same") if is_first else x
        x = conv_relu(x, filters, 1, strides, f"{name}_1")
        x = conv_relu(x, filters, 3, 1, f"{name}_2")
        x = conv(x, 4 * filters, 1, 1, f"{name}_3", "same")
        x = builder.add(shortcut, x, name=f"{name}_add")
        return builder.activate(x, "relu", name=f"{name}_out")

    x = builder.pad(builder.input, 3, 3, name="conv1_pad")
    x = conv_relu(x, 64, 7, 2, "conv1", "valid")
    x = builder.pool("max", builder.pad(x, 1, 1, name="pool1_pad"), 3, 2, name="pool1_pool")
    for stack, (filters, n_blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=2):
        for number in range(1, n_blocks + 1):
            strides = 2 if stack > 2 and number == 1 else 1
            x = block(x, filters, strides, f"conv{stack}_block{number}", is_first=number == 1)
    return x


def _efficientnet_v2_b0(builder: _Builder) -> str:
    def conv(x: str, filters: int, kernel: int, strides: int, name: str, *suffixes: str) -> str:
        """Add a convolution, batch normalization and, unless its suffix is empty, activation."""
        convolution, normalization, activation = suffixes
        x = builder.conv(x, filters, kernel, strides, bias=False, name=name + convolution)
        x = builder.normalize(x, name=name + normalization)
        return builder.activate(x, "silu", name=name + activation) if activation else x

    def excite(x: str, filters: int, name: str) -> str:
        """Add squeeze and excitation."""
        channels = builder.channels(x)
        y = builder.reshape(builder.mean(x, name=f"{name}squeeze"), name=f"{name}reshape")
        y = builder.conv(y, filters, 1, function="silu", name=f"{name}reduce")
        y = builder.conv(y, channels, 1, function="sigmoid", name=f"{name}expand")
        return builder.multiply(x, y, name=f"{name}excite")

    def block(x: str, filters: int, strides: int, expansion: int, fused: bool, name: str) -> str:
        first, channels = x, builder.channels(x)
        expanded, projected = expansion * channels, ("project_conv", "project_bn", "")
        in_expansion = ("expand_conv", "expand_bn", "expand_activation")
        if fused and expansion == 1:
            x = conv(x, filters, 3, strides, name, *projected[:2], "project_activation")
        elif fused:
            x = conv(x, expanded, 3, strides, name, *in_expansion)
            x = conv(x, filters, 1, 1, name, *projected)
        else:
            x = conv(x, expanded, 1, 1, name, *in_expansion)
            x = builder.depthwise(x, strides, name=f"{name}dwconv2")
            x = builder.activate(
                builder.normalize(x, name=f"{name}bn"), "silu", name=f"{name}activation"
            )
            x = excite(x, channels // 4, f"{name}se_")
            x = conv(x, filters, 1, 1, name, *projected)
        if strides == 1 and filters == channels:
            x = builder.add(builder.drop(x, name=f"{name}drop"), first, name=f"{name}add")
        return x

    builder.initializer = "fan_out"
    means, deviations = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    x = builder.scale_pixels("rescaling", builder.input, (1 / 255,), (0.0,))
    scale = tuple(1 / each for each in deviations)
    shift = tuple(-mean / each for mean, each in zip(means, deviations, strict=True))
    x = builder.scale_pixels("normalization", x, scale, shift)
    x = conv(x, 32, 3, 2, "stem_", "conv", "bn", "activation")
    for stack, (filters, n_blocks, strides, expansion) in enumerate(
        (
            (16, 1, 1, 1),
            (32, 2, 2, 4),
            (48, 2, 2, 4),
            (96, 3, 2, 4),
            (112, 5, 1, 6),
            (192, 8, 2, 6),
        ),
        start=1,
    ):
        for number in range(n_blocks):
            name = f"block{stack}{'abcdefgh'[number]}_"
            x = block(x, filters, 1 if number else strides, expansion, stack <= 3, name)
    return conv(x, 1280, 1, 1, "top_", "conv", "bn", "activation")


_NETWORKS = {
    "inception_v3": _inception_v3,
    "vgg16": _vgg16,
    "vgg19": _vgg19,
    "mobilenet_v2": _mobilenet_v2,
    "resnet50": _resnet50,
    "efficientnet_v2_b0": _efficientnet_v2_b0,
}
