"""What goes wrong with data."""

from __future__ import annotations


class DataError(ValueError):
    """Something is wrong with a data set on disk; the message names the file."""


class LossyLabelError(DataError):
    """A label file is compressed with loss, which changes its ids and colours."""


class ArchiveError(DataError):
    """An archive is damaged, or would do harm where it is unpacked; the message names it and the member."""


class DownloadError(RuntimeError):
    """A file could not be fetched, or is not the one that was expected; the message names the address."""
