"""The authors' own loops beside ours: the same network, first weights and images; one step at a time, on the CPU.

Their functions run as they are. What they read of the machine is put in their modules' place: data sets, arguments,
a GPU (``cuda()`` gives the tensor back), and packages that only write logs. Nothing of theirs is copied here.
"""

from __future__ import annotations

import importlib
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uda.data import CITYSCAPES19
from uda.engine import Update, segmenter_optimizer
from uda.methods import CLAN, TENT, AdvEnt, ClassMix, CoTTA, MaxSquare, Supervised
from uda.methods.base import Method, TestTimeMethod
from uda.models import DeepLabV2, adapt
from uda.models.base import Normalise
from uda.models.discriminator import Discriminator
from uda.types import IGNORE, TaskSpec, View

CLASSES = len(CITYSCAPES19.names)
MEAN = (104.00698793, 116.66876762, 122.67891434)
CAFFE = {"mean": MEAN, "std": (1.0, 1.0, 1.0), "scale": 255.0, "bgr": True}
LR, MOMENTUM, DECAY = 2.5e-4, 0.9, 5e-4
CHECKED = 2
"""Steps whose losses are compared."""
Step = Callable[[], Any]
Weights = Mapping[str, Tensor]


class Enough(BaseException):
    """Ends the authors' loop from inside its loader; no ``except Exception`` of theirs stops it."""


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        name: of the row.
        note: what differs between the two.
        theirs: runs the authors' loop for ever; calls its argument before every step.
        ours: builds everything and gives a function that makes one step.
        printed: names in the authors' own output, and the logs of ours that sum to it, with a factor.
        alike: steps whose losses are the same in both.
        read: what ours gave, as numbers by the keys of ``printed``.
    """

    name: str
    note: str
    theirs: Callable[[Callable[[], None]], None]
    ours: Callable[[], Step]
    printed: Mapping[str, tuple[Sequence[str], float]]
    alike: int = CHECKED
    read: Callable[[Any], Mapping[str, float]] = field(default=lambda logs: {k: float(v) for k, v in logs.items()})


@dataclass(frozen=True)
class Scene:
    """A labelled source batch and a target batch, images in [0, 1]."""

    source: View
    target: View

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.source.images.shape[-2:]
        return height, width

    def first(self) -> Scene:
        """The first image of each."""
        labels = self.source.known_labels[:1]
        return Scene(View(self.source.images[:1], labels), View(self.target.images[:1]))

    def views(self) -> dict[str, View]:
        return {"source": View(self.source.images, self.source.labels), "target": View(self.target.images)}

    def caffe(self) -> tuple[Tensor, Tensor]:
        """Source and target as the authors' networks take them."""
        caffe: Any = CAFFE
        normalise = Normalise(**caffe)
        return normalise(self.source.images), normalise(self.target.images)


class Loader:
    """In the place of a data loader: the same batch for ever."""

    def __init__(self, batch: Sequence[Any], before: Callable[[], None] = lambda: None) -> None:
        self.batch, self.before = batch, before

    def __len__(self) -> int:
        return 1_000_000

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> Sequence[Any]:
        self.before()
        return self.batch


class EasyDict(dict[str, Any]):
    """The package of that name, as far as configs use it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.__dict__ = self


@contextmanager
def importing(folder: Path, always: Sequence[str] = (), missing: Sequence[str] = ()) -> Iterator[None]:
    """Inside, imports look into an authors' folder first; its modules are forgotten afterwards, as names repeat.

    Args:
        folder: a clone.
        always: modules that something else stands in for.
        missing: likewise, where they cannot be imported.

    Raises:
        SystemExit: no such folder.
    """
    if not folder.is_dir():
        raise SystemExit(f"{folder}: no such folder; clone the authors' repository there (--help says how)")
    before, path, arguments = dict(sys.modules), list(sys.path), sys.argv
    stand_ins = {name: MagicMock() for name in always}
    for name in missing:
        try:
            importlib.import_module(name)
        except ImportError:
            stand_ins[name] = MagicMock(EasyDict=EasyDict)
    sys.modules.update(stand_ins)
    sys.path.insert(0, str(folder))
    sys.argv = ["authors"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.path[:], sys.argv = path, arguments
        for name, module in list(sys.modules.items()):
            inside = str(getattr(module, "__file__", None) or "").startswith(str(folder))
            if name not in before and (inside or name in stand_ins):
                del sys.modules[name]


@contextmanager
def without_gpu() -> Iterator[None]:
    """Inside, ``cuda()`` gives back what it is called on, and the authors' arguments leave the environment as it is."""
    environment = dict(os.environ)

    def stay(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self

    with (
        patch.object(Tensor, "cuda", stay),
        patch.object(nn.Module, "cuda", stay),
        patch.object(Tensor, "get_device", lambda self: self.device),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(environment)


def begin(**options: Any) -> DeepLabV2:
    """Our network, with the same weights at every call."""
    torch.manual_seed(0)
    return DeepLabV2(CLASSES, None, **{**CAFFE, **options})


def compared(blocks: Sequence[int]) -> int:
    """Steps whose losses are the same: in a hundred layers of random weights rounding grows within the first."""
    return CHECKED if sum(blocks) <= 4 else 1


def caffe_names(state: Weights) -> dict[str, Tensor]:
    """Our DeepLabV2's state by the authors' names: a single classifier is theirs of that number."""
    main = "layer6" if any(name.startswith("aux_head") for name in state) else "layer5"
    heads = {"encoder.": "", "head.": f"{main}.", "aux_head.": "layer5."}
    return {
        new + name.removeprefix(old): value
        for name, value in state.items()
        for old, new in heads.items()
        if name.startswith(old)
    }


def with_weights(network: nn.Module, state: Weights) -> Any:
    """The authors' network with our first weights; convolutions that they make and never use stay as they are."""
    unexpected = network.load_state_dict(state, strict=False).unexpected_keys
    if unexpected:
        raise SystemExit(f"the authors' {type(network).__name__} has no {', '.join(unexpected[:3])}")
    return network


def trained(model: nn.Module, methods: Sequence[Method], steps: int, optimizer: Any = None) -> Update:
    """An update with the published optimiser."""
    sgd = optimizer or segmenter_optimizer(
        model, "sgd", {"momentum": MOMENTUM}, lr=LR, head_multiplier=10.0, weight_decay=DECAY, decayed="all"
    )
    update = Update(model, methods, total_steps=steps, optimizer=sgd)
    update.setup(TaskSpec.of(model, CITYSCAPES19))
    return update


def advent(folder: Path, blocks: Sequence[int], scene: Scene) -> Case:
    """ADVENT's ``train_advent`` with both levels."""
    with importing(folder / "ADVENT", missing=("tensorboardX", "easydict")):
        loop = importlib.import_module("advent.domain_adaptation.train_UDA")
        network = importlib.import_module("advent.model.deeplabv2")
        config = importlib.import_module("advent.domain_adaptation.config").cfg
    scene = scene.first()
    height, width = scene.size
    config.GPU_ID = "cpu"
    config.TRAIN.INPUT_SIZE_SOURCE = config.TRAIN.INPUT_SIZE_TARGET = (width, height)
    judge = Discriminator(CLASSES).state_dict()
    make_judge = loop.get_fc_discriminator

    def theirs(before: Callable[[], None]) -> None:
        start = caffe_names(begin(blocks=blocks).state_dict())
        model = with_weights(network.ResNetMulti(network.Bottleneck, list(blocks), CLASSES, True), start)
        del start
        loop.get_fc_discriminator = lambda num_classes: with_weights(make_judge(num_classes), judge)
        images, target = scene.caffe()
        source = Loader((images, scene.source.known_labels, None, None), before)
        loop.train_advent(model, source, Loader((target, None, None, None)), config)

    def ours() -> Step:
        method = AdvEnt(level="multi")
        update = trained(begin(blocks=blocks), [Supervised(aux_weight=0.1), method], config.TRAIN.MAX_ITERS)
        for discriminator in method.discriminators.values():
            discriminator.load_state_dict(judge)
        views = scene.views()
        return lambda: update(views)

    levels = {f"loss_seg_src_{name}": ([f"loss/Supervised/{term}"], factor)
              for name, term, factor in (("main", "segmentation", 1.0), ("aux", "auxiliary", 10.0))}  # fmt: skip
    levels |= {f"loss_adv_trg_{name}": ([f"loss/AdvEnt/adversarial_{name}"], factor)
               for name, factor in (("main", 1000.0), ("aux", 5000.0))}  # fmt: skip
    # of the discriminators the authors print the half on the target
    levels |= {f"loss_d_{name}": ([f"loss/AdvEnt/discriminator_{name}_target"], 1.0) for name in ("main", "aux")}
    return Case("ADVENT, two levels", "ours: uda's DeepLabV2", theirs, ours, levels, compared(blocks))


class ByName(nn.Module):
    """CLAN's network, whose two classifiers look at one layer, with its outputs as an adapter takes them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        first, second = self.network(images)
        return {"out": second, "aux": first}


def clan(folder: Path, blocks: Sequence[int], scene: Scene) -> Case:
    """CLAN's ``main``, past its warm-up."""
    datasets = [f"dataset.{name}_dataset" for name in ("gta5", "synthia", "cityscapes")]
    with importing(folder / "CLAN", always=["dataset", *datasets]):
        loop = importlib.import_module("CLAN_train")
        network = importlib.import_module("model.CLAN_G")
    scene = scene.first()
    height, width = scene.size
    judge = Discriminator(CLASSES).state_dict()
    places = {"0": "conv1", "2": "conv2", "4": "conv3", "6": "conv4", "8": "classifier"}
    named = {f"{places[name.split('.')[0]]}.{name.split('.')[1]}": value for name, value in judge.items()}
    make_judge = loop.FCDiscriminator
    loop.PREHEAT_STEPS = -1
    temporary = tempfile.mkdtemp()
    loop.args.input_size_source = loop.args.input_size_target = f"{width},{height}"
    loop.args.snapshot_dir, loop.args.restore_from = temporary, f"{temporary}/start.pth"

    def made(num_classes: int = CLASSES) -> Any:
        torch.manual_seed(0)
        start = caffe_names(begin(blocks=blocks, aux=False).state_dict())
        return with_weights(network.ResNet(network.Bottleneck, list(blocks), num_classes), start)

    def theirs(before: Callable[[], None]) -> None:
        torch.save(made().state_dict(), loop.args.restore_from)
        loop.Res_Deeplab = made
        loop.FCDiscriminator = lambda num_classes: with_weights(make_judge(num_classes), named)
        images, target = scene.caffe()
        source = Loader((images, scene.source.known_labels, None, None, None), before)
        loaders = iter((source, Loader((target, None, None, None))))
        loop.data = SimpleNamespace(DataLoader=lambda *args, **kwargs: next(loaders))
        loop.main()

    def ours() -> Step:
        caffe: Any = CAFFE
        model = adapt(ByName(made()), num_classes=CLASSES, feature_layer="network.layer4", **caffe)
        heads = [p for name, p in model.named_parameters() if "layer5" in name or "layer6" in name]
        members = set(map(id, heads))
        rest = [p for p in model.parameters() if id(p) not in members]
        groups: Any = [{"params": rest, "lr": LR}, {"params": heads, "lr": 10 * LR}]
        sgd = torch.optim.SGD(groups, lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
        method = CLAN(warmup=0.0)
        update = trained(model, [Supervised(aux_weight=1.0, focal=2.0), method], loop.args.num_steps, sgd)
        method.discriminator.load_state_dict(judge)
        views = scene.views()
        return lambda: update(views)

    printed = {
        "loss_seg": (["loss/Supervised/segmentation", "loss/Supervised/auxiliary"], 1.0),
        "loss_adv": (["loss/CLAN/adversarial"], 1.0),
        "loss_D_s": (["loss/CLAN/discriminator_source"], 1.0),
        "loss_D_t": (["loss/CLAN/discriminator_target"], 1.0),
    }
    note = "both: the authors' network, ours by uda.models.adapt; theirs also penalises the classifiers' cosine"
    return Case("CLAN", note, theirs, ours, printed, compared(blocks))


def max_square(folder: Path, blocks: Sequence[int], scene: Scene) -> Case:
    """MaxSquare's ``UDATrainer`` with image-wise weights and guidance of the second level."""
    modules = [f"datasets.{name}_Dataset" for name in ("cityscapes", "gta5", "synthia")]
    with importing(folder / "MaxSquareLoss", ["datasets", *modules], ["tensorboardX", "distutils.version"]):
        loop = importlib.import_module("tools.solve_gta5")
        source_only = importlib.import_module("tools.train_source")
        helper = importlib.import_module("utils.train_helper")
        network = importlib.import_module("graphs.models.deeplab_multi")
    scene = scene.first()
    options: Any = {"blocks": blocks, "dilations": (6, 12), "frozen_affine": "stem"}
    threshold = 0.3

    def made(num_classes: int, pretrained: bool) -> Any:
        start = caffe_names(begin(**options).state_dict())
        return with_weights(network.ResNetMulti(network.Bottleneck, list(blocks), num_classes), start)

    def theirs(before: Callable[[], None]) -> None:
        helper.DeeplabMulti = made
        source_only.City_DataLoader = lambda args: SimpleNamespace(num_iterations=1_000_000)
        images, target = scene.caffe()
        labels = scene.source.known_labels
        labels = labels.masked_fill(labels == IGNORE, -1)
        other = (target, None, None)
        loaders = iter((Loader((images, labels, None), before), Loader(other), Loader(other), Loader(other)))
        loop.data = SimpleNamespace(DataLoader=lambda *args, **kwargs: next(loaders))
        loop.GTA5_Dataset, loop.City_Dataset = lambda *args, **kwargs: "", lambda *args, **kwargs: ""
        parser = loop.add_UDA_train_args(loop.add_train_args(loop.argparse.ArgumentParser()))
        wanted = ["--target_mode", "IW_maxsquare", "--multi", "True", "--lambda_target", "0.09"]
        args = parser.parse_args([*wanted, "--threshold", str(threshold)])
        args.batch_size, args.class_16, args.source_data_path, args.source_list_path = 1, False, "", ""
        args.target_dataset = args.dataset
        loop.UDATrainer(args, cuda=True, train_id="speed", logger=SimpleNamespace(info=print)).train_round()

    def ours() -> Step:
        method = MaxSquare(weighting="image", weight=0.09, level="multi", aux_weight=0.009, threshold=threshold)
        update = trained(begin(**options), [Supervised(aux_weight=0.1), method], 250_000)
        views = scene.views()
        return lambda: update(views)

    # the authors add the second level in place before they print
    printed = {
        "loss_seg": (["loss/Supervised/segmentation", "loss/Supervised/auxiliary"], 1.0),
        "loss_seg_2": (["loss/Supervised/auxiliary"], 1.0),
        "loss_target": (["loss/MaxSquare/squares", "loss/MaxSquare/guidance"], 1.0),
        "loss_target_2": (["loss/MaxSquare/guidance"], 1.0),
    }
    note = f"ours: uda's DeepLabV2; guided from {threshold}, so that untrained networks are guided"
    return Case("MaxSquare, image-wise, two levels", note, theirs, ours, printed, compared(blocks))


def dacs(folder: Path, blocks: Sequence[int], scene: Scene) -> Case:
    """DACS' ``main`` with jitter and blur at every step; kornia must be there."""
    always = ["evaluateUDA", "data", "data.augmentations", "scipy.misc", "scipy.ndimage.interpolation"]
    with importing(folder / "DACS", [*always, "scipy.ndimage.filters"]):
        loop: Any = importlib.import_module("trainUDA")
        network = importlib.import_module("model.deeplabv2")
    options: Any = {"blocks": blocks, "aux": False, "dilations": (6, 12)}
    temporary = tempfile.mkdtemp()

    def made(num_classes: int) -> Any:
        start = caffe_names(begin(**options).state_dict())
        return with_weights(network.ResNet(network.Bottleneck, list(blocks), num_classes), start)

    def theirs(before: Callable[[], None]) -> None:
        torch.save({}, f"{temporary}/start.pth")
        random.seed(0)
        images, target = scene.caffe()
        source = Loader((images, scene.source.known_labels, None, None), before)
        # the target's loader is made twice, the source's last
        others = [Loader((target, None, None, None, None)) for _ in range(2)]
        loaders = iter((*others, source))
        config = {"training": {"learning_rate": LR}, "utils": {"tensorboard": False}}
        every = {"save_checkpoint_every": 1_000_000, "val_per_iter": 1_000_000, "log_per_iter": 100}
        switches = {"train_unlabeled": True, "mix_mask": "class", "pixel_weight": "threshold_uniform"}
        switches |= {"consistency_loss": "CE", "consistency_weight": 1, "random_flip": False, "color_jitter": True}
        switches |= {"gaussian_blur": True, "random_crop": False, "save_unlabeled_images": False}
        rates = {"learning_rate": LR, "optimizer_type": "SGD", "lr_schedule": "Poly", "lr_power": 0.9}
        rates |= {"weight_decay": DECAY, "momentum": MOMENTUM, "num_iterations": 250_000, "batch_size": 2}
        vars(loop).update(
            {**every, **switches, **rates},
            Res_Deeplab=made,
            data=SimpleNamespace(DataLoader=lambda *args, **kwargs: next(loaders)),
            random=SimpleNamespace(uniform=lambda low, high: 0.9, randint=random.randint),
            get_loader=lambda name: lambda *args, **kwargs: "",
            get_data_path=lambda name: "",
            args=SimpleNamespace(resume=None),
            config=config,
            dataset="cityscapes",
            restore_from=f"{temporary}/start.pth",
            num_classes=CLASSES,
            IMG_MEAN=torch.tensor(MEAN).numpy(),
            input_size=scene.size,
            ignore_label=IGNORE,
            num_workers=0,
            labeled_samples=None,
            use_sync_batchnorm=True,
            checkpoint_dir=temporary,
            log_dir=temporary,
            save_best_model=False,
            gpus=(0,),
        )
        loop.main()

    def ours() -> Step:
        method = ClassMix(jitter_probability=1.0, blur_probability=1.0)
        update = trained(begin(**options), [Supervised(aux_weight=0.0), method], 250_000)
        views = scene.views()
        return lambda: update(views)

    note = "ours: uda's DeepLabV2; the draws differ, so only the source's loss is comparable, in the first step"
    return Case("DACS, batch 2", note, theirs, ours, {"loss_l": (["loss/Supervised/segmentation"], 1.0)}, alike=1)


class Pixels(nn.Module):
    """A segmenter as the classifier that the test-time codes expect: a sample for each pixel of ``size``."""

    def __init__(self, network: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images).logits
        if tuple(logits.shape[-2:]) != self.size:
            logits = F.interpolate(logits, self.size, mode="bilinear", align_corners=False)
        return logits.permute(0, 2, 3, 1).flatten(0, 2)


def confidence(logits: Tensor) -> float:
    """Mean probability of the most probable class, of ``(N, C, ...)``."""
    return float(logits.detach().softmax(1).amax(1).mean())


def at_test(
    name: str, note: str, make: Callable[[], Any], method: Callable[[], TestTimeMethod], **options: Any
) -> Case:
    """A test-time class of the authors' beside ours, on the same network, which predicts the target again and again."""
    scene: Scene = options.pop("scene")

    def theirs(before: Callable[[], None]) -> None:
        adapting = make()
        before()
        while True:
            output = adapting(scene.target.images)
            print(f"confidence = {confidence(output):.6f}")
            before()

    def ours() -> Step:
        mine, model = method(), begin(**options)
        mine.attach(model.eval())
        return lambda: {"confidence": confidence(mine(scene.target.images).logits)}

    return Case(name, note, theirs, ours, {"confidence": (["confidence"], 1.0)})


def tent(folder: Path, blocks: Sequence[int], scene: Scene) -> Case:
    """TENT's class; its samples are pixels."""
    with importing(folder / "tent"):
        code = importlib.import_module("tent")
    scene = scene.first()
    options: Any = {"blocks": blocks, "aux": False, "frozen_affine": "none"}

    def make() -> Any:
        model = code.configure_model(Pixels(begin(**options), scene.size))
        parameters, _ = code.collect_params(model)
        return code.Tent(model, torch.optim.SGD(parameters, lr=LR, momentum=MOMENTUM))

    return at_test(
        "TENT", "both: uda's DeepLabV2", make, lambda: TENT(lr=LR, momentum=MOMENTUM), scene=scene, **options
    )


def cotta(folder: Path, blocks: Sequence[int], scene: Scene) -> Case:
    """CoTTA's class for CIFAR with its 32 copies, all at three quarters of the size in both codes."""
    with importing(folder / "cotta" / "cifar"):
        code = importlib.import_module("cotta")
    scene = scene.first()
    small = [round(0.75 * side) for side in scene.size]
    options: Any = {"blocks": blocks, "aux": False, "frozen_affine": "none"}

    def make() -> Any:
        code.get_tta_transforms = lambda: lambda x: F.interpolate(x, small, mode="bilinear", align_corners=False)
        model = code.configure_model(Pixels(begin(**options), scene.size))
        parameters, _ = code.collect_params(model)
        optimizer = torch.optim.Adam(parameters, lr=7.5e-6)
        return code.CoTTA(model, optimizer, mt_alpha=0.999, rst_m=0.01, ap=1.1)

    def method() -> TestTimeMethod:
        copies = {"scales": (0.75,) * 32, "flip": False, "threshold": 1.0}
        return CoTTA(labels="soft", statistics="batch", **copies)  # type: ignore[arg-type]

    note = "both: uda's DeepLabV2; the authors' code for CIFAR (that for segmentation needs mmseg), 32 equal copies"
    return at_test("CoTTA", note, make, method, scene=scene, **options)


CASES: dict[str, Callable[[Path, Sequence[int], Scene], Case]] = {
    "advent": advent,
    "dacs": dacs,
    "clan": clan,
    "maxsquare": max_square,
    "tent": tent,
    "cotta": cotta,
}
