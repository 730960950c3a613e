"""List the images of a source, and decode image files to pixels.

- `sources`: a folder or a CSV file as a list of images with labels and groups
- `folders`: images in class folders or in one flat folder
- `multilabel`: images with more than one label
- `tables`: images listed in a CSV file
- `weighting`: the columns weight and probability of a CSV file
- `class_maps`: new names of classes, which may merge them
- `path_lists`: images to leave out, or to keep together
- `decoding`: one image file decoded, and many in threads
- `urls`: an image at a URL
- `jpeg`: the segments and scans of a JPEG file, to find truncated ones
- `pixels`: turns a decoded image into RGB of the wanted size
- `views`: mirrored and turned views of an image
- `limits`: the largest image that is decoded
"""
