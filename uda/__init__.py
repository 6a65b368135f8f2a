"""Unsupervised domain adaptation of semantic segmentation in PyTorch."""

__version__ = "0.1.0"
