"""The step's promises that no method's test sees: errors, and gradients that end at the outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.methods.tiny import TinySegmenter
from uda.step import Step
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
    step = make(model)
    parameters = list(model.parameters())
    output = model(step.view("source").images)
    losses = (output.logits.square().mean(), output.aux.sin().mean() + output.features.exp().mean())
    expected = torch.autograd.grad(sum(losses), parameters)
    predicted = step.predict("source")
    predicted.logits.square().mean().backward()
    (predicted.aux.sin().mean() + predicted.features.exp().mean()).backward()
    assert all(p.grad is None for p in parameters), "nothing goes through the network before backward()"
    step.backward(["source", "target"], parameters)
    for p, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)
    torch.testing.assert_close(step.detached("source").logits, output.logits)


def test_unknown_view_names_those_there_are(model: TinySegmenter) -> None:
    with pytest.raises(KeyError, match="no view 'mixed' in this step; there are: source, target"):
        make(model).view("mixed")


def test_view_is_not_replaced_once_somebody_looked(model: TinySegmenter) -> None:
    step = make(model, teacher=model)
    step.teach("target")
    step.predict("source")
    step.forget_taught()
    for name in ("source", "target"):
        with pytest.raises(RuntimeError, match=f"view '{name}' was already predicted"):
            step.put(name, step.view(name))


def test_method_predicts_only_what_it_reads(model: TinySegmenter) -> None:
    step = make(model)
    with step.reading("Mine", {"target"}), pytest.raises(RuntimeError, match=r"Mine predicts 'source' .* \['target'\]"):
        step.predict("source")


def test_released_graph_is_not_built_again(model: TinySegmenter) -> None:
    step = make(model)
    step.predict("source")
    step.backward(["source"], list(model.parameters()))
    with pytest.raises(RuntimeError, match="was released; use detached"):
        step.predict("source")


def test_teacher_must_be_asked_for(model: TinySegmenter) -> None:
    with pytest.raises(RuntimeError, match="needs_teacher = True"):
        make(model).teach("target")
    step = make(model, teacher=model)
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
