"""Several processes of one machine that run the same function, as ranks that train together."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import distributed

from uda.files import atomic_write

R = TypeVar("R")
HOST = "127.0.0.1"
LOOK_EVERY = 1.0
"""Seconds between two looks at how far the processes are."""
RESULT = "result"
STOP = "stop"
"""Is there once the processes are to end early."""


class LaunchError(RuntimeError):
    """One of the processes failed or died, and the others were ended; the message says which, and why."""

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace
        """Traceback of what the process raised; empty where it was killed."""


class _Failure(NamedTuple):
    when: float
    rank: int
    message: str
    trace: str


def launch(
    processes: int,
    function: Callable[..., R],
    *arguments: Any,
    look: Callable[[], None] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
) -> R:
    """Run a function in several new processes; the environment tells them about each other, as torchrun's does.

    A :class:`~uda.engine.Trainer` made in the function then trains on all of them together, each with its share of
    every batch. If one of them fails, or is killed, the others are ended within seconds.

    Args:
        processes: at least 1.
        function: of a module that can be imported; called in each process.
        arguments: pickled.
        look: called every second meanwhile.
        stop: asked every second; once it says so, :func:`is_told_to_stop` does in the processes.

    Returns:
        what the function gives in the first process.

    Raises:
        LaunchError: a process raised an exception or died.
        KeyboardInterrupt: passed on, with the processes ended.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined] # not every build has it

    store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder, task = Path(name), pickle.dumps((function, arguments))
        shared = (processes, store.port, folder, sys.path, task)
        ranks = [context.Process(target=_serve, args=(rank, *shared)) for rank in range(processes)]
        try:
            for process in ranks:
                process.start()
            codes = _watch(ranks, look, stop, folder / STOP)
        finally:
            for process in ranks:
                if process.pid is not None:
                    process.kill()
                    process.join()
        if any(codes):
            raise _explained(codes, sorted(pickle.loads(path.read_bytes()) for path in folder.glob("*.failure")))
        result: R = pickle.loads((folder / RESULT).read_bytes())
    return result


def _watch(
    ranks: Sequence[SpawnProcess], look: Callable[[], None], stop: Callable[[], bool], told: Path
) -> list[int | None]:
    """The exit codes when all processes ended well or one did not; ``None`` of those that are still at work."""
    while True:
        if not told.exists() and stop():
            _write(told, None)
        codes = [process.exitcode for process in ranks]
        if any(codes) or None not in codes:
            return codes
        wait([process.sentinel for process in ranks if process.exitcode is None], timeout=LOOK_EVERY)
        look()


def _explained(codes: Sequence[int | None], failures: Sequence[_Failure]) -> LaunchError:
    """What went wrong first: the others failed because of it."""
    for rank, code in enumerate(codes):
        if code is not None and code < 0:
            killed = f"process {rank} of {len(codes)} was killed ({signal.Signals(-code).name})"
            return LaunchError(f"{killed}, and the others were ended")
    if failures:
        return LaunchError(f"process {failures[0].rank} of {len(codes)}: {failures[0].message}", failures[0].trace)
    rank, code = next((rank, code) for rank, code in enumerate(codes) if code)
    return LaunchError(f"process {rank} of {len(codes)} ended with code {code}, and the others were ended")


_stop_file: Path | None = None


def is_told_to_stop() -> bool:
    """In a process of :func:`launch`: whether its caller wants it to end early."""
    return _stop_file is not None and _stop_file.exists()


def _serve(rank: int, world: int, port: int, folder: Path, path: list[str], task: bytes) -> None:
    global _stop_file
    _stop_file = folder / STOP
    sys.path[:] = path
    if hasattr(signal, "SIGUSR2"):
        # a cluster may warn all processes of a job before its end; the caller, which is warned too, passes it on
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    threads = max(1, cores() // world)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": HOST, "MASTER_PORT": str(port),
        # the store is the parent's, so that no other process can take the port before they meet
        "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
    }  # fmt: skip
    torch.set_num_threads(min(threads, int(os.environ["OMP_NUM_THREADS"])))
    follow_parent()
    try:
        function, arguments = pickle.loads(task)
        result = function(*arguments)
        if rank == 0:
            _write(folder / RESULT, result)
    except BaseException as error:
        message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        failure = _Failure(time.time(), rank, message, traceback.format_exc())
        _write(folder / f"{rank}.failure", failure)
        sys.stderr.flush()
        # not by an exception: waiting for an exchange that another left would keep this process
        os._exit(1)
    if distributed.is_initialized():
        distributed.destroy_process_group()


def follow_parent() -> None:
    """End this process when its parent ends: one that outlived a killed parent would train on in a folder that the next
    call takes over."""
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write(path: Path, content: Any) -> None:
    with atomic_write(path, binary=True) as file:
        pickle.dump(content, file)
