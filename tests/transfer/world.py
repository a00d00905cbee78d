"""A store, an engine with short intervals, and the results of a fetch."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from modelfetch.config.options import Options
from modelfetch.core.artifact import Artifact, Location
from modelfetch.core.cancel import Cancel
from modelfetch.core.digest import Digest
from modelfetch.http import Authenticator, Http, Timeouts
from modelfetch.store import Store
from modelfetch.store.locks.lock import LockTiming
from modelfetch.transfer import Engine, Fetched, Tuning

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from modelfetch.core.events import Event
    from tests.transfer.server import Origin

TIMING = LockTiming(heartbeat=0.1, stale=0.6, report_interval=0.2, poll=0.02)


def payload(size: int, seed: int = 1) -> bytes:
    """Bytes that are the same everywhere and do not repeat."""
    return blake3(b"%d" % seed).digest(length=size)


@lru_cache(maxsize=16)
def digest_of(data: bytes) -> Digest:
    """The digest of a payload, which many tests fetch."""
    return Digest.sha256(data)


def quick(**changes: Any) -> Tuning:
    """The engine's intervals, shortened for tests."""
    fields: dict[str, Any] = {
        "backoff_first": 0.01,
        "backoff_most": 0.05,
        "short_pause": 0.0,
        "source_seconds": 5.0,
        "retry_after_most": 2.5,
        "floor_seconds": 0.6,
        "lock_timing": TIMING,
        "jitter": lambda: 0.0,
    }
    return Tuning(**(fields | changes))


@dataclass(kw_only=True)
class World:
    """A store below ``root`` and what it takes to fetch into it."""

    root: Path
    options: Options = field(default_factory=Options)
    tuning: Tuning = field(default_factory=quick)
    timeouts: Timeouts = field(default_factory=lambda: Timeouts(connect=10.0, headers=10.0, idle=10.0))
    auth: Authenticator | None = None
    events: list[Event] = field(default_factory=list)
    cancel: Cancel = field(default_factory=Cancel)

    @property
    def store(self) -> Store:
        return Store(self.root / "store")

    def artifact(self, *origins: Origin | str, data: bytes | None = None, **changes: Any) -> Artifact:
        urls = [origin if isinstance(origin, str) else origin.url for origin in origins]
        fields: dict[str, Any] = {
            "uri": urls[0] if urls else "https://nowhere.example/file.bin",
            "path": "file.bin",
            "size": len(data) if data is not None else None,
            "digest": digest_of(data) if data is not None else None,
            "locations": tuple(Location(uri=url, url=url) for url in urls),
        }
        return Artifact(**(fields | changes))

    def fetch(self, *origins: Origin | str, data: bytes | None = None, **changes: Any) -> Fetched:
        return self.fetch_all(self.artifact(*origins, data=data, **changes))[0]

    def fetch_all(self, *artifacts: Artifact) -> Sequence[Fetched]:
        http = Http(timeouts=self.timeouts, auth=self.auth)

        async def run() -> Sequence[Fetched]:
            engine = Engine(
                http=http,
                store=self.store,
                options=self.options,
                sink=self.events.append,
                cancel=self.cancel,
                tuning=self.tuning,
            )
            try:
                return await asyncio.gather(*(engine.fetch(a, label=a.path) for a in artifacts))
            finally:
                await engine.close()

        try:
            return asyncio.run(run())
        finally:
            http.close()

    def partial(self) -> Path | None:
        """The partial file that a failed run left, if any."""
        found = list((self.root / "store" / "ingest").glob("*.part"))
        return found[0] if found else None

    def events_of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]
