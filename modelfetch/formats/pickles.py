"""Find pickles: files that run code when they are loaded, whatever they are called.

Sources: Python's pickletools (opcodes, protocols 0 to 5) and torch.load, which accepts a zip with a pickle in it,
several pickles one after the other (torch before 1.6), and a tar with pickles (torch before 0.1.10). joblib.load
detects how a pickle was compressed. numpy.load unpickles an array of objects (numpy, ``lib/format.py``). A file may be
several of these at once.
"""

from __future__ import annotations

import ast
import copy
import errno
import pickletools
import re
import struct
import sys
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from enum import Enum
from io import RawIOBase
from typing import IO, TYPE_CHECKING, Any

from modelfetch.errors import NotAModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from modelfetch.formats.range_reader import ReadAt

    _ListMembers = Callable[[int, ReadAt, "_Effort"], Iterator["Member"]]

PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".pkl")
"""Suffixes of files that are pickles by convention."""

_ZIP, _TAR = b"PK\x03\x04", b"ustar"
_TAR_AT = 257
_BLOCK = 512  # bytes of a tar's header
_LZ4 = b"\x04\x22\x4d\x18"
_ZFILE = b"ZF0x"  # a pickle that joblib before 0.10 compressed
_PROTOCOLS = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
_PACKED = 2**20  # bzip2 gives nothing before the end of its first block, up to 900 kB
_XZ_MEMORY = 96 * 2**20  # what xz -9 needs
_UNREAD = b"\x80\x02"  # in place of what takes more to decompress: it counts as a pickle, which others may load
_MEMBER_START = 4096  # bytes of each member of an archive that are looked at
_UNPACKED = 64 * 1024  # bytes of decompressed data that are looked at
_WINDOW = 64 * 1024  # bytes of a pickle that are read at once
_ZIP_END = 22  # bytes: the end of a zip without a comment
_LARGE_END = 56 + 20  # bytes: the record of a large zip and its locator, which stand in front of that
_ZIP_TAIL = _ZIP_END + 20 + 2**16  # bytes: that, the locator before it, and the longest comment
MAX_MEMBERS = 50_000
"""Files of the largest zip or tar that is looked at.

Those of a zip take about 100 MB of memory, and 200 MB once unpacked and placed.
"""
_LARGEST_DIRECTORY = 16 * 2**20  # bytes
_IN_LARGE_RECORD = 0xFFFFFFFF  # in place of a value that the record of a large zip has
_DIRECTORY_ENTRY = b"PK\1\2"
_TAR_HEADERS = 2**20  # bytes of a tar's headers that are read: long names, PAX records and maps of holes take much more
_USUAL_HEADERS = 4096  # bytes that each file of a tar may add to that
_LONG_NAME = 200  # characters of a name that are kept
_MAX_RECORDS = 1000  # PAX records that apply to all files of a tar; each file gets a copy of them
_EFFORT = 2**29  # bytes: what is decompressed to search an archive, and for other work as many as take the same time
_OPCODE = 1000  # for each opcode
_UNREADABLE = "can't be read, and may hold a pickle"
_TORCH_PICKLE = re.compile(r"(?:[^/]*/)?data\.pkl")
_TORCH_VERSION = re.compile(r"[^/]*/(?:\.data/)?version")
_NUMPY = b"\x93NUMPY"
_NUMPY_HEADER = 10_000  # bytes of the longest header that numpy reads where pickles are not allowed
_NUMBERS = re.compile(r"[<>=|]?[biufcmMSUV?]\d*(?:\[\w+\])?")  # a type of numpy that can't hold objects
_OLD_INTEGER = re.compile(r"(\d)L\b")  # as Python 2 wrote it


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


class _UnreadableError(ValueError):
    """A file can't be searched for pickles; the message ends a sentence that begins with its name."""


@dataclass(slots=True)
class _Effort:
    """What may still be spent on searching an archive."""

    left: int = _EFFORT

    def spend(self, cost: int) -> None:
        self.left -= cost
        if self.left < 0:
            raise _UnreadableError("takes too long to search, and may hold a pickle")


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
    """Whether a file begins as a tar; the oldest form has only a checksum."""
    if head[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR:
        return True
    try:
        tarfile.TarInfo.frombuf(head[:_BLOCK], "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def starts_as_pickle(head: bytes) -> bool:
    """Whether the first bytes of a file show a pickle or a torch archive; `contains_pickle` finds the others."""
    if is_zip(head):
        return any(name in head for name in (b"data.pkl", b".data/", b"/version", b"/byteorder"))
    if head.startswith(_NUMPY):
        return len(head) >= _array_header(head)[1] and _is_array_of_objects(_reader_of(head))
    return head.startswith(_ZFILE) or read_pickle(head) is PickleVerdict.YES


def _reader_of(data: bytes) -> ReadAt:
    return lambda at, count: data[at : at + count]


def _array_header(head: bytes) -> tuple[int, int]:
    """The first and the last position of an array's header."""
    start, width = (10, 2) if head[6:7] == b"\x01" else (12, 4)
    return start, start + int.from_bytes(head[start - width : start], "little")


def _is_array_of_objects(read_at: ReadAt, effort: _Effort | None = None) -> bool:
    """Whether numpy would unpickle an array; one whose types can't be read counts as such."""
    start, end = _array_header(read_at(0, 12))
    if end - start > _NUMPY_HEADER:
        return True
    if effort is not None:
        effort.spend((end - start) ** 2)  # most are short; long ones take much longer
    text = read_at(0, end)[start:].decode("utf-8", "replace")
    try:
        return not _are_numbers(ast.literal_eval(_OLD_INTEGER.sub(r"\1", text.strip()))["descr"])
    except (SyntaxError, ValueError, TypeError, KeyError, MemoryError, RecursionError):
        return True


def _are_numbers(descr: object) -> bool:
    """Whether a type of numpy, perhaps of several fields, holds no objects (source: numpy, ``descr_to_dtype``)."""
    if isinstance(descr, list):
        return all(isinstance(field, tuple) and _are_numbers(field[1]) for field in descr if len(field) > 1)
    if isinstance(descr, tuple):
        return bool(descr) and _are_numbers(descr[0])
    return isinstance(descr, str) and _NUMBERS.fullmatch(descr) is not None


def find_pickle(size: int, read_at: ReadAt) -> str | None:
    """Search a whole file for a pickle, a compressed one, a NumPy array of objects, or a zip or tar that holds one.

    Returns the end of a sentence that begins with the file's name; None if there is no pickle. An archive that can't be
    read may hold one, because what loads it may be less strict. A zip may also follow other bytes.

    Args:
        size: Its length in bytes.
        read_at: Reads from it.
    """
    head = read_at(0, _BLOCK)
    if is_tar(head) and (found := _search(_tar_members, size, read_at)):
        return found
    found = _search(_zip_members, size, read_at)
    if found == _IS_PICKLE or (found and is_zip(head)):
        return found
    packed = decompressed_start(head, lambda: read_at(0, _PACKED))
    return _IS_PICKLE if _continues_as_pickle(packed) or _is_plain_pickle(size, read_at) else None


_IS_PICKLE = "is a pickle"


def _search(list_members: _ListMembers, size: int, read_at: ReadAt) -> str | None:
    """Search an archive for a file that is a pickle, by its name or its bytes."""
    effort = _Effort()
    try:
        for member in list_members(size, read_at, effort):
            if is_pickle_member(member, effort):
                return _IS_PICKLE
    except _UnreadableError as error:
        return str(error)
    except BROKEN_ARCHIVE as error:
        reraise_disk_error(error)
        return _UNREADABLE
    return None


def is_pickle_member(member: Member, effort: _Effort) -> bool:
    """Whether a file of an archive is a pickle, by its name or its bytes."""
    start = member.read_at(0, _MEMBER_START)
    if is_pickle_name(member.name) or (is_zip(start) and starts_as_pickle(start)):
        return True
    packed = decompressed_start(start, lambda: start)
    return _continues_as_pickle(packed) or _is_plain_pickle(member.size, member.read_at, _MEMBER_START, effort)


def _is_plain_pickle(size: int, read_at: ReadAt, window: int = _WINDOW, effort: _Effort | None = None) -> bool:
    """Whether bytes are a pickle or an array of objects, neither compressed nor in an archive."""
    start = read_at(0, len(_NUMPY))
    if start == _NUMPY:
        return _is_array_of_objects(read_at, effort)
    reader = _OpcodeReader(size, read_at, window)
    found = start.startswith(_ZFILE) or reader.run() is PickleVerdict.YES
    if effort is not None:
        effort.spend(reader.count * _OPCODE)
    return found


def list_names(size: int, read_at: ReadAt) -> list[str] | None:
    """List the files of a zip or tar; none of one that is damaged, and None if it takes too long."""
    head = read_at(0, _BLOCK)
    if is_zip(head) and has_large_directory(size, read_at):
        return None
    try:
        if is_zip(head):
            with zipfile.ZipFile(_File(size, read_at)) as archive:
                return [name for name in archive.namelist() if not name.endswith("/")]
        return [member.name[:_LONG_NAME] for member in _tar_members(size, read_at, _Effort())]
    except _UnreadableError:
        return None
    except BROKEN_ARCHIVE as error:
        reraise_disk_error(error)
        return []


def is_torch_zip(names: Collection[str]) -> bool:
    """Whether torch wrote a zip, by the names of its files.

    torch.save and TorchScript write ``NAME/data.pkl``; all of torch's archives have ``NAME/version`` or
    ``NAME/.data/version``, with everything in one folder (source: PyTorch, ``caffe2/serialize/inline_container.cc``).
    torch.export of PyTorch 2.1 to 2.6 writes ``serialized_exported_program.json`` at the top.
    """
    tops = {name.partition("/")[0] for name in names}
    return (
        any(_TORCH_PICKLE.fullmatch(name) for name in names)
        or (len(tops) == 1 and any(_TORCH_VERSION.fullmatch(name) for name in names))
        or any(name.startswith("serialized_exported_program.") for name in names)
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


def _continues_as_pickle(start: bytes) -> bool:
    """Whether decompressed bytes are a pickle as far as they go; more of them would take long to decompress."""
    return bool(start) and (starts_as_pickle(start) or read_pickle(start) is PickleVerdict.CUT_OFF)


def read_pickle(data: bytes) -> PickleVerdict:
    """Whether bytes are the beginning of a pickle."""
    return _OpcodeReader(len(data), _reader_of(data), _WINDOW).run()


def decompressed_start(head: bytes, read: Callable[[], bytes]) -> bytes:
    """Return the first bytes of what gzip, zlib, bzip2 or xz compressed; empty for any other file.

    Args:
        head: The file's first bytes.
        read: Returns as many of them as it may take to decompress some.
    """
    make = next((make for magic, make in _DECOMPRESSORS if head.startswith(magic)), None)
    if make is None:
        return b""
    data, start = read(), b""
    is_cut = len(data) >= _PACKED
    try:
        while data and len(start) < _UNPACKED:  # other parts may follow an empty one
            decoder = make()
            start += decoder.decompress(data, _UNPACKED)
            data = decoder.unused_data.lstrip(b"\0")
    except BROKEN_ARCHIVE as error:
        return _UNREAD if "limit" in str(error) else start
    return start or (_UNREAD if is_cut else b"")


def has_large_directory(size: int, read_at: ReadAt) -> bool:
    """Whether a zip has too many files to list them all in memory, whatever number of them it declares."""
    return any(
        length > _LARGEST_DIRECTORY
        or read_at(start := max(0, end - length), end - start + _LARGE_END).count(_DIRECTORY_ENTRY) > MAX_MEMBERS
        for end, length, _ in _directories(size, read_at)
    )


def _directories(size: int, read_at: ReadAt) -> Iterator[tuple[int, int, int]]:
    """Yield the end, length and place in bytes of all that a reader may take for a zip's directory.

    Source: PKWARE's APPNOTE.TXT, sections 4.3.14 to 4.3.16. Readers look for the record of a large zip at the place
    that its locator names or, as Python does, directly in front of it.
    """
    start = max(0, size - _ZIP_TAIL)
    tail = read_at(start, size - start)
    for at in {len(tail) - _ZIP_END, tail.rfind(b"PK\5\6")}:
        if at < 0 or not tail.startswith(b"PK\5\6", at):
            continue
        found, place = struct.unpack("<II", tail[at + 12 : at + 20].ljust(8, b"\0"))
        locator = tail[max(0, at - 20) : at]
        is_large = locator.startswith(b"PK\6\7")
        if not is_large or not {found, place} & {_IN_LARGE_RECORD}:
            yield start + at - (_LARGE_END if is_large else 0), found, place
        if is_large:
            for record in (start + at - _LARGE_END, int.from_bytes(locator[8:16], "little")):
                values = read_at(min(max(0, record), size), 56)[40:56].ljust(16, b"\0")
                yield record, *struct.unpack("<QQ", values)


def _has_one_directory(size: int, read_at: ReadAt) -> bool:
    """Whether all readers find the same directory, directly in front of its end."""
    found = set(_directories(size, read_at))
    return len(found) == 1 and all(place + length == end for end, length, place in found)


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive: its name, its size in bytes, and what reads from it."""

    name: str
    size: int
    read_at: ReadAt


def _part_of(read_at: ReadAt, start: int, size: int) -> ReadAt:
    return lambda at, count: read_at(start + at, max(0, min(count, size - at)))


def _zip_members(size: int, read_at: ReadAt, effort: _Effort) -> Iterator[Member]:
    if has_large_directory(size, read_at):
        raise _UnreadableError(_too_many())
    if is_zip(read_at(0, len(_ZIP))) and not _has_one_directory(size, read_at):
        raise _UnreadableError(_UNREADABLE)
    with zipfile.ZipFile(_File(size, read_at)) as archive:
        for info in archive.infolist():
            if info.compress_type == zipfile.ZIP_STORED:
                archive.open(info).close()  # checks its own header
                lengths = struct.unpack("<HH", read_at(info.header_offset + 26, 4))
                reader = _part_of(read_at, info.header_offset + 30 + sum(lengths), info.file_size)
            else:
                reader = _MemberReader(archive, info, effort).read_at
            yield Member(info.filename, info.file_size, reader)


class _MemberReader:
    """Reads a compressed file of a zip, best forwards only."""

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, effort: _Effort) -> None:
        self._archive, self._info = archive, info
        self._block = min(_PACKED if info.compress_type == zipfile.ZIP_BZIP2 else _MEMBER_START, info.file_size)
        self._effort = effort
        self._restart()

    def _restart(self) -> None:
        self._pieces, self._start, self._data = read_member(self._archive, self._info, _MEMBER_START), 0, b""

    def read_at(self, at: int, count: int) -> bytes:
        """Return ``count`` bytes from the position ``at``, fewer at the end."""
        if at < self._start:
            self._restart()
        while self._start + len(self._data) < at + count:
            if not self._start:
                self._effort.spend(self._block)
            piece = next(self._pieces, b"")
            if not piece:
                break
            self._effort.spend(len(piece))
            unused = min(len(self._data), max(0, at - self._start))
            self._start, self._data = self._start + unused, self._data[unused:] + piece
        return self._data[at - self._start :][:count]


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, step: int) -> Iterator[bytes]:
    """Yield the content of a file in a zip in pieces of at most ``step`` bytes.

    zipfile itself unpacks 4 KiB of bzip2 to 3.5 GB in one step.

    Raises:
        Exception: One of `BROKEN_ARCHIVE`, if the file is damaged, encrypted or of an unknown compression.
    """
    start_decoder, left = _ZIP_DECOMPRESSORS.get(info.compress_type), info.file_size
    if start_decoder is None:
        with archive.open(info) as source:
            while piece := source.read(step):
                left -= len(piece)
                yield piece
        if left:
            raise zipfile.BadZipFile(f"{info.filename} ends too early")
        return
    packed = copy.copy(info)
    packed.compress_type, packed.file_size = zipfile.ZIP_STORED, info.compress_size
    del packed.CRC  # that of the content
    crc = 0
    with archive.open(packed) as source:
        decoder, data = start_decoder(source, info)
        while left:
            if decoder.needs_input:
                data += source.read(step)
                if not data:
                    raise zipfile.BadZipFile(f"{info.filename} ends too early")
            piece, data = decoder.decompress(data, min(left, step)), b""
            left, crc = left - len(piece), zlib.crc32(piece, crc)
            if piece:
                yield piece
    if crc != info.CRC:
        raise zipfile.BadZipFile(f"bad CRC-32 of {info.filename}")


def _start_bzip2(_source: IO[bytes], _info: zipfile.ZipInfo) -> tuple[Any, bytes]:
    return bz2.BZ2Decompressor(), b""


def _start_lzma(source: IO[bytes], info: zipfile.ZipInfo) -> tuple[Any, bytes]:
    """Make a zip's header that of an .lzma file (source: PKWARE's APPNOTE.TXT, section 5.8)."""
    properties = source.read(int.from_bytes(source.read(4)[2:], "little"))
    size = 2**64 - 1 if info.flag_bits & 2 else info.file_size
    decoder = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_XZ_MEMORY)
    return decoder, properties + size.to_bytes(8, "little")


_ZIP_DECOMPRESSORS: dict[int, Callable[[IO[bytes], zipfile.ZipInfo], tuple[Any, bytes]]] = (
    {zipfile.ZIP_BZIP2: _start_bzip2, zipfile.ZIP_LZMA: _start_lzma} if len(_DECOMPRESSORS) > 1 else {}
)
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, *_ZIP_DECOMPRESSORS)
"""The compressions that `read_member` reads."""


def _too_many() -> str:
    return f"may hold a pickle among its more than {MAX_MEMBERS} files"


def _tar_members(size: int, read_at: ReadAt, _effort: _Effort) -> Iterator[Member]:
    file = _File(size, read_at)
    file.left = _TAR_HEADERS
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for count, info in enumerate(iter(archive.next, None)):
            if count >= MAX_MEMBERS:
                raise _UnreadableError(_too_many())
            if len(archive.pax_headers) > _MAX_RECORDS or info.issparse():
                raise _UnreadableError(_UNREADABLE)
            is_file = info.isfile() or info.type not in tarfile.SUPPORTED_TYPES  # tarfile reads an unknown type as one
            length = info.size if is_file else 0
            yield Member(info.name, length, _part_of(read_at, info.offset_data, length))
            file.left += _USUAL_HEADERS
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
_MAX_OPCODES = 100_000  # no other file looks like a pickle up to there
_FEW = 4  # opcodes that other bytes may look like by chance


class _OpcodeReader:
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
                if "pair" not in op.arg.name:  # no module has so long a name
                    return self._end_of_line(self._at + len(text)) - self._at
            return None
        if op.arg.n >= 0:
            return op.arg.n
        width = _LENGTHS[op.arg.n]
        return width + int.from_bytes(self._peek(1 + width)[1:], "little")
