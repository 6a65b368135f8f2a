"""What a benchmark config is made of: closed, typed records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from uda.config.names import check_different, check_name, check_row
from uda.config.specs import Spec, build_method
from uda.data.balance import Balance
from uda.data.streets import Domain, vary
from uda.engine.choosing import Choice
from uda.engine.evaluate import class_indices
from uda.engine.inference import Inference
from uda.engine.settings import Closed, Settings
from uda.methods.base import Method
from uda.registry import nearest

SOURCE_ONLY = "source_only"
"""The cell every other is compared to; every config has it."""
ORACLE = "oracle"
"""The cell that trains on the target's labels; built in, so no method may have its name."""


def named(key: str, check: Callable[[Any], Any], value: Any) -> Any:
    """What ``check`` gives; the key stands in its message."""
    try:
        return check(value)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


class DatasetSpec(BaseModel):
    """One data set: ``kind`` and the reader's own arguments (``root``, ``split``, ``limit``, ``cache``, ...)."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    kind: str
    """The reader, one of those below, or ``package.module:Name`` of anything that gives a data set."""
    aliases: dict[str, str | None] = Field(default={})
    """Class of the data set -> class of the config's label space, where names alone do not say (``null``: ignored)."""
    weight: float = Field(default=1.0, gt=0, strict=True, allow_inf_nan=False)
    """Of the loss on its samples, or of how often they are drawn where ``balance: weight``; only where ``source`` lists
    several data sets (see :class:`uda.data.Mixture`)."""
    marginal: bool = False
    """Train on classes that cover several of the label space (CamVid's car: car, truck, bus, train) by the sum of
    their probabilities, instead of giving them to one class or ignoring them. For training data only."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The reader's constructor arguments."""
        return dict(self.model_extra or {})


class StreetsDomain(Closed):
    """What is written of one procedural domain, and what it differs in from a known one."""

    base: str | None = None
    """``cityscapes``, ``kitti`` or ``ika``: whose scenes and files' layout it has; the one of its name by default."""
    changes: dict[str, Any] = Field(default={})
    """Single entries, see :func:`uda.data.streets.vary`: ``{camera.blur: 1.5}``."""

    splits: dict[str, int] = Field(default={"train": 100, "val": 30}, min_length=1)
    """Images of each split."""
    size: tuple[int, int] | None = None
    """(height, width) in pixels; the domain's own by default."""

    @field_validator("splits")
    @classmethod
    def _split_names(cls, value: dict[str, int]) -> dict[str, int]:
        for name in value:
            named(repr(name), check_name, name)
        named("splits", check_different, value)
        return value

    @model_serializer(mode="wrap")
    def _as_written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what is not there, so that the folder of a known domain keeps its name (``streets_folder``)."""
        unused = {key for key in ("base", "changes") if not getattr(self, key)}
        return {key: value for key, value in write(self).items() if key not in unused}

    def made(self, name: str) -> Domain:
        """The domain of this name.

        Raises:
            ValueError: an unknown base, or an unknown or wrong change.
        """
        return vary(self.base or name, self.changes, name)


class StreetsSpec(Closed):
    """Procedural data, written before the first run; ``${streets}`` is the folder that holds the domains."""

    out: str = "data/streets"
    """Folder; the content's hash is appended, so another section never reads this one's images."""
    domains: dict[str, StreetsDomain] = Field(min_length=1)
    """Name, which is also a folder's -> domain: ``cityscapes``, ``kitti``, ``ika``, or any with a ``base``."""
    seed: int = Field(default=0, ge=0)
    """Of the scenes."""

    @field_validator("domains")
    @classmethod
    def _known(cls, value: dict[str, StreetsDomain]) -> dict[str, StreetsDomain]:
        for name, domain in value.items():
            named(repr(name), check_name, name)
            named(repr(name), domain.made, name)
        named("names", check_different, value)
        return value


class Scoring(Inference):
    """How one domain of one row is scored."""

    batch_size: int = Field(default=1, gt=0)
    """Consecutive images of equal size that go through together; test-time methods adapt on these batches."""
    model: Literal["student", "teacher"] = "student"
    """The network that the optimiser trained, or its EMA teacher; a row without a teacher is scored by its student."""


class EvaluateSpec(Scoring):
    """How every cell is scored: :class:`~uda.engine.Inference`'s options and these."""

    domains: dict[str, dict[str, Any]] = Field(default={})
    """Domain -> options that differ there: ``{source: {input_size: [720, 1280]}}``."""
    classes: dict[str, list[str]] = Field(default={})
    """Further means by name: ``{13 classes: [road, sidewalk, ...]}``, or a list for a single one. The other classes are
    predicted all the same, and their pixels count as errors of these."""

    @field_validator("classes", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {f"{len(value)} classes": value} if isinstance(value, list) and value else value

    @model_validator(mode="after")
    def _complete(self) -> EvaluateSpec:
        for name, options in self.domains.items():
            for key in options:
                if key not in Inference.model_fields:
                    raise ValueError(f"domains.{name}.{key}: unknown key; {nearest(str(key), Inference.model_fields)}")
            try:
                self.on(name)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part) for part in ("domains", name, *first["loc"]))
                raise ValueError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from error
        return self

    def on(self, domain: str) -> Scoring:
        """What holds on a domain."""
        common = self.model_dump(include=set(Scoring.model_fields))
        return Scoring.model_validate({**common, **self.domains.get(domain, {})})

    def check_classes(self, known: Sequence[str]) -> None:
        """Compare ``classes`` with those of a label space.

        Raises:
            ValueError: an unknown one (the nearest is named), one twice, or a mean over none.
        """
        for name, classes in self.classes.items():
            try:
                class_indices(classes, known)
            except ValueError as error:
                raise ValueError(f"classes.{name}: {error}") from error


class OracleSpec(Closed):
    """The run that trains on the target's labels too, from the start that all rows have: how far one can get."""

    labels: Literal["both", "target"] = "both"
    """Of source and target together, or of the target alone."""
    steps: int | None = Field(default=None, gt=0)
    """Its own length, to convergence; by default that of all rows, at which it need not be the best there is."""

    @property
    def settings(self) -> dict[str, Any]:
        """In place of single settings."""
        return {} if self.steps is None else {"steps": self.steps}


class TargetLabels(Closed):
    """Labelled images of the target's training images that a row may train on beside the source.

    They travel in the source's half of a batch, so every method composes with them; those that compare domains count
    them as source. The target's images stay as they are: the labelled ones are among them, without their labels.
    """

    count: int = Field(gt=0, strict=True)
    """How many; the first 5 of 10 are the 5."""
    weight: float = Field(default=1.0, gt=0, strict=True, allow_inf_nan=False)
    """Of the loss on them, pixel by pixel; the source's is 1."""
    share: float = Field(default=0.5, gt=0, lt=1, strict=True)
    """Of the source half's images that are drawn from them, however few they are: 0.5 is one in a batch of 2."""
    choose: Choice = "random"
    """Chosen by the run's seed, or by what the warm start sees, without their labels: far apart in its features, of
    high entropy, or both (:mod:`uda.engine.choosing`)."""


class MethodEntry(Closed):
    """One row of the table: methods that train together, or a test-time method on the source-only model, or both; or
    that model evaluated in another way.

    In YAML ``{preset: DAFormer, change: {ClassMix.threshold: 0.9}}`` stands for a paper's methods, settings, model
    and evaluation (``parts`` names some of the four; all rows share ``score_at``); see :func:`uda.presets.preset`.
    """

    methods: list[Spec] | None = None
    """In the order in which they act; ``None`` scores the model of ``source_only``, without training."""
    test_time: Spec | None = None
    """A test-time method that adapts the network to the images that are scored, or before them."""
    model: dict[str, Any] | None = None
    """In place of the config's model."""
    settings: dict[str, Any] = Field(default={})
    """In place of single settings; never the number of steps, which all rows share."""
    evaluate: dict[str, Any] = Field(default={})
    """In place of single keys of the config's ``evaluate``; never ``classes``, which are the table's."""
    control: str | None = None
    """The row that this one is compared to beside source-only; by default the one that passes the same images without
    learning from the target (:mod:`uda.bench.rows`)."""
    target_labels: TargetLabels | None = None
    """Labelled target images to train on as well; their labels are read in no other row but the oracle."""

    @property
    def trains(self) -> bool:
        """Whether this row has a training run of its own."""
        return self.methods is not None


class CurvesSpec(Closed):
    """The target's score along the way of every run: a few images, a few times; no weight depends on it."""

    points: int = Field(default=5, gt=0)
    """Of a run's curve, evenly spaced, the last at its end."""
    images: int = Field(default=6, gt=0)
    """Of the target's evaluation set at most, evenly spaced, always the same."""


class LearningCurve(Closed):
    """What labelled target images are worth: rows again with more and more of them.

    ``{counts: [5, 10, 20, 50], rows: {source_only: [random, diverse], class_mix: [random]}}`` adds the rows
    ``source_only-k5``, ``source_only-k5-diverse``, ``class_mix-k5``, ...; the report gets the curve, and how many
    labelled images each row without them is worth.
    """

    counts: list[int] = Field(min_length=1)
    """Of labelled images; 0 are the rows as they are, which belong to the curve in any case."""
    rows: dict[str, list[Choice]] = Field(min_length=1)
    """Row -> how its images are chosen, each way a line of its own; a list of rows chooses at random.
    ``source_only`` must be among them, at random: what all others are measured by."""
    weight: float = Field(default=1.0, gt=0, strict=True, allow_inf_nan=False)
    """See a row's ``target_labels``."""
    share: float = Field(default=0.5, gt=0, lt=1, strict=True)
    """Likewise."""

    @field_validator("rows", mode="before")
    @classmethod
    def _at_random(cls, value: Any) -> Any:
        return {str(name): ["random"] for name in value} if isinstance(value, list) else value

    @model_validator(mode="after")
    def _complete(self) -> LearningCurve:
        if min(self.counts) < 0 or sorted(set(self.counts)) != self.counts or not any(self.counts):
            raise ValueError(f"counts must rise from 0 or more to 1 or more, got {self.counts}")
        for name, ways in self.rows.items():
            if not ways or len(set(ways)) < len(ways):
                raise ValueError(f"rows.{name}: at least one way to choose, each once, got {list(ways)}")
        if "random" not in self.rows.get(SOURCE_ONLY, []):
            raise ValueError(f"rows: {SOURCE_ONLY}: [random] is missing, what all others are measured by")
        return self

    def name_of(self, row: str, count: int, choose: str = "random") -> str:
        """The row with that many labelled images; without any the row itself."""
        return row if count == 0 else f"{row}-k{count}" + ("" if choose == "random" else f"-{choose}")

    def labels_of(self) -> dict[str, tuple[str, TargetLabels]]:
        """The rows to add: name -> the row that it is like, and its labels."""
        return {
            self.name_of(row, count, choose): (
                row,
                TargetLabels(count=count, weight=self.weight, share=self.share, choose=choose),
            )
            for row, ways in self.rows.items()
            for choose in ways
            for count in self.counts
            if count
        }


class BenchConfig(Closed):
    """A benchmark: one shift, some methods, some seeds. A single run is one of a single row, without comparisons."""

    name: str
    """Names the folder of the runs; see :mod:`uda.config.names`."""
    space: str | dict[str, Any]
    """Label space of the comparison: a name, or ``{name:, base:, merge:|select:}``, or ``{common: [..]}``."""
    source: list[DatasetSpec] = Field(min_length=1)
    """Labelled training images; several data sets are mixed as ``balance`` and their ``weight`` say."""
    balance: Balance = "image"
    """Where labelled images come from several data sets, the oracle's included: draw every image equally often, every
    data set (``domain``) whatever its size, or every data set as often as its ``weight`` says, which is then none of
    the loss."""
    source_val: DatasetSpec | None = None
    """Labelled source images that are scored; only a single run may leave them out."""
    target: DatasetSpec
    """Training images of the other domain; their labels, where there are any, are read by the oracle alone."""
    target_val: DatasetSpec | None = None
    """Labelled target images that are scored, by nothing else; likewise."""
    unseen: dict[str, DatasetSpec] = Field(default={})
    """Domains that no run ever trains on, by the name they get in the table."""
    streets: StreetsSpec | None = None
    """Procedural data to write first; ``${streets}`` stands for its folder."""
    model: dict[str, Any] = Field(default={})
    """Arguments of :func:`uda.models.build_model`, without the number of classes."""
    settings: Settings
    """Of the training of every row."""
    warm_start: Settings | None = None
    """Source-only training that all rows of a seed start from; source-only then trains on as long as they do."""
    seeds: list[int] = Field(default=[0, 1, 2], min_length=1)
    """Every row is trained once with each; intervals are made for three and more."""
    methods: dict[str, MethodEntry]
    """The rows by name; ``source_only`` must be one, what all others are compared to."""
    oracle: OracleSpec | None = OracleSpec()
    """Add the row that trains on the target's labels as well; ``false``: none."""
    controls: bool = True
    """Add the rows that pass the same images as a method does, without its losses, and source-only rows of networks of
    their own."""
    evaluate: EvaluateSpec = EvaluateSpec()
    """How every row is scored."""
    curves: CurvesSpec | None = CurvesSpec()
    """Scores along the way; ``false``: none. Where ``settings.eval_every`` is set, everything is scored that often
    instead."""
    learning_curve: LearningCurve | None = None
    """Rows again with more and more labelled target images."""
    resamples: int = Field(default=2000, ge=100)
    """Of the bootstrap behind the intervals."""

    @field_validator("oracle", "curves", mode="before")
    @classmethod
    def _switch(cls, value: Any, info: ValidationInfo) -> Any:
        on: type[BaseModel] = OracleSpec if info.field_name == "oracle" else CurvesSpec
        return (on() if value else None) if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _names(self) -> BenchConfig:
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be different and not negative, got {self.seeds}")
        taken = {"source", "target"} & set(self.unseen)
        if taken:
            raise ValueError(f"unseen: {taken.pop()!r} is the name of a domain of the shift; choose another")
        named("name", check_name, self.name)
        for key, names, check, others in (
            ("unseen", self.unseen, check_name, ("source", "target")),
            ("methods", self.methods, check_row, (SOURCE_ONLY, *([ORACLE] if self.oracle is not None else []))),
        ):
            for name in names:
                named(f"{key}.{name}", check, name)
            named(key, check_different, [*others, *names])
        return self

    @property
    def domains(self) -> dict[str, DatasetSpec]:
        """The labelled data sets that every cell is scored on, by domain: source, target, the unseen."""
        shift = {"source": self.source_val, "target": self.target_val}
        return {**{name: spec for name, spec in shift.items() if spec is not None}, **self.unseen}

    def evaluate_of(self, row: MethodEntry) -> EvaluateSpec:
        """How a row is scored."""
        spec = EvaluateSpec.model_validate({**self.evaluate.model_dump(), **row.evaluate})
        return spec if self.has_teacher(row) else spec.model_copy(update={"model": "student"})

    def has_teacher(self, row: MethodEntry) -> bool:
        """Whether the training of a row's network has an EMA teacher."""
        trained = row if row.trains else self.methods[SOURCE_ONLY]
        methods = [build_method(spec) for spec in trained.methods or []]
        own = any(isinstance(method, Method) and method.teacher is not None for method in methods)
        return own or trained.settings.get("teacher", self.settings.teacher) is not None

    def resolved(self) -> dict[str, Any]:
        """Plain values that :func:`load_config` reads back to an equal config."""
        content = self.model_dump(mode="json")
        for key in ("settings", "warm_start"):
            if content[key]:
                content[key].pop("seed")
        return content
