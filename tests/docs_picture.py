"""Draw docs/sync.svg: a real `modelfetch sync --tier demo` on a terminal, as an animated picture.

Usage: python tests/docs_picture.py [FILE]. Needs no network: the demo's hub runs on this machine.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from html import escape
from pathlib import Path

COLUMNS, ROWS = 116, 23
FRAME_EVERY = 0.4
"""Seconds between two frames of the picture."""

_LINE, _CHARACTER, _MARGIN = 18, 8.4, 16
_LAST_FRAME = 4.0
"""Seconds that the last frame stays."""


def record(command: list[str], folder: Path) -> list[list[str]]:
    """Run a command on a pseudo-terminal and return its screen at intervals, the last one at its end."""
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        command, cwd=folder, stdin=terminal, stdout=terminal, stderr=terminal, env={**os.environ, "TERM": "xterm"}
    )
    os.close(terminal)
    output, frames, due = b"", [], time.monotonic()
    while True:
        if select.select([master], [], [], 0.05)[0]:
            try:
                output += os.read(master, 65536)
            except OSError:  # the other side was closed
                break
        if time.monotonic() >= due:
            frames.append(screen(output.decode(errors="replace")))
            due += FRAME_EVERY
    os.close(master)
    if process.wait():
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    frames.append(screen(output.decode(errors="replace")))
    return [frame for at, frame in enumerate(frames) if at == 0 or frame != frames[at - 1]]


def screen(text: str) -> list[str]:
    """The last rows that a terminal shows after ``text``; the moves that the bars use are all that is known."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[AJ]|[\r\n]|[^\x1b\r\n]+", text):
        if part == "\x1b[A":
            row = max(0, row - 1)
        elif part == "\x1b[J":
            lines[row:] = [lines[row][:column]]
        elif part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part == "\r":
            column = 0
        else:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + part + line[column + len(part) :]
            column += len(part)
    rows = [line[at : at + COLUMNS] for line in map(str.rstrip, lines) for at in range(0, len(line) or 1, COLUMNS)]
    return rows[-ROWS:]


def svg(title: str, frames: list[list[str]]) -> str:
    """The picture; each frame is shown for `FRAME_EVERY`, in a loop."""
    width, height = round(COLUMNS * _CHARACTER + 2 * _MARGIN), (ROWS + 2) * _LINE + 2 * _MARGIN
    total = FRAME_EVERY * (len(frames) - 1) + _LAST_FRAME
    groups, styles = [], []
    for at, frame in enumerate(frames):
        begin, last = FRAME_EVERY * at / total, at == len(frames) - 1
        end = 1.0 if last else FRAME_EVERY * (at + 1) / total
        hidden_before = f"0%,{100 * begin - 0.01:.2f}% {{opacity:0}}" if at else ""
        hidden_after = "" if last else f"{100 * end:.2f}%,100% {{opacity:0}}"
        shown = f"{100 * begin:.2f}%,{100 * end - (0 if last else 0.01):.2f}% {{opacity:1}}"
        styles.append(f"@keyframes f{at} {{{hidden_before} {shown} {hidden_after}}}")
        styles.append(f"#f{at} {{animation: f{at} {total:.1f}s infinite; opacity: {int(last)}}}")
        rows = "".join(
            f'<text x="{_MARGIN}" y="{_MARGIN + (row + 3) * _LINE}" xml:space="preserve">{escape(line)}</text>'
            for row, line in enumerate(frame)
            if line
        )
        groups.append(f'<g id="f{at}">{rows}</g>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
        f' aria-label="{escape(title)}">'
        "<style>text {font: 14px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; fill: #d4d4d4} "
        f".p {{fill: #7fd88f}} {' '.join(styles)}</style>"
        f'<rect width="{width}" height="{height}" rx="8" fill="#1e1e1e"/>'
        f'<text class="p" x="{_MARGIN}" y="{_MARGIN + _LINE}">$ {escape(title)}</text>{"".join(groups)}</svg>\n'
    )


def main() -> None:
    """Record and write the picture."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs" / "sync.svg")
    program = str(Path(sys.executable).with_name("modelfetch"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frames = record([program, "sync", "--tier", "demo", "--limit-rate", "8MB"], folder)
        target.write_text(svg("modelfetch sync --tier demo", frames), encoding="utf-8")


if __name__ == "__main__":
    main()
