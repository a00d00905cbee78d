"""Model sources: one per URI scheme, all behind `Sources`.

The names are imported lazily: resolving from the manifest alone (`known`) needs no client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelfetch.sources.base import Source, SourceRequest
from modelfetch.sources.factory import known

if TYPE_CHECKING:
    from modelfetch.sources.resolver import Sources

__all__ = ["Source", "Sources", "SourceRequest", "known"]


def __getattr__(name: str) -> Any:
    if name == "Sources":
        from modelfetch.sources.resolver import Sources

        return Sources
    raise AttributeError(name)
