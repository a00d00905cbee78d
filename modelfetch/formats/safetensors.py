"""Read the header of a safetensors file: names, types and shapes, never the weights.

Format: huggingface/safetensors, README: an unsigned 64-bit little-endian length, so many bytes of JSON, then the data,
which the tensors cover without gap or overlap. The JSON is read entry by entry, so that checking a header of the
library's largest size takes little memory.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from modelfetch.errors import NotAModelError
from modelfetch.formats.range_reader import KIB, MIB, WINDOW, HeaderBuffer, HeaderWindow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from modelfetch.formats.range_reader import HeaderView, RangeReader

MAX_HEADER = 100_000_000
"""The longest header in bytes that the safetensors library reads."""

FIRST = 512 * KIB
"""The first range, in bytes: it holds the header of every image checkpoint of the tiers (SDXL's has 400 KB)."""

BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}
"""Bits of an element of each type (source: safetensors 0.8, tensor.rs)."""

_MAX_BITS = 128  # of an element of a type that this version does not know: C128, for example
_MAX_DIMENSIONS = 64
_MAX_TENSORS = 250_000
_MAX_PAIRS = 250_000  # of the metadata
_MAX_ENTRY = 64 * KIB  # bytes of one tensor's entry
_MAX_PAIR = 8 * MIB  # bytes of one pair of the metadata: a list of tags or a workflow, for example
_KEPT_METADATA = MIB  # bytes; what comes after them is skipped
_MAX_ELEMENTS = 2**63


class StoredTensor(NamedTuple):
    """One tensor; ``begin`` and ``end`` are relative to the data; the size is theirs even for an unknown ``dtype``."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetensorsHeader:
    """A header: tensors in the order of their data, the first MiB of metadata, the file's ``size`` that it implies."""

    tensors: tuple[StoredTensor, ...] = field(repr=False)
    metadata: Mapping[str, str]
    data_offset: int
    size: int


def read_safetensors(source: RangeReader | HeaderBuffer | HeaderWindow) -> SafetensorsHeader:
    """Read the header of a safetensors file.

    Raises:
        NotAModelError: The bytes are not a safetensors header, or an impossible one.
        ModelfetchError: The source failed.
    """
    known = source if isinstance(source, HeaderBuffer | HeaderWindow) else HeaderBuffer(source, first=FIRST)
    view: HeaderView = known
    if "safetensors" not in view.memo:
        scan = _Scan(view)
        tensors = tuple(sorted(scan.tensors(), key=lambda t: (t.begin, t.end)))
        view.memo["safetensors"] = SafetensorsHeader(
            tensors=tensors, metadata=scan.metadata, data_offset=scan.data_offset, size=scan.size
        )
    made: SafetensorsHeader = view.memo["safetensors"]
    return made


def is_safetensors_name(name: str) -> bool:
    """Whether a file's name is that of a safetensors file."""
    return name.lower().endswith((".safetensors", ".sft"))


def check_safetensors(view: HeaderView) -> None:
    """Check a header as `read_safetensors` does, without keeping its tensors.

    Raises:
        NotAModelError: As `read_safetensors`.
    """
    for _ in _Scan(view).tensors():
        pass


# JSON by regular expressions that never go back (possessive), so that each byte is looked at once.
_SPACE = rb"[ \t\r\n]*+"
_TEXT = rb'"(?:[^"\\\x00-\x1f]++|\\.)*+"'
_OBJECT = rb"\{(?:[^{}\"]++|" + _TEXT + rb")*+\}"
_OPEN = re.compile(rb"\{" + _SPACE + rb"(\}?)")
_METADATA_OPEN = re.compile(_SPACE + rb'"__metadata__"' + _SPACE + b":" + _SPACE + rb"\{" + _SPACE + rb"(\}?)")
_PAIR = re.compile(_SPACE + b"(" + _TEXT + b")" + _SPACE + b":" + _SPACE + b"(" + _TEXT + b")" + _SPACE + rb"([,}])")
_ENTRY = re.compile(_SPACE + b"(" + _TEXT + b")" + _SPACE + b":" + _SPACE + b"(" + _OBJECT + b")" + _SPACE + rb"([,}])")
_ENTRY_OR_METADATA = re.compile(_METADATA_OPEN.pattern + b"|" + _ENTRY.pattern)
_COMMA_OR_END = re.compile(_SPACE + rb"([,}])")
_PADDING = re.compile(_SPACE + rb"\Z")


class _Scan:
    """One walk through a header; ``metadata`` and ``size`` are complete once all of `tensors` was read."""

    def __init__(self, view: HeaderView) -> None:
        data, _ = view.view(0, 8)
        length = int.from_bytes(data[:8], "little")
        most = min(view.limit - 8, MAX_HEADER)
        if length > most:
            raise NotAModelError(
                f"not a safetensors file: its header would have {length} bytes, expected at most {most}"
            )
        self._view = view
        self._at = 8
        self.metadata: dict[str, str] = {}
        self._pairs = 0
        self.data_offset = self.size = 8 + length

    def tensors(self) -> Iterator[StoredTensor]:
        """Each tensor in the order of the header, checked; that all of them cover the data is checked at the end."""
        names: set[int] = set()
        coverage = _Coverage()
        for name, entry in self._entries():
            tensor = _tensor(name, entry)
            names.add(hash(name))  # half the memory of the names themselves
            coverage.add(tensor)
            yield tensor
            if len(names) != coverage.count:
                raise NotAModelError(f"broken safetensors header: tensor {name[:80]!r} occurs twice")
            if len(names) > _MAX_TENSORS:
                raise NotAModelError(f"broken safetensors header: more than {_MAX_TENSORS} tensors")
        self.size = self.data_offset + coverage.end()
        if self.size == self.data_offset:
            raise NotAModelError("not a model: the safetensors file holds no tensor data")
        if self._view.size is not None and self._view.size != self.size:
            raise NotAModelError(
                f"broken safetensors header: its tensors end at byte {self.size}, "
                f"but the file ends after {self._view.size}",
                hint="the file may be cut off",
            )

    def _entries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The tensors' entries; the metadata is noted."""
        more = self._match(_OPEN, "to begin with '{'")[0] != b"}"
        while more:
            found = self._match(_ENTRY_OR_METADATA, "a tensor's entry")
            if found[1] is not None:
                yield _text(found[1]), _object(found[2])
                more = found[3] == b","
            else:
                self._read_metadata(is_empty=found[0] == b"}")
                more = self._match(_COMMA_OR_END, "a comma or its end")[0] == b","
        while self._at < self.data_offset:
            self._match(_PADDING, "nothing but spaces after its end")

    def _read_metadata(self, *, is_empty: bool) -> None:
        kept, more = 0, not is_empty
        while more:
            raw_key, raw_value, end = self._match(_PAIR, "__metadata__ to map texts to texts", _MAX_PAIR)
            self._pairs += 1
            if self._pairs > _MAX_PAIRS:
                raise NotAModelError(f"broken safetensors header: more than {_MAX_PAIRS} texts in __metadata__")
            key, value = _text(raw_key), _text(raw_value)
            kept += len(key) + len(value)
            if kept <= _KEPT_METADATA:
                self.metadata[key] = value
            more = end == b","

    def _match(self, pattern: re.Pattern[bytes], expected: str, most: int = _MAX_ENTRY) -> tuple[Any, ...]:
        """Move behind the next match of at most ``most`` bytes, reading on as far as it needs; returns its groups."""
        span = 1
        while True:
            data, base = self._view.view(self._at, min(self.data_offset, self._at + span))
            end = min(len(data), self.data_offset - base)
            found = pattern.match(data, self._at - base, end)
            if found is not None:
                groups, self._at = found.groups(), base + found.end()
                return groups or (None,)
            seen = end - (self._at - base)
            if base + end >= self.data_offset or seen >= most:
                raise NotAModelError(
                    f"not a safetensors file: at byte {self._at} its header was expected {expected}, "
                    f"found {bytes(data[self._at - base : self._at - base + 8])!r}"
                )
            span = min(most, max(WINDOW, 4 * seen))


class _Coverage:
    """Checks that tensors follow each other without gap or overlap; those in order take no memory."""

    def __init__(self) -> None:
        self.count = 0
        self._end = self._last_empty = 0
        self._later: list[tuple[int, int]] = []

    def add(self, tensor: StoredTensor) -> None:
        self.count += 1
        if tensor.begin == tensor.end:
            self._last_empty = max(self._last_empty, tensor.end)  # may lie between any two others
        elif tensor.begin == self._end:
            self._end = tensor.end
        else:
            self._later.append((tensor.begin, tensor.end))

    def end(self) -> int:
        """The end of the data.

        Raises:
            NotAModelError: There is a gap or an overlap.
        """
        for begin, end in sorted(self._later):
            if begin != self._end:
                what = "overlaps the one before it" if begin < self._end else "leaves a gap before it"
                raise NotAModelError(
                    f"broken safetensors header: the tensor at {begin} {what}, expected it at {self._end}"
                )
            self._end = end
        if self._last_empty > self._end:
            raise NotAModelError(f"broken safetensors header: a tensor leaves a gap before it: at {self._last_empty}")
        return self._end


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name occurs twice")
    return made


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def _parse(raw: bytes) -> Any:
    try:
        return _DECODER.decode(raw.decode())
    except (ValueError, RecursionError) as error:
        raise NotAModelError(f"broken safetensors header: {str(error)[:200] or 'nested too deep'}") from error


def _text(raw: bytes) -> str:
    text: str = _parse(raw)
    return text


def _object(raw: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = _parse(raw)
    return entry


def _are_whole(values: object, most: int) -> TypeGuard[list[int]]:
    """Whether this is a list of at most so many whole numbers."""
    if not isinstance(values, list) or len(values) > most:
        return False
    return all(type(value) is int and 0 <= value < _MAX_ELEMENTS for value in values)


def _tensor(name: str, entry: object) -> StoredTensor:
    where = f"broken safetensors header: tensor {name[:80]!r}"
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        raise NotAModelError(f"{where}: expected an object with dtype, shape and data_offsets")
    shape, offsets, dtype = entry.get("shape"), entry.get("data_offsets"), entry["dtype"]
    if not _are_whole(shape, _MAX_DIMENSIONS) or not _are_whole(offsets, 2) or len(offsets) != 2:
        raise NotAModelError(f"{where}: expected whole numbers as shape and two as data_offsets")
    begin, end = offsets
    if begin > end:
        raise NotAModelError(f"{where}: data_offsets run backwards, from {begin} to {end}")
    elements = 1
    for dimension in shape:
        elements *= dimension
        if elements >= _MAX_ELEMENTS:
            raise NotAModelError(f"{where}: too many elements")
    bits, found = BITS.get(dtype), (end - begin) * 8
    if bits is None and not elements <= found <= elements * _MAX_BITS:
        raise NotAModelError(f"{where}: {elements} elements of {dtype[:32]!r} can't be in {end - begin} bytes")
    if bits is not None and elements * bits != found:
        raise NotAModelError(
            f"{where}: expected {elements} elements of {dtype} in {elements * bits / 8:g} bytes, found {end - begin}"
        )
    return StoredTensor(name, dtype, tuple(shape), begin, end)
