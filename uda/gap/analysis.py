"""Why a model loses on the target: measures, interventions and fixes put together.

The **loss** of an image is the mean cross-entropy (natural logarithm) over its labelled pixels, of the softmax over all
outputs of the model, at the label's size; the loss of a data set is the mean over its images. The *pooled* loss, the
mean over all labelled pixels, stands beside it. The **gap** is the target's loss less the source's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from uda.data.identity import dataset_identity
from uda.data.statistics import ChannelStats
from uda.engine.identity import model_identity
from uda.engine.inference import PLAIN, Inference, ResizedImages
from uda.engine.scoring import predict_and_loss
from uda.gap.asking import Asker
from uda.gap.causes import causes_of
from uda.gap.fixes import Fix, default_fixes
from uda.gap.latent import centred_distance
from uda.gap.measure import Measured
from uda.gap.passes import Pass
from uda.gap.results import DomainResult, FixResult, Gap, Options, Progress
from uda.gap.store import CHUNK, Shelf, Store, give_back_memory
from uda.gap.style import Style
from uda.gap.threads import in_threads
from uda.methods.base import TestTimeMethod
from uda.metrics import confusion
from uda.models.modes import evaluating
from uda.types import LabelledDataset, UnlabelledDataset

UNLABELLED = "the target has no labels: no loss, no shares of it, no fixes to compare"


def analyse(
    model: nn.Module,
    source: LabelledDataset | ChannelStats,
    target: UnlabelledDataset,
    *,
    work: str | Path,
    class_names: Sequence[str],
    palette: Sequence[Sequence[int]],
    source_name: str | None = None,
    after: nn.Module | None = None,
    after_attach: Callable[[LabelledDataset | None, UnlabelledDataset], nn.Module] | None = None,
    after_name: str | None = None,
    fixes: Sequence[Fix] | None = None,
    adapt_on: UnlabelledDataset | None = None,
    inference: Inference = PLAIN,
    precision: str = "fp32",
    options: Options | None = None,
    progress: Progress | None = None,
    trained_on_source: bool = False,
) -> Gap:
    """Measure a model on source and target, and find what takes the difference away.

    Each image is decoded once, and each combination of image and edit goes through the model once. What is finished
    is kept in ``work``: the same call goes on from there.

    Args:
        model: images ``(N, 3, H, W)`` in [0, 1] -> :class:`SegOutput`, or logits of any size (then there is no latent
            space). Put in evaluation mode and back; batch-norm statistics are the same afterwards.
        source: labelled images that the model was not trained on, or published statistics where there are none.
        target: with labels (:class:`LabelledDataset`), or without: then what needs a loss is left out.
        work: folder for what is finished; removed by the caller (:func:`uda.gap.store.remove_work`).
        class_names: of the model's outputs; the data sets' classes come first, in this order, and further outputs (a
            void one) take part in the softmax.
        palette: a colour (0 to 255) for each.
        source_name: of published statistics.
        after: a second model, for before and after.
        after_attach: or a test-time method around the first: source, target's images -> attached method.
        after_name: of either.
        fixes: test-time methods to try, :func:`uda.gap.fixes.default_fixes` if left out.
        adapt_on: unlabelled images of the target for methods that look at some beforehand; the scored ones if left out.
        inference: how images are predicted.
        precision: ``bf16`` and ``fp16`` run the forward under autocast.
        options: see :class:`Options`.
        progress: shows how far it is.
        trained_on_source: said in the report.

    Raises:
        ValueError: no images, classes that do not fit, a fix that does not fit the model.
        OtherAnalysisError: ``work`` holds an unfinished analysis of something else.
    """
    options = options or Options()
    images = None if isinstance(source, ChannelStats) else source
    _check(images, target, class_names)
    table = np.asarray(palette, np.uint8)
    store = Store(
        Path(work), _identity(model, source, target, _named(after, after_name), options, inference, precision)
    )
    ask = Asker(model, inference, precision)
    watch = progress or _silent
    width = picture_width((0 if images is None else len(images)) + len(target))
    with evaluating(model):
        pass_ = Pass(store, table, width, options.by_class, watch)
        first, second, style = _measured(pass_, ask, source, target)
        name = source_name or ("published statistics" if images is None else images.name)
        result = Gap(
            tuple(class_names), table, first, style, name, second, options, after_name=after_name,
            missing={} if second.labelled else {"loss": UNLABELLED}, trained_on_source=trained_on_source,
        )  # fmt: skip
        shelf = Shelf(target.name, store, "target", len(target))
        seen = shelf if adapt_on is None else adapt_on
        causes = causes_of(result, ask, store, shelf, watch) if options.causes and second.labelled else {}
        wanted = _wanted_fixes(fixes, result, model, images)
        tried = [_fix(fix, ask, store, shelf, seen, images, watch) for fix in wanted]
        resized = ResizedImages(seen, inference)
        rows = _after(after, after_attach, result, inference, precision, pass_, images, resized)
    return replace(
        result,
        **causes,
        fixes=tried,
        source=None if first is None else _with_distance(first, first, rows.get("source")),
        target=_with_distance(second, first, rows.get("target")),
        pictures=pass_.pictures,
    )


def _identity(
    model: nn.Module,
    source: LabelledDataset | ChannelStats,
    target: UnlabelledDataset,
    after: Any,
    options: Options,
    inference: Inference,
    precision: str,
) -> dict[str, Any]:
    """What the content of a working folder depends on."""
    return {
        "model": model_identity(model) | {"weights": _weights(model)},
        "source": list(map(list, _numbers(source))) if isinstance(source, ChannelStats) else dataset_identity(source),
        "target": dataset_identity(target),
        "after": after,
        "options": {name: value for name, value in vars(options).items() if name not in ("projection", "batch_size")},
        "inference": inference.model_dump(mode="json"),
        "precision": precision,
    }


def _named(after: nn.Module | None, name: str | None) -> Any:
    """What a second model is known by: its name, and where it is a network its weights."""
    return name if after is None else {"name": name, "weights": _weights(after)}


def _measured(
    pass_: Pass, ask: Asker, source: LabelledDataset | ChannelStats, target: UnlabelledDataset
) -> tuple[DomainResult | None, DomainResult, Style]:
    """Source and target as one pass finds them, and the source's style; of published statistics the style alone."""
    if isinstance(source, ChannelStats):
        return None, pass_.base(ask, "target", target), Style.published(source)
    first = pass_.base(ask, "source", source)
    return first, pass_.base(ask, "target", target), first.style


def picture_width(images: int) -> int:
    """Width of the pictures that keeps a page of so many images under 15 MB."""
    return 256 if images <= 250 else 192 if images <= 500 else 144


def _wanted_fixes(
    fixes: Sequence[Fix] | None, result: Gap, model: nn.Module, source: LabelledDataset | None
) -> Sequence[Fix]:
    """The fixes to try, by default all that there are; without labels there is nothing to compare."""
    if not result.target.labelled:
        return []
    return default_fixes(model, result.source_style, result.target.style, source) if fixes is None else fixes


def _fix(
    fix: Fix,
    plain: Asker,
    store: Store,
    shelf: Shelf,
    seen: UnlabelledDataset,
    source: LabelledDataset | None,
    watch: Progress,
) -> FixResult:
    """Predict the target with a fix."""

    def make() -> dict[str, Any]:
        losses, matrices = [], []
        with (
            fix.attached(plain.model, source, seen, plain.inference) as (wrapped, how),
            watch(f"fix: {fix.name}", len(shelf)) as tick,
        ):
            ask = Asker(wrapped, how, plain.precision)

            def predictions() -> Iterator[tuple[Tensor, Tensor]]:
                for sample in shelf.samples():
                    assert sample.label is not None
                    size = (int(sample.label.shape[-2]), int(sample.label.shape[-1]))
                    yield ask.logits(sample.as_float()[None], size, resized=False), sample.label

            for matrix, loss in in_threads(lambda task: score(*task), predictions()):
                losses.append(loss)
                matrices.append(torch.from_numpy(matrix))
                tick()
                if len(losses) % CHUNK == 0:
                    give_back_memory()  # the store does it after each chunk, and a fix is one
        return {"losses": losses, "confusions": torch.stack(matrices)}

    content = store.chunk(f"fix_{fix.key}", make)
    return FixResult(fix, np.array(content["losses"]), content["confusions"].numpy())


def score(logits: Tensor, label: Tensor) -> tuple[npt.NDArray[np.int64], float]:
    """Confusion matrix ``(C, C)`` and mean loss of logits ``(1, C, h, w)``, of any size."""
    label = label.to(logits.device)
    classes, loss = predict_and_loss(logits[0], label)
    return confusion(classes, label, logits.shape[1]).cpu().numpy(), loss


def _after(
    after: nn.Module | None,
    attach: Callable[[LabelledDataset | None, UnlabelledDataset], nn.Module] | None,
    result: Gap,
    inference: Inference,
    precision: str,
    pass_: Pass,
    source: LabelledDataset | None,
    seen: UnlabelledDataset,
) -> dict[str, list[Measured]]:
    """Both domains again, with the fix that was asked for."""
    if after is None and attach is None:
        return {}
    network: nn.Module = after if after is not None else attach(source, seen)  # type: ignore[misc]
    mode = nullcontext() if isinstance(network, TestTimeMethod) else evaluating(network)
    rows = {}
    with mode:
        ask = Asker(network, inference, precision)
        for domain, before in (("source", result.source), ("target", result.target)):
            if before is not None:
                rows[domain] = pass_.again(ask, domain, before)
    if isinstance(network, TestTimeMethod):
        network.detach_model()
    return rows


def _with_distance(domain: DomainResult, source: DomainResult | None, after: list[Measured] | None) -> DomainResult:
    """With the distance to the source's features as one more column."""
    if source is not None and _have_features(domain) and min(len(source.before), len(domain.before)) >= 4:
        reference = np.stack([row.features for row in source.before]).astype(np.float64)
        values = centred_distance(np.stack([row.features for row in domain.before]).astype(np.float64), reference)
        for row, value in zip(domain.before, values, strict=True):
            row.columns["source_distance"] = float(value)
    return DomainResult(
        domain.name, domain.files, domain.sequences, domain.before, domain.style, domain.labelled, after
    )


def _have_features(domain: DomainResult) -> bool:
    return all(row.features.size for row in domain.before)


def _check(source: LabelledDataset | None, target: UnlabelledDataset, class_names: Sequence[str]) -> None:
    for dataset in (source, target):
        if dataset is None:
            continue
        if len(dataset) == 0:
            raise ValueError(f"{dataset.name}: no images to look at")
        names = list(getattr(getattr(dataset, "space", None), "names", []))
        if names != list(class_names)[: len(names)]:
            raise ValueError(
                f"{dataset.name}: has the classes {', '.join(names)}; the model's are {', '.join(class_names)}; "
                "take the data set in the model's classes: dataset.remap(model.space)"
            )
    if source is not None and not getattr(source, "labelled", True):
        raise ValueError(f"{source.name}: the source needs labels")


def _weights(model: nn.Module) -> str:
    """A short text that other weights change."""
    content = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        content.update(name.encode())
        content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return content.hexdigest()[:16]


def _numbers(stats: Any) -> Iterable[list[float]]:
    return [list(map(float, stats.mean)), list(map(float, stats.std))]


@contextmanager
def _silent(label: str, total: int) -> Iterator[Callable[[], None]]:
    yield lambda: None
