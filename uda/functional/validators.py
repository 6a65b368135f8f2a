"""Scores of a model on unlabelled target data; higher is better.

They take samples, ``(N, C)`` logits and ``(N, D)`` features; for segmentation draw a subset of the pixels.
Definitions as in pytorch-adapt (Musgrave et al. 2022). scikit-learn is imported only where it is used.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from uda.functional.entropy import softmax_entropy


def entropy_score(logits: Tensor) -> float:
    """Minus the mean entropy of the predictions, in nats.

    Args:
        logits: ``(N, C)``.

    Example:
        >>> import torch
        >>> from uda.functional import entropy_score
        >>> round(entropy_score(torch.zeros(4, 2)), 4)  # -ln 2
        -0.6931
    """
    return -float(softmax_entropy(logits.double()).mean())


def diversity_score(logits: Tensor) -> float:
    """Entropy of the mean prediction, in nats: low when the model predicts few classes.

    Args:
        logits: ``(N, C)``.

    Example:
        >>> import torch
        >>> from uda.functional import diversity_score
        >>> round(diversity_score(torch.zeros(4, 2)), 4)  # ln 2
        0.6931
    """
    return float(torch.special.entr(logits.double().softmax(1).mean(0)).sum())


def information_score(logits: Tensor) -> float:
    """Information maximisation: :func:`entropy_score` plus :func:`diversity_score`.

    Args:
        logits: ``(N, C)``.

    Example:
        >>> import torch
        >>> from uda.functional import information_score
        >>> round(information_score(99 * torch.eye(2)), 4)  # certain and diverse: 0 + ln 2
        0.6931
    """
    return entropy_score(logits) + diversity_score(logits)


def nuclear_norm_score(logits: Tensor) -> float:
    """Batch nuclear norm (BNM, Cui et al. 2020): nuclear norm of the ``(N, C)`` softmax matrix over N.

    Args:
        logits: ``(N, C)``.

    Example:
        >>> import torch
        >>> from uda.functional import nuclear_norm_score
        >>> round(nuclear_norm_score(99 * torch.eye(2)), 4)
        1.0
    """
    prob = logits.double().softmax(1)
    return float(torch.linalg.svdvals(prob).sum()) / len(prob)


def neighbourhood_density(rows: Tensor, *, temperature: float = 0.05) -> float:
    """Soft neighbourhood density (SND, Saito et al. 2021): mean entropy of each row's softmax over its similarities.

    Args:
        rows: ``(N, D)``, softmax predictions (the default of the paper) or features; memory grows with N^2.
        temperature: divides the cosine similarities.

    Example:
        >>> import torch
        >>> from uda.functional import neighbourhood_density
        >>> round(neighbourhood_density(torch.ones(6, 3)), 4)  # five equal neighbours: ln 5
        1.6094
    """
    unit = F.normalize(rows.double(), dim=1)
    similarity = unit @ unit.T / temperature
    similarity.fill_diagonal_(-torch.inf)  # a row is no neighbour of its own
    return float(torch.special.entr(similarity.softmax(1)).sum(1).mean())


def deep_embedded_risk(weights: Tensor, errors: Tensor, *, normalisation: str | None = None) -> float:
    """Risk of deep embedded validation (DEV, You et al. 2019), lower is better: the score is its negative.

    mean(w e) + eta mean(w) - eta, eta = -cov(w e, w) / var(w): the importance-weighted source validation error with a
    control variate.

    Args:
        weights: ``(M,)`` or ``(M, 1)`` density ratios p(target) / p(source) * N_source / N_target of a domain
            classifier on source validation samples.
        errors: of the same samples, same shape.
        normalisation: of the weights: ``None``; ``"max"``: over their maximum, then shifted to mean 1;
            ``"standardize"``: to mean 1 and standard deviation 1.

    Raises:
        ValueError: unknown normalisation, or fewer than two samples.

    Example:
        >>> import torch
        >>> from uda.functional import deep_embedded_risk
        >>> round(deep_embedded_risk(torch.ones(4), torch.tensor([0.0, 1.0, 0.0, 1.0])), 4)  # equal weights: the mean
        0.5
    """
    w, e = weights.double().flatten(), errors.double().flatten()
    if len(w) < 2:
        raise ValueError(f"at least two samples are needed, got {len(w)}")
    if normalisation == "max":
        w = w / w.max()
        w = w - w.mean() + 1
    elif normalisation == "standardize":
        w = (w - w.mean()) / w.std(correction=0) + 1
    elif normalisation is not None:
        raise ValueError(f"normalisation must be None, 'max' or 'standardize', got {normalisation!r}")
    weighted = w * e
    covariance = torch.cov(torch.stack([weighted, w]))
    # equal weights (variance 0) leave nothing for the control variate to correct
    eta = -covariance[0, 1] / covariance[1, 1] if covariance[1, 1] > 0 else torch.zeros_like(w[0])
    return float(weighted.mean() + eta * w.mean() - eta)


def class_cluster_score(features: Tensor, logits: Tensor) -> float:
    """Adjusted mutual information of the predicted labels and k-means clusters that start at the class means.

    Args:
        features: ``(N, D)``.
        logits: ``(N, C)``; there are as many clusters as predicted classes.

    Example:
        >>> import torch
        >>> from uda.functional import class_cluster_score
        >>> logits = torch.eye(2).repeat(4, 1)
        >>> round(class_cluster_score(10 * logits, logits), 4)  # clusters are the classes
        1.0
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_mutual_info_score

    labels = logits.argmax(1).cpu().numpy()
    points = features.detach().cpu().double().numpy()
    centres = np.stack([points[labels == c].mean(0) for c in np.unique(labels)])
    clusters = KMeans(len(centres), init=centres, n_init=1, random_state=0).fit_predict(points)
    return float(adjusted_mutual_info_score(labels, clusters))
