"""The command line: click wiring, environment, rendering, exit codes."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # type checkers know this name; importing typing would slow down a no-op
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
        try:
            from modelfetch.cli.app import run
        except MemoryError:
            sys.stderr.write("error: there is not enough memory to start\nhint: allow it more memory (`ulimit -v`)\n")
            sys.exit(75)
        code = run(words)
    code = _finish_streams(code)
    if code in (130, 143):
        # A signal ended the work. Threads that are still waiting for a server must not keep the process alive;
        # what they fetched is already recorded in the journal.
        os._exit(code)
    sys.exit(code)


def _finish_streams(code: int) -> int:
    """Flush both streams, so that Python does not fail to do it at exit; returns the exit code.

    A closed pipe is not an error, and neither is an unwritable stderr. If data could not be written to stdout, the
    code is 74.
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
    """Set up signal handling from the start, and handle streams that are closed or can't encode every name."""
    from _signal import SIGINT, SIGTERM, signal  # type: ignore[import-not-found]  # built in, so it costs no start-up

    for number, code in ((SIGINT, 130), (SIGTERM, 143)):
        signal(number, lambda *_, code=code: os._exit(code))  # nothing has started yet; commands set their own
    # The next file that is opened would get a closed stream's descriptor, and messages would be written into it. In
    # this order each gets its own.
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115 - importing pathlib would slow down a no-op
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - see above
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - see above
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # an unencodable name must not crash
