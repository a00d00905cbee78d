"""Faults between a hub and a client, as small values that a test adds to a path.

``hub.faults.add("**/model.bin", DropAfter(bytes=1000))`` breaks the next matching body, once. Faults of a body wait
for a GET whose response has a file's content, so a redirect before it does not use them up. If several faults
match one response, all are applied, in the order in which they were added.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from modelfetch.demo.delivery import Delivery
    from modelfetch.demo.message import Request, Response

Concern = Literal["response", "file", "body"]

_METADATA_RANGE = "bytes=0-0"
"""The range in requests for metadata only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Changes one delivery. ``concerns``: any response, one with a file's content, or one that sends its bytes.

    ``needs_content``: the fault needs more than one byte, so it waits for a request for more.
    """

    concerns: ClassVar[Concern] = "body"
    needs_content: ClassVar[bool] = False

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Return the delivery with this fault."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class DropAfter(Fault):
    """The connection closes after ``bytes`` bytes of the body."""

    needs_content: ClassVar[bool] = True
    bytes: int

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Cut the body."""
        return replace(delivery, cut_after=self.bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle(Fault):
    """A limit of ``rate`` bytes per second on each connection."""

    rate: int

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """Limit the rate."""
        return replace(delivery, rate=self.rate)


@dataclass(slots=True)
class _Planned:
    glob: str
    fault: Fault
    left: int | None
    skip: int
    origin: str | None


class FaultTable:
    """The pending faults, in the order in which they were added."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._planned: list[_Planned] = []

    def add(self, glob: str, *faults: Fault, times: int | None = 1, skip: int = 0, origin: str | None = None) -> None:
        """Apply each fault to the next ``times`` responses (None: all) whose path matches, after the first ``skip``.

        ``glob`` is matched against the decoded path of the request, and against the hub path that a CDN URL
        represents; ``*`` crosses slashes. ``origin``: only on "hf", "ollama", "civitai", "files" or "cdn".
        """
        with self._lock:
            self._planned += [_Planned(glob, fault, times, skip, origin) for fault in faults]

    def clear(self) -> None:
        """Remove all faults; responses in progress keep theirs."""
        with self._lock:
            self._planned.clear()

    def pending(self) -> int:
        """Return the number of pending faults, without those that never expire."""
        with self._lock:
            return sum(entry.left or 0 for entry in self._planned)

    def take(self, request: Request, response: Response) -> list[Fault]:
        """Return the faults for this response, and count it as one of their uses."""
        with self._lock:
            hits = [entry for entry in self._planned if _matches(entry, request, response)]
            taken = []
            for entry in hits:
                if entry.skip:
                    entry.skip -= 1
                    continue
                taken.append(entry.fault)
                if entry.left is not None:
                    entry.left -= 1
            self._planned = [entry for entry in self._planned if entry.left != 0]
            return taken


def _matches(entry: _Planned, request: Request, response: Response) -> bool:
    if entry.origin not in (None, request.origin):
        return False
    paths = [request.path, *([response.label] if response.label else [])]
    if not any(fnmatchcase(path, entry.glob) for path in paths):
        return False
    if entry.fault.concerns == "response":
        return True
    if not response.file or (entry.fault.needs_content and request.headers.get("range", "") == _METADATA_RANGE):
        return False
    return entry.fault.concerns == "file" or request.method == "GET"
