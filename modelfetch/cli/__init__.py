"""The command line: click wiring, environment, rendering, exit codes."""

from __future__ import annotations

import io
import os
import sys

TYPE_CHECKING = False  # type checkers know this name; importing typing would slow down a no-op
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from _typeshed import WriteableBuffer as Buffer


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
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.open(os.devnull, os.O_WRONLY), "w", closefd=False)  # noqa: SIM115
        setattr(sys, name, _waiting(stream))


class _WaitingFile(io.FileIO):
    """A stream that waits while a non-blocking pipe or terminal is full; Python would drop what does not fit.

    The program that started this one, or another one on the same terminal, may make it non-blocking at any time.
    """

    def write(self, data: Buffer, /) -> int:
        """Write data."""
        while (written := super().write(data)) is None:
            from select import select  # only here, to keep the start short

            select((), (self,), ())
        return written


def _waiting(stream: TextIO) -> TextIO:
    """The stream with `_WaitingFile` below it; what its encoding lacks is escaped, since a name must not crash it."""
    return io.TextIOWrapper(
        io.BufferedWriter(_WaitingFile(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream is sys.stderr or stream.isatty(),
    )
