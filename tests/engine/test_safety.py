"""What a run keeps is good to go on from, and nobody else writes there."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from uda.data import Pairs, TrainTransform, wrap
from uda.engine import CheckpointError, NonFiniteLoss, Settings, Trainer, Update, checkpoint, evaluate
from uda.engine.tensorboard import read_scalars
from uda.methods import (
    FDA,
    AdvEnt,
    ClassMix,
    ColourTransport,
    MeanStd,
    MinEnt,
    ProDA,
    Supervised,
)
from uda.methods.base import Method
from uda.testing import TinyDataset, TinySegmenter, tiny_target
from uda.testing.methods import assert_same
from uda.types import Sample, TaskSpec


def settings(**changes: Any) -> Settings:
    plain: dict[str, Any] = {"steps": 6, "crop": (32, 64), "device": "cpu", "log_every": 1, "checkpoint_every": 1}
    return Settings(**{**plain, **changes})


class Spoil(Method):
    """Leaves a number that is not finite where a gradient never looks, after some step."""

    reads = frozenset({"source"})
    needs_target = False

    def __init__(self, *, at: int = 3) -> None:
        super().__init__()
        self.at = at

    def setup(self, spec: TaskSpec) -> None:
        norm = next(module for module in spec.model.modules() if isinstance(module, nn.BatchNorm2d))
        assert norm.running_var is not None
        object.__setattr__(self, "buffer", norm.running_var)  # the network has it, not the method

    def losses(self, step: Any) -> Any:
        return {"term": step.predict("source").logits.square().mean()}

    def after_step(self, step: Any) -> None:
        if step.index == self.at:
            self.buffer[0] = float("inf")


def with_norm() -> TinySegmenter:
    model = TinySegmenter()
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    return model


def test_what_cannot_be_gone_on_from_is_not_saved(tmp_path: Path) -> None:
    trainer = Trainer(with_norm(), [Spoil()], settings(), out=tmp_path)
    with pytest.raises(NonFiniteLoss, match=r"^step 3: \S*running_var is not finite after the update; the rate may be"):
        trainer.fit(TinyDataset())
    state = checkpoint.load(tmp_path / "checkpoint.pt")
    assert state["step"] == 3
    assert all(value.isfinite().all() for value in state["model"].values() if value.is_floating_point())
    # the same run goes on from there and stops at the same place
    again = Trainer(with_norm(), [Spoil()], settings(), out=tmp_path)
    with pytest.raises(NonFiniteLoss, match=r"^step 3: "):
        again.fit(TinyDataset())
    assert again.step_index == 4
    # with another rate it is another run
    slower = Trainer(with_norm(), [Spoil()], settings(lr=1e-6), out=tmp_path)
    with pytest.raises(CheckpointError, match=r"(?s)checkpoint.pt: belongs to another run.*settings.lr: .*1e-06"):
        slower.fit(TinyDataset())


class SpoilOwn(AdvEnt):
    """Leaves a number that is not finite in its own network, whose optimiser has finite ones."""

    def after_step(self, step: Any) -> None:
        if step.index == 3:
            with torch.no_grad():
                next(self.parameters()).view(-1)[0] = float("nan")


def test_an_own_network_is_looked_at_too(tmp_path: Path) -> None:
    trainer = Trainer(TinySegmenter(), [Supervised(), SpoilOwn(width=4)], settings(), out=tmp_path)
    with pytest.raises(NonFiniteLoss, match=r"^step 3: SpoilOwn \S+weight is not finite after the update"):
        trainer.fit(TinyDataset(), tiny_target())
    assert checkpoint.load(tmp_path / "checkpoint.pt")["step"] == 3


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_diverging_run_keeps_a_good_checkpoint(optimizer: str, seed: int, tmp_path: Path) -> None:
    run = settings(steps=60, optimizer=optimizer, lr=1e12, seed=seed, head_multiplier=1.0)
    with pytest.raises(NonFiniteLoss):
        Trainer(with_norm(), [Supervised(), MinEnt()], run, out=tmp_path).fit(TinyDataset(), tiny_target())
    state = checkpoint.load(tmp_path / "checkpoint.pt")
    assert all(value.isfinite().all() for value in state["model"].values() if value.is_floating_point())
    again = Trainer(with_norm(), [Supervised(), MinEnt()], run, out=tmp_path)
    with pytest.raises(NonFiniteLoss):
        again.fit(TinyDataset(), tiny_target())
    assert again.step_index >= state["step"]


@pytest.mark.parametrize("key", ["lr", "weight_decay", "head_multiplier", "clip"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_settings_are_finite(key: str, value: float) -> None:
    with pytest.raises(ValidationError, match=rf"{key}\n.*finite number"):
        settings(**{key: value})
    with pytest.raises(ValidationError, match=r"augment.hue\n.*finite number"):
        settings(augment={"hue": value})


class Floats:
    """Float images of one's own, which a data set of this library never gives."""

    def __init__(self, dataset: Any) -> None:
        self.dataset, self.name, self.space = dataset, "own", getattr(dataset, "space", None)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        return Sample(sample.image.float() / 255, sample.label, f"own{index}.png")


def test_samples_in_float_are_refused_everywhere_alike() -> None:
    message = r"own\d\.png: the image of a sample is \(3, H, W\) uint8, got .* float32; uda.data.wrap"
    for methods in ([Supervised(), MinEnt()], [Supervised(), MeanStd()], [Supervised(), ProDA()]):
        with pytest.raises(TypeError, match=message):
            Trainer(TinySegmenter(), methods, settings()).fit(TinyDataset(), Floats(tiny_target()))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=message):
        Trainer(TinySegmenter(), [Supervised()], settings()).fit(Floats(TinyDataset()))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=message):
        evaluate(TinySegmenter(), Floats(tiny_target()))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "method", [FDA, ColourTransport, AdvEnt, MinEnt, ClassMix, ProDA], ids=lambda method: method.__name__
)
def test_an_image_with_a_pixel_that_is_no_number_is_named(method: type[Method]) -> None:
    model, source, target = TinySegmenter(), TinyDataset(), tiny_target()
    update = Update(
        model, [Supervised(), method()], total_steps=2, optimizer=torch.optim.SGD(model.parameters(), lr=0.01)
    )
    update.setup(TaskSpec.of(model, source.space, source=source, target=target))
    views = dict(Pairs(source, target, TrainTransform(crop=(32, 64)), batch_size=2)[0])
    images = views["target"].images.clone()
    images[1, :, 10:20, 10:20] = float("nan")
    views["target"] = replace(views["target"], images=images)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    name = re.escape(views["target"].names[1])
    with pytest.raises(NonFiniteLoss, match=rf"^step 0: pixels that are not finite in {name}$"):
        update(views)
    parameters = dict(model.named_parameters())
    assert all((value == before[name]).all() for name, value in parameters.items())


class NoNumber(Method):
    """A term that is not finite, or whose gradient alone is not."""

    reads = frozenset({"source"})
    needs_target = False

    def __init__(self, *, gradient: bool = False) -> None:
        super().__init__()
        self.gradient = gradient

    def losses(self, step: Any) -> Any:
        mean = step.predict("source").logits.mean()
        return {"term": (mean - mean.detach()).abs().sqrt() if self.gradient else mean / 0}


@pytest.mark.parametrize("gradient", [False, True])
def test_nothing_has_moved_where_a_term_or_gradient_is_no_number(gradient: bool) -> None:
    model, source, target = TinySegmenter(), TinyDataset(), tiny_target()
    methods = [Supervised(), AdvEnt(width=4), NoNumber(gradient=gradient)]
    update = Update(model, methods, total_steps=2, optimizer=torch.optim.AdamW(model.parameters()), clip=1.0)
    update.setup(TaskSpec.of(model, source.space, source=source, target=target))
    modules: dict[str, nn.Module] = {"model": model, "own": methods[1]}
    before = {key: [p.clone() for p in module.parameters()] for key, module in modules.items()}
    message = "gradient norm is nan" if gradient else r"NoNumber/term is -?(inf|nan)"
    with pytest.raises(NonFiniteLoss, match=f"^step 0: .*{message}"):
        update(Pairs(source, target, TrainTransform(crop=(32, 64)), batch_size=2)[0])
    for key, module in modules.items():
        assert before[key]
        assert all(torch.equal(new, old) for new, old in zip(module.parameters(), before[key], strict=True)), key
    assert update.optimizer.state_dict()["state"] == {}
    assert update.index == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_batch_with_such_an_image_may_be_passed_over(value: float) -> None:
    """Caught, it leaves no trace: not in batch norm, not in the teacher, not in the random numbers."""

    def states(broken: bool) -> dict[str, Any]:
        torch.manual_seed(0)
        model, source, target = TinySegmenter(), TinyDataset(), tiny_target()
        sgd = torch.optim.SGD(model.parameters(), lr=0.01)
        update = Update(model, [Supervised(), FDA(), ClassMix()], total_steps=3, optimizer=sgd)
        update.setup(TaskSpec.of(model, source.space, source=source, target=target))
        pairs = Pairs(source, target, TrainTransform(crop=(32, 64)), batch_size=2)
        update(pairs[0])
        if broken:
            views = dict(pairs[2])
            images = views["target"].images.clone()
            images[0, 2, 31, 63] = value
            views["target"] = replace(views["target"], images=images)
            with pytest.raises(NonFiniteLoss, match=rf"^step 1: pixels .* in {re.escape(views['target'].names[0])}$"):
                update(views)
        update(pairs[1])
        return update.state_dict()

    assert_same(states(broken=True), states(broken=False))


def test_a_wrapped_image_with_a_pixel_that_is_no_number_is_named() -> None:
    image = torch.full((3, 4, 4), float("nan"))
    with pytest.raises(ValueError, match=r"mine\[0\]: float images are in \[0, 1\]"):
        wrap([(image, torch.zeros(4, 4, dtype=torch.uint8))], "cityscapes19", name="mine")[0]


def test_an_error_of_a_method_is_not_taken_for_the_images(tmp_path: Path) -> None:
    class Wrong(Spoil):
        def losses(self, step: Any) -> Any:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Trainer(TinySegmenter(), [Wrong()], settings()).fit(TinyDataset())


class Code:
    """What a pickle would run."""

    def __reduce__(self) -> Any:
        return (print, ("ran",))


def test_no_code_is_run_and_none_is_advised(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, content in (("torch", Code()), ("plain", {"model": Code()})):
        torch.save(content, tmp_path / f"{name}.pt")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Code()))
    (tmp_path / "text.pt").write_text("nothing")
    torch.save([1], tmp_path / "list.pt")
    for path in tmp_path.glob("*.pt"):
        with pytest.raises(CheckpointError, match=re.escape(str(path))) as caught:
            checkpoint.load(path)
        assert "weights_only" not in str(caught.value)
    assert "ran" not in capfd.readouterr().out


def test_curves_of_a_run_that_was_killed_before_its_first_checkpoint_are_gone(tmp_path: Path) -> None:
    def stop(update: Any, logs: Any) -> None:
        if update.index == 3:
            raise KeyboardInterrupt

    run = settings(checkpoint_every=100)
    with pytest.raises(KeyboardInterrupt):
        Trainer(TinySegmenter(), [Supervised()], run, out=tmp_path, on_step=stop).fit(TinyDataset())
    assert not (tmp_path / "checkpoint.pt").exists()
    Trainer(TinySegmenter(), [Supervised()], run, out=tmp_path).fit(TinyDataset())
    assert [record["step"] for record in read_scalars(tmp_path)] == list(range(6))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (tag,) = [tag for tag in events.Tags()["scalars"] if tag.startswith("loss/Supervised/")]
    assert [event.step for event in events.Scalars(tag)] == list(range(6))


def test_damaged_lines_of_the_curves_are_left_out(tmp_path: Path) -> None:
    lines = ['{"step": 0, "a": 1}', "{", "[]", '{"a": 1}', "\x00\xff", '{"step": 1, "a": 2}', '{"step": 2, "a']
    (tmp_path / "scalars.jsonl").write_text("\n".join(lines))
    assert [record["step"] for record in read_scalars(tmp_path)] == [0, 1]


def test_what_a_kill_left_half_written_is_removed(tmp_path: Path) -> None:
    left, below = tmp_path / ".checkpoint.pt.0123.part", tmp_path / "other" / ".checkpoint.pt.0123.part"
    below.parent.mkdir()
    left.touch()
    below.touch()  # of a run of its own, which may be writing
    Trainer(TinySegmenter(), [Supervised()], settings(), out=tmp_path).fit(TinyDataset())
    assert not left.exists()
    assert below.exists()


def test_two_trainers_do_not_share_a_folder(tmp_path: Path) -> None:
    def other(update: Any, logs: Any) -> None:
        with pytest.raises(CheckpointError, match=f"{tmp_path}: another trainer is working there"):
            Trainer(TinySegmenter(), [Supervised()], settings(), out=tmp_path).fit(TinyDataset())

    Trainer(TinySegmenter(), [Supervised()], settings(), out=tmp_path, on_step=other).fit(TinyDataset())
    Trainer(TinySegmenter(), [Supervised()], settings(), out=tmp_path).fit(TinyDataset())  # free again
