"""The images of a fine-tuning, whose labels may be doubtful."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cnncodes import CodeStore
from cnncodes.errors import TrainingError
from cnncodes.finetune.data import Data, read_data
from cnncodes.head import GramLogisticRegression
from tests.helpers import digest_of, write_codes

Y = np.arange(60) % 3


def data_of(path: Path, **columns: list[float]) -> Data:
    X = np.random.default_rng(0).normal(0, 1, (60, 5)).astype(np.float32)
    write_codes(path, X, Y, digests=[digest_of(number) for number in range(60)], **columns)
    with CodeStore.open(path) as store:
        return read_data(
            store,
            train_fraction=0.75,
            split="stratified",
            validation_fraction=0.2,
            seed=0,
            excluded=None,
            together=None,
        )


def test_certain_labels(tmp_path: Path) -> None:
    data = data_of(tmp_path / "codes.h5")
    np.testing.assert_array_equal(data.targets(), np.eye(3)[Y])
    assert (data.weights(None) == 1).all()
    assert data.fit_options(data.train) == {}
    assert data.weights("balanced").mean() == pytest.approx(1)


def test_doubtful_labels_and_weights(tmp_path: Path) -> None:
    weights = [0.5 + number % 4 for number in range(60)]
    data = data_of(tmp_path / "codes.h5", weights=weights, probabilities=[0.7] * 60)
    targets = data.targets()
    np.testing.assert_allclose(targets[np.arange(60), Y], 0.7, rtol=1e-6)
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(np.sort(targets[:, 0])[:40], 0.15, rtol=1e-6)
    assert data.weights(None).tolist() == weights
    balanced = data.weights("balanced")[data.train]
    sums = np.bincount(Y[data.train], balanced)
    np.testing.assert_allclose(sums, sums.mean(), rtol=1e-5)
    options = data.fit_options(data.train)
    assert options["sample_weight"].tolist() == [weights[number] for number in data.train]
    X = np.random.default_rng(0).normal(0, 1, (len(data.train), 5))
    GramLogisticRegression().fit(X, Y[data.train], **options)
    assert any(note.startswith("labels are soft: 45 of 45") for note in data.notes)


def test_class_without_weight_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="all training images of 02 have the weight 0"):
        data_of(tmp_path / "codes.h5", weights=[float(number % 3 != 2) for number in range(60)])
