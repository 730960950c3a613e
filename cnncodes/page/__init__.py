"""A folder that classifies images in a browser, with no server and no Python.

- `folder`: an app, onnxruntime-web and the page, written as files that a browser can open

``assets`` has what the page needs beside that of `serve`: `local.js`, which answers in place of
`backend.js`, and `pixels.js`, which decodes and resizes images.
"""
