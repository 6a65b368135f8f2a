"""Cross-data-set matrices: train on each of several data sets and on all, score every one on every one.

:func:`run_matrix` does what is missing of one and gives its :class:`Matrix`; :func:`write_matrix` writes it down, and
:func:`uda.plots.matrix` draws it.
"""

from uda.bench.matrix.run import MatrixResult, run_matrix
from uda.bench.matrix.table import Matrix, make_matrix
from uda.bench.matrix.write import write_matrix

__all__ = ["Matrix", "MatrixResult", "make_matrix", "run_matrix", "write_matrix"]
