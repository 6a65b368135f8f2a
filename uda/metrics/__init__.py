"""Scores over a whole data set: intersection over union and calibration."""

from uda.metrics.calibration import CalibrationError
from uda.metrics.confusion import ConfusionMatrix, confusion, iou, miou

__all__ = ["CalibrationError", "ConfusionMatrix", "confusion", "iou", "miou"]
