"""Why does a model lose on the target, and what would fix it.

:func:`analyse` measures a model on source and target, edits the target's images towards the source one factor at a
time, and tries test-time fixes; :func:`summarise` makes numbers with intervals of it, :func:`write_report` a page.
"""

from uda.gap.analysis import analyse
from uda.gap.columns import image_columns
from uda.gap.factors import FACTORS, Editor, Factor
from uda.gap.fixes import Fix, default_fixes
from uda.gap.latent import Distance, distances, domain_auc, project
from uda.gap.report import write_report
from uda.gap.results import DomainResult, FixResult, Gap, Options
from uda.gap.sampling import Interval
from uda.gap.store import OtherAnalysisError, Store
from uda.gap.style import Style
from uda.gap.summary import Summary, summarise
from uda.gap.verdict import sentences

__all__ = [
    "FACTORS",
    "Distance",
    "DomainResult",
    "Editor",
    "Factor",
    "Fix",
    "FixResult",
    "Gap",
    "Interval",
    "Options",
    "OtherAnalysisError",
    "Store",
    "Style",
    "Summary",
    "analyse",
    "default_fixes",
    "distances",
    "domain_auc",
    "image_columns",
    "project",
    "sentences",
    "summarise",
    "write_report",
]
