"""The content gate: what may be kept when no digest decides. Pure: it is given bytes and says what is wrong.

Sources: the safetensors format (huggingface/safetensors, README, "Format"), the GGUF specification (ggml,
docs/gguf.md), the pickle protocol (Python's pickletools), torch.save's zip form (data.pkl in it).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from modelfetch.errors import CredentialsError, ModelfetchError, NotAModelError
from modelfetch.formats.pickles import PICKLE_SUFFIXES

if TYPE_CHECKING:
    from modelfetch.core.artifact import Artifact

HEAD = 512
"""Bytes from the start of a file that `judge_head` wants."""

_WEIGHTS = frozenset(
    {".safetensors", ".sft", ".gguf", ".ggml", ".bin", ".onnx", ".h5", ".msgpack", ".npz", ".tflite", ".model", ".zip"}
) | set(PICKLE_SUFFIXES)
_HTML_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<!--", b"<?xml")
_LOGIN_PARTS = frozenset({"login", "signin", "sign-in", "sign_in", "auth"})
_BOM = b"\xef\xbb\xbf"
_MAX_HEADER = 100_000_000  # the safetensors library's own limit
_GGUF_VERSIONS = (1, 2, 3)
_MAX_COUNT = 2**32
_MAX_RANK = 8

ReadAt = Callable[[int, int], bytes]
"""Reads so many bytes (second) at a position (first); fewer at the end of the file."""


def is_weights(path: str) -> bool:
    """Whether a file of this name is model weights rather than text beside them."""
    return PurePosixPath(path).suffix.lower() in _WEIGHTS


def looks_like_html(head: bytes) -> bool:
    """Whether bytes begin as a web page does."""
    return head.removeprefix(_BOM).lstrip().lower().startswith(_HTML_STARTS)


def looks_like_json(head: bytes) -> bool:
    """Whether bytes begin as a JSON object or array does."""
    text = head.removeprefix(_BOM).lstrip()
    return text[:1] in (b"{", b"[") and all(byte >= 0x20 or byte in b"\t\r\n" for byte in text)


def looks_like_pickle(head: bytes) -> bool:
    """Whether bytes begin as a pickle (protocol 2 to 5), or as the zip that torch.save writes."""
    return (head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")) or (
        head.startswith(b"PK\x03\x04") and (b"data.pkl" in head or b"/version" in head or b".data/" in head)
    )


def is_login(url: str) -> bool:
    """Whether a URL is that of a login page."""
    return any(part.lower() in _LOGIN_PARTS for part in urlsplit(url).path.split("/"))


def page_error(path: str, url: str, *, what: str) -> ModelfetchError:
    """The error for a page or a message that came instead of a file."""
    if is_login(url):
        return CredentialsError(
            f"{path}: a login page came instead of the file", code="login-page", hint="set a token for this host"
        )
    return NotAModelError(
        f"{path}: {what} came instead of the file", hint="open the address in a browser: it may want a login"
    )


def judge_head(path: str, head: bytes, *, url: str, html_type: bool, allow_pickle: bool) -> ModelfetchError | None:
    """What the first bytes of a file without a digest say against it.

    Args:
        path: The file's name upstream.
        head: Its first bytes, at least `HEAD` of them or all.
        url: Where they came from in the end.
        html_type: Whether the answer called itself ``text/html``.
        allow_pickle: Whether the manifest allows a pickle.
    """
    suffix = PurePosixPath(path).suffix.lower()
    if not is_weights(path):
        if suffix in (".html", ".htm", ".xhtml", ".xml", ".svg") or not (html_type and looks_like_html(head)):
            return None
        return page_error(path, url, what="a web page")
    if looks_like_html(head):
        return page_error(path, url, what="a web page")
    if looks_like_json(head):
        return page_error(path, url, what="a JSON message")
    return None if allow_pickle else judge_pickle(path, head)


def is_suspect(artifact: Artifact) -> bool:
    """Whether it may be a pickle that the manifest does not allow, whoever vouches for its digest."""
    return not artifact.allow_pickle and artifact.path.lower().endswith(".bin")


def judge_start(artifact: Artifact, head: bytes, *, url: str = "", html_type: bool = False) -> ModelfetchError | None:
    """`judge_head` for an artifact; where a digest decides, only whether the manifest allows what it is."""
    if artifact.digest is not None:
        return judge_pickle(artifact.path, head) if is_suspect(artifact) else None
    return judge_head(artifact.path, head, url=url, html_type=html_type, allow_pickle=artifact.allow_pickle)


def judge_pickle(path: str, head: bytes) -> ModelfetchError | None:
    """The error for a ``.bin`` whose first bytes show a pickle; it is the manifest that may allow one, not a digest."""
    if PurePosixPath(path).suffix.lower() != ".bin" or not looks_like_pickle(head):
        return None
    return NotAModelError(
        f"{path} is a pickle, which runs code when it is loaded",
        code="pickle-not-allowed",
        hint="pin its digest, or set allow_pickle: true for it",
    )


def judge_whole(path: str, size: int, read_at: ReadAt) -> ModelfetchError | None:
    """What the header of a whole file without a digest says against it.

    Args:
        path: The file's name upstream.
        size: Its size in bytes.
        read_at: Reads from it.
    """
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in (".safetensors", ".sft"):
        problem = _safetensors_problem(size, read_at)
    elif suffix == ".gguf":
        problem = _gguf_problem(size, read_at)
    else:
        problem = "it is empty" if size == 0 and is_weights(path) else None
    return NotAModelError(f"{path} is not a whole {suffix[1:]} file: {problem}") if problem else None


def _safetensors_problem(size: int, read_at: ReadAt) -> str | None:
    """8 bytes of header length, that much JSON with data offsets, then the data that they cover."""
    first = read_at(0, 8)
    if len(first) < 8:
        return f"it has {size} bytes"
    length = int.from_bytes(first, "little")
    if not 2 <= length <= _MAX_HEADER or 8 + length > size:
        return f"its header claims {length} bytes, the file has {size}"
    try:
        header = json.loads(read_at(8, length))
    except (ValueError, RecursionError):
        return "its header is not JSON"
    if not isinstance(header, dict):
        return "its header is not an object"
    end = 0
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        offsets = tensor.get("data_offsets") if isinstance(tensor, dict) else None
        if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(o) is int for o in offsets)):
            return f"tensor {name[:80]!r} has no data offsets"
        if not 0 <= offsets[0] <= offsets[1] <= size - 8 - length:
            return f"tensor {name[:80]!r} ends outside the file"
        end = max(end, offsets[1])
    return None if end == size - 8 - length else f"its tensors end at {8 + length + end}, the file at {size}"


def _gguf_problem(size: int, read_at: ReadAt) -> str | None:
    """Magic, version, counts, metadata and tensor infos; every length must lie within the file."""
    if read_at(0, 4) != b"GGUF":
        return "it does not begin with GGUF"
    version = int.from_bytes(read_at(4, 4), "little")
    if version not in _GGUF_VERSIONS:
        return f"its version is {version}"
    reader = _Reader(read_at, size, wide=version > 1)
    try:
        tensors, pairs = reader.number(), reader.number()
        if tensors > _MAX_COUNT or pairs > _MAX_COUNT or (tensors + pairs) * 8 > size:
            return f"it claims {tensors} tensors and {pairs} keys"
        for _ in range(pairs):
            reader.text()
            reader.value(reader.u32())
        for _ in range(tensors):
            reader.tensor()
    except (_OutsideError, struct.error):
        return "its header leads outside the file"
    return "a tensor begins outside the file" if reader.position + reader.last_offset > size else None


class _OutsideError(Exception):
    """A length or type of a header that can't be."""


class _Reader:
    """Walks through a GGUF header; nothing is built from it."""

    _FIXED = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # noqa: RUF012 - never changed
    _STRING, _ARRAY = 8, 9
    _WINDOW = 2**16

    def __init__(self, read_at: ReadAt, size: int, *, wide: bool) -> None:
        self._read_at, self._size, self._wide = read_at, size, wide
        self.position = 8
        self.last_offset = 0
        self._window = b""
        self._window_at = 0

    def _bytes(self, count: int) -> bytes:
        start = self.position - self._window_at
        if start < 0 or start + count > len(self._window):
            self._window, self._window_at = self._read_at(self.position, max(count, self._WINDOW)), self.position
            start = 0
        self._skip(count)
        return self._window[start : start + count]

    def _skip(self, count: int) -> None:
        self.position += count
        if self.position > self._size:
            raise _OutsideError

    def u32(self) -> int:
        return int(struct.unpack("<I", self._bytes(4))[0])

    def u64(self) -> int:
        return int(struct.unpack("<Q", self._bytes(8))[0])

    def number(self) -> int:
        return self.u64() if self._wide else self.u32()

    def text(self) -> None:
        self._skip(self.number())

    def value(self, kind: int, depth: int = 0) -> None:
        if kind in self._FIXED:
            self._skip(self._FIXED[kind])
        elif kind == self._STRING:
            self.text()
        elif kind == self._ARRAY and depth < 4:
            inner, count = self.u32(), self.number()
            if inner in self._FIXED:
                self._skip(self._FIXED[inner] * count)
                return
            if count > self._size:
                raise _OutsideError
            for _ in range(count):
                self.value(inner, depth + 1)
        else:
            raise _OutsideError

    def tensor(self) -> None:
        self.text()
        rank = self.u32()
        if rank > _MAX_RANK:
            raise _OutsideError
        for _ in range(rank):
            self.number()
        self.u32()
        self.last_offset = max(self.last_offset, self.u64())
