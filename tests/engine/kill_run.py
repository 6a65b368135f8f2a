"""A small run in processes of its own, for the kill test.

``python -m tests.engine.kill_run OUT [STEP ...]`` trains in a child process, killed with SIGKILL when it comes
to the first STEP, then in another that is killed at the second, and so on; the last runs to the end. ``STEPw`` kills
inside the writing of the first checkpoint at or after STEP.

``python -m tests.engine.kill_run OUT storm SEED KILLS`` kills from outside, at random moments of a run's time, until
a run comes to its end or KILLS have been; the last is left alone. The number of kills is in ``OUT/kills.txt``.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from uda.engine import Settings, Trainer, checkpoint
from uda.methods import CBST, FDA, AdvEnt, ClassMix, MinEnt, Supervised
from uda.testing.tiny import TinyDataset, TinySegmenter, tiny_target

SETTINGS = Settings(
    steps=24, crop=(32, 64), lr=1e-3, log_every=1, eval_every=6, checkpoint_every=5, image_every=10, device="cpu"
)


def die() -> None:
    """What an out-of-memory killer does."""
    os.kill(os.getpid(), signal.SIGKILL)


def run(out: Path, kill: str | None) -> None:
    """Train to the end, from the checkpoint in ``out`` if there is one, or to death."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    at = int(kill.rstrip("w")) if kill else -1
    write = torch.save

    def cut_short(state: dict[str, object], file: object) -> None:
        write(state, file)
        if state["step"] >= at:  # type: ignore[operator]
            file.truncate(1000)  # type: ignore[attr-defined]
            die()

    if kill and kill.endswith("w"):
        checkpoint.torch.save = cut_short

    def steps(indices: Iterable[int]) -> Iterator[int]:
        for index in indices:
            if kill and not kill.endswith("w") and index >= at:
                die()
            yield index

    methods = [Supervised(), FDA(), AdvEnt(), MinEnt(), CBST(), ClassMix()]
    trainer = Trainer(
        TinySegmenter(), methods, SETTINGS, out=out, evaluate_on={"target": tiny_target()}, progress=steps
    )
    trainer.fit(TinyDataset(), tiny_target())
    torch.save(trainer.state_dict(), out / "end.pt")


def start(out: Path, kill: str | None = None) -> int:
    """A run in a child process; its id."""
    child = os.fork()
    if child == 0:
        try:
            run(out, kill)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def storm(out: Path, seed: int, kills: int) -> None:
    """Kill runs in ``out`` at random moments, then let one come to its end."""
    draw, count = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as scratch:
        begin = time.monotonic()
        os.waitpid(start(Path(scratch)), 0)
        span = time.monotonic() - begin
    status = -1
    while status and count < kills:
        child = start(out)
        # no moment is past half a run, so that the steps between two checkpoints are cut short often
        time.sleep(draw.uniform(0, span / 2))
        os.kill(child, signal.SIGKILL)  # one that has ended is there until it is waited for
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and status:
            sys.exit(f"after {count} kills a run ended with status {status}")
        count += status != 0
    (out / "kills.txt").write_text(str(count))
    if status:
        main(out, [])


def main(out: Path, kills: list[str]) -> None:
    """One child process after the other; forked before any tensor is made."""
    for kill in [*kills, None]:
        _, status = os.waitpid(start(out, kill), 0)
        killed = os.WIFSIGNALED(status)
        if killed != (kill is not None):
            sys.exit(f"kill {kill}: child ended with status {status}")


if __name__ == "__main__":
    if sys.argv[2:3] == ["storm"]:
        storm(Path(sys.argv[1]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        main(Path(sys.argv[1]), sys.argv[2:])
