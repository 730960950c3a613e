"""Our ONNX files: metadata, sessions, safety and checksum.

- `metadata`: the ``metadata_props`` of backbone, head and app
- `matching`: which of some files is of which network of a head
- `kinds`: what any file is, and which command takes it
- `description`: the metadata in words
- `safety`: checks of an ONNX file from a stranger before onnxruntime opens it
- `checksum`: a checksum of the graph, written with the file and compared by `inspect.verify`
- `session`: a checked model in an onnxruntime session
- `pooling`: the ways to pool codes over height and width
- `tensors`: weights of a file, read without ``onnx``
"""
