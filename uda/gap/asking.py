"""How a network is asked for what an analysis looks at."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from uda.engine.inference import PLAIN, Inference, at_size, predict_logits, resize_images
from uda.engine.precision import autocast, widened
from uda.methods.base import TestTimeMethod
from uda.types import Sample, SegOutput


class Asker:
    """A network and how it is asked."""

    def __init__(self, model: nn.Module, inference: Inference, precision: str) -> None:
        self.model, self.inference, self.precision = model, inference, precision
        self.device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))

    def output(self, images: Tensor, size: tuple[int, int]) -> SegOutput | Tensor:
        """Of ``(N, 3, H, W)``: logits of a size, with the features where the network gives any."""
        images = images.to(self.device)
        if not self._plain():
            logits = self.logits(images, size)
            features = self._forward(self.resize(images))
            return features._replace(logits=logits) if isinstance(features, SegOutput) else logits
        output = self._forward(images)
        if isinstance(output, SegOutput):
            return output._replace(logits=at_size(output.logits.float(), size))
        return at_size(output.float(), size)

    def of_sample(self, sample: Sample) -> SegOutput | Tensor:
        """The same of one image, at its label's size."""
        size = sample.image.shape[-2:] if sample.label is None else sample.label.shape[-2:]
        return self.output(sample.as_float()[None], (int(size[0]), int(size[1])))

    def logits(self, images: Tensor, size: tuple[int, int], resized: bool = True) -> Tensor:
        """Of ``(N, 3, h, w)``, at another size; if not ``resized``, that of the network where one pass gives them."""
        images = images.to(self.device)
        return predict_logits(
            self.model, images, self.inference, precision=self.precision, size=size, resized=resized
        ).float()

    def resize(self, images: Tensor) -> Tensor:
        """As the network sees them."""
        return resize_images(images, self.inference)

    def _plain(self) -> bool:
        return self.inference.model_dump() == PLAIN.model_dump()

    def _forward(self, images: Tensor) -> SegOutput | Tensor:
        adapts = isinstance(self.model, TestTimeMethod)
        with autocast(images.device.type, self.precision), torch.set_grad_enabled(adapts):
            output = widened(self.model(images))
        detached: SegOutput | Tensor = output.detach()
        return detached
