"""Processes that train one run together; each has an equal slice of every batch, in the order of their ranks.

What they exchange goes through torch's default process group (``gloo`` on CPUs, ``nccl`` on GPUs), which accelerate or
torchrun starts. Every function here is called by all of them, in the same order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from uda.types import SegOutput, View

T = TypeVar("T")
BUCKET = 1 << 25
"""Bytes that are averaged in one message, about: few messages, and little memory beside the gradients."""
ROUNDING = 1e-3
"""Relative difference of what should be equal on all processes that is still taken for rounding."""


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Args:
        rank: in 0..world - 1; 0 is the one that writes.
        world: how many there are, at least 2.
    """

    rank: int
    world: int

    @classmethod
    def current(cls) -> Processes | None:
        """The processes of torch's default group; ``None`` where this process works alone."""
        if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
            return None
        return cls(distributed.get_rank(), distributed.get_world_size())

    # ---- slices and wholes --------------------------------------------------------------------------------------

    def own(self, whole: Tensor) -> Tensor:
        """This process' rows of a tensor ``(N, ...)``.

        Raises:
            ValueError: N is no multiple of the number of processes.
        """
        count, rest = divmod(len(whole), self.world)
        if rest:
            raise ValueError(f"{len(whole)} images cannot be split evenly over {self.world} processes")
        return whole[self.rank * count : (self.rank + 1) * count]

    @torch.no_grad()
    def whole(self, own: Tensor) -> Tensor:
        """The rows ``(N, ...)`` of all processes, of this one's ``(N / world, ...)``; without gradient."""
        own = own.contiguous()
        parts = [torch.empty_like(own) for _ in range(self.world)]
        distributed.all_gather(parts, own)
        return torch.cat(parts)

    def own_view(self, whole: View) -> View:
        """This process' images of a view, with what is known of them."""

        def cut(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else self.own(tensor)

        return replace(
            whole,
            images=self.own(whole.images),
            labels=cut(whole.labels),
            weight=cut(whole.weight),
            names=self._own_rows(whole.names),
            windows=self._own_rows(whole.windows),
            coarse=cut(whole.coarse),
        )

    def _own_rows(self, rows: tuple[T, ...]) -> tuple[T, ...]:
        count, rest = divmod(len(rows), self.world)
        return rows if rest else rows[self.rank * count : (self.rank + 1) * count]

    def whole_view(self, own: View) -> View:
        """The images of all processes in one view."""
        memory_format = torch.channels_last if _is_channels_last(own.images) else torch.contiguous_format
        names, windows = zip(*self.objects((own.names, own.windows)), strict=True)

        def join(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else self.whole(tensor)

        return replace(
            own,
            images=self.whole(own.images).contiguous(memory_format=memory_format),
            labels=join(own.labels),
            weight=join(own.weight),
            names=sum(names, ()),
            windows=sum(windows, ()),
            coarse=join(own.coarse),
        )

    def whole_output(self, own: SegOutput) -> SegOutput:
        """The output for the images of all processes, without gradient.

        An ``extra`` tensor that is no floating-point map ``(N, ...)`` (HRDA's box) is the same on all of them.
        """
        count = len(own.logits)

        def join(tensor: Tensor) -> Tensor:
            of_images = tensor.is_floating_point() and tensor.ndim > 1 and len(tensor) == count
            return self.whole(tensor.detach()) if of_images else tensor.detach()

        return own.map(join)

    # ---- numbers ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def average_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace the gradients by their means over the processes, in few messages.

        A parameter that has a gradient on some processes only counts as 0 on the others.
        """
        if not parameters:
            return
        for parameter, wanted in zip(parameters, self.any([p.grad is not None for p in parameters]), strict=True):
            if wanted and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.average_([p.grad for p in parameters if p.grad is not None])

    @torch.no_grad()
    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over the processes, in place."""
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            distributed.all_reduce(flat)
            flat /= self.world
            for tensor, mean in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(mean.view_as(tensor))

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Which of some flags are up on any process."""
        counts = torch.tensor(flags, dtype=torch.uint8, device=_device())
        distributed.all_reduce(counts, distributed.ReduceOp.MAX)
        return [bool(count) for count in counts.tolist()]

    # ---- objects ------------------------------------------------------------------------------------------------

    def objects(self, own: T) -> list[T]:
        """A value of each process, by rank; pickled on the way."""
        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, own)
        return values

    def first(self, value: Callable[[], T]) -> T:
        """What a function gives on the first process, which alone calls it; its exception is raised on all.

        The others raise a :class:`RuntimeError` with its message.
        """
        content: list[Any] = [None, None]
        failure: Exception | None = None
        if self.rank == 0:
            try:
                content[0] = value()
            except Exception as error:
                failure, content[1] = error, f"{type(error).__name__}: {error}"
        distributed.broadcast_object_list(content, src=0)
        if failure is not None:
            raise failure
        if content[1] is not None:
            raise RuntimeError(f"the first process failed ({content[1]})")
        result: T = content[0]
        return result

    def wait(self) -> None:
        """Go on when all processes are here."""
        distributed.barrier()

    # ---- equal states -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by those of the first process, in place."""
        for tensor in tensors:
            content = tensor.detach().contiguous()
            distributed.broadcast(content, src=0)
            tensor.copy_(content)

    @torch.no_grad()
    def assert_equal(self, what: str, state: Mapping[str, Tensor]) -> None:
        """See that a state is the same everywhere, by its hash; differences of rounding are removed.

        Floating-point work in another order (a GPU's atomic additions, another algorithm for a convolution) may round
        differently; the first process' numbers are then taken everywhere.

        Raises:
            RuntimeError: a tensor differs by more than rounding; named.
        """
        hashes = self.objects(checksum(state))
        if len(set(hashes)) == 1:
            return
        for name, tensor in state.items():
            first = tensor.detach().clone()
            self.broadcast_([first])
            near = torch.allclose(tensor, first, rtol=ROUNDING, atol=ROUNDING * _scale(first))
            exact = near if tensor.is_floating_point() else torch.equal(tensor, first)
            (differs,) = self.any([not exact])
            if differs:
                raise RuntimeError(
                    f"{what}: {name} is not the same on all {self.world} processes; what a method keeps must come from "
                    "the whole batch, and its random numbers from step.generator"
                )
            tensor.copy_(first)


_active: ContextVar[Processes | None] = ContextVar("processes", default=None)


@contextmanager
def passing(processes: Processes | None) -> Iterator[None]:
    """Inside, a network is passed by all of these processes together; see :func:`agreed`."""
    token = _active.set(processes)
    try:
        yield
    finally:
        _active.reset(token)


def mean_count(count: Tensor) -> Tensor:
    """What a sum over this process' pixels is divided by, so that the mean over processes is that over all pixels.

    Inside of :func:`passing` the mean of ``count`` over the processes, else ``count``.
    """
    processes = _active.get()
    if processes is None:
        return count
    mean = count.detach().to(torch.float32 if count.device.type == "mps" else torch.float64)
    processes.average_([mean])
    return mean.to(count.dtype if count.is_floating_point() else torch.float32)


def agreed(draw: Tensor) -> Tensor:
    """A random number that holds for a whole batch: inside of :func:`passing`, the first process' everywhere.

    For networks that draw, once for a batch, from torch's global generators, which differ from process to process.
    """
    return draw if _active.get() is None else _of_first(draw)


# an operator of its own, which torch.compile takes into its graph as it is
@torch.library.custom_op("uda::of_first_process", mutates_args=())
def _of_first(own: Tensor) -> Tensor:
    content = own.to(_device(), copy=True)
    distributed.broadcast(content, src=0)
    return content.to(own.device)


@_of_first.register_fake
def _(own: Tensor) -> Tensor:
    return torch.empty_like(own)


def checksum(state: Mapping[str, Tensor]) -> str:
    """A hash that differs wherever a bit of a state differs, but for coincidence; names and places count."""
    total = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        flat = tensor.detach().contiguous().reshape(-1)
        numbers = flat.view(torch.int32 if flat.element_size() % 4 == 0 else torch.uint8).long()
        # integers wrap around, so that the sum is exact in any order, and is taken on the tensor's own device
        weights = torch.arange(1, len(numbers) + 1, device=numbers.device) * 2654435761
        total.update(f"{name} {flat.dtype} {len(flat)} {int((numbers * weights).sum())};".encode())
    return total.hexdigest()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one kind, together as large as a bucket."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        kind = (tensor.dtype, tensor.device)
        if bucket and (size >= BUCKET or kind != (bucket[0].dtype, bucket[0].device)):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel() * tensor.element_size()
    if bucket:
        yield bucket


def _device() -> torch.device:
    """Where numbers that are exchanged must lie."""
    cuda = distributed.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")


def _scale(tensor: Tensor) -> float:
    return float(tensor.abs().max()) if tensor.is_floating_point() and tensor.numel() else 0.0


def _is_channels_last(images: Tensor) -> bool:
    return not images.is_contiguous() and images.is_contiguous(memory_format=torch.channels_last)
