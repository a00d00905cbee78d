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
    code = _finish_streams(code)
    if code in (130, 143):
        # A signal ended the work. Threads that still wait for a server must not keep the process alive:
        # what they fetched is in the journal already.
        os._exit(code)
    sys.exit(code)


def _finish_streams(code: int) -> int:
    """Flush both streams, so that Python can't fail at it when it exits; returns the exit code.

    A reader that has gone away is no error, and neither is a stderr that can't be written. Data that could not be
    written to stdout is: 74.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            if stream is sys.stdout and not isinstance(error, BrokenPipeError) and code == 0:
                code = 74
            try:  # noqa: SIM105 - contextlib would slow down every start
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            except (OSError, ValueError):
                pass
    return code


def _prepare() -> None:
    """Handle signals from the start, and streams that are closed or can't encode every name."""
    from _signal import SIGINT, SIGTERM, signal  # type: ignore[import-not-found]  # built in, so it costs no start-up

    for number, code in ((SIGINT, 130), (SIGTERM, 143)):
        signal(number, lambda *_, code=code: os._exit(code))  # nothing has begun; a command that works sets its own
    # A descriptor that was closed would go to the next file that is opened, and a message then into that file.
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - pathlib is what a no-op can't afford
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - see above
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a name must not end in a bug
