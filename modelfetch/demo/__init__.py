"""The embedded hub: a simulation of the real hubs' protocols on loopback, with configurable faults.

The demo tier, the tests and the benchmarks run against it; no other part of the downloader depends on it or imports
this package.
"""

from __future__ import annotations

from modelfetch.demo.body import Body, BytesBody, PatternBody, ZeroBody
from modelfetch.demo.hub import Hub
from modelfetch.demo.log import LoggedRequest, RequestLog
from modelfetch.demo.world import World

__all__ = ["Hub", "World", "Body", "BytesBody", "PatternBody", "ZeroBody", "LoggedRequest", "RequestLog"]
