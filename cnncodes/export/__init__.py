"""Build time: a Keras network becomes a self-describing ONNX backbone.

The heart is `keras_onnx.export_backbone`, which needs TensorFlow, with the settings of
`keras_settings` and weights that `keras_weights` reads; `backbones.BACKBONES` is the table of what
can be exported.
"""
