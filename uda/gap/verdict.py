"""The gap in sentences, and the lines of a config that act on it."""

from __future__ import annotations

import math

from uda.gap.causes import ELIMINATION
from uda.gap.factors import BATCH_NORM, FACTORS
from uda.gap.results import Gap
from uda.gap.sampling import Interval
from uda.gap.summary import UNEXPLAINED, FixNumbers, Share, Summary

GROUP_WORDS = {
    "colour": "colour (mean, deviation, tone curve)",
    "detail": "detail (noise, sharpness, low frequencies)",
    "geometry": "resolution and aspect",
    "model": "batch-norm statistics",
}


SHORT = {"colour": "colour", "detail": "detail", "geometry": "resolution and aspect", "model": "batch norm"}


def percent(interval: Interval, *, signed: bool = False) -> str:
    """``31 % [24, 38]`` of a share."""
    sign = "+" if signed else ""
    value, low, high = (100 * number for number in (interval.value, interval.low, interval.high))
    if not math.isfinite(low):
        return f"{value:{sign}.0f} % (no interval: a single sequence)"
    return _minus(f"{value:{sign}.0f} % [{low:{sign}.0f}, {high:{sign}.0f}]")


def plain(interval: Interval, digits: int = 2) -> str:
    """``1.70 [1.52, 1.88]``."""
    if not math.isfinite(interval.value):
        return "–"
    if not math.isfinite(interval.low):
        return _minus(f"{interval.value:.{digits}f} (no interval: a single sequence)")
    return _minus(f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]")


def sentences(result: Gap, summary: Summary) -> list[str]:
    """The verdict, the most important sentence first."""
    if not result.target.labelled:
        return [
            f"{result.target.name} has no labels: how large the loss is, and what would lower it, cannot be said. "
            "What needs no label is below: how images differ, how sure the model is, how far apart the features are."
        ]
    if summary.gap is None:
        return [
            *_fix_sentences(summary)[:1],
            f"The loss on {result.target.name} is {plain(summary.target.loss)}; without labelled source images "
            "there is nothing to compare it to, so that no shares of a gap can be given.",
            *_fix_sentences(summary)[1:],
            *_after_sentences(result, summary),
        ]
    source = result.source_name
    against = f"{plain(summary.target.loss)} on {result.target.name} against {plain(summary.source_loss)} on {source}"
    if not summary.is_gap:
        if not math.isfinite(summary.gap.low):
            return [f"The loss is {against}; a single sequence gives no interval, so nothing can be said of a gap."]
        return [
            f"There is no gap that these images can show: the loss is {against}, a difference of "
            f"{plain(summary.gap)}, whose interval holds 0 or less.",
            *_fix_sentences(summary),
        ]
    lines = [_headline(summary)] if summary.groups else []
    lines.append(f"The loss is {against}: a gap of {plain(summary.gap)}.")
    lines += _group_sentences(result, summary)
    lines += _fix_sentences(summary)
    lines += _after_sentences(result, summary)
    if result.trained_on_source:
        lines.append(
            "The model was trained on these source images, so the gap is too large by what it has learnt by heart."
        )
    return lines


def _headline(summary: Summary) -> str:
    """One sentence: the largest clear share, the cheapest fix, what stays unexplained."""
    rest = next(share for share in summary.groups if share.name == UNEXPLAINED)
    clear = sorted(
        (share for share in summary.groups if share.name != UNEXPLAINED and share.share.low > 0),
        key=lambda share: -share.share.value,
    )
    parts = ["None of the factors tried clearly accounts for a part of the excess loss"]
    if clear:
        named = [f"{SHORT[share.name]} for {percent(share.share)}" for share in clear]
        verb = " account for " if clear[0].name == "geometry" else " accounts for "
        named[0] = named[0].replace(" for ", verb, 1)
        parts = [f"Of the excess loss, {', '.join(named[:-1])}{' and ' if named[:-1] else ''}{named[-1]}"]
    best = best_fix(summary)
    if best is not None:
        parts.append(f"{best.result.fix.name} at test time is the best fix tried ({percent(best.change, signed=True)})")
    else:
        parts.append("no fix tried at test time clearly lowers the loss")
    sides = " and batch norm" if any(share.name == "model" for share in summary.groups) else ""
    parts.append(f"{percent(rest.share)} is unexplained by appearance{sides}")
    return "; ".join(parts) + "."


def best_fix(summary: Summary) -> FixNumbers | None:
    """The fix that lowers the loss most, of those that clearly do."""
    helping = [fix for fix in summary.fixes if fix.change.high < 0]
    return min(helping, key=lambda fix: fix.change.value, default=None)


def _group_sentences(result: Gap, summary: Summary) -> list[str]:
    lines = []
    unclear = [s for s in summary.groups if s.name != UNEXPLAINED and not s.share.clear]
    worse = [s for s in summary.groups if s.name != UNEXPLAINED and s.share.high < 0]
    if unclear:
        named = ", ".join(f"{GROUP_WORDS[s.name]} {percent(s.share)}" for s in unclear)
        lines.append(f"No clear share: {named}.")
    if worse:
        named = ", ".join(f"{GROUP_WORDS[s.name]} {percent(s.share)}" for s in worse)
        lines.append(f"Bringing these to the source's makes the loss larger: {named}.")
    if result.harmful:
        named = ", ".join(f"{s.label} ({plain(s.alone)} nats)" for s in _of(summary.shares, result.harmful))
        lines.append(f"These edits do harm of their own and take no part in the shares: {named}.")
    return lines


def _of(shares: list[Share], names: tuple[str, ...]) -> list[Share]:
    return [share for share in shares if share.name in names]


def _fix_sentences(summary: Summary) -> list[str]:
    lines = []
    if summary.fixes:
        best = best_fix(summary)
        if best is not None:
            lines.append(
                f"Best of the {len(summary.fixes)} fixes tried: {best.result.fix.name}, loss "
                f"{percent(best.change, signed=True)} to {best.loss:.2f}, mIoU {points(best.miou_change)} points to "
                f"{100 * best.miou:.1f}."
            )
        else:
            lines.append(f"None of the {len(summary.fixes)} fixes tried clearly lowers the loss.")
        hurting = [fix for fix in summary.fixes if fix.change.low > 0]
        if hurting:
            named = ", ".join(f"{fix.result.fix.name} ({percent(fix.change, signed=True)})" for fix in hurting)
            lines.append(f"Clearly worse than the model as it is: {named}.")
    return lines


def points(interval: Interval) -> str:
    """A change of mIoU in points."""
    return percent(interval, signed=True).replace(" %", "", 1)


def _after_sentences(result: Gap, summary: Summary) -> list[str]:
    lines = []
    for domain, (loss, miou) in summary.after_change.items():
        lines.append(
            f"After {result.after_name}, the {domain}'s loss changes by {percent(loss, signed=True)}, its mIoU by "
            f"{points(miou)} points."
        )
    return lines


def config_lines(summary: Summary) -> str:
    """What to write into a benchmark's config, to act on the verdict; empty where nothing clearly helps."""
    best = best_fix(summary)
    if best is None:
        return ""
    line = best.result.fix.config
    if line.startswith("evaluate"):
        return f"{line}  # {best.result.fix.name}"
    return f"methods:\n  source_only: [Supervised]\n  fixed: {{test_time: {line}}}  # {best.result.fix.name}"


def how(result: Gap, summary: Summary) -> list[str]:
    """How it was measured."""
    lines = [
        "Loss of an image: mean cross-entropy (natural logarithm) over its labelled pixels, at the label's size, of "
        f"the softmax over all {len(result.class_names)} outputs; ignored pixels are out. Loss of a data set: mean "
        "over its images. Pooled loss: mean over all labelled pixels.",
        "Intervals of 95 %: Bayesian bootstrap of whole sequences (2000 draws), t quantiles with as many degrees of "
        "freedom as there are effective sequences less one; for other images of the same kind, under this one model.",
    ]  # fmt: skip
    for domain, numbers in (("source", summary.source), ("target", summary.target)):
        if numbers is not None:
            lines.append(f"{domain}: {numbers.name}, {numbers.images} images of {numbers.sequences} sequences.")
    if result.plan is not None and result.plan.factors:
        count = len(result.plan.factors)
        lines.append(
            "Shares: Shapley values of the loss over the image's factors that take part, per image, then averaged; "
            + (
                f"from all {2**count} combinations."
                if result.plan.exact
                else f"estimated from two antithetic orders drawn for each image, of {math.factorial(count)}; the "
                "error of that is in the intervals."
            )
            + " Shares and the unexplained rest sum to 100 %."
        )
        lines.append(
            "Edits carry statistics from data set to data set, in this order: "
            + "; ".join(f"{factor.label}: {factor.meaning}" for factor in FACTORS.values() if factor.name != BATCH_NORM)
            + "."
        )
        count = len(result.target.files)
        looked = f" ({ELIMINATION} of the {count} images were looked at for this)" if count > ELIMINATION else ""
        lines.append(f"A factor whose edit clearly does harm beside the others takes no part{looked}.")
    if BATCH_NORM in result.alone:
        lines.append(
            "Batch norm has what it still takes off when the images are edited in all of these: "
            f"{result.options.prior:g} of the model's own statistics blended with those of at "
            "most 16 target images, edited like the images that are predicted."
        )
    if summary.fixes:
        lines.append(
            f"Intervals of the fixes hold for all {len(summary.fixes)} together (Bonferroni). Fixes marked † looked at "
            "the target's images beforehand, without labels."
        )
    return lines


def _minus(text: str) -> str:
    return text.replace("-", "−")
