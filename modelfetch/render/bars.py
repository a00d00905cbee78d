"""Progress as bars on a terminal: the total, and below it a bar for each larger file. tqdm draws them."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from tqdm import tqdm

from modelfetch.core import events as ev
from modelfetch.render.progress import CLOSED_STREAM, Progress
from modelfetch.render.sentence import WORTH_A_LINE
from modelfetch.render.text import cut, display_width, plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelfetch.render.tracker import Meter

REFRESH = 0.5
"""Seconds between two updates of the numbers."""

MAX_BARS = 6
"""Bars of files that are shown at once; more than `--jobs` large files never run at the same time."""

_MOMENT = 0.5
"""Seconds after which a small file gets a bar, too; most end earlier."""

_COLUMNS, _ROWS = 80, 24
"""The size of a terminal that does not know its own."""

_MIN_LABEL, _MAX_LABEL, _MIN_BAR = 10, 40, 10

if TYPE_CHECKING:
    _Tqdm = tqdm[NoReturn]
else:
    _Tqdm = tqdm  # generic in its type stubs only


def layout(label: str, numbers: str, short_numbers: str, columns: int) -> tuple[str, str, str]:
    """The label, cut to the available width, the numbers, and tqdm's format of the line.

    The label is cut, never the numbers. A narrow terminal has no bar; where the label would be too short to be read, it
    has the short numbers.
    """
    fixed = len(" 100% ")
    with_bar = columns - fixed - len("|| ") - _MIN_BAR - display_width(numbers)
    if with_bar >= _MIN_LABEL:
        width = min(display_width(label), with_bar, _MAX_LABEL)
        return cut(label, width), numbers, "{label} {percentage:3.0f}%|{bar}| {numbers}"
    if columns - fixed - display_width(numbers) < min(display_width(label), _MIN_LABEL):
        numbers = short_numbers
    return cut(label, max(1, columns - fixed - display_width(numbers))), numbers, "{label} {percentage:3.0f}% {numbers}"


class _Line(_Tqdm):
    """One line of the view; what it shows is set as a whole by `update_to`."""

    label = numbers = ""

    @property
    def format_dict(self) -> dict[str, Any]:
        """The values for the format: those of tqdm, and ours."""
        return {**super().format_dict, "label": self.label, "numbers": self.numbers}

    def update_to(self, label: str, meter: Meter, now: float, columns: int) -> None:
        """Show a label and a meter."""
        self.label, self.numbers, self.bar_format = layout(label, meter.numbers(now), meter.short_numbers(now), columns)
        self.ncols = columns
        self.total, self.n = meter.size or max(meter.done, 1), meter.done if meter.size else 0
        self.refresh()


class Bars(Progress):
    """The live view of a terminal. Lines about single events are printed above it."""

    def __init__(
        self, stream: TextIO | None = None, *, verbose: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(stream, verbose=verbose, clock=clock)
        self._lines: list[_Line] = []  # the total, then one for each shown file
        self._shown: list[str] = []  # keys of the files with a line
        self._drawn_for: tuple[int, int] | None = None  # columns and rows of the terminal when they were drawn

    def show(self, event: ev.Event) -> None:
        """Show an event."""
        super().show(event)
        if isinstance(event, ev.TransferStarted | ev.TransferFinished | ev.TransferEnded):
            self._arrange()
        if isinstance(event, ev.TransferStarted):
            self.start_ticking(REFRESH)

    def text(self, event: ev.Event) -> str | None:
        """The line for an event, unless a bar or the table at the end shows the same."""
        is_shown_elsewhere = isinstance(event, ev.Placed) or (
            isinstance(event, ev.TransferStarted) and not event.offset
        )
        return None if is_shown_elsewhere and not self._verbose else super().text(event)

    def write(self, line: str) -> None:
        """Print a line above the bars."""
        if self._follow_resize():
            self._arrange()
        with CLOSED_STREAM:
            tqdm.write(plain(line), file=self._stream)
            self._to_first_column()

    def tick(self) -> None:
        """Update the numbers."""
        with self._lock:
            self._arrange()

    def close(self) -> None:
        """Remove the bars."""
        super().close()
        with self._lock:
            shown = bool(self._lines)
            self._follow_resize()
            self._have_lines(0)
            if shown:
                with CLOSED_STREAM:
                    self._stream.write("\x1b[J")  # the echo of Ctrl-C

    def _arrange(self) -> None:
        """Add lines for new files, remove those of finished ones, and update all numbers."""
        now, running = self._clock(), self.tracker.running
        shown = [key for key in self._shown if key in running]
        shown += [key for key in running if key not in shown and self._is_worth_a_bar(key, now)]
        self._shown = shown[:MAX_BARS]
        total = self.tracker.total
        if total is None or not (self._shown or self._lines) or self._stop.is_set():
            return
        self._follow_resize()
        self._have_lines(1 + len(self._shown))
        columns, _ = self._size()
        with CLOSED_STREAM:
            self._lines[0].update_to(self.tracker.headline(), total, now, columns)
            for line, key in zip(self._lines[1:], self._shown, strict=True):
                line.update_to(plain(running[key].label), running[key].meter, now, columns)
            self._to_first_column()

    def _is_worth_a_bar(self, key: str, now: float) -> bool:
        meter = self.tracker.running[key].meter
        return meter.size is None or meter.size >= WORTH_A_LINE or now - meter.started >= _MOMENT

    def _to_first_column(self) -> None:
        """Leave the cursor where it stays when the terminal gets another width and folds its lines again."""
        if self._lines:
            self._stream.write("\r")
            self._stream.flush()

    def _follow_resize(self) -> bool:
        """Erase the lines if the terminal's size has changed: from the first one, where the cursor is, to the end.

        tqdm fills each line with blanks up to its last length, which may be more than there is room for now. Returns
        whether lines were erased.
        """
        size, before = self._size(), self._drawn_for
        self._drawn_for = size
        if before in (None, size) or not self._lines:
            return False
        with CLOSED_STREAM:
            self._stream.write("\r\x1b[J")
            for line in self._lines:
                line.sp = tqdm.status_printer(self._stream)
                line.nrows = size[1]
        return True

    def _have_lines(self, count: int) -> None:
        """Set the number of lines. They are added and removed at the bottom, so no blank row is left between them."""
        with CLOSED_STREAM:
            while len(self._lines) > count:
                self._lines.pop().close()
                self._stream.write("\r")  # tqdm leaves the cursor where its blanks ended
            while len(self._lines) < count:
                self._lines.append(self._new_line())

    def _new_line(self) -> _Line:
        columns, rows = self._size()
        return _Line(
            total=1,
            bar_format="{label}",
            file=self._stream,
            leave=False,
            position=len(self._lines),
            ncols=columns,
            nrows=rows,
        )

    def _size(self) -> tuple[int, int]:
        """Columns and rows for the bars.

        The terminal's echo of Ctrl-C has room behind a bar: if it wrapped, the wrong lines would be cleared.
        """
        with contextlib.suppress(OSError, ValueError):
            columns, rows = os.get_terminal_size(self._stream.fileno())
            if columns and rows:
                return max(columns - len("^C"), 1), rows
        return _COLUMNS, _ROWS
