"""Moving bytes: from the sources, proven, into the store."""

from modelfetch.transfer.engine import Engine
from modelfetch.transfer.types import Fetched, Tuning

__all__ = ["Engine", "Fetched", "Tuning"]
