"""Find pickles: files that run code when they are loaded, whatever they are called.

Sources: Python's pickletools (opcodes, protocols 0 to 5) and torch.load, which accepts a zip with a pickle in it,
several pickles one after the other (torch before 1.6), and a tar with pickles (torch before 0.1.10). joblib.load
detects how a pickle was compressed. numpy.load unpickles an array of objects (numpy, ``lib/format.py``).
"""

from __future__ import annotations

import errno
import pickletools
import re
import struct
import sys
import tarfile
import zipfile
import zlib
from enum import Enum
from io import RawIOBase
from typing import TYPE_CHECKING, Any

from modelfetch.errors import NotAModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from modelfetch.formats.range_reader import ReadAt

PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".pkl")
"""Suffixes of files that are pickles by convention."""

_ZIP, _TAR = b"PK\x03\x04", b"ustar"
_TAR_AT = 257
_LZ4 = b"\x04\x22\x4d\x18"
_ZFILE = b"ZF0x"  # a pickle that joblib before 0.10 compressed
_PROTOCOLS = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
_PACKED = 2**20  # bzip2 gives nothing before the end of its first block, up to 900 kB
_XZ_MEMORY = 96 * 2**20  # what xz -9 needs
_XZ_UNREAD = b"\x80\x02"  # in place of what needs more: it counts as a pickle, which others may load
_MEMBER_START = 4096  # bytes of each member of an archive that are looked at
_UNPACKED = 64 * 1024  # bytes of decompressed data that are looked at
_ZIP_END = 22  # bytes: the end of a zip without a comment
_LARGE_END = 56 + 20  # bytes: the record of a large zip and its locator, which stand in front of that
_ZIP_TAIL = _ZIP_END + 20 + 2**16  # bytes: that, the locator before it, and the longest comment
MAX_MEMBERS = 50_000
"""Files of the largest zip or tar that is looked at.

Those of a zip take about 100 MB of memory, and 200 MB once unpacked and placed.
"""
_LARGEST_DIRECTORY = 16 * 2**20  # bytes
_DIRECTORY_ENTRY = b"PK\1\2"
_TAR_HEADERS = 2**20  # bytes of a tar's headers that are read: long names, PAX records and maps of holes take much more
_USUAL_HEADERS = 4096  # bytes that each file of a tar may add to that
_MAX_RECORDS = 1000  # PAX records that apply to all files of a tar; each file gets a copy of them
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The compressions that are read, as ISO/IEC 21320-1 has it: zipfile unpacks 4 KiB of bzip2 to 3.5 GB in one step."""
_TORCH_PICKLE = re.compile(r"(?:[^/]*/)?data\.pkl")
_TORCH_VERSION = re.compile(r"[^/]*/(?:\.data/)?version")
_NUMPY = b"\x93NUMPY"
_NUMPY_HEADER = 128 * 1024  # bytes; one of version 1 has at most 64 KiB
_OBJECTS = re.compile(rb"""['"][<>=|]?O\d*['"]""")  # the type of objects in the header of an array


_DECOMPRESSORS: list[tuple[tuple[bytes, ...], Callable[[], Any]]] = [
    ((b"\x1f\x8b", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"), lambda: zlib.decompressobj(wbits=47))
]
_broken: list[type[Exception]] = [zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error]
_broken += [EOFError, ValueError, RuntimeError, OSError, OverflowError, IndexError]
try:
    import bz2
    import lzma
except ImportError:  # a Python built without them could not load such a pickle either
    pass
else:
    _DECOMPRESSORS.append(((b"BZh",), bz2.BZ2Decompressor))
    _DECOMPRESSORS.append(((b"\xfd7zXZ\0", b"\x5d\0"), lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY)))
    _broken.append(lzma.LZMAError)
BROKEN_ARCHIVE = tuple(_broken)
"""The exceptions of the standard library for damaged archives; OSError also if the disk fails."""


class _TooSlowError(ValueError):
    """An archive takes too long to read."""


def reraise_disk_error(error: Exception) -> None:
    """Raise an error of the disk again; that of damaged data has no number, or is of an impossible position."""
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        raise error


class PickleVerdict(Enum):
    """Whether bytes are a pickle; ``CUT_OFF``: they are one as far as they go."""

    YES = "yes"
    NO = "no"
    CUT_OFF = "cut off"


def is_pickle_name(name: str) -> bool:
    """Whether a file of this name is a pickle by convention."""
    return name.lower().endswith(PICKLE_SUFFIXES)


def pickle_error(what: str, *, uri: str | None = None, hint: str | None = None) -> NotAModelError:
    """Make the error for a pickle that the manifest neither pins nor allows; ``what`` begins its sentence."""
    return NotAModelError(
        f"{what}, which runs code when it is loaded",
        code="pickle-not-allowed",
        hint=hint or "if you trust it, pin its digest (`fetch`: --digest), or set `allow_pickle: true` in its entry",
        uri=uri,
    )


def is_zip(head: bytes) -> bool:
    """Whether a file begins as a zip."""
    return head.startswith(_ZIP)


def is_tar(head: bytes) -> bool:
    """Whether a file begins as a tar."""
    return head[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR


def starts_as_pickle(head: bytes) -> bool:
    """Whether the first bytes of a file show a pickle or a torch archive; `contains_pickle` finds the others."""
    if is_zip(head):
        return any(name in head for name in (b"data.pkl", b".data/", b"/version", b"/byteorder"))
    return head.startswith(_ZFILE) or _is_array_of_objects(head) or read_pickle(head) is PickleVerdict.YES


def _is_array_of_objects(head: bytes) -> bool:
    if not head.startswith(_NUMPY):
        return False
    start, width = (10, 2) if head[6:7] == b"\x01" else (12, 4)
    end = start + int.from_bytes(head[start - width : start], "little")
    return _OBJECTS.search(head, start, end) is not None


def contains_pickle(size: int, read_at: ReadAt) -> bool:
    """Whether a whole file is a pickle, a compressed one, a NumPy array of objects, or a zip or tar that holds one.

    An archive that can't be read counts as one: what loads it may be less strict. A zip may also follow other bytes.

    Args:
        size: Its length in bytes.
        read_at: Reads from it.
    """
    head = read_at(0, 512)
    if head.startswith(_NUMPY):
        return _is_array_of_objects(read_at(0, _NUMPY_HEADER))
    is_archive = is_zip(head) or is_tar(head)
    if has_large_directory(size, read_at):
        return is_archive  # the reader would keep all of it in memory
    if is_archive or zipfile.is_zipfile(_File(size, read_at)):
        file = _File(size, read_at)
        try:
            if any(is_pickle_member(*member) for member in (_tar_members if is_tar(head) else _zip_members)(file)):
                return True
        except _TooSlowError:
            return True
        except BROKEN_ARCHIVE as error:
            reraise_disk_error(error)
            return is_archive
        if is_archive:
            return False
    if head.startswith(_ZFILE) or _continues_as_pickle(decompressed_start(head, lambda: read_at(0, _PACKED))):
        return True
    return _OpcodeReader(size, read_at).run() is PickleVerdict.YES


def is_model_zip(size: int, read_at: ReadAt) -> bool:
    """Whether a zip is one that torch or NumPy writes, by the names of its files; True if it has too many to look at.

    torch.save and TorchScript write ``NAME/data.pkl``; all of torch's archives have ``NAME/version`` or
    ``NAME/.data/version``, with everything in one folder (source: PyTorch, ``caffe2/serialize/inline_container.cc``).
    torch.export of PyTorch 2.1 to 2.6 writes ``serialized_exported_program.json`` at the top. NumPy's ``.npz`` has only
    arrays; kokoro-onnx calls such a file ``voices.bin``.
    """
    if has_large_directory(size, read_at):
        return True
    try:
        with zipfile.ZipFile(_File(size, read_at)) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    except BROKEN_ARCHIVE as error:
        reraise_disk_error(error)
        return False
    tops = {name.partition("/")[0] for name in names}
    return (
        any(_TORCH_PICKLE.fullmatch(name) for name in names)
        or (len(tops) == 1 and any(_TORCH_VERSION.fullmatch(name) for name in names))
        or any(name.startswith("serialized_exported_program.") for name in names)
        or (bool(names) and all(name.endswith(".npy") for name in names))
    )


def is_compressed_archive(read_at: ReadAt) -> bool:
    """Whether a file is a compressed tar or zip, such as a checkpoint of NeMo, whose files are not looked at.

    What LZ4 compressed counts as one: joblib reads it, and Python can't.
    """
    start = start_of_compressed(read_at)
    return is_tar(start) or is_zip(start) or read_at(0, 4) == _LZ4


def start_of_compressed(read_at: ReadAt) -> bytes:
    """Return the first decompressed bytes of a file; empty if it is not compressed."""
    return decompressed_start(read_at(0, 512), lambda: read_at(0, _PACKED))


def is_pickle_member(name: str, start: bytes) -> bool:
    """Whether a file of an archive is a pickle, by its name or its first bytes."""
    if is_pickle_name(name) or starts_as_pickle(start):
        return True
    packed = decompressed_start(start, lambda: start)
    return bool(packed) and _continues_as_pickle(packed)


def _continues_as_pickle(start: bytes) -> bool:
    """Whether decompressed bytes are a pickle as far as they go; more of them would take long to decompress."""
    return starts_as_pickle(start) or read_pickle(start) is PickleVerdict.CUT_OFF


def read_pickle(data: bytes) -> PickleVerdict:
    """Whether bytes are the beginning of a pickle."""
    return _OpcodeReader(len(data), lambda at, count: data[at : at + count]).run()


def decompressed_start(head: bytes, read: Callable[[], bytes]) -> bytes:
    """Return the first bytes of what gzip, zlib, bzip2 or xz compressed; empty for any other file.

    Args:
        head: The file's first bytes.
        read: Returns as many of them as it may take to decompress some.
    """
    make = next((make for magic, make in _DECOMPRESSORS if head.startswith(magic)), None)
    if make is None:
        return b""
    data = read()
    try:
        start: bytes = make().decompress(data, _UNPACKED)
    except BROKEN_ARCHIVE as error:
        return _XZ_UNREAD if "limit" in str(error) else b""
    return start


def has_large_directory(size: int, read_at: ReadAt) -> bool:
    """Whether a zip has too many files to list them all in memory, whatever number of them it declares."""
    return any(
        length > _LARGEST_DIRECTORY
        or read_at(start := max(0, end - length - _LARGE_END), end - start).count(_DIRECTORY_ENTRY) > MAX_MEMBERS
        for end, length in _directories(size, read_at)
    )


def _directories(size: int, read_at: ReadAt) -> Iterator[tuple[int, int]]:
    """Yield the end and length in bytes of all that a reader may take for a zip's directory.

    Source: PKWARE's APPNOTE.TXT, sections 4.3.14 to 4.3.16. Readers look for the record of a large zip at the place
    that its locator names or, as Python does, directly in front of it.
    """
    start = max(0, size - _ZIP_TAIL)
    tail = read_at(start, size - start)
    for at in {len(tail) - _ZIP_END, tail.rfind(b"PK\5\6")}:
        if at < 0 or not tail.startswith(b"PK\5\6", at):
            continue
        found = int.from_bytes(tail[at + 12 : at + 16], "little")
        locator = tail[max(0, at - 20) : at]
        is_large = locator.startswith(b"PK\6\7")
        if found != 0xFFFFFFFF or not is_large:
            yield start + at, found
        if is_large:
            for place in (start + at - _LARGE_END, int.from_bytes(locator[8:16], "little")):
                yield start + at, int.from_bytes(read_at(min(max(0, place), size), 56)[40:48], "little")


def _zip_members(file: _File) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.compress_type not in ZIP_METHODS:
                raise _TooSlowError
            with archive.open(info) as member:
                yield info.filename, member.read(_MEMBER_START)


def _tar_members(file: _File) -> Iterator[tuple[str, bytes]]:
    file.left = _TAR_HEADERS
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for count, info in enumerate(iter(archive.next, None)):
            if count >= MAX_MEMBERS or len(archive.pax_headers) > _MAX_RECORDS or info.issparse():
                raise _TooSlowError
            left = file.left
            member = archive.extractfile(info) if info.isfile() else None
            yield info.name, member.read(_MEMBER_START) if member else b""
            file.left = left + _USUAL_HEADERS
            archive.members.clear()  # type: ignore[attr-defined]  # otherwise it keeps them all


class _File(RawIOBase):
    """A file object for archive readers, over bytes that can be read at any position; ``left``: how many at most."""

    def __init__(self, size: int, read_at: ReadAt) -> None:
        self._size, self._read_at, self._at = size, read_at, 0
        self.left = sys.maxsize

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def read(self, size: int = -1) -> bytes:
        count = max(0, self._size - self._at)
        count = count if size < 0 else min(size, count)
        self.left -= count
        if self.left < 0:
            raise ValueError("the archive's headers are too long")
        data = self._read_at(self._at, count)
        self._at += len(data)
        return data


_OPCODES = {ord(op.code): op for op in pickletools.opcodes}
_IMPORTS = ("GLOBAL", "INST", "STACK_GLOBAL")
_USES = ("INST", "OBJ", "REDUCE", "BUILD", "NEWOBJ", "NEWOBJ_EX", "STOP")
"""The opcodes that use an import; other bytes may look like two names by chance."""
_STRINGS = re.compile(r"(?:SHORT_)?BINSTRING|STRING|(?:SHORT_BIN|BIN)?UNICODE8?|(?:LONG_BIN|BIN)?GET")
_TAKES_TOP = ("PUT", "BINPUT", "LONG_BINPUT")  # they look at the stack's top and leave it there
_LINES = {
    "decimalnl_short": re.compile(rb"[-+]?[0-9]+\n"),
    "decimalnl_long": re.compile(rb"[-+]?[0-9]+L?\n"),
    "floatnl": re.compile(rb"(?:[-+0-9.eE]+|[-+]?inf|nan)\n"),
    "stringnl": re.compile(rb"(?:'[^'\n]*+'|\"[^\"\n]*+\")\n"),
    "unicodestringnl": re.compile(rb"[^\n]*+\n"),
    "stringnl_noescape": re.compile(rb"[^\n]*+\n"),
    "stringnl_noescape_pair": re.compile(rb"[A-Za-z_][\w.]*+\n[A-Za-z_][\w.]*+\n"),
}
_LENGTHS = {-2: 1, -3: 4, -4: 4, -5: 8}  # bytes of the length that an argument begins with (source: pickletools)
_WINDOW = 64 * 1024
_USUAL_LINE, _LONG_LINE = 512, 64 * 1024  # a pair of names, a text; longer ones are searched for their end only
_TEXTS = ("stringnl", "unicodestringnl", "stringnl_noescape", "decimalnl_long")  # of any length
_MAX_OPCODES = 100_000  # no other file looks like a pickle up to there
_FEW = 4  # opcodes that other bytes may look like by chance


class _OpcodeReader:
    """Follows the opcodes of a file, with the depth of the stack, without running or keeping anything.

    From protocol 2 on, a pickle begins with an opcode for its version. In 0 and 1 any opcode may come first, and a few
    bytes of another file may look like opcodes by chance. So an import that is used must be reached, or the end of a
    pickle that is too long for chance.
    """

    def __init__(self, size: int, read_at: ReadAt) -> None:
        self._size = size
        self._read_at = read_at
        self._window, self._start = b"", 0
        self._at = self._depth = self._strings = 0
        self._marks: list[int] = []

    def run(self) -> PickleVerdict:
        if self._peek(2) in _PROTOCOLS:
            return PickleVerdict.YES
        has_import = False
        for count in range(_MAX_OPCODES):
            cut_off = PickleVerdict.CUT_OFF if count >= _FEW else PickleVerdict.NO
            if self._at >= self._size:
                return cut_off
            op = _OPCODES.get(self._peek(1)[0])
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
            self._window, self._start = self._read_at(self._at, max(count, _WINDOW)), self._at
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
            piece = self._read_at(at, _PACKED)
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
                if op.arg.name in _TEXTS:
                    return self._end_of_line(self._at + len(text)) - self._at
            return None
        if op.arg.n >= 0:
            return op.arg.n
        width = _LENGTHS[op.arg.n]
        return width + int.from_bytes(self._peek(1 + width)[1:], "little")
