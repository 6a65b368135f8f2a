"""What an analysis leaves: a page, tables, numbers as JSON, TensorBoard's projector."""

from __future__ import annotations

import base64
import csv
import json
import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from uda import __version__
from uda.files import atomic_write, spreadsheet_safe
from uda.gap.columns import IMAGE_COLUMNS
from uda.gap.factors import FACTORS
from uda.gap.latent import distances, project
from uda.gap.measure import LOSS_SCALE, Measured, loss_colours
from uda.gap.results import DomainResult, Gap
from uda.gap.sampling import Interval
from uda.gap.summary import UNEXPLAINED, DomainNumbers, FixNumbers, Row, Share, Summary, summarise
from uda.gap.verdict import GROUP_WORDS, config_lines, how, plain, sentences
from uda.opencv import cv2

PICTURE_BYTES = 9_000_000
"""Of pictures in the page, at most; those of the samples with the largest loss go first."""
WHERE_TITLES = {
    "class": "by class",
    "height": "by height in the image",
    "boundary": "by distance from a boundary, pixels",
    "size": "by size of the object, share of the image",
}
MODEL_COLUMNS: dict[str, tuple[str, str]] = {
    "loss": ("nats", "mean cross-entropy over labelled pixels"),
    "miou": ("", "mean IoU over the classes in the image's label"),
    "confidence": ("", "mean probability of the predicted class"),
    "entropy": ("", "mean entropy of the prediction, as a share of log C"),
    "calibration_error": ("", "expected calibration error of the image's pixels, 15 bins (Guo et al. 2017)"),
    "source_distance": ("deviations", "distance of the pooled features to the source's mean, in principal components"),
}
TEXT_COLUMNS = {"dataset": "source or target", "name": "data set", "file": "image", "sequence": "video or place"}


def write_report(result: Gap, out: str | Path, *, command: str = "", title: str | None = None) -> Summary:
    """Write everything into a folder; files of an earlier report there are replaced.

    ``report.html`` (one page that opens offline), ``gap.json`` (all numbers), ``samples.csv`` (and ``samples.parquet``
    where pyarrow is installed), ``summary.md``, ``projector/`` (TensorBoard's, where there are features).

    Args:
        result: of :func:`uda.gap.analyse`, with its working folder still there for the pictures.
        out: the folder.
        command: that repeats it.
        title: of the page.

    Returns:
        the numbers.
    """
    from uda.gap.page import write_page

    out = Path(out)
    summary = summarise(result)
    content = page_content(result, summary, command=command, title=title)
    write_page(content, out / "report.html")
    numbers = {key: value for key, value in content.items() if key not in ("pictures", "samples", "after", "columns")}
    with atomic_write(out / "gap.json") as file:
        file.write(json.dumps(numbers, indent=1, sort_keys=True, allow_nan=False) + "\n")
    _write_samples(content, out)
    with atomic_write(out / "summary.md") as file:
        file.write(markdown(content))
    _write_projector(result, content, out / "projector")
    return summary


def page_content(result: Gap, summary: Summary, *, command: str = "", title: str | None = None) -> dict[str, Any]:
    """Everything that the page shows, as plain values."""
    missing = dict(result.missing)
    domains = [domain for domain in (result.source, result.target) if domain is not None]
    columns, samples = _samples(result, domains)
    order = [(domain, index) for domain in domains for index in range(len(domain.before))]
    latent, gaps = _latent(result, domains, missing)
    content: dict[str, Any] = {
        "title": title or f"{result.target.name} against {result.source_name}",
        "command": command,
        "version": f"uda {__version__}, torch {torch.__version__}",
        "verdict": sentences(result, summary),
        "config": config_lines(summary),
        "numbers": _numbers(summary, result),
        "columns": columns,
        "samples": samples,
        "after": _after(domains),
        "latent": latent,
        "pictures": _pictures(result, order, samples, missing),
        "loss_scale": list(LOSS_SCALE),
        "loss_colours": [[int(value) for value in colour] for colour in loss_colours()],
        "classes": [
            {"name": name, "colour": [int(value) for value in colour]}
            for name, colour in zip(result.class_names, result.palette, strict=True)
        ],
        "distances": gaps,
        "factors": [_factor(share) for share in (*summary.shares, *summary.groups[-1:])],
        "groups": [_factor(share) for share in summary.groups],
        "fixes": [_fix(fix) for fix in summary.fixes],
        "where": {
            ("classes" if kind == "class" else kind): {
                "title": WHERE_TITLES[kind],
                "rows": [_row(row, kind) for row in rows],
            }
            for kind, rows in summary.where.items()
        },
        "correlations": [
            {"column": name, "rho": number(rho.value), "low": number(rho.low), "high": number(rho.high)}
            for name, rho in summary.correlations
        ],
        "worse": _worse(result, order),
        "how": how(result, summary),
        "missing": missing,
    }
    if result.target.labelled and not content["config"]:
        missing["config"] = "no fix that was tried clearly helps, so there is nothing to write into a config"
    if result.source is None:
        missing["where"] = "there are no source images to compare to, only published statistics"
    return content


def number(value: float | None) -> float | None:
    """A finite number with six digits, so that pages of other machines hardly differ; else ``None``."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")


def _numbers(summary: Summary, result: Gap) -> list[dict[str, Any]]:
    rows = []
    for role, state, numbers in (
        ("source", "before", summary.source),
        ("target", "before", summary.target),
        ("source", "after", summary.source_after),
        ("target", "after", summary.target_after),
    ):
        if numbers is not None:
            rows.append({"dataset": f"{role}: {numbers.name}", "state": state, **_domain(numbers)})
    return rows


def _domain(numbers: DomainNumbers) -> dict[str, Any]:
    row: dict[str, Any] = {"images": numbers.images, "sequences": numbers.sequences}
    for name in ("loss", "pooled_loss", "miou"):
        row |= interval(name, getattr(numbers, name))
    return row


def interval(name: str, value: Interval) -> dict[str, float | None]:
    """``name``, ``name_low``, ``name_high``."""
    return {name: number(value.value), f"{name}_low": number(value.low), f"{name}_high": number(value.high)}


def _factor(share: Share) -> dict[str, Any]:
    label = share.label if share.name in FACTORS else GROUP_WORDS.get(share.name, share.label)
    return {
        "name": share.name,
        "label": label,
        "group": share.group,
        "share": number(share.share.value),
        "low": number(share.share.low),
        "high": number(share.share.high),
        "meaning": FACTORS[share.name].meaning if share.name in FACTORS else "",
        "note": share.note if share.name != UNEXPLAINED else "",
        **interval("taken", share.taken),
        **interval("alone", share.alone),
        **interval("miou_alone", share.miou_alone),
    }


def _fix(fix: FixNumbers) -> dict[str, Any]:
    return {
        "name": fix.result.fix.name,
        "config": fix.result.fix.config,
        "loss": number(fix.loss),
        "change": number(fix.change.value),
        "low": number(fix.change.low),
        "high": number(fix.change.high),
        "miou": number(fix.miou),
        "miou_change": number(fix.miou_change.value),
        "miou_low": number(fix.miou_change.low),
        "miou_high": number(fix.miou_change.high),
        "verdict": fix.verdict,
        "note": "† looked at the target's images" if fix.result.fix.looks_at_target else "",
    }


def _row(row: Row, kind: str) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": row.name,
        "pixels_source": number(row.pixels[0]),
        "pixels_target": number(row.pixels[1]),
        **interval("loss_source", row.source),
        **interval("loss_target", row.target),
        "loss_after": None if row.after is None else number(row.after.value),
        "low": number(row.target.low),
        "high": number(row.target.high),
        "excess_share": number(row.excess),
    }
    if row.iou is not None:
        content |= dict(zip(("iou_source", "iou_target", "iou_after"), map(number, row.iou), strict=True))
        content["into"] = row.into
    return content


def _samples(result: Gap, domains: Sequence[DomainResult]) -> tuple[list[dict[str, str]], dict[str, list[Any]]]:
    """Descriptions of the columns, and the columns."""
    known = {**MODEL_COLUMNS, **IMAGE_COLUMNS}
    columns = [{"name": n, "label": n, "unit": "", "kind": "text", "meaning": m} for n, m in TEXT_COLUMNS.items()]
    samples: dict[str, list[Any]] = {name: [] for name in TEXT_COLUMNS}
    for domain in domains:
        role = "target" if domain is result.target else "source"
        samples["dataset"] += [role] * len(domain.before)
        samples["name"] += [domain.name] * len(domain.before)
        samples["file"] += domain.files
        samples["sequence"] += domain.sequences
    rows = [row for domain in domains for row in domain.before]
    for name, (unit, meaning) in known.items():
        values = [number(row.columns.get(name)) for row in rows]
        if any(value is not None for value in values):
            columns.append(
                {"name": name, "label": name.replace("_", " "), "unit": unit, "kind": "number", "meaning": meaning}
            )
            samples[name] = values
    if any(row.pixels for row in rows):
        for at, name in enumerate(result.class_names):
            shares = [number(row.regions["class"][1][at] / row.pixels) if row.pixels else None for row in rows]
            columns.append({"name": f"share/{name}", "label": f"share of {name}", "unit": "", "kind": "number",
                            "meaning": f"share of the labelled pixels that are {name}"})  # fmt: skip
            samples[f"share/{name}"] = shares
            columns.append({"name": f"iou/{name}", "label": f"IoU of {name}", "unit": "", "kind": "number",
                            "meaning": f"IoU of {name} in the image; none where it is not in the label"})  # fmt: skip
            samples[f"iou/{name}"] = [_iou(row, at) for row in rows]
    return columns, samples


def _iou(row: Measured, at: int) -> float | None:
    labelled = row.confusion[at].sum()
    if not labelled:
        return None
    hits = row.confusion[at, at]
    return number(float(hits / (labelled + row.confusion[:, at].sum() - hits)))


def _after(domains: Sequence[DomainResult]) -> dict[str, list[Any]] | None:
    if any(domain.after is None for domain in domains):
        return None
    rows = [row for domain in domains for row in domain.after or []]
    names = [name for name in MODEL_COLUMNS if name != "source_distance"]
    after = {name: [number(row.columns.get(name)) for row in rows] for name in names}
    return {name: values for name, values in after.items() if any(value is not None for value in values)}


def _features(rows: Sequence[Measured]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.stack([row.features for row in rows]).astype(np.float64)


def _latent(
    result: Gap, domains: Sequence[DomainResult], missing: dict[str, str]
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Coordinates of all samples, and distances of the domains."""
    rows = [row for domain in domains for row in domain.before]
    if not all(row.features.size for row in rows):
        missing["latent"] = (
            "the model gives no features: uda.models.adapt(network, ..., feature_layer=NAME) names the layer they are"
        )
        return None, []
    if len(rows) < 4:
        missing["latent"] = f"{len(rows)} images are too few for a latent space"
        return None, []
    after = [row for domain in domains for row in domain.after or []]
    same = bool(after) and len(after) == len(rows) and after[0].features.shape == rows[0].features.shape
    # one set of axes, fitted on both states, so that the two pictures compare
    placed, axes = project(
        _features([*rows, *after] if same else rows), method=result.options.projection, seed=result.options.seed
    )
    points = placed[0]
    latent: dict[str, Any] = {
        "method": {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}[result.options.projection],
        "axes": list(axes),
        "before": [[number(x), number(y)] for x, y in points[: len(rows)]],
    }
    if same:
        latent["after"] = [[number(x), number(y)] for x, y in points[len(rows) :]]
    if result.source is None:
        missing["distances"] = "there are no source images to compare to, only published statistics"
        return latent, []
    try:
        measured = distances(
            _features(result.source.before), _features(result.target.before),
            result.source.sequences, result.target.sequences, result.options.seed,
        )  # fmt: skip
    except ValueError as error:
        missing["distances"] = str(error)
        return latent, []
    return latent, [
        {
            "name": distance.name,
            "meaning": distance.meaning,
            "value": number(distance.value.value),
            "low": number(distance.value.low),
            "high": number(distance.value.high),
            "baseline": number(distance.baseline.value),
            "baseline_low": number(distance.baseline.low),
            "baseline_high": number(distance.baseline.high),
        }
        for distance in measured
    ]


def _pictures(
    result: Gap,
    order: Sequence[tuple[DomainResult, int]],
    samples: Mapping[str, list[Any]],
    missing: dict[str, str],
    limit: int = PICTURE_BYTES,
) -> dict[str, dict[str, list[str | None]]] | None:
    """Data URIs of the pictures, of the samples with the largest loss first, as long as there is room."""
    if result.pictures is None:
        missing["pictures"] = "the working folder is gone"
        return None
    losses = [value if value is not None else -1.0 for value in samples.get("loss", [0.0] * len(order))]
    kinds: dict[str, tuple[str, ...]] = {"before": ("image", "label", "prediction", "loss", "error")}
    if result.target.after is not None:
        kinds["after"] = ("prediction", "loss", "error")
    content: dict[str, dict[str, list[str | None]]] = {
        state: {kind: [None] * len(order) for kind in names} for state, names in kinds.items()
    }
    used = 0
    for rank, at in enumerate(sorted(range(len(order)), key=lambda at: -losses[at])):
        domain, index = order[at]
        role = "target" if domain is result.target else "source"
        drawn = {
            (state, kind): _uri(data)
            for state, names in kinds.items()
            for kind, data in result.pictures(role, state, index).items()
            if kind in names
        }
        used += sum(map(len, drawn.values()))
        if used > limit:
            missing["pictures"] = f"there is room for those of the {rank} samples with the largest loss"
            break
        for (state, kind), uri in drawn.items():
            content[state][kind][at] = uri
    return content


def _uri(data: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(data).decode()


def _worse(result: Gap, order: Sequence[tuple[DomainResult, int]]) -> list[dict[str, Any]] | None:
    """Target samples that the fix made worse, the worst first."""
    if result.target.after is None or not result.target.labelled:
        return None
    rows = []
    for at, (domain, index) in enumerate(order):
        if domain is result.target:
            before, after = domain.before[index].columns["loss"], result.target.after[index].columns["loss"]
            if after > before:
                rows.append(
                    {"file": domain.files[index], "index": at, "before": number(before), "after": number(after)}
                )
    return sorted(rows, key=lambda row: row["before"] - row["after"])


def _write_samples(content: Mapping[str, Any], out: Path) -> None:
    samples = dict(content["samples"])
    for name, values in (content["after"] or {}).items():
        samples[f"after/{name}"] = values
    with atomic_write(out / "samples.csv") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(samples)
        for row in zip(*samples.values(), strict=True):
            writer.writerow(["" if value is None else spreadsheet_safe(value) for value in row])
    try:
        pyarrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        return
    # types are said, since a column of a class that no image has would have none
    kinds = {name: pyarrow.string() if name in TEXT_COLUMNS else pyarrow.float64() for name in samples}
    with atomic_write(out / "samples.parquet", binary=True) as file:
        parquet.write_table(pyarrow.table({name: pyarrow.array(samples[name], kinds[name]) for name in samples}), file)


def markdown(content: Mapping[str, Any]) -> str:
    """The report in text: verdict, data sets, shares, fixes, distances, classes."""
    lines = [f"# {content['title']}", "", *(f"{line}\n" for line in content["verdict"])]
    rows = []
    for row in content["numbers"]:
        cells = [row["dataset"], row["state"], str(row["images"]), str(row["sequences"])]
        cells += [_ranged(row, "loss"), _ranged(row, "pooled_loss"), _ranged(row, "miou", scale=100, digits=1)]
        rows.append(cells)
    lines += _table(["data set", "state", "images", "sequences", "loss", "pooled loss", "mIoU %"], rows, left=2)
    if content["factors"]:
        heads = ["factor", "share of the excess loss %", "change of the loss when only this is edited", "note"]
        rows = [
            [row["label"], _ranged(row, "share", "low", "high", 100, 0), _ranged(row, "alone"), row["note"]]
            for row in content["factors"]
        ]
        lines += ["", "## Shares of the excess loss", "", *_table(heads, rows)]
    if content["fixes"]:
        heads = ["fix", "config", "loss", "change %", "mIoU %", "change, points", "", "note"]
        rows = [
            [
                row["name"],
                f"`{row['config']}`",
                f"{row['loss']:.3f}",
                _ranged(row, "change", "low", "high", 100, 1),
                f"{100 * row['miou']:.1f}",
                _ranged(row, "miou_change", "miou_low", "miou_high", 100, 1),
                row["verdict"],
                row["note"],
            ]
            for row in content["fixes"]
        ]
        lines += ["", "## Fixes at test time", "", *_table(heads, rows, left=2)]
    if content["distances"]:
        rows = [
            [row["name"], _ranged(row, "value", "low", "high", digits=3), _ranged(row, "baseline", digits=3),
             row["meaning"]]
            for row in content["distances"]
        ]  # fmt: skip
        heads = ["measure", "source to target", "half the source to the other", "meaning"]
        lines += ["", "## Distance in feature space", "", *_table(heads, rows)]
    for part in content["where"].values():
        heads = ["", "pixels % source", "target", "loss source", "target", "part of the pooled gap %"]
        rows = [
            [
                row["name"],
                *(f"{100 * (row[key] or 0):.2f}" for key in ("pixels_source", "pixels_target")),
                _ranged(row, "loss_source"),
                _ranged(row, "loss_target"),
                f"{100 * (row['excess_share'] or 0):.0f}",
            ]
            for row in part["rows"]
        ]
        lines += ["", f"## Loss {part['title']}", "", *_table(heads, rows)]
    if content["correlations"]:
        rows = [[row["column"], _ranged(row, "rho", "low", "high")] for row in content["correlations"]]
        lines += ["", "## Rank correlation of the target's loss (correlation, not cause)", ""]
        lines += _table(["column", "Spearman's rho"], rows)
    for part, reason in content["missing"].items():
        lines += ["", f"Not measured ({part}): {reason}."]
    lines += ["", "## How it was measured", "", *(f"- {line}" for line in content["how"])]
    if content["command"]:
        lines += ["", f"Command: `{content['command']}`"]
    return "\n".join(lines) + "\n"


def _ranged(
    row: Mapping[str, Any], name: str, low: str = "", high: str = "", scale: float = 1.0, digits: int = 2
) -> str:
    """A number of a row with its interval."""
    keys = (name, low or f"{name}_low", high or f"{name}_high")
    value, *ends = (math.nan if row[key] is None else scale * row[key] for key in keys)
    # ends that are missing are those of a single sequence
    return plain(Interval(value, *(end if end == end else -math.inf for end in ends)), digits)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """A Markdown table; the first columns are left-aligned."""
    return [_line(heads), _line(["---"] * left + ["---:"] * (len(heads) - left)), *map(_line, rows)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _write_projector(result: Gap, content: Mapping[str, Any], folder: Path) -> None:
    """TensorBoard's projector: pooled features with their columns and thumbnails."""
    rows = [row for domain in (result.source, result.target) if domain is not None for row in domain.before]
    if content["latent"] is None:
        return
    import shutil

    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    samples = content["samples"]
    names = [column["name"] for column in content["columns"] if not column["name"].startswith(("share/", "iou/"))]
    table = [["" if value is None else str(value) for value in row]
             for row in zip(*(content["samples"][name] for name in names), strict=True)]  # fmt: skip
    pictures = (content["pictures"] or {}).get("before", {}).get("image")
    thumbnails = None if pictures is None else torch.stack([_thumbnail(uri) for uri in pictures])
    with SummaryWriter(str(folder)) as writer:
        features = torch.from_numpy(np.stack([row.features for row in rows]))
        writer.add_embedding(features, table, thumbnails, tag="features", metadata_header=names)
        regions = [
            (cells[k], [samples["dataset"][at], samples["file"][at], result.class_names[k]])
            for at, row in enumerate(rows)
            if (cells := row.class_features) is not None
            for k in range(len(cells))
            if np.isfinite(cells[k]).all()
        ]
        if regions:
            vectors, about = zip(*regions, strict=True)
            header = ["dataset", "file", "class"]
            writer.add_embedding(
                torch.from_numpy(np.stack(vectors)), list(about), tag="classes", metadata_header=header
            )


def _thumbnail(uri: str | None, side: int = 48) -> torch.Tensor:
    """``(3, 48, 48)`` in [0, 1]; grey where there is no picture."""
    if uri is None:
        return torch.full((3, side, side), 0.5)
    data = np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8)
    image = cv2.resize(cv2.imdecode(data, cv2.IMREAD_COLOR), (side, side), interpolation=cv2.INTER_AREA)  # type: ignore[arg-type]
    return torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1).float() / 255
