"""Any segmentation-models-pytorch decoder over any of its or timm's encoders, as a segmenter of this library.

Departures from segmentation-models-pytorch: the final upsampling is bilinear with ``align_corners=False`` (theirs
True); DeepLabV3 and V3+ at output stride 16 use the paper's atrous rates 6, 12, 18 (theirs 12, 24, 36, which the
paper gives for stride 8); batch norm accepts a batch of one (see :class:`~uda.models.base.SingleValueBatchNorm2d`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from uda.models.base import Normalise, SegmentationNetwork, allow_single_values
from uda.models.weights import LITE0, encoder_statistics, load_encoder_weights, resolve_encoder
from uda.registry import nearest

if TYPE_CHECKING:
    from torch import Tensor


class Segmenter(SegmentationNetwork):
    """Normalise, encode, decode; see :class:`~uda.models.base.SegmentationNetwork` for what comes out.

    Args:
        num_classes: classes C, at least 1.
        encoder: a name of segmentation-models-pytorch or timm (``tu-`` is added where it is missing).
            ``mit_b0`` .. ``mit_b5`` are NVIDIA's, for non-commercial use only.
        decoder: a segmentation-models-pytorch architecture: ``DeepLabV3Plus``, ``DeepLabV3``, ``Unet``,
            ``UnetPlusPlus``, ``FPN``, ``PSPNet``, ``PAN``, ``Linknet``, ``MAnet``, ``Segformer``, ``UPerNet``, ``DPT``.
        weights: ``"auto"`` (the embedded ImageNet weights of EfficientNet-Lite0, or by name), ``"timm"``,
            ``"timm:NAME"``, a file, or ``None``; see :func:`~uda.models.weights.load_encoder_weights`.
        mean: three numbers for RGB in [0, 1]; ``None`` takes those that the encoder was pretrained with
            (0.5 for EfficientNet-Lite0).
        std: likewise.
        aux: add an auxiliary classifier on the second-last encoder stage (AdaptSegNet's multi-level, PSPNet's loss).
        dropout: probability before the classifier, in the decoder's own place where it has one; ``None`` is the
            decoder's default (0.5 for DeepLabV3+, none for decoders without a place).
        output_stride: of the encoder, for the decoders that dilate (DeepLabV3, DeepLabV3Plus: 8 or 16; PAN: 16 or 32).
        drop_path: stochastic depth rate of a timm encoder, in [0, 1).
        options: further arguments of the architecture, or of timm's encoder (``dynamic_img_size``, ...).

    Raises:
        ValueError: unknown encoder or decoder (with the nearest), a value out of range, weights that do not fit.
    """

    def __init__(
        self,
        num_classes: int,
        encoder: str = LITE0,
        decoder: str = "DeepLabV3Plus",
        weights: str | None = "auto",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        aux: bool = False,
        dropout: float | None = None,
        output_stride: int = 16,
        drop_path: float = 0.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if dropout is not None and not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path must be in [0, 1), got {drop_path}")
        import segmentation_models_pytorch as smp  # seconds, so not before a network is built

        name = resolve_encoder(encoder)
        arguments = dict(options or {})
        if drop_path:
            arguments["drop_path_rate"] = drop_path
        model, placed = _build(name, decoder, num_classes, dropout, output_stride, arguments)
        default_mean, default_std = encoder_statistics(name)
        channels = list(model.encoder.out_channels)
        stride = int(model.encoder.output_stride)
        if isinstance(model, smp.DPT):
            if stride & (stride - 1):
                raise ValueError(
                    f"DPT needs patches of a power of two, {encoder!r} has {stride}; try options={{'patch_size': 16}}"
                )
            stride *= 2  # it halves the last stage
        super().__init__(
            num_classes=num_classes,
            stage_channels=channels,
            has_aux=aux,
            divisor=stride,
            at_least=8 if isinstance(model, smp.PAN) else 2,  # PAN's pyramid halves the last stage three times
            normalise=Normalise(mean or default_mean, std or default_std),
            encoder_name=name,
            weights=None if weights is None else str(weights),
        )
        self.model: Any = model
        self.dropout = nn.Identity() if placed or not dropout else nn.Dropout2d(dropout)
        self.aux_head = _aux_head(channels[-2], num_classes) if aux else None
        load_encoder_weights(self.encoder, weights, name)

    @property
    def encoder(self) -> nn.Module:  # type: ignore[override]
        """The encoder inside the segmentation-models-pytorch model."""
        encoder: nn.Module = self.model.encoder
        return encoder

    def decode(self, stages: list[Tensor], *extra: Any) -> tuple[Tensor, Tensor | None, Tensor]:
        """Logits and features at the decoder's resolution (DeepLabV3+: a quarter of the image's), auxiliary logits at
        their stage's."""
        decoded: Tensor = self.model.decoder(stages, *extra)
        logits: Tensor = self.model.segmentation_head(self.dropout(decoded))
        return logits, None if self.aux_head is None else self.aux_head(stages[-2]), decoded


def _build(
    encoder: str, decoder: str, num_classes: int, dropout: float | None, output_stride: int, arguments: dict[str, Any]
) -> tuple[Any, bool]:
    """The segmentation-models-pytorch model without weights and final upsampling, and whether it placed the dropout."""
    import segmentation_models_pytorch as smp

    known = {cls.__name__: cls for cls in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    architecture = {name.lower(): cls for name, cls in known.items()}.get(decoder.lower())
    if architecture is None:
        raise ValueError(f"no decoder {decoder!r}; {nearest(decoder, known)}")
    signature = inspect.signature(architecture.__init__).parameters
    if "encoder_output_stride" in signature:
        arguments.setdefault("encoder_output_stride", output_stride)
    if "decoder_atrous_rates" in signature and arguments["encoder_output_stride"] == 16:
        arguments.setdefault("decoder_atrous_rates", (6, 12, 18))
    if decoder.lower() == "dpt":
        arguments.setdefault("dynamic_img_size", True)
    place = next((key for key in signature if key.endswith("dropout")), None)
    if place is not None and dropout is not None:
        arguments.setdefault(place, dropout)
    model = architecture(encoder_name=encoder, encoder_weights=None, classes=num_classes, **arguments)
    if isinstance(model.segmentation_head, nn.Sequential):
        model.segmentation_head[1] = nn.Identity()
    else:
        model.segmentation_head.upsampling_factor = 1.0
    for part in (model.decoder, model.segmentation_head):
        allow_single_values(part)
    return model, place is not None


def _aux_head(in_channels: int, num_classes: int) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU, classifier: PSPNet's auxiliary head, a quarter as wide as its input."""
    width = max(in_channels // 4, 32)
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, num_classes, 1),
    )
