"""The options that commands share, parsed in one place for the command line, the environment and Python."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from modelfetch.core.directories import own_folder
from modelfetch.core.root import CONSUMERS, DEFAULT_ROOT
from modelfetch.core.similar import nearest
from modelfetch.core.units import parse_age, parse_decimal, parse_size
from modelfetch.core.urls import hide_secrets
from modelfetch.errors import SettingError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_WITH_MODELS = ("ollama", "stable-diffusion", "comfyui")
"""Consumers that keep their files in a subfolder ``models``."""


class TransferValues(TypedDict, total=False):
    """Transfer options as a Python caller passes them; all are optional.

    Attributes:
        jobs: Files to download at once, 1 to 64 (default 4).
        connections: Maximum connections per file, 1 to 64 (default 8).
        limit_rate: Maximum rate of the whole process in bytes per second, or a text such as ``"50MB"``.
        retries: Maximum consecutive attempts without progress, 0 to 100 (default 5).
        lock_timeout: Maximum time to wait for another process's lock, in seconds (default: no limit).
    """

    jobs: int
    connections: int
    limit_rate: int | str | None
    retries: int
    lock_timeout: float | None


class FetchValues(TransferValues, total=False):
    """The options of `modelfetch.retrieve`.

    Attributes:
        offline: Disable network access; fail if the file is not in the cache.
        refresh: Query the source even if the cache knows the URI.
    """

    offline: bool
    refresh: bool


class PinValues(TransferValues, total=False):
    """The options of `modelfetch.pin`.

    Attributes:
        store: Folder for files that must be downloaded to be hashed (default: the user's cache).
        offline: Disable network access; fail if anything has to be resolved.
    """

    store: str | os.PathLike[str] | None
    offline: bool


class OptionValues(TransferValues, total=False):
    """The options of `modelfetch.sync`, `plan`, `status` and `fit` as a Python caller passes them.

    Attributes:
        root: Folder for the models (default ``files/ai-models``).
        store: Folder that keeps each verified file once (default ``ROOT/.modelfetch``).
        consumers: Only what these services need, such as ``["comfyui"]`` (default: all).
        offline: Disable network access; fail if anything is missing.
        refresh: Look for new versions of entries that are not pinned.
        require_digests: Refuse entries whose content the manifest does not pin.
        keep_going: Continue with the other models when one fails.
        chown: Owner of directories and copies, ``(1000, 1000)`` or ``"1000:1000"``.
        min_free: Space to leave free on each disk, in bytes or as ``"20GiB"``.
        consumer_dirs: Folders of services outside ROOT, such as ``{"comfyui": "~/ComfyUI"}``.
        for_: Older name of ``consumers``.
    """

    root: str | os.PathLike[str]
    store: str | os.PathLike[str] | None
    consumers: str | Sequence[str] | None
    offline: bool
    refresh: bool
    require_digests: bool
    keep_going: bool
    chown: tuple[int, int] | str | None
    min_free: int | str | None
    consumer_dirs: Mapping[str, str | os.PathLike[str]] | Sequence[str] | None
    for_: str | Sequence[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The shared options, parsed.

    ``limit_rate`` in bytes per second for the whole process, ``lock_timeout`` in seconds (None: no limit),
    ``chown`` as (uid, gid), ``min_free`` in bytes for each file system, ``consumers`` empty for all.
    ``consumer_dirs`` are pairs of a consumer and its folder, if that is outside ROOT.
    """

    root: Path = Path(DEFAULT_ROOT)
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
    min_free: int | None = None
    consumer_dirs: tuple[tuple[str, Path], ...] = ()

    @property
    def store_path(self) -> Path:
        """Return the store's folder: as given, else ``.modelfetch`` below ROOT."""
        return self.store or own_folder(self.root)


def parse_options(values: Mapping[str, Any]) -> Options:
    """Return the options for a caller's values; None means the default.

    Raises:
        UsageError: A value is invalid; the message names the option and the expected form.
        TypeError: An option does not exist.
    """
    given = dict(values)
    if "for_" in given:
        given["consumers"] = given.pop("for_")
    return Options(**parse_values(given))


def parse_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parsed value of each option that is not None; raises UsageError as `parse_options` does."""
    parsed = {}
    for name, value in values.items():
        if value is None:
            continue
        try:
            parsed[name] = PARSERS[name](value) if name in PARSERS else value
        except ValueError as error:
            raise UsageError(f"{name}: {error}", hint="help(modelfetch.OptionValues) lists the options") from None
    return parsed


def owner_from(environ: Mapping[str, str]) -> tuple[int, int] | None:
    """Return PUID and PGID, which many images accept; None if unset, or if this process isn't root and can't chown.

    Raises:
        SettingError: One of them is not a number.
    """
    given: dict[str, int] = {}
    for name in ("PUID", "PGID"):
        if not (value := environ.get(name, "").strip()):
            continue
        if (number := parse_decimal(value, digits=9)) is None:
            raise SettingError(f"{name}={hide_secrets(value)[:40]}: expected a number")
        given[name] = number
    return (given.get("PUID", -1), given.get("PGID", -1)) if given and os.geteuid() == 0 else None


# Each parser accepts the text of a command line or variable, or the value that a Python caller passes.
# It raises ValueError with the expected form.


def parse_path(value: object) -> Path:
    """Parse a folder's path. An empty path is rejected: it usually means that a script's variable is unset."""
    path = _parse_path(value)
    scheme, is_address, _ = str(value).partition("://")
    if is_address:
        raise ValueError(f"expected a path, found an address ({scheme[-10:]}://…)")
    return path


def _parse_path(value: object) -> Path:
    if isinstance(value, str | os.PathLike) and str(value).strip() and "\0" not in str(value):
        return Path(value)
    raise _expected("a path", value)


def parse_file_path(value: object) -> Path:
    """Parse a file's path. One that ends in a slash is rejected, unless the folder exists: then that is the error."""
    path = parse_path(value)
    if str(value).endswith(("/", "/.")) and not path.is_dir():  # `Path` drops the slash
        raise _expected("the path of a file", value)
    return path


def parse_file(value: object) -> str:
    """Parse a file's path as text, as messages show it; an empty one is rejected as by `parse_path`."""
    _parse_path(value)
    return str(value)


def parse_consumers(value: object) -> tuple[str, ...]:
    """Parse one or more services."""
    chosen = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple | set) else (value,)
    for one in chosen:
        if one not in CONSUMERS:
            raise _unknown_consumer(one)
    return tuple(dict.fromkeys(chosen))


def parse_consumer_dir(value: object) -> tuple[str, Path]:
    """Parse ``CONSUMER=DIR``; DIR may also be its ``models`` subfolder if the consumer has one."""
    consumer, equals, folder = value.partition("=") if isinstance(value, str) else ("", "", "")
    if not equals or not folder.strip():
        raise _expected(f"CONSUMER=DIR with one of {', '.join(CONSUMERS)}", value)
    if consumer.strip() not in CONSUMERS:
        raise _unknown_consumer(consumer.strip())
    path = Path(os.path.abspath(os.path.expanduser(parse_path(folder.strip()))))  # noqa: PTH100, PTH111 - links stay; never raises
    return consumer.strip(), path.parent if path.name == "models" and consumer.strip() in _WITH_MODELS else path


def parse_consumer_dirs(value: object) -> tuple[tuple[str, Path], ...]:
    """Parse consumers' folders: a mapping, or one or more ``CONSUMER=DIR``."""
    if isinstance(value, Mapping):
        value = [f"{consumer}={os.fspath(folder)}" for consumer, folder in value.items()]
    items = value if isinstance(value, list | tuple) else (value,)
    pairs = tuple(item if isinstance(item, tuple) else parse_consumer_dir(item) for item in items)
    if len({consumer for consumer, _ in pairs}) < len(pairs):
        raise _expected("one folder for each consumer", value)
    return pairs


def parse_choice(*choices: str) -> Callable[[object], str]:
    """Return a parser that accepts one of several words."""

    def parse(value: object) -> str:
        if isinstance(value, str) and value in choices:
            return value
        raise _expected(f"one of {', '.join(choices)}", value)

    return parse


def parse_flag(value: object) -> bool:
    """Parse True or False."""
    if isinstance(value, bool):
        return value
    raise _expected("True or False", value)


def parse_count(least: int, most: int) -> Callable[[object], int]:
    """Return a parser of whole numbers from ``least`` to ``most``."""

    def parse(value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"-?\d{1,18}", value, re.ASCII):
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        raise _expected(f"a whole number from {least} to {most}", value)

    return parse


def parse_bytes(value: object) -> int:
    """Parse a number of bytes above 0, ``50MB`` or ``7.5GiB``."""
    size = parse_size(value) if isinstance(value, str) else value
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    raise _expected("a size above 0, such as 50MB", value)


def parse_seconds(value: object) -> float:
    """Parse seconds. NaN is rejected: comparisons with it are always false, so a wait would never end."""
    try:
        seconds = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else -1.0
    except ValueError:
        seconds = -1.0
    if seconds >= 0 and not math.isnan(seconds):
        return seconds
    raise _expected("a number of seconds, at least 0", value)


def parse_age_of(value: object) -> float:
    """Parse an age such as ``30d`` or ``12h``, or seconds as a number."""
    return parse_age(value) if isinstance(value, str) else parse_seconds(value)


def parse_owner(value: object) -> tuple[int, int]:
    """Parse ``UID:GID``; in a tuple, -1 means "unchanged"."""
    if isinstance(value, str) and (match := re.fullmatch(r"(\d{1,9}):(\d{1,9})", value, re.ASCII)):
        return int(match[1]), int(match[2])
    if isinstance(value, tuple) and len(value) == 2 and all(type(one) is int and one >= -1 for one in value):
        return value
    raise _expected("UID:GID as numbers", value)


def _unknown_consumer(name: object) -> ValueError:
    near = nearest(str(name), CONSUMERS)
    error = _expected(f"one of {', '.join(CONSUMERS)}", name)
    return ValueError(f"{error}; did you mean {near!r}?") if near else error


def _expected(what: str, found: object) -> ValueError:
    return ValueError(f"expected {what}, found {found!r:.80}")


PARSERS: Mapping[str, Callable[[object], Any]] = {
    "path": parse_file_path,
    "file": parse_file,
    "root": parse_path,
    "store": parse_path,
    "consumers": parse_consumers,
    "offline": parse_flag,
    "refresh": parse_flag,
    "require_digests": parse_flag,
    "keep_going": parse_flag,
    "jobs": parse_count(1, 64),
    "connections": parse_count(1, 64),
    "limit_rate": parse_bytes,
    "retries": parse_count(0, 100),
    "lock_timeout": parse_seconds,
    "chown": parse_owner,
    "min_free": parse_bytes,
    "consumer_dir": parse_consumer_dir,
    "consumer_dirs": parse_consumer_dirs,
    "context": parse_count(1, 2**31 - 1),
    "parallel": parse_count(1, 1024),
    "kv_type": parse_choice("f16", "q8_0", "q4_0"),
    "flash_attention": parse_flag,
    "usable": parse_bytes,
    "older_than": parse_age_of,
    "limit": parse_count(1, 10**9),
}
"""The parser of each option: files, the shared `Options`, then those of `fit`, then those of `verify` and `list`."""
