"""What goes wrong with data."""

from __future__ import annotations


class DataError(ValueError):
    """Something is wrong with a data set on disk; the message names the file."""


class LossyLabelError(DataError):
    """A label file is compressed with loss, which changes its ids and colours."""
