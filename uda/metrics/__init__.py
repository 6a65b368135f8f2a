"""Scores over a whole data set: intersection over union and calibration."""

from uda.metrics.calibration import CalibrationError
from uda.metrics.confusion import (
    ConfusionMatrix,
    class_counts,
    confusion,
    iou,
    iou_of_counts,
    miou,
    miou_of_counts,
)

__all__ = [
    "CalibrationError",
    "ConfusionMatrix",
    "class_counts",
    "confusion",
    "iou",
    "iou_of_counts",
    "miou",
    "miou_of_counts",
]
