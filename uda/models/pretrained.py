"""Trained segmenters on disk and back: a JSON that says what the network is, and its weights as safetensors.

``model.json`` holds how the network is built, its classes (names, colours, ids) and its normalisation. A run folder has
it too, beside the checkpoint whose weights it describes; :func:`load` takes either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from uda.files import atomic_write
from uda.models.batch_norm import add_target_norms, needs_target_norms, normalising, place_norms
from uda.models.teacher import inner_state
from uda.registry import Configurable

if TYPE_CHECKING:
    from uda.data.classes import LabelSpace

DESCRIPTION = "model.json"
"""What the network is."""
WEIGHTS = "model.safetensors"
"""Its weights, where the folder is no run's."""
CHECKPOINT = "checkpoint.pt"
"""Name of a run's checkpoint, in which the weights are one entry."""
FORMAT = 1
"""Of the description; a newer one is refused."""

_NAMES = {
    "uda.models.segmenter:Segmenter": "segmenter",
    "uda.models.daformer:DaformerSegmenter": "daformer",
    "uda.models.deeplabv2:DeepLabV2": "deeplabv2_resnet101",
}
"""Classes that their constructor's arguments build anew, by the name of :data:`uda.models.MODELS`."""


class ModelError(ValueError):
    """A folder that holds no loadable network; the message names the file."""


def describe(model: nn.Module, space: LabelSpace | None = None) -> dict[str, Any]:
    """What :func:`load` has to know of a network, as plain values.

    Args:
        model: of this library (built by :func:`~uda.models.build_model` or its class), or an adapted one, which can be
            loaded only into a network that the user gives.
        space: label space of its classes; by default the one that it was trained in.
    """
    own: Any = space if space is not None else getattr(model, "space", None)
    normalise: Any = getattr(model, "normalise", None)
    statistics = None if normalise is None else {
        "mean": normalise.mean.flatten().tolist(), "std": normalise.std.flatten().tolist(), "bgr": normalise.bgr
    }  # fmt: skip
    return {
        "format": FORMAT,
        "architecture": _architecture(model),
        "num_classes": model.num_classes,
        "classes": own.describe() if hasattr(own, "describe") else None,
        "normalise": statistics,
    }


def _architecture(model: nn.Module) -> dict[str, Any] | None:
    """The name and the options that build a network like this one; ``None`` where nobody knows."""
    built: Any = getattr(model, "built_as", None)
    if built is None and isinstance(model, Configurable):
        name = _NAMES.get(f"{type(model).__module__}:{type(model).__name__}")
        built = name and {"name": name, "options": {k: v for k, v in model.arguments.items() if k != "num_classes"}}
    if not built:
        return None
    options = {key: value for key, value in built["options"].items() if key != "weights"}
    try:
        return {"name": built["name"], "options": json.loads(json.dumps(options))}
    except TypeError:  # an option that is no plain value
        return None


def write_description(model: nn.Module, folder: Path | str, space: LabelSpace | None = None) -> Path:
    """Write ``folder/model.json``; see :func:`describe`."""
    path = Path(folder) / DESCRIPTION
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(json.dumps(describe(model, space), indent=2) + "\n")
    return path


def save(model: nn.Module, folder: Path | str, space: LabelSpace | None = None) -> Path:
    """Write a network into a folder: ``model.json`` and ``model.safetensors``.

    Args:
        model: a segmenter; its parameters and buffers are written as they are, on whatever device.
        folder: made if need be; a network that lies there is replaced.
        space: label space of its classes; by default the one that it was trained in.

    Returns:
        The folder.

    Raises:
        ValueError: a space of another number of classes.
        OSError: the folder cannot be written.
    """
    from safetensors.torch import save as to_bytes

    if space is not None and space.num_classes != model.num_classes:
        raise ValueError(f"label space {space.name!r} has {space.num_classes} classes, the model {model.num_classes}")
    folder = Path(folder)
    with normalising(model, "source"):  # each set of statistics under its own name
        state = {name: value.detach().cpu().clone().contiguous() for name, value in model.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / WEIGHTS, binary=True) as file:
        file.write(to_bytes(state))
    write_description(model, folder, space)
    return folder


def read_description(folder: Path | str) -> dict[str, Any]:
    """The content of a folder's ``model.json``.

    Raises:
        ModelError: there is none, it is damaged, or of a newer format.
    """
    path = Path(folder) / DESCRIPTION
    if not path.is_file():
        raise ModelError(f"{folder}: no trained network (no {DESCRIPTION})")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        newer, _ = content["format"] > FORMAT, content["num_classes"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: damaged, no description of a network ({type(error).__name__}: {error})") from error
    if newer:
        raise ModelError(f"{path}: written by a newer version (format {content['format']}, known is {FORMAT})")
    return content


def load(
    place: Path | str,
    *,
    into: nn.Module | None = None,
    network: Literal["student", "teacher"] = "student",
    device: torch.device | str = "cpu",
) -> nn.Module:
    """A trained network, in evaluation mode, with its classes in ``model.space``.

    Args:
        place: a folder that :func:`save` wrote, a run's folder, or a file in either (``model.safetensors``,
            ``checkpoint.pt``).
        into: a network of the same shapes that takes the weights; needed where the one that was trained is the user's
            own (:func:`~uda.models.adapt`), and returned.
        network: of a run, the one that the optimiser trained or its EMA teacher.
        device: where to put it.

    Returns:
        The network. With batch norm per domain, the target's statistics are in place.

    Raises:
        ModelError: no such folder, a damaged file, a network that cannot be built from the description alone, a run
            without a teacher, or weights of other shapes.
    """
    place = Path(place)
    file = place if place.is_file() else None
    folder = place.parent if file is not None else place
    if not folder.is_dir():
        raise ModelError(f"{place}: no such folder")
    description = read_description(folder)
    path = file or next((folder / name for name in (WEIGHTS, CHECKPOINT) if (folder / name).is_file()), None)
    if path is None:
        raise ModelError(f"{folder}: neither {WEIGHTS} nor {CHECKPOINT}; the run has not got that far")
    state = _read(path, network)
    model = into if into is not None else _build(description, folder)
    if needs_target_norms(state):
        add_target_norms(model)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise ModelError(f"{path}: weights of another network: {' '.join(lines[1:2] or lines)[:300]}") from error
    if description["classes"] is not None:
        from uda.data.classes import LabelSpace

        model.space = LabelSpace.from_description(description["classes"])  # type: ignore[assignment]
    place_norms(model, "target")
    return model.to(device).eval()


def _build(description: Mapping[str, Any], folder: Path) -> nn.Module:
    from uda.models import build_model, model_options

    architecture = description["architecture"]
    if architecture is None:
        raise ModelError(
            f"{folder}: a network of the user's own, which nothing here can build; build it and give load(.., into=it)"
        )
    options = dict(architecture["options"])
    if "weights" in model_options(architecture["name"]) or architecture["name"] == "hrda":
        options["weights"] = None  # the pretrained ones need not be there
    return build_model(architecture["name"], description["num_classes"], **options)


def _read(path: Path, network: str) -> dict[str, Tensor]:
    """The weights of a network in a file."""
    if network not in ("student", "teacher"):
        raise ModelError(f"network is {network!r}, must be 'student' or 'teacher'")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: dict[str, Any] = {"model": load_file(path)}
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's own message would advise to load what is not trusted
        raise ModelError(f"{path}: damaged, or no file of weights ({type(error).__name__})") from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ModelError(f"{path}: holds no network")
    if network == "student":
        state: dict[str, Tensor] = content["model"]
        return state
    if content.get("teacher") is None:
        raise ModelError(f"{path}: has no teacher; only the student can be loaded")
    return inner_state(content["teacher"])
