"""Description, verification and speed of files.

- `info`: description of any file from its metadata
- `verify`: a file read from end to end and compared with its source and backbone
- `bench`: speed and memory of networks, each in a process of its own
"""
