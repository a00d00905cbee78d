"""The free memory that Ollama 0.9.6 asks for before it puts a whole model on one GPU.

Less free memory, and layers go to the CPU without a word; so a budget has to hold this number too, which is above what
the model then takes: one more layer, a fixed minimum, and the larger of two graphs. Newer versions allocate and look.

Source: ollama v0.9.6: llm/memory.go (EstimateGPULayers), fs/ggml/ggml.go (GraphSize), discover/gpu.go (minimum).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelfetch.formats.range_reader import MIB

if TYPE_CHECKING:
    from modelfetch.fitting.llm.hyperparameters import Hyper
    from modelfetch.formats.gguf import GgufHeader

MINIMUM = 457 * MIB
"""What Ollama sets aside on every CUDA card, in bytes."""

LEAST_CONTEXT = 2048
"""The shortest context that it reckons with, in tokens."""

_KV_HALVES = {"f16": 4, "q8_0": 2, "q4_0": 1}  # halves of a byte an element: its own rounding, not the cache's


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """``reported`` is what the log and ``ollama ps`` show, ``free`` what must be free for a full offload; bytes."""

    reported: int
    free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    e: int
    v: int
    h: int
    hkv: int
    dk: int
    c: int
    b: int


def demand(header: GgufHeader, hyper: Hyper, context: int, parallel: int, kv_type: str, batch: int) -> Demand | None:
    """What Ollama's scheduler makes of a model; None where a tensor's type, or the size in place of them, is unknown.

    Without tensors it is an upper bound, which takes the first block for at most twice the average one; the mixed
    quantizations stay well below that. A mixture of experts has no such bound.
    """
    first, others, experts = _weights(header, hyper)
    if others is None:
        return None
    context = max(context, LEAST_CONTEXT)
    batch = min(context, batch)
    cache = _cache(hyper, context, parallel, kv_type, batch)
    full, partial = _graphs(hyper, context, batch, cache=sum(cache), experts=experts)
    fixed = MINIMUM + first + cache[0] + others + sum(cache)
    return Demand(reported=fixed + full, free=fixed + max(full, partial))


def _weights(header: GgufHeader, hyper: Hyper) -> tuple[int, int | None, int]:
    """Bytes of the first block, of all blocks and the output (None: not known), and of the first gate of experts."""
    if header.tensors is None:
        known = None if header.size is None or hyper.experts else header.size
        return 2 * (known or 0) // hyper.layers, known, 0
    if any(tensor.nbytes is None for tensor in header.tensors):
        return 0, None, 0
    named = {tensor.name: tensor.nbytes or 0 for tensor in header.tensors}
    blocks = sum(nbytes for name, nbytes in named.items() if name.startswith("blk."))
    first = sum(nbytes for name, nbytes in named.items() if name.startswith("blk.0."))
    output = named.get("output.weight", named.get("token_embd.weight", 0)) + named.get("output_norm.weight", 0)
    return first, blocks + output, named.get("blk.0.ffn_gate_exps.weight", 0)


def free_needed(header: GgufHeader, hyper: Hyper, context: int, parallel: int, kv_type: str, batch: int) -> int | None:
    """The free memory for a full offload in bytes, None where it is not known."""
    found = demand(header, hyper, context, parallel, kv_type, batch)
    return found.free if found else None


def _cache(hyper: Hyper, context: int, parallel: int, kv_type: str, batch: int) -> list[int]:
    """Its cache of each layer: the largest head count for all, and for gemma3 the window in five layers of six."""
    width = (hyper.key_length + hyper.value_length) * max(hyper.kv_heads) * _KV_HALVES[kv_type] // 2
    cache = [context * width] * hyper.layers
    if hyper.arch == "gemma3" and hyper.window:
        short = (parallel * hyper.window + batch) * width
        cache = [whole if (layer + 1) % 6 == 0 else short for layer, whole in enumerate(cache)]
    return cache


def _graphs(hyper: Hyper, context: int, batch: int, *, cache: int, experts: int) -> tuple[int, int]:
    """Its graph for a full offload and for a partial one, in bytes; ``experts`` are the bytes of a gate of experts."""
    s = _Sizes(
        e=hyper.embedding,
        v=hyper.vocabulary,
        h=max(hyper.heads),
        hkv=max(hyper.kv_heads),
        dk=hyper.key_length,
        c=context,
        b=batch,
    )
    if hyper.arch == "llama":
        full, partial = _llama(s)
        return full, _mixture(s, max(hyper.ff), experts) if experts else partial
    if hyper.arch == "qwen2":
        return _qwen2(s)
    if hyper.arch in ("gemma2", "gemma3"):
        return _gemma(s)
    rough = s.h // (min(hyper.kv_heads) or 1) * cache // 6  # what it takes for any other architecture
    return rough, rough


def _llama(s: _Sizes) -> tuple[int, int]:
    full = 4 * s.b * max(1 + 4 * s.e + s.c * (1 + s.h), s.e + s.v)
    attention = 4 * s.b * (1 + s.e + max(s.c, s.e)) + s.e * s.e * 9 // 16
    attention += 4 * s.c * (s.b * s.h + s.e // s.h * s.hkv)
    output = 4 * s.b * (s.e + s.v) + s.e * s.v * 105 // 128
    return full, 4 * s.b * s.e + max(attention, output)


def _mixture(s: _Sizes, ff: int, experts: int) -> int:
    keys = s.e // s.h * s.hkv
    moved = 3 * experts + 4 * s.b * (2 * ff + s.hkv + s.e + s.c + keys)
    return max(moved, 4 * (s.c * s.b * s.h + s.c * keys + s.b * 1024 + keys * s.b))


def _qwen2(s: _Sizes) -> tuple[int, int]:
    attention, output = 4 * s.b * (1 + 2 * s.e + s.c * (1 + s.h)), 4 * s.b * (s.e + s.v)
    return max(output, attention), max(output + s.e * s.v * 105 // 128, attention + 4 * s.e * (1 + s.c))


def _gemma(s: _Sizes) -> tuple[int, int]:
    q, output = s.dk * s.h, 4 * s.b * (s.e + s.v)
    attention = 4 * s.b * (2 + s.c * (1 + s.h) + 2 * s.e + 2 * q)
    partial = 4 * s.b * (1 + s.c * (1 + s.h) + 2 * s.e + 2 * q) + 32 * s.dk * s.c + s.e * q * 9 // 16
    return max(output, attention), max(output + s.e * s.v * 105 // 128, partial)
