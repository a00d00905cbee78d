"""Placement: what is at a path, what is to be done about it, and doing it."""

from __future__ import annotations

from modelfetch.place.decide import Act, State
from modelfetch.place.examine import Examiner, wanted_digest
from modelfetch.place.guard import destination
from modelfetch.place.placer import Job, Order, Placer, foreign

__all__ = ["Act", "Examiner", "Job", "Order", "Placer", "State", "destination", "foreign", "wanted_digest"]
