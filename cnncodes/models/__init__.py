"""Our ONNX files: what they say of themselves, opening them, and whether they are whole.

- `metadata`: what backbone, head and app carry in their ``metadata_props``
- `safety`: an ONNX file from a stranger is looked at before onnxruntime opens it
- `checksum`: a checksum of the weights, written with the file and compared by `inspect.verify`
- `session`: a checked model in an onnxruntime session
"""
