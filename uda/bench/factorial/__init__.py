"""Studies of factors: a designed set of runs that vary several things at once, and what each of them does to the score.

:func:`run_factorial` does what is missing of one and gives its :class:`Study`; :func:`write_study` writes it down, and
:func:`uda.plots.effects` draws it.
"""

from uda.bench.factorial.run import FactorialResult, run_factorial
from uda.bench.factorial.table import Effect, Study, make_study
from uda.bench.factorial.write import write_study

__all__ = ["Effect", "FactorialResult", "Study", "make_study", "run_factorial", "write_study"]
