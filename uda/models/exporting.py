"""A trained network as one file that runs without this library: ONNX, or a program of ``torch.export``.

Normalisation, padding and resizing are inside, so that the file takes what a network here takes: float RGB images
``(N, 3, H, W)`` in [0, 1]. Every file is compared with the network that it came from before it gets its name.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F

import uda
from uda.files import atomic_write
from uda.models.base import LARGEST_SIDE, SegmentationNetwork, for_any_size
from uda.models.hrda import HrdaSegmenter
from uda.models.pretrained import ModelError, describe
from uda.registry import nearest
from uda.types import IGNORE

if TYPE_CHECKING:
    from uda.data.classes import LabelSpace

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
"""Format -> what a file of it is called."""
OUTPUTS = ("logits", "probabilities", "labels")
"""What a file can give."""
METADATA = "uda"
"""Key of the description in the file: JSON with classes, normalisation, input and output."""
TOLERANCE = 1e-3
"""Largest difference that is accepted, for values up to 1; larger ones have it in proportion."""
OPSET = 18
"""ONNX's, the first that resizes and pads as torch does."""
_CHECKED = ((1, 64, 96), (2, 75, 107), (3, 128, 50), (1, 31, 200))
"""Batch size, height and width of the images that a file for any size is tried on."""
_TRACED = (2, 75, 107)
_BATCHES = (1, 2, 3)


class ParityError(RuntimeError):
    """An exported file does not give what the network gives; it was not kept."""


@dataclass(frozen=True)
class Export:
    """A file that :func:`export` wrote."""

    path: Path
    difference: float
    """Largest absolute difference from the network over all images that were tried; of ``labels`` the largest logit
    that is lost by taking the file's class in place of the network's."""
    tried: tuple[tuple[int, int, int], ...]
    """Batch size, height and width of those images."""


def export(
    model: nn.Module,
    path: Path | str,
    *,
    format: Literal["onnx", "torch"] = "onnx",
    output: Literal["logits", "probabilities", "labels"] = "logits",
    size: tuple[int, int] | None = None,
    space: LabelSpace | None = None,
    tolerance: float = TOLERANCE,
) -> Export:
    """Write a network into a file that runs without this library; batches of any size go through it.

    Args:
        model: a segmenter, as :func:`uda.models.load` gives it; exported in evaluation mode, on the CPU, and left as it
            is. With batch norm per domain, the statistics that are in place are exported.
        path: the file, ``.onnx`` or ``.pt2``; one that is there is replaced.
        format: ``"onnx"`` (needs ``pip install 'uda-seg[export]'``), or ``"torch"``, which ``torch.export.load`` opens.
        output: ``"logits"`` or ``"probabilities"``, ``(N, C, H, W)`` float32, or ``"labels"``, ``(N, H, W)`` int64
            train ids, all at the image's size.
        size: height and width of the images; by default any, up to 65536 pixels a side.
        space: label space of the classes, for the description in the file; by default ``model.space``.
        tolerance: of the comparison with the network, for values up to 1; larger ones have it in proportion.

    Returns:
        The file and how far it is from the network.

    Raises:
        ModelError: a value out of its range, a missing package, or a network that cannot be exported (for any size:
            HRDA's, whose number of windows depends on the size, and what torch cannot trace; the message says so).
        ParityError: the file gives something else than the network; nothing is left under ``path``.
        OSError: it cannot be written.
    """
    path = Path(path)
    _check(path, format, output, size, tolerance)
    if space is not None and space.num_classes != model.num_classes:
        raise ModelError(f"label space {space.name!r} has {space.num_classes} classes, the model {model.num_classes}")
    network = _Exported(_traceable(model), output).eval()
    if size is None and any(isinstance(part, HrdaSegmenter) for part in network.modules()):
        raise ModelError("HRDA's number of detail windows depends on the image's size: export it for one size")
    description = {**_description(model, output, size, space), "format": format}
    program = _trace(network, size)
    content, run = (_onnx if format == "onnx" else _torch)(program, description)
    tried = _CHECKED if size is None else tuple((batch, *size) for batch in _BATCHES)
    difference = _compare(network, run, tried, output, tolerance, path)
    with atomic_write(path, binary=True) as file:
        file.write(content)
    return Export(path, difference, tried)


def read_metadata(path: Path | str) -> dict[str, Any]:
    """The description inside a file that :func:`export` wrote.

    Raises:
        ModelError: no such file.
    """
    path = Path(path)
    try:
        if path.suffix == SUFFIXES["torch"]:
            files: dict[str, Any] = {METADATA: ""}
            torch.export.load(path, extra_files=files)
            text = files[METADATA]
        else:
            model = _import("onnx").load(path, load_external_data=False)
            text = {entry.key: entry.value for entry in model.metadata_props}[METADATA]
        content: dict[str, Any] = json.loads(text)
    except ModelError:
        raise
    except Exception as error:  # damaged files make either library raise what it likes
        raise ModelError(f"{path}: no file that uda export wrote ({type(error).__name__})") from error
    return content


def _check(path: Path, format: str, output: str, size: tuple[int, int] | None, tolerance: float) -> None:
    if format not in SUFFIXES:
        raise ModelError(f"format is {format!r}; {nearest(format, SUFFIXES)}")
    if output not in OUTPUTS:
        raise ModelError(f"output is {output!r}; {nearest(output, OUTPUTS)}")
    if path.suffix.lower() != SUFFIXES[format]:
        raise ModelError(f"{path}: a file of the format {format} ends in {SUFFIXES[format]}")
    if size is not None and not all(1 <= side <= LARGEST_SIDE for side in size):
        raise ModelError(f"size is {size}, must be (height, width) in 1..{LARGEST_SIDE}")
    if not 0 < tolerance < math.inf:
        raise ModelError(f"tolerance is {tolerance}, must be a number > 0")
    if format == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            _import(package)


def _import(package: str) -> Any:
    try:
        return __import__(package)
    except ImportError as error:
        raise ModelError(f"ONNX needs the package {package} ({error}): pip install 'uda-seg[export]'") from error


class _Exported(nn.Module):
    """A network that gives one plain tensor."""

    def __init__(self, network: nn.Module, output: str) -> None:
        super().__init__()
        self.network, self.output = network, output

    def logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images).logits
        return logits

    def forward(self, images: Tensor) -> Tensor:
        logits = self.logits(images)
        if self.output == "labels":
            return logits.argmax(1)
        return logits.softmax(1) if self.output == "probabilities" else logits


class _CeilMaxPool(nn.Module):
    """``nn.MaxPool2d`` with ``ceil_mode``, without the branch on the size that torch cannot trace.

    Equal to it where no window can begin beyond the image, see :meth:`fits`: what is added is never the maximum.
    """

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = (
            (value, value) if isinstance(value, int) else tuple(value)
            for value in (pool.kernel_size, pool.stride, pool.padding)
        )

    @staticmethod
    def fits(module: nn.Module) -> bool:
        if not isinstance(module, nn.MaxPool2d) or not module.ceil_mode or module.dilation not in (1, (1, 1)):
            return False
        pool = _CeilMaxPool(module)
        sides = zip(pool.kernel, pool.stride, pool.padding, strict=True)
        return all(kernel > padding + stride - 1 for kernel, stride, padding in sides)

    def forward(self, x: Tensor) -> Tensor:
        more = (0, self.stride[1] - 1, 0, self.stride[0] - 1)
        return F.max_pool2d(F.pad(x, more, value=-math.inf), self.kernel, self.stride, self.padding)


class _SamePadded(nn.Module):
    """TensorFlow's ``same`` padding around a convolution, for sides that its stride divides.

    timm's takes the padding from the size (``Conv2dSame``), a formula that torch cannot trace for any size; where the
    stride divides the side, as behind :func:`~uda.models.base.pad_to`, it is the same number for all sizes.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        sides = zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)
        totals = [max((kernel - 1) * dilation + 1 - stride, 0) for kernel, stride, dilation in sides]
        self.padding = [part for total in reversed(totals) for part in (total // 2, total - total // 2)]

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        padded = F.pad(x, self.padding)
        return F.conv2d(padded, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)


def _traceable(model: nn.Module) -> nn.Module:
    """A copy on the CPU without gradients, its layers such that torch can trace them for any size."""
    network = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    divided = isinstance(network, SegmentationNetwork)  # others may hand any side to a layer
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if _CeilMaxPool.fits(child):
                setattr(parent, name, _CeilMaxPool(child))  # type: ignore[arg-type]
            elif isinstance(child, Conv2dSame) and (divided or max(child.stride) == 1):
                setattr(parent, name, _SamePadded(child))
    return network


def _description(
    model: nn.Module, output: str, size: tuple[int, int] | None, space: LabelSpace | None
) -> dict[str, Any]:
    told = describe(model, space)
    classes = told["classes"] and told["classes"]["classes"]
    height, width = size or ("H", "W")
    shape = f"(N, {height}, {width})" if output == "labels" else f"(N, {model.num_classes}, {height}, {width})"
    return {
        "uda": uda.__version__,
        "input": f"images: float32 RGB in [0, 1], (N, 3, {height}, {width}); they are normalised inside",
        "output": f"{output}: {'int64 train ids' if output == 'labels' else 'float32'}, {shape}",
        "num_classes": model.num_classes,
        "classes": classes and [{"name": entry["name"], "colour": list(entry["colour"])} for entry in classes],
        "ignored": IGNORE,
        "normalised_inside": told["normalise"],
        "size": size and list(size),
    }


def _trace(network: nn.Module, size: tuple[int, int] | None) -> Any:
    """The network's graph, for batches of any size."""
    axes: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=LARGEST_SIDE)}
    if size is None:
        axes |= {2: torch.export.Dim("height", min=1, max=LARGEST_SIDE)}
        axes |= {3: torch.export.Dim("width", min=1, max=LARGEST_SIDE)}
    batch, height, width = _TRACED if size is None else (2, *size)
    images = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))
    try:
        with _quiet(), torch.no_grad():
            if size is not None:
                return torch.export.export(network, (images,), dynamic_shapes=(axes,))
            with for_any_size():
                return torch.export.export(network, (images,), dynamic_shapes=(axes,))
    except Exception as error:  # whatever torch.export stumbles over
        reason = " ".join(str(error).split())[:200]
        what = f"{_named(network)} cannot be exported"
        advice = "" if size is not None else " for images of any size; for one size (--size HxW) it may be"
        raise ModelError(f"{what}{advice} ({type(error).__name__}: {reason})") from error


def _named(network: nn.Module) -> str:
    """What a network is called in messages: its class, its decoder and its encoder."""
    inner: Any = network.network
    told = {key: getattr(inner, "arguments", {}).get(key) for key in ("decoder", "encoder")}
    more = ", ".join(f"{key} {value}" for key, value in told.items() if isinstance(value, str))
    return type(inner).__name__ + (f" ({more})" if more else "")


def _onnx(program: Any, description: Mapping[str, Any]) -> tuple[bytes, Callable[[Tensor], Tensor]]:
    onnxruntime = _import("onnxruntime")
    try:
        with _quiet():
            written: Any = torch.onnx.export(
                program, (), dynamo=True, verbose=False, opset_version=OPSET, external_data=False,
                input_names=["images"], output_names=["output"],
            )  # fmt: skip
        model = written.model_proto
        _name_axes(model.graph, description["size"] is None)
        entry = model.metadata_props.add()
        entry.key, entry.value = METADATA, json.dumps(description)
        content: bytes = model.SerializeToString()
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # of the exporter, protobuf (2 GB) or the runtime
        reason = " ".join(str(error).split())[-200:]
        raise ModelError(f"the network cannot be written as ONNX ({type(error).__name__}: {reason})") from error
    return content, lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _name_axes(graph: Any, any_size: bool) -> None:
    """Call the axes what they are; the exporter numbers its symbols."""
    names: dict[str, str] = {}
    dims = graph.input[0].type.tensor_type.shape.dim
    for axis, name in ((0, "batch"), *(((2, "height"), (3, "width")) if any_size else ())):
        names[dims[axis].dim_param] = name
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]


def _torch(program: Any, description: Mapping[str, Any]) -> tuple[bytes, Callable[[Tensor], Tensor]]:
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(program, buffer, extra_files={METADATA: json.dumps(description)})
        content = buffer.getvalue()
        loaded = torch.export.load(io.BytesIO(content)).module()
    return content, loaded


@torch.no_grad()
def _compare(
    network: _Exported,
    run: Callable[[Tensor], Tensor],
    shapes: tuple[tuple[int, int, int], ...],
    output: str,
    tolerance: float,
    path: Path,
) -> float:
    """The largest difference of a file's output from the network's, on random images."""
    generator, largest = torch.Generator().manual_seed(0), 0.0
    for batch, height, width in shapes:
        images = torch.rand(batch, 3, height, width, generator=generator)
        logits, what = network.logits(images), f"{path}: on {batch} images of {height}x{width} the file"
        try:
            result = run(images)
        except Exception as error:  # the runtime's own
            reason = " ".join(str(error).split())[:200]
            raise ParityError(f"{what} fails ({type(error).__name__}: {reason}); it was not kept") from error
        expected = network(images)
        if result.shape != expected.shape or result.dtype != expected.dtype:
            shown = f"{result.dtype} {tuple(result.shape)}, the network {expected.dtype} {tuple(expected.shape)}"
            raise ParityError(f"{what} gives {shown}; it was not kept")
        if output == "labels":
            # of two classes that are equally likely either is right
            difference = (logits.max(1).values - logits.gather(1, result[:, None])[:, 0]).max().item()
            scale = logits.abs().max().item()
        else:
            difference, scale = (result - expected).abs().max().item(), expected.abs().max().item()
        if not difference <= tolerance * max(scale, 1):  # NaN is no agreement
            raise ParityError(
                f"{what} differs from the network by {difference:.2g}, more than {tolerance * max(scale, 1):.2g}; it "
                "was not kept"
            )
        largest = max(largest, difference)
    return largest


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' warnings and logs: what fails is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def is_export(path: Path) -> bool:
    """Whether a file is one that :func:`export` wrote."""
    try:
        return bool(read_metadata(path))
    except ModelError:
        return False
