"""Output: data on stdout, everything else on stderr; either may be closed."""

from __future__ import annotations

import contextlib
import os
import sys

from modelfetch.core.os_errors import translate


def put(text: str, *, end: str = "\n") -> None:
    """Print data on stdout. A closed pipe is not an error: its reader had enough.

    Raises:
        DiskError: It can't be written, as to a file on a full disk.
    """
    try:
        sys.stdout.write(text + end)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_buffer()
    except OSError as error:
        _discard_buffer()
        raise translate(error, "stdout", doing="can't write to") from error


def note(text: str) -> None:
    """Print a line on stderr; nothing happens if it is closed."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def _discard_buffer() -> None:
    """Discard what is left in the buffer, so that flushing it at exit does not fail."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
