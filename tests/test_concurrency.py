"""Results of threads: in order, not far ahead, and no thread left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from cnncodes.concurrency import ordered_map


def threads_left() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("mapped")]


@pytest.mark.parametrize(("threads", "ahead"), [(1, 1), (2, 5), (4, 3)])
def test_results_are_in_order_and_items_not_consumed_far_ahead(threads: int, ahead: int) -> None:
    n_taken = 0
    release = threading.Event()

    def items() -> Iterator[int]:
        nonlocal n_taken
        for n_taken in range(1, 51):
            if n_taken == min(threads, ahead + 1):
                release.set()
            yield n_taken

    def square(number: int) -> int:
        if number == 1:
            release.wait(60)  # the first ends last
        return number**2

    results = ordered_map(square, items(), threads=threads, ahead=ahead, name="mapped")
    for number, result in enumerate(results, start=1):
        assert result == number**2
        assert n_taken <= number + ahead
    assert number == 50
    assert threads_left() == []


def test_no_items_give_no_results() -> None:
    assert list(ordered_map(str, [], threads=2, ahead=2, name="mapped")) == []


def test_threads_end_when_closed_early() -> None:
    results = ordered_map(str, range(100), threads=4, ahead=8, name="mapped")
    assert next(results) == "0"
    assert threads_left()
    results.close()
    assert threads_left() == []


def test_failures_are_raised_and_the_threads_end() -> None:
    def fail(number: int) -> int:
        return 1 // (3 - number)

    def broken() -> Iterator[int]:
        yield 0
        raise LookupError("broken")

    with pytest.raises(ZeroDivisionError):
        list(ordered_map(fail, range(9), threads=2, ahead=2, name="mapped"))
    with pytest.raises(LookupError, match="broken"):
        list(ordered_map(fail, broken(), threads=2, ahead=2, name="mapped"))
    assert threads_left() == []
