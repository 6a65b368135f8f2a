"""Everything about a training run that is neither the model, the data nor the methods."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from uda.data.transforms import TrainTransform
from uda.engine.optimisation import DEFAULTS, Decayed, check_arguments
from uda.engine.precision import Precision
from uda.engine.schedules import build_schedule
from uda.models.recompute import Recomputed
from uda.types import TeacherSpec


class Closed(BaseModel):
    """A typed record that refuses unknown keys and does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Augment(Closed):
    """Online augmentation of training images (torchvision transforms v2), on image and label together."""

    scale: tuple[float, float] = (0.5, 1.0)
    """Smallest and largest random size, see ``fit``."""
    fit: Literal["window", "pixels"] = "window"
    """``window``: ``scale`` is the share of the largest crop-shaped window of the image that a crop's side covers;
    ``pixels``: the zoom of the image before a crop is taken."""
    resize: tuple[int, int] | None = None
    """Height and width that whole images are brought to before all else, whatever their aspect."""
    ratio: tuple[float, float] = (1.0, 1.0)
    """Smallest and largest random horizontal stretch."""
    cat_max_ratio: float = Field(1.0, gt=0, le=1)
    """A source crop is placed anew (ten times at most) while one class has this share of its labels; 1: never."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    jitter: float = Field(0.0, ge=0, le=1)
    """Strength of brightness, contrast and saturation jitter."""
    brightness: float | None = Field(None, ge=0, le=1)
    """Of brightness alone, in place of ``jitter``."""
    contrast: float | None = Field(None, ge=0, le=1)
    """Of contrast alone, in place of ``jitter``."""
    hue: float = Field(0.0, ge=0, le=0.5)
    """Largest shift of the hue, in turns; apart from ``jitter`` because it costs more than all else together."""
    blur: float = Field(0.0, ge=0, le=1)
    """Probability of a Gaussian blur."""

    @model_validator(mode="after")
    def _ordered(self) -> Augment:
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} is (low, high) with 0 < low <= high, got {(low, high)}")
        if self.resize is not None and min(self.resize) < 1:
            raise ValueError(f"resize is (height, width) of at least 1 pixel each, got {self.resize}")
        return self


class WeightAverage(Closed):
    """Stochastic weight averaging over the last part of a run (:mod:`uda.engine.averaging`)."""

    start: float = Field(0.75, ge=0, lt=1)
    """Share of the run's steps after which weights are averaged."""
    every: int = Field(1, gt=0)
    """Steps between the weights that are averaged, counted from the last, which always is one."""

    def takes(self, step: int, total: int) -> bool:
        """Whether the weights after ``step`` (from 1) of ``total`` steps are averaged."""
        return step > self.start * total and (total - step) % self.every == 0


class CompileSpec(Closed):
    """How torch.compile compiles the network's passes in training (:mod:`uda.engine.compiling`)."""

    backend: str = "inductor"
    """``inductor`` (C++ on a CPU, Triton on a GPU), ``aot_eager``, ``eager``, or another one that torch knows."""
    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default"
    """Of ``inductor``: ``reduce-overhead`` replays CUDA graphs, ``max-autotune`` tries kernels for minutes."""
    dynamic: bool | None = None
    """Whether graphs hold for all sizes of image; ``null``: from the second size that comes."""

    @model_validator(mode="after")
    def _mode_of_inductor(self) -> CompileSpec:
        if self.mode != "default" and self.backend != "inductor":
            raise ValueError(f"mode {self.mode!r} is of backend 'inductor', got backend {self.backend!r}")
        return self


Spec = dict[str, dict[str, Any]]
"""Something by name with its arguments: ``{name: arguments}``, one entry; in YAML a name alone has no arguments."""


class Settings(Closed):
    """Optimisation, augmentation, logging and safety of a run."""

    steps: int = Field(gt=0)
    """Optimiser steps of the run."""
    batch_size: int = Field(2, gt=0)
    """Images per domain and micro-batch, of all processes together; each takes its equal share."""
    accumulate: int = Field(1, gt=0)
    """Micro-batches whose gradients make one optimiser step."""
    crop: tuple[int, int] = (256, 512)
    """Training crop (height, width) in pixels."""
    target_crop: tuple[int, int] | None = None
    """Of target images, where it differs; methods that mix images need one size."""
    seed: int = Field(0, ge=0)
    """Of every draw of the run; a benchmark sets it from its ``seeds``."""

    optimizer: Spec = Field(default={"adamw": {}}, validate_default=True)
    """``adamw``, ``sgd`` or ``package.module:Class``, as a name or ``{name: {argument: value}}`` with torch's arguments
    (``{sgd: {momentum: 0.9, nesterov: true}}``); rates and weight decay are the settings below."""
    lr: float = Field(1e-4, gt=0)
    """Learning rate of the encoder; decoder and heads get ``head_multiplier`` times that."""
    head_multiplier: float = Field(10.0, gt=0)
    """Learning rate of decoder and heads as a multiple of ``lr``."""
    weight_decay: float = Field(0.01, ge=0)
    """L2: decoupled with AdamW, added to the gradient with SGD."""
    decayed: Decayed = "weights"
    """What has weight decay: ``weights`` (no norms, biases and position embeddings), or as the published codes have it:
    ``all`` (most), ``all_but_encoder_norms`` (DAFormer, HRDA, MIC), ``all_but_biases`` (SAC)."""
    schedule: Spec = Field(default={"poly": {}}, validate_default=True)
    """``poly`` (``{poly: {power: 0.9, horizon: 250000}}``), ``constant``, ``package.module:function`` of the step (and
    total), or a torch scheduler (``{"torch.optim.lr_scheduler:StepLR": {step_size: 100}}``)."""
    warmup: int = Field(0, ge=0)
    """Steps of linear warm-up that multiplies the schedule (mmcv's law)."""
    clip: float | None = Field(None, gt=0)
    """Clip the segmenter's gradient to this norm."""
    average: WeightAverage | None = None
    """Stochastic weight averaging: ``true``, or ``{start:, every:}``; the average is what is scored and loaded."""

    precision: Precision = "fp32"
    """``bf16`` runs forward passes and losses under autocast, ``fp16`` the networks' passes alone, with a scale on the
    losses (:mod:`uda.engine.precision`); weights stay float32."""
    activation_checkpointing: Recomputed = "none"
    """What keeps its inputs alone and is computed again on the way back: the ``encoder``'s blocks, or ``all``, the
    decoder too. Less memory, more time, the same numbers (:mod:`uda.models.recompute`)."""
    compile: CompileSpec | None = None
    """torch.compile of the network's and the teacher's passes: ``true``, or ``{backend:, mode:, dynamic:}``; the
    numbers are the same up to rounding."""
    channels_last: bool = False
    """Memory layout of images and weights; the numbers are the same up to rounding, the speed is not."""
    batch_norm: Literal["shared", "frozen", "source", "per_domain"] = "shared"
    """How batch norm treats target, mixed and masked images (:mod:`uda.models.batch_norm`): as the papers do, with
    stored statistics that stay, with only the source moving them, or with a set for each domain."""
    sync_batch_norm: bool = True
    """Where several processes train, whether batch norm takes its statistics from the images of all of them."""
    device: str | None = None
    """``cpu``, ``cuda``, ``cuda:1``; by default the best there is."""
    workers: int = Field(0, ge=0)
    """Loader processes; batches do not depend on their number."""

    augment: Augment = Augment()
    """Of source images."""
    target_augment: Augment | None = None
    """For target images; by default the source's."""
    teacher: dict[str, Any] | None = None
    """The EMA teacher for all methods of the run: ``{decay:, update:, mode:, every:, ramp:, buffers:}``
    (:class:`~uda.types.TeacherSpec`); by default what the methods that need one want, as their papers do."""

    log_every: int = Field(10, gt=0)
    """Steps between logged losses."""
    image_every: int = Field(0, ge=0)
    """Steps between pictures in TensorBoard; 0 for the last step only."""
    eval_every: int = Field(0, ge=0)
    """Steps between evaluations; 0 for the last iterate only."""
    checkpoint_every: int = Field(100, gt=0)
    """Steps between checkpoints, from which a killed run goes on."""

    @field_validator("average", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        return (WeightAverage() if value else None) if isinstance(value, bool) else value

    @field_validator("compile", mode="before")
    @classmethod
    def _compile_switch(cls, value: Any) -> Any:
        return (CompileSpec() if value else None) if isinstance(value, bool) else value

    @field_validator("optimizer", "schedule", mode="before")
    @classmethod
    def _as_spec(cls, value: Any) -> Any:
        return {value: {}} if isinstance(value, str) else value

    @field_validator("optimizer")
    @classmethod
    def _known_optimizer(cls, value: Spec) -> Spec:
        name, arguments = _single(value)
        return {name: {**DEFAULTS.get(name, {}), **check_arguments(name, arguments)}}

    @field_validator("schedule")
    @classmethod
    def _known_schedule(cls, value: Spec) -> Spec:
        name, arguments = _single(value)
        build_schedule(name, arguments)
        return {name: arguments}

    @field_validator("teacher")
    @classmethod
    def _known_teacher(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        return None if value is None else vars(TeacherSpec.of(value, TeacherSpec()))

    @property
    def teacher_spec(self) -> TeacherSpec | None:
        """The teacher that holds for all methods, if the settings say one."""
        return None if self.teacher is None else TeacherSpec(**self.teacher)

    @property
    def transforms(self) -> tuple[TrainTransform, TrainTransform]:
        """The augmentation of source and of target images."""
        target = self.target_augment or self.augment
        return (
            TrainTransform(crop=self.crop, **self.augment.model_dump()),
            TrainTransform(crop=self.target_crop or self.crop, **target.model_dump()),
        )

    def misfits(self, sizes: Mapping[str, Sequence[tuple[int, int]]]) -> list[str]:
        """What is wrong with the crops for images of these sizes, a line for each domain; none where they fit.

        Args:
            sizes: heights and widths in pixels of some images of ``"source"`` and ``"target"``; the largest counts.
        """
        keys = ("crop", "crop" if self.target_crop is None else "target_crop")
        lines = []
        for domain, key, transform in zip(("source", "target"), keys, self.transforms, strict=True):
            largest = max(sizes.get(domain, ()), key=math.prod, default=None)
            if largest is not None and (problem := transform.misfit(largest)) is not None:
                lines.append(f"settings.{key} is far too large for the {domain}: {problem}")
        return lines

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        for name in ("crop", "target_crop"):
            crop = getattr(self, name)
            if crop is not None and min(crop) < 32:
                raise ValueError(f"{name} is (height, width) of at least 32 pixels each, got {crop}")
        if self.warmup >= self.steps:
            raise ValueError(f"warmup must be shorter than the run of {self.steps} steps, got {self.warmup}")
        return self


def _single(value: Spec) -> tuple[str, dict[str, Any]]:
    """The name and the arguments of a spec."""
    if len(value) != 1:
        raise ValueError(f"a name or {{name: {{argument: value}}}} is needed, got {len(value)} names")
    return next(iter(value.items()))
