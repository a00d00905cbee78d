"""Read the header of a GGUF file: hyperparameters first, tensor sizes if wanted, never the weights.

Format: ggml, docs/gguf.md. Versions 1 to 3 (1 counts in 32 bits), little and big endian. The header has no length and
no index, so it is walked from its start; more bytes are fetched only while something is missing. Every count and
length is checked against the file and the limits before it is used, and what is kept is bounded.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from modelfetch.errors import NotAModelError
from modelfetch.formats.ggml import tensor_bytes
from modelfetch.formats.range_reader import LIMIT, HeaderBuffer, HeaderWindow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modelfetch.formats.range_reader import HeaderView, RangeReader

MAGIC = b"GGUF"
VOCABULARY = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type")
"""Arrays with one element for each token; sorted keys put the second, which is short, first."""
MAGICS = (MAGIC, b"FUGG")
"""The first bytes of a file; some big-endian writers swap the magic as well (source: ollama, fs/ggml/ggml.go)."""
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_MAX_KEY = 65535  # docs/gguf.md
_MAX_NAME = 256  # ggml itself stops at 64
_MAX_DIMENSIONS = 8  # ggml itself stops at 4
_MAX_TENSORS = 100_000  # models with a tensor for each expert have some ten thousand
_MAX_PAIRS = 100_000
_MAX_KEYS = 4 * 2**20  # bytes of all keys together
_MAX_TEXTS = 10_000_000  # of all arrays together; a vocabulary has some hundred thousand, and as many merges
_KEPT_TEXT = 1024  # longer texts (chat templates) are skipped
_KEPT_ARRAY = 4096  # longer arrays (tokens) are skipped; arrays over layers are far shorter
_KEPT_IN_ALL = 2**20  # bytes of texts and elements of arrays; what comes after them is skipped
_MAX_ELEMENTS = 2**63


class ArrayHead(NamedTuple):
    """An array or a text that was skipped: the number of its elements, or bytes."""

    length: int


class Tensor(NamedTuple):
    """One tensor: ``shape`` has the fastest dimension first; ``nbytes`` is None for an unknown type."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int
    nbytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """The contents of a header.

    ``metadata`` holds int, float, bool, str, tuple or `ArrayHead`; ``tensors`` and ``data_offset`` are None if the
    walk ended at the hyperparameters, ``size`` is the file's length in bytes if it is known.
    """

    version: int
    metadata: Mapping[str, Any] = field(repr=False)
    tensors: tuple[Tensor, ...] | None = field(repr=False)
    data_offset: int | None
    size: int | None


class _StopReadingError(Exception):
    """Ends the reading: more bytes would have to be fetched, and everything required is known."""


def read_gguf(source: RangeReader | HeaderBuffer | HeaderWindow, *, tensors: bool = True) -> GgufHeader:
    """Read the header of a GGUF file.

    Without ``tensors`` it ends as soon as more bytes would have to be fetched after the hyperparameters and the
    vocabulary's length are known. A view that was read before is continued, not read again.

    Raises:
        NotAModelError: The bytes are not a GGUF header, or an impossible one.
        ModelfetchError: The source failed.
    """
    view = source if isinstance(source, HeaderBuffer | HeaderWindow) else HeaderBuffer(source)
    known: GgufHeader | None = view.memo.get("gguf")
    if known is None or (tensors and known.tensors is None):
        known = view.memo["gguf"] = _HeaderReader(view, tensors=tensors).run()
    return known


class _HeaderReader:
    def __init__(self, source: HeaderView, *, tensors: bool) -> None:
        self._source = source
        self._tensors = tensors
        self._at = 0
        self._order = "<"
        self._long = "Q"
        self._metadata: dict[str, Any] = {}
        self._keys = self._kept = self._texts = 0

    def run(self) -> GgufHeader:
        version, count, pairs = self._head()
        infos: tuple[Tensor, ...] | None = None
        start = None
        try:
            for _ in range(pairs):
                self._key_value()
            infos = self._tensor_infos(count)
            start = self._data_start()
        except _StopReadingError:
            infos = None
        if infos is not None and start is not None:
            _check_layout(infos, start, self._alignment(), self._source.size)
        return GgufHeader(
            version=version,
            metadata=self._metadata,
            tensors=infos,
            data_offset=start,
            size=self._source.size,
        )

    # ── bytes ──
    def _view(self, start: int, end: int) -> tuple[bytes | bytearray, int]:
        if not self._tensors and not self._source.is_loaded(end) and self._has_all_needed():
            raise _StopReadingError
        return self._source.view(start, end)

    def _has_all_needed(self) -> bool:
        """Whether everything that estimates need is known; the vocabulary's size may also be a separate key."""
        get = self._metadata.get
        arch = get("general.architecture")
        if arch is None:
            return False
        needed = ("block_count", "embedding_length", "attention.head_count", "context_length")
        vocabulary = (*VOCABULARY, f"{arch}.vocab_size")
        return any(key in self._metadata for key in vocabulary) and all(
            f"{arch}.{key}" in self._metadata for key in needed
        )

    def _unpack(self, form: str) -> tuple[Any, ...]:
        form = self._order + form
        end = self._at + struct.calcsize(form)
        data, base = self._view(self._at, end)
        values = struct.unpack_from(form, data, self._at - base)
        self._at = end
        return values

    def _count(self) -> int:
        return int(self._unpack(self._long)[0])

    def _check_length(self, what: str, length: int) -> None:
        """Refuse an impossible length before anything is fetched for it."""
        end, size = self._at + length, self._source.size
        if size is not None and end > size:
            raise NotAModelError(
                f"broken GGUF header: {what} at byte {self._at} would take {length} bytes of a file of {size}"
            )
        if end > self._source.limit:
            raise NotAModelError(
                f"GGUF header refused: {what} at byte {self._at} would take {length} bytes, "
                f"beyond the limit of {self._source.limit}"
            )

    def _skip(self, what: str, length: int) -> None:
        """Skip bytes that must exist."""
        self._check_length(what, length)
        end = self._at + length
        self._view(end, end)
        self._at = end

    def _raw(self, length: int) -> bytes:
        start, self._at = self._at, self._at + length
        data, base = self._view(start, self._at)
        return bytes(data[start - base : self._at - base])

    def _text(self, what: str, longest: int) -> str:
        length = self._count()
        if length > longest:
            raise NotAModelError(
                f"broken GGUF header: {what} at byte {self._at} has {length} bytes, expected at most {longest}"
            )
        self._check_length(what, length)
        raw = self._raw(length)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise NotAModelError(f"broken GGUF header: {what} before byte {self._at} is not UTF-8") from error

    # ── head ──
    def _head(self) -> tuple[int, int, int]:
        """Version, tensor count, number of key-value pairs."""
        first = self._raw(4)
        if first not in MAGICS:
            raise NotAModelError(f"not a GGUF file: expected it to begin with {MAGIC!r}, found {first!r}")
        self._order = ">" if first == MAGICS[1] else "<"
        version = self._unpack("I")[0]
        if version > 0xFFFF:  # a small number read in the wrong byte order
            self._order = ">" if self._order == "<" else "<"
            version = int.from_bytes(version.to_bytes(4, "little"), "big")
        if version not in (1, 2, 3):
            raise NotAModelError(f"GGUF version {version} is not known, expected 1, 2 or 3")
        self._long = "I" if version == 1 else "Q"
        tensors, pairs = self._count(), self._count()
        if tensors > _MAX_TENSORS or pairs > _MAX_PAIRS:
            raise NotAModelError(
                f"broken GGUF header: {tensors} tensors and {pairs} key-value pairs are more than any model has"
            )
        self._check_length(
            "the list of keys and tensors", pairs * 13 + tensors * 24 if version > 1 else pairs * 9 + tensors * 20
        )
        return version, tensors, pairs

    # ── key-value pairs ──
    def _key_value(self) -> None:
        key = self._text("a key", _MAX_KEY)
        self._keys += len(key)
        if self._keys > _MAX_KEYS:
            raise NotAModelError(f"broken GGUF header: its keys take more than {_MAX_KEYS} bytes")
        if key in self._metadata:
            raise NotAModelError(f"broken GGUF header: key {key!r} occurs twice")
        kind = self._unpack("I")[0]
        if kind == _ARRAY:
            self._array(key)
        else:
            self._metadata[key] = self._value(key, kind)

    def _value(self, key: str, kind: int) -> Any:
        if kind == _STRING:
            length = self._count()
            if self._reserve(length, _KEPT_TEXT):
                self._check_length(f"the text of {key!r}", length)
                return self._raw(length).decode(errors="replace")
            self._skip(f"the text of {key!r}", length)
            return ArrayHead(length)
        if kind not in _SCALARS:
            raise NotAModelError(f"broken GGUF header: {key!r} has the unknown type {kind}")
        return self._unpack(_SCALARS[kind])[0]

    def _reserve(self, length: int, most: int) -> bool:
        if length > most or self._kept + length > _KEPT_IN_ALL:
            return False
        self._kept += length
        return True

    def _array(self, key: str) -> None:
        """One array; arrays of arrays, which no reader accepts, are refused, so nothing recurses."""
        element = self._unpack("I")[0]
        length = self._count()
        what = f"the array {key!r}"
        if element in _SCALARS:
            width = struct.calcsize("<" + _SCALARS[element])
            self._check_length(what, length * width)
            if self._reserve(length, _KEPT_ARRAY):
                self._metadata[key] = self._unpack(f"{length}{_SCALARS[element]}")
                return
            self._metadata[key] = ArrayHead(length)
            self._skip(what, length * width)
        elif element == _STRING:
            self._check_length(what, length * struct.calcsize("<" + self._long))
            self._texts += length
            if self._texts > _MAX_TEXTS:
                raise NotAModelError(f"broken GGUF header: its arrays hold more than {_MAX_TEXTS} texts")
            self._metadata[key] = ArrayHead(length)
            self._skip_texts(what, length)
        else:
            raise NotAModelError(f"broken GGUF header: {what} holds the unknown type {element}")

    def _skip_texts(self, what: str, count: int) -> None:
        """Skip texts by reading only their lengths: a vocabulary may have 280,000 merges."""
        prefix = struct.Struct(self._order + self._long)
        width, unpack = prefix.size, prefix.unpack_from
        at = self._at
        data, base = self._view(at, at)
        end = base + len(data)
        for _ in range(count):
            if at + width > end:
                self._at = at
                self._check_length(what, 0)
                data, base = self._view(at, at + width)
                end = base + len(data)
            at += width + unpack(data, at - base)[0]
        self._at = at
        self._skip(what, 0)

    # ── tensors ──
    def _tensor_infos(self, count: int) -> tuple[Tensor, ...]:
        infos, seen = [], set()
        for _ in range(count):
            info = self._tensor_info()
            if info.name in seen:
                raise NotAModelError(f"broken GGUF header: tensor {info.name!r} occurs twice")
            seen.add(info.name)
            infos.append(info)
        return tuple(infos)

    def _tensor_info(self) -> Tensor:
        name = self._text("a tensor's name", _MAX_NAME)
        dimensions = self._unpack("I")[0]
        if dimensions > _MAX_DIMENSIONS:
            raise NotAModelError(f"broken GGUF header: tensor {name!r} has {dimensions} dimensions")
        shape = self._unpack(f"{dimensions}{self._long}")
        kind, offset = self._unpack("IQ")
        elements = 1
        for dimension in shape:
            elements *= dimension
            if elements >= _MAX_ELEMENTS:
                raise NotAModelError(f"broken GGUF header: tensor {name!r} has too many elements")
        try:
            nbytes = tensor_bytes(kind, shape)
        except ValueError as error:
            raise NotAModelError(f"broken GGUF header: tensor {name!r}: {error}") from error
        return Tensor(name, shape, kind, offset, nbytes)

    def _alignment(self) -> int:
        value = self._metadata.get("general.alignment", 32)
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0 or value & (value - 1) or value > LIMIT:
            raise NotAModelError(f"broken GGUF header: alignment {value!r}, expected a power of two")
        return value

    def _data_start(self) -> int:
        alignment = self._alignment()
        return -(-self._at // alignment) * alignment


def _check_layout(tensors: tuple[Tensor, ...], start: int, alignment: int, size: int | None) -> None:
    """Every tensor is aligned and within the file, and no two overlap."""
    end = 0
    last = ""
    for tensor in sorted(tensors, key=lambda t: (t.offset, t.nbytes or 0)):
        if tensor.offset % alignment:
            raise NotAModelError(
                f"broken GGUF header: tensor {tensor.name!r} begins at {tensor.offset}, not a multiple of {alignment}"
            )
        if tensor.offset < end:
            raise NotAModelError(f"broken GGUF header: tensors {last!r} and {tensor.name!r} overlap")
        end, last = tensor.offset + (tensor.nbytes or 0), tensor.name
        if size is not None and start + end > size:
            raise NotAModelError(
                f"broken GGUF header: tensor {last!r} ends at byte {start + end}, but the file ends after {size}",
                hint="the file may be cut off",
            )
