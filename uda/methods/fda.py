"""FDA: Fourier domain adaptation (Yang and Soatto, CVPR 2020).

The source images get the low-frequency amplitude of target images (equation 3, :mod:`uda.functional.fourier`); with
``entropy_weight`` the robust entropy of the target prediction is minimised as well (equations 5 and 6).

Departures: the target of the pair is drawn at random from the step's target images, as they are after augmentation; the
entropy is taken at image size and divided by ln C, where the published code takes it at the network's stride and
divides by 2.9444 for any number of classes. The means of images are not subtracted first, as networks of this library
normalise their input themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast, get_args

from uda.functional.entropy import robust_entropy_loss
from uda.functional.fourier import Band, fda_source_to_target
from uda.methods.base import Method
from uda.methods.support.checks import in_range, not_negative, one_of, positive
from uda.methods.support.restyle import restyle_source

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from uda.step import Step


class FDA(Method):
    """Source images in the style of target images.

    Args:
        beta: half width of the swapped band as a share of the shorter side, in [0, 0.5]. The paper trains with 0.01,
            0.05 and 0.09.
        band: ``"symmetric"`` (the paper) or ``"half-open"`` (its training code).
        clip: clip the restyled images to [0, 1]; the paper does not.
        entropy_weight: of the robust entropy of the target, at least 0; the paper's λ is 0.005.
        eta: exponent of the robust entropy, above 0; the paper's is 2.

    Raises:
        ValueError: a value out of its range.
    """

    own_images = frozenset({"losses"})

    def __init__(
        self,
        *,
        beta: float = 0.01,
        band: Band = "symmetric",
        clip: bool = False,
        entropy_weight: float = 0.0,
        eta: float = 2.0,
    ) -> None:
        super().__init__()
        self.beta = in_range("beta", beta, 0.0, 0.5)
        self.band = cast("Band", one_of("band", band, get_args(Band)))
        self.clip = clip
        self.entropy_weight = not_negative("entropy_weight", entropy_weight)
        self.eta = positive("eta", eta)
        self.reads, self.learns = frozenset({"target"} if entropy_weight else ()), bool(entropy_weight)

    def prepare(self, step: Step) -> None:
        restyle_source(step, self.restyle)

    def restyle(self, images: Tensor, style: Tensor, generator: torch.Generator) -> Tensor:
        """``(N, 3, H, W)`` images with the low-frequency amplitude of as many style images; draws nothing."""
        restyled = fda_source_to_target(images, style, self.beta, self.band)
        return restyled.clamp(0, 1) if self.clip else restyled

    def losses(self, step: Step) -> dict[str, Tensor]:
        if not self.entropy_weight:
            return {}
        loss = robust_entropy_loss(step.predict("target").logits, eta=self.eta)
        return {"entropy": self.entropy_weight * loss}
