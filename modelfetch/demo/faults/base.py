"""What a fault is, and the table in which faults wait for their answers."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from modelfetch.demo.delivery import Delivery
    from modelfetch.demo.message import Request, Response

Concern = Literal["response", "file", "body"]

_WHO_IS_IT = "bytes=0-0"
"""The range of those who only ask who a file is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Changes one delivery. ``concerns``: any response, one with a file's content, or one that carries its bytes.

    ``needs_content``: one byte is not enough for it, so it waits for somebody who wants more.
    """

    concerns: ClassVar[Concern] = "body"
    needs_content: ClassVar[bool] = False

    def apply(self, delivery: Delivery, request: Request) -> Delivery:
        """The delivery with this fault in it."""
        raise NotImplementedError


@dataclass(slots=True)
class _Planned:
    glob: str
    fault: Fault
    left: int | None
    skip: int
    origin: str | None


class FaultTable:
    """The faults that are waiting, in the order in which they were added."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._planned: list[_Planned] = []

    def add(self, glob: str, *faults: Fault, times: int | None = 1, skip: int = 0, origin: str | None = None) -> None:
        """Let each fault hit the next ``times`` answers (None: all) whose path matches, after the first ``skip``.

        ``glob`` is matched against the decoded path of the request, and against the path on the hub that a CDN address
        stands for; ``*`` crosses slashes. ``origin``: only on "hf", "ollama", "civitai", "files" or "cdn".
        """
        with self._lock:
            self._planned += [_Planned(glob, fault, times, skip, origin) for fault in faults]

    def clear(self) -> None:
        """Forget all faults; answers under way keep theirs."""
        with self._lock:
            self._planned.clear()

    def pending(self) -> int:
        """How many faults are still waiting, those without end not counted."""
        with self._lock:
            return sum(entry.left or 0 for entry in self._planned)

    def take(self, request: Request, response: Response) -> list[Fault]:
        """The faults that hit this answer; they are used up by it."""
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
    if not response.file or (entry.fault.needs_content and request.headers.get("range", "") == _WHO_IS_IT):
        return False
    return entry.fault.concerns == "file" or request.method == "GET"
