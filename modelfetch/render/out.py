"""Output: data on stdout, everything else on stderr; either may be closed."""

from __future__ import annotations

import contextlib
import os
import sys

from modelfetch.core.fs import DISK_FULL
from modelfetch.errors import DiskError

_failures: list[DiskError] = []


def put(text: str, *, end: str = "\n") -> None:
    """Print data on stdout. A closed pipe is not an error: its reader had enough.

    Any other failure is kept for `take_failure`, so that the command can still report its own errors.
    """
    try:
        sys.stdout.write(text + end)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_buffer()
    except OSError as error:
        _discard_buffer()
        _failures.append(stdout_error(error))


def take_failure() -> DiskError | None:
    """Return the first failure of `put` since the last call, if any."""
    failure = _failures[0] if _failures else None
    _failures.clear()
    return failure


def stdout_error(error: OSError) -> DiskError:
    """The error for data that can't be written to stdout. Where it leads is known only to the caller."""
    message = f"can't write to stdout: {error.strerror or type(error).__name__}"
    if error.errno in DISK_FULL:
        return DiskError(message, code="no-space", hint="make room where stdout is written to, then run it again")
    return DiskError(message, hint="check where stdout is written to, then run it again")


def note(text: str) -> None:
    """Print a line on stderr; nothing happens if it is closed."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def _discard_buffer() -> None:
    """Discard what is left in the buffer, so that flushing it at exit does not fail."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
