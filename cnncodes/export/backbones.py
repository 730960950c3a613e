"""The table of backbones; a new one is a row here and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_INPUT_SIZE = 224
_SIZES_WITH_WEIGHTS = (96, 128, 160, 192)


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
    weights_file : str
        The file in which Keras publishes and caches the ImageNet weights without the top, for
        inputs of `DEFAULT_INPUT_SIZE`.
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
    weights_file: str
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
            weights_file="inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
            code_shape=(5, 5, 2048),
            n_parameters=21_768_352,
            n_multiply_adds=2_835_873_120,
        ),
        BackboneSpec(
            name="vgg16",
            keras_class="VGG16",
            keras_module="vgg16",
            min_input_size=32,
            weights_file="vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
            code_shape=(7, 7, 512),
            n_parameters=14_714_688,
            n_multiply_adds=15_346_630_656,
        ),
        BackboneSpec(
            name="vgg19",
            keras_class="VGG19",
            keras_module="vgg19",
            min_input_size=32,
            weights_file="vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
            code_shape=(7, 7, 512),
            n_parameters=20_024_384,
            n_multiply_adds=19_508_428_800,
        ),
        BackboneSpec(
            name="mobilenet_v2",
            keras_class="MobileNetV2",
            keras_module="mobilenet_v2",
            min_input_size=32,
            weights_file="mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
            code_shape=(7, 7, 1280),
            n_parameters=2_206_816,
            n_multiply_adds=299_494_272,
        ),
        BackboneSpec(
            name="resnet50",
            keras_class="ResNet50",
            keras_module="resnet50",
            min_input_size=32,
            weights_file="resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
            code_shape=(7, 7, 2048),
            n_parameters=23_481_472,
            n_multiply_adds=3_855_925_248,
        ),
        BackboneSpec(
            name="efficientnet_v2_b0",
            keras_class="EfficientNetV2B0",
            keras_module="efficientnet_v2",
            min_input_size=32,
            weights_file="efficientnetv2-b0_notop.h5",
            code_shape=(7, 7, 1280),
            n_parameters=5_828_400,
            n_multiply_adds=716_806_176,
        ),
    )
}
