"""Results printed for people, or as JSON and CSV for programs.

- `emit`: text or JSON, and notes on standard error
- `networks`: results of `export`, `quantize` and `bundle`
- `finetune`: epochs and result of `finetune`
- `images`: results of `fetch`, `extract`, `convert` and `overlap`, and the listing of a source
- `heads`: results of `train`, `evaluate`, `curve` and `experiment`
- `labels`: results of `train` and `evaluate` for several labels per image
- `predictions`: results of `predict`, `serve` and `page`
- `files`: results of `bench` and `verify`
"""
