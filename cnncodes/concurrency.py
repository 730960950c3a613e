"""Work in threads whose results come in order, with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int,
    ahead: int,
    name: str,
) -> Generator[Result, None, None]:
    """Apply a function to items in threads, and yield the results in the order of the items.

    `concurrent.futures.Executor.map` takes all items at once before Python 3.14, so that memory
    would grow with their number. Closing the generator cancels what has not begun and waits for
    the rest; close it, as with `contextlib.closing`, wherever a loop over it may end early.

    Parameters
    ----------
    function : callable
        Called with one item, in a thread of the pool. What it raises is raised here.
    items : iterable
        At most `ahead` + 1 items beyond the results yielded are consumed.
    threads : int
        Number of threads.
    ahead : int
        Number of results that may be under way or ready while another one is consumed.
    name : str
        Prefix of the threads' names.

    Yields
    ------
    object
        The result for each item.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
