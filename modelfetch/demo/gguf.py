"""A tiny Llama in GGUF version 3, as llama.cpp and Ollama load it.

Source of the format: the GGUF specification in ggml-org/ggml (docs/gguf.md); names as llama.cpp reads them.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from modelfetch.demo.weights import constant, recital_embeddings, recital_outputs, small

if TYPE_CHECKING:
    from collections.abc import Sequence

U32, I32, F32, STRING, ARRAY = 4, 5, 6, 8, 9
ALIGNMENT = 32
WIDTH, FEED_FORWARD, HEADS, KV_HEADS, BLOCKS, CONTEXT = 64, 128, 4, 2, 2, 256
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
BOS, EOS = 1, 2

Tensor = tuple[str, tuple[int, ...], bytes]


def llama(name: str, sentence: str, *, seed: int) -> bytes:
    """Build a model of about 440 KB that recites ``sentence`` after any prompt."""
    words = ["\u2581" + word for word in sentence.split()]
    specials = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]  # all of them: the tokenizer's byte fallback
    tokens = specials + bytes_ + words
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * len(words)
    chain = [*range(len(tokens) - len(words), len(tokens)), EOS]
    return encode(_metadata(name, tokens, types), _tensors(len(tokens), chain, seed))


def _metadata(name: str, tokens: list[str], types: list[int]) -> list[tuple[str, bytes]]:
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(tokens) - 259)]
    return [
        ("general.architecture", _string("llama")),
        ("general.name", _string(name)),
        ("general.file_type", _u32(0)),
        ("llama.block_count", _u32(BLOCKS)),
        ("llama.context_length", _u32(CONTEXT)),
        ("llama.embedding_length", _u32(WIDTH)),
        ("llama.feed_forward_length", _u32(FEED_FORWARD)),
        ("llama.attention.head_count", _u32(HEADS)),
        ("llama.attention.head_count_kv", _u32(KV_HEADS)),
        ("llama.attention.layer_norm_rms_epsilon", struct.pack("<If", F32, 2.0**-17)),
        ("llama.rope.dimension_count", _u32(WIDTH // HEADS)),
        ("llama.vocab_size", _u32(len(tokens))),
        ("tokenizer.ggml.model", _string("llama")),
        ("tokenizer.ggml.tokens", _array(STRING, [_text(token) for token in tokens])),
        ("tokenizer.ggml.scores", _array(F32, [struct.pack("<f", score) for score in scores])),
        ("tokenizer.ggml.token_type", _array(I32, [struct.pack("<i", kind) for kind in types])),
        ("tokenizer.ggml.bos_token_id", _u32(BOS)),
        ("tokenizer.ggml.eos_token_id", _u32(EOS)),
        ("tokenizer.ggml.unknown_token_id", _u32(0)),
    ]


def _tensors(vocabulary: int, chain: Sequence[int], seed: int) -> list[Tensor]:
    """Return the tensors, with shapes in GGML's order: the fastest dimension first."""
    kv = WIDTH // HEADS * KV_HEADS
    tensors: list[Tensor] = [("token_embd.weight", (WIDTH, vocabulary), recital_embeddings(vocabulary, chain, WIDTH))]
    for block in range(BLOCKS):
        shapes = {
            "attn_q": (WIDTH, WIDTH),
            "attn_k": (WIDTH, kv),
            "attn_v": (WIDTH, kv),
            "attn_output": (WIDTH, WIDTH),
            "ffn_gate": (WIDTH, FEED_FORWARD),
            "ffn_up": (WIDTH, FEED_FORWARD),
            "ffn_down": (FEED_FORWARD, WIDTH),
        }
        norms = [f"blk.{block}.attn_norm.weight", f"blk.{block}.ffn_norm.weight"]
        tensors += [(norm, (WIDTH,), constant(WIDTH, 1.0)) for norm in norms]
        for index, (name, shape) in enumerate(shapes.items()):
            weights = small(shape[0] * shape[1], seed=seed + 100 * block + index)
            tensors.append((f"blk.{block}.{name}.weight", shape, weights))
    tensors.append(("output_norm.weight", (WIDTH,), constant(WIDTH, 1.0)))
    outputs = recital_outputs(vocabulary, chain, WIDTH, seed=seed + 99, scale=0.5)
    tensors.append(("output.weight", (WIDTH, vocabulary), outputs))
    return tensors


def encode(metadata: Sequence[tuple[str, bytes]], tensors: Sequence[Tensor]) -> bytes:
    """Encode the file. Metadata values are already encoded with their type; every tensor is float32."""
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    head += [_text(key) + value for key, value in metadata]
    offset = 0
    data: list[bytes] = []
    for name, shape, weights in tensors:
        head.append(_text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape))
        head.append(struct.pack("<IQ", 0, offset))  # type 0: float32
        data.append(_padded(weights))
        offset += len(data[-1])
    return _padded(b"".join(head)) + b"".join(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _string(value: str) -> bytes:
    return struct.pack("<I", STRING) + _text(value)


def _u32(value: int) -> bytes:
    return struct.pack("<II", U32, value)


def _array(kind: int, values: list[bytes]) -> bytes:
    return struct.pack("<IIQ", ARRAY, kind, len(values)) + b"".join(values)
