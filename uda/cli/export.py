"""``uda export``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import typer

from uda.cli.common import OVERWRITE, guarded, output_file, size
from uda.cli.evaluate import SPACE


class Format(StrEnum):
    """Of the file."""

    onnx = "onnx"
    torch = "torch"


class Output(StrEnum):
    """What the file gives."""

    logits = "logits"
    probabilities = "probabilities"
    labels = "labels"


class Network(StrEnum):
    """Of a run."""

    student = "student"
    teacher = "teacher"


@guarded
def export(
    model: str = typer.Argument(
        ...,
        help="A folder of a trained network, its model.safetensors or checkpoint.pt, or FILE.py:FUNCTION that gives a "
        "network (then --space).",
        show_default=False,
    ),
    out: Path = typer.Option(
        None, "--out", "-o", help="The file; model.onnx or model.pt2 beside the weights if left out."
    ),
    format: Format = typer.Option(Format.onnx, "--format", help="onnx, or torch: a program of torch.export."),
    output: Output = typer.Option(Output.logits, "--output", help="What the file gives for an image."),
    image_size: str = typer.Option(None, "--size", help="HEIGHTxWIDTH of the images; any size if left out."),
    network: Network = typer.Option(Network.student, "--network", help="Of a run, the student or its EMA teacher."),
    tolerance: float = typer.Option(
        1e-3, "--tolerance", help="Largest difference from the network, for values up to 1; in proportion above."
    ),
    space: str = SPACE,
    overwrite: bool = OVERWRITE,
) -> None:
    """Write a trained network into one file that runs without this library, and compare the two.

    Batches of any size of float RGB images in [0, 1] go through it; they are normalised inside. A file that differs
    from the network is not kept.
    """
    from uda.bench.restore import open_model
    from uda.models import export as write
    from uda.models import load
    from uda.models.exporting import SUFFIXES, is_export

    suffix = SUFFIXES[format.value]
    is_function = ".py:" in model
    if out is None:
        place = Path() if is_function else Path(model)
        out = (place.parent if place.is_file() else place) / f"model{suffix}"
    output_file(out, suffix, "--out", overwrite, is_export)
    wanted = size(image_size, "--size")
    if is_function:
        segmenter, classes, _ = open_model(model, space, network.value)
    else:
        segmenter = load(model, network=network.value)
        classes = None
    written = write(
        segmenter, out, format=format.value, output=output.value, size=wanted, space=classes, tolerance=tolerance
    )
    sizes = ", ".join(f"{batch} of {height}x{width}" for batch, height, width in written.tried)
    print(f"{written.path}: {output.value} differ from the network's by at most {written.difference:.2g} ({sizes})")
