"""Coarse labels: the probability of a group of classes is the sum of theirs.

A *group* is the train ids of the classes that a coarse one covers. In labels a group is numbered on from the classes:
with C classes, ``C + g`` is group g.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from uda.types import IGNORE

Groups = Sequence[Sequence[int]]
"""Train ids of each group, at least one; groups may overlap and need not cover every class."""


def group_log_prob(logits: Tensor, groups: Groups) -> Tensor:
    r"""Log-probabilities of groups of classes, summed as probabilities.

    $$ \log p_g = \log \sum_{c \in g} e^{\log p_c} $$

    Args:
        logits: ``(N, C, ...)``.
        groups: G groups of train ids in [0, C).

    Returns:
        ``(N, G, ...)``; finite wherever the logits are, however small a probability gets. Groups that leave classes
        out do not sum to one.

    Raises:
        ValueError: no group, an empty group, a train id that is no class or one twice in a group.

    Example:
        >>> import torch
        >>> from uda.functional import group_log_prob
        >>> logits = torch.tensor([0.5, 0.2, 0.3]).log().view(1, 3, 1, 1)
        >>> [round(value, 4) for value in group_log_prob(logits, [(0,), (1, 2)]).exp().flatten().tolist()]
        [0.5, 0.5]
    """
    if len(groups) == 0:
        raise ValueError("at least one group is needed")
    for group in groups:
        if len(group) == 0 or len(set(group)) < len(group) or not all(0 <= index < logits.shape[1] for index in group):
            raise ValueError(
                f"group {list(group)} must be different train ids, at least one, in 0..{logits.shape[1] - 1}"
            )
    log_prob = logits.log_softmax(1)
    # a single class is passed on, which is exact and has no gradient of its own
    summed = [
        log_prob[:, group[0]] if len(group) == 1 else torch.stack([log_prob[:, i] for i in group]).logsumexp(0)
        for group in groups
    ]
    return torch.stack(summed, 1)


def marginal_cross_entropy_map(logits: Tensor, labels: Tensor, groups: Groups, *, ignore_index: int = IGNORE) -> Tensor:
    r"""Cross-entropy of every pixel with labels of which some only name a group of classes.

    $$ \mathcal{L}_i = -\log \sum_{c \in g_i} p_{i,c} $$

    The marginal likelihood of a coarse label: which of the group's classes it is stays open, and the network is taught
    only that it is one of them. With a label of one class, or a group of one, this is the cross-entropy exactly. It is
    the marginal loss of Shi et al. ("Marginal loss and exclusion loss for partially supervised multi-organ
    segmentation", Medical Image Analysis 2021), who sum background and unlabelled organs so. Meletis and Dubbelman
    ("Training of convolutional networks on multiple heterogeneous datasets for street scene semantic segmentation", IV
    2018) train data sets of different grain by a classifier for each level instead, which needs a network of its own.

    Args:
        logits: ``(N, C, H, W)``.
        labels: ``(N, H, W)`` int64; C + g is group g.
        groups: G groups of train ids in [0, C); none: plain cross-entropy.
        ignore_index: label whose pixels have zero loss.

    Returns:
        ``(N, H, W)``.

    Raises:
        ValueError: as :func:`group_log_prob`, or so many groups that their ids reach ``ignore_index``.
        IndexError: a label that is neither ignored nor in [0, C + G) (on the CPU; a CUDA device asserts).

    Example:
        >>> import torch
        >>> from uda.functional import marginal_cross_entropy_map
        >>> logits, labels = torch.zeros(1, 4, 1, 3), torch.tensor([[[0, 4, 255]]])
        >>> loss = marginal_cross_entropy_map(logits, labels, groups=[(1, 2)])  # one of four, two of four, ignored
        >>> [round(value, 4) for value in loss.flatten().tolist()]
        [1.3863, 0.6931, 0.0]
    """
    if len(groups) == 0:
        return F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
    if logits.shape[1] <= ignore_index < logits.shape[1] + len(groups):
        raise ValueError(f"{logits.shape[1]} classes and {len(groups)} groups reach the ignored label {ignore_index}")
    every = torch.cat([logits.log_softmax(1), group_log_prob(logits, groups)], 1)
    return F.nll_loss(every, labels, ignore_index=ignore_index, reduction="none")
