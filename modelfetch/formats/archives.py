"""Read zips, tars and compressed data that nobody has verified, within bounds of memory and time.

Python's own readers have no such bounds: 350 bytes of a zip may take 600 MB, and the headers of a tar several GB.
"""

from __future__ import annotations

import copy
import errno
import struct
import sys
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from io import RawIOBase
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from modelfetch.formats.range_reader import ReadAt

_ZIP, _TAR = b"PK\x03\x04", b"ustar"
_TAR_AT = 257
BLOCK = 512  # bytes of a tar's header
_LZ4 = b"\x04\x22\x4d\x18"
PACKED = 2**20  # bzip2 gives nothing before the end of its first block, up to 900 kB
_XZ_MEMORY = 96 * 2**20  # what xz -9 needs
_UNREAD = b"\x80\x02"  # in place of what takes more to decompress: it counts as a pickle, which others may load
MEMBER_START = 4096  # bytes of each member of an archive that are looked at
_UNPACKED = 64 * 1024  # bytes of decompressed data that are looked at
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
UNREADABLE = "can't be read, and may hold a pickle"


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


class UnreadableError(ValueError):
    """A file can't be searched for pickles; the message ends a sentence that begins with its name."""


@dataclass(slots=True)
class Effort:
    """What may still be spent on searching an archive."""

    left: int = _EFFORT

    def spend(self, cost: int) -> None:
        """Raise UnreadableError once more than the whole was spent; ``cost`` is in bytes."""
        self.left -= cost
        if self.left < 0:
            raise UnreadableError("takes too long to search, and may hold a pickle")


def reraise_disk_error(error: Exception) -> None:
    """Raise an error of the disk again; that of damaged data has no number, or is of an impossible position."""
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        raise error


def is_zip(head: bytes) -> bool:
    """Whether a file begins as a zip."""
    return head.startswith(_ZIP)


def is_tar(head: bytes) -> bool:
    """Whether a file begins as a tar; the oldest form has only a checksum."""
    if head[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR:
        return True
    try:
        tarfile.TarInfo.frombuf(head[:BLOCK], "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def list_names(size: int, read_at: ReadAt) -> list[str] | None:
    """List the files of a zip or tar; none of one that is damaged, and None if it takes too long."""
    head = read_at(0, BLOCK)
    if is_zip(head) and has_large_directory(size, read_at):
        return None
    try:
        if is_zip(head):
            with zipfile.ZipFile(_File(size, read_at)) as archive:
                return [name for name in archive.namelist() if not name.endswith("/")]
        return [member.name[:_LONG_NAME] for member in tar_members(size, read_at, Effort())]
    except UnreadableError:
        return None
    except BROKEN_ARCHIVE as error:
        reraise_disk_error(error)
        return []


def is_compressed_archive(read_at: ReadAt) -> bool:
    """Whether a file is a compressed tar or zip, such as a checkpoint of NeMo, whose files are not looked at.

    What LZ4 compressed counts as one: joblib reads it, and Python can't.
    """
    start = start_of_compressed(read_at)
    return is_tar(start) or is_zip(start) or read_at(0, 4) == _LZ4


def start_of_compressed(read_at: ReadAt) -> bytes:
    """Return the first decompressed bytes of a file; empty if it is not compressed."""
    return decompressed_start(read_at(0, 512), lambda: read_at(0, PACKED))


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
    is_cut = len(data) >= PACKED
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


def zip_members(size: int, read_at: ReadAt, effort: Effort) -> Iterator[Member]:
    """Yield the files of a zip.

    Raises:
        UnreadableError: It has too many files, or readers may disagree about them.
        Exception: One of `BROKEN_ARCHIVE`.
    """
    if has_large_directory(size, read_at):
        raise UnreadableError(_too_many())
    if is_zip(read_at(0, len(_ZIP))) and not _has_one_directory(size, read_at):
        raise UnreadableError(UNREADABLE)
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

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, effort: Effort) -> None:
        self._archive, self._info = archive, info
        self._block = min(PACKED if info.compress_type == zipfile.ZIP_BZIP2 else MEMBER_START, info.file_size)
        self._effort = effort
        self._restart()

    def _restart(self) -> None:
        self._pieces, self._start, self._data = read_member(self._archive, self._info, MEMBER_START), 0, b""

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


def tar_members(size: int, read_at: ReadAt, _effort: Effort) -> Iterator[Member]:
    """Yield the files of a tar; raises as `zip_members`."""
    file = _File(size, read_at)
    file.left = _TAR_HEADERS
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for count, info in enumerate(iter(archive.next, None)):
            if count >= MAX_MEMBERS:
                raise UnreadableError(_too_many())
            if len(archive.pax_headers) > _MAX_RECORDS or info.issparse():
                raise UnreadableError(UNREADABLE)
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
