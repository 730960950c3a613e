"""A Keras network becomes a self-describing ONNX backbone; the only part that needs TensorFlow.

- `backbones`: the table of networks that can be exported
- `keras_onnx`: the export itself, and the comparison with Keras
- `keras_settings`: Keras with our settings, whatever the user's configuration says
- `keras_weights`: weights in every kind of file that Keras saves
- `simplify`: the converted graph without what the converter leaves behind
- `winograd`: 3×3, 1×n and n×1 convolutions with fewer multiplications
- `bilinear`: the algorithms for one row that `winograd` nests
- `graph`: an ONNX graph that can be edited
"""
