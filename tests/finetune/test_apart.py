"""The process of the training, without TensorFlow."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cnncodes.errors import MissingDependencyError
from cnncodes.export.architectures import layers_of
from cnncodes.finetune.apart import TopProcess
from cnncodes.finetune.codes import Codes

# Blocked, so that the first answer is an error that comes at once.
NO_KERAS = "import os, pickle, sys; sys.modules['keras'] = None; "


@pytest.mark.parametrize(
    "noise",
    [
        "print('a line')",
        "os.write(1, b'half a line')",
        "os.write(1, pickle.dumps(('an answer', None)))",
        "sys.stdout.write('more than a pipe holds\\n' * 100_000)",
    ],
)
def test_what_others_write_in_that_process_is_skipped(
    noise: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_KERAS + noise)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    codes = Codes.of(layers_of("vgg16", 32), ["block5_conv3"], "avg")
    weights = {"block5_conv3": [np.zeros(10**6, np.float32)]}  # more than a pipe holds
    with pytest.raises(MissingDependencyError, match="Keras cannot be imported"):
        TopProcess("vgg16", 32, weights, "block5_conv2", codes)
