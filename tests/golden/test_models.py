"""Networks and teacher updates against recorded values."""

from __future__ import annotations

import pytest
import torch

from uda.functional.adversarial import bce_loss
from uda.functional.entropy import self_information
from uda.models import (
    AsppHead,
    DaformerHead,
    Discriminator,
    average_slides,
    ema_alpha,
    ema_update_,
    fuse_scales,
    slide_boxes,
)
from uda.models.deeplabv2 import Bottleneck

TOL = {"rtol": 1e-4, "atol": 1e-5}


def square(logits, label):
    return (logits - label).square().mean()


@pytest.mark.golden("advent/discriminator")
def test_advent_discriminator(case):
    logits = case.t("in_logits", grad=True)
    network = Discriminator(logits.shape[1], case.scalar("param_ndf"))
    network.load_state_dict(case.weights())
    judged = network(self_information(logits.softmax(1)))
    case.check(judged, "out_d", **TOL)
    case.check(bce_loss(judged, 0), "out_loss_adv", **TOL)
    case.check(bce_loss(judged, 0) / 2, "out_loss_d_source", **TOL)
    case.check(bce_loss(judged, 1) / 2, "out_loss_d_target", **TOL)
    case.check_grad(bce_loss(judged, 0), logits, "out_grad_logits", **TOL)


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
    case.check(bce_loss(on_target, 0), "out_adv_vanilla", **TOL)
    case.check(square(on_target, 0), "out_adv_ls", **TOL)
    case.check((bce_loss(on_source, 0) + bce_loss(on_target, 1)) / 2, "out_d_loss_vanilla", **TOL)
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


@pytest.mark.golden("advent/aspp_head")
def test_aspp_head(case):
    features, weights = case.t("in_feat"), case.weights()
    head = AsppHead(features.shape[1], len(weights["conv2d_list.0.bias"]))
    head.load_state_dict(weights)
    case.check(head(features), "out", **TOL)


@pytest.mark.golden("advent/bottleneck")
def test_bottleneck(case):
    x, weights = case.t("in_x"), case.weights()
    project = any(key.startswith("downsample") for key in weights)
    block = Bottleneck(
        x.shape[1], len(weights["conv1.weight"]), case.scalar("param_stride"), case.scalar("param_dilation"), project
    )
    missing, unexpected = block.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing)
    case.check(block.eval()(x), "out_eval", **TOL)
    assert not any(p.requires_grad for name, p in block.named_parameters() if "bn" in name or "downsample.1" in name)


@pytest.mark.golden("daformer/head_forward")
def test_daformer_head(case):
    features, weights = [case.t(name) for name in case.names("in_feat_")], case.weights()
    classes, channels = weights["conv_seg.weight"].shape[:2]
    embed = len(weights["embed_layers.0.proj.bias"])
    dilations = [int(d) for d in case["param_dilations"]]
    head = DaformerHead([f.shape[1] for f in features], classes, embed, channels, dilations)
    missing, unexpected = head.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing)
    head.eval()
    case.check(head(features), "out_logits", **TOL)
    case.check(head.fuse(features), "out_fused", **TOL)


@pytest.mark.golden("hrda/slide_boxes")
def test_slide_boxes(case):
    rows = zip(case["param_img"], case["param_crop"], case["param_overlap"], strict=True)
    for index, (image, crop, overlap) in enumerate(rows):
        boxes = slide_boxes(int(image[0]), int(image[1]), (int(crop[0]), int(crop[1])), bool(overlap))
        case.check_equal(boxes, f"out_boxes_{index}")


@pytest.mark.golden("hrda/fusion")
def test_fusion(case):
    context, attention, stride = case.t("in_lr_logits"), case.t("in_att_raw"), case.scalar("param_os")
    box = tuple(int(edge) for edge in case["param_crop_box"])
    fused, attenuated = fuse_scales(context, attention, case.t("in_hr_logits_crop"), box, stride)
    case.check(fused, "out_fused_crop")
    case.check(attenuated, "out_lr_crop")
    case.check(fuse_scales(context, attention, case.t("in_hr_logits_full"), None, stride)[0], "out_fused_full")
    boxes = [tuple(int(edge) for edge in row) for row in case["param_slide_boxes"]]
    crops = case.t("in_hr_logits_slide").chunk(len(boxes))
    size = (2 * context.shape[-2], 2 * context.shape[-1])
    detail = average_slides(crops, boxes, stride, size)
    case.check(detail, "out_hr_slide")
    case.check(fuse_scales(context, attention, detail, None, stride)[0], "out_fused_slide")
