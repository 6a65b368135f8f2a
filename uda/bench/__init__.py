"""Fair comparisons: methods x seeds on a shift, resumable, with intervals.

:func:`run` does what is missing of a benchmark and gives its :class:`Table`; :func:`write_tables` writes it down.
:func:`train` is one run of it, or one without a benchmark.
"""

from uda.bench.intervals import Estimate, ImageScores
from uda.bench.record import record, write_tables
from uda.bench.results import Measured
from uda.bench.run import BenchResult, TrainResult, run, train
from uda.bench.table import Table, make_table
from uda.bench.work import Event

__all__ = [
    "BenchResult",
    "Estimate",
    "Event",
    "ImageScores",
    "Measured",
    "Table",
    "TrainResult",
    "make_table",
    "record",
    "run",
    "train",
    "write_tables",
]
