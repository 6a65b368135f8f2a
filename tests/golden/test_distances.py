"""Domain distances against Transfer-Learning-Library, pytorch-adapt and POT."""

from __future__ import annotations

import pytest

from uda.functional import distances


@pytest.mark.golden("distances/domain")
def test_domain(case):
    x, y, big = case.t("in_x", grad=True), case.t("in_y"), case.t("in_y_big")
    alphas, projections = case["param_alphas"].tolist(), case.t("in_projections")
    loss = distances.mkmmd(x, y, alphas)
    tolerance = {"rtol": 1e-4, "atol": 1e-5}
    case.check(loss, "out_mkmmd", **tolerance)
    case.check_grad(loss, x, "out_mkmmd_grad_x", **tolerance)
    case.check(distances.mkmmd(x, y, alphas, linear=True), "out_mkmmd_linear", **tolerance)
    case.check(distances.coral(x, y), "out_coral_paper", **tolerance)
    case.check(distances.coral_tllib(x, y), "out_coral_tllib", **tolerance)
    case.check(distances.mmd(x, big), "out_mmd_padapt_quadratic", **tolerance)
    case.check(distances.mmd(x, y, linear=True), "out_mmd_padapt_linear", **tolerance)
    for name, other in (("", y), ("_big", big)):
        sliced = distances.sliced_wasserstein(x.double(), other.double(), projections)
        case.check(sliced, f"out_sliced_wasserstein{name}", rtol=1e-7, atol=0)
        case.check(distances.frechet(x, other), f"out_frechet{name}", rtol=1e-7, atol=0)
    case.check(distances.a_distance(case.t("in_domain_error")), "out_a_distance", **tolerance)
