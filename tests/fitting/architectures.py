"""GGUF headers of the architectures of today, small or with the shapes of real models, without their weights.

Keys and tensor names: llama.cpp, src/llama-arch.cpp and the ``load_arch_tensors`` of each file in src/models.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.fitting.build import (
    BOOL,
    GGML,
    I32,
    STRING,
    MadeFile,
    TensorSpec,
    Value,
    array,
    f32,
    gguf,
    text,
    u32,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Named = tuple[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A model of an architecture; ``more`` holds the numbers that only that architecture has."""

    arch: str
    layers: int
    embedding: int
    heads: int
    kv_heads: int | tuple[int, ...]
    head: int
    ff: int | tuple[int, ...]
    vocab: int
    context: int = 262144
    tied: bool = False
    experts: int = 0
    used: int = 0
    kind: str = "F16"
    more: Mapping[str, Any] = field(default_factory=dict)

    def kv_of(self, layer: int) -> int:
        return self.kv_heads if isinstance(self.kv_heads, int) else self.kv_heads[layer]

    def ff_of(self, layer: int) -> int:
        return self.ff if isinstance(self.ff, int) else self.ff[layer]


def _value(number: Any) -> Value:
    if isinstance(number, bool):
        return Value(kind=BOOL, value=number)
    if isinstance(number, float):
        return f32(number)
    if isinstance(number, tuple):
        return array(BOOL if isinstance(number[0], bool) else I32, number)
    return u32(number)


@functools.lru_cache(maxsize=8)
def _tokens(count: int) -> tuple[str, ...]:
    return tuple(f"token-{i:06d}" for i in range(count))


def _words(spec: Spec) -> dict[str, Value]:
    bert = spec.arch in ("bert", "nomic-bert")
    if bert:
        words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(spec.vocab - 5)))
        special = {"unknown_token_id": 1, "cls_token_id": 2, "seperator_token_id": 3, "padding_token_id": 0}
        special |= {"mask_token_id": 4, "bos_token_id": 2, "eos_token_id": 3}
        made = {"tokenizer.ggml.model": text("bert"), "tokenizer.ggml.token_type_count": u32(2)}
    else:
        words = _tokens(spec.vocab)
        special = {"bos_token_id": 0, "eos_token_id": 1}
        made = {"tokenizer.ggml.model": text("gpt2"), "tokenizer.ggml.merges": array(STRING, ["t o", "k e"])}
    return {
        **made,
        "tokenizer.ggml.pre": text("default"),
        "tokenizer.ggml.tokens": array(STRING, words),
        "tokenizer.ggml.token_type": array(I32, [3 if i < 2 else 1 for i in range(spec.vocab)]),
        **{f"tokenizer.ggml.{key}": u32(value) for key, value in special.items()},
    }


def metadata(spec: Spec) -> dict[str, Value]:
    """The key-value pairs, in the order of a converter."""
    a = spec.arch
    pairs = {
        "block_count": spec.layers,
        "context_length": spec.context,
        "embedding_length": spec.embedding,
        "feed_forward_length": spec.ff,
        "attention.head_count": spec.heads,
        "attention.head_count_kv": spec.kv_heads,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.key_length": spec.head,
        "attention.value_length": spec.head,
        **({"expert_count": spec.experts, "expert_used_count": spec.used} if spec.experts else {}),
        **spec.more,
    }
    if a in ("bert", "nomic-bert"):
        pairs["attention.layer_norm_epsilon"] = 1e-12
    general = {"general.architecture": text(a), "general.name": text("made here"), "general.file_type": u32(1)}
    return general | {f"{a}.{key}": _value(value) for key, value in pairs.items() if value is not None} | _words(spec)


# ── blocks ──
def _qkv(spec: Spec, layer: int, *, bias: bool = False, wide: int = 1) -> list[Named]:
    e, q, kv = spec.embedding, spec.heads * spec.head, spec.kv_of(layer) * spec.head
    out: list[Named] = [
        ("attn_q.weight", (e, q * wide)),
        ("attn_k.weight", (e, kv)),
        ("attn_v.weight", (e, kv)),
        ("attn_output.weight", (q, e)),
    ]
    return out + ([("attn_q.bias", (q,)), ("attn_k.bias", (kv,)), ("attn_v.bias", (kv,))] if bias else [])


def _gated(e: int, ff: int, suffix: str = "") -> list[Named]:
    return [
        (f"ffn_gate{suffix}.weight", (e, ff)),
        (f"ffn_up{suffix}.weight", (e, ff)),
        (f"ffn_down{suffix}.weight", (ff, e)),
    ]


def _experts(spec: Spec, ff: int) -> list[Named]:
    e, x = spec.embedding, spec.experts
    return [
        ("ffn_gate_inp.weight", (e, x)),
        ("ffn_gate_exps.weight", (e, ff, x)),
        ("ffn_up_exps.weight", (e, ff, x)),
        ("ffn_down_exps.weight", (ff, e, x)),
    ]


def _norms(e: int, *names: str) -> list[Named]:
    return [(f"{name}.weight", (e,)) for name in names]


def _llama(spec: Spec, layer: int) -> list[Named]:
    e = spec.embedding
    out = [*_norms(e, "attn_norm", "ffn_norm"), *_qkv(spec, layer, bias=spec.arch == "qwen2")]
    if spec.arch in ("qwen3", "qwen3moe", "gemma3", "gemma-embedding"):
        out += _norms(spec.head, "attn_q_norm", "attn_k_norm")
    if spec.arch in ("gemma2", "gemma3", "gemma-embedding"):
        out += _norms(e, "post_attention_norm", "post_ffw_norm")
    if spec.experts:
        return out + _experts(spec, spec.more.get("expert_feed_forward_length", spec.ff_of(layer)))
    return out + _gated(e, spec.ff_of(layer))


def _phi3(spec: Spec, layer: int) -> list[Named]:
    e, q, kv, ff = spec.embedding, spec.heads * spec.head, spec.kv_of(layer) * spec.head, spec.ff_of(layer)
    matrices: list[Named] = [("attn_qkv.weight", (e, q + 2 * kv)), ("attn_output.weight", (q, e))]
    return [
        *_norms(e, "attn_norm", "ffn_norm"),
        *matrices,
        ("ffn_up.weight", (e, 2 * ff)),
        ("ffn_down.weight", (ff, e)),
    ]


def _qwen35(spec: Spec, layer: int) -> list[Named]:
    e, more = spec.embedding, spec.more
    out = _norms(e, "attn_norm", "post_attention_norm")
    if (layer + 1) % more["full_attention_interval"] == 0:
        out += _qkv(spec, layer, wide=2) + _norms(spec.head, "attn_q_norm", "attn_k_norm")
    else:
        ranks, groups, state = more["ssm.time_step_rank"], more["ssm.group_count"], more["ssm.state_size"]
        value, keys = ranks * state, 2 * groups * state
        out += [
            ("attn_qkv.weight", (e, keys + value)),
            ("attn_gate.weight", (e, value)),
            ("ssm_conv1d.weight", (more["ssm.conv_kernel"], keys + value)),
            ("ssm_dt.bias", (ranks,)),
            ("ssm_a", (ranks,)),
            ("ssm_beta.weight", (e, ranks)),
            ("ssm_alpha.weight", (e, ranks)),
            ("ssm_norm.weight", (state,)),
            ("ssm_out.weight", (value, e)),
        ]
    if not spec.experts:
        return out + _gated(e, spec.ff_of(layer))
    shared = more["expert_shared_feed_forward_length"]
    out += _experts(spec, more["expert_feed_forward_length"])
    return [*out, ("ffn_gate_inp_shexp.weight", (e,)), *_gated(e, shared, "_shexp")]


def _gemma4(spec: Spec, layer: int) -> list[Named]:
    e, more = spec.embedding, spec.more
    windowed = more["attention.sliding_window_pattern"][layer]
    head = more["attention.key_length_swa"] if windowed else spec.head
    q, kv = spec.heads * head, spec.kv_of(layer) * head
    out = _norms(e, "attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm") + _norms(head, "attn_q_norm")
    out += [("attn_q.weight", (e, q)), ("attn_output.weight", (q, e)), ("layer_output_scale.weight", (1,))]
    if layer < spec.layers - more["attention.shared_kv_layers"]:
        out += [("attn_k.weight", (e, kv)), *_norms(head, "attn_k_norm")]
        out += [("attn_v.weight", (e, kv))] if windowed or not more.get("x-keys-are-values") else []
    out += _gated(e, spec.ff_of(layer))
    if spec.experts:
        out += _norms(e, "pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2")
        ff, x = more["expert_feed_forward_length"], spec.experts
        out += [("ffn_gate_inp.weight", (e, x)), ("ffn_gate_inp.scale", (e,))]
        out += [("ffn_gate_up_exps.weight", (e, 2 * ff, x)), ("ffn_down_exps.weight", (ff, e, x))]
    if inner := more["embedding_length_per_layer_input"]:
        out += [("inp_gate.weight", (e, inner)), ("proj.weight", (inner, e)), ("post_norm.weight", (e,))]
    return out


def _gptoss(spec: Spec, layer: int) -> list[Named]:
    e, x, ff = spec.embedding, spec.experts, spec.more["expert_feed_forward_length"]
    out = [*_norms(e, "attn_norm", "post_attention_norm"), *_qkv(spec, layer, bias=True)]
    out += [("attn_output.bias", (e,)), ("attn_sinks.weight", (spec.heads,)), *_experts(spec, ff)]
    biases = (("ffn_gate_inp", (x,)), ("ffn_gate_exps", (ff, x)), ("ffn_up_exps", (ff, x)), ("ffn_down_exps", (e, x)))
    return out + [(f"{name}.bias", shape) for name, shape in biases]


def _deepseek2(spec: Spec, layer: int) -> list[Named]:
    e, more, heads = spec.embedding, spec.more, spec.heads
    rope, lora = more["rope.dimension_count"], more["attention.kv_lora_rank"]
    keys, values, ff = more["attention.key_length_mla"], more["attention.value_length_mla"], spec.ff_of(layer)
    out = _norms(e, "attn_norm", "ffn_norm")
    if rank := more.get("attention.q_lora_rank"):
        out += [
            ("attn_q_a.weight", (e, rank)),
            *_norms(rank, "attn_q_a_norm"),
            ("attn_q_b.weight", (rank, heads * keys)),
        ]
    else:
        out += [("attn_q.weight", (e, heads * keys))]
    out += [
        ("attn_kv_a_mqa.weight", (e, lora + rope)),
        *_norms(lora, "attn_kv_a_norm"),
        ("attn_k_b.weight", (keys - rope, lora, heads)),
        ("attn_v_b.weight", (lora, values, heads)),
        ("attn_output.weight", (heads * values, e)),
    ]
    if layer < more["leading_dense_block_count"]:
        return out + _gated(e, ff)
    inner = more["expert_feed_forward_length"]
    return out + _experts(spec, inner) + _gated(e, inner * more["expert_shared_count"], "_shexp")


def _bert(spec: Spec, _layer: int) -> list[Named]:
    e, ff = spec.embedding, spec.ff_of(0)
    out: list[Named] = [
        (f"{n}.{p}", (e,)) for n in ("attn_output_norm", "layer_output_norm") for p in ("weight", "bias")
    ]
    out += [("attn_output.weight", (e, e)), ("ffn_up.weight", (e, ff)), ("ffn_down.weight", (ff, e))]
    if spec.arch == "nomic-bert":
        return [*out, ("attn_qkv.weight", (e, 3 * e)), ("ffn_gate.weight", (e, ff))]
    for name in ("attn_q", "attn_k", "attn_v"):
        out += [(f"{name}.weight", (e, e)), (f"{name}.bias", (e,))]
    return [*out, ("attn_output.bias", (e,)), ("ffn_up.bias", (ff,)), ("ffn_down.bias", (e,))]


_BLOCKS: dict[str, Callable[[Spec, int], list[Named]]] = {
    "phi3": _phi3,
    "qwen35": _qwen35,
    "qwen35moe": _qwen35,
    "gemma4": _gemma4,
    "gpt-oss": _gptoss,
    "deepseek2": _deepseek2,
    "bert": _bert,
    "nomic-bert": _bert,
}


def tensors(spec: Spec) -> list[TensorSpec]:
    """All tensors: matrices of the spec's type, vectors and gates of experts in 32 bits."""
    e = spec.embedding
    named: list[Named] = [("token_embd.weight", (e, spec.vocab))]
    if spec.arch in ("bert", "nomic-bert"):
        named += [("token_types.weight", (e, 2)), ("token_embd_norm.weight", (e,)), ("token_embd_norm.bias", (e,))]
        named += [("position_embd.weight", (e, spec.context))] if spec.arch == "bert" else []
    else:
        named += [("output_norm.weight", (e,))] + ([] if spec.tied else [("output.weight", (e, spec.vocab))])
    if spec.arch == "gemma4":
        named += [("rope_freqs.weight", (spec.head // 2,))]
        if inner := spec.more["embedding_length_per_layer_input"]:
            named += [("per_layer_token_embd.weight", (inner * spec.layers, spec.vocab))]
            named += [
                ("per_layer_model_proj.weight", (e, inner * spec.layers)),
                ("per_layer_proj_norm.weight", (inner,)),
            ]
    block = _BLOCKS.get(spec.arch, _llama)
    for layer in range(spec.layers):
        named += [(f"blk.{layer}.{name}", shape) for name, shape in block(spec, layer)]
    return [TensorSpec(name=name, shape=shape, kind=_kind(spec, name, shape)) for name, shape in named]


def _kind(spec: Spec, name: str, shape: tuple[int, ...]) -> str:
    plain = ("ffn_gate_inp", "ssm_conv1d", "token_types", "position_embd", "_exps.bias", "ssm_beta", "ssm_alpha")
    if len(shape) == 1 or any(word in name for word in plain):
        return "F32"
    return spec.kind if shape[0] % GGML[spec.kind][1] == 0 else "F16"


def made(spec: Spec) -> MadeFile:
    """The GGUF file of a spec."""
    return gguf(metadata(spec), tensors(spec))
