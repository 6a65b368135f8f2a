"""``uda data``: write procedural scenes; download, check and show data sets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from uda.cli.common import (
    FAILED,
    OVERWRITE,
    bars,
    counter,
    guarded,
    key_values,
    output_file,
    reader_options,
    roots,
    say,
    size,
    yaml_value,
)

if TYPE_CHECKING:
    from uda.types import UnlabelledDataset

app = typer.Typer(help="Write procedural street scenes; download, check and show data sets.", no_args_is_help=True)

WHAT = typer.Argument(
    ...,
    help="A kind (cityscapes, kitti, ika, camvid, gta5, synthia, acdc, folder), a folder of images, or a YAML config.",
    show_default=False,
)
FOLDER = typer.Argument(
    None, help="The data set's folder, $UDA_DATA/KIND or data/KIND if left out; not with a config.", show_default=False
)
SPLIT = typer.Option(None, "--split", help="Split of the data set; the reader's default if left out.")
SPACE = typer.Option(None, "--space", help="Label space to map to; the reader's own if left out.")
OPTION = typer.Option(
    [], "--option", "--set", help="NAME=VALUE, a further argument of the reader: classes='[road, car]'; repeatable."
)
ROOT = typer.Option([], "--root", help="NAME=PATH for ${NAME} in a config; repeatable.")


@app.command("streets")
@guarded
def streets(
    out: Path = typer.Option(
        ..., "--out", "-o", help="Folder; each domain gets one of its name inside.", show_default=False
    ),
    domain: list[str] = typer.Option([], "--domain", help="cityscapes, kitti or ika; repeatable; all if left out."),
    split: list[str] = typer.Option([], "--split", help="NAME=NUMBER of images, such as train=100; repeatable."),
    change: list[str] = typer.Option(
        [], "--change", help="KEY=VALUE of a domain, such as sensor.contrast=0.7; repeatable (docs/streets.md)."
    ),
    factor: list[str] = typer.Option(
        [],
        "--factor",
        help="NAME or NAME=STRENGTH of a one-factor domain, written as DOMAIN_NAME in place of the domain: mean, "
        "deviation, histogram, low_frequency, sharpness, noise, resolution or aspect; repeatable.",
    ),
    name: str = typer.Option(
        None, "--name", help="Of the folder, where a single domain is written; its own if left out.", show_default=False
    ),
    image_size: str = typer.Option(None, "--size", help="HEIGHTxWIDTH in pixels; the domain's own if left out."),
    seed: int = typer.Option(0, "--seed", min=0, help="The same seed gives the same bytes."),
    workers: int = typer.Option(1, "--workers", "-j", min=1, help="Processes."),
) -> None:
    """Write procedural street scenes in the layouts of the real data sets."""
    from uda.config.names import check_name
    from uda.data.streets import DOMAINS, check_empty, generate, one_factor, vary

    counts = {}
    for part, value in key_values(split, "--split").items():
        if not value.isdecimal():
            raise ValueError(f"--split {part}={value}: a number of images is needed")
        counts[part] = int(value)
    changes = {key: yaml_value(value, f"--change {key}") for key, value in key_values(change, "--change").items()}
    made = [vary(base, changes) for base in domain or list(DOMAINS)]
    if factor:
        strengths = key_values([text if "=" in text else f"{text}=1" for text in factor], "--factor")
        made = [
            vary(base, one_factor(label, _strength(label, text), base), f"{base.name}_{label}")
            for base in made
            for label, text in strengths.items()
        ]
    if name is not None:
        if len(made) != 1:
            raise ValueError(f"--name {name} is of one domain, not of {', '.join(item.name for item in made)}")
        made = [vary(made[0], {}, check_name(name))]
    for item in made:
        check_empty(out / item.name, item)  # all of them before the first is written
    for item in made:
        say(f"{item.name}: writing ...")
        where = generate(
            out / item.name, item, splits=counts or None, size=size(image_size, "--size"), seed=seed, workers=workers
        )
        print(where)


def _strength(factor: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--factor {factor}={text}: the strength is a number") from None


@app.command("check")
@guarded
def check(
    what: str = WHAT,
    folder: Path = FOLDER,
    split: str = SPLIT,
    space: str = SPACE,
    option: list[str] = OPTION,
    root: list[str] = ROOT,
) -> None:
    """Decode every image and label: sizes, classes, statistics, and everything that would stop a training run.

    Exit code 1 if there is a problem.
    """
    from uda.data.check import check as look

    problems = False
    with bars() as progress:
        for dataset in _open(what, folder, split, space, option, root, strict=False):
            with counter(dataset.name, len(dataset), progress) as tick:
                report = look(dataset, tick)
            print("\n".join([*report.lines(), ""]))
            problems |= not report.ok
    if problems:
        raise typer.Exit(FAILED)


@app.command("show")
@guarded
def show(
    what: str = WHAT,
    folder: Path = FOLDER,
    out: Path = typer.Option(
        Path("sheet.png"), "--out", "-o", help="The PNG to write; numbered for several data sets."
    ),
    count: int = typer.Option(8, "--count", "-n", min=1, help="Images, evenly spaced."),
    counted: int = typer.Option(100, "--counted", min=1, help="Images whose pixels are counted at most."),
    overwrite: bool = OVERWRITE,
    split: str = SPLIT,
    space: str = SPACE,
    option: list[str] = OPTION,
    root: list[str] = ROOT,
) -> None:
    """Describe a data set, and write a contact sheet: images, and the images under their label colours.

    Splits, classes with their colours and shares of pixels, sizes, licence and paper go to stdout, the path of the
    sheet last.
    """
    from uda.data.check import is_sheet
    from uda.data.check import show as draw
    from uda.data.describe import describe, some

    _say_about(what, folder)
    datasets = _open(what, folder, split, space, option, root)
    paths = [out] if len(datasets) == 1 else [out.with_stem(f"{out.stem}_{at}") for at in range(len(datasets))]
    for path in paths:
        output_file(path, ".png", "--out", overwrite, is_sheet)
    for path, dataset in zip(paths, datasets, strict=True):
        with bars() as progress, counter(dataset.name, len(some(dataset, counted)), progress) as tick:
            lines = describe(dataset, counted, tick)
        print("\n".join(lines))
        print(draw(dataset, path, count))


def _say_about(what: str, folder: Path | None) -> None:
    """What is known of a data set that is not here; the error that follows says how to get it."""
    from uda.data.catalogue import CATALOGUE, default_root, how_to_get
    from uda.data.describe import about

    kind = what.lower()
    root = folder or default_root(kind)
    if kind in CATALOGUE and not root.is_dir():
        print("\n".join([*about(kind), how_to_get(kind, root)]))


@app.command("download")
@guarded
def download(
    name: str = typer.Argument(..., help="kitti, camvid, ika (with --url), ...", show_default=False),
    out: Path = typer.Option(
        None, "--out", "-o", help="Its folder; $UDA_DATA/NAME or data/NAME if left out.", show_default=False
    ),
    url: str = typer.Option(None, "--url", help="Address of its archive, where there is another or none is known."),
    sha256: str = typer.Option(None, "--sha256", help="Checksum that the archive must have."),
    keep_archive: bool = typer.Option(False, "--keep-archive", help="Do not delete the archive afterwards."),
) -> None:
    """Download a data set and unpack it, or say how to get it where it needs an account.

    After a break the same command goes on where it stopped.
    """
    from uda.data.catalogue import entry, install
    from uda.progress import MegabyteProgress

    known = entry(name)
    if url is None and known.url is None:
        _instruct(known.name, out)
        raise typer.Exit(FAILED)
    say(f"{known.title}; licence: {known.licence}")
    with bars() as progress:
        done = install(
            known.name,
            out,
            url=url,
            sha256=sha256,
            keep_archive=keep_archive,
            fetched=MegabyteProgress(f"fetching {known.name}", progress),
            unpacked=MegabyteProgress(f"unpacking {known.name}", progress),
        )
    if done.sha256 is None:
        say(f"{known.name} is there already")
    else:
        first = "; compare it with its publisher's, if there is one: later downloads must agree with it"
        say(f"sha256 {done.sha256}{first if done.checked == 'nothing' else f', as {done.checked}'}")
    print(done.root)


def _instruct(name: str, out: Path | None) -> None:
    from uda.data.catalogue import default_root, entry, how_to_get, is_there

    folder = out or default_root(name)
    if is_there(entry(name), folder):
        print(folder)
        raise typer.Exit
    print(how_to_get(name, folder))


def _open(
    what: str,
    folder: Path | None,
    split: str | None,
    space: str | None,
    option: list[str],
    root: list[str],
    **more: Any,
) -> list[UnlabelledDataset]:
    from uda.data import DATASETS, archives, load

    if what.endswith((".yaml", ".yml")):
        return _of_config(Path(what), space, root, more)
    if folder is None and what not in DATASETS and archives.is_dir(Path(what)):
        what, folder = "folder", Path(what)
        if not any(assignment.startswith(("classes=", "labelled=")) for assignment in option):
            say(f"{folder}: images alone; --set classes='[road, car, ...]' reads their labels too")
            option = [*option, "labelled=false"]
    if folder is None and what not in DATASETS and (os.sep in what or Path(what).exists()):
        raise FileNotFoundError(f"{what}: no such folder")
    options = reader_options(option)
    flags = {"split": split, "space": space}
    options |= {name: value for name, value in flags.items() if value is not None}
    return [_as_is(load(what, root=folder, **{**more, **options}))]


def _of_config(path: Path, space: str | None, root: list[str], more: dict[str, Any]) -> list[UnlabelledDataset]:
    from uda.bench.build import build_space, make_streets
    from uda.config import load_run
    from uda.data import dataset

    config, _ = load_run(path, roots(root, path))
    if config.streets is not None:
        make_streets(config.streets)
    wanted = build_space(space or config.space)
    specs = [*config.source, config.target, *config.domains.values()]
    return [
        _as_is(dataset(spec.kind, **{**more, **spec.arguments, "space": wanted, "aliases": spec.aliases or None}))
        for spec in specs
    ]


def _as_is(opened: Any) -> UnlabelledDataset:
    """A data set whose labels are not looked for, as images alone."""
    images: UnlabelledDataset = opened if getattr(opened, "labelled", True) else opened.unlabelled()
    return images
