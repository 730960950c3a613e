"""What a file is, whether it is whole, and how fast a network runs here.

- `info`: what any file says of itself
- `verify`: a file read from end to end and compared with its source and backbone
- `bench`: speed and memory of networks, each in a process of its own
"""
