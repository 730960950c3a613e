"""Published data sets, fetched and laid out as a source that `extract` reads.

- `registry`: the table of data sets: archives, checksums, licences, citations, layouts
- `archives`: the wanted files of a zip or tar.gz archive, read within bounds
- `fetch`: download, check, unpack into a new folder, and keep the licence beside the data
"""
