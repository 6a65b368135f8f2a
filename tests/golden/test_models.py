"""Networks and teacher updates against recorded values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from uda.models.discriminator import Discriminator
from uda.models.teacher import ema_alpha, ema_update_

TOL = {"rtol": 1e-4, "atol": 1e-5}


def bce(logits, label):
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def square(logits, label):
    return (logits - label).square().mean()


@pytest.mark.golden("advent/discriminator")
def test_advent_discriminator(case):
    logits = case.t("in_logits", grad=True)
    network = Discriminator(logits.shape[1], case.scalar("param_ndf"))
    network.load_state_dict(case.weights())
    probabilities = logits.softmax(1)
    information = -probabilities * torch.log2(probabilities + 1e-30) / np.log2(logits.shape[1])
    judged = network(information)
    case.check(judged, "out_d", **TOL)
    case.check(bce(judged, 0), "out_loss_adv", **TOL)
    case.check(bce(judged, 0) / 2, "out_loss_d_source", **TOL)
    case.check(bce(judged, 1) / 2, "out_loss_d_target", **TOL)
    case.check_grad(bce(judged, 0), logits, "out_grad_logits", **TOL)


@pytest.mark.golden("adaptsegnet/discriminator")
def test_adaptsegnet_discriminator(case):
    source, target = case.t("in_logits_source"), case.t("in_logits_target", grad=True)
    network = Discriminator(source.shape[1], case.scalar("param_ndf"))
    names = {"conv1": "0", "conv2": "2", "conv3": "4", "conv4": "6", "classifier": "8"}
    renamed = {f"{names[key.split('.')[0]]}.{key.split('.')[1]}": value for key, value in case.weights().items()}
    network.load_state_dict(renamed)
    on_source, on_target = network(source.softmax(1)), network(target.softmax(1))
    case.check(on_source, "out_d_source", **TOL)
    case.check(on_target, "out_d_target", **TOL)
    case.check(bce(on_target, 0), "out_adv_vanilla", **TOL)
    case.check(square(on_target, 0), "out_adv_ls", **TOL)
    case.check((bce(on_source, 0) + bce(on_target, 1)) / 2, "out_d_loss_vanilla", **TOL)
    case.check((square(on_source, 0) + square(on_target, 1)) / 2, "out_d_loss_ls", **TOL)
    case.check_grad(square(on_target, 0), target, "out_grad_adv_ls", **TOL)


def replay(case):
    """The teacher after each recorded update, and the ramp."""
    teacher, after, alphas = case.t("in_teacher0"), [], []
    for index, student in zip(case["in_iter"], case.t("in_student"), strict=True):
        alphas.append(ema_alpha(int(index), case.scalar("param_alpha")))
        ema_update_([teacher], [student], alphas[-1])
        after.append(teacher.clone())
    return torch.stack(after), alphas


@pytest.mark.golden("dacs/ema_update")
def test_dacs_ema_update(case):
    teacher, alphas = replay(case)
    case.check(teacher, "out_teacher")
    case.check(alphas, "out_alpha")


@pytest.mark.golden("daformer/ema_update")
def test_daformer_ema_update(case):
    teacher, _ = replay(case)
    case.check(teacher, "out_teacher")
