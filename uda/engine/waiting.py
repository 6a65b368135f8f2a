"""What share of its time a run waits for data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

MUCH = 0.2
"""Share of the time from which on a run is told what to do."""
_LONG = 30.0
"""Seconds of training before which it is not: files are read from a cold disk then."""


class DataWaitWarning(UserWarning):
    """A run waits for data for much of its time."""


class Waiting:
    """Times how long a loop waits for its batches.

    The first batch and all before the second is asked for count for nothing: loader processes start, and libraries are
    imported. What is timed is the processor, which asks for a batch when the step before is done: an update looks
    whether its losses are finite, for which it waits for the device anyway.

    Args:
        clock: seconds; for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._begun: float | None = None
        self._waited = 0.0
        self._warned = False

    def batches(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches, timed."""
        first = next(batches, None)
        if first is None:
            return
        yield first
        self._begun = self._clock()
        while True:
            asked = self._clock()
            batch = next(batches, None)
            if batch is None:
                return
            self._waited += self._clock() - asked
            yield batch

    @property
    def share(self) -> float | None:
        """Of the time since the second batch was asked for, in [0, 1]; ``None`` before that."""
        passed = 0.0 if self._begun is None else self._clock() - self._begun
        return self._waited / passed if passed else None

    def advice(self, workers: int) -> str | None:
        """What to do about long waiting, once; ``None`` where there is nothing to say.

        Args:
            workers: processes that load.
        """
        if self._warned or self._begun is None or self._clock() - self._begun < _LONG:
            return None
        share = self.share
        if share is None or share <= MUCH:
            return None
        self._warned = True
        return (
            f"training waits for data {100 * share:.0f} % of the time; give it more loader processes "
            f"(settings.workers: {max(4, 2 * workers)} instead of {workers}), or the data sets a cache of decoded "
            "images (cache: a folder)"
        )
