"""PyTorch files (a stored zip with a pickled state dictionary, as ``torch.save`` writes it), and plain stored zips.

Source of the format: torch/serialization.py (archive names, ``version``, ``byteorder``) and pickle protocol 2.
"""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from modelfetch.demo.weights import small

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Tensor:
    """A float32 tensor of pseudo-random values."""

    shape: tuple[int, ...]
    seed: int


Value = int | str | Tensor | dict[str, "Value"]


def torch_file(state: Mapping[str, Value], *, name: str = "archive") -> bytes:
    """Build a file that ``torch.load(weights_only=True)`` reads as ``state``. ``name`` is the folder inside the zip."""
    storages: list[bytes] = []
    pickled = b"\x80\x02" + _value(dict(state), storages) + b"."
    members = [("data.pkl", pickled), ("byteorder", b"little")]
    members += [(f"data/{index}", data) for index, data in enumerate(storages)]
    members.append(("version", b"3\n"))
    return stored_zip([(f"{name}/{path}", data) for path, data in members])


def stored_zip(members: Sequence[tuple[str, bytes]]) -> bytes:
    """Build an uncompressed zip whose bytes depend only on its members; a path that ends in a slash is a folder."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path, data in members:
            info = zipfile.ZipInfo(path, date_time=(2026, 1, 1, 0, 0, 0))
            info.create_system = 3
            info.external_attr = (0o40755 << 16 | 0x10) if path.endswith("/") else 0o100644 << 16
            archive.writestr(info, data)
    return target.getvalue()


def _value(value: Value, storages: list[bytes]) -> bytes:
    if isinstance(value, dict):
        items = b"".join(_text(key) + _value(item, storages) for key, item in value.items())
        return b"}(" + items + b"u"
    if isinstance(value, Tensor):
        return _tensor(value, storages)
    return _text(value) if isinstance(value, str) else _integer(value)


def _tensor(tensor: Tensor, storages: list[bytes]) -> bytes:
    """Encode a call of ``torch._utils._rebuild_tensor_v2`` on a storage with a persistent id."""
    count = prod(tensor.shape)
    key = str(len(storages))
    storages.append(small(count, seed=tensor.seed))
    storage = b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text(key) + _text("cpu") + _integer(count) + b"tQ"
    strides = [prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))]
    shape = b"(" + b"".join(map(_integer, tensor.shape)) + b"t"
    steps = b"(" + b"".join(map(_integer, strides)) + b"t"
    hooks = b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _integer(0) + shape + steps + b"\x89" + hooks + b"tR"


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)
