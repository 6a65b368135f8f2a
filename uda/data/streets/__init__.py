"""Procedural street scenes in several domains: labelled data for adaptation that needs no download."""

from uda.data.streets.changes import differences, entries, vary
from uda.data.streets.domains import DOMAINS, Domain
from uda.data.streets.factors import ONE_FACTOR, one_factor
from uda.data.streets.render import render
from uda.data.streets.write import SPLITS, check_empty, generate

__all__ = [
    "DOMAINS",
    "ONE_FACTOR",
    "SPLITS",
    "Domain",
    "check_empty",
    "differences",
    "entries",
    "generate",
    "one_factor",
    "render",
    "vary",
]
