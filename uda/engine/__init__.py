"""The update, the trainer around it, evaluation, checkpoints and logs; of methods it knows the protocol alone."""

from uda.engine.checkpoint import CheckpointError
from uda.engine.choosing import choose_images
from uda.engine.evaluate import Evaluation, evaluate
from uda.engine.inference import Inference
from uda.engine.launching import LaunchError, launch
from uda.engine.optimisation import OPTIMIZERS, segmenter_optimizer
from uda.engine.schedules import SCHEDULES, constant, poly
from uda.engine.settings import Augment, CompileSpec, Settings
from uda.engine.trainer import Trainer
from uda.engine.update import NonFiniteLoss, Update

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "Augment",
    "CheckpointError",
    "CompileSpec",
    "Evaluation",
    "Inference",
    "LaunchError",
    "NonFiniteLoss",
    "Settings",
    "Trainer",
    "Update",
    "choose_images",
    "constant",
    "evaluate",
    "launch",
    "poly",
    "segmenter_optimizer",
]
