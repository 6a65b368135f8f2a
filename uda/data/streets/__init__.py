"""Procedural street scenes in several domains: labelled data for adaptation that needs no download."""

from uda.data.streets.changes import differences, entries, vary
from uda.data.streets.domains import DOMAINS, Domain
from uda.data.streets.render import render
from uda.data.streets.write import SPLITS, check_empty, generate

__all__ = ["DOMAINS", "SPLITS", "Domain", "check_empty", "differences", "entries", "generate", "render", "vary"]
