"""A float32 backbone becomes an int8 one; needs onnx and onnxruntime, not TensorFlow.

- `quantize`: the settings tried, the one chosen, and how close its codes are to float32
- `rewrites`: changes to the float graph that leave its function as it is
- `calibration`: observers of the tensors on some images, and their calibration ranges
- `plan`: what each node becomes in integers, with which scales
- `steps`: the decisions of a plan
- `qdq`: the planned graph written with QuantizeLinear and DequantizeLinear
- `layout`: the integer graph in shapes that suit onnxruntime's kernels
"""
