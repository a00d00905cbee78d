"""How many connections to use for a file: more while they help, no further ones on a fast link. No I/O."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelfetch.transfer.types import Tuning

_HELPS = 1.15
"""Factor by which the rate must rise for an addition to count as helpful."""
_BEHIND = 0.4
"""Backlog ratio above which reading, not the network, is the limit."""
_WINDOW = 0.04
"""Shortest time, in seconds, over which the rate is measured."""
_MAX_WINDOW = 0.6
"""Longest such time: with a long round trip bytes come in bursts, so the window is as long as a request takes."""
_WORTH = 0.25
"""Seconds of remaining work below which a new connection is not worth its setup."""
_FACTOR = 3
"""Connections that are added for each existing one: from one to four, then sixteen."""


@dataclass(slots=True)
class _Trial:
    """Connections were added: how many, the rate before, and when the effect can be measured."""

    added: int
    rate: float
    until: float


class ConcurrencyController:
    """Decides when to add connections; called every few hundredths of a second.

    Args:
        most: Connections at most.
        limit: The user's cap on the rate in bytes per second, None for none.
        setup: Seconds that a connection takes to its first byte.
        tuning: The rate at which one connection is enough, and the pause after connections that did not help.
        floor: The minimum rate of a connection in bytes per second.
    """

    def __init__(self, most: int, *, limit: int | None, setup: float, tuning: Tuning, floor: float = 0.0) -> None:
        self.most = most
        self._limit = limit
        self._floor = floor
        self._window = max(_WINDOW, min(_MAX_WINDOW, setup))
        self._settle = self._window + 1.5 * setup
        self._samples: deque[tuple[float, int]] = deque()
        self._trial: _Trial | None = None
        self._hold_until = 0.0
        self._fast = tuning.fast_rate
        self._hold = tuning.hold_seconds

    def rate(self) -> float:
        """The current rate in bytes per second."""
        if len(self._samples) < 2:
            return 0.0
        (then, old), (now, new) = self._samples[0], self._samples[-1]
        return (new - old) / (now - then) if now > then else 0.0

    def failed(self, now: float, *, refused: bool, active: int) -> None:
        """Record a failed connection; if the source refused it, no further ones are added."""
        self._trial = None
        self._hold_until = max(self._hold_until, now + 1.0)
        if refused:
            self.most = max(1, min(self.most, active))

    def step(self, now: float, total: int, *, active: int, left: int, behind: float = 0.0) -> int:
        """Return how many connections to add; a negative number of connections may end, as they did not help.

        Args:
            now: The time.
            total: Bytes received so far.
            active: Connections at work.
            left: Bytes to go.
            behind: How often bytes waited for a connection to read them, from 0 to 1.
        """
        self._samples.append((now, total))
        while len(self._samples) > 2 and now - self._samples[1][0] >= self._window:
            self._samples.popleft()
        if now - self._samples[0][0] < self._window:
            return 0
        rate = self.rate()
        if self._trial is not None:
            if now < self._trial.until:
                return 0
            trial, self._trial = self._trial, None
            if rate < _HELPS * trial.rate:
                return -self._give_up(now, trial.added, active)
        if now < self._hold_until or behind > _BEHIND or not self._wants_more(rate, active, left):
            return 0
        added = max(1, min(_FACTOR * active, self.most - active))
        self._trial = _Trial(added, rate, now + self._settle)
        return added

    def _give_up(self, now: float, added: int, active: int) -> int:
        """The link is saturated: undo the addition, and wait twice as long before each further one."""
        self._hold_until = now + self._hold
        self._hold *= 2
        return max(0, min(added, active - 1))

    def _wants_more(self, rate: float, active: int, left: int) -> bool:
        if not 0 < active < self.most or rate >= self._fast * active or left < _WORTH * rate:
            return False
        if rate <= self._floor * active:
            return False  # they are about to be dropped: with replacements the attempt would never fail
        return self._limit is None or rate < 0.8 * self._limit
