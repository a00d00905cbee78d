"""Runs modelfetch in processes that are killed (SIGKILL), or lose their disk, at a chosen moment of their work.

A moment is the n-th call that changes the file system, counted by an audit hook.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from tests import interpreter

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
    from pathlib import Path

_CHANGES = {"os.rename", "os.remove", "os.link", "os.symlink", "os.mkdir", "os.rmdir", "os.chmod", "os.utime"}
_READS = {"open", "os.listdir", "os.scandir"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def count_changes(words: Sequence[str]) -> int:
    """Run a command to its end, and return how often it called the file system to change something."""
    return int(_run(words).stdout.splitlines()[-1])


def kill_at_change(words: Sequence[str], number: int) -> bool:
    """Run a command and kill it right before its n-th change; returns whether it got that far."""
    return _run(words, number).returncode == -signal.SIGKILL


def drop_at_change(words: Sequence[str], number: int, error: int, disk: Path) -> int:
    """Run a command; from its n-th change on, every call on a folder fails with ``error``. Returns the exit code.

    Calls that audit hooks see fail: open, listdir, rename and the like, by an absolute path or a descriptor.
    """
    return _run(words, number, error, str(disk)).returncode


def _run(words: Sequence[str], number: int = 0, error: int = 0, disk: str = "") -> subprocess.CompletedProcess[str]:
    return interpreter.run("-m", "tests.care.killing", str(number), str(error), disk, *words)


class _Counter:
    """An audit hook that counts changes; at the chosen one it kills its own process, or the disk starts to fail."""

    def __init__(self, last: int, error: int, disk: str) -> None:
        self._last = last
        self._error = error
        self._disk = disk
        self.changes = 0

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES):
            self.changes += 1
            if not self._error and self.changes == self._last:
                os.kill(os.getpid(), signal.SIGKILL)
        is_lost = self._error and self.changes >= self._last
        if is_lost and (event in _CHANGES or event in _READS) and self._is_on_disk(arguments):
            raise OSError(self._error, os.strerror(self._error), str(arguments[0]))

    def _is_on_disk(self, arguments: tuple[Any, ...]) -> bool:
        path = arguments[0] if arguments else None
        return isinstance(path, str) and (not path.startswith("/") or path.startswith(self._disk))


def _main(number: str, error: str, disk: str, *words: str) -> int:
    from modelfetch.cli.app import run

    counter = _Counter(int(number), int(error), disk)
    sys.addaudithook(counter.hear)
    code = run(words)
    sys.stdout.write(f"\n{counter.changes}\n")
    sys.stdout.flush()
    return code


if __name__ == "__main__":
    code = _main(*sys.argv[1:])
    os._exit(code)  # what Python does at its end is not the command's work
