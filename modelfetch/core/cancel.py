"""Cancel work in threads: one flag that also interrupts blocking calls."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from modelfetch.errors import InterruptedSync

if TYPE_CHECKING:
    from collections.abc import Callable


class Cancel:
    """A flag that is set once and never cleared; blocking code registers a callback that interrupts it.

    Setting a parent sets its children, not the other way round: a run has one flag, and each transfer a child of it.

    Args:
        parent: The wider scope, if any.
    """

    def __init__(self, parent: Cancel | None = None) -> None:
        self._event = threading.Event()
        self._lock = threading.RLock()  # re-entrant: a signal handler may call `set` at any point
        self._callbacks: dict[object, Callable[[], object]] = {}
        self._code = "interrupted"
        self._exit_code = 130
        self._parent = parent
        self._leave_parent: Callable[[], None] = _do_nothing
        if parent is not None:
            self._leave_parent = parent.on_cancel(self._follow)

    def set(self, *, code: str = "interrupted", exit_code: int = 130) -> None:
        """Cancel: `check` then raises with `code` and `exit_code` (130, or 143 for SIGTERM). The first call wins."""
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
        """Return whether the work was cancelled."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise if the work was cancelled; otherwise do nothing.

        Raises:
            InterruptedSync: It was cancelled.
        """
        if self._event.is_set():
            raise self.error()

    def error(self) -> InterruptedSync:
        """Return a new instance of the exception that `check` raises."""
        word = "terminated" if self._exit_code == 143 else "interrupted"
        return InterruptedSync(f"{word}; finished parts are kept", code=self._code, exit_code=self._exit_code)

    def wait(self, seconds: float) -> bool:
        """Sleep for ``seconds`` or until cancelled; True if cancelled."""
        return self._event.wait(seconds)

    def on_cancel(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call `callback` once when cancelled (immediately if it already is); it must neither block nor raise.

        Returns:
            A function that unregisters the callback.
        """
        key = object()
        with self._lock:
            if not self._event.is_set():
                self._callbacks[key] = callback
                return lambda: self._forget(key)
        callback()
        return _do_nothing

    def child(self) -> Cancel:
        """Return a narrower scope that is set when this one is; call `release` on it at the end."""
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


def _do_nothing() -> None:
    """Do nothing: the unregister function of a callback that was not kept."""
