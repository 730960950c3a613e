"""What needs no Keras: the order of images and views, and their activations from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cnncodes import CodeStore
from cnncodes.errors import TrainingError
from cnncodes.finetune.data import read_data
from cnncodes.finetune.recipe import Recipe
from cnncodes.finetune.training import Activations, _views
from cnncodes.head.rows import CodeRows
from cnncodes.head.split import split_by_class
from tests.helpers import write_codes

OPTIONS = {
    "train_fraction": 0.7,
    "split": "stratified",
    "validation_fraction": 0.2,
    "seed": 1,
    "excluded": None,
    "together": None,
}


def test_views_of_an_image_take_turns() -> None:
    views = np.stack([_views(4, 50, number, seed=3) for number in range(1, 9)])
    for cycle in (views[:4], views[4:]):
        np.testing.assert_array_equal(np.sort(cycle, axis=0), np.tile(np.arange(4)[:, None], 50))
    assert (views[:4] != views[4:]).any()
    assert len({tuple(each) for each in views[:4].T}) > 10  # images are not in step
    assert (_views(1, 5, 7, seed=3) == 0).all()


def test_batches_hold_the_views_that_are_asked_for(tmp_path: Path) -> None:
    X = np.arange(20 * 6, dtype=np.float32).reshape(20, 1, 2, 3)
    with CodeStore.open(write_codes(tmp_path / "c.h5", X, np.arange(20) % 2)) as store:
        activations = Activations(CodeRows(store, np.arange(20)), (1, 2, 3), n_views=2)
        images, views = np.array([9, 0, 4, 4, 7]), np.array([1, 0, 0, 1, 1])
        batches = list(activations.batches(images, 2, views))
        assert [len(part) for part, _ in batches] == [2, 2, 1]
        np.testing.assert_array_equal(
            np.concatenate([each for _, each in batches]), X[2 * images + views]
        )
        first = activations.apply(lambda each: each.reshape(len(each), -1), images, 3)
        np.testing.assert_array_equal(first, X[2 * images].reshape(5, -1))


def test_learning_rate_rises_for_an_epoch_stays_and_falls_to_nothing() -> None:
    recipe = Recipe(epochs=5)
    rates = [recipe.rate_at(epoch, step, 10) for epoch in range(5) for step in range(10)]
    assert (np.diff(rates[:9]) > 0).all()
    assert set(rates[9:16]) == {recipe.learning_rate}
    assert (np.diff(rates[15:]) < 0).all()
    assert 0 < rates[-1] < 0.01 * recipe.learning_rate < max(rates) <= recipe.learning_rate
    assert recipe.rate_at(0, 0, 1) == recipe.learning_rate


def test_average_is_over_about_an_epoch() -> None:
    recipe = Recipe(batch_size=32)
    assert recipe.n_steps(33) == 2
    assert recipe.momentum(1) == 0.5
    assert recipe.momentum(49) == 0.98
    assert recipe.momentum(10**6) == 0.99


def test_images_are_split_as_by_train_and_some_are_held_out(tmp_path: Path) -> None:
    y = np.repeat([0, 1], [40, 20])
    with CodeStore.open(write_codes(tmp_path / "c.h5", np.zeros((60, 2), "f4"), y)) as store:
        data = read_data(store, **OPTIONS)
        expected = split_by_class(y.astype(np.int32), 0.7, seed=1)
        np.testing.assert_array_equal(data.fitted, expected.train)
        np.testing.assert_array_equal(data.test, expected.test)
        assert np.bincount(y[data.validation]).tolist() == [5, 2]
        np.testing.assert_array_equal(data.targets()[data.y == 1][0], [0, 1])
        assert (data.weights(None) == 1).all()
        balanced = data.weights("balanced")[data.train]
        of_class = np.bincount(y[data.train], balanced)
        assert of_class[0] == pytest.approx(of_class[1])
        assert balanced.mean() == pytest.approx(1)


def test_too_few_images_to_hold_out_are_refused(tmp_path: Path) -> None:
    y = np.repeat([0, 1], 4)
    with (
        CodeStore.open(write_codes(tmp_path / "c.h5", np.zeros((8, 2), "f4"), y)) as store,
        pytest.raises(TrainingError, match="no image is left to hold out of training; add images"),
    ):
        read_data(store, **OPTIONS)
