"""Errors for system limits on threads or memory; they name the limits."""

from __future__ import annotations

import errno
import resource
from pathlib import Path

from modelfetch.core.units import format_size
from modelfetch.errors import RetryLaterError

_CGROUP = Path("/sys/fs/cgroup")


def limit_error(error: BaseException) -> RetryLaterError | None:
    """Return the typed error for a failure caused by a limit on threads or memory; None for any other."""
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return _error("no further thread can be started", "pids.max", ("NPROC", "AS"), "allow it more processes")
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return _error("there is not enough memory", "memory.max", ("AS", "DATA"), "allow it more memory")
    return None


def _error(what: str, cgroup: str, limits: tuple[str, ...], hint: str) -> RetryLaterError:
    known = [*_cgroup_limit(cgroup), *(text for name in limits for text in _process_limit(name))]
    named = f" ({', '.join(known)})" if known else ""
    return RetryLaterError(f"{what}{named}", code="no-resources", hint=f"{hint}, or try lower --jobs and --connections")


def _cgroup_limit(name: str) -> list[str]:
    try:
        value = (_CGROUP / name).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return []
    return [f"the container's {name} is {value}"] if value.isdigit() else []


def _process_limit(name: str) -> list[str]:
    soft, _ = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
    if soft == resource.RLIM_INFINITY:
        return []
    return [f"RLIMIT_{name} is {soft if name == 'NPROC' else format_size(soft)}"]
