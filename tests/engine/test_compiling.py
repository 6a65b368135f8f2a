"""torch.compile in training: the numbers of a plain run, no graph anew at every step, and errors that name the key."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from tests.engine.test_update import SPACE, Hooked, batch
from uda.engine import CompileSpec, Update
from uda.engine.compiling import CompileError
from uda.methods import HRDA, MIC, AdvEnt, ClassMix, Coral, FeatureDistance, Supervised
from uda.models import DeepLabV2, HrdaSegmenter, adapt
from uda.testing import TinyDataset, TinySegmenter, assert_same, tiny_target
from uda.types import TaskSpec, TeacherSpec, View

AOT, EAGER = CompileSpec(backend="aot_eager"), CompileSpec(backend="eager")


def cut(views: dict[str, View], side: int) -> dict[str, View]:
    return {
        name: View(view.images[..., :side, :side], None if view.labels is None else view.labels[:, :side, :side])
        for name, view in views.items()
    }


def trained(
    compile: CompileSpec | bool, sides: tuple[int, ...], model: Any = None, methods: Any = None, **options: Any
) -> tuple[Update, list[int]]:
    """A run with a step for each of ``sides``, and how many graphs there were after each."""
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    methods = methods or [Supervised(), AdvEnt(width=4), ClassMix(), MIC(block=8), HRDA(), FeatureDistance()]
    update = Update(
        model or TinySegmenter(), methods, total_steps=9, compile=compile, seed=3,
        **{"teacher": TeacherSpec(), "optimizer": lambda p: torch.optim.SGD(p, lr=0.01), **options},
    )  # fmt: skip
    update.setup(TaskSpec.of(update.model, SPACE, source=TinyDataset(), target=tiny_target(), draws_source=True))
    graphs = []
    for index, side in enumerate(sides):
        update(cut(batch(index), side))
        graphs.append(counters["stats"]["unique_graphs"])
    return update, graphs


def assert_close(left: Update, right: Update) -> None:
    for name, value in left.model.state_dict().items():
        torch.testing.assert_close(right.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [
    {},
    pytest.param({"batch_norm": "per_domain", "precision": "bf16"}, marks=pytest.mark.slow),
    pytest.param({"activation_checkpointing": "all", "channels_last": True}, marks=pytest.mark.slow),
], ids=str)  # fmt: skip
def test_two_sizes_warm_up_and_nothing_is_compiled_again(options: dict[str, Any]) -> None:
    """Evaluation between two steps, with its mode and size, is not compiled."""
    sides = (32, 24, 32, 24, 16)
    plain, none = trained(False, sides, **options)
    assert set(none) == {0}
    compiled, graphs = trained(AOT if options else EAGER, sides, **options)
    assert graphs[1] > graphs[0] > 0
    assert graphs[-1] == graphs[1], graphs
    assert not counters["graph_break"]
    if options.get("precision") != "bf16":
        assert_close(plain, compiled)
    compiled.model.eval()(batch()["source"].images)
    assert counters["stats"]["unique_graphs"] == graphs[-1]


def test_the_state_is_that_of_a_run_that_is_not_compiled() -> None:
    """So that either goes on where the other was."""
    compiled, _ = trained(EAGER, (32,))
    state = compiled.state_dict()
    plain, _ = trained(False, ())
    plain.load_state_dict(state)
    assert_same(state, plain.state_dict())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_draws_the_same_dropout() -> None:
    plain, _ = trained(False, (32, 32), methods=[Supervised()], teacher=None)
    compiled, _ = trained(True, (32, 32), methods=[Supervised()], teacher=None)
    assert_close(plain, compiled)


def test_what_cannot_be_compiled_is_an_error_that_names_the_setting() -> None:
    with pytest.raises(ValueError, match="compile has no backend 'inducter'; the nearest is 'inductor'"):
        trained(CompileSpec(backend="inducter"), ())

    def broken(graph: Any, inputs: Any) -> Any:
        raise OSError("no compiler here")

    torch._dynamo.register_backend(broken, name="broken")
    with pytest.raises(CompileError, match=r"compile: backend 'broken' cannot compile.*no compiler here.*aot_eager"):
        trained(CompileSpec(backend="broken"), (32,))


def test_an_error_of_the_network_stays_what_it_is() -> None:
    class Refuses(TinySegmenter):
        def forward(self, images: torch.Tensor) -> Any:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        trained(EAGER, (32,), model=Refuses())


@pytest.mark.parametrize("checkpointing", ["none", "all"])
def test_hooks_into_the_network_see_every_pass(checkpointing: str) -> None:
    """A method's own, there from the start, and those that an adapted network sets for a pass."""
    options: dict[str, Any] = {"activation_checkpointing": checkpointing, "teacher": None}
    compared = []
    for spec in (False, EAGER):
        hooked, _ = trained(spec, (32, 32, 32), methods=[Hooked(beside=True)], **options)
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 1))
        model = adapt(layers, num_classes=5, mean=(0.5,) * 3, std=(0.2,) * 3, feature_layer="2")
        adapted, graphs = trained(spec, (32, 32, 32), model, [Supervised(), Coral()], **options)
        assert graphs[2] == graphs[0]
        compared.append((hooked, adapted))
    for plain, compiled in zip(*compared, strict=True):
        assert_close(plain, compiled)


@pytest.mark.slow
def test_detail_crops_at_other_places_are_not_other_graphs() -> None:
    """HRDA's are drawn as Python numbers, which torch takes for constants at first."""
    sides = (32,) * 8
    runs = []
    for spec in (False, EAGER):
        torch.manual_seed(0)
        base = DeepLabV2(5, weights=None, blocks=(1, 1, 1, 1), width=4)
        update, graphs = trained(
            spec, sides, HrdaSegmenter(base, embed_channels=4), [Supervised(), HRDA()], teacher=None
        )
        runs.append(update)
    assert graphs[-1] == graphs[3], graphs
    assert_close(*runs)
