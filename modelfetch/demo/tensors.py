"""safetensors files whose content is computed on read.

Source of the format: the safetensors README (eight bytes of length, a JSON header, the data).
"""

from __future__ import annotations

import json
import struct
from math import prod
from typing import TYPE_CHECKING

from modelfetch.demo.body import PatternBody

if TYPE_CHECKING:
    from collections.abc import Mapping

HALF = 2
"""Bytes of a float16."""


def safetensors(shapes: Mapping[str, tuple[int, ...]], *, seed: int, title: str) -> PatternBody:
    """Build a file of float16 tensors with finite pseudo-random values, in the given order."""
    header: dict[str, object] = {"__metadata__": {"format": "pt", "modelspec.title": title}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + prod(shape) * HALF
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # as the reference writer does, to align the data
    prefix = struct.pack("<Q", len(text)) + text
    return PatternBody(len(prefix) + offset, seed=seed, prefix=prefix, half_floats=True)
