"""Runs modelfetch in a process that suspends itself (SIGSTOP) right after its n-th change of the file system."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests import interpreter
from tests.placement.crashes import CHANGING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@contextlib.contextmanager
def suspended_after(changes: int, words: Sequence[str]) -> Iterator[interpreter.Process]:
    """Run a command until it has suspended itself or ended; at the end of the block, it is resumed."""
    with interpreter.Process("-m", "tests.care.suspending", str(changes), *words) as process:
        while process.poll() is None and not is_suspended(process.pid):
            time.sleep(0.005)
        yield process
        process.send_signal(signal.SIGCONT)
        process.wait()


def is_suspended(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def age_locks(root: Path) -> None:
    """Let the last heartbeat of every owner be long ago, as it is after a minute of suspension."""
    then = time.time() - 60
    for path in (root / ".modelfetch" / "locks").glob("*.lock"):
        os.utime(path, (then, then))


def _main(changes: str, *words: str) -> int:
    from modelfetch.cli.app import run
    from modelfetch.core import directories

    left = int(changes)

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            result = call(*arguments, **options)
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGSTOP)
                time.sleep(0.05)  # the thread that calls it goes on for an instant
            return result

        return wrapped

    for name in CHANGING:
        setattr(os, name, counted(getattr(os, name)))
    vars(directories)["_renameat2"] = counted(directories._renameat2)
    return run(words)


if __name__ == "__main__":
    code = _main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)
