"""Several images at once: order, which thread does what, how far ahead, errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from uda.functional.normalisation import running_statistics
from uda.gap import factors
from uda.gap.factors import BATCH_NORM
from uda.gap.interventions import Interventions
from uda.gap.sampling import all_coalitions
from uda.gap.style import StyleSums
from uda.gap.threads import in_threads
from uda.types import Sample


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)


@pytest.mark.usefixtures("three")
def test_results_are_in_order_and_items_are_made_by_the_caller_a_few_ahead() -> None:
    taken, workers = [], set()

    def items() -> Iterator[int]:
        for number in range(12):
            assert threading.current_thread() is threading.main_thread()
            taken.append(number)
            yield number

    def work(number: int) -> int:
        workers.add(threading.current_thread().name)
        time.sleep(0.02 if number % 3 == 0 else 0.001)  # later ones are done before
        return number * number

    for rank, result in enumerate(in_threads(work, items())):
        assert result == rank * rank
        assert len(taken) <= rank + 4
    assert threading.main_thread().name not in workers
    assert len(workers) == 3


@pytest.mark.usefixtures("three")
def test_an_error_of_one_item_is_the_callers() -> None:
    def work(number: int) -> float:
        return 1 / (3 - number)

    results = in_threads(work, range(9))
    assert [next(results) for _ in range(3)] == [1 / 3, 1 / 2, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_with_one_thread_nothing_is_done_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    done: list[int] = []
    results = in_threads(done.append, range(3))
    next(results)
    assert done == [0]


class Network(nn.Module):
    """Classes by the brightness of three rows of pixels, after batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.sizes.append(tuple(images.shape))
        return 5 * self.norm(images)


def interventions(model: nn.Module, samples: list[Sample], size: tuple[int, int]) -> Interventions:
    generator = torch.Generator().manual_seed(9)
    sums = []
    for shift, (height, width) in ((60, size), (0, (20, 30))):
        sums.append(StyleSums())
        for _ in range(4):
            noise = torch.randint(0, 120, (height, width, 3), generator=generator)
            sums[-1].add((noise + shift).to(torch.uint8).numpy())

    def predict(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return nn.functional.interpolate(model(images), size, mode="bilinear")

    source, target = (own.style() for own in sums)
    return Interventions(model, predict, source, target, samples, resize=lambda x: x, prior=0.5, batch_size=4)


@pytest.fixture
def samples() -> list[Sample]:
    generator = torch.Generator().manual_seed(1)
    images = [torch.randint(0, 120, (3, 20, 30), generator=generator, dtype=torch.uint8) for _ in range(5)]
    return [Sample(image, torch.randint(0, 3, (20, 30), generator=generator), f"{k}") for k, image in enumerate(images)]


@pytest.mark.parametrize("threads", [1, 4])
def test_losses_of_combinations_are_those_of_each_for_itself(
    threads: int, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is shared: edits, batches, threads."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    model = Network().eval()
    work = interventions(model, samples, (24, 30))
    names = ("resolution", "noise", "mean")
    assert set(names) <= set(work.factors())
    combinations = [c for c in all_coalitions(names) if c] + [frozenset({BATCH_NORM}), frozenset({"mean", BATCH_NORM})]
    # another choice for each image
    wanted = [combinations[k:] for k in range(len(samples))]
    losses, matrices = work.try_on(samples, range(len(samples)), wanted)
    assert [set(own) for own in losses] == [set(own) for own in wanted]
    assert [set(own) for own in matrices] == [{c for c in own if len(c) == 1} for own in wanted]
    for k, sample in enumerate(samples):
        for coalition in wanted[k]:
            alone, matrix = work.try_on([sample], [k], [[coalition]])
            assert losses[k][coalition] == pytest.approx(alone[0][coalition], rel=1e-5)
            if len(coalition) == 1:
                assert (matrices[k][coalition] == matrix[0][coalition]).all()
    assert running_statistics(model)["norm"].mean.tolist() == [0, 0, 0]  # as before


def test_edits_that_combinations_begin_with_are_made_once(
    samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    work = interventions(Network().eval(), samples, (24, 30))
    combinations = all_coalitions(("resolution", "noise", "mean"))
    pixels = samples[0].as_float().permute(1, 2, 0).contiguous().numpy()
    dict(work.editor.each(pixels, combinations))  # has the style after each resizing measured
    made: list[list[str]] = []
    edit = factors.Editor._edit
    monkeypatch.setattr(
        factors.Editor, "_edit", lambda self, names, *rest: made.append(list(names)) or edit(self, names, *rest)
    )
    edited = dict(work.editor.each(pixels, combinations, seed=3))
    assert len(made) == 7  # of 12 that the eight combinations have
    assert set(edited) == set(combinations)
    assert edited[frozenset()] is pixels
    for combination, image in edited.items():
        assert (image == work.editor.apply(pixels, combination, seed=3)).all()


def test_batches_on_a_cpu_are_bounded_by_their_pixels(samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    combinations = [frozenset({"mean"}), frozenset({"noise"}), frozenset({"noise", "mean"})]
    for limit, batches in ((2**18, [3]), (2 * 20 * 30, [2, 1]), (1, [1, 1, 1])):
        monkeypatch.setattr("uda.gap.interventions.CPU_PIXELS", limit)
        model = Network().eval()
        interventions(model, samples, (20, 30)).try_on(samples[:1], [0], [combinations])
        assert [size[0] for size in model.sizes] == batches
