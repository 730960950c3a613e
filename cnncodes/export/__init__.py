"""From a Keras network to a self-describing ONNX backbone; the only part that needs TensorFlow.

- `backbones`: the table of networks that can be exported
- `keras_onnx`: the export itself, and the comparison with Keras
- `keras_settings`: Keras with fixed settings, whatever the user's configuration
- `keras_weights`: the weights in any kind of file that Keras saves
- `simplify`: the converted graph with fewer operators
- `winograd`: convolutions with fewer multiplications
- `bilinear`: the algorithms for one row that `winograd` nests
- `graph`: an ONNX graph for rewriting
"""
