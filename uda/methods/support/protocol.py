"""How a test-time method meets its images: in which order, how many at once, and when it starts again.

The same method ranks differently under different protocols, so a number without one says little. ``stream`` is the use
of a test-time method on anything that gives images one after the other: a data set, a folder, a camera.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import torch
from torch import Tensor

from uda.methods.base import TestTimeMethod
from uda.methods.support.checks import one_of, whole
from uda.types import Sample, SegOutput

ORDERS = ("given", "shuffled", "mixed")
RESETS = ("never", "image", "domain")

Images = Iterable[Sample | Tensor]
"""``Sample``s of a data set (labels are not looked at), or ``(3, H, W)`` images, uint8 or float in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Order, reset rule and batch size of a stream.

    Args:
        order: ``"given"``: domain after domain as they come; ``"shuffled"``: the images of each domain in random order;
            ``"mixed"``: the images of all domains together in random order. The last two need data sets with a length.
        reset: when the method returns to the source model: ``"never"`` (continual), before each ``"image"`` (episodic)
            or each ``"domain"``.
        batch_size: consecutive images of one size and domain that go through together, at least 1.
        rounds: how often the domains are gone through, at least 1; more than one needs data sets.
        seed: of the random orders, at least 0.

    Raises:
        ValueError: a value out of its range; images one by one in larger batches, or domains that are mixed.
    """

    order: str = field(default="given")
    reset: str = field(default="never")
    batch_size: int = field(default=1)
    rounds: int = field(default=1)
    seed: int = field(default=0)

    def __post_init__(self) -> None:
        one_of("order", self.order, ORDERS)
        one_of("reset", self.reset, RESETS)
        whole("batch_size", self.batch_size, 1)
        whole("rounds", self.rounds, 1)
        whole("seed", self.seed, 0)
        if self.reset == "image" and self.batch_size > 1:
            raise ValueError(f"batch_size is {self.batch_size}, must be 1 with reset='image'")
        if self.reset == "domain" and self.order == "mixed":
            raise ValueError("reset is 'domain', must be 'never' or 'image' with order='mixed'")


class Prediction(NamedTuple):
    """One image's part of a stream."""

    domain: str
    name: str
    """The image's file, or its number in the stream."""
    output: SegOutput
    """Of a batch of one, ``(1, C, H, W)``."""


class _Frame(NamedTuple):
    round: int
    domain: str
    name: str
    image: Tensor


def stream(
    method: TestTimeMethod, images: Images | Mapping[str, Images], protocol: Protocol | None = None
) -> Iterator[Prediction]:
    """Predict images as they come, by an attached test-time method.

    Args:
        method: attached to its model; it is neither reset before nor after, but as the protocol says.
        images: one domain, or several by name; may be endless with ``order="given"``.
        protocol: ``Protocol()`` by default: as they come, one by one, never reset.

    Yields:
        one prediction an image, in the order of the protocol.

    Raises:
        RuntimeError: the method has no model.
        ValueError: a random order or several rounds of images that have no length, or an image that is none.
    """
    rule = protocol or Protocol()
    device = next((parameter.device for parameter in method.attached().parameters()), torch.device("cpu"))
    domains = cast("Mapping[str, Images]", images if isinstance(images, Mapping) else {"": images})
    before: tuple[int, str] | None = None
    for batch in _batches(_ordered(domains, rule), rule.batch_size):
        first = batch[0]
        if rule.reset == "image" or (rule.reset == "domain" and first[:2] != before):
            method.reset()
        before = first[:2]
        output = method(torch.stack([frame.image for frame in batch]).to(device))
        for at, frame in enumerate(batch):
            aux = None if output.aux is None else output.aux[at : at + 1]
            part = SegOutput(output.logits[at : at + 1], output.features[at : at + 1], aux)
            yield Prediction(frame.domain, frame.name, part)


def _ordered(domains: Mapping[str, Images], rule: Protocol) -> Iterator[_Frame]:
    if rule.order == "given" and rule.rounds == 1:
        for name, images in domains.items():
            yield from (_frame(0, name, at, image) for at, image in enumerate(images))
        return
    for name, images in domains.items():
        if not hasattr(images, "__len__") or not hasattr(images, "__getitem__"):
            raise ValueError(f"order={rule.order!r}, rounds={rule.rounds} need images with a length; {name!r} has none")
    known = cast("Mapping[str, Sequence[Sample | Tensor]]", domains)
    generator = torch.Generator().manual_seed(rule.seed)
    for turn in range(rule.rounds):
        parts = [[(name, at) for at in range(len(images))] for name, images in known.items()]
        if rule.order == "mixed":
            parts = [[position for part in parts for position in part]]
        for part in parts:
            order = torch.arange(len(part))
            if rule.order != "given":
                order = torch.randperm(len(part), generator=generator)
            yield from (_frame(turn, name, at, known[name][at]) for name, at in (part[k] for k in order.tolist()))


def _frame(turn: int, domain: str, at: int, sample: Sample | Tensor) -> _Frame:
    image, name = (sample.image, sample.name) if isinstance(sample, Sample) else (sample, str(at))
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image {name!r} is {tuple(image.shape)}, must be (3, H, W)")
    return _Frame(turn, domain, name, image if image.is_floating_point() else image.float() / 255)


def _batches(frames: Iterator[_Frame], size: int) -> Iterator[list[_Frame]]:
    batch: list[_Frame] = []
    for frame in frames:
        if batch and (len(batch) == size or frame.image.shape != batch[0].image.shape or frame[:2] != batch[0][:2]):
            yield batch
            batch = []
        batch.append(frame)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
