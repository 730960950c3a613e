"""The commands: each parses its options, calls one function and prints its result.

- `networks`: `export`, `quantize`, `bundle` and `finetune`
- `images`: `fetch`, `extract`, `convert` and `overlap`
- `heads`: `train`, `evaluate`, `curve` and `experiment`
- `predictions`: `predict`, `serve` and `page`
- `files`: `bench`, `info` and `verify`, and the `demo`

No logic lives here, and nothing heavy is imported before a command runs.
"""
