"""Processes that work side by side, each with an equal share of the cores; a dead one takes no other's work along."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

from uda.engine.launching import cores, follow_parent

T = TypeVar("T")
R = TypeVar("R")
LOOK_EVERY = 1.0
"""Seconds between two looks at how far the workers are."""
DIED = (
    "its process died: killed, out of memory, or started from a script without `if __name__ == '__main__':`; "
    "the next call continues it"
)


def pool(
    workers: int,
    start: Callable[[], T | None],
    call: Callable[[T], tuple[Callable[..., R], *tuple[Any, ...]]],
    finish: Callable[[T, R], None],
    lose: Callable[[T], None],
    look: Callable[[], None] = lambda: None,
) -> None:
    """Work until nothing is left or a process died; a dead one takes only the tasks that were running with it.

    Args:
        workers: processes.
        start: gives the next task that can begin; ``None`` where there is none before another one ends.
        call: a task's function and arguments, to be pickled; the function raises nothing.
        finish: told what a task's function gave.
        lose: told of the tasks that were running when a process died (:data:`DIED`).
        look: called every second.

    Raises:
        KeyboardInterrupt: passed on, with the processes ended.
    """
    context = multiprocessing.get_context("spawn")
    threads = max(1, cores() // workers)
    processes = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(threads,))
    futures: dict[Future[R], T] = {}
    running: list[T] = []
    try:
        while True:
            while len(running) < workers and (task := start()) is not None:
                running.append(task)
                function, *arguments = call(task)
                futures[processes.submit(function, *arguments)] = task
            if not futures:
                return
            look()
            for future in wait(futures, timeout=LOOK_EVERY, return_when=FIRST_COMPLETED).done:
                result, task = future.result(), futures.pop(future)
                running = [other for other in running if other is not task]
                finish(task, result)
    except BrokenProcessPool:
        for task in running:
            lose(task)
    except KeyboardInterrupt:
        # a public way to do this comes with Python 3.14
        for process in list((processes._processes or {}).values()):
            process.terminate()
        raise
    finally:
        processes.shutdown(wait=False, cancel_futures=True)


def _start_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    follow_parent()
