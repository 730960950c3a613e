"""Images that two collections share, or that one holds twice.

- `overlap`: reads the collections and finds the pairs
- `descriptors`: vectors of images that hardly change in an edited copy
- `search`: pairs of rows with a high cosine, a block of the Gram matrix at a time
- `pairs`: the result as ``overlap.csv`` and as an HTML page
"""
