"""``uda predict``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import typer

from uda.cli.common import FAILED, bars, guarded, say, track
from uda.cli.evaluate import (
    DEVICE,
    EVALUATE,
    MODEL,
    SPACE,
    TEST_TIME,
    evaluate_options,
    evaluate_spec,
    source_of,
    test_time_of,
)


class Ids(StrEnum):
    """Which label maps to write."""

    train = "train"
    raw = "raw"
    both = "both"
    none = "none"


class Statistics(StrEnum):
    """A domain of the training."""

    source = "source"
    target = "target"


@guarded
def predict(
    model: str = MODEL,
    images: Path = typer.Argument(..., help="A folder of images (searched deeply), or one image.", show_default=False),
    out: Path = typer.Option(..., "--out", "-o", help="Folder for train_ids/, overlay/, ...", show_default=False),
    ids: Ids = typer.Option(
        Ids.train, "--ids", help="Label maps as train ids, as raw ids of the label space, or both."
    ),
    overlay: float = typer.Option(0.5, "--overlay", min=0, max=1, help="Opacity of the colours over the image."),
    no_overlay: bool = typer.Option(False, "--no-overlay", help="Write no overlays."),
    colour: bool = typer.Option(False, "--colour", help="Write the maps in the classes' colours too: colour/*.png."),
    probabilities: bool = typer.Option(
        False,
        "--probabilities",
        help="Write all classes' probabilities too: probabilities/*.safetensors, float16 (C, H, W).",
    ),
    html: bool = typer.Option(
        False, "--html", help="Write predictions.html: one page with input, prediction and overlay, at most 200 images."
    ),
    statistics: Statistics = typer.Option(
        Statistics.target,
        "--statistics",
        help="Whose way to evaluate, and whose batch-norm statistics, where the model keeps a set for each domain.",
    ),
    test_time: str = TEST_TIME,
    evaluate_as: list[str] = EVALUATE,
    space: str = SPACE,
    device: str = DEVICE,
) -> None:
    """Predict label maps and overlays for images of any size; no labels needed.

    Images are predicted as the run's config evaluates that domain; --evaluate says otherwise. Files that cannot be read
    are listed at the end, with exit code 1; the others are predicted all the same.
    """
    from uda.bench.build import open_device
    from uda.bench.restore import attach, open_model
    from uda.data import Unlabelled
    from uda.engine.inference import ResizedImages
    from uda.engine.predict import find_images
    from uda.engine.predict import predict as work
    from uda.models.batch_norm import normalising

    files = find_images(images, out)
    place = open_device(device)
    options = evaluate_options(evaluate_as)
    network, classes, run = open_model(model, space, options.get("model"))
    network.to(place)
    inference = evaluate_spec(options, run, classes).on(statistics.value)
    spec = test_time_of(test_time, run)
    root = images if images.is_dir() else images.parent
    maps = {Ids.both: ("train", "raw"), Ids.none: ()}.get(ids, (ids.value,))
    with bars() as progress, normalising(network, statistics.value):
        seen = ResizedImages(Unlabelled(root.name, root, files), inference)
        wrapped = attach(spec, network, source_of(run) if spec else None, seen)
        report = work(
            wrapped, files, out, classes, root=root, ids=maps, overlay=None if no_overlay else overlay,
            colour=colour, probabilities=probabilities, html=html, inference=inference,
            progress=lambda paths: track(paths, "images", len(files), progress),
        )  # fmt: skip
    print(f"{len(files) - len(report.failed)} of {len(files)} images predicted into {out}")
    for file, message in report.failed.items():
        say(f"failed: {message if str(file) in message else f'{file}: {message}'}")
    if report.failed:
        raise typer.Exit(FAILED)
