"""Training on several processes: every test runs on two, with gloo, and compares with one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn import functional as F

from uda.claims import take
from uda.engine import Settings, Trainer, Update, evaluate
from uda.engine.checkpoint import CheckpointError, load
from uda.engine.update import NonFiniteLoss
from uda.methods import AdvEnt, ClassMix, Coral, FeatureDistance, MinEnt, Supervised
from uda.methods.base import Method
from uda.models.base import SingleValueBatchNorm2d
from uda.models.synced_norm import synced_batch_norm
from uda.processes import Processes, agreed, checksum, mean_count, passing
from uda.testing import TinyDataset, TinySegmenter, assert_same, killed_at, settings, tiny_target, train
from uda.testing.methods import Killed, Recorder, trained_state
from uda.testing.processes import ProcessError, together
from uda.types import View, Window

EXACT = {"batch_size": 4, "dropout": 0.0}


def processes() -> Processes:
    here = Processes.current()
    assert here is not None
    return here


def composition() -> list[Method]:
    """Several passes, several backward calls, heads of their own, two networks of their own, a loss on the weights."""
    return [Supervised(), AdvEnt(level="multi", width=4), ClassMix(), FeatureDistance(), Coral()]


def assert_near(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def last_gradients(methods: list[Method], changes: dict[str, Any]) -> tuple[dict[str, Tensor], str]:
    """The averaged gradients of the last step, of the segmenter and of own networks, and their hash."""
    run = train(methods, **changes)
    update = run.update
    own = [p for o in update.own_optimizers.values() for g in o.param_groups for p in g["params"]]
    gradients = {str(at): p.grad for at, p in enumerate([*update.parameters(), *own]) if p.grad is not None}
    assert len(gradients) == len(update.parameters()) + len(own)
    return gradients, checksum(gradients)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_of_every_network_are_averaged_after_its_last_backward(accumulate: int) -> None:
    changes = {**EXACT, "aux": True, "steps": 1, "accumulate": accumulate}
    alone, _ = last_gradients(composition(), changes)
    (first, hash_first), (_, hash_second) = together(last_gradients, composition(), changes)
    assert hash_first == hash_second
    assert_near(alone, first)


def without_average() -> None:
    average = Update.average
    Update.average = lambda self, parameters: None  # type: ignore[method-assign]
    try:
        train([Supervised()], **EXACT)
    finally:
        Update.average = average  # type: ignore[method-assign]


def test_gradients_that_are_not_averaged_are_seen() -> None:
    with pytest.raises(ProcessError, match="is not the same on all 2 processes"):
        together(without_average)


@pytest.mark.parametrize(
    "changes",
    [
        {"accumulate": 2},
        {"batch_norm": "frozen"},
        {"batch_norm": "source"},
        {"batch_norm": "per_domain"},
        {"average": True},
        {"clip": 0.1},
        {"augment": {"scale": (0.5, 1.0), "cat_max_ratio": 0.75}, "optimizer": "adamw", "lr": 1e-4},
        {"activation_checkpointing": "all"},
        {"compile": {"backend": "eager"}},
    ],
    ids=str,
)
def test_every_setting_of_a_run(changes: dict[str, Any]) -> None:
    both = {**EXACT, "steps": 2, **changes}
    if changes.get("batch_norm") == "per_domain":
        both["aux"] = False
    alone, _ = trained_state([Supervised(), ClassMix()], both)
    (first, _), (second, _) = together(trained_state, [Supervised(), ClassMix()], both)
    assert_same(first, second)
    assert_near(alone, first)


def graphs_of(methods: list[Method], changes: dict[str, Any]) -> tuple[dict[str, Tensor], list[int], dict[str, int]]:
    """The state after some steps, how many graphs there were after each, and what broke them."""
    torch._dynamo.reset()
    counters.clear()
    graphs: list[int] = []

    def progress(steps: Iterable[int]) -> Iterator[int]:
        for step in steps:
            yield step
            graphs.append(counters["stats"]["unique_graphs"])

    run = train(methods, progress=progress, **changes)
    return dict(run.model.state_dict()), graphs, dict(counters["graph_break"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"compile": {"backend": "aot_eager"}, "activation_checkpointing": "all", "channels_last": True},
        {"compile": {"backend": "aot_eager"}, "batch_norm": "per_domain"},
        pytest.param(
            {"compile": True},
            marks=pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler"),
        ),
    ],
    ids=str,
)
def test_synced_batch_norm_is_compiled_without_a_break(changes: dict[str, Any]) -> None:
    methods: list[Method] = [Supervised()] if changes["compile"] is True else [Supervised(), ClassMix()]
    both = {**EXACT, "steps": 3}
    alone, none, _ = graphs_of(methods, {**both, **changes, "compile": False})
    (first, graphs, breaks), (second, others, _) = together(graphs_of, methods, {**both, **changes})
    assert_same(first, second)
    for name, value in alone.items():
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert set(none) == {0}
    assert graphs == others
    assert graphs[-1] == graphs[0] > 0
    assert breaks == {}


def compiled_draw() -> int:
    torch._dynamo.reset()
    call = torch.compile(agreed, backend="eager", fullgraph=True)
    with passing(processes()):
        return int(call(torch.tensor(7 + processes().rank)))


@pytest.mark.slow
def test_a_draw_for_all_is_compiled_without_a_break() -> None:
    """HRDA's detail crop."""
    assert together(compiled_draw) == [7, 7]


def test_float16_overflows_on_all_processes_at_once() -> None:
    """At the first scale, which this loss is too large for; both pass the same steps over."""
    states = together(scaled_states, 1e2)
    assert states[0][0] == states[1][0]
    assert 0 < states[0][0] < 8
    assert_same(*(state for _, state in states))


def scaled_states(weight: float) -> tuple[int, Any]:
    run = train([Supervised(weight=weight), ClassMix()], **{**EXACT, "steps": 8, "precision": "fp16", "lr": 1e-6})
    return run.update.skipped, run.update.state_dict()["model"]


# ---- what each process sees ------------------------------------------------------------------------------------------


class Looker(Method):
    """Counts the images that its hooks see."""

    reads = frozenset({"source"})
    looks = frozenset({"target"})

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, Any] = {}
        self.draws: list[float] = []

    def prepare(self, step: Any) -> None:
        self.draws.append(float(torch.rand((), generator=step.generator)))
        view = step.view("source")
        self.seen["prepare"] = (len(view.images), view.names, [window.sample for window in view.windows])

    def losses(self, step: Any) -> dict[str, Tensor]:
        self.seen["losses"] = len(step.predict("source").logits), len(step.detached("target").logits)
        return {"x": step.predict("source").logits.square().mean()}


class OwnLooker(Looker):
    own_images = frozenset({"prepare", "losses"})


def what_is_seen(kind: type[Looker]) -> tuple[dict[str, Any], list[float], Tensor]:
    run = train([Supervised(), kind()], batch_size=4)
    return run.methods[1].seen, run.methods[1].draws, torch.rand(3)  # type: ignore[return-value]


def test_hooks_see_the_whole_batch_or_their_own_images() -> None:
    (seen, draws, layers), (seen_second, draws_second, layers_second) = together(what_is_seen, Looker)
    alone, draws_alone, _ = what_is_seen(Looker)
    assert seen == seen_second == alone
    assert draws == draws_second == draws_alone, "random numbers of the step are the same everywhere"
    assert not torch.equal(layers, layers_second), "those of dropout layers are each process' own"
    (own, *_), (own_second, *_) = together(what_is_seen, OwnLooker)
    assert own["losses"] == own_second["losses"] == (2, 2)
    assert own["prepare"][1] + own_second["prepare"][1] == alone["prepare"][1]
    assert own["prepare"][2] + own_second["prepare"][2] == alone["prepare"][2]


class ThreeImages(Method):
    reads = frozenset({"odd"})

    def prepare(self, step: Any) -> None:
        step.put("odd", View(step.view("source").images[:3]))

    def losses(self, step: Any) -> dict[str, Tensor]:
        return {"x": step.predict("odd").logits.mean()}


def test_a_view_that_does_not_split_is_refused() -> None:
    with pytest.raises(ProcessError, match="ThreeImages: view 'odd': 3 images cannot be split evenly over 2 processes"):
        together(train, [Supervised(), ThreeImages()], batch_size=4)


def views_there_and_back() -> None:
    here, generator = processes(), torch.Generator().manual_seed(0)
    windows = tuple(Window(number, (8, 8), 0, 0, 8, 8) for number in range(4))
    view = View(
        torch.rand(4, 3, 8, 8, generator=generator).contiguous(memory_format=torch.channels_last),
        torch.randint(5, (4, 8, 8), generator=generator),
        torch.rand(4, 8, 8, generator=generator),
        tuple("abcd"),
        windows,
        torch.randint(5, (4, 8, 8), generator=generator),
        ((0, 1),),
    )
    own = here.own_view(view)
    assert len(own.images) == 2
    back = here.whole_view(own)
    for name in ("images", "labels", "weight", "coarse"):
        assert torch.equal(getattr(back, name), getattr(view, name)), name
    assert (back.names, back.windows, back.groups) == (view.names, view.windows, view.groups)
    assert back.images.is_contiguous(memory_format=torch.channels_last)


def test_views_there_and_back() -> None:
    together(views_there_and_back)


def draws_and_counts() -> tuple[Tensor, Tensor, list[float]]:
    rank = processes().rank
    torch.manual_seed(rank)
    own = torch.rand(3)
    with passing(processes()):
        counts = [float(mean_count(torch.tensor(count))) for count in (2 + 4 * rank, 3.0)]
        return own, agreed(own), counts


def test_draws_for_a_batch_are_the_first_process_and_counts_are_means() -> None:
    (own, shared, counts), (own_second, shared_second, _) = together(draws_and_counts)
    assert torch.equal(own, shared)
    assert torch.equal(own, shared_second)
    assert not torch.equal(own_second, shared_second)
    assert counts == [4.0, 3.0]
    assert mean_count(torch.tensor(2)) == 2, "outside it is the count itself"


def rounding_and_more(difference: float) -> Tensor:
    state = {"prototypes": torch.ones(3) + difference * processes().rank, "count": torch.tensor(3)}
    processes().assert_equal("step 1", state)
    return state["prototypes"]


def test_rounding_is_removed_and_more_is_an_error() -> None:
    assert_same(*together(rounding_and_more, 1e-6))
    with pytest.raises(ProcessError, match="step 1: prototypes is not the same on all 2 processes"):
        together(rounding_and_more, 0.1)


def test_the_hash_sees_names_places_and_bits() -> None:
    base = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3])}
    assert checksum(base) == checksum({"b": torch.tensor([3]), "a": torch.tensor([1.0, 2.0])})
    for other in (
        {"a": torch.tensor([2.0, 1.0]), "b": torch.tensor([3])},
        {"a": torch.tensor([1.0, 2.0000002]), "b": torch.tensor([3])},
        {"a": torch.tensor([1.0, 2.0]), "c": torch.tensor([3])},
        {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3], dtype=torch.int32)},
    ):
        assert checksum(other) != checksum(base)


def first_fails() -> int:
    def act() -> int:
        raise KeyError("lost")

    with pytest.raises(KeyError if processes().rank == 0 else RuntimeError, match="lost"):
        processes().first(act)
    return processes().first(lambda: processes().rank + 7)


def test_what_the_first_process_does_holds_for_all() -> None:
    assert together(first_fails) == [7, 7]


# ---- batch norm ------------------------------------------------------------------------------------------------------


def normed(layer: nn.Module, images: Tensor, split: int, exponent: float) -> dict[str, Tensor]:
    """Output, statistics and gradients of this process' images; all of them where there is one process."""
    here = Processes.current()
    own = images if here is None else (images[:split] if here.rank == 0 else images[split:])
    own = own.clone().requires_grad_()
    with synced_batch_norm(here):
        output = layer(own)
    output.pow(exponent).sum().backward()
    assert own.grad is not None
    parameters = {f"gradient of {name}": p.grad for name, p in layer.named_parameters() if p.grad is not None}
    return {"output": output.detach(), "input": own.grad, **dict(layer.state_dict()), **parameters}


def timm_layer() -> nn.Module:
    from timm.layers import BatchNormAct2d

    return BatchNormAct2d(4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.BatchNorm2d(4),
        lambda: nn.BatchNorm2d(4, momentum=None),
        lambda: nn.BatchNorm2d(4, affine=False),
        lambda: SingleValueBatchNorm2d(4),
        lambda: nn.BatchNorm2d(4, track_running_stats=False),
        timm_layer,
    ],
    ids=["plain", "cumulative", "no scale", "single values", "no statistics", "timm"],
)
@pytest.mark.parametrize("split", [1, 2, 3])
def test_synced_batch_norm_is_that_of_one_batch(make: Callable[[], nn.Module], split: int) -> None:
    layer = make().double()
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    images = 5 + torch.randn(4, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    first, second = together(normed, layer, images, split, 3.0)
    alone = normed(layer, images, split, 3.0)
    for name in ("output", "input"):
        torch.testing.assert_close(torch.cat([first[name], second[name]]), alone[name])
    for name in set(alone) - {"output", "input"}:
        expected = first[name] + second[name] if name.startswith("gradient") else first[name]
        torch.testing.assert_close(expected, alone[name], msg=lambda m, n=name: f"{n}: {m}")


def single_values() -> None:
    layer = SingleValueBatchNorm2d(2)
    with synced_batch_norm(processes()):
        output = layer(torch.full((1, 2, 1, 1), float(processes().rank)))
        assert output.flatten().tolist() == pytest.approx([1.0, 1.0] if processes().rank else [-1.0, -1.0], abs=1e-4)
        layer.eval()
        torch.testing.assert_close(layer(torch.ones(1, 2, 1, 1)), F.batch_norm(
            torch.ones(1, 2, 1, 1), layer.running_mean, layer.running_var, layer.weight, layer.bias
        ))  # fmt: skip


def test_batch_norm_of_an_image_a_process() -> None:
    together(single_values)


def unsynced() -> tuple[dict[str, Tensor], dict[str, Any]]:
    run = train([Supervised()], **EXACT, sync_batch_norm=False)
    return dict(run.model.state_dict()), run.identity


def test_batch_norm_of_each_process_by_choice() -> None:
    (first, identity), (second, _) = together(unsynced)
    assert_same(first, second)
    alone, identity_alone = unsynced()
    assert not torch.allclose(first["stem.1.running_var"], alone["stem.1.running_var"])
    assert identity["processes"] == 2, "it is another run for every number of processes, and says so"
    assert "processes" not in identity_alone


def network_gradients(decoder: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Of a real network with batch norms of all kinds, in float64: it makes percents of a rounding of float32."""
    from uda.models import Segmenter

    torch.manual_seed(0)
    model, here = Segmenter(num_classes=5, decoder=decoder, weights=None).double().train(), Processes.current()
    for layer in model.modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            layer.p = 0.0
    generator = torch.Generator().manual_seed(5)
    images = F.interpolate(torch.rand(2, 3, 8, 8, generator=generator).double(), (64, 64), mode="bilinear")
    labels = torch.randint(5, (2, 64, 64), generator=generator)
    if here is not None:
        images, labels = here.own(images), here.own(labels)
    with synced_batch_norm(here):
        logits = model(images).logits
    F.cross_entropy(logits, labels).backward()
    if here is not None:
        here.average_gradients(list(model.parameters()))
    flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return flat, {name: value for name, value in model.named_buffers() if "running" in name}


@pytest.mark.parametrize("decoder", ["DeepLabV3Plus", "Unet"])
def test_a_real_network_with_an_image_on_each_process(decoder: str) -> None:
    (first, buffers), (second, _) = together(network_gradients, decoder)
    alone, expected = network_gradients(decoder)
    assert torch.equal(first, second)
    assert float((first - alone).norm()) < 1e-9 * float(alone.norm())
    for name, value in expected.items():
        torch.testing.assert_close(buffers[name], value, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


# ---- evaluation ------------------------------------------------------------------------------------------------------


def evaluated(length: int, batch_size: int) -> tuple[Any, list[int]]:
    torch.manual_seed(0)
    dataset = TinyDataset(length=length)
    scores = evaluate(TinySegmenter(), dataset, batch_size=batch_size, processes=Processes.current())
    return scores, dataset.touched


@pytest.mark.parametrize(("length", "batch_size"), [(5, 1), (6, 2), (1, 1)])
def test_evaluation_splits_the_images_and_counts_none_twice(length: int, batch_size: int) -> None:
    (first, touched), (second, touched_second) = together(evaluated, length, batch_size)
    alone, _ = evaluated(length, batch_size)
    assert sorted(touched + touched_second) == list(range(length))
    for scores in (first, second):
        np.testing.assert_array_equal(scores.confusions, alone.confusions)
        np.testing.assert_allclose(scores.losses, alone.losses, rtol=1e-6)
        assert (scores.names, scores.class_names) == (alone.names, alone.class_names)


def test_test_time_methods_are_scored_by_one_process() -> None:
    from uda.methods import TENT

    with pytest.raises(ValueError, match="TENT sees images in their order; one process alone scores it"):
        evaluate(TENT(), TinyDataset(), processes=Processes(0, 2))


def scored_run(out: Path | None) -> dict[str, float]:
    torch.manual_seed(0)
    run = Trainer(
        TinySegmenter(dropout=0.0), [Supervised(), MinEnt()], settings(batch_size=4, eval_every=2), out=out,
        evaluate_on={"target": tiny_target(), "source": TinyDataset()},
    )  # fmt: skip
    return {name: result.miou() for name, result in run.fit(TinyDataset(), tiny_target()).items()}


# ---- files, resuming, errors -----------------------------------------------------------------------------------------


def test_the_first_process_writes(tmp_path: Path) -> None:
    alone = scored_run(tmp_path / "alone")
    for scores in together(scored_run, tmp_path / "both"):
        assert scores == pytest.approx(alone, abs=1e-6)
    assert sorted(path.name for path in (tmp_path / "both").iterdir() if "tfevents" not in path.name) == sorted(
        path.name for path in (tmp_path / "alone").iterdir() if "tfevents" not in path.name
    )
    assert len(list((tmp_path / "both").glob("*tfevents*"))) == len(list((tmp_path / "alone").glob("*tfevents*")))
    lines, expected = ((tmp_path / name / "scalars.jsonl").read_text().splitlines() for name in ("both", "alone"))
    assert len(lines) == len(expected)
    for line, other in zip(lines, expected, strict=True):
        assert json.loads(line) == pytest.approx(json.loads(other), rel=1e-4, abs=1e-5)


def run_to(out: Path, stop: int | None, dropout: float = 0.0, **changes: Any) -> dict[str, Any]:
    """A run of four steps, or as far as it is let."""
    methods: list[Method] = [Supervised(), AdvEnt(width=4), ClassMix()]
    progress = None if stop is None else killed_at(stop)
    try:
        run = train(methods, **{**EXACT, "steps": 4, "dropout": dropout, **changes}, out=out, progress=progress)
    except Killed:
        return {}
    return {key: value for key, value in run.state_dict().items() if key not in ("rng", "generator")}


def flat(state: Any, name: str = "") -> dict[str, Tensor]:
    if isinstance(state, Tensor):
        return {name: state.double()}
    children = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    return {key: value for child, part in children for key, value in flat(part, f"{name}.{child}").items()}


def close(first: Any, second: Any) -> None:
    one, other = flat(first), flat(second)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=3e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_a_run_goes_on_with_the_same_number_of_processes_bit_by_bit(tmp_path: Path) -> None:
    whole, _ = together(run_to, tmp_path / "whole", None, 0.3)
    assert together(run_to, tmp_path / "cut", 2, 0.3) == [{}, {}]
    first, second = together(run_to, tmp_path / "cut", None, 0.3)
    assert_same(flat(first), flat(second))
    assert_same(flat(whole), flat(first))


def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    alone = run_to(tmp_path / "alone", None)
    together(run_to, tmp_path / "fewer", 2)
    assert load(tmp_path / "fewer" / "checkpoint.pt")["step"] == 2
    close(run_to(tmp_path / "fewer", None), alone)
    run_to(tmp_path / "more", 2)
    first, _ = together(run_to, tmp_path / "more", None)
    close(first, alone)


def test_without_synced_batch_norm_the_number_of_processes_stays(tmp_path: Path) -> None:
    together(run_to, tmp_path, 2, sync_batch_norm=False)
    with pytest.raises(CheckpointError, match="processes: 2 -> not there"):
        run_to(tmp_path, None, sync_batch_norm=False)


class NaNAtSecond(Method):
    reads = frozenset({"source"})
    own_images = frozenset({"losses"})

    def losses(self, step: Any) -> dict[str, Tensor]:
        here = Processes.current()
        bad = here is not None and here.rank == 1
        return {"x": step.predict("source").logits.mean() * (float("nan") if bad else 1.0)}


def stops() -> str:
    try:
        train([Supervised(), NaNAtSecond()], **EXACT)
    except NonFiniteLoss as error:
        return str(error)
    return "trained on"


def test_a_loss_that_is_not_finite_on_one_process_stops_all() -> None:
    first, second = together(stops)
    assert first.startswith("step 0: ")
    assert "NaNAtSecond/x is nan; the batch: " in second


def test_a_run_is_shared_evenly_and_each_process_has_its_device() -> None:
    from uda.engine.trainer import check_share

    with pytest.raises(ValueError, match="batch_size is 3, must be a multiple of the 2 processes"):
        check_share(Settings(steps=1, batch_size=3), Processes(0, 2))
    with pytest.raises(ValueError, match="device is 'cuda:1', must be 'cpu', 'cuda' or left out for 2 processes"):
        check_share(Settings(steps=1, batch_size=2, device="cuda:1"), Processes(0, 2))
    with pytest.raises(ProcessError, match="batch_size is 3, must be a multiple of the 2 processes"):
        together(train, [Supervised()], batch_size=3)


def works_in(out: Path) -> str:
    try:
        train([Supervised()], **EXACT, out=out)
    except (CheckpointError, RuntimeError) as error:
        return str(error)
    return ""


def test_a_folder_where_another_trainer_works_is_refused_on_all(tmp_path: Path) -> None:
    claim = take(tmp_path)
    assert claim is not None
    with claim:
        for message in together(works_in, tmp_path):
            assert "another trainer is working there" in message


def logs_of_a_run() -> list[dict[str, float]]:
    run = train([Supervised(), ClassMix(), MinEnt()], **EXACT, trainer=Recorder, steps=2)
    return run.logs  # type: ignore[attr-defined, no-any-return]


def test_logs_are_of_the_whole_batch() -> None:
    first, second = together(logs_of_a_run)
    assert first == second
    for logs, expected in zip(first, logs_of_a_run(), strict=True):
        assert logs == pytest.approx(expected, rel=1e-4, abs=1e-6)
