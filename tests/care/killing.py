"""Runs modelfetch in forked processes that are killed (SIGKILL), or lose their disk, at a chosen moment of their work.

`python -m tests.care.killing` imports the program once and then forks for every request, so that a kill costs
milliseconds. A moment is the n-th call that changes the file system, counted by an audit hook, or a time.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

_CHANGES = {"os.rename", "os.remove", "os.link", "os.symlink", "os.mkdir", "os.rmdir", "os.chmod", "os.utime"}
_READS = {"open", "os.listdir", "os.scandir"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Victims:
    """Starts processes that run modelfetch, and kills them."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.care.killing"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._server:
            if self._server.stdin is not None:
                self._server.stdin.close()

    def count_changes(self, words: Sequence[str]) -> int:
        """Run a command to its end, and return how often it called the file system to change something."""
        return int(self._ask(words=words)["changes"])

    def kill_at_change(self, words: Sequence[str], number: int) -> bool:
        """Run a command and kill it right before its n-th change; returns whether it got that far."""
        return bool(self._ask(words=words, change=number)["killed"])

    def drop_at_change(self, words: Sequence[str], number: int, error: int, disk: Path) -> int:
        """Run a command; from its n-th change on, every call on a folder fails with ``error``. Returns the exit code.

        Calls that audit hooks see fail: open, listdir, rename and the like, by an absolute path or a descriptor.
        """
        return int(self._ask(words=words, change=number, error=error, disk=str(disk))["code"])

    def kill_after(self, words: Sequence[str], seconds: float) -> bool:
        """Run a command and kill it after some time; returns whether it was still running."""
        return bool(self._ask(words=words, seconds=seconds)["killed"])

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps({**request, "cwd": str(Path.cwd()), "environ": dict(os.environ)}) + "\n")
        self._server.stdin.flush()
        return dict(json.loads(self._server.stdout.readline()))


def _serve() -> None:
    # Imported before the fork, so that each victim starts with its work.
    from modelfetch.cli.app import run

    for line in sys.stdin:
        request = json.loads(line)
        receiver, sender = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(receiver)
            os.environ.clear()
            os.environ.update(request["environ"])
            os.chdir(request["cwd"])
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            counter = _Counter(request.get("change"), request.get("error"), request.get("disk", ""))
            sys.addaudithook(counter.hear)
            code = -1
            with contextlib.suppress(BaseException):
                code = run(list(request["words"]))
            os.write(sender, b"%d %d" % (counter.changes, code))
            os._exit(0)
        os.close(sender)
        if (seconds := request.get("seconds")) is not None:
            timer = threading.Timer(seconds, os.kill, (pid, signal.SIGKILL))
            timer.start()
        with os.fdopen(receiver, "rb") as pipe:
            changes, code = map(int, pipe.read().split() or (0, -1))
        if seconds is not None:
            timer.cancel()
            timer.join()
        killed = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        sys.stdout.write(json.dumps({"killed": killed, "changes": changes, "code": code}) + "\n")
        sys.stdout.flush()


class _Counter:
    """An audit hook that counts changes; at the chosen one it kills its own process, or the disk starts to fail."""

    def __init__(self, last: int | None, error: int | None, disk: str) -> None:
        self._last = last
        self._error = error
        self._disk = disk
        self.changes = 0

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES):
            self.changes += 1
            if self._error is None and self.changes == self._last:
                os.kill(os.getpid(), signal.SIGKILL)
        is_lost = self._error is not None and self._last is not None and self.changes >= self._last
        if is_lost and (event in _CHANGES or event in _READS) and self._is_on_disk(arguments):
            raise OSError(self._error, os.strerror(self._error or 0), str(arguments[0]))

    def _is_on_disk(self, arguments: tuple[Any, ...]) -> bool:
        path = arguments[0] if arguments else None
        return isinstance(path, str) and (not path.startswith("/") or path.startswith(self._disk))


if __name__ == "__main__":
    _serve()
