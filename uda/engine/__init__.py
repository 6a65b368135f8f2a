"""The trainer, evaluation, checkpoints and logs. It knows the ``Method`` protocol and no method."""

from uda.engine.checkpoint import CheckpointError
from uda.engine.evaluate import Evaluation, evaluate
from uda.engine.settings import Augment, Settings, TeacherSettings
from uda.engine.trainer import NonFiniteLoss, Trainer

__all__ = [
    "Augment",
    "CheckpointError",
    "Evaluation",
    "NonFiniteLoss",
    "Settings",
    "TeacherSettings",
    "Trainer",
    "evaluate",
]
