"""One optimiser step: what trains, what is refused, what can be given, and that the caller keeps the loop."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, ReduceLROnPlateau, StepLR

from uda.engine import NonFiniteLoss, Update, poly
from uda.methods import L1, L2SP, AdvEnt, ClassMix, MinEnt, Supervised
from uda.methods.base import Method
from uda.step import Step
from uda.testing import TinyDataset, TinySegmenter, TinyUnlabelled, assert_same, tiny_target
from uda.types import IGNORE, TaskSpec, TeacherSpec, View

SPACE = TinyDataset().space


def task(model: nn.Module) -> TaskSpec:
    return TaskSpec.of(model, SPACE, source=TinyDataset(), target=tiny_target(), draws_source=True)


def make(*methods: Method, model: nn.Module | None = None, **options: Any) -> Update:
    torch.manual_seed(0)
    network = model or TinySegmenter(dropout=0.0)
    update = Update(network, methods or [Supervised()], **{"total_steps": 4, "seed": 3, **options})
    update.setup(task(network))
    return update


def batch(index: int = 0, count: int = 2) -> dict[str, View]:
    source, target = TinyDataset(), tiny_target()
    at = [(index * count + offset) % 6 for offset in range(count)]
    labels = torch.stack([source[i].label for i in at])
    return {
        "source": View(
            torch.stack([source[i].image for i in at]) / 255, labels, names=tuple(source.names[i] for i in at)
        ),
        "target": View(torch.stack([target[i].image for i in at]) / 255),
    }


def weights(update: Update) -> Tensor:
    return torch.cat([p.detach().flatten() for p in update.model.parameters()])


class Penalty(Method):
    """A term on the weights, as L2-SP is one."""

    needs_target = False

    def setup(self, spec: TaskSpec) -> None:
        self.network = (spec.model,)

    def losses(self, step: Step) -> dict[str, Tensor]:
        return {"squares": torch.stack([p.square().sum() for p in self.network[0].parameters()]).sum()}


class OwnPass(Penalty):
    """A forward of the network that is the method's own."""

    def losses(self, step: Step) -> dict[str, Tensor]:
        return {"own": self.network[0](step.view("source").images).logits.square().mean()}


class Hooked(Method):
    """Looks at an inner layer by a hook, beside a loss on the output or alone."""

    reads = frozenset({"source"})
    needs_target = False

    def __init__(self, *, beside: bool = False) -> None:
        super().__init__()
        self.beside = beside

    def setup(self, spec: TaskSpec) -> None:
        self.seen: list[Tensor] = []
        spec.model.stem.register_forward_hook(lambda module, inputs, output: self.seen.append(output))

    def losses(self, step: Step) -> dict[str, Tensor]:
        output = step.predict("source")
        terms = {"layer": self.seen[-1].square().mean()}
        return {**terms, "output": output.logits.square().mean()} if self.beside else terms


# ---- what trains ----------------------------------------------------------------------------------------------------


def test_a_penalty_on_the_weights_trains() -> None:
    update = make(Penalty(), optimizer=partial(torch.optim.SGD, lr=0.01), schedule=lambda step: 1.0)
    before = weights(update)
    logs = update(batch())
    torch.testing.assert_close(weights(update), before * 0.98)
    assert logs["gradient_norm"] > 0
    torch.testing.assert_close(logs["gradient_norm"], 2 * before.norm())


def test_a_pass_of_the_methods_own_trains() -> None:
    update = make(OwnPass(), optimizer=partial(torch.optim.SGD, lr=0.01))
    reference = copy.deepcopy(update.model)
    reference(batch()["source"].images).logits.square().mean().backward()
    before = weights(update)
    update(batch())
    for p, expected in zip(update.model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p.grad, expected.grad)
    assert not torch.equal(weights(update), before)


@pytest.mark.parametrize("beside", [False, True])
def test_a_hooked_layer_trains_alone_and_beside_a_loss_on_the_output(beside: bool) -> None:
    """Both ways meet inside the network, whose graph is gone through once."""
    update = make(Supervised(), Hooked(beside=beside))
    reference, caught = copy.deepcopy(update.model), []
    for hooks in (module._forward_hooks for module in reference.modules()):
        hooks.clear()
    reference.stem.register_forward_hook(lambda module, inputs, output: caught.append(output))
    views = batch()
    logits = reference(views["source"].images).logits
    loss = F.cross_entropy(logits, views["source"].labels, ignore_index=IGNORE) + caught[-1].square().mean()
    (loss + logits.square().mean() if beside else loss).backward()
    update(views)
    for p, expected in zip(update.model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p.grad, expected.grad, rtol=1e-4, atol=1e-6)


def test_a_hook_into_a_pass_that_is_over_is_explained() -> None:
    class Late(Hooked):
        reads = frozenset({"target"})

        def losses(self, step: Step) -> dict[str, Tensor]:
            return {"layer": self.seen[0].square().mean()}

    update = make(Supervised(), Late())
    with pytest.raises(RuntimeError, match=r"a loss of Late goes through .* lists the view in its reads"):
        update(batch())


def test_regularisers_of_the_library_are_their_formulas() -> None:
    model = TinySegmenter(dropout=0.0)
    update = make(L1(weight=0.1), L2SP(weight=0.4, part="all"), model=model, optimizer=partial(torch.optim.SGD, lr=0.1))
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    logs = update(batch())
    decayed = [name for name, p in start.items() if p.ndim > 1]
    torch.testing.assert_close(logs["loss/L1/weights"], 0.1 * sum(start[name].abs().sum() for name in decayed))
    assert logs["loss/L2SP/distance"] == 0
    moved = {name: p.detach().clone() for name, p in model.named_parameters()}
    for name, p in start.items():
        torch.testing.assert_close(moved[name], p - 0.01 * p.sign() if name in decayed else p)
    logs = update(batch())
    distance = sum((moved[name] - start[name]).square().sum() for name in decayed)
    torch.testing.assert_close(logs["loss/L2SP/distance"], 0.2 * distance)


def test_l2_sp_pulls_new_weights_to_zero_and_old_ones_to_their_start() -> None:
    class WithEncoder(TinySegmenter):
        @property
        def encoder(self) -> nn.Module:
            return self.stem

    model = WithEncoder()
    update = make(L2SP(weight=0.4, new_weight=0.2), model=model, optimizer=partial(torch.optim.SGD, lr=1e-9))
    logs = update(batch())
    new = [p for name, p in model.named_parameters() if p.ndim > 1 and not name.startswith("stem")]
    torch.testing.assert_close(logs["loss/L2SP/new"], 0.1 * sum(p.square().sum() for p in new))
    assert len(list(update.methods[0].buffers())) == 1


def test_terms_of_one_composition_equal_a_plain_loop() -> None:
    """Leaves, weights and a hooked layer in one step, to the last bit of a plain backward."""
    update = make(Supervised(), Penalty(), MinEnt(weight=0.1), optimizer=partial(torch.optim.SGD, lr=0.05))
    plain, views = copy.deepcopy(update.model), batch()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05)
    F.cross_entropy(plain(views["source"].images).logits, views["source"].labels, ignore_index=IGNORE).backward()
    torch.stack([p.square().sum() for p in plain.parameters()]).sum().backward()
    prob = plain(views["target"].images).logits.softmax(1)
    (0.1 * (-prob * (prob + 1e-30).log2()).sum(1).mean() / torch.tensor(5.0).log2()).backward()
    optimizer.step()
    update(views)
    for mine, expected in zip(update.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-7)


# ---- what is refused ------------------------------------------------------------------------------------------------


class Term(Method):
    """Whatever a test wants as its loss."""

    reads = frozenset({"source"})
    needs_target = False

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def losses(self, step: Step) -> Any:
        return self.function(step)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda step: {"x": step.predict("source").logits.detach().mean()}, ValueError, "Term/x trains nothing"),
        (lambda step: {"x": torch.ones((), requires_grad=True)}, ValueError, "Term/x trains nothing"),
        (lambda step: {"x": 0.5}, TypeError, "Term/x is a float, must be a scalar tensor"),
        (lambda step: {"x": step.predict("source").logits}, ValueError, r"Term/x has shape \(2, 5, 32, 64\)"),
        (lambda step: step.predict("source").logits.mean(), TypeError, "Term: losses are a mapping .* got Tensor"),
        (lambda step: {"x": step.predict("mixed").logits.mean()}, RuntimeError, "Term predicts 'mixed'"),
        (lambda step: {"x": step.view("mixed").images.mean()}, KeyError, "Term: there is no view 'mixed'"),
    ],
)
def test_what_trains_nothing_or_is_no_loss_is_named(function: Any, error: type[Exception], message: str) -> None:
    update = make(Term(function))
    before = weights(update)
    with pytest.raises(error, match=message):
        update(batch())
    assert torch.equal(weights(update), before)


def test_a_loss_on_frozen_features_is_named() -> None:
    update = make(Supervised(), Term(lambda step: {"x": step.predict("source").features.mean()}))
    update.model.stem.requires_grad_(False)
    update.model.body.requires_grad_(False)
    with pytest.raises(ValueError, match=r"Term/x trains nothing.*frozen"):
        update(batch())


def test_a_zero_of_no_pixel_is_no_error() -> None:
    update = make(Supervised(), Term(lambda step: {"x": torch.zeros(())}))
    assert update(batch())["loss/Term/x"] == 0


def test_own_losses_must_train_the_own_network() -> None:
    class Judge(Method):
        def setup(self, spec: TaskSpec) -> None:
            self.layer = nn.Linear(1, 1)

        def optimizer(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def own_losses(self, step: Step) -> dict[str, Tensor]:
            return {"judge": self.layer(torch.ones(1, 1)).sum().detach()}

    with pytest.raises(ValueError, match="Judge/judge trains nothing"):
        make(Supervised(), Judge())(batch())


def test_before_setup() -> None:
    update = Update(TinySegmenter(), [Supervised(), AdvEnt()], total_steps=1)
    with pytest.raises(RuntimeError, match=r"Supervised, AdvEnt: setup is missing; call update.setup\(TaskSpec.of"):
        update(batch())
    with pytest.raises(RuntimeError, match="setup is missing"):
        update.state_dict()
    update.setup(task(update.model))
    with pytest.raises(RuntimeError, match="called already"):
        update.setup(task(update.model))


def test_a_plain_network_is_refused_with_the_line_to_write() -> None:
    with pytest.raises(TypeError, match=r"Conv2d has no 'num_classes'.*uda.models.adapt\(model, num_classes="):
        Update(nn.Conv2d(3, 5, 1), [Supervised()], total_steps=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"total_steps": 0}, "total_steps is 0"), ({"accumulate": 0}, "accumulate is 0"), ({"precision": "fp8"}, "'fp8'")],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)
    with pytest.raises(ValueError, match="methods is empty"):
        Update(TinySegmenter(), [], total_steps=1)


def test_nothing_of_a_bad_step_is_in_the_weights() -> None:
    update = make(Supervised(), Term(lambda step: {"x": step.predict("source").logits.mean() * float("nan")}))
    before = weights(update)
    with pytest.raises(NonFiniteLoss, match=r"step 0: Term/x is nan; the batch: tiny/source/0.png, tiny/source/1.png"):
        update(batch())
    assert torch.equal(weights(update), before)
    assert update.index == 0


# ---- looks ----------------------------------------------------------------------------------------------------------


def test_discriminator_sees_the_outputs_before_the_update_whoever_predicts_them() -> None:
    """Without Supervised nobody predicts the source: its output is made before the update all the same."""

    class Spy(AdvEnt):
        def own_losses(self, step: Step) -> dict[str, Tensor]:
            self.seen = {name: step.detached(name).logits.clone() for name in ("source", "target")}
            return super().own_losses(step)

    method = Spy(width=4)
    update = make(method, optimizer=partial(torch.optim.SGD, lr=1.0))
    plain = copy.deepcopy(update.model)
    views = batch()
    update(views)
    expected = {name: plain(views[name].images).logits for name in ("target", "source")}
    for name, logits in expected.items():
        torch.testing.assert_close(method.seen[name], logits)
    for (name, mine), other in zip(update.model.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, other, msg=name)


# ---- what can be given ----------------------------------------------------------------------------------------------


def test_any_optimiser_and_any_schedule() -> None:
    model = TinySegmenter()
    given = torch.optim.NAdam(model.parameters(), lr=0.1)
    update = make(model=model, optimizer=given, schedule=lambda step: 0.5**step)
    assert update.optimizer is given
    rates = [float(update(batch(index))["lr"]) for index in range(3)]
    assert rates == pytest.approx([0.1, 0.05, 0.025])
    rates = [float(u["lr"]) for u in (make(schedule=poly(1.0, horizon=8))(batch()),)]
    assert rates == pytest.approx([1e-4])


@pytest.mark.parametrize(
    "schedule", [partial(StepLR, step_size=1, gamma=0.1), partial(CosineAnnealingLR, T_max=4)], ids=["step", "cosine"]
)
def test_torchs_schedulers_resume(schedule: Any) -> None:
    whole, half = (make(Supervised(), AdvEnt(width=4), schedule=schedule) for _ in range(2))
    own = whole.own_optimizers["AdvEnt"].param_groups[0]
    factors = []
    for index in range(4):
        rate = float(whole(batch(index))["lr"])
        factors.append(rate / 1e-4)
        assert own["lr"] == pytest.approx(1e-4 * factors[-1]), "own networks follow"
    assert factors[0] == pytest.approx(1)
    assert factors[0] > factors[1] > factors[2]
    for index in range(2):
        half(batch(index))
    again = make(Supervised(), AdvEnt(width=4), schedule=schedule)
    again.load_state_dict(half.state_dict())
    for index in range(2, 4):
        again(batch(index))
    assert_same(again.state_dict(), whole.state_dict())


def test_a_scheduler_object_of_the_callers() -> None:
    model = TinySegmenter()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = LambdaLR(optimizer, lambda step: 1 / (step + 1))
    update = make(model=model, optimizer=optimizer, schedule=scheduler)
    assert [float(update(batch())["lr"]) for _ in range(3)] == pytest.approx([1, 1 / 2, 1 / 3])
    with pytest.raises(ValueError, match="another optimiser"):
        make(optimizer=partial(torch.optim.SGD, lr=1.0), schedule=scheduler)
    with pytest.raises(ValueError, match="warmup is 2, must be 0 with a torch scheduler"):
        make(schedule=partial(StepLR, step_size=1), warmup=2)
    with pytest.raises(ValueError, match="waits for a metric"):
        make(schedule=ReduceLROnPlateau)
    with pytest.raises(TypeError, match="schedule is 'poly'"):
        make(schedule="poly")
    with pytest.raises(TypeError, match="optimizer gave list"):
        make(optimizer=list)


def test_one_law_of_warm_up() -> None:
    for schedule in (lambda step: 1.0, poly(1.0, horizon=10**9)):
        update = make(schedule=schedule, warmup=2, total_steps=4)
        rates = [float(update(batch(index))["lr"]) / 1e-4 for index in range(4)]
        assert rates == pytest.approx([1e-6, 0.5 + 5e-7, 1.0, 1.0], rel=1e-4)


def test_freezing_and_unfreezing_in_between() -> None:
    update = make(optimizer=None)
    update.model.stem.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in update.model.named_parameters()}
    update(batch())
    changed = {name.split(".")[0] for name, p in update.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"body", "head"}
    update.model.stem.requires_grad_(True)
    update(batch(1))
    assert not torch.equal(dict(update.model.named_parameters())["stem.0.weight"], before["stem.0.weight"])


def test_an_optimiser_over_a_part_leaves_the_rest_alone() -> None:
    model = TinySegmenter()
    update = make(model=model, optimizer=torch.optim.SGD(model.head.parameters(), lr=0.1))
    stem = model.stem[0].weight.detach().clone()
    norms = [float(update(batch())["gradient_norm"]) for _ in range(3)]
    assert torch.equal(model.stem[0].weight, stem)
    assert max(norms) < 3 * norms[0], "gradients nobody uses do not pile up"


class Projection(Method):
    """A head of the method's own without an optimiser of its own (contrastive methods have one)."""

    reads = frozenset({"source"})
    needs_target = False

    def setup(self, spec: TaskSpec) -> None:
        self.head = nn.Conv2d(spec.feature_channels, 4, 1)

    def losses(self, step: Step) -> dict[str, Tensor]:
        return {"contrast": self.head(step.predict("source").features).square().mean()}


def test_parameters_without_an_optimiser_join_the_segmenters() -> None:
    update = make(Supervised(), Projection())
    head = update.methods[1].head
    before, body = head.weight.detach().clone(), update.model.body[0].weight.detach().clone()
    update(batch())
    assert not torch.equal(head.weight, before)
    assert not torch.equal(update.model.body[0].weight, body)
    names = [group["name"] for group in update.optimizer.param_groups]
    assert names == ["model", "model/no_decay", "Projection", "Projection/no_decay"]
    again = make(Supervised(), Projection())
    again.load_state_dict(update.state_dict())
    assert_same(again.state_dict(), update.state_dict())
    model = TinySegmenter()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(ValueError, match=r"parameters of methods \(Projection, Projection/no_decay\) join"):
        make(Projection(), model=model, optimizer=optimizer, schedule=StepLR(optimizer, 1))


def test_an_own_optimiser_may_opt_out_of_the_schedule() -> None:
    class Steady(AdvEnt):
        scheduled = False

    update = make(Supervised(), AdvEnt(width=4), Steady(width=4), schedule=lambda step: 0.1)
    update(batch())
    rates = {label: optimizer.param_groups[0]["lr"] for label, optimizer in update.own_optimizers.items()}
    assert rates == pytest.approx({"AdvEnt": 1e-5, "Steady": 1e-4})


# ---- the teacher ----------------------------------------------------------------------------------------------------


def test_methods_that_want_different_teachers_are_refused_or_overruled() -> None:
    two = [ClassMix(), ClassMix(teacher={"decay": 0.9})]
    with pytest.raises(ValueError, match=r"ClassMix wants a teacher with decay 0.99, .* ClassMix2 one with decay 0.9,"):
        make(*two)
    update = make(*two, teacher=TeacherSpec(decay=0.5, update="before"))
    assert (update.teacher.decay, update.teacher.when) == (0.5, "before")
    assert make(Supervised()).teacher is None
    with pytest.raises(ValueError, match=r"teacher has no 'decoy' .known: decay, update, mode"):
        ClassMix(teacher={"decoy": 1})
    with pytest.raises(ValueError, match="decay is 2, must be in"):
        ClassMix(teacher={"decay": 2})


# ---- micro-batches --------------------------------------------------------------------------------------------------


def test_micro_batches_equal_the_large_batch() -> None:
    """With batch norm at its stored statistics, and as many labelled pixels in each part."""
    states, logged = [], []
    for accumulate in (1, 2):
        update = make(
            Supervised(average="all"), MinEnt(weight=0.1), AdvEnt(width=4), Penalty(),
            accumulate=accumulate, optimizer=partial(torch.optim.SGD, lr=0.05), clip=1.0,
        )  # fmt: skip
        update.model.eval()
        for index in range(3):
            for part in range(accumulate):
                logs = update(batch(index * accumulate + part, 4 // accumulate))
            assert update.index == index + 1
        states.append({"model": update.model.state_dict(), "own": update.methods[2].state_dict()})
        logged.append(logs)
    for part in states[0]:
        for name, value in states[0][part].items():
            torch.testing.assert_close(states[1][part][name], value, rtol=1e-5, atol=1e-6, msg=name)
    assert logged[0].keys() == logged[1].keys()
    for tag in logged[0]:
        torch.testing.assert_close(logged[1][tag], logged[0][tag], rtol=1e-4, atol=1e-6, msg=tag)


def test_no_state_between_micro_batches() -> None:
    update = make(accumulate=2)
    update(batch())
    with pytest.raises(RuntimeError, match="1 of 2 micro-batches are done"):
        update.state_dict()
    update(batch(1))
    assert update.state_dict()["step"] == 1


# ---- the seams ------------------------------------------------------------------------------------------------------


def test_the_three_seams_are_gone_through() -> None:
    """Overriding them sees every pass, every way back and one averaging a network."""

    class Seams(Update):
        calls: ClassVar[list[str]] = []

        def forward(self, name: str, view: View) -> Any:
            self.calls.append(f"forward {name}")
            return super().forward(name, view)

        def backpropagate(self, *args: Any, **kwargs: Any) -> None:
            self.calls.append("back")
            super().backpropagate(*args, **kwargs)

        def average(self, parameters: Any) -> None:
            self.calls.append(f"average {len(parameters)}")

    torch.manual_seed(0)
    update = Seams(TinySegmenter(), [Supervised(), AdvEnt(width=4)], total_steps=1)
    update.setup(task(update.model))
    update(batch())
    of_network, of_judge = len(list(update.model.parameters())), 10
    assert update.calls == [
        "forward source", "back", "back", "forward target", "back", "back", "back",
        f"average {of_network}", f"average {of_judge}",
    ]  # fmt: skip


# ---- the caller's loop ----------------------------------------------------------------------------------------------


def test_evaluating_in_between_changes_nothing() -> None:
    def loop(evaluating: bool) -> dict[str, Any]:
        update = make(Supervised(), ClassMix())
        for index in range(3):
            update(batch(index))
            if evaluating:
                update.step.infer(batch()["target"].images)
        return update.state_dict()

    assert_same(loop(False), loop(True))


def test_infer_leaves_frozen_batch_norm_asleep() -> None:
    update = make()
    update.model.stem[1].eval()
    update(batch())
    update.step.infer(batch()["target"].images)
    assert not update.model.stem[1].training
    assert update.model.body[1].training


def test_state_of_other_methods_is_refused() -> None:
    state = make(Supervised(), MinEnt()).state_dict()
    with pytest.raises(ValueError, match="the state is of Supervised, MinEnt, this run has Supervised"):
        make(Supervised()).load_state_dict(state)


def test_any_source_of_views_will_do() -> None:
    """A generator of one's own, without a data set, a trainer or a file."""

    def views() -> Iterator[dict[str, View]]:
        generator = torch.Generator().manual_seed(0)
        for _ in range(2):
            images = torch.rand(1, 3, 32, 64, generator=generator)
            yield {"source": View(images, torch.randint(0, 5, (1, 32, 64), generator=generator))}

    model = TinySegmenter()
    update = Update(model, [Supervised()], total_steps=2)
    update.setup(TaskSpec.of(model, SPACE))
    losses = [float(update(each)["loss/Supervised/segmentation"]) for each in views()]
    assert len(losses) == 2
    assert update.index == 2
    with pytest.raises(ValueError, match="the model has 5 classes, label space 'tiny' has 4"):
        TaskSpec.of(model, TinyDataset(num_classes=4).space)
    assert isinstance(TaskSpec.of(model, SPACE, target=tiny_target()).target, TinyUnlabelled)
