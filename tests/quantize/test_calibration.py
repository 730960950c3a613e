"""Observers and their limits: against numpy on all values, and against every limit in turn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from cnncodes.quantize.calibration import METHODS, Observer, calibrate, run_graph
from tests.export.networks import Network, images

HALF_A_BIN = 0.5 / 64


def observer_of(values: NDArray[np.float32], portions: int = 1) -> Observer:
    observer = Observer.empty(values.shape[1], values.shape[2:])
    rng = np.random.default_rng(0)
    for portion in np.array_split(values, portions):
        observer.update(portion, rng)
    return observer


def by_channel(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)


def random_values(kind: str, n_images: int = 400) -> NDArray[np.float32]:
    """Values of three channels, of which the last is a hundred times as large as the first."""
    random = np.random.default_rng(3)
    shape = (n_images, 3, 6, 8)
    values = {
        "sparse": np.maximum(random.normal(-1, 1, shape), 0),
        "positive": random.gamma(2, 1, shape),
        "signed": random.normal(0.3, 1, shape),
        "heavy": np.abs(random.standard_t(2, shape)),
        "signed and heavy": random.standard_t(2, shape),
        "even": random.uniform(0, 1, shape),
    }[kind]
    return (values * np.array([0.1, 1, 10])[:, None, None]).astype(np.float32)


KINDS = ("sparse", "positive", "signed", "heavy", "signed and heavy", "even")


@settings(max_examples=50)
@given(
    values=npst.arrays(
        np.float32,
        st.tuples(st.integers(2, 9), st.integers(1, 4), st.integers(1, 10), st.integers(1, 10)),
        elements=st.floats(-1e6, 1e6, width=32),
    ),
    portions=st.integers(1, 4),
)
def test_portions_add_up(values: NDArray[np.float32], portions: int) -> None:
    observer = observer_of(values, min(portions, len(values)))
    np.testing.assert_array_equal(observer.high, values.max(axis=(0, 2, 3)))
    np.testing.assert_array_equal(observer.low, values.min(axis=(0, 2, 3)))
    mean = values.mean(axis=(0, 2, 3), dtype=np.float64)
    np.testing.assert_allclose(observer.mean, mean, rtol=1e-9, atol=1e-6)
    assert observer.shape == values.shape[2:]
    assert observer.is_signed == (values < 0).any()
    np.testing.assert_array_equal(observer.limit("max"), np.abs(values).max(axis=(0, 2, 3)))


@pytest.mark.parametrize("kind", KINDS)
def test_portions_give_the_same_limits(kind: str) -> None:
    values = random_values(kind)
    for method in METHODS:
        np.testing.assert_array_equal(
            observer_of(values, 7).limit(method), observer_of(values).limit(method)
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("percentile", ["50", "99", "99.9", "99.99"])
def test_percentile_is_right_to_half_a_bin(kind: str, percentile: str) -> None:
    values = random_values(kind)
    magnitudes = np.abs(by_channel(values))
    expected = np.percentile(magnitudes, float(percentile), axis=1, method="inverted_cdf")
    expected = np.where(expected > 0, expected, magnitudes.max(axis=1))
    np.testing.assert_allclose(
        observer_of(values).limit(percentile), expected, rtol=1.1 * HALF_A_BIN
    )


def quantization_error(
    values: NDArray[np.float32], limit: float, *, signed: bool
) -> NDArray[np.float64]:
    """Round to 8 bits for real: the mean squared error."""
    step = limit * (2 if signed else 1) / 255
    rounded = np.clip(np.rint(values / step) * step, -limit if signed else 0, limit)
    return ((values - rounded) ** 2).mean(dtype=np.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_mse_is_near_the_best_of_all_limits(kind: str) -> None:
    values = random_values(kind)
    observer = observer_of(values)
    for channel, limit in zip(by_channel(values), observer.limit("mse"), strict=True):
        largest = np.abs(channel).max()
        errors = [
            quantization_error(channel, each, signed=observer.is_signed)
            for each in np.geomspace(largest / 50, largest, 150)
        ]
        assert quantization_error(channel, limit, signed=observer.is_signed) <= 1.05 * min(errors)


def test_one_value_in_a_million_is_clipped() -> None:
    values = np.random.default_rng(0).uniform(0, 1, (20_000, 1, 8, 8)).astype(np.float32)
    assert observer_of(values).limit("mse")[0] > 0.98
    values[7, 0, 2, 3] = 2  # costs 1 in 1.28 million; a step twice as large would cost more
    assert observer_of(values).limit("mse")[0] == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_channel_of_zeros_has_no_range(method: str) -> None:
    values = random_values("sparse", 20)
    values[:, 1] = 0
    limit = observer_of(values).limit(method)
    assert limit[1] == 0
    assert (limit[[0, 2]] > 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_almost_always_zero_is_not_zero(method: str) -> None:
    values = np.zeros((500, 1, 8, 8), np.float32)
    values[7, 0, 2, 3] = 5
    assert observer_of(values).limit(method)[0] == pytest.approx(5, rel=2 * HALF_A_BIN)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-30, 1e-7, 1e-3, 1.0, 60000.0, 65520.0, 1e6, 1e30])
def test_any_scale_keeps_most_values(method: str, scale: float) -> None:
    values = np.random.default_rng(0).uniform(0.5, 1, (50, 2, 8, 8)).astype(np.float32)
    limit = observer_of(values * np.float32(scale)).limit(method)
    np.testing.assert_allclose(limit, scale, rtol=0.03)


@pytest.mark.parametrize("method", METHODS)
def test_limit_never_exceeds_the_values(method: str) -> None:
    for kind in KINDS:
        observer = observer_of(random_values(kind, 30))
        assert (observer.limit(method) <= observer.limit("max")).all()


def test_large_maps_are_sampled_but_their_extremes_are_not() -> None:
    values = np.random.default_rng(0).uniform(0, 1, (4, 1, 40, 40)).astype(np.float32)
    values[2, 0, 17, 23] = 9
    values[3, 0, 31, 2] = -7
    observer = observer_of(values, 2)
    assert (observer.high[0], observer.low[0]) == (9, -7)
    assert observer.mean[0] == pytest.approx(values.mean(dtype=np.float64))
    assert observer.limit("90")[0] == pytest.approx(0.9, abs=0.06)


def test_observers_of_a_network() -> None:
    network = Network(12)
    first = network.conv(network.pixels(), 4)
    second = network.conv_relu(network.node("Relu", first), 6, strides=[2, 2])
    graph = network.graph(second)
    pixels = images(10, 12)
    done: list[int] = []
    observers = calibrate(graph, [second, first], pixels, threads=1, advance=done.append)
    assert list(observers) == [second, first]
    assert sum(done) == 10
    values = run_graph(graph, threads=1, outputs=[second, first]).run(None, {"images": pixels})
    for observer, expected in zip(observers.values(), values, strict=True):
        assert observer.shape == expected.shape[2:]
        np.testing.assert_allclose(observer.high, expected.max(axis=(0, 2, 3)), rtol=1e-5)
        np.testing.assert_allclose(observer.low, expected.min(axis=(0, 2, 3)), rtol=1e-5)
        np.testing.assert_allclose(
            observer.mean, expected.mean(axis=(0, 2, 3)), rtol=1e-4, atol=1e-6
        )
    assert not observers[second].is_signed
    assert observers[first].is_signed


def test_same_images_give_the_same_limits() -> None:
    network = Network(16)
    last = network.conv_relu(network.pixels(), 4)
    observers = [
        calibrate(network.graph(last), [last], images(), threads=1, advance=int)[last]
        for _ in range(2)
    ]
    for method in METHODS:
        np.testing.assert_array_equal(observers[0].limit(method), observers[1].limit(method))
