"""Options as a caller writes them, in Python or elsewhere: text to values, and what can't be is said at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelfetch.core.fs import own_folder
from modelfetch.core.units import parse_size
from modelfetch.errors import UsageError
from modelfetch.manifest.model import CONSUMERS

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_ROOT = Path("files/ai-models")
"""Where models go unless said otherwise: the folder that the stack's compose files mount."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a command was asked for, beside its manifests; the contract's shared options.

    ``limit_rate`` in bytes per second for the whole process, ``lock_timeout`` in seconds (None: no end),
    ``chown`` as (uid, gid), ``consumers`` empty for all.
    """

    root: Path = DEFAULT_ROOT
    store: Path | None = None
    consumers: tuple[str, ...] = ()
    offline: bool = False
    refresh: bool = False
    require_digests: bool = False
    keep_going: bool = False
    jobs: int = 4
    connections: int = 8
    limit_rate: int | None = None
    retries: int = 5
    lock_timeout: float | None = None
    chown: tuple[int, int] | None = None

    @property
    def store_path(self) -> Path:
        """The store: as given, else ``.modelfetch`` below ROOT."""
        return self.store or own_folder(self.root)


_OWNER = re.compile(r"(\d{1,9}):(\d{1,9})\Z", re.ASCII)
_COUNTS = {"jobs": (1, 64), "connections": (1, 64), "retries": (0, 100)}
_FLAGS = ("offline", "refresh", "require_digests", "keep_going")


def parse_options(given: Mapping[str, Any]) -> Options:
    """The options for what a caller gave.

    Raises:
        UsageError: A value is none that the option can have; the message names both.
        TypeError: There is no such option.
    """
    values = dict(given)
    if "for_" in values:
        values["consumers"] = values.pop("for_")
    for name, read in _READERS.items():
        if values.get(name) is not None:
            values[name] = read(name, values[name])
        elif name not in ("store", "limit_rate", "lock_timeout", "chown"):
            values.pop(name, None)
    return Options(**values)


def _path(name: str, value: Any) -> Path:
    if isinstance(value, Path) or (isinstance(value, str) and value):
        return Path(value)
    raise _wrong(name, "a path", value)


def _consumers(name: str, value: Any) -> tuple[str, ...]:
    chosen = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple | set) else (value,)
    for one in chosen:
        if one not in CONSUMERS:
            raise _wrong(name, f"one or some of {', '.join(CONSUMERS)}", one)
    return tuple(dict.fromkeys(chosen))


def _count(name: str, value: Any) -> int:
    least, most = _COUNTS[name]
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    raise _wrong(name, f"a whole number from {least} to {most}", value)


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise _wrong(name, "True or False", value)


def _rate(name: str, value: Any) -> int:
    try:
        size = parse_size(value) if isinstance(value, str) else value
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    raise _wrong(name, "bytes per second, more than 0, such as '50MB'", value)


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    raise _wrong(name, "seconds, at least 0", value)


def _owner(name: str, value: Any) -> tuple[int, int]:
    if isinstance(value, str) and (match := _OWNER.match(value)):
        return int(match[1]), int(match[2])
    if isinstance(value, tuple) and len(value) == 2 and all(type(one) is int and one >= -1 for one in value):
        return value
    raise _wrong(name, "(UID, GID) or 'UID:GID'", value)


def _wrong(name: str, expected: str, found: object) -> UsageError:
    return UsageError(
        f"{name}: expected {expected}, found {found!r:.80}", hint="docs/guides/python.md lists the options"
    )


_READERS = {
    "root": _path,
    "store": _path,
    "consumers": _consumers,
    **dict.fromkeys(_COUNTS, _count),
    **dict.fromkeys(_FLAGS, _flag),
    "limit_rate": _rate,
    "lock_timeout": _seconds,
    "chown": _owner,
}
