"""What a benchmark config is made of: closed, typed records."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from uda.config.specs import Spec
from uda.engine.settings import Closed, Settings

SOURCE_ONLY = "source_only"
"""The cell every other is compared to; every config has it."""
ORACLE = "oracle"
"""The cell that trains on the target's labels; built in, so no method may have its name."""


class DatasetSpec(BaseModel):
    """One data set: ``kind`` and the reader's own arguments (``root``, ``split``, ``limit``, ``cache``, ...)."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str
    aliases: dict[str, str | None] = Field(default={})
    """Class of the data set -> class of the config's label space, where names alone do not say (``null``: ignored)."""
    weight: float = Field(default=1.0, gt=0)
    """Of the loss on its samples; only where ``source`` lists several data sets (see :class:`uda.data.Mixture`)."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The reader's constructor arguments."""
        return dict(self.model_extra or {})


class StreetsDomain(Closed):
    """How much of one procedural domain is written."""

    splits: dict[str, int] = Field(default={"train": 100, "val": 30}, min_length=1)
    """Images of each split."""
    size: tuple[int, int] | None = None
    """(height, width) in pixels; the domain's own by default."""


class StreetsSpec(Closed):
    """Procedural data, written before the first run; ``${streets}`` is the folder that holds the domains."""

    out: str = "data/streets"
    """Folder; the content's hash is appended, so another section never reads this one's images."""
    domains: dict[Literal["cityscapes", "kitti", "ika"], StreetsDomain] = Field(min_length=1)
    seed: int = Field(default=0, ge=0)


class EvaluateSpec(Closed):
    """How every cell is scored."""

    batch_size: int = Field(default=1, gt=0)
    """Consecutive images of equal size that go through together; test-time methods adapt on these batches."""
    scale: float = Field(default=1.0, gt=0)
    """Resize of the model's input at test time."""


class MethodEntry(Closed):
    """One row of the table: methods that train together, or a test-time method on the source-only model, or both.

    In YAML ``{preset: DAFormer, change: {ClassMix.threshold: 0.9}}`` stands for a paper's methods, settings and model
    (``parts`` names some of the three); see :func:`uda.presets.preset`.
    """

    methods: list[Spec] | None = None
    """In the order in which they act; ``None`` scores the model of ``source_only``, without training."""
    test_time: Spec | None = None
    model: dict[str, Any] | None = None
    """In place of the config's model."""
    settings: dict[str, Any] = Field(default={})
    """In place of single settings; never the number of steps, which all rows share."""

    @property
    def trains(self) -> bool:
        """Whether this row has a training run of its own."""
        return self.methods is not None


class BenchConfig(Closed):
    """A benchmark: one shift, some methods, some seeds."""

    name: str = Field(pattern=r"^[\w.+-]+$")
    """Names the folder of the runs."""
    space: str | dict[str, Any]
    """Label space of the comparison: a name, or ``{name:, base:, merge:|select:}``, or ``{common: [..]}``."""
    source: list[DatasetSpec] = Field(min_length=1)
    source_val: DatasetSpec
    target: DatasetSpec
    target_val: DatasetSpec
    unseen: dict[str, DatasetSpec] = Field(default={})
    """Domains that no run ever trains on, by the name they get in the table."""
    streets: StreetsSpec | None = None
    model: dict[str, Any] = Field(default={})
    """Arguments of :func:`uda.models.build_model`, without the number of classes."""
    settings: Settings
    warm_start: Settings | None = None
    """Source-only training that all rows of a seed start from; source-only then trains on as long as they do."""
    seeds: list[int] = Field(default=[0, 1, 2], min_length=1)
    methods: dict[str, MethodEntry]
    oracle: bool = True
    """Add the row that trains on the target's labels, from the same start, for as many steps."""
    evaluate: EvaluateSpec = EvaluateSpec()
    resamples: int = Field(default=2000, ge=100)
    """Of the bootstrap behind the intervals."""

    @model_validator(mode="after")
    def _names(self) -> BenchConfig:
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be different and not negative, got {self.seeds}")
        taken = {"source", "target"} & set(self.unseen)
        if taken:
            raise ValueError(f"unseen: {taken.pop()!r} is the name of a domain of the shift; choose another")
        return self

    @property
    def domains(self) -> dict[str, DatasetSpec]:
        """The labelled data sets that every cell is scored on, by domain: source, target, the unseen."""
        return {"source": self.source_val, "target": self.target_val, **self.unseen}

    def resolved(self) -> dict[str, Any]:
        """Plain values that :func:`load_config` reads back to an equal config."""
        content = self.model_dump(mode="json")
        for key in ("settings", "warm_start"):
            if content[key]:
                content[key].pop("seed")
        return content
