"""Transfers the bytes of artifacts from their sources into the store, verified."""

from modelfetch.transfer.engine import Engine
from modelfetch.transfer.types import Fetched, Tuning

__all__ = ["Engine", "Fetched", "Tuning"]
