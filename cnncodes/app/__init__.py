"""The classifier in one file; what a small program imports.

Needs numpy, onnxruntime and Pillow; `bundle`, which makes the file, also needs onnx.

- `classifier`: from image to labels and probabilities
- `prediction`: what it says of an image
- `image_source`: the pixels of one image, from whatever a program has it in
- `inputs`: the files, folders and standard input that ``cnncodes predict`` takes
- `explain`: the evidence in an image for a class, from codes and weights
- `overlays`: pictures of it
- `bundle`: backbone and head joined into one ONNX file
- `networks`: several networks as one graph
- `variants`: the same app in half the size, or for a fixed batch
- `views`: the same app for the mean over mirrored and turned views
- `card`: its licence, date and limits
- `golden`: images with an app's answers, to check other programs by
"""
