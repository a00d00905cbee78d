"""Placement: what is at a path, what is to be done about it, and doing it."""

from __future__ import annotations

from modelfetch.placement.inspector import Examiner, wanted_digest
from modelfetch.placement.path_guard import destination
from modelfetch.placement.placer import Job, Order, Placer, foreign
from modelfetch.placement.state import Act, State

__all__ = ["Act", "Examiner", "Job", "Order", "Placer", "State", "destination", "foreign", "wanted_digest"]
