"""What all transfers of an engine share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelfetch.core.events import Sink
    from modelfetch.http import Http
    from modelfetch.store.store import Store
    from modelfetch.transfer.rate import Limiter
    from modelfetch.transfer.ring_buffer import BufferPool
    from modelfetch.transfer.types import EngineOptions, Tuning


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The client, the store, the choices, the cap on the rate, the buffers, and where events go."""

    http: Http
    store: Store
    options: EngineOptions
    tuning: Tuning
    limiter: Limiter
    shelf: BufferPool
    sink: Sink
