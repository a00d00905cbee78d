"""The GPU memory that a model or a tier needs, read from headers before a byte of weights.

Pure: bytes come through a `RangeReader`. `fit_tier` and `fit_alone` give a `FitReport`, whose ``as_dict`` is what
``fit --json`` prints and which `render_table` shows to a person.
"""

from modelfetch.fit.prefix import FIRST, FileReader, Prefix, RangeReader
from modelfetch.fit.render import render_table
from modelfetch.fit.values import Candidate, Estimate, File, Finding, FitReport, ServiceFit
from modelfetch.fit.verdict import fit_alone, fit_tier

__all__ = [
    "FIRST",
    "Candidate",
    "Estimate",
    "File",
    "FileReader",
    "Finding",
    "FitReport",
    "Prefix",
    "RangeReader",
    "ServiceFit",
    "fit_alone",
    "fit_tier",
    "render_table",
]
