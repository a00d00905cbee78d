"""Find pickles: files that run code when they are loaded, whatever they are called.

Sources: torch.load accepts a zip with a pickle in it, several pickles one after the other (torch before 1.6), and a tar
with pickles (torch before 0.1.10). joblib.load detects how a pickle was compressed. numpy.load unpickles an array of
objects (numpy, ``lib/format.py``). A file may be several of these at once.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from modelfetch.errors import NotAModelError
from modelfetch.formats.archives import (
    BLOCK,
    BROKEN_ARCHIVE,
    MEMBER_START,
    PACKED,
    UNREADABLE,
    Effort,
    Member,
    UnreadableError,
    decompressed_start,
    is_tar,
    is_zip,
    reraise_disk_error,
    tar_members,
    zip_members,
)
from modelfetch.formats.opcodes import WINDOW, OpcodeReader, PickleVerdict, read_pickle, reader_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from modelfetch.formats.range_reader import ReadAt

    _ListMembers = Callable[[int, ReadAt, Effort], Iterator[Member]]

PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".pkl")
"""Suffixes of files that are pickles by convention."""
_ZFILE = b"ZF0x"  # a pickle that joblib before 0.10 compressed
_OPCODE = 1000  # for each opcode
_TORCH_PICKLE = re.compile(r"(?:[^/]*/)?data\.pkl")
_TORCH_VERSION = re.compile(r"[^/]*/(?:\.data/)?version")
_NUMPY = b"\x93NUMPY"
_NUMPY_HEADER = 10_000  # bytes of the longest header that numpy reads where pickles are not allowed
_NUMBERS = re.compile(r"[<>=|]?[biufcmMSUV?]\d*(?:\[\w+\])?")  # a type of numpy that can't hold objects
_OLD_INTEGER = re.compile(r"(\d)L\b")  # as Python 2 wrote it


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


def starts_as_pickle(head: bytes) -> bool:
    """Whether the first bytes of a file show a pickle or a torch archive; `find_pickle` finds the others."""
    if is_zip(head):
        return any(name in head for name in (b"data.pkl", b".data/", b"/version", b"/byteorder"))
    if head.startswith(_NUMPY):
        return len(head) >= _array_header(head)[1] and _is_array_of_objects(reader_of(head))
    return head.startswith(_ZFILE) or read_pickle(head) is PickleVerdict.YES


def _array_header(head: bytes) -> tuple[int, int]:
    """The first and the last position of an array's header."""
    start, width = (10, 2) if head[6:7] == b"\x01" else (12, 4)
    return start, start + int.from_bytes(head[start - width : start], "little")


def _is_array_of_objects(read_at: ReadAt, effort: Effort | None = None) -> bool:
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
    head = read_at(0, BLOCK)
    if is_tar(head) and (found := _search(tar_members, size, read_at)):
        return found
    found = _search(zip_members, size, read_at)
    if found == _IS_PICKLE or (found and is_zip(head)):
        return found
    packed = decompressed_start(head, lambda: read_at(0, PACKED))
    return _IS_PICKLE if _continues_as_pickle(packed) or _is_plain_pickle(size, read_at) else None


_IS_PICKLE = "is a pickle"


def _search(list_members: _ListMembers, size: int, read_at: ReadAt) -> str | None:
    """Search an archive for a file that is a pickle, by its name or its bytes."""
    effort = Effort()
    try:
        for member in list_members(size, read_at, effort):
            if is_pickle_member(member, effort):
                return _IS_PICKLE
    except UnreadableError as error:
        return str(error)
    except BROKEN_ARCHIVE as error:
        reraise_disk_error(error)
        return UNREADABLE
    return None


def is_pickle_member(member: Member, effort: Effort) -> bool:
    """Whether a file of an archive is a pickle, by its name or its bytes."""
    start = member.read_at(0, MEMBER_START)
    if is_pickle_name(member.name) or (is_zip(start) and starts_as_pickle(start)):
        return True
    packed = decompressed_start(start, lambda: start)
    return _continues_as_pickle(packed) or _is_plain_pickle(member.size, member.read_at, MEMBER_START, effort)


def _is_plain_pickle(size: int, read_at: ReadAt, window: int = WINDOW, effort: Effort | None = None) -> bool:
    """Whether bytes are a pickle or an array of objects, neither compressed nor in an archive."""
    start = read_at(0, len(_NUMPY))
    if start == _NUMPY:
        return _is_array_of_objects(read_at, effort)
    reader = OpcodeReader(size, read_at, window)
    found = start.startswith(_ZFILE) or reader.run() is PickleVerdict.YES
    if effort is not None:
        effort.spend(reader.count * _OPCODE)
    return found


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


def _continues_as_pickle(start: bytes) -> bool:
    """Whether decompressed bytes are a pickle as far as they go; more of them would take long to decompress."""
    return bool(start) and (starts_as_pickle(start) or read_pickle(start) is PickleVerdict.CUT_OFF)
