"""A model of fine classes scored in a coarser label space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from uda.data.classes import LabelSpace
from uda.data.label_spaces import label_space
from uda.engine.scoring import most_probable
from uda.functional.groups import group_log_prob

if TYPE_CHECKING:
    from torch import Tensor

How = Literal["sum", "argmax"]


@dataclass(frozen=True)
class Merging:
    """How the predictions and labels of one space become those of a coarser one; made by :meth:`of`.

    Args:
        old: the model's classes.
        new: the coarse classes.
        groups: the model's train ids of each coarse class.
        how: ``"sum"``: the coarse class of the highest summed probability, the decision with the fewest errors if the
            probabilities are right; ``"argmax"``: the class of the most probable fine class. They differ where several
            fine classes share what another has more of than each.
    """

    old: LabelSpace
    new: LabelSpace
    groups: tuple[tuple[int, ...], ...]
    how: How = "sum"

    @classmethod
    def of(cls, old: LabelSpace, new: LabelSpace | str, how: How = "sum") -> Merging:
        """The merging of one space's classes to another's, by names and members (:meth:`LabelSpace.mapping_to`).

        A class of ``old`` that has nothing in common with any of ``new`` is left out: it is never predicted, whatever
        its probability.

        Raises:
            ValueError: a class of ``old`` that lies in several of ``new``, one of ``new`` that no class of ``old`` is
                in, an unknown space or another way than the two.
        """
        new = label_space(new)
        if how not in ("sum", "argmax"):
            raise ValueError(f"merging is {how!r}, must be 'sum' or 'argmax'")
        mapping = old.mapping_to(new)
        for name in mapping.dropped:
            members = set(old.classes[old.index(name)].members)
            touched = [new_class.name for new_class in new.classes if members & set(new_class.members)]
            if touched:
                raise ValueError(
                    f"{name!r} of {old.name!r} is in no single class of {new.name!r} (it overlaps "
                    f"{', '.join(map(repr, touched))}), so the one cannot be merged to the other"
                )
        if mapping.missing:
            raise ValueError(f"no class of {old.name!r} is in {mapping.missing[0]!r} of {new.name!r}")
        table = mapping.table[: old.num_classes].tolist()
        return cls(
            old, new, tuple(tuple(i for i, to in enumerate(table) if to == g) for g in range(new.num_classes)), how
        )

    def scores(self, logits: Tensor) -> Tensor:
        """Log-probabilities ``(N, G, h, w)`` of the coarse classes, of logits ``(N, C, h, w)``."""
        return group_log_prob(logits.float(), self.groups)

    def predict(self, logits: Tensor) -> Tensor:
        """Coarse train ids ``(N, h, w)`` of logits ``(N, C, h, w)``; the first of equal ones."""
        if self.how == "sum":
            scores = self.scores(logits)
        else:
            scores = torch.stack([logits[:, list(group)].amax(1) for group in self.groups], 1)
        return torch.stack([most_probable(image) for image in scores]).long()

    def dataset(self, dataset: Any) -> Any:
        """A data set in the coarse space; a reader's files are mapped to it directly, so that nothing is lost on the
        way (CamVid has no Cityscapes classes, and both have their categories).

        Raises:
            ValueError: its classes do not map.
            TypeError: it can be mapped to no other space.
        """
        if tuple(dataset.space.names) == self.new.names:
            return dataset
        if not hasattr(dataset, "remap"):
            raise TypeError(f"{dataset.name} ({type(dataset).__name__}) cannot be mapped to {self.new.name!r}")
        return dataset.remap(self.new)
