"""Cancelling work that runs in threads: one flag that also wakes what is blocked."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from modelfetch.errors import InterruptedSync

if TYPE_CHECKING:
    from collections.abc import Callable


class Cancel:
    """A flag that is set once and never cleared; whoever blocks registers a callback that ends the blocking.

    A child is set with its parent, not the other way round: a run has one, and every transfer one below it.

    Args:
        parent: The wider scope, if any.
    """

    def __init__(self, parent: Cancel | None = None) -> None:
        self._event = threading.Event()
        self._lock = threading.RLock()  # re-entrant: a signal handler may call `set` in the midst of anything
        self._callbacks: dict[object, Callable[[], None]] = {}
        self._code = "interrupted"
        self._exit_code = 130
        self._parent = parent
        self._leave_parent: Callable[[], None] = _nothing
        if parent is not None:
            self._leave_parent = parent.on_cancel(self._follow)

    def set(self, *, code: str = "interrupted", exit_code: int = 130) -> None:
        """Cancel: `code` and `exit_code` (130, or 143 for SIGTERM) are what `check` raises. The first call decides."""
        with self._lock:
            if self._event.is_set():
                return
            self._code, self._exit_code = code, exit_code
            self._event.set()
            callbacks = list(self._callbacks.values())
            self._callbacks.clear()
        for callback in callbacks:
            callback()

    def is_set(self) -> bool:
        """Whether it was cancelled."""
        return self._event.is_set()

    def check(self) -> None:
        """Do nothing, or end the work.

        Raises:
            InterruptedSync: It was cancelled.
        """
        if self._event.is_set():
            raise self.error()

    def error(self) -> InterruptedSync:
        """The exception that `check` raises, new each time."""
        word = "terminated" if self._exit_code == 143 else "interrupted"
        return InterruptedSync(f"{word}; finished parts are kept", code=self._code, exit_code=self._exit_code)

    def wait(self, seconds: float) -> bool:
        """Sleep so long, or until cancelled; True when cancelled."""
        return self._event.wait(seconds)

    def on_cancel(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` once when cancelled (at once if it already is); it must neither block nor raise.

        Returns:
            A function that withdraws the callback.
        """
        key = object()
        with self._lock:
            if not self._event.is_set():
                self._callbacks[key] = callback
                return lambda: self._forget(key)
        callback()
        return _nothing

    def child(self) -> Cancel:
        """A narrower scope, set when this one is; `release` it when it is over."""
        return Cancel(self)

    def release(self) -> None:
        """Stop following the parent."""
        self._leave_parent()

    def _forget(self, key: object) -> None:
        with self._lock:
            self._callbacks.pop(key, None)

    def _follow(self) -> None:
        parent = self._parent
        if parent is not None:
            self.set(code=parent._code, exit_code=parent._exit_code)


def _nothing() -> None:
    """The withdrawal of a callback that is no longer registered."""
