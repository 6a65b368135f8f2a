"""Two processes on the CPU that run the same function together, as ranks of a run do; kept for a whole test session."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pickle
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
WORLD = 2
PATIENCE = timedelta(seconds=60)
"""How long a process waits for the others before it fails."""


class ProcessError(AssertionError):
    """A function failed in one of the processes; the message has its traceback."""


def together(function: Callable[..., T], *args: Any, **kwargs: Any) -> list[T]:
    """What a function gives in each of two processes that share a ``gloo`` group, by rank.

    Args:
        function: of a module that can be imported, as are the classes of its arguments; it may call
            ``torch.distributed`` and train with a :class:`~uda.engine.Trainer`, which shares its batches.
        args: pickled.
        kwargs: pickled.

    Raises:
        ProcessError: it raised an exception.
    """
    global _ranks
    _ranks = _ranks or _Ranks()
    try:
        return _ranks.run(function, args, kwargs)
    except BaseException:
        # one that failed leaves another waiting in the middle of an exchange
        _ranks.close()
        _ranks = None
        raise


class _Ranks:
    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        self._pipes, self._processes = [], []
        for rank in range(WORLD):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank, self._folder.name), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        atexit.register(self.close)

    def run(self, function: Callable[..., T], args: Any, kwargs: Any) -> list[T]:
        task = pickle.dumps((sys.path, pickle.dumps((function, args, kwargs))))
        for pipe in self._pipes:
            pipe.send_bytes(task)
        answers = [self._answer(rank, pipe) for rank, pipe in enumerate(self._pipes)]
        failures = [f"rank {rank}:\n{failure}" for rank, (_, failure) in enumerate(answers) if failure]
        if failures:
            raise ProcessError("\n".join(failures))
        return [result for result, _ in answers]

    def _answer(self, rank: int, pipe: Connection) -> tuple[Any, str]:
        try:
            answer: tuple[Any, str] = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return None, "its process ended"
        return answer

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        self._folder.cleanup()
        atexit.unregister(self.close)


_ranks: _Ranks | None = None


def _serve(pipe: Connection, rank: int, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(WORLD), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(WORLD)}
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    store = (Path(folder) / "store").as_posix()
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD, timeout=PATIENCE)
    while True:
        try:
            path, task = pickle.loads(pipe.recv_bytes())
        except EOFError:  # the parent is gone
            os._exit(0)
        sys.path[:] = path
        result, failure = None, ""
        try:
            function, args, kwargs = pickle.loads(task)
            result = function(*args, **kwargs)
        except Exception:
            failure = traceback.format_exc()
        pipe.send_bytes(pickle.dumps((result, failure)))
