"""What each family of methods makes of one source and one target image, step by step, as figures.

python experiments/method_steps.py --runs runs/report --out runs/report/steps

Draws from runs that are there (``uda bench experiments/report_streets.yaml --out runs/report``) and trains nothing.
What a method makes of the images is what its own ``prepare`` puts into a step, not a copy of its code.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor, nn

from uda.bench.build import open_dataset, open_source
from uda.config import BenchConfig, load_config
from uda.data.transforms import TrainTransform
from uda.engine import checkpoint
from uda.functional import (
    batch_norms,
    confident_labels,
    image_stats,
    running_statistics,
    self_information,
)
from uda.methods import CBST, FDA, MIC, TENT, AdaBN, AdvEnt, ClassMix, HistogramMatching, MeanStd, Reinhard
from uda.methods.base import Method, TestTimeMethod
from uda.models import load
from uda.models.pretrained import CHECKPOINT
from uda.step import Step
from uda.types import IGNORE, Sample, TaskSpec, View

START, BEFORE = "warm_start", "source_only"
"""The network that every row starts from, and that which trains on for as long without a method."""
COLUMN = 3.2
"""Inches of a picture."""


@dataclass(frozen=True)
class Heat:
    """Numbers ``(H, W)`` to draw in a scale of colours."""

    values: NDArray[Any]
    low: float
    high: float
    colours: str = "magma"


Picture = NDArray[Any] | Heat
"""``(H, W, 3)`` uint8 RGB, or numbers."""


class Streets:
    """The runs of a benchmark on one shift, and a pair of validation images.

    Args:
        config: the benchmark, a row for each family.
        runs: the folder that holds its folder.
        image: which validation image.
    """

    def __init__(self, config: BenchConfig, runs: Path, image: int = 0) -> None:
        self.config, self.folder, self.seed = config, runs / config.name, config.seeds[0]
        self.train = open_source(config.source, config.space)
        self.target_train = open_dataset(config.target, config.space).unlabelled()
        self.data: dict[str, Any] = {name: open_dataset(spec, config.space) for name, spec in config.domains.items()}
        self.space = self.data["source"].space
        self.sample = self.data["target"][image]
        self.views = self._views(image)
        self._networks: dict[str, nn.Module] = {}

    def _views(self, image: int) -> dict[str, View]:
        """A source and a target image of equal size, cut from the middle; the target's labels stay out."""
        source, target = self.data["source"][image], self.sample
        size = [min(source.image.shape[at], target.image.shape[at]) for at in (1, 2)]
        images, label = [_middle(sample.as_float(), size)[None] for sample in (source, target)], source.label
        if label is None:
            raise ValueError(f"{source.name}: has no labels")
        return {"source": View(images[0], _middle(label, size)[None]), "target": View(images[1])}

    def network(self, row: str) -> nn.Module:
        """A row's network, in evaluation mode."""
        if row not in self._networks:
            self._networks[row] = load(self.folder / row / f"seed{self.seed}").eval()
        return self._networks[row]

    def task(self, network: nn.Module) -> TaskSpec:
        """What a method may know: the training images of both domains, the target's without labels."""
        return TaskSpec.of(network, self.space, source=self.train, target=self.target_train)

    def step(self, method: Method, row: str = START) -> Step:
        """The first step of a run on the pair, after the method's ``prepare``; its teacher is the network itself."""
        network = self.network(row)
        method.setup(self.task(network))
        teacher = lambda name, view: network(view.images)  # noqa: E731
        generator = torch.Generator().manual_seed(self.seed)
        step = Step(network, self.views, index=0, total=2, generator=generator, teacher=teacher)
        with torch.no_grad():
            method.prepare(step)
        return step

    @torch.no_grad()
    def probabilities(self, images: Tensor, row: str = START) -> Tensor:
        """``(N, C, H, W)`` of a row's network."""
        return self.network(row)(images).logits.softmax(1)

    def colour(self, labels: Tensor) -> NDArray[np.uint8]:
        """``(H, W)`` or ``(1, H, W)`` train ids in the classes' colours, ignored pixels black."""
        return self.space.colourise(labels.squeeze(0).numpy())


def before_and_after(streets: Streets, row: str) -> Figure:
    """A target image as the start, source-only and a row's network see it, and its labels."""
    return grid(outcome(streets, {row: streets.network(row)}), 5, streets)


def outcome(streets: Streets, after: Mapping[str, nn.Module]) -> dict[str, Picture]:
    """The target image, its predictions by the start, by source-only and by other networks, and its labels."""
    networks = {"start": streets.network(START), "source-only": streets.network(BEFORE), **after}
    label = streets.sample.label
    if label is None:
        raise ValueError(f"{streets.sample.name}: has no labels")
    pictures: dict[str, Picture] = {"whole target image": _rgb(streets.sample.as_float())}
    for name, network in networks.items():
        with torch.no_grad():
            predicted = network(streets.sample.as_float()[None]).logits.argmax(1)[0]
        right = (predicted == label)[label != IGNORE].float().mean()
        pictures[f"{name}: {100 * right:.0f} % of pixels right"] = streets.colour(predicted)
    return {**pictures, "label (to score only)": streets.colour(label)}


def grid(panels: Mapping[str, Picture], columns: int, streets: Streets | None = None) -> Figure:
    """Pictures with their titles, row by row; the classes' colours below, where a space is given."""
    rows = -(-len(panels) // columns)
    shapes = [panel.values.shape if isinstance(panel, Heat) else panel.shape for panel in panels.values()]
    tall = max(shape[0] / shape[1] for shape in shapes)
    legend = 0.0 if streets is None else 0.35
    figure = Figure(figsize=(COLUMN * columns, rows * (COLUMN * tall + 0.3) + legend), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (title, panel) in zip(axes.flat, panels.items(), strict=False):
        if isinstance(panel, Heat):
            drawn = axis.imshow(panel.values, cmap=panel.colours, vmin=panel.low, vmax=panel.high)
            figure.colorbar(drawn, ax=axis, fraction=0.03, pad=0.01)
        else:
            axis.imshow(panel, interpolation="nearest")
        axis.set_title(title, fontsize=9)
    if streets is not None:
        patches = [Patch(color=[value / 255 for value in colour]) for colour in streets.space.colours]
        figure.legend(
            patches, streets.space.names, loc="outside lower center", ncols=len(patches), fontsize=8, frameon=False
        )
    return figure


def augmentations(sample: Sample) -> dict[str, Picture]:
    """An image as each part of the online augmentation changes it, and all of them together."""
    from torchvision.transforms.v2 import functional as F

    plain: dict[str, Any] = {"crop": tuple(sample.image.shape[1:]), "scale": (1.0, 1.0), "flip": 0.0}
    changes: dict[str, dict[str, Any]] = {
        "as it is": {},
        "flip": {"flip": 1.0},
        "scale 0.5 to 0.6": {"scale": (0.5, 0.6)},
        "jitter 0.5, hue 0.1": {"jitter": 0.5, "hue": 0.1, "jitter_probability": 1.0},
        "blur": {"blur": 1.0, "blur_sigma": (1.1, 1.2)},
        "all of them": {"scale": (0.5, 0.9), "flip": 1.0, "jitter": 0.5, "hue": 0.1, "blur": 1.0},
    }
    images = {name: TrainTransform(**{**plain, **change})(sample, 3).image for name, change in changes.items()}
    images["brightness × 1.4"] = F.adjust_brightness(sample.as_float(), 1.4)
    images["contrast × 1.4"] = F.adjust_contrast(sample.as_float(), 1.4)
    order = [*list(changes)[:3], "brightness × 1.4", "contrast × 1.4", *list(changes)[3:]]
    return {name: _rgb(images[name]) for name in order}


def inputs(streets: Streets) -> dict[str, Picture]:
    """The pair of images, and the source's labels."""
    source, target = streets.views["source"], streets.views["target"]
    return {
        "source image": _rgb(source.images),
        "labels of the source image": streets.colour(source.known_labels),
        "target image, no labels": _rgb(target.images),
    }


def colour_steps(streets: Streets) -> dict[str, Picture]:
    """The source image as mean and deviation, Reinhard and histogram matching restyle it, with its channel means."""
    pictures: dict[str, Picture] = {
        f"{name} {_means(streets.views[name].images)}": _rgb(streets.views[name].images)
        for name in ("source", "target")
    }
    for method in (MeanStd(), MeanStd(statistics="image", source_statistics="image"), Reinhard(), HistogramMatching()):
        images = streets.step(method).view("source").images
        name = type(method).__name__ + (", of the image" if method.arguments.get("statistics") == "image" else "")
        pictures[f"{name} {_means(images)}"] = _rgb(images)
    return pictures


def fourier_steps(streets: Streets, betas: tuple[float, ...] = (0.01, 0.05, 0.09)) -> dict[str, Picture]:
    """Both images, their amplitudes, and the source image with the target's low frequencies."""
    pictures: dict[str, Picture] = {}
    for name in ("source", "target"):
        images = streets.views[name].images
        amplitude = torch.fft.fftshift(torch.fft.fft2(images.mean(1)).abs())[0].log10().numpy()
        pictures[f"{name} image"] = _rgb(images)
        pictures[f"its amplitude, log10, {name}"] = Heat(amplitude, -1, 4)
    for beta in betas:
        pictures[f"FDA, β = {beta}"] = _rgb(streets.step(FDA(beta=beta)).view("source").images)
    restyled = streets.step(FDA(beta=betas[1])).view("source").images
    change = (restyled - streets.views["source"].images).mean(1)[0].numpy()
    pictures[f"what β = {betas[1]} adds"] = Heat(change, -0.4, 0.4, "RdBu_r")
    return pictures


def adversarial_steps(streets: Streets, row: str = "advent") -> dict[str, Picture]:
    """Predictions, self-information and the trained discriminator's answer, of both domains."""
    pictures: dict[str, Picture] = {}
    discriminator = AdvEnt()
    discriminator.setup(streets.task(streets.network(row)))
    state = checkpoint.load(streets.folder / row / f"seed{streets.seed}" / CHECKPOINT)
    discriminator.load_state_dict(state["methods"]["AdvEnt"])
    for name in ("source", "target"):
        images = streets.views[name].images
        prob = streets.probabilities(images)
        with torch.no_grad():
            scores = discriminator.score(streets.network(row)(images))["main"].sigmoid()
        pictures[f"{name} image"] = _rgb(images)
        pictures[f"{name}: prediction of the start"] = streets.colour(prob.argmax(1))
        pictures[f"{name}: its self-information"] = Heat(self_information(prob).sum(1)[0].numpy(), 0, 1)
        pictures[f"{name}: discriminator after training"] = Heat(scores[0, 0].numpy(), 0, 1, "coolwarm")
    return pictures


def self_training_steps(streets: Streets, images: int = 20) -> dict[str, Picture]:
    """CBST's first labels: the confidence, all labels, and those above their class's threshold."""
    target = streets.views["target"].images
    method = CBST(images=images)
    streets.step(method)
    labels, confidence = confident_labels(streets.probabilities(target).log())
    chosen = method.label_map(streets.probabilities(target))[0]
    share = 100 * float((chosen != IGNORE).float().mean())
    return {
        "target image": _rgb(target),
        "confidence of the start": Heat(confidence[0].numpy(), 0, 1),
        "all its labels": streets.colour(labels),
        f"those that CBST takes ({share:.0f} %)": streets.colour(chosen.long()),
    }


def thresholds(streets: Streets, images: int = 20) -> dict[str, float]:
    """CBST's threshold of each class in its first round."""
    method = CBST(images=images)
    streets.step(method)
    return dict(zip(streets.space.names, method.thresholds.tolist(), strict=True))


def mixing_steps(streets: Streets) -> dict[str, Picture]:
    """ClassMix: the teacher's labels, the mixed image, its labels, and the weight of each pixel."""
    step = streets.step(ClassMix())
    mixed, target = step.view("mixed"), streets.views["target"].images
    labels, _ = confident_labels(streets.probabilities(target).log())
    weight = mixed.weight
    if weight is None:
        raise ValueError("ClassMix gave no weights")
    return {
        **inputs(streets),
        "the teacher's labels": streets.colour(labels),
        "mixed image, jittered and blurred": _rgb(mixed.images),
        "labels of the mixed image": streets.colour(mixed.known_labels),
        "weight of its pixels": Heat(weight[0].numpy(), 0, 1),
    }


def masking_steps(streets: Streets, row: str = "mic", block: int = 16) -> dict[str, Picture]:
    """MIC: the masked image, the teacher's labels of the whole one, and what start and adapted network make of it."""
    view = streets.step(MIC(block=block)).view("masked")
    return {
        "target image": _rgb(streets.views["target"].images),
        "the teacher's labels": streets.colour(view.known_labels),
        "masked image": _rgb(view.images),
        "masked image: the start": streets.colour(streets.probabilities(view.images).argmax(1)),
        "masked image: after MIC": streets.colour(streets.probabilities(view.images, row).argmax(1)),
    }


def statistics_figure(streets: Streets, images: int = 20) -> Figure:
    """How far the means of validation images lie from the stored ones in every batch-norm layer, in stored deviations.

    A point is the mean over a layer's channels; the network predicts, each layer with its stored statistics.
    """
    figure = Figure(figsize=(7.5, 2.6), layout="constrained")
    axes = figure.subplots()
    for name, colour, marker in (("source", "#0072b2", "o"), ("target", "#d55e00", "s")):
        data = streets.data[name]
        shifts = _shifts(streets.network(BEFORE), [data[at].as_float() for at in range(min(images, len(data)))])
        axes.plot(range(1, len(shifts) + 1), shifts, f"{marker}-", color=colour, markersize=3, label=f"{name} images")
    axes.set(xlabel="batch-norm layer, from the image to the output", ylabel="|shift of the mean| / deviation")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def _shifts(network: nn.Module, images: Sequence[Tensor]) -> list[float]:
    """The shift of each batch-norm layer's input, averaged over its channels, in the order of the network."""
    layers = batch_norms(network)
    means: dict[str, list[Tensor]] = {name: [] for name in layers}
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: means[name].append(inputs[0].mean((0, 2, 3))))
        for name, layer in layers.items()
    ]
    try:
        with torch.no_grad():
            for image in images:
                network(image[None])
    finally:
        for hook in hooks:
            hook.remove()
    return [
        float(((torch.stack(means[name]).mean(0) - mean) / var.clamp(min=1e-12).sqrt()).abs().mean())
        for name, (mean, var) in running_statistics(network).items()
    ]


def test_time(streets: Streets) -> dict[str, nn.Module]:
    """The source-only network under target statistics, and under TENT, which has seen all validation images once."""
    adapted: dict[str, nn.Module] = {}
    for name, method in {"AdaBN, prior 0.5": AdaBN(prior=0.5), "AdaBN": AdaBN(), "TENT": TENT()}.items():
        network = load(streets.folder / BEFORE / f"seed{streets.seed}").eval()
        method.attach(network, TaskSpec.at_test_time(network, target=streets.target_train))
        if isinstance(method, TENT):
            _predict_all(method, streets)
        adapted[name] = method
    return adapted


def _predict_all(method: TestTimeMethod, streets: Streets) -> None:
    for sample in streets.data["target"]:
        method(sample.as_float()[None])


def _middle(tensor: Tensor, size: list[int]) -> Tensor:
    top, left = ((whole - part) // 2 for whole, part in zip(tensor.shape[-2:], size, strict=True))
    return tensor[..., top : top + size[0], left : left + size[1]]


def _rgb(images: Tensor) -> NDArray[np.uint8]:
    """``(3, H, W)`` or ``(1, 3, H, W)`` in [0, 1] -> ``(H, W, 3)`` uint8."""
    pixels: NDArray[np.uint8] = (images.squeeze(0).permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy()
    return pixels


def _means(images: Tensor) -> str:
    return "(" + " ".join(f"{100 * float(value):.0f}" for value in image_stats(images)[0].flatten()) + ")"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("report_streets.yaml"))
    parser.add_argument("--runs", type=Path, default=Path("runs/report"))
    parser.add_argument("--out", type=Path, default=Path("runs/report/steps"))
    parser.add_argument("--image", type=int, default=0, help="which validation image")
    arguments = parser.parse_args()
    streets = Streets(load_config(arguments.config), arguments.runs, arguments.image)
    steps = {
        "mean_std": colour_steps(streets),
        "fda": fourier_steps(streets),
        "advent": adversarial_steps(streets),
        "cbst": self_training_steps(streets),
        "class_mix": mixing_steps(streets),
        "mic": masking_steps(streets),
    }
    figures = {f"{row}_steps": grid(pictures, 4, streets) for row, pictures in steps.items()}
    figures |= {f"{row}_outcome": before_and_after(streets, row) for row in steps}
    figures["statistics"] = statistics_figure(streets)
    figures["test_time_outcome"] = grid(outcome(streets, test_time(streets)), 4, streets)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(arguments.out / f"{name}.png", dpi=100)
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
