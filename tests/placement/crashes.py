"""A process that dies, or a disk that fails, at a chosen call that changes the file system."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.core import directories

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHANGING = ("mkdir", "link", "symlink", "rename", "replace", "unlink", "rmdir", "write", "pwrite", "fsync", "fchmod")


class Killed(BaseException):
    """Simulates SIGKILL: nothing that the process does afterwards has an effect."""


class Killer:
    """Counts the calls that change the file system; from number ``at`` on, none takes place."""

    def __init__(self, at: int, error: int | None = None) -> None:
        self.at = at
        self.error = error
        self.calls = 0

    @property
    def struck(self) -> bool:
        return self.calls > self.at

    def wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **keys: Any) -> Any:
            if name == "open" and not args[1] & (os.O_CREAT | os.O_TRUNC):
                return call(*args, **keys)
            self.calls += 1
            if self.error is not None:
                if self.calls == self.at + 1:
                    raise OSError(self.error, os.strerror(self.error))
                return call(*args, **keys)
            if self.calls == self.at + 1 and name == "write":
                call(args[0], bytes(args[1])[: len(args[1]) // 2])  # cut off in the middle
            if self.struck:
                raise Killed
            return call(*args, **keys)

        return wrapped


@contextlib.contextmanager
def killed_at(call: int, *, error: int | None = None) -> Iterator[Killer]:
    """Kill what the block does at its ``call``-th change, or let that one call fail with ``error``."""
    killer = Killer(call, error)
    before = _open_files()
    with pytest.MonkeyPatch.context() as patch:
        for name in (*CHANGING, "open"):
            patch.setattr(os, name, killer.wrap(name, getattr(os, name)))
        patch.setattr(directories, "_renameat2", killer.wrap("renameat2", directories._renameat2))
        if error is None:
            with contextlib.suppress(Killed):
                yield killer
            for fd in _open_files() - before:  # the kernel closes what a killed process had open, locks above all
                with contextlib.suppress(OSError):
                    os.close(fd)
        else:
            yield killer


def _open_files() -> set[int]:
    return {int(link.name) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}
