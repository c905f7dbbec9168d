"""Read ahead: the next blocks are fetched by a thread while the caller works on this one."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetched(read: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result]:
    """`read(item)` for each item in order, at most `ahead` of them waiting.

    >>> list(prefetched(lambda i: i * i, range(4), 2))
    [0, 1, 4, 9]
    """
    if ahead == 0:
        yield from map(read, items)
        return
    todo = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="probecache-prefetch") as pool:
        waiting: deque[Future[Result]] = deque(pool.submit(read, item) for item in islice(todo, ahead))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(read, item) for item in islice(todo, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()
