"""Makes GGUF and safetensors headers: small files of any shape, and the headers of real models, without their weights.

A file is its header plus a length; ``write`` leaves the weights as a hole of zeros, so that 40 GB take no space.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}

# id of each ggml type, elements and bytes of its block (source: gguf-py, GGML_QUANT_SIZES)
GGML = {
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q5_0": (6, 32, 22),
    "Q8_0": (8, 32, 34),
    "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210),
    "BF16": (30, 1, 2),
    "MXFP4": (39, 32, 17),
}

Order = Literal["converter", "sorted", "tokenizer-first"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A metadata value: its type, and for arrays the type of the elements."""

    kind: int
    value: object
    element: int | None = None


def u32(value: int) -> Value:
    return Value(kind=U32, value=value)


def f32(value: float) -> Value:
    return Value(kind=F32, value=value)


def text(value: str) -> Value:
    return Value(kind=STRING, value=value)


def array(element: int, values: Iterable[object]) -> Value:
    return Value(kind=ARRAY, value=list(values), element=element)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """A tensor to be declared; ``offset`` only where it must be a wrong one."""

    name: str
    shape: tuple[int, ...]
    kind: str = "F16"
    offset: int | None = None
    kind_id: int | None = None

    @property
    def nbytes(self) -> int:
        _, elements, size = GGML[self.kind]
        return math.prod(self.shape) // elements * size


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeFile:
    """A file of which only the header exists; also a range reader that counts its requests."""

    header: bytes = field(repr=False)
    size: int | None
    asked: list[tuple[int, int]] = field(default_factory=list)

    def read(self, offset: int, length: int) -> bytes:
        self.asked.append((offset, length))
        end = offset + length if self.size is None else min(offset + length, self.size)
        known = self.header[offset:end]
        return known + bytes(max(0, end - offset - len(known)))

    def write(self, path: Path) -> Path:
        with path.open("wb") as f:
            f.write(self.header)
            f.truncate(self.size or len(self.header))
        return path


def _string(order: str, value: str | bytes, *, version: int) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack(order + ("I" if version == 1 else "Q"), len(raw)) + raw


@functools.cache
def _strings(order: str, values: Sequence[str | bytes], *, version: int) -> bytes:
    """A vocabulary has more than a hundred thousand, and the models of many tests have the same one."""
    length = struct.Struct(order + ("I" if version == 1 else "Q")).pack
    raw = [value.encode() if isinstance(value, str) else value for value in values]
    return b"".join(itertools.chain.from_iterable(zip(map(length, map(len, raw)), raw, strict=True)))


def _value(order: str, v: Value, *, version: int) -> bytes:
    if v.kind == STRING:
        assert isinstance(v.value, str)
        return _string(order, v.value, version=version)
    if v.kind == ARRAY:
        assert isinstance(v.value, Sequence)
        assert v.element is not None
        head = struct.pack(order + ("II" if version == 1 else "IQ"), v.element, len(v.value))
        if v.element in _FORMATS:
            return head + struct.pack(f"{order}{len(v.value)}{_FORMATS[v.element]}", *v.value)
        return head + _strings(order, tuple(v.value), version=version)
    return struct.pack(order + _FORMATS[v.kind], v.value)


def gguf(
    metadata: Mapping[str, Value],
    tensors: Sequence[TensorSpec],
    *,
    version: int = 3,
    big_endian: bool = False,
    alignment: int = 32,
    size: int | None = None,
) -> MadeFile:
    """A GGUF file; tensors are laid out in order, each aligned, unless they name their own offset."""
    order = ">" if big_endian else "<"
    count, dim = ("I", "I") if version == 1 else ("Q", "Q")
    out = [b"GGUF", struct.pack(f"{order}I{count}{count}", version, len(tensors), len(metadata))]
    for key, v in metadata.items():
        out += [
            _string(order, key, version=version),
            struct.pack(order + "I", v.kind),
            _value(order, v, version=version),
        ]
    position = 0
    for t in tensors:
        at = position if t.offset is None else t.offset
        kind = GGML[t.kind][0] if t.kind_id is None else t.kind_id
        out.append(_string(order, t.name, version=version))
        out.append(struct.pack(f"{order}I{len(t.shape)}{dim}IQ", len(t.shape), *t.shape, kind, at))
        position += -(-t.nbytes // alignment) * alignment
    header = b"".join(out)
    header += bytes(-len(header) % alignment)
    return MadeFile(header=header, size=len(header) + position if size is None else size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The shape of a language model, as far as its memory depends on it."""

    arch: str = "llama"
    layers: int = 4
    embedding: int = 256
    heads: int = 4
    kv_heads: int | tuple[int, ...] = 4
    ff: int = 512
    vocab: int = 512
    head_dim: int | None = None
    context: int = 131072
    tied: bool = False
    experts: int = 0
    experts_used: int = 0
    window: int | None = None
    kind: str = "F16"
    mix: bool = False
    rope_freqs: bool = False

    def kv_of(self, layer: int) -> int:
        return self.kv_heads if isinstance(self.kv_heads, int) else self.kv_heads[layer]

    @property
    def dim(self) -> int:
        return self.head_dim or self.embedding // self.heads


@functools.cache
def _tokens(number: int) -> Sequence[str]:
    return [f"token-{i:06d}" for i in range(number)]


def _vocabulary(shape: Shape) -> dict[str, Value]:
    if shape.arch in {"bert", "nomic-bert"}:
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(shape.vocab - 5))]
        kind, special = (
            "bert",
            {
                "unknown_token_id": 1,
                "cls_token_id": 2,
                "seperator_token_id": 3,
                "padding_token_id": 0,
                "mask_token_id": 4,
                "bos_token_id": 2,
                "eos_token_id": 3,
            },
        )
    else:
        words = list(_tokens(shape.vocab))
        kind, special = "gpt2", {"bos_token_id": 0, "eos_token_id": 1}
    made = {
        "tokenizer.ggml.model": text(kind),
        "tokenizer.ggml.pre": text("default"),
        "tokenizer.ggml.tokens": array(STRING, words),
        "tokenizer.ggml.token_type": array(I32, [3 if i < 2 else 1 for i in range(shape.vocab)]),
    }
    if shape.arch == "gemma3":  # Ollama's engine reads it as a sentencepiece vocabulary and wants scores
        made |= {"tokenizer.ggml.model": text("llama"), "tokenizer.ggml.scores": array(F32, [0.0] * shape.vocab)}
    elif kind == "gpt2":
        made["tokenizer.ggml.merges"] = array(STRING, ["t o", "k e"])
    else:
        made["tokenizer.ggml.token_type_count"] = u32(2)
    return made | {f"tokenizer.ggml.{key}": u32(value) for key, value in special.items()}


def metadata(shape: Shape, order: Order = "converter") -> dict[str, Value]:
    """The key-value pairs of such a model, in the order of a converter, Ollama's own writer or another program."""
    a = shape.arch
    heads = u32(shape.kv_heads) if isinstance(shape.kv_heads, int) else array(U32, shape.kv_heads)
    model = {
        f"{a}.block_count": u32(shape.layers),
        f"{a}.context_length": u32(shape.context),
        f"{a}.embedding_length": u32(shape.embedding),
        f"{a}.feed_forward_length": u32(shape.ff),
        f"{a}.attention.head_count": u32(shape.heads),
        f"{a}.attention.head_count_kv": heads,
        f"{a}.attention.layer_norm_rms_epsilon": f32(1e-5),
    }
    if shape.head_dim is not None:
        model[f"{a}.attention.key_length"] = u32(shape.head_dim)
        model[f"{a}.attention.value_length"] = u32(shape.head_dim)
    if shape.experts:
        model |= {f"{a}.expert_count": u32(shape.experts), f"{a}.expert_used_count": u32(shape.experts_used)}
        if a == "qwen3moe":
            model[f"{a}.expert_feed_forward_length"] = u32(shape.ff)
    if a == "granite":
        model |= {
            f"{a}.{key}": f32(1.0) for key in ("logit_scale", "residual_scale", "embedding_scale", "attention.scale")
        }
    if shape.window is not None:
        model[f"{a}.attention.sliding_window"] = u32(shape.window)
    if a in {"bert", "nomic-bert"}:
        model |= {
            f"{a}.attention.layer_norm_epsilon": f32(1e-12),
            f"{a}.attention.causal": Value(kind=BOOL, value=False),
            f"{a}.pooling_type": u32(1),
        }
    general = {"general.architecture": text(a), "general.name": text("made here"), "general.file_type": u32(1)}
    words = _vocabulary(shape)
    if order == "converter":
        return general | model | words
    if order == "tokenizer-first":
        return words | general | model
    return dict(sorted((general | model | words).items()))


def _more_bits(layer: int, layers: int) -> bool:
    """Whether the Q4_K_M recipe gives this layer's value and down projections more bits (source: llama-quant.cpp)."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _mixed(shape: Shape, name: str, layer: int, row: int) -> str:
    """The type of a matrix under Q4_K_M (source: llama-quant.cpp, llama_tensor_get_type)."""
    if name in {"output", "token_embd"}:
        kind = "Q6_K" if name == "output" or shape.tied else "Q4_K"
    elif name in {"attn_v", "ffn_down"} and _more_bits(layer, shape.layers):
        kind = "Q6_K"
    elif name == "attn_v" and shape.layers == 80:
        kind = "Q5_K"
    else:
        kind = "Q4_K"
    if row % 256:
        return {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}[kind]
    return kind


def _block(shape: Shape, layer: int) -> list[tuple[str, tuple[int, ...]]]:
    """The weights of one block, names without ``blk.N.``; one-dimensional ones stay F32."""
    e, ff, q, kv = shape.embedding, shape.ff, shape.heads * shape.dim, shape.kv_of(layer) * shape.dim
    out: list[tuple[str, tuple[int, ...]]] = [("attn_norm.weight", (e,))]
    if shape.arch == "phi3":
        out.append(("attn_qkv.weight", (e, q + 2 * kv)))
    else:
        out += [("attn_q.weight", (e, q)), ("attn_k.weight", (e, kv)), ("attn_v.weight", (e, kv))]
    out += [("attn_output.weight", (q, e)), ("ffn_norm.weight", (e,))]
    if shape.arch == "qwen2":
        out += [("attn_q.bias", (q,)), ("attn_k.bias", (kv,)), ("attn_v.bias", (kv,))]
    if shape.arch in {"qwen3", "qwen3moe", "gemma3"}:
        out += [("attn_k_norm.weight", (shape.dim,)), ("attn_q_norm.weight", (shape.dim,))]
    if shape.arch in {"gemma2", "gemma3"}:
        out += [("post_attention_norm.weight", (e,)), ("post_ffw_norm.weight", (e,))]
    if shape.experts:
        x = shape.experts
        out.append(("ffn_gate_inp.weight", (e, x)))
        out += [
            ("ffn_gate_exps.weight", (e, ff, x)),
            ("ffn_down_exps.weight", (ff, e, x)),
            ("ffn_up_exps.weight", (e, ff, x)),
        ]
    elif shape.arch == "phi3":
        out += [("ffn_down.weight", (ff, e)), ("ffn_up.weight", (e, 2 * ff))]
    else:
        out += [("ffn_gate.weight", (e, ff)), ("ffn_down.weight", (ff, e)), ("ffn_up.weight", (e, ff))]
    return out


def _bert_block(shape: Shape) -> list[tuple[str, tuple[int, ...]]]:
    e, ff = shape.embedding, shape.ff
    norms = [
        (f"{name}.{part}", (e,)) for name in ("attn_output_norm", "layer_output_norm") for part in ("weight", "bias")
    ]
    out: list[tuple[str, tuple[int, ...]]] = [
        *norms,
        ("attn_output.weight", (e, e)),
        ("ffn_up.weight", (e, ff)),
        ("ffn_down.weight", (ff, e)),
    ]
    if shape.arch == "nomic-bert":
        return [*out, ("attn_qkv.weight", (e, 3 * e)), ("ffn_gate.weight", (e, ff))]
    for name in ("attn_q", "attn_k", "attn_v"):
        out += [(f"{name}.weight", (e, e)), (f"{name}.bias", (e,))]
    return [*out, ("attn_output.bias", (e,)), ("ffn_up.bias", (ff,)), ("ffn_down.bias", (e,))]


def tensors(shape: Shape) -> list[TensorSpec]:
    """All tensors of such a model; matrices in its type or in the Q4_K_M mix, vectors in F32."""
    e, bert = shape.embedding, shape.arch in {"bert", "nomic-bert"}
    named: list[tuple[str, tuple[int, ...]]] = [("token_embd.weight", (e, shape.vocab))]
    if bert:
        named += [("token_types.weight", (e, 2)), ("token_embd_norm.weight", (e,)), ("token_embd_norm.bias", (e,))]
        named += [("position_embd.weight", (e, shape.context))] if shape.arch == "bert" else []
    else:
        named.append(("output_norm.weight", (e,)))
        named += [] if shape.tied else [("output.weight", (e, shape.vocab))]
        named += [("rope_freqs.weight", (shape.dim // 2,))] if shape.rope_freqs else []
    for layer in range(shape.layers):
        block = _bert_block(shape) if bert else _block(shape, layer)
        named += [(f"blk.{layer}.{name}", dims) for name, dims in block]
    return [TensorSpec(name=name, shape=dims, kind=_kind(shape, name, dims)) for name, dims in named]


def _kind(shape: Shape, name: str, dims: tuple[int, ...]) -> str:
    if len(dims) == 1 or "ffn_gate_inp" in name or name in {"token_types.weight", "position_embd.weight"}:
        return "F32"
    if not shape.mix:
        return shape.kind
    parts = name.split(".")
    layer = int(parts[1]) if parts[0] == "blk" else -1
    return _mixed(shape, parts[-2], layer, dims[0])


def llm(shape: Shape, *, order: Order = "converter", version: int = 3, big_endian: bool = False) -> MadeFile:
    """A whole language model of such a shape."""
    return gguf(metadata(shape, order), tensors(shape), version=version, big_endian=big_endian)


def safetensors(
    tensors_of: Mapping[str, tuple[str, Sequence[int]]], *, meta: Mapping[str, str] | None = None
) -> MadeFile:
    """A safetensors file of such tensors: name → (dtype, shape), laid out without gaps."""
    bits = {
        "F64": 64,
        "F32": 32,
        "F16": 16,
        "BF16": 16,
        "F8_E4M3": 8,
        "F8_E5M2": 8,
        "I64": 64,
        "U8": 8,
        "I8": 8,
        "F4": 4,
        "I32": 32,
    }
    entries: dict[str, object] = {"__metadata__": dict(meta)} if meta else {}
    position = 0
    for name, (dtype, shape) in tensors_of.items():
        end = position + math.prod(shape) * bits[dtype] // 8
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    return raw_safetensors(json.dumps(entries, separators=(",", ":")).encode(), position)


def raw_safetensors(head: bytes, data: int) -> MadeFile:
    """A safetensors file with this JSON, valid or not, and so many bytes of data."""
    head += b" " * (-len(head) % 8)
    return MadeFile(header=struct.pack("<Q", len(head)) + head, size=8 + len(head) + data)
