"""Reads the header of a safetensors file: names, types and shapes, never the weights.

Format: huggingface/safetensors, README: an unsigned 64-bit little-endian length, so many bytes of JSON, then the data,
which the tensors cover without gap or overlap. The library itself refuses headers above 100,000,000 bytes; here
`prefix.LIMIT` is the bound.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from modelfetch.errors import NotAModelError
from modelfetch.formats.range_reader import KIB, LIMIT, HeaderBuffer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modelfetch.formats.range_reader import RangeReader

FIRST = 512 * KIB
"""The first range, in bytes: every image checkpoint's header that was looked at lies within it (SDXL's has 400 KB)."""

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

_MAX_DIMENSIONS = 64
_MOST_ELEMENTS = 2**63


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
    """What a header says, tensors in the order of their data; ``size`` is the file's length that it implies."""

    tensors: tuple[StoredTensor, ...] = field(repr=False)
    metadata: Mapping[str, str]
    data_offset: int
    size: int


def read_safetensors(source: RangeReader | HeaderBuffer) -> SafetensorsHeader:
    """The header of a safetensors file.

    Raises:
        NotAModelError: The bytes are no safetensors header, or one that can't be true.
        ModelfetchError: The source failed.
    """
    prefix = source if isinstance(source, HeaderBuffer) else HeaderBuffer(source, first=FIRST)
    if "safetensors" not in prefix.memo:
        prefix.memo["safetensors"] = _read(prefix)
    made: SafetensorsHeader = prefix.memo["safetensors"]
    return made


def _read(prefix: HeaderBuffer) -> SafetensorsHeader:
    length = int.from_bytes(prefix.upto(8)[:8], "little")
    if length > LIMIT - 8:
        raise NotAModelError(
            f"not a safetensors file: its header would have {length} bytes, expected at most {LIMIT - 8}"
        )
    text = bytes(prefix.upto(8 + length)[8 : 8 + length])
    entries = _parse(text)
    metadata = _metadata(entries.pop("__metadata__", {}))
    tensors = tuple(sorted((_tensor(name, entry) for name, entry in entries.items()), key=lambda t: (t.begin, t.end)))
    end = _covered(tensors)
    size = 8 + length + end
    if prefix.size is not None and prefix.size != size:
        raise NotAModelError(
            f"broken safetensors header: its tensors end at byte {size}, but the file ends after {prefix.size}",
            hint="the file may be cut off",
        )
    return SafetensorsHeader(tensors=tensors, metadata=metadata, data_offset=8 + length, size=size)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name occurs twice")
    return made


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _parse(text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise NotAModelError(f"not a safetensors file: expected its header to begin with '{{', found {text[:8]!r}")
    try:
        entries = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise NotAModelError(f"broken safetensors header: {str(error)[:200] or 'nested too deep'}") from error
    if not isinstance(entries, dict):
        raise NotAModelError("broken safetensors header: expected an object")
    return entries


def _metadata(found: object) -> dict[str, str]:
    if isinstance(found, dict) and all(isinstance(value, str) for value in found.values()):
        return found
    raise NotAModelError("broken safetensors header: expected __metadata__ to map texts to texts")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_ELEMENTS


def _wholes(value: object, *, most: int, exactly: int | None = None) -> bool:
    if not isinstance(value, list) or len(value) > most or (exactly is not None and len(value) != exactly):
        return False
    return all(_whole(v) for v in value)


def _tensor(name: str, entry: object) -> StoredTensor:
    where = f"broken safetensors header: tensor {name[:80]!r}"
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        raise NotAModelError(f"{where}: expected an object with dtype, shape and data_offsets")
    shape, offsets, dtype = entry.get("shape"), entry.get("data_offsets"), entry["dtype"]
    if (
        not isinstance(shape, list)
        or not isinstance(offsets, list)
        or not _wholes(shape, most=_MAX_DIMENSIONS)
        or not _wholes(offsets, most=2, exactly=2)
    ):
        raise NotAModelError(f"{where}: expected whole numbers as shape and two as data_offsets")
    begin, end = offsets
    if begin > end:
        raise NotAModelError(f"{where}: data_offsets run backwards, from {begin} to {end}")
    elements = 1
    for dimension in shape:
        elements *= dimension
        if elements >= _MOST_ELEMENTS:
            raise NotAModelError(f"{where}: too many elements")
    bits = BITS.get(dtype)
    if bits is not None and elements * bits != (end - begin) * 8:
        raise NotAModelError(
            f"{where}: expected {elements} elements of {dtype} in {elements * bits / 8:g} bytes, found {end - begin}"
        )
    return StoredTensor(name, dtype, tuple(shape), begin, end)


def _covered(tensors: tuple[StoredTensor, ...]) -> int:
    """The end of the data; the tensors must follow each other without gap or overlap."""
    end = 0
    for tensor in tensors:
        if tensor.begin != end:
            what = "overlaps the one before it" if tensor.begin < end else "leaves a gap before it"
            raise NotAModelError(
                f"broken safetensors header: tensor {tensor.name[:80]!r} {what}: at {tensor.begin}, expected {end}"
            )
        end = tensor.end
    return end


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardIndex:
    """A ``*.safetensors.index.json``: the bytes of all shards' tensors together, and the shards' names."""

    total_size: int
    files: tuple[str, ...]


def parse_index(text: bytes) -> ShardIndex:
    """A shard index; it alone gives the weights of a sharded model.

    Raises:
        NotAModelError: It is none.
    """
    entries = _parse(text.lstrip())
    metadata, weight_map = entries.get("metadata"), entries.get("weight_map")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if isinstance(total, float) and total.is_integer():  # some writers let it become a float
        total = int(total)
    if (
        not isinstance(total, int)
        or not _whole(total)
        or not isinstance(weight_map, dict)
        or not all(isinstance(v, str) for v in weight_map.values())
    ):
        raise NotAModelError("broken safetensors index: expected metadata.total_size and a weight_map of file names")
    return ShardIndex(total_size=total, files=tuple(sorted(set(weight_map.values()))))
