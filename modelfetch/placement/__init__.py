"""Placement: inspect each path, decide what to do about it, and do it."""

from __future__ import annotations

from modelfetch.placement.inspector import Inspection, Inspector, wanted_digest
from modelfetch.placement.placer import PlacementJob, PlacementRequest, Placer, foreign_file_error
from modelfetch.placement.root_tree import RootTree
from modelfetch.placement.state import Action, State

__all__ = [
    "Action",
    "Inspector",
    "Inspection",
    "PlacementJob",
    "PlacementRequest",
    "Placer",
    "RootTree",
    "State",
    "foreign_file_error",
    "wanted_digest",
]
