"""A float32 backbone becomes an int8 one; needs onnx and onnxruntime, not TensorFlow.

- `quantize`: the settings tried, the one chosen, and how close its codes are to float32
- `calibration`: the ranges of the tensors on some images
- `rewrites`: changes to the float graph that leave its function as it is
- `qdq`: the graph written with integer weights and activations
- `layout`: the integer graph in shapes that suit onnxruntime's kernels
"""
