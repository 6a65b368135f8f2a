"""The target's loss under edits, shared among what is edited."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from uda.gap.asking import Asker
from uda.gap.factors import BATCH_NORM
from uda.gap.interventions import Interventions, Plan
from uda.gap.results import DomainResult, Floats, Gap, Progress
from uda.gap.sampling import Coalition, Images
from uda.gap.store import CHUNK, Shelf, Store, chunks

CALIBRATION = 16
"""Target images that batch norm is calibrated on in interventions."""
ELIMINATION = 120
"""Target images, evenly spaced, on which edits that do harm are looked for; a harm that these do not show is small."""


def causes_of(result: Gap, ask: Asker, store: Store, shelf: Shelf, watch: Progress) -> dict[str, Any]:
    """Loss under edits, shared among the factors that take part.

    First each factor alone. Then, on at most :data:`ELIMINATION` images, all together: as long as the loss is clearly
    smaller without one of them, the one that does most harm goes; its edit is a bad one, and says nothing about what
    the target lacks. The game is of the image factors that are left; batch norm, of the model's side, has what it still
    takes off when they are all edited.
    """
    options, target = result.options, result.target
    step = max(1, math.ceil(len(shelf) / CALIBRATION))
    calibration = [shelf[index] for index in range(0, len(shelf), step)]
    work = Interventions(
        ask.model,
        partial(ask.logits, resized=False),
        result.source_style,
        target.style,
        calibration,
        resize=ask.resize,
        prior=options.prior,
        batch_size=options.batch_size,
    )
    factors = work.factors()
    image_factors = [factor for factor in factors if factor != BATCH_NORM]
    trials = _Trials(work, store, shelf, target, watch)
    trials.run("alone", [[frozenset({factor}) for factor in factors]] * len(shelf))
    part, harmful = _without_harm(trials, image_factors, target.sequences, options.seed)
    plan = Plan.of(part, len(shelf), options.budget, options.seed)
    trials.run("together", [plan.coalitions(index) for index in range(len(shelf))])
    shares: dict[str, list[float]] = {factor: [] for factor in part}
    for index, values in enumerate(trials.values):
        for factor, value in plan.shares(values, index).items():
            shares[factor].append(value)
    taken = {factor: np.array(values) for factor, values in shares.items()}
    if BATCH_NORM in factors:
        # after the images: its statistics make up for what their edits take away, and would be credited with that
        trials.run("normed", [[frozenset({*part, BATCH_NORM})]] * len(shelf))
        beside = trials.losses(part) - trials.losses({*part, BATCH_NORM})
        images = Images(target.sequences, options.seed)
        if all(images.interval(gain).high < 0 for gain in (trials.losses(()) - trials.losses({BATCH_NORM}), beside)):
            harmful.append(BATCH_NORM)
        else:
            taken[BATCH_NORM] = beside
    tried = {factor: frozenset({factor}) for factor in factors}
    return {
        "plan": plan,
        "differences": work.editor.differences(),
        "harmful": tuple(harmful),
        "shares": taken,
        "alone": {name: (trials.losses(c), trials.confusions(c)) for name, c in tried.items()},
    }


def _without_harm(
    trials: _Trials, factors: Sequence[str], sequences: Sequence[str], seed: int
) -> tuple[list[str], list[str]]:
    """The factors that take part, and those that go since their edits do harm beside the others."""
    count = len(sequences)
    looked = np.unique(np.linspace(0, count - 1, min(count, ELIMINATION)).round().astype(int))
    images = Images([sequences[index] for index in looked], seed)
    part, harmful = list(factors), list[str]()
    while part:
        without = {factor: frozenset(part) - {factor} for factor in part}
        wanted: list[list[Coalition]] = [[] for _ in sequences]
        for index in looked:
            wanted[index] = [frozenset(part), *without.values()]
        trials.run(f"without_{len(harmful)}", wanted)
        harm = {factor: trials.losses(part, looked) - trials.losses(rest, looked) for factor, rest in without.items()}
        clear = [factor for factor, more in harm.items() if images.interval(more).low > 0]
        if not clear:
            break
        harmful.append(max(clear, key=lambda factor: float(harm[factor].mean())))
        part.remove(harmful[-1])
    return part, harmful


class _Trials:
    """Losses of the target's images under coalitions of factors, tried once each and kept."""

    def __init__(self, work: Interventions, store: Store, shelf: Shelf, target: DomainResult, watch: Progress) -> None:
        self._work, self._store, self._shelf, self._watch = work, store, shelf, watch
        self.values: list[dict[Coalition, float]] = [{frozenset(): float(loss)} for loss in target.losses()]
        self._confusions: list[dict[Coalition, npt.NDArray[np.int64]]] = [
            {frozenset(): row.confusion} for row in target.before
        ]

    def run(self, stage: str, wanted: Sequence[Sequence[Coalition]]) -> None:
        """Try on each image the coalitions that were not tried yet."""
        missing = {
            index: new
            for index, own in enumerate(wanted)
            if (new := [coalition for coalition in own if coalition not in self.values[index]])
        }
        indices = list(missing)
        if not indices:
            return
        with self._watch(f"target: edited, {stage}", len(indices)) as tick:
            for part in chunks(len(indices), CHUNK):
                some = {index: missing[index] for index in indices[part.start : part.stop]}
                content = self._store.chunk(f"edited_{stage}_{part.start:06d}", partial(self._make, some))
                for index, losses, matrices in zip(some, content["losses"], content["confusions"], strict=True):
                    self.values[index] |= {_coalition(text): value for text, value in losses.items()}
                    self._confusions[index] |= {_coalition(text): m.numpy() for text, m in matrices.items()}
                    tick()

    def _make(self, missing: Mapping[int, Sequence[Coalition]]) -> dict[str, Any]:
        samples = [self._store.sample("target", index) for index in missing]
        losses, matrices = self._work.try_on(samples, list(missing), list(missing.values()))
        return {
            "losses": [{_text(c): value for c, value in row.items()} for row in losses],
            "confusions": [{_text(c): torch.from_numpy(value) for c, value in row.items()} for row in matrices],
        }

    def losses(self, coalition: Iterable[str], images: Iterable[int] | None = None) -> Floats:
        """``(n,)`` under a coalition that was tried on all images, or on these."""
        rows = range(len(self.values)) if images is None else images
        return np.array([self.values[index][frozenset(coalition)] for index in rows])

    def confusions(self, coalition: Iterable[str]) -> npt.NDArray[np.int64]:
        """``(n, C, C)`` under a single factor that was tried on all images."""
        return np.stack([matrices[frozenset(coalition)] for matrices in self._confusions])


def _text(coalition: Coalition) -> str:
    return " ".join(sorted(coalition))


@lru_cache(maxsize=1024)
def _coalition(text: str) -> Coalition:
    """The same object for all images."""
    return frozenset(text.split())
