"""Does ``uda gap`` name the right factor where the truth is known? Street domains that differ in exactly one.

    python experiments/gap_truth.py --out OUT [--trials 5] [--first 0] [--images 32] [--workers 2]

Trains a source-only network on streets in Cityscapes' look (``--steps``), then analyses targets of other scenes in the
same look, each changed in one factor (``uda.data.streets.one_factor``), ``--trials`` of each, and as many targets that
were not changed. Prints how often the true factor has the largest share of the gap, and how often a gap
is seen where there is none, and draws all shares (``OUT/shares.png``). A trial that is finished is not made again.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from uda.data import Cityscapes
from uda.data.label_spaces import label_space
from uda.data.streets import ONE_FACTOR, generate, one_factor, vary
from uda.engine import Settings, Trainer
from uda.files import atomic_write
from uda.gap import Options, analyse, sentences, summarise
from uda.gap.factors import BATCH_NORM
from uda.gap.store import remove_work
from uda.methods import Supervised
from uda.models import Segmenter, load

SIZE = (96, 192)
SPACE = "street8"
NONE = "none"
STRENGTH = {"low_frequency": 1.5, "sharpness": 2.0, "aspect": 3.0}
"""Of the factors that this network hardly minds at strength 1."""


def network(out: Path, steps: int) -> None:
    """Source-only, trained once, in ``out/network``."""
    root = generate(out / "source", "cityscapes", {"train": 80, "val": 48}, size=SIZE, seed=0, workers=2)
    torch.manual_seed(0)
    model = Segmenter(num_classes=label_space(SPACE).num_classes)
    settings = Settings(steps=steps, batch_size=4, crop=SIZE, lr=1e-3)
    trainer = Trainer(model, [Supervised()], settings, out=out / "network")
    trainer.fit(Cityscapes(root, "train", space=SPACE, cache="memory"))


def trial(out: Path, factor: str, number: int, images: int) -> dict[str, Any]:
    """Analyse one target, in a process of its own."""
    record = out / f"trials/{factor}_{number}.json"
    if record.is_file():
        content: dict[str, Any] = json.loads(record.read_text())
        return content
    torch.set_num_threads(1)
    model = load(out / "network").eval()
    changes = {} if factor == NONE else one_factor(factor, STRENGTH.get(factor, 1.0))
    domain = vary("cityscapes", changes, name=factor) if changes else "cityscapes"
    root = generate(
        out / f"targets/{factor}_{number}", domain, {"val": images}, size=SIZE, seed=1000 + number, workers=1
    )
    space = label_space(SPACE)
    work = out / f"work/{factor}_{number}"
    result = analyse(
        model,
        Cityscapes(out / "source", "val", space=SPACE),
        Cityscapes(root, "val", space=SPACE),
        work=work,
        class_names=space.names,
        palette=[label.colour for label in space.classes],
        fixes=(),
        options=Options(budget=images * 32, seed=number),
    )
    summary = summarise(result)
    content = {
        "factor": factor,
        "gap": [summary.gap.value, summary.gap.low, summary.gap.high] if summary.gap else None,
        "is_gap": summary.is_gap,
        "shares": {s.name: None if math.isnan(s.share.value) else s.share.value for s in summary.shares},
        "unexplained": summary.groups[-1].share.value if summary.is_gap and summary.groups else None,
        "verdict": sentences(result, summary)[0],
        "differences": result.differences,
    }
    with atomic_write(record) as file:
        file.write(json.dumps(content, indent=1))
    remove_work(work)
    return content


def table(trials: Mapping[str, list[dict[str, Any]]]) -> str:
    """Of all factors, as Markdown."""
    heads = ("true factor", "a gap is seen", "largest share", "largest of the images'", "its share, median",
             "unexplained, median", "when wrong")  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---|---:|---:|---:|---:|---:|---|"]
    sums = [0, 0, 0]
    for factor, rows in trials.items():
        seen = [row for row in rows if row["is_gap"]]
        if factor == NONE:
            lines.append(f"| none | {len(seen)} of {len(rows)} | – | – | – | – | – |")
            continue
        shares = [{name: value or 0.0 for name, value in row["shares"].items()} for row in seen]
        largest = [max(row, key=lambda name: row[name]) for row in shares]
        of_images = [max(set(row) - {BATCH_NORM}, key=lambda name: row[name]) for row in shares]
        hits = [largest.count(factor), of_images.count(factor), len(rows)]
        sums = [total + own for total, own in zip(sums, hits, strict=True)]
        middle = [
            f"{100 * statistics.median(values):.0f} %" if values else "–"
            for values in ([row.get(factor, 0.0) for row in shares], [row["unexplained"] for row in seen])
        ]
        wrong = ", ".join(sorted({name for name in largest if name != factor})) or "–"
        cells = [factor, f"{len(seen)} of {len(rows)}", *(f"{count} of {len(rows)}" for count in hits[:2]), *middle]
        lines.append(f"| {' | '.join(cells)} | {wrong} |")
    lines.append(
        f"\nThe true factor has the largest share in {sums[0]} of {sums[2]} trials, and the largest of the images' "
        f"factors, batch norm left out, in {sums[1]}."
    )
    return "\n".join(lines)


def picture(trials: Mapping[str, list[dict[str, Any]]], path: Path) -> None:
    """Each factor's share in every trial, a panel for each true factor."""
    changed = [factor for factor in trials if factor != NONE]
    columns = [*ONE_FACTOR, BATCH_NORM, "unexplained"]
    figure = Figure(figsize=(13, 5.5), layout="constrained")
    panels = figure.subplots(2, 4, sharex=True, sharey=True)
    panels[0, 0].set_yticks(range(len(columns)), columns)
    panels[0, 0].invert_yaxis()  # all share it
    for axes, factor in zip(panels.flat, changed, strict=True):
        axes.axvline(0, color="0.6", linewidth=0.8)
        for height, name in enumerate(columns):
            shares = [
                100 * (row["unexplained"] if name == "unexplained" else row["shares"].get(name) or 0)
                for row in trials[factor]
                if row["is_gap"]
            ]
            mark, colour = ("o", "C1") if name == factor else ("x", "C0")
            axes.plot(shares, [height] * len(shares), mark, color=colour)
        axes.set_title(f"only {factor} differs", fontsize=10)
    figure.supxlabel("share of the gap, %: each mark is a trial")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial, which seeds its scenes")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--workers", type=int, default=1, help="trials side by side")
    arguments = parser.parse_args()
    network(arguments.out, arguments.steps)
    trials: dict[str, list[dict[str, Any]]] = {factor: [] for factor in (*ONE_FACTOR, NONE)}
    numbers = range(arguments.first, arguments.first + arguments.trials)
    jobs = [(factor, number) for number in numbers for factor in trials]
    with ProcessPoolExecutor(arguments.workers, get_context("spawn")) as pool:
        run = partial(trial, arguments.out, images=arguments.images)
        for (factor, number), row in zip(jobs, pool.map(run, *zip(*jobs, strict=True)), strict=True):
            trials[factor].append(row)
            print(factor, number, row["verdict"], flush=True)
    picture(trials, arguments.out / "shares.png")
    text = table(trials)
    (arguments.out / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
