"""Trained weights and photographs of solar cells: the figures of the README.

``CNNCODES_REALDATA`` names a folder that holds ``inception_v3_notop.weights.h5`` and
``vgg16_notop.weights.h5`` (Keras weights without the top) and ``elpv_dataset/data``, with
``images`` and ``labels.csv``, from the package elpv-dataset. Takes about ten minutes on two cores.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from cnncodes import Classifier, CodeStore
from cnncodes.head.groups import groups_of
from cnncodes.head.split import split_by_class
from tests.helpers import run_command, run_process

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        "CNNCODES_REALDATA" not in os.environ,
        reason="needs trained weights and photographs; CNNCODES_REALDATA must name their folder",
    ),
]
SEEDS = range(5)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV source: a cell is defective where its probability of a defect is 0.5 or more."""
    images = Path(os.environ["CNNCODES_REALDATA"]).resolve() / "elpv_dataset" / "data"
    path = tmp_path_factory.mktemp("cells") / "cells.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        for line in (images / "labels.csv").read_text().splitlines():
            name, probability, _ = line.split()
            label = "defective" if float(probability) >= 0.5 else "sound"
            writer.writerow([images / name, label])
    return path


@pytest.mark.parametrize(("name", "wanted"), [("inception_v3", 0.78), ("vgg16", 0.83)])
def test_chain_on_solar_cells(
    name: str,
    wanted: float,
    cells: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    weights = Path(os.environ["CNNCODES_REALDATA"]) / f"{name}_notop.weights.h5"
    backbone, codes = tmp_path / f"{name}.onnx", tmp_path / "codes.h5"
    done = run_process("export", name, "--weights", weights, "-o", backbone, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parity"] <= 2e-6
    run_command("extract", backbone, cells, "-o", codes)

    accuracies = []
    for seed in SEEDS:
        head = tmp_path / f"head{seed}.onnx"
        result = run_command(
            *("train", codes, "-o", head, "--json", "--train-fraction", "0.75", "--seed", seed)
        )
        accuracies.append(json.loads(result.stdout)["test"]["accuracy"])
    assert min(accuracies) >= wanted
    record_property("accuracies", accuracies)

    head, app = tmp_path / "head0.onnx", tmp_path / "app.onnx"
    run_command("bundle", backbone, head, "-o", app)
    with CodeStore.open(codes) as store:
        test = split_by_class(store.labels, 0.75, seed=0, groups=groups_of(store)).test
        paths = [Path(store.paths[index]) for index in test]
        stored = store.codes[:][test].astype(np.float32)
    probabilities = onnxruntime.InferenceSession(str(head)).run(None, {"codes": stored})[0]
    classifier = Classifier(app)
    from_codes = [classifier.labels[index] for index in probabilities.argmax(axis=1)]
    from_images = [each.predictions[0].label for each in classifier.predict_files(paths, top=1)]
    assert np.mean([a == b for a, b in zip(from_codes, from_images, strict=True)]) >= 0.995
