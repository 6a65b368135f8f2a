from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytest
import torch
from torch import Tensor

from uda.methods import TENT, Prediction, Protocol, TestTimeMethod, stream
from uda.testing.tiny import TinySegmenter, TinyUnlabelled
from uda.types import SegOutput


class Spy(TestTimeMethod):
    """Writes down what happens to it."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []
        self.attach(TinySegmenter())
        self.events.clear()

    def reset(self) -> None:
        super().reset()
        self.events.append("reset")

    @torch.no_grad()
    def forward(self, images: Tensor) -> SegOutput:
        assert images.is_floating_point()
        assert images.max() <= 1
        self.events.append(f"{len(images)}x{images.shape[-2]}")
        return self.attached()(images)


def domains() -> dict[str, TinyUnlabelled]:
    return {name: TinyUnlabelled(name, 3, (0.5, 0.5, 0.5), seed) for seed, name in enumerate(("day", "night"))}


def names(predictions: list[Prediction]) -> list[str]:
    return [one.name for one in predictions]


ALL = [f"{domain}/{index}.png" for domain in ("day", "night") for index in range(3)]


@pytest.mark.parametrize(
    ("protocol", "events"),
    [
        (Protocol(), ["1x32"] * 6),
        (Protocol(reset="image"), ["reset", "1x32"] * 6),
        (Protocol(reset="domain"), (["reset"] + ["1x32"] * 3) * 2),
        (Protocol(reset="domain", batch_size=2), ["reset", "2x32", "1x32"] * 2),
        (Protocol(reset="domain", batch_size=3, rounds=2), ["reset", "3x32"] * 4),
    ],
)
def test_batches_and_resets(protocol: Protocol, events: list[str]) -> None:
    spy = Spy()
    found = list(stream(spy, domains(), protocol))
    assert spy.events == events
    assert names(found) == ALL * protocol.rounds
    assert [one.domain for one in found] == [name.split("/")[0] for name in names(found)]
    assert all(one.output.logits.shape == (1, 5, 32, 64) for one in found)


def test_rounds_of_one_domain_reset_as_well() -> None:
    spy = Spy()
    list(stream(spy, domains()["day"], Protocol(reset="domain", rounds=2)))
    assert spy.events == (["reset"] + ["1x32"] * 3) * 2


def test_orders() -> None:
    def run(**rule: object) -> list[str]:
        return names(list(stream(Spy(), domains(), Protocol(**rule))))

    shuffled = [run(order="shuffled", seed=seed) for seed in range(5)]
    assert all(sorted(one) == ALL and sorted(one[:3]) == ALL[:3] for one in shuffled)
    assert len(set(map(tuple, shuffled))) > 1
    mixed = [run(order="mixed", seed=seed) for seed in range(5)]
    assert all(sorted(one) == ALL for one in mixed)
    assert any(sorted(one[:3]) != ALL[:3] for one in mixed)
    assert run(order="mixed", seed=3) == mixed[3]


def test_images_of_any_origin_endlessly() -> None:
    """A camera: float and uint8 images, two sizes, one at a time, nothing read ahead."""
    given: list[int] = []

    def camera() -> Iterator[Tensor]:
        while True:
            given.append(len(given))
            size = (3, 32, 64) if len(given) % 4 else (3, 48, 64)
            yield torch.randint(0, 256, size, dtype=torch.uint8) if len(given) % 2 else torch.rand(size)

    spy = Spy()
    found = list(islice(stream(spy, camera()), 5))
    assert names(found) == ["0", "1", "2", "3", "4"]
    assert spy.events == ["1x32", "1x32", "1x32", "1x48", "1x32"]
    assert len(given) == 5


def test_sizes_do_not_share_a_batch() -> None:
    images = [torch.rand(3, 32, 64), torch.rand(3, 32, 64), torch.rand(3, 48, 64)]
    spy = Spy()
    assert [one.output.logits.shape[-2] for one in stream(spy, images, Protocol(batch_size=3))] == [32, 32, 48]
    assert spy.events == ["2x32", "1x48"]


def test_episodes_do_not_depend_on_what_came_before() -> None:
    torch.manual_seed(0)
    images = torch.rand(3, 3, 32, 64)

    def last(images: Tensor, reset: str) -> Tensor:
        torch.manual_seed(1)
        one = TENT(lr=0.05, steps=2)
        one.attach(TinySegmenter())
        return list(stream(one, images, Protocol(reset=reset)))[-1].output.logits

    assert torch.equal(last(images, "image"), last(images[2:], "image"))
    assert not torch.equal(last(images, "never"), last(images[2:], "never"))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"order": "sorted"}, "order is 'sorted'"),
        ({"reset": "batch"}, "reset is 'batch'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"rounds": 0}, "rounds is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"reset": "image", "batch_size": 2}, "batch_size is 2, must be 1"),
        ({"reset": "domain", "order": "mixed"}, "reset is 'domain'"),
    ],
)
def test_wrong_protocols(rule: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Protocol(**rule)


def test_wrong_streams() -> None:
    with pytest.raises(ValueError, match="need images with a length"):
        list(stream(Spy(), iter([torch.rand(3, 32, 64)]), Protocol(order="shuffled")))
    with pytest.raises(ValueError, match=r"image '0' is \(32, 64\)"):
        list(stream(Spy(), [torch.rand(32, 64)]))
    with pytest.raises(RuntimeError, match="call attach"):
        list(stream(TENT(), [torch.rand(3, 32, 64)]))
