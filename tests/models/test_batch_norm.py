"""How batch norm treats the domains: which statistics move, which serve, and that nothing else changes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from uda.engine import Trainer, Update, evaluate
from uda.methods import ClassMix, MinEnt, PassOnly, Supervised
from uda.methods.base import Method
from uda.models import add_target_norms, normalising
from uda.models.batch_norm import needs_target_norms
from uda.testing import TinyDataset, TinySegmenter, assert_same, tiny_target
from uda.testing.methods import Killed, Recorder, killed_at, settings, train
from uda.types import TaskSpec, View


def statistics(model: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    ends = (f".{prefix}running_mean", f".{prefix}running_var")
    return {name: value.clone() for name, value in model.state_dict().items() if name.endswith(ends)}


def run(*methods: Method, **changes: object) -> Trainer:
    """Without dropout, whose random numbers would tell runs with and without target images apart."""
    return train([Supervised(), *methods], trainer=Recorder, dropout=0.0, **changes)  # type: ignore[arg-type]


def test_a_run_without_target_images_is_the_same_in_every_treatment_but_frozen() -> None:
    plain = run(batch_norm="shared")
    for treatment in ("source", "per_domain"):
        assert_same(run(batch_norm=treatment).model.state_dict(), plain.model.state_dict())
    assert not needs_target_norms(plain.model.state_dict())


def test_passing_moves_shared_statistics_and_nothing_else() -> None:
    source_only, passed = run(), run(PassOnly())
    assert_same(dict(source_only.model.named_parameters()), dict(passed.model.named_parameters()))
    for name, value in statistics(source_only.model).items():
        assert not torch.equal(value, statistics(passed.model)[name]), name


def test_source_keeps_the_targets_out_of_the_stored_statistics() -> None:
    source_only, passed = run(), run(PassOnly(), batch_norm="source")
    assert_same(statistics(source_only.model), statistics(passed.model))
    momentum = [layer.momentum for layer in passed.model.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert momentum == [0.1, 0.1]


def test_source_still_normalises_target_images_with_their_batch() -> None:
    torch.manual_seed(0)
    model, images = TinySegmenter(dropout=0.0).train(), torch.rand(2, 3, 32, 64)
    with normalising(model, "target", "source"):
        within = model(images).logits
    torch.testing.assert_close(within, model(images).logits)


def test_frozen_statistics_serve_and_stay() -> None:
    torch.manual_seed(0)
    start = statistics(TinySegmenter())
    frozen = run(MinEnt(), batch_norm="frozen")
    assert_same(statistics(frozen.model), start)
    assert frozen.model.training
    assert all(layer.training for layer in frozen.model.modules()), "dropout is no batch norm"
    scale = frozen.model.stem[1].weight
    assert not torch.equal(scale, torch.ones_like(scale)), "scale and shift train on"


def test_each_domain_moves_its_own_set() -> None:
    """The source's statistics are those of source-only; the target's are of the target alone, by hand."""
    source_only, both = run(steps=1), run(PassOnly(), batch_norm="per_domain", steps=1)
    assert_same(statistics(source_only.model), statistics(both.model))
    torch.manual_seed(0)
    by_hand = TinySegmenter().train()
    step = both.steps[0]  # type: ignore[attr-defined]
    with torch.no_grad():
        by_hand(step.view("target").images)
    theirs = statistics(both.model, "target_")
    for name, value in statistics(by_hand).items():
        front, _, end = name.rpartition(".")
        torch.testing.assert_close(theirs[f"{front}.target_{end}"], value)


def test_each_domain_trains_its_own_scale_and_shift() -> None:
    trained = run(MinEnt(weight=1.0), batch_norm="per_domain", steps=3)
    layer = trained.model.stem[1]
    assert not torch.equal(layer.target_weight, torch.ones_like(layer.target_weight))
    assert not torch.equal(layer.target_weight, layer.weight)
    source_only = run(PassOnly(), batch_norm="per_domain", steps=3)
    assert torch.equal(source_only.model.stem[1].target_weight, torch.ones_like(layer.weight)), "no loss, no step"


def test_evaluation_uses_the_set_that_fits() -> None:
    trained = run(MinEnt(), batch_norm="per_domain", steps=3)
    target = tiny_target()
    by_domain = {domain: evaluate(trained.model, target, domain=domain) for domain in ("source", "target")}
    assert (by_domain["source"].losses != by_domain["target"].losses).any()
    # what a plain network with the target's set in place says
    plain = TinySegmenter()
    state = trained.model.state_dict()
    plain.load_state_dict({name: state.get(_target_name(name), value) for name, value in state.items()}, strict=False)
    assert (evaluate(plain, target).confusions == by_domain["target"].confusions).all()


def _target_name(name: str) -> str:
    front, dot, end = name.rpartition(".")
    return f"{front}{dot}target_{end}"


def test_trainer_scores_the_source_with_its_own_set() -> None:
    domains = {"source": TinyDataset(), "target": tiny_target()}
    torch.manual_seed(0)
    trainer = Trainer(TinySegmenter(), [Supervised(), MinEnt()], settings(batch_norm="per_domain"), evaluate_on=domains)
    trainer.fit(TinyDataset(), tiny_target())
    for name, dataset in domains.items():
        expected = evaluate(trainer.model, dataset, domain=name)  # type: ignore[arg-type]
        assert (trainer.evaluations[name].confusions == expected.confusions).all()
    other = evaluate(trainer.model, domains["source"], domain="target")
    assert (trainer.evaluations["source"].losses != other.losses).any()


def test_the_teacher_has_the_targets_set_too() -> None:
    trained = run(ClassMix(), batch_norm="per_domain", steps=3)
    teacher = trained.update.teacher
    assert teacher is not None
    assert needs_target_norms(teacher.state_dict())
    images = torch.rand(2, 3, 32, 64)
    view = View(images)
    with normalising(teacher, "target"), torch.no_grad():
        expected = teacher(images).logits
    assert torch.equal(trained.update.teach("target", view).logits, expected)
    assert torch.equal(trained.update.teach("mixed", view).logits, expected)
    assert not torch.equal(trained.update.teach("source", view).logits, expected)


@pytest.mark.parametrize("treatment", ["frozen", "source", "per_domain"])
def test_resumes_to_the_same_numbers(tmp_path: Path, treatment: str) -> None:
    def methods() -> list[Method]:
        return [Supervised(), MinEnt(), ClassMix()]

    whole = train(methods(), out=tmp_path / "whole", steps=4, batch_norm=treatment)
    with pytest.raises(Killed):
        train(methods(), out=tmp_path / "cut", steps=4, batch_norm=treatment, progress=killed_at(2))
    torch.manual_seed(99)
    cut = Trainer(TinySegmenter(), methods(), settings(steps=4, batch_norm=treatment), out=tmp_path / "cut")
    cut.fit(TinyDataset(), tiny_target())
    assert_same(whole.state_dict(), cut.state_dict())


def test_layers_are_as_before_after_an_error_and_inside_one_another() -> None:
    torch.manual_seed(0)
    model = TinySegmenter()
    add_target_norms(model)
    add_target_norms(model)
    nn.init.constant_(model.stem[1].target_weight, 3.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with normalising(model, "target"):
        assert (model.stem[1].weight == 3).all()
        with normalising(model, "target"):
            assert (model.stem[1].weight == 3).all(), "once is enough"
        with normalising(model, "source"):
            assert (model.stem[1].weight == 1).all()
        assert (model.stem[1].weight == 3).all()
    with pytest.raises(ValueError, match="expected 4D"), normalising(model, "target", "frozen"):
        model.stem[1](torch.rand(1, 4))
    assert model.stem[1].training
    assert_same(dict(model.state_dict()), before)


def test_an_optimiser_that_misses_the_targets_parameters_is_refused() -> None:
    model = TinySegmenter()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    spec = TaskSpec.of(model, TinyDataset().space, source=TinyDataset(), target=tiny_target())
    update = Update(model, [Supervised(), MinEnt()], total_steps=1, optimizer=optimizer, batch_norm="per_domain")
    with pytest.raises(ValueError, match=r"call uda[.]models[.]add_target_norms"):
        update.setup(spec)
    model = TinySegmenter()
    made = partial(torch.optim.SGD, lr=0.1)
    Update(model, [Supervised(), MinEnt()], total_steps=1, optimizer=made, batch_norm="per_domain").setup(spec)
    with pytest.raises(ValueError, match="batch_norm is 'both', must be one of 'shared', 'frozen'"):
        Update(model, [Supervised()], total_steps=1, batch_norm="both")
