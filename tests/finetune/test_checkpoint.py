from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cnncodes.errors import FileFormatError
from cnncodes.finetune.checkpoint import Checkpoint, Epoch, load

SHAPES = [(2, 3), ()]


def _state() -> Checkpoint:
    def draw(seed: int) -> list[np.ndarray]:
        random = np.random.default_rng(seed)
        return [random.random((2, 3), np.float32), np.array(seed)]

    # More than ten, whose names are not in the order of their numbers.
    optimizer = [np.full(number, number) for number in range(12)]
    epochs = [Epoch(0, None, 0.7, 0.5, 1.0), Epoch(1, 0.6, 0.4, 0.9, 2.0), Epoch(2, 0.5, 0.4, 1, 2)]
    return Checkpoint(epochs, draw(1), optimizer, draw(2))


def test_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    state = _state()
    state.save(tmp_path / "state.npz", "request")
    loaded = load(tmp_path / "state.npz", "request", SHAPES)
    assert loaded is not None
    assert loaded.epochs == state.epochs
    assert loaded.best_epoch.number == 1
    for before, after in zip(
        [*state.variables, *state.optimizer, *state.best],
        [*loaded.variables, *loaded.optimizer, *loaded.best],
        strict=True,
    ):
        np.testing.assert_array_equal(before, after)
        assert before.dtype == after.dtype


def test_no_state_or_that_of_another_training_is_none(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    assert load(path, "request", SHAPES) is None
    _state().save(path, "request")
    assert load(path, "another", SHAPES) is None


def test_damaged_state_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    _state().save(path, "request")
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for content in (b"", b"no archive", whole[:middle], flipped):
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match="is damaged; delete it"):
            load(path, "request", SHAPES)
    _state().save(path, "request")
    with pytest.raises(FileFormatError, match="is damaged"):
        load(path, "request", [(3, 3), ()])
