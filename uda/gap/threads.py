"""Work on several images at once: NumPy, OpenCV and torch let other threads run while they calculate."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")
THREADS = 4
"""At most, as each holds an image and what is made of it; fewer where torch is to take fewer (``OMP_NUM_THREADS``)."""


def in_threads(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``function`` of each item, in order.

    Items are taken in order and in the caller's thread, as many ahead as there are threads; so what makes them, a
    network that adapts to each say, does not have to allow for threads. With one thread it is ``map``.
    """
    count = min(THREADS, torch.get_num_threads())
    if count == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(count) as pool:
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
