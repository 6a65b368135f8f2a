"""Why a model loses on the target: measures, interventions and fixes put together.

The **loss** of an image is the mean cross-entropy (natural logarithm) over its labelled pixels, of the softmax over all
outputs of the model, at the label's size; the loss of a data set is the mean over its images. The *pooled* loss, the
mean over all labelled pixels, stands beside it. The **gap** is the target's loss less the source's.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from uda.data.identity import dataset_identity
from uda.data.statistics import ChannelStats
from uda.engine.identity import model_identity
from uda.engine.inference import PLAIN, Inference, ResizedImages, at_size, predict_logits, resize_images
from uda.engine.precision import autocast, widened
from uda.engine.scoring import predict_and_loss
from uda.gap.columns import IMAGE_COLUMNS, image_columns
from uda.gap.factors import BATCH_NORM
from uda.gap.fixes import Fix, default_fixes
from uda.gap.interventions import Interventions, Plan
from uda.gap.latent import Projection, centred_distance
from uda.gap.measure import Measured, measure
from uda.gap.sampling import Coalition, Images
from uda.gap.store import Shelf, Store, chunks, give_back_memory, pack, unpack
from uda.gap.style import Style, StyleSums, as_pixels
from uda.gap.threads import in_threads
from uda.methods.base import TestTimeMethod
from uda.metrics import confusion
from uda.models.modes import evaluating
from uda.types import LabelledDataset, Sample, SegOutput, UnlabelledDataset

Floats = npt.NDArray[np.float64]
Progress = Callable[[str, int], Any]
"""A label and how many there will be -> a context manager that gives a function to call after each."""
CHUNK = 8
"""Images that are finished together; what a kill can lose."""
CALIBRATION = 16
"""Target images that batch norm is calibrated on in interventions."""
UNLABELLED = "the target has no labels: no loss, no shares of it, no fixes to compare"
ELIMINATION = 120
"""Target images, evenly spaced, on which edits that do harm are looked for; a harm that these do not show is small."""


@dataclass(frozen=True)
class Options:
    """How an analysis is made.

    Raises:
        ValueError: a value out of its range.
    """

    budget: int = 4000
    """Forward passes up to which all combinations of factors are tried; beyond, two orders are drawn for each image."""
    prior: float = 0.5
    """Share of the model's own statistics where batch norm is a factor, in [0, 1]."""
    projection: Projection = "pca"
    by_class: bool = False
    """Pool features by class as well."""
    batch_size: int = 4
    seed: int = 0
    causes: bool = True
    """Whether to edit images; without, only what one pass gives is measured."""

    def __post_init__(self) -> None:
        for name, least in (("budget", 1), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least {least}")
        if not 0 <= self.prior <= 1:
            raise ValueError(f"prior is {self.prior}, must be in [0, 1]")


@dataclass(frozen=True)
class DomainResult:
    """What was measured on one data set."""

    name: str
    files: tuple[str, ...]
    sequences: tuple[str, ...]
    before: list[Measured]
    style: Style
    labelled: bool
    after: list[Measured] | None = None

    def losses(self) -> Floats:
        """``(n,)`` mean loss of each image; NaN without labels."""
        return np.array([row.columns["loss"] for row in self.before])


@dataclass(frozen=True)
class FixResult:
    """Target images under a fix."""

    fix: Fix
    losses: Floats
    """``(n,)``."""
    confusions: npt.NDArray[np.int64]
    """``(n, C, C)``."""


@dataclass(frozen=True)
class Gap:
    """Everything that an analysis measured; :func:`uda.gap.report.summarise` makes numbers and sentences of it."""

    class_names: tuple[str, ...]
    palette: npt.NDArray[np.uint8]
    source: DomainResult | None
    source_style: Style
    source_name: str
    target: DomainResult
    options: Options
    plan: Plan | None = None
    differences: dict[str, float] = field(default_factory=dict)
    """Factor -> how far the domains differ in it, see :meth:`uda.gap.factors.Editor.differences`."""
    harmful: tuple[str, ...] = ()
    """Factors whose edit does harm beside the others; they take no part in the shares."""
    shares: dict[str, Floats] = field(default_factory=dict)
    """Factor -> ``(n,)`` what it takes off each target image's loss (Shapley)."""
    alone: dict[str, tuple[Floats, npt.NDArray[np.int64]]] = field(default_factory=dict)
    """Factor -> losses ``(n,)`` and confusions ``(n, C, C)`` of the target so edited."""
    fixes: list[FixResult] = field(default_factory=list)
    after_name: str | None = None
    missing: dict[str, str] = field(default_factory=dict)
    """Part -> why it could not be measured."""
    trained_on_source: bool = False
    """Whether the source's images are ones that the model was trained on."""
    pictures: Callable[[str, str, int], dict[str, bytes]] | None = None
    """Domain, state (``before``, ``after``), image -> its pictures; while the working folder is there."""


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
    ask = _Asker(model, inference, precision)
    watch = progress or _silent
    width = picture_width((0 if images is None else len(images)) + len(target))
    with evaluating(model):
        pass_ = _Pass(store, table, width, options.by_class, watch)
        first, second, style = _measured(pass_, ask, source, target)
        name = source_name or ("published statistics" if images is None else images.name)
        result = Gap(
            tuple(class_names), table, first, style, name, second, options, after_name=after_name,
            missing={} if second.labelled else {"loss": UNLABELLED}, trained_on_source=trained_on_source,
        )  # fmt: skip
        shelf = Shelf(target.name, store, "target", len(target))
        seen = shelf if adapt_on is None else adapt_on
        causes = _causes(result, ask, store, shelf, watch) if options.causes and second.labelled else {}
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
    pass_: _Pass, ask: _Asker, source: LabelledDataset | ChannelStats, target: UnlabelledDataset
) -> tuple[DomainResult | None, DomainResult, Style]:
    """Source and target as one pass finds them, and the source's style; of published statistics the style alone."""
    if isinstance(source, ChannelStats):
        return None, pass_.base(ask, "target", target), Style.published(source)
    first = pass_.base(ask, "source", source)
    return first, pass_.base(ask, "target", target), first.style


def picture_width(images: int) -> int:
    """Width of the pictures that keeps a page of so many images under 15 MB."""
    return 256 if images <= 250 else 192 if images <= 500 else 144


class _Asker:
    """A network and how it is asked."""

    def __init__(self, model: nn.Module, inference: Inference, precision: str) -> None:
        self.model, self.inference, self.precision = model, inference, precision
        self.device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))

    def output(self, images: Tensor, size: tuple[int, int]) -> SegOutput | Tensor:
        """Of ``(N, 3, H, W)``: logits of a size, with the features where the network gives any."""
        images = images.to(self.device)
        if not self._plain():
            logits = self.logits(images, size)
            features = self._forward(self.resize(images))
            return features._replace(logits=logits) if isinstance(features, SegOutput) else logits
        output = self._forward(images)
        if isinstance(output, SegOutput):
            return output._replace(logits=at_size(output.logits.float(), size))
        return at_size(output.float(), size)

    def of_sample(self, sample: Sample) -> SegOutput | Tensor:
        """The same of one image, at its label's size."""
        size = sample.image.shape[-2:] if sample.label is None else sample.label.shape[-2:]
        return self.output(sample.as_float()[None], (int(size[0]), int(size[1])))

    def logits(self, images: Tensor, size: tuple[int, int], resized: bool = True) -> Tensor:
        """Of ``(N, 3, h, w)``, at another size; if not ``resized``, that of the network where one pass gives them."""
        images = images.to(self.device)
        return predict_logits(
            self.model, images, self.inference, precision=self.precision, size=size, resized=resized
        ).float()

    def resize(self, images: Tensor) -> Tensor:
        """As the network sees them."""
        return resize_images(images, self.inference)

    def _plain(self) -> bool:
        return self.inference.model_dump() == PLAIN.model_dump()

    def _forward(self, images: Tensor) -> SegOutput | Tensor:
        adapts = isinstance(self.model, TestTimeMethod)
        with autocast(images.device.type, self.precision), torch.set_grad_enabled(adapts):
            output = widened(self.model(images))
        detached: SegOutput | Tensor = output.detach()
        return detached


class _Pass:
    """Passes over a data set, chunk by chunk."""

    def __init__(
        self, store: Store, palette: npt.NDArray[np.uint8], width: int, by_class: bool, watch: Progress
    ) -> None:
        self.store, self.palette, self.width, self.by_class, self.watch = store, palette, width, by_class, watch
        # a chunk's pictures are wanted one by one, in no order; a hundred chunks' are a few megabytes
        self._pictures_of = lru_cache(maxsize=128)(_pictures_of)

    def base(self, ask: _Asker, domain: str, dataset: UnlabelledDataset) -> DomainResult:
        """Decode, keep and measure every image of a data set."""
        labelled = isinstance(dataset, LabelledDataset) and getattr(dataset, "labelled", True)
        sums, rows = StyleSums(), []
        names: list[str] = []
        with self.watch(f"{domain}: measured", len(dataset)) as tick:
            for part in chunks(len(dataset), CHUNK):
                content = self.store.chunk(
                    f"before_{domain}_{part.start:06d}", partial(self._part, ask, domain, dataset, part, labelled)
                )
                for row in content["rows"]:
                    rows.append(unpack(row))
                names += content["names"]
                _add(sums, content["style"])
                for _ in part:
                    tick()
        sequences = tuple(getattr(dataset, "sequences", None) or names)
        return DomainResult(dataset.name, tuple(names), sequences, rows, sums.style(), labelled)

    def _part(
        self, ask: _Asker, domain: str, dataset: UnlabelledDataset, part: range, labelled: bool
    ) -> dict[str, Any]:
        def outputs() -> Iterator[tuple[Sample, SegOutput | Tensor]]:
            for index in part:
                sample = dataset[index].checked()
                if not labelled:
                    sample = sample._replace(label=None)
                self.store.put_sample(domain, index, sample)
                yield sample, ask.of_sample(sample)

        def row(task: tuple[Sample, SegOutput | Tensor]) -> tuple[dict[str, Any], str, StyleSums]:
            sample, output = task
            pixels = as_pixels(sample.image)
            columns, own = image_columns(pixels), StyleSums()
            own.add(pixels, columns["noise"])
            return self.row(sample, output, columns), sample.name, own

        rows, names, styles = zip(*in_threads(row, outputs()), strict=True)
        sums = StyleSums()
        for own in styles:
            _add(sums, _sums(own))
        return {"rows": list(rows), "names": list(names), "style": _sums(sums)}

    def again(self, ask: _Asker, domain: str, before: DomainResult) -> list[Measured]:
        """Measure the kept images of a domain with another network."""
        rows: list[Measured] = []

        def make(part: range) -> dict[str, Any]:
            samples = map(partial(self.store.sample, domain), part)
            tasks = ((s, ask.of_sample(s), before.before[k].columns) for k, s in zip(part, samples, strict=True))
            row = partial(self.row, pictures=("prediction", "loss", "error"))
            return {"rows": list(in_threads(lambda task: row(*task), tasks))}

        with self.watch(f"{domain}: after", len(before.before)) as tick:
            for part in chunks(len(before.before), CHUNK):
                content = self.store.chunk(f"after_{domain}_{part.start:06d}", partial(make, part))
                rows += [unpack(row) for row in content["rows"]]
                for _ in part:
                    tick()
        return rows

    def row(
        self,
        sample: Sample,
        output: SegOutput | Tensor,
        columns: Mapping[str, float],
        pictures: Sequence[str] = ("image", "label", "prediction", "loss", "error"),
    ) -> dict[str, Any]:
        """One image, as it is kept."""
        numbers = {name: columns[name] for name in IMAGE_COLUMNS}
        try:
            return pack(measure(
                sample, output, sample.label, self.palette, columns=numbers, width=self.width, by_class=self.by_class,
                picture_names=pictures,
            ))  # fmt: skip
        except (RuntimeError, IndexError, ValueError) as error:
            raise ValueError(f"{sample.name}: {_label_problem(sample, output) or error}") from error

    def pictures(self, domain: str, state: str, index: int) -> dict[str, bytes]:
        """Of one image, from the working folder."""
        start = index - index % CHUNK
        return self._pictures_of(self.store.folder / f"{state}_{domain}_{start:06d}.pt")[index - start]


def _pictures_of(chunk: Path) -> list[dict[str, bytes]]:
    return [unpack(row, pictures=True).pictures for row in torch.load(chunk, weights_only=True)["rows"]]


def _label_problem(sample: Sample, output: SegOutput | Tensor) -> str | None:
    logits = output.logits if isinstance(output, SegOutput) else output
    if sample.label is None:
        return None
    highest = int(sample.label.masked_fill(sample.label == 255, -1).max())
    classes = logits.shape[1]
    return f"label {highest} but the model has classes 0..{classes - 1}" if highest >= classes else None


def _sums(sums: StyleSums) -> dict[str, Any]:
    return {
        "counts": torch.from_numpy(sums.counts),
        "low": torch.from_numpy(sums.low),
        "low_power": torch.from_numpy(sums.low_power),
        "high": torch.from_numpy(sums.high),
        "noise": sums.noise,
        "sizes": [list(size) for size in sums.sizes],
    }


def _add(sums: StyleSums, content: Mapping[str, Any]) -> None:
    sums.counts += content["counts"].numpy()
    sums.low += content["low"].numpy()
    sums.low_power += content["low_power"].numpy()
    sums.high += content["high"].numpy()
    sums.noise += content["noise"]
    sums.sizes += [(size[0], size[1]) for size in content["sizes"]]


def _causes(result: Gap, ask: _Asker, store: Store, shelf: Shelf, watch: Progress) -> dict[str, Any]:
    """Loss under edits, shared among the factors that take part.

    First each factor alone. Then, on at most :data:`ELIMINATION` images, all together: as long as the loss is clearly
    smaller without one of them, the one that does most harm goes; its edit is a bad one, and says nothing about what
    the target lacks. The game is of the image factors that are left; batch norm, of the model's side, has what it still
    takes off when they are all edited.
    """
    options, target = result.options, result.target
    step = max(1, math.ceil(len(shelf) / CALIBRATION))
    calibration = [shelf[index] for index in range(0, len(shelf), step)]
    work = Interventions(
        ask.model,
        partial(ask.logits, resized=False),
        result.source_style,
        target.style,
        calibration,
        resize=ask.resize,
        prior=options.prior,
        batch_size=options.batch_size,
    )
    factors = work.factors()
    image_factors = [factor for factor in factors if factor != BATCH_NORM]
    trials = _Trials(work, store, shelf, target, watch)
    trials.run("alone", [[frozenset({factor}) for factor in factors]] * len(shelf))
    part, harmful = _without_harm(trials, image_factors, target.sequences, options.seed)
    plan = Plan.of(part, len(shelf), options.budget, options.seed)
    trials.run("together", [plan.coalitions(index) for index in range(len(shelf))])
    shares: dict[str, list[float]] = {factor: [] for factor in part}
    for index, values in enumerate(trials.values):
        for factor, value in plan.shares(values, index).items():
            shares[factor].append(value)
    taken = {factor: np.array(values) for factor, values in shares.items()}
    if BATCH_NORM in factors:
        # after the images: its statistics make up for what their edits take away, and would be credited with that
        trials.run("normed", [[frozenset({*part, BATCH_NORM})]] * len(shelf))
        beside = trials.losses(part) - trials.losses({*part, BATCH_NORM})
        images = Images(target.sequences, options.seed)
        if all(images.interval(gain).high < 0 for gain in (trials.losses(()) - trials.losses({BATCH_NORM}), beside)):
            harmful.append(BATCH_NORM)
        else:
            taken[BATCH_NORM] = beside
    tried = {factor: frozenset({factor}) for factor in factors}
    return {
        "plan": plan,
        "differences": work.editor.differences(),
        "harmful": tuple(harmful),
        "shares": taken,
        "alone": {name: (trials.losses(c), trials.confusions(c)) for name, c in tried.items()},
    }


def _without_harm(
    trials: _Trials, factors: Sequence[str], sequences: Sequence[str], seed: int
) -> tuple[list[str], list[str]]:
    """The factors that take part, and those that go since their edits do harm beside the others."""
    count = len(sequences)
    looked = np.unique(np.linspace(0, count - 1, min(count, ELIMINATION)).round().astype(int))
    images = Images([sequences[index] for index in looked], seed)
    part, harmful = list(factors), list[str]()
    while part:
        without = {factor: frozenset(part) - {factor} for factor in part}
        wanted: list[list[Coalition]] = [[] for _ in sequences]
        for index in looked:
            wanted[index] = [frozenset(part), *without.values()]
        trials.run(f"without_{len(harmful)}", wanted)
        harm = {factor: trials.losses(part, looked) - trials.losses(rest, looked) for factor, rest in without.items()}
        clear = [factor for factor, more in harm.items() if images.interval(more).low > 0]
        if not clear:
            break
        harmful.append(max(clear, key=lambda factor: float(harm[factor].mean())))
        part.remove(harmful[-1])
    return part, harmful


class _Trials:
    """Losses of the target's images under coalitions of factors, tried once each and kept."""

    def __init__(self, work: Interventions, store: Store, shelf: Shelf, target: DomainResult, watch: Progress) -> None:
        self._work, self._store, self._shelf, self._watch = work, store, shelf, watch
        self.values: list[dict[Coalition, float]] = [{frozenset(): float(loss)} for loss in target.losses()]
        self._confusions: list[dict[Coalition, npt.NDArray[np.int64]]] = [
            {frozenset(): row.confusion} for row in target.before
        ]

    def run(self, stage: str, wanted: Sequence[Sequence[Coalition]]) -> None:
        """Try on each image the coalitions that were not tried yet."""
        missing = {
            index: new
            for index, own in enumerate(wanted)
            if (new := [coalition for coalition in own if coalition not in self.values[index]])
        }
        indices = list(missing)
        if not indices:
            return
        with self._watch(f"target: edited, {stage}", len(indices)) as tick:
            for part in chunks(len(indices), CHUNK):
                some = {index: missing[index] for index in indices[part.start : part.stop]}
                content = self._store.chunk(f"edited_{stage}_{part.start:06d}", partial(self._make, some))
                for index, losses, matrices in zip(some, content["losses"], content["confusions"], strict=True):
                    self.values[index] |= {_coalition(text): value for text, value in losses.items()}
                    self._confusions[index] |= {_coalition(text): m.numpy() for text, m in matrices.items()}
                    tick()

    def _make(self, missing: Mapping[int, Sequence[Coalition]]) -> dict[str, Any]:
        samples = [self._store.sample("target", index) for index in missing]
        losses, matrices = self._work.try_on(samples, list(missing), list(missing.values()))
        return {
            "losses": [{_text(c): value for c, value in row.items()} for row in losses],
            "confusions": [{_text(c): torch.from_numpy(value) for c, value in row.items()} for row in matrices],
        }

    def losses(self, coalition: Iterable[str], images: Iterable[int] | None = None) -> Floats:
        """``(n,)`` under a coalition that was tried on all images, or on these."""
        rows = range(len(self.values)) if images is None else images
        return np.array([self.values[index][frozenset(coalition)] for index in rows])

    def confusions(self, coalition: Iterable[str]) -> npt.NDArray[np.int64]:
        """``(n, C, C)`` under a single factor that was tried on all images."""
        return np.stack([matrices[frozenset(coalition)] for matrices in self._confusions])


def _text(coalition: Coalition) -> str:
    return " ".join(sorted(coalition))


@lru_cache(maxsize=1024)
def _coalition(text: str) -> Coalition:
    """The same object for all images."""
    return frozenset(text.split())


def _wanted_fixes(
    fixes: Sequence[Fix] | None, result: Gap, model: nn.Module, source: LabelledDataset | None
) -> Sequence[Fix]:
    """The fixes to try, by default all that there are; without labels there is nothing to compare."""
    if not result.target.labelled:
        return []
    return default_fixes(model, result.source_style, result.target.style, source) if fixes is None else fixes


def _fix(
    fix: Fix,
    plain: _Asker,
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
            ask = _Asker(wrapped, how, plain.precision)

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
    pass_: _Pass,
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
        ask = _Asker(network, inference, precision)
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
