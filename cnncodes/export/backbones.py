"""The table of backbones; a new one is a row here and a function in `architectures`."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnncodes.models.metadata import BackboneInfo

CONVERTERS = ("direct", "tf2onnx")
DEFAULT_INPUT_SIZE = 224
OPSET = 18  # the highest of tf2onnx 1.17; int8 pooling stays fused up to 21
_SIZES_WITH_WEIGHTS = (96, 128, 160, 192)
_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"


@dataclass(frozen=True)
class BackboneSpec:
    """A network of ``keras.applications``.

    Attributes
    ----------
    name : str
        The name in commands and metadata.
    keras_class : str
        The function in ``keras.applications`` that builds the network.
    keras_module : str
        The module below ``keras.applications`` that holds its ``preprocess_input``.
    min_input_size : int
        The smallest height and width, in pixels, that Keras accepts without the top.
    preprocessing : {"scaled", "caffe", "none"}
        What that ``preprocess_input`` does: scale pixels to −1 … 1, order them blue, green, red
        and subtract their means, or nothing, where layers of the network do it.
    weights_file : str
        The file in which Keras publishes and caches the ImageNet weights without the top, for
        inputs of `DEFAULT_INPUT_SIZE`.
    weights_address : str
        URL of the folder from which Keras downloads it.
    weights_bytes : int
        Its size.
    weights_checksum : str
        What Keras checks, ``md5:`` and the digest; empty where Keras publishes none.
    weights_licence : str
        The licence of Keras's weights as the documentation of Keras 2 states it (its file
        ``docs/templates/applications.md``); empty where it states none.
    code_shape : tuple of int
        Shape of an image's codes at `DEFAULT_INPUT_SIZE`, without pooling.
    n_parameters : int
        Weights and biases of the convolutions, batch normalization folded in.
    n_multiply_adds : int
        Multiply-adds of the convolutions for one image of `DEFAULT_INPUT_SIZE`.
    """

    name: str
    keras_class: str
    keras_module: str
    min_input_size: int
    preprocessing: str
    weights_file: str
    weights_address: str
    weights_bytes: int
    weights_checksum: str
    weights_licence: str
    code_shape: tuple[int, ...]
    n_parameters: int
    n_multiply_adds: int

    def weights_file_for(self, input_size: int) -> str:
        """Return the name of the weight file that Keras takes for an input size.

        MobileNetV2 has been trained at several sizes, which its files are named for.
        """
        if input_size in _SIZES_WITH_WEIGHTS:
            return self.weights_file.replace(f"_{DEFAULT_INPUT_SIZE}_", f"_{input_size}_")
        return self.weights_file


BACKBONES = {
    spec.name: spec
    for spec in (
        BackboneSpec(
            name="inception_v3",
            keras_class="InceptionV3",
            keras_module="inception_v3",
            min_input_size=75,
            preprocessing="scaled",
            weights_file="inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
            weights_address=f"{_KERAS}/inception_v3",
            weights_bytes=87_910_968,
            weights_checksum="md5:bcbd6486424b2319ff4ef7d526e38f63",
            weights_licence="Apache License 2.0, by the TensorFlow authors",
            code_shape=(5, 5, 2048),
            n_parameters=21_768_352,
            n_multiply_adds=2_835_873_120,
        ),
        BackboneSpec(
            name="vgg16",
            keras_class="VGG16",
            keras_module="vgg16",
            min_input_size=32,
            preprocessing="caffe",
            weights_file="vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
            weights_address=f"{_KERAS}/vgg16",
            weights_bytes=58_889_256,
            weights_checksum="md5:6d6bbae143d832006294945121d1f1fc",
            weights_licence="Creative Commons Attribution 4.0, by VGG, University of Oxford",
            code_shape=(7, 7, 512),
            n_parameters=14_714_688,
            n_multiply_adds=15_346_630_656,
        ),
        BackboneSpec(
            name="vgg19",
            keras_class="VGG19",
            keras_module="vgg19",
            min_input_size=32,
            preprocessing="caffe",
            weights_file="vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
            weights_address=f"{_KERAS}/vgg19",
            weights_bytes=80_134_624,
            weights_checksum="md5:253f8cb515780f3b799900260a226db6",
            weights_licence="Creative Commons Attribution 4.0, by VGG, University of Oxford",
            code_shape=(7, 7, 512),
            n_parameters=20_024_384,
            n_multiply_adds=19_508_428_800,
        ),
        BackboneSpec(
            name="mobilenet_v2",
            keras_class="MobileNetV2",
            keras_module="mobilenet_v2",
            min_input_size=32,
            preprocessing="scaled",
            weights_file="mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
            weights_address=f"{_KERAS}/mobilenet_v2",
            weights_bytes=9_406_464,
            weights_checksum="",
            weights_licence="Apache License 2.0, by the TensorFlow authors",
            code_shape=(7, 7, 1280),
            n_parameters=2_206_816,
            n_multiply_adds=299_494_272,
        ),
        BackboneSpec(
            name="resnet50",
            keras_class="ResNet50",
            keras_module="resnet50",
            min_input_size=32,
            preprocessing="caffe",
            weights_file="resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
            weights_address=f"{_KERAS}/resnet",
            weights_bytes=94_765_736,
            weights_checksum="md5:4d473c1dd8becc155b73f8504c6f6626",
            weights_licence="MIT License, by Kaiming He",
            code_shape=(7, 7, 2048),
            n_parameters=23_481_472,
            n_multiply_adds=3_855_925_248,
        ),
        BackboneSpec(
            name="efficientnet_v2_b0",
            keras_class="EfficientNetV2B0",
            keras_module="efficientnet_v2",
            min_input_size=32,
            preprocessing="none",
            weights_file="efficientnetv2-b0_notop.h5",
            weights_address=f"{_KERAS}/efficientnet_v2",
            weights_bytes=24_274_472,
            weights_checksum="md5:893217f2bb855e2983157299931e43ff",
            weights_licence="",
            code_shape=(7, 7, 1280),
            n_parameters=5_828_400,
            n_multiply_adds=716_806_176,
        ),
    )
}


def licence_of(info: BackboneInfo) -> str:
    """Return what is known of the licence of a network's weights, in words."""
    if info.finetuned:
        origin = str(json.loads(info.finetuned).get("from"))
        started = licence_of(replace(info, weights=origin, finetuned=""))
        return f"{started}; then fine-tuned on images of whoever made it"
    if info.weights.startswith("random:"):
        return "none: the weights are random numbers"
    if info.weights != "imagenet":
        return "not known: the weights are of a file; ask whoever made it"
    spec = BACKBONES.get(info.backbone)
    licence = spec.weights_licence if spec else ""
    return f"{licence or 'not stated by Keras'}; trained on ImageNet"
