"""Search over any setting or argument with Optuna, judged by what needs no labels of the target.

:func:`run_search` does what is missing of one, :func:`summarise` says what was found and what an honest objective loses
against one that peeks, :func:`write_search` writes it down, :func:`uda.plots.search` draws it.
"""

from uda.bench.search.study import SearchResult, Trial, run_search
from uda.bench.search.summary import Regret, Summary, summarise
from uda.bench.search.write import write_search

__all__ = ["Regret", "SearchResult", "Summary", "Trial", "run_search", "summarise", "write_search"]
