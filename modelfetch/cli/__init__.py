"""The command line: click wiring, environment, rendering, exit codes."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # the name is what type checkers go by; importing typing is what a no-op can't afford
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """The console script: run the command line and exit with its code."""
    from modelfetch.cli.fastpath.check import attempt

    if argv is None:
        _prepare()
    words = sys.argv[1:] if argv is None else argv
    code = attempt(words)
    if code is None:
        from modelfetch.cli.app import run

        code = run(words)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        # Whoever read our output has gone, or the disk is full; Python would complain about it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if code in (130, 143):
        # A signal ended the work. Threads that still wait for a server must not keep the process alive:
        # what they fetched is in the journal already.
        os._exit(code)
    sys.exit(code)


def _prepare() -> None:
    """Answer to signals from the first moment, and stand a stream that is closed or knows no Unicode."""
    from _signal import SIGINT, SIGTERM, signal  # type: ignore[import-not-found]  # the half that costs no start-up

    for number, code in ((SIGINT, 130), (SIGTERM, 143)):
        signal(number, lambda *_, code=code: os._exit(code))  # nothing has begun; a command that works sets its own
    # A descriptor that was closed would go to the next file that is opened, and a message then into that file.
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - pathlib is what a no-op can't afford
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - see above
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a name must not end in a bug
