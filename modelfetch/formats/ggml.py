"""The tensor types of ggml and the bytes that a tensor takes.

Source: gguf-py, GGML_QUANT_SIZES; ollama, fs/ggml/ggml.go. An id that is not listed is unknown.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class GgmlType(NamedTuple):
    """A type: ``block`` elements take ``size`` bytes."""

    name: str
    block: int
    size: int


TYPES: dict[int, GgmlType] = {
    0: GgmlType("F32", 1, 4),
    1: GgmlType("F16", 1, 2),
    2: GgmlType("Q4_0", 32, 18),
    3: GgmlType("Q4_1", 32, 20),
    6: GgmlType("Q5_0", 32, 22),
    7: GgmlType("Q5_1", 32, 24),
    8: GgmlType("Q8_0", 32, 34),
    9: GgmlType("Q8_1", 32, 36),
    10: GgmlType("Q2_K", 256, 84),
    11: GgmlType("Q3_K", 256, 110),
    12: GgmlType("Q4_K", 256, 144),
    13: GgmlType("Q5_K", 256, 176),
    14: GgmlType("Q6_K", 256, 210),
    15: GgmlType("Q8_K", 256, 292),
    16: GgmlType("IQ2_XXS", 256, 66),
    17: GgmlType("IQ2_XS", 256, 74),
    18: GgmlType("IQ3_XXS", 256, 98),
    19: GgmlType("IQ1_S", 256, 50),
    20: GgmlType("IQ4_NL", 32, 18),
    21: GgmlType("IQ3_S", 256, 110),
    22: GgmlType("IQ2_S", 256, 82),
    23: GgmlType("IQ4_XS", 256, 136),
    24: GgmlType("I8", 1, 1),
    25: GgmlType("I16", 1, 2),
    26: GgmlType("I32", 1, 4),
    27: GgmlType("I64", 1, 8),
    28: GgmlType("F64", 1, 8),
    29: GgmlType("IQ1_M", 256, 56),
    30: GgmlType("BF16", 1, 2),
    34: GgmlType("TQ1_0", 256, 54),
    35: GgmlType("TQ2_0", 256, 66),
    39: GgmlType("MXFP4", 32, 17),
    40: GgmlType("NVFP4", 64, 36),
}


def tensor_bytes(kind: int, shape: tuple[int, ...]) -> int | None:
    """Bytes of a tensor of that type id and shape (fastest dimension first); None for an unknown type.

    Raises:
        ValueError: The rows are not a whole number of blocks.
    """
    known = TYPES.get(kind)
    if known is None:
        return None
    row = shape[0] if shape else 1
    if row % known.block:
        raise ValueError(f"rows of {row} elements are not a whole number of {known.name} blocks of {known.block}")
    return math.prod(shape) // known.block * known.size
