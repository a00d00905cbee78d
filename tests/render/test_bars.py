"""The live view, on pseudo-terminals of several widths."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import termios
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from modelfetch.core.events import (
    Notice,
    Planned,
    TransferEnded,
    TransferFinished,
    TransferProgress,
    TransferStarted,
)
from modelfetch.render.bars import Bars, layout
from modelfetch.render.text import cut, display_width
from tests.cases import each

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 2**20
NUMBERS = "500.0 MiB of 1000.0 MiB  88.0 MiB/s  ETA 50s"
SHORT_NUMBERS = "500.0/1000.0 MiB 88.0 MiB/s ETA 50s"


def start(key: str = "k", label: str = "base: x.safetensors", size: int = 1000 * MIB) -> TransferStarted:
    return TransferStarted(key=key, label=label, size=size, offset=0, source="hf://a/b")


class Screen:
    """A pseudo-terminal that keeps what was written to it, and the rows that a person would see."""

    def __init__(self, columns: int, rows: int = 24) -> None:
        self._read, write = pty.openpty()
        self.stream = os.fdopen(write, "w")
        self.resize(columns, rows)
        self._bytes = bytearray()
        self._marks = 0
        self._arrived = threading.Condition()
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        while True:
            try:
                data = os.read(self._read, 65536)
            except OSError:
                return
            if not data:
                return
            with self._arrived:
                self._bytes += data
                self._arrived.notify_all()

    @property
    def text(self) -> str:
        """All that was written so far: a mark that is written now has come out at the other end."""
        os.write(self.stream.fileno(), b"\0")
        self._marks += 1
        with self._arrived:
            assert self._arrived.wait_for(lambda: self._bytes.count(b"\0") >= self._marks, timeout=10)
            return self._bytes.replace(b"\0", b"").decode()

    def rows(self) -> list[str]:
        """The content of the screen: newline, carriage return and cursor-up are all that tqdm uses."""
        lines: list[list[str]] = [[]]
        row = column = at = 0
        text = self.text
        while at < len(text):
            if text.startswith("\x1b[A", at):
                row, at = max(0, row - 1), at + 3
                continue
            character = text[at]
            at += 1
            if character == "\n":
                row += 1
                lines += [[] for _ in range(row + 1 - len(lines))]
            elif character == "\r":
                column = 0
            else:
                cells = [character, *([""] if display_width(character) == 2 else [])]
                lines[row] += [" "] * (column - len(lines[row]))
                lines[row][column : column + len(cells)] = cells
                column += len(cells)
        return ["".join(line).rstrip() for line in lines]

    def resize(self, columns: int, rows: int = 24) -> None:
        fcntl.ioctl(self.stream.fileno(), termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def close(self) -> None:
        self.stream.close()
        self._thread.join(timeout=5)
        os.close(self._read)


@contextmanager
def screen(columns: int) -> Iterator[Screen]:
    view = Screen(columns)
    try:
        yield view
    finally:
        view.close()


@each("columns", [50, 80, 120])
@each("label", ["a" * 60, "模型" * 30, "short"])
def test_long_labels_are_truncated_but_numbers_are_not(columns: int, label: str) -> None:
    shown, numbers, form = layout(label, NUMBERS, SHORT_NUMBERS, columns)
    assert "{numbers}" in form
    assert numbers == (SHORT_NUMBERS if columns == 50 else NUMBERS)
    assert display_width(shown) + len(" 100% ") + len(numbers) <= columns
    assert len(shown) == 5 if label == "short" else display_width(shown) > 6


@each("columns", [50, 60, 80, 120])
def test_a_line_fits_into_the_terminal_with_the_echo_of_ctrl_c(columns: int) -> None:
    with screen(columns) as view:
        bars = Bars(view.stream)
        bars(Planned(artifacts=2, bytes=2000 * MIB, present=0))
        bars(start(label="模型" * 30))
        bars(TransferProgress(key="k", done=500 * MIB))
        bars.tick()
        rows = [row for row in view.rows() if "%" in row]
        bars.close()
    assert len(rows) == 2
    assert all(display_width(row) <= columns - len("^C") for row in rows)
    assert "0/2 files" in rows[0]
    assert "25%" in rows[0]
    assert "50%" in rows[1]
    assert ("500.0 MiB of 1000.0 MiB" if columns > 60 else "500.0/1000.0 MiB") in rows[1]


def test_a_file_that_ends_leaves_no_blank_row_between_the_others() -> None:
    with screen(100) as view:
        bars = Bars(view.stream)
        bars(Planned(artifacts=3, bytes=3000 * MIB, present=0))
        for key in "abc":
            bars(start(key, f"file {key}"))
        bars(TransferEnded(key="a", label="file a"))
        bars.tick()
        rows = view.rows()
        bars.close()
    first = next(i for i, row in enumerate(rows) if "%" in row)
    assert [row.split("  ")[0].split(" 0%")[0].strip() for row in rows[first : first + 3]] == [
        "0/3 files",
        "file b",
        "file c",
    ]


@each("then", ["tick", "write", "close"])
def test_a_terminal_that_becomes_narrower_is_cleared_from_the_first_bar_on(then: str) -> None:
    with screen(120) as view:
        bars = Bars(view.stream)
        bars(start(label="a" * 60))
        bars(start("other"))
        bars.tick()
        drawn = view.text
        view.resize(60)
        bars.write("a line") if then == "write" else getattr(bars, then)()
        bars.close()
        after = view.text[len(drawn) :]
    # The cursor waits in the first column of the first bar, which stays its place when the terminal folds the lines.
    assert drawn.endswith("\r")
    assert after.startswith("\r\x1b[J")
    rows = re.split(r"[\r\n]|\x1b\[[AJ]", after)
    assert max(map(display_width, rows)) <= 58


def test_bars_are_cleared_at_the_end() -> None:
    with screen(80) as view:
        bars = Bars(view.stream)
        bars(start())
        bars(Notice(level="warning", message="look"))
        bars(
            TransferFinished(
                key="k", label="x", size=1000 * MIB, fetched=1000 * MIB, seconds=10.0, digest="sha256:" + "a" * 64
            )
        )
        bars.close()
        rows = [row for row in view.rows() if row]
    assert rows[0] == "warning: look"
    assert rows[1].startswith("x: verified")
    assert len(rows) == 2


def test_small_files_have_no_bar() -> None:
    out = io.StringIO()
    bars = Bars(out)
    bars(start(size=MIB))
    bars(TransferEnded(key="k", label="small"))
    bars.close()
    assert out.getvalue() == ""


def test_a_small_file_that_takes_long_has_a_bar() -> None:
    with screen(80) as view:
        bars = Bars(view.stream)
        bars(start(label="small", size=MIB))
        deadline = time.monotonic() + 10
        while "small" not in view.text and time.monotonic() < deadline:
            time.sleep(0.05)
        bars.close()
        assert "small" in view.text


def test_bars_are_shown_on_a_terminal_of_unknown_size() -> None:
    with screen(0) as view:
        bars = Bars(view.stream)
        bars(start())
        bars.tick()
        assert "0%|" in view.text
        bars.close()


@each(("text", "columns", "shown"), [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("模型文件", 5, "模型…")])
def test_a_text_is_cut_to_columns(text: str, columns: int, shown: str) -> None:
    assert cut(text, columns) == shown
