"""Pictures of what methods do to images: one step of each on two procedural scenes, without a trained network."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache

import cv2
import numpy as np
import torch

from uda.data import CITYSCAPES19, CITYSCAPES34, wrap
from uda.data.streets import render
from uda.engine import Update
from uda.methods import METHODS, Supervised, method
from uda.step import Step
from uda.testing.tiny import TinySegmenter
from uda.types import TaskSpec, View, Window

SIZE = (192, 384)
GAP = 6
STEPS = 8
"""At most; augmentations leave some images as they are."""
NAMES = {"source": "the source after it", "mixed": "the mixed image", "masked": "the masked image"}


def makes_images(name: str) -> bool:
    """Whether a method restyles a view or adds one, by its source."""
    source = inspect.getsource(inspect.getmodule(METHODS[name]))  # type: ignore[arg-type]
    return "step.put(" in source or "restyle_source(" in source


@cache
def scenes() -> tuple[View, View]:
    """A source and a target view of one procedural scene each."""
    views = []
    for number, domain in enumerate(("cityscapes", "kitti")):
        image, ids = render(domain, 11, SIZE, index=0)
        label = torch.from_numpy(np.asarray(CITYSCAPES34.mapping_to(CITYSCAPES19)(ids), np.int64))
        window = Window(0, SIZE, 0, 0, *SIZE)
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
        views.append(View(pixels, label[None] if number == 0 else None, names=(domain,), windows=(window,)))
    return views[0], views[1]


def figure(name: str) -> tuple[bytes, list[str]]:
    """A PNG of source, target and what a method makes of them, and what each picture is, from left to right."""
    source, target = scenes()
    torch.manual_seed(0)
    network = TinySegmenter(CITYSCAPES19.num_classes)
    update = Update(
        network,
        [Supervised(), method(name)],
        total_steps=STEPS,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.0),
    )
    data = [
        wrap([((255 * view.images[0]).byte(), source.known_labels[0])], space="cityscapes19")
        for view in (source, target)
    ]
    update.setup(TaskSpec.of(network, CITYSCAPES19, source=data[0], target=data[1].unlabelled()))
    made: dict[str, torch.Tensor] = {}
    for _ in range(STEPS):
        update({"source": source, "target": target})
        made = changed(update.step, {"source": source, "target": target})
        if made:
            break
    else:
        raise ValueError(f"{name} changed no image in {STEPS} steps")
    named = {NAMES.get(view, f"the view `{view}`"): images for view, images in made.items()}
    pictures = {"source": source.images, "target": target.images, **named}
    return _png([images[0] for images in pictures.values()]), list(pictures)


def changed(step: Step | None, loaded: Mapping[str, View]) -> dict[str, torch.Tensor]:
    """The images of the views that a step's methods added or replaced, by view."""
    if step is None:
        raise ValueError("no step was taken")
    views = {name: step.view(name).images for name in step.view_names}
    return {
        name: images for name, images in views.items()
        if name not in loaded or not torch.equal(images, loaded[name].images)
    }  # fmt: skip


def _png(images: list[torch.Tensor]) -> bytes:
    """Images ``(3, H, W)`` in [0, 1] side by side."""
    height, width = SIZE
    row = np.full((height, len(images) * (width + GAP) - GAP, 3), 255, np.uint8)
    for at, image in enumerate(images):
        pixels = (255 * image.detach().clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()
        left = at * (width + GAP)
        row[:, left : left + width] = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return bytes(cv2.imencode(".png", row[..., ::-1])[1])
