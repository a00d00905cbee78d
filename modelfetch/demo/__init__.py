"""The embedded hub: true wire shapes of the real hubs, on loopback, with faults on demand.

The demo tier, the tests and the benchmarks run against it; nothing in the downloader knows that it is there, and
nothing below this package imports it.
"""

from __future__ import annotations

from modelfetch.demo.body import Body, BytesBody, PatternBody, ZeroBody
from modelfetch.demo.hub import Hub
from modelfetch.demo.log import LoggedRequest, RequestLog
from modelfetch.demo.world import World

__all__ = ["Hub", "World", "Body", "BytesBody", "PatternBody", "ZeroBody", "LoggedRequest", "RequestLog"]
