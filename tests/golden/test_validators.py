"""Unsupervised validation scores against recorded values."""

from __future__ import annotations

import pytest

from uda.functional.validators import (
    class_cluster_score,
    deep_embedded_risk,
    diversity_score,
    entropy_score,
    information_score,
    neighbourhood_density,
    nuclear_norm_score,
)


@pytest.mark.golden("validators/unsupervised")
def test_scores(case):
    logits, features = case.t("in_logits"), case.t("in_features")
    weights, errors = case.t("in_dev_weight"), case.t("in_dev_error")
    temperature = case.scalar("param_snd_T")
    scores = {
        "out_entropy": entropy_score(logits),
        "out_diversity": diversity_score(logits),
        "out_im": information_score(logits),
        "out_bnm": nuclear_norm_score(logits),
        "out_snd": neighbourhood_density(logits.softmax(1), temperature=temperature),
        "out_snd_features": neighbourhood_density(features, temperature=temperature),
        "out_dev_risk": deep_embedded_risk(weights, errors),
        "out_dev_risk_max": deep_embedded_risk(weights, errors, normalisation="max"),
        "out_dev_risk_standardize": deep_embedded_risk(weights, errors, normalisation="standardize"),
        "out_class_cluster_ami": class_cluster_score(features, logits),
    }
    for name, score in scores.items():
        case.check(score, name, rtol=1e-4, atol=1e-5)
