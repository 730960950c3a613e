"""The table of backbones: one row each, and nothing else to change to add one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BackboneSpec:
    """What export needs to know of a Keras application.

    Attributes
    ----------
    name : str
        Our name, and that of the module below ``keras.applications``, which holds the
        network's own ``preprocess_input``.
    keras_class : str
        The function in ``keras.applications`` that builds the network.
    min_input_size : int
        The smallest height and width, in pixels, that Keras accepts without the top.
    weights_file : str
        The name under which Keras publishes and caches the ImageNet weights without the top.
    """

    name: str
    keras_class: str
    min_input_size: int
    weights_file: str


BACKBONES = {
    spec.name: spec
    for spec in (
        BackboneSpec(
            name="inception_v3",
            keras_class="InceptionV3",
            min_input_size=75,
            weights_file="inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
        ),
        BackboneSpec(
            name="vgg16",
            keras_class="VGG16",
            min_input_size=32,
            weights_file="vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        ),
        BackboneSpec(
            name="vgg19",
            keras_class="VGG19",
            min_input_size=32,
            weights_file="vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
        ),
    )
}
