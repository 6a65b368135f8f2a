"""A small run in processes of its own, for the kill test.

``python -m tests.engine.kill_run OUT [STEP ...]`` trains in a child process, killed with SIGKILL when it comes
to the first STEP, then in another that is killed at the second, and so on; the last runs to the end. ``STEPw`` kills
inside the writing of the first checkpoint at or after STEP.
"""

from __future__ import annotations

import os
import signal
import sys
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


def main(out: Path, kills: list[str]) -> None:
    """One child process after the other; forked before any tensor is made."""
    for kill in [*kills, None]:
        child = os.fork()
        if child == 0:
            run(out, kill)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status)
        if killed != (kill is not None):
            sys.exit(f"kill {kill}: child ended with status {status}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
