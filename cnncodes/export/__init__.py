"""From a Keras network to a self-describing ONNX backbone.

- `backbones`: the table of networks that can be exported
- `export`: the export itself, and the comparison with Keras
- `architectures`: the networks of the table, layer by layer
- `direct`: from layers and weights to a graph, without TensorFlow
- `weights`: ImageNet's, random ones, or those of a file
- `keras_onnx`: the same network by Keras and tf2onnx, which need TensorFlow
- `keras_settings`: Keras with fixed settings, whatever the user's configuration
- `keras_weights`: the weights in any kind of file that Keras saves
- `simplify`: the converted graph with fewer operators
- `winograd`: convolutions with fewer multiplications
- `bilinear`: the algorithms for one row that `winograd` nests
- `graph`: an ONNX graph for rewriting
"""
