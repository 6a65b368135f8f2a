"""Everything about a training run that is neither the model, the data nor the methods."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Closed(BaseModel):
    """A typed record that refuses unknown keys and does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Augment(Closed):
    """Online augmentation of training images (torchvision transforms v2), on image and label together."""

    scale: tuple[float, float] = (0.5, 1.0)
    """Share of the largest crop-shaped window of the image that a random crop's side covers."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    jitter: float = Field(0.0, ge=0, le=1)
    """Strength of brightness, contrast and saturation jitter."""
    hue: float = Field(0.0, ge=0, le=0.5)
    """Largest shift of the hue, in turns; apart from ``jitter`` because it costs more than all else together."""
    blur: float = Field(0.0, ge=0, le=1)
    """Probability of a Gaussian blur."""

    @model_validator(mode="after")
    def _ordered(self) -> Augment:
        low, high = self.scale
        if not 0 < low <= high:
            raise ValueError(f"scale is (low, high) with 0 < low <= high, got {self.scale}")
        return self


class TeacherSettings(Closed):
    """The shared EMA teacher; built only when a method of the run needs it."""

    decay: float = Field(0.999, ge=0, lt=1)
    """Cap α of the ramp min(1 - 1/(i+1), α)."""
    update: Literal["after", "before"] = "after"
    """``after`` the optimiser step (DACS) or ``before`` the step, with the student of the last one (DAFormer, MIC)."""
    mode: Literal["train", "eval"] = "train"
    """``train``: own batch-norm statistics from own forwards, dropout off (the papers); ``eval``: the student's."""


class Settings(Closed):
    """Optimisation, augmentation, logging and safety of a run."""

    steps: int = Field(gt=0)
    batch_size: int = Field(2, gt=0)
    """Images per domain and step."""
    crop: tuple[int, int] = (256, 512)
    """Training crop (height, width) in pixels."""
    seed: int = Field(0, ge=0)

    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(1e-4, gt=0)
    """Learning rate of the encoder; decoder and heads get ``head_multiplier`` times that."""
    head_multiplier: float = Field(10.0, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    """L2: decoupled with AdamW, added to the gradient with SGD; not on norms and biases."""
    l1: float = Field(0.0, ge=0)
    """L1 penalty on the segmenter's weights (not norms and biases), added to the gradient."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """SGD only."""
    schedule: Literal["poly", "constant"] = "poly"
    power: float = Field(0.9, ge=0)
    warmup: int = Field(0, ge=0)
    """Steps of linear warm-up over the schedule."""
    clip: float | None = Field(None, gt=0)
    """Clip the segmenter's gradient to this norm."""

    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    device: str | None = None
    """``cpu``, ``cuda``, ``cuda:1``; by default the best there is."""
    workers: int = Field(0, ge=0)
    """Loader processes; batches do not depend on their number."""

    augment: Augment = Augment()
    target_augment: Augment | None = None
    """For target images; by default the source's."""
    rare_class_temperature: float | None = Field(None, gt=0)
    """Rare class sampling of the source (DAFormer, T = 0.01); off by default."""
    teacher: TeacherSettings = TeacherSettings()

    log_every: int = Field(10, gt=0)
    image_every: int = Field(0, ge=0)
    """Steps between pictures in TensorBoard; 0 for the last step only."""
    eval_every: int = Field(0, ge=0)
    """Steps between evaluations; 0 for the last iterate only."""
    checkpoint_every: int = Field(100, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if min(self.crop) < 32:
            raise ValueError(f"crop is (height, width) of at least 32 pixels each, got {self.crop}")
        if self.warmup >= self.steps:
            raise ValueError(f"warmup must be shorter than the run of {self.steps} steps, got {self.warmup}")
        return self
