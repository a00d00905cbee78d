"""The command line: click wiring, environment, rendering, exit codes."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # the name is what type checkers go by; importing typing is what a no-op can't afford
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """The console script: run the command line and exit with its code."""
    from modelfetch.cli.fastpath import attempt

    words = sys.argv[1:] if argv is None else argv
    code = attempt(words)
    if code is None:
        from modelfetch.cli.app import run

        code = run(words)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain about it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if code in (130, 143):
        # A signal ended the work. Threads that still wait for a server must not keep the process alive:
        # what they fetched is in the journal already.
        os._exit(code)
    sys.exit(code)
