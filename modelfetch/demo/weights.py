"""Weights for tiny models that really run: small noise, and a text that the model can recite.

A recital is a chain of tokens. Its states have orthogonal codes (rows of a Hadamard matrix): a token's embedding
is the code of the state that it leads to, and a token's output row is the code of the state that it may follow.
The layers in between add noise that is too small to matter, so after any prompt the model recites its text and
stops. All arithmetic is exact in float32, so the bytes are the same on every machine.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from modelfetch.demo.body import noise

if TYPE_CHECKING:
    from collections.abc import Sequence


def small(count: int, *, seed: int, bits: int = 8) -> bytes:
    """Return ``count`` float32 values, evenly spread between -2**-bits and 2**-bits."""
    factor = 2.0 ** -(15 + bits)
    return pack([value * factor for value in struct.unpack(f"<{count}h", noise(2 * count, seed=seed))])


def constant(count: int, value: float) -> bytes:
    """Return ``count`` times the same float32."""
    return struct.pack("<f", value) * count


def pack(values: Sequence[float]) -> bytes:
    """Encode values as little-endian float32."""
    return struct.pack(f"<{len(values)}f", *values)


def code(state: int, width: int, scale: float = 1.0) -> bytes:
    """Return a state's code: a Hadamard row of ``width`` (a power of two) whose values add up to zero."""
    if not 0 <= state < width - 1:
        raise ValueError(f"{width} dimensions hold {width - 1} states, not state {state}")
    return pack([-scale if ((state + 1) & column).bit_count() % 2 else scale for column in range(width)])


def recital_embeddings(vocabulary: int, chain: Sequence[int], width: int) -> bytes:
    """Return one row per token. A token outside the chain, such as any of a prompt, leads to the chain's start."""
    rows = [code(0, width)] * vocabulary
    for state, token in enumerate(chain, start=1):
        rows[token] = code(min(state, len(chain) - 1), width)
    return b"".join(rows)


def recital_outputs(vocabulary: int, chain: Sequence[int], width: int, *, seed: int, scale: float) -> bytes:
    """Return one row per token: large if the token is the next of the chain, noise if it is not in the chain.

    The next token's logit is higher than the others by ``width * scale``.
    """
    rows = [small(width, seed=seed)] * vocabulary
    for state, token in enumerate(chain):
        rows[token] = code(state, width, scale)
    return b"".join(rows)
