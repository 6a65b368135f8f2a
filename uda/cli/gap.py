"""``uda gap``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from uda.cli.common import bars, console, counter, guarded, reader_options, say
from uda.cli.evaluate import DEVICE, EVALUATE, MODEL, SPACE, evaluate_options, evaluate_spec

if TYPE_CHECKING:
    from torch import nn

    from uda.bench.restore import RunFolder
    from uda.data.label_spaces import LabelSpace
    from uda.types import UnlabelledDataset


class Axes(StrEnum):
    """How features become two coordinates."""

    pca = "pca"
    tsne = "tsne"
    umap = "umap"


@guarded
def gap(
    model: str = MODEL,
    source: str = typer.Option(
        None,
        "--source",
        help="KIND:PATH, labelled images that the model was not trained on; or published:NAME (cityscapes, kitti), "
        "where only mean and deviation are known. The source domain of a run's config if left out.",
    ),
    target: str = typer.Option(None, "--target", help="KIND:PATH; the target of a run's config if left out."),
    source_split: str = typer.Option("val", "--source-split", help="Its split."),
    target_split: str = typer.Option("val", "--target-split", help="Its split."),
    source_option: list[str] = typer.Option([], "--source-option", help="NAME=VALUE of its reader; repeatable."),
    target_option: list[str] = typer.Option([], "--target-option", help="NAME=VALUE of its reader; repeatable."),
    unlabelled: bool = typer.Option(False, "--unlabelled", help="The target has no labels: show what needs none."),
    after: str = typer.Option(
        None, "--after", help="A fix to compare: a test-time method ('{AdaBN: {prior: 0.5}}'), or another model."
    ),
    adapt_on: str = typer.Option(
        None, "--adapt-on", help="KIND:PATH[:SPLIT], target images that fixes may look at, instead of the scored ones."
    ),
    out: Path = typer.Option(..., "--out", "-o", help="Folder for report.html, samples.csv, ...", show_default=False),
    projection: Axes = typer.Option(Axes.pca, "--projection", help="Of the latent space."),
    by_class: bool = typer.Option(False, "--by-class", help="Pool features by class too: a second embedding."),
    causes: bool = typer.Option(True, "--causes/--no-causes", help="Edit images to find causes; takes the longest."),
    budget: int = typer.Option(
        4000, "--budget", min=1, help="Forward passes up to which all combinations of edits are tried."
    ),
    seed: int = typer.Option(0, "--seed", min=0, help="Of draws and sampled orders."),
    batch_size: int = typer.Option(4, "--batch-size", min=1, help="Images of equal size that go through together."),
    evaluate_as: list[str] = EVALUATE,
    space: str = SPACE,
    device: str = DEVICE,
) -> None:
    """Why does a model lose on the target, and what would fix it?

    Measures both domains, edits the target's images towards the source one factor at a time, tries test-time fixes, and
    writes one page that opens offline. An interrupted call goes on where it was.
    """
    from uda.bench.build import open_device
    from uda.bench.restore import open_model
    from uda.gap import Options, analyse, sentences, write_report
    from uda.gap.store import remove_work

    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: is no folder")
    if (out.is_dir() and any(out.iterdir())) and not _is_ours(out):
        raise ValueError(f"--out {out}: holds other files; choose an empty folder")
    options = Options(
        budget=budget, projection=projection.value, by_class=by_class, batch_size=batch_size, seed=seed, causes=causes
    )
    place = open_device(device)
    network, classes, run = open_model(model, space, evaluate_options(evaluate_as).get("model"))
    network.to(place)
    inference = evaluate_spec(evaluate_options(evaluate_as), run, classes).on("target")
    first: Any = _domain(source, source_split, source_option, "source", classes, run)
    second: Any = _domain(target, target_split, target_option, "target", classes, run, labelled=not unlabelled)
    changed, attach = _after(after, network, run, space)
    if changed is not None:
        changed.to(place)
    seen = None if adapt_on is None else _spec(adapt_on, "--adapt-on", classes)
    with bars() as progress:

        @contextmanager
        def watch(label: str, total: int) -> Iterator[Callable[[], None]]:
            with counter(label, total, progress) as tick:
                yield tick

        result = analyse(
            network, first, second,
            work=out / WORK, class_names=classes.names, palette=[label.colour for label in classes.classes],
            source_name=source if source is not None and source.startswith(PUBLISHED) else None,
            after=changed, after_attach=attach, after_name=after, adapt_on=seen, inference=inference,
            precision=run.training["settings"]["precision"] if run is not None else "fp32",
            options=options, progress=watch, trained_on_source=_seen_in_training(run, first),
        )  # fmt: skip
    command = shlex.join(["uda", *sys.argv[1:]]) if Path(sys.argv[0]).name.startswith("uda") else ""
    summary = write_report(result, out, command=command)
    remove_work(out / WORK)
    for line in sentences(result, summary):
        console().print(line, markup=False)
    say(f"written: {out / 'report.html'}, samples.csv, gap.json, summary.md")


WORK = "work"
"""Folder in the report's of what is not finished."""
PUBLISHED = "published:"


def _is_ours(out: Path) -> bool:
    return (out / WORK).is_dir() or ((out / "gap.json").is_file() and (out / "report.html").is_file())


def _domain(
    text: str | None,
    split: str,
    option: list[str],
    role: str,
    classes: LabelSpace,
    run: RunFolder | None,
    *,
    labelled: bool = True,
) -> Any:
    """A domain as the command line names it, or as the run's config does."""
    from uda.bench.build import open_dataset
    from uda.data import dataset
    from uda.data.statistics import published_stats

    if text is None:
        if option:
            raise ValueError(f"--{role}-option needs --{role}")
        domains = run.config.domains if run is not None else {}
        if run is None or role not in domains:
            why = "this model comes without data sets of its own" if run is None else f"the run's config has no {role}"
            raise ValueError(f"{why}; --{role} KIND:PATH says which images")
        return open_dataset(domains[role], run.config.space)
    if text.startswith(PUBLISHED):
        if role != "source":
            raise ValueError(f"--{role} {text}: only the source can be published statistics")
        return published_stats(text.removeprefix(PUBLISHED))
    kind, root = _kind_and_path(text, f"--{role}")
    options = {"split": split} if kind != "folder" else {}
    options |= reader_options(option)
    if not labelled:
        return dataset(kind, root=root, **{"space": classes, "labelled": False, **options}).unlabelled()
    return dataset(kind, root=root, **{"space": classes, **options})


def _spec(text: str, option: str, classes: LabelSpace) -> UnlabelledDataset:
    """Images alone, of ``KIND:PATH`` or ``KIND:PATH:SPLIT``."""
    from uda.data import dataset

    kind, root = _kind_and_path(text, option)
    path, colon, split = root.rpartition(":")
    known = {"split": split} if colon and not Path(root).exists() else {}
    opened = dataset(kind, root=path if known else root, **{"space": classes, "labelled": False, **known})
    images: UnlabelledDataset = opened.unlabelled()
    return images


def _kind_and_path(text: str, option: str) -> tuple[str, str]:
    kind, colon, root = text.partition(":")
    if not (colon and kind and root):
        raise ValueError(f"{option} takes KIND:PATH, such as kitti:data/kitti, got {text!r}")
    return kind, root


def _after(
    text: str | None, network: nn.Module, run: RunFolder | None, space: str | None
) -> tuple[nn.Module | None, Callable[[Any, Any], nn.Module] | None]:
    """A second model, or how a test-time method is put around the first."""
    from uda.bench.restore import attach, open_model
    from uda.cli.evaluate import test_time_of

    if text is None:
        return None, None
    is_function = text.rpartition(":")[0].endswith(".py")
    if is_function or Path(text).exists():
        return open_model(text, space if is_function else None)[0], None
    spec = test_time_of(text, run)
    return None, lambda source, images: attach(spec, network, source, images)


def _seen_in_training(run: RunFolder | None, source: Any) -> bool:
    """Whether the source's images are among those that the run was trained on."""
    from uda.bench.build import open_source

    if run is None:
        return False
    try:
        trained = open_source(run.config.source, run.config.space)
    except ValueError:
        return False
    files = {path.resolve() for path in getattr(trained, "image_files", [])}
    return any(path.resolve() in files for path in getattr(source, "image_files", []))
