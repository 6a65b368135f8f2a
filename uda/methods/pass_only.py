"""The control: images pass through the network in training, and nothing is learnt from them.

Target images that pass in train mode move the batch-norm statistics with which the network is evaluated, whatever loss
stands behind them; that alone is AdaBN in the course of training (Li et al., ICLR workshop 2017), and what an
adversarial weight of 0 gives (AdaptSegNet's issue 25: about 41 % on GTA5 to Cityscapes, of 42.4). A method is compared
to the run that passes the same images without its loss. Departures: none, as it has no paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from uda.methods.base import Method

if TYPE_CHECKING:
    from uda.step import Step
    from uda.types import TaskSpec


class PassOnly(Method):
    """Pass views without any loss on them.

    Args:
        views: the views, of the loader or of methods listed before.
        of: a method, ``{name: arguments}``, that makes further views; it makes them and never trains, and those that
            its losses would read are passed (``{ClassMix: {}}`` passes the mixed images).

    Raises:
        ValueError: no view at all, an unknown method, or one that acts at test time.
    """

    def __init__(
        self, *, views: Sequence[str] = ("target",), of: Mapping[str, Mapping[str, Any]] | str | None = None
    ) -> None:
        super().__init__()
        self.made_by: Method | None = None if of is None else _build(of)
        reads = self.made_by.reads - {"source", "target"} if self.made_by is not None else frozenset()
        if isinstance(views, str) or not all(isinstance(name, str) for name in views):
            raise ValueError(f"views is {views!r}, must be a list of names")
        self.looks = frozenset(views) | reads
        if not self.looks:
            raise ValueError(f"views is {list(views)!r} and {of!r} adds none; nothing would pass")
        self.teacher = self.made_by.teacher if self.made_by is not None else None

    def setup(self, spec: TaskSpec) -> None:
        if self.made_by is not None:
            self.made_by.setup(spec)

    def prepare(self, step: Step) -> None:
        if self.made_by is not None:
            self.made_by.prepare(step)


def _build(of: Mapping[str, Mapping[str, Any]] | str) -> Method:
    from uda.methods import method  # the table of all methods

    name, arguments = (of, {}) if isinstance(of, str) else next(iter(of.items()))
    built = method(name, **(arguments or {}))
    if not isinstance(built, Method):
        raise ValueError(f"of is {name!r}, which acts at test time and passes nothing in training")
    return built
