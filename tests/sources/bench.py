"""Shared by the tests of sources: a hub, and a bench that sends requests to it and records the pauses."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modelfetch.config.settings import Settings
from modelfetch.errors import ModelfetchError
from modelfetch.http import Http, Timeouts
from modelfetch.http.auth import Credentials
from modelfetch.http.retry import RetryTiming
from modelfetch.manifest.uri import parse_uri
from modelfetch.sources import SourceRequest, Sources

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from modelfetch.core.artifact import Resolution
    from modelfetch.core.events import Event
    from modelfetch.demo.hub import Hub


@dataclass(slots=True)
class SourceBench:
    """Resolves sources as `sync` does, without ever sleeping; ``waits`` are the skipped pauses, in seconds."""

    settings: Settings
    retries: int = 3
    waits: list[float] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    http: Http = field(init=False)
    sources: Sources = field(init=False)

    def __post_init__(self) -> None:
        self.http = Http(
            allow_http=self.settings.allows_http,
            rewrites=self.settings.mirrors,
            auth=Credentials(self.settings),
            timeouts=Timeouts(connect=2, headers=2, idle=2),
        )
        self.sources = Sources(
            http=self.http,
            settings=self.settings,
            retries=self.retries,
            sink=self.events.append,
            sleep=self._sleep,
            timing=RetryTiming(jitter=lambda: 0.0),
        )

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    def resolve(self, uri: str, **wanted: Any) -> Resolution:
        return asyncio.run(self.sources.resolve(SourceRequest(uri=parse_uri(uri), **wanted)))

    def refusal(self, uri: str, **wanted: Any) -> ModelfetchError:
        """Return the error that a request ends with."""
        try:
            found = self.resolve(uri, **wanted)
        except ModelfetchError as error:
            return error
        raise AssertionError(f"expected an error, found {found}")


def environment(hub: Hub, home: Path, **more: str) -> Mapping[str, str]:
    """Return variables that replace every default host with the hub's."""
    return {
        "HOME": str(home),
        "HF_TOKEN_PATH": str(home / "no-token"),
        "HF_ENDPOINT": hub.endpoint,
        "MODELFETCH_OLLAMA_REGISTRY": hub.ollama,
        "MODELFETCH_CIVITAI_ENDPOINT": hub.civitai,
        **more,
    }


def bench_for(hub: Hub, home: Path, *, retries: int = 3, **more: str) -> SourceBench:
    return SourceBench(Settings.from_env(environment(hub, home, **more)), retries=retries)
