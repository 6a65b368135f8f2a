"""The protocol of an adaptation method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import nn

from uda.processes import mean_count
from uda.registry import Configurable
from uda.types import IGNORE

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from uda.data.pairs import RareClasses
    from uda.step import Phase, Step
    from uda.types import SegOutput, TaskSpec, TeacherSpec


class Method(Configurable, nn.Module):
    """A training-time method: the hooks that the trainer calls, in this order, every step.

    A method's state is its ``state_dict``: counters, prototypes and thresholds are buffers, own networks are
    submodules. Random numbers come from ``step.generator`` (CPU), so that a resumed run repeats them.
    The constructor's keyword-only arguments are the method's config schema, their defaults the paper's values; wrong
    values raise ``ValueError`` naming the value and the range. The attributes below are the class's or, where they
    depend on the arguments, the instance's.
    """

    reads: frozenset[str] = frozenset()
    """Views that ``losses`` predicts with gradient; methods whose reads overlap share one backward pass."""
    learns: bool | None = None
    """Whether ``losses`` learn from images; ``None``: if there are any. A penalty on the weights alone says ``False``,
    as it teaches a network nothing, and so does a method whose losses are switched off."""
    looks: frozenset[str] = frozenset()
    """Views whose student output is looked at without gradient (``step.detached``); made before the update, and kept
    but for its ``extra`` tensors."""
    teacher: TeacherSpec | None = None
    """The EMA teacher behind ``step.teach``, if the method needs one; the methods of a run must agree."""
    teacher_in_losses: bool = False
    """Whether ``losses`` or ``after_step`` call ``step.teach``; else its outputs are dropped after ``prepare``."""
    needs_target: bool = True
    """Whether the run must load target images at all; a run of methods that all say no never opens one."""
    scheduled: bool = True
    """Whether the method's own optimiser follows the run's schedule of learning rates."""
    own_images: frozenset[Phase] = frozenset()
    """Hooks that, where several processes train together, each runs on its own images, which is faster. That is for
    hooks that draw nothing, keep nothing, and whose losses are means over equally many pixels of each image, or are
    divided by :func:`uda.processes.mean_count`. All others see the whole batch on each process, as one process does."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments by name, defaults written out, the teacher's too."""
        arguments = super().arguments
        return {**arguments, "teacher": self.teacher} if "teacher" in arguments else arguments

    def setup(self, spec: TaskSpec) -> None:
        """Build own networks and buffers, once, before the first step or a resume."""

    def optimizer(self) -> Optimizer | None:
        """The optimiser of the own networks, if any; called once after ``setup``.

        Trainable parameters that are in none join the segmenter's optimiser, and ``losses`` trains them.
        """
        return None

    def source_sampling(self) -> RareClasses | None:
        """How source images are drawn, where the method has a say; by epochs otherwise."""
        return None

    def prepare(self, step: Step) -> None:
        """Restyle or add views, before any prediction with gradient."""

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Scalar terms that train the segmenter, already multiplied by their weights.

        Through ``step.predict``, or by a way of their own: a penalty on parameters, a pass of the method's own. A term
        that trains nothing is an error, unless it is exactly 0.
        """
        return {}

    def own_losses(self, step: Step) -> dict[str, Tensor]:
        """Scalar terms that train the own networks, on detached outputs; both updates follow."""
        return {}

    def after_step(self, step: Step) -> None:
        """Update counters, prototypes and the like, without gradient."""


def check_learning(methods: Sequence[Method]) -> None:
    """See that some method learns from images.

    Raises:
        ValueError: none does (:attr:`Method.learns`); what to add is said.
    """
    if any(_has_losses(method) if method.learns is None else method.learns for method in methods):
        return
    names = ", ".join(type(method).__name__ for method in methods)
    raise ValueError(f"nothing is trained, as no loss of {names} looks at an image; write [Supervised, {names}]")


def _has_losses(method: Method) -> bool:
    return bool(method.reads) or type(method).losses is not Method.losses


def log_pseudo_labels(step: Step, labels: Tensor, class_names: Sequence[str], coverage: Tensor | None = None) -> None:
    """Log ``pseudo_label/<Method>/coverage`` and ``.../share/<class>`` of a batch of pseudo-labels, if logs are read.

    Args:
        step: the current step.
        labels: ``(N, H, W)`` int64, ``IGNORE`` where the method takes no label.
        class_names: of the C classes.
        coverage: scalar, the share of pixels that the method is sure of; by default those that are not ignored.
    """
    if not step.logging:
        return
    counts = mean_count(torch.bincount(labels.flatten(), minlength=IGNORE + 1)[: len(class_names)].float())
    shares = counts / counts.sum().clamp(min=1)
    step.log("pseudo_label/coverage", counts.sum() / labels.numel() if coverage is None else coverage)
    for name, share in zip(class_names, shares, strict=True):
        step.log(f"pseudo_label/share/{name}", share)


class TestTimeMethod(Configurable, nn.Module):
    """A method that acts at prediction: AdaBN, TENT, target-to-source colour transfer.

    ``attach`` takes the trained model, whose source state ``reset`` brings back; ``forward`` predicts a batch and
    may adapt on it (online). The protocol (order, batch size, when to reset) is the caller's choice.
    """

    __test__ = False  # not a pytest class

    needs_target: bool = False
    """Whether ``attach`` looks at images of the target (``spec.target``)."""
    starts_from: str | None = None
    """The test-time method, with default arguments, whose predictions are those of this one before it has adapted;
    ``None``: the model's own."""
    adapts_on_scored: ClassVar[bool] = False
    """Whether the images that are predicted change the network or its statistics: its scores are of images that it has
    adapted to, never of unseen ones."""

    def __init__(self) -> None:
        super().__init__()
        self.model: Any = None
        self._source_state: dict[str, Tensor] = {}
        self._was_training = False

    def attach(self, model: nn.Module, spec: TaskSpec | None = None) -> None:
        """Take a trained segmenter, remember its state and put it in evaluation mode.

        Args:
            model: images ``(N, 3, H, W)`` -> :class:`SegOutput`. It is held, not copied: after :meth:`detach_model` it
                is as it was.
            spec: the task, for methods that need statistics or images of the source or of the unlabelled target.
        """
        self.detach_model()
        self.model, self._was_training = model, model.training
        self._source_state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.eval()

    def detach_model(self) -> None:
        """Let go of the model, in the state and mode that it had at ``attach``."""
        if self.model is not None:
            self.reset()
            self.model.train(self._was_training)
            self.model = None

    def forward(self, images: Tensor) -> SegOutput:
        """Predict ``(N, 3, H, W)`` images in [0, 1], adapting where the method does."""
        raise NotImplementedError

    def reset(self) -> None:
        """Return the model to its state at ``attach``.

        Raises:
            RuntimeError: no model is attached.
        """
        self.attached().load_state_dict(self._source_state)

    def attached(self) -> nn.Module:
        """The attached model.

        Raises:
            RuntimeError: there is none.
        """
        if self.model is None:
            raise RuntimeError(f"{type(self).__name__} has no model yet; call attach(model) first")
        return cast("nn.Module", self.model)
