"""The step's promises that no method's test sees: errors, and gradients that end at the outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from uda.step import Step
from uda.testing.tiny import TinySegmenter
from uda.types import View


@pytest.fixture
def model() -> TinySegmenter:
    return TinySegmenter(dropout=0.0, aux=True)


def make(model: nn.Module, **options: Any) -> Step:
    views = {"source": View(torch.rand(2, 3, 32, 64)), "target": View(torch.rand(2, 3, 32, 64))}
    return Step(model, views, index=3, total=12, generator=torch.Generator(), **options)


def test_progress(model: TinySegmenter) -> None:
    assert make(model).progress == 0.25


def test_gradient_through_the_leaves_is_that_of_the_plain_graph(model: TinySegmenter) -> None:
    step = make(model, kept_views={"source"})
    parameters = list(model.parameters())
    output = model(step.view("source").images)
    losses = (output.logits.square().mean(), output.aux.sin().mean() + output.features.exp().mean())
    expected = torch.autograd.grad(sum(losses), parameters)
    predicted = step.predict("source")
    predicted.logits.square().mean().backward()
    (predicted.aux.sin().mean() + predicted.features.exp().mean()).backward()
    assert all(p.grad is None for p in parameters), "nothing goes through the network before the release"
    roots, gradients = step.release(["source", "target"])
    torch.autograd.backward(roots, gradients, inputs=parameters)
    for p, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)
    torch.testing.assert_close(step.detached("source").logits, output.logits)


def test_unknown_view_names_those_there_are(model: TinySegmenter) -> None:
    with pytest.raises(KeyError, match="no view 'mixed' in this step, only source, target"):
        make(model).view("mixed")


def test_view_is_not_replaced_once_somebody_looked(model: TinySegmenter) -> None:
    step = make(model, teacher=lambda name, view: model(view.images))
    step.teach("target")
    step.predict("source")
    step.forget_taught()
    for name in ("source", "target"):
        with pytest.raises(RuntimeError, match=f"view '{name}' was already predicted"):
            step.put(name, step.view(name))


def test_method_predicts_only_what_it_reads(model: TinySegmenter) -> None:
    step = make(model)
    with step.running("Mine", "losses", {"target"}):
        with pytest.raises(RuntimeError, match=r"Mine predicts 'source' .* \['target'\]"):
            step.predict("source")
        step.predict("target")
    with step.running("Mine", "prepare", {"target"}), pytest.raises(RuntimeError, match=r"in prepare\(\)"):
        step.predict("target")


def test_method_looks_only_at_what_it_says(model: TinySegmenter) -> None:
    step = make(model)
    with step.running("Mine", "own_losses", {"target"}, {"source"}):
        step.detached("source")
        with pytest.raises(RuntimeError, match=r"Mine looks at 'target' in own_losses.*looks are \['source'\]"):
            step.detached("target")
    with step.running("Mine", "losses", {"target"}, ()):
        step.detached("target")


def test_nothing_is_made_after_the_update(model: TinySegmenter) -> None:
    step = make(model, kept_views={"source"})
    step.detached("source")
    step.close()
    passes = len(model.passes)
    step.detached("source")
    with pytest.raises(RuntimeError, match="the output of view 'target' is gone"):
        step.detached("target")
    assert len(model.passes) == passes


def test_numbers_that_nobody_looks_at_go_with_their_graph(model: TinySegmenter) -> None:
    step = make(model)
    step.predict("source")
    step.release(["source"])
    with pytest.raises(RuntimeError, match="is gone; list the view in looks"):
        step.detached("source")


def test_features_of_a_frozen_part_take_no_gradient(model: TinySegmenter) -> None:
    model.stem.requires_grad_(False)
    model.body.requires_grad_(False)
    output = make(model).predict("source")
    assert output.logits.requires_grad
    assert not output.features.requires_grad


def test_logs_name_their_method_and_do_not_hide_each_other(model: TinySegmenter) -> None:
    step = make(model)
    with step.running("Mine", "losses"):
        step.log("pseudo_label/coverage", 0.5)
        step.log("cells", 3)
        with pytest.raises(RuntimeError, match="'Mine/cells' is logged twice"):
            step.log("cells", 4)
    with step.running("Mine2", "losses"):
        step.log("pseudo_label/coverage", 0.25)
    assert {name: float(value) for name, value in step.logs.items()} == {
        "pseudo_label/Mine/coverage": 0.5, "Mine/cells": 3, "pseudo_label/Mine2/coverage": 0.25,
    }  # fmt: skip
    quiet = make(model, logging=False)
    quiet.log("cells", 3)
    assert not quiet.logs


def test_output_survives_torchs_and_pythons_copies(model: TinySegmenter) -> None:
    output = make(model).predict("source")
    again = type(output)(*output)
    assert again.extra is output.extra
    mapped = tree_map(lambda tensor: tensor * 2, output)
    torch.testing.assert_close(mapped.get("decoder"), output.get("decoder") * 2)
    assert [x.shape for x in output.tensors()] == [x.shape for x in tree_leaves(output)]
    with pytest.raises(KeyError, match="gives no 'layer4'; extra tensors: decoder, detail"):
        output.get("layer4")


def test_released_graph_is_not_built_again(model: TinySegmenter) -> None:
    step = make(model)
    step.predict("source")
    step.release(["source"])
    with pytest.raises(RuntimeError, match="was released; use detached"):
        step.predict("source")


def test_teacher_must_be_asked_for(model: TinySegmenter) -> None:
    with pytest.raises(RuntimeError, match="sets teacher = TeacherSpec"):
        make(model).teach("target")
    step = make(model, teacher=lambda name, view: model(view.images))
    step.teach("target")
    step.forget_taught()
    with pytest.raises(RuntimeError, match="teacher_in_losses = True"):
        step.teach("target")


def test_detached_shares_the_pass_of_a_view_that_is_predicted(model: TinySegmenter) -> None:
    step = make(model, graph_views={"source"})
    step.detached("source")
    step.predict("source")
    step.detached("target")
    step.detached("target")
    assert len(model.passes) == 2
