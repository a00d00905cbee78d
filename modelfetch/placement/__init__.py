"""Placement: what is at a path, what is to be done about it, and doing it."""

from __future__ import annotations

from modelfetch.placement.inspector import Examiner, wanted_digest
from modelfetch.placement.path_guard import destination
from modelfetch.placement.placer import PlacementJob, PlacementRequest, Placer, foreign_file_error
from modelfetch.placement.state import Action, State

__all__ = [
    "Action",
    "Examiner",
    "PlacementJob",
    "PlacementRequest",
    "Placer",
    "State",
    "destination",
    "foreign_file_error",
    "wanted_digest",
]
