"""Recognise pickles by their opcodes, without running them.

Source: Python's pickletools (opcodes, protocols 0 to 5).
"""

from __future__ import annotations

import pickletools
import re
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelfetch.formats.range_reader import ReadAt

_PROTOCOLS = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
WINDOW = 64 * 1024  # bytes of a pickle that are read at once


class PickleVerdict(Enum):
    """Whether bytes are a pickle; ``CUT_OFF``: they are one as far as they go."""

    YES = "yes"
    NO = "no"
    CUT_OFF = "cut off"


def reader_of(data: bytes) -> ReadAt:
    """Return what reads from bytes as from a file."""
    return lambda at, count: data[at : at + count]


def read_pickle(data: bytes) -> PickleVerdict:
    """Whether bytes are the beginning of a pickle."""
    return OpcodeReader(len(data), reader_of(data), WINDOW).run()


_OPCODES = {ord(op.code): op for op in pickletools.opcodes}
_IMPORTS = ("GLOBAL", "INST", "STACK_GLOBAL")
_USES = ("INST", "OBJ", "REDUCE", "BUILD", "NEWOBJ", "NEWOBJ_EX", "STOP")
"""The opcodes that use an import; other bytes may look like two names by chance."""
_STRINGS = re.compile(r"(?:SHORT_)?BINSTRING|STRING|(?:SHORT_BIN|BIN)?UNICODE8?|(?:LONG_BIN|BIN)?GET|DUP")
_TAKES_TOP = ("PUT", "BINPUT", "LONG_BINPUT")  # they look at the stack's top and leave it there
_LINES = {
    **dict.fromkeys(("decimalnl_short", "decimalnl_long"), re.compile(rb"[ \t\r\f\v]*+[-+]?[0-9]\w*+[ \t\r\f\v]*+\n")),
    "floatnl": re.compile(rb"[ \t\r\f\v]*+(?:[-+0-9.eE_]+|[-+]?(?:inf|infinity|nan))[ \t\r\f\v]*+\n", re.IGNORECASE),
    "stringnl": re.compile(rb"(?:'[^\n]*'|\"[^\n]*\")\n"),
    "unicodestringnl": re.compile(rb"[^\n]*+\n"),
    "stringnl_noescape": re.compile(rb"[^\n]*+\n"),
    "stringnl_noescape_pair": re.compile(rb"[A-Za-z_][\w.]*+\n[A-Za-z_][\w.]*+\n"),
}
_LENGTHS = {-2: 1, -3: 4, -4: 4, -5: 8}  # bytes of the length that an argument begins with (source: pickletools)
_USUAL_LINE, _LONG_LINE = 512, 64 * 1024  # a pair of names, a text; longer ones are searched for their end only
_PIECE = 2**20  # bytes that are read at once to find the end of a line
_MAX_OPCODES = 100_000  # no other file looks like a pickle up to there
_FEW = 4  # opcodes that other bytes may look like by chance


class OpcodeReader:
    """Follows the opcodes of a file, with the depth of the stack, without running or keeping anything.

    From protocol 2 on, a pickle begins with an opcode for its version. In 0 and 1 any opcode may come first, and a few
    bytes of another file may look like opcodes by chance. So an import that is used must be reached, or the end of a
    pickle that is too long for chance.
    """

    def __init__(self, size: int, read_at: ReadAt, window: int) -> None:
        self._size = size
        self._read_at = read_at
        self._usual = window
        self._window, self._start = b"", 0
        self._at = self._depth = self._strings = 0
        self.count = 0
        self._marks: list[int] = []

    def run(self) -> PickleVerdict:
        """Follow the opcodes to a verdict; ``count`` then has their number."""
        if self._peek(2) in _PROTOCOLS:
            return PickleVerdict.YES
        has_import = False
        for count in range(_MAX_OPCODES):
            self.count = count
            cut_off = PickleVerdict.CUT_OFF if count >= _FEW else PickleVerdict.NO
            code = self._peek(1) if self._at < self._size else b""
            if not code:
                return cut_off
            op = _OPCODES.get(code[0])
            length = self._argument(op) if op is not None and self._apply(op) else None
            if op is None or length is None:
                return PickleVerdict.NO
            self._at += 1 + length
            if self._at > self._size:
                return cut_off
            has_import = has_import or (op.name in _IMPORTS and (op.name != "STACK_GLOBAL" or self._strings >= 2))
            if has_import and op.name in _USES:
                return PickleVerdict.YES
            if op.name == "STOP" and (count >= 2 * _FEW or (count and self._at == self._size)):
                return PickleVerdict.YES
        return PickleVerdict.YES

    def _peek(self, count: int) -> bytes:
        offset = self._at - self._start
        if not 0 <= offset <= offset + count <= len(self._window):
            self._window, self._start = self._read_at(self._at, max(count, self._usual)), self._at
            offset = 0
        return self._window[offset : offset + count]

    def _apply(self, op: pickletools.OpcodeInfo) -> bool:
        """Apply an opcode's effect to the depth of the stack; returns whether that is possible."""
        takes = list(op.stack_before)
        if pickletools.markobject in takes:
            if not self._marks:
                return False
            self._depth = self._marks.pop()
            takes = takes[: takes.index(pickletools.markobject)]
        elif op.name == "POP" and self._marks and self._marks[-1] == self._depth:
            self._marks.pop()
            return True
        if self._depth < len(takes) or (op.name in _TAKES_TOP and not self._depth):
            return False
        self._strings += _STRINGS.fullmatch(op.name) is not None
        if op.name == "MARK":
            self._marks.append(self._depth)
        elif op.name == "STOP":
            self._depth, self._marks = 0, []
        else:
            self._depth += len(op.stack_after) - len(takes)
        return True

    def _end_of_line(self, at: int) -> int:
        """The position of the next line feed, or the file's size."""
        while at < self._size:
            piece = self._read_at(at, _PIECE)
            if not piece or (found := piece.find(b"\n")) >= 0:
                return at + found if piece else self._size
            at += len(piece)
        return self._size

    def _argument(self, op: pickletools.OpcodeInfo) -> int | None:
        """The length of an opcode's argument in bytes; None if it can't be one."""
        if op.arg is None:
            return 0
        if (pattern := _LINES.get(op.arg.name)) is not None:
            text = self._peek(_USUAL_LINE)
            if b"\n" not in text:
                text = self._peek(_LONG_LINE)
            if (line := pattern.match(text, 1)) is not None:
                return line.end() - 1
            if text.count(b"\n", 1) < (2 if "pair" in op.arg.name else 1):
                if self._at + len(text) == self._size:
                    return self._size  # cut off: beyond the end
                if "pair" not in op.arg.name:  # no module has so long a name
                    return self._end_of_line(self._at + len(text)) - self._at
            return None
        if op.arg.n >= 0:
            return op.arg.n
        width = _LENGTHS[op.arg.n]
        return width + int.from_bytes(self._peek(1 + width)[1:], "little")
