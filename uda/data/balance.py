"""Labelled data sets as one, by how often each is to be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, get_args

from uda.data.mixture import Mixture
from uda.types import LabelledDataset

Balance = Literal["image", "domain", "weight"]
"""``image``: every image equally often, so a data set as often as it is large; ``domain``: every data set equally
often; ``weight``: every data set as often as its weight says."""


def balanced(parts: Sequence[tuple[LabelledDataset, float]], balance: Balance = "image") -> Mixture:
    """A mixture of data sets that are drawn as often as a rule says.

    Args:
        parts: (data set, weight) pairs in one label space. A weight scales the loss of its data set's samples; with
            ``balance="weight"`` it says how often they are drawn instead, and the loss is left alone.
        balance: the rule. Whoever goes through the samples meets each once; only training draws by it.

    Raises:
        ValueError: an unknown rule, or what :class:`~uda.data.Mixture` refuses; by weight, a weight of 0.
    """
    if balance not in get_args(Balance):
        raise ValueError(f"balance must be one of {', '.join(get_args(Balance))}, not {balance!r}")
    if balance == "image" or not parts:
        return Mixture(parts)
    if balance == "domain":
        return Mixture(parts, shares=[Fraction(1, len(parts))] * len(parts))
    total = sum(weight for _, weight in parts)
    return Mixture([(dataset, 1.0) for dataset, _ in parts], shares=[weight / total for _, weight in parts])
