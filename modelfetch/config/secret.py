"""Tokens that are read when they are needed, and the error for a file of credentials that can't be read."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from modelfetch.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable


class CredentialFileError(SettingError):
    """A credentials file exists but can't be read; this matters only to a request that needs a credential from it."""


class Secret:
    """A token that is read on first use and never appears in output.

    Args:
        read: Finds the token; returns None or an empty text if there is none.
    """

    __slots__ = ("_known", "_lock", "_read", "_value")

    def __init__(self, read: Callable[[], str | None]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._known = False
        self._value: str | None = None

    @classmethod
    def of(cls, value: str | None) -> Self:
        """Wrap a value that is already known."""
        return cls(lambda: value)

    def value(self) -> str | None:
        """Return the token, or None if there is none.

        Raises:
            SettingError: The value found is not a valid token, or can't be read.
        """
        with self._lock:
            if not self._known:
                self._value = self._read() or None
                self._known = True
            return self._value

    def __repr__(self) -> str:
        return "Secret(…)"
