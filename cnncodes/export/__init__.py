"""Build time: a Keras network becomes a self-describing ONNX backbone.

The heart is `keras_onnx.export_backbone`, the only place that needs TensorFlow;
`backbones.BACKBONES` is the table of what can be exported.
"""
