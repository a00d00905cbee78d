"""Language models of today: their shapes, from the config.json of each upstream, with few words in their vocabularies.

The size of the vocabulary is left to `real_vocabulary`, since a header with 248,320 words takes a while to make.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.fitting.architectures import Spec

WORDS = 2048
_Each = int | tuple[int, ...]

_QWEN35 = {
    "full_attention_interval": 4,
    "ssm.conv_kernel": 4,
    "ssm.state_size": 128,
    "ssm.group_count": 16,
    "rope.dimension_count": 64,
    "rope.dimension_sections": (11, 11, 10, 0),
}


def _qwen35(heads: int, *, experts: int = 0) -> dict[str, Any]:
    """``heads`` is the number of value heads of the gated delta nets; ``experts`` the width of an expert."""
    made = {**_QWEN35, "ssm.time_step_rank": heads, "ssm.inner_size": heads * 128}
    wide = {"expert_feed_forward_length": experts, "expert_shared_feed_forward_length": experts}
    return made | (wide if experts else {})


def _gemma4(window: int, pattern: tuple[bool, ...], *, shared: int = 0, inner: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "attention.sliding_window": window,
        "attention.sliding_window_pattern": pattern,
        "attention.shared_kv_layers": shared,
        "attention.key_length_swa": 256,
        "attention.value_length_swa": 256,
        "embedding_length_per_layer_input": inner,
        "rope.dimension_count": 512,
        "rope.dimension_count_swa": 256,
        **more,
    }


def _mla(*, query: int, keys: int, values: int, experts: int, shared: int) -> dict[str, Any]:
    return {
        "attention.value_length": 512,
        "attention.key_length_mla": keys,
        "attention.value_length_mla": values,
        "attention.q_lora_rank": query,
        "attention.kv_lora_rank": 512,
        "rope.dimension_count": 64,
        "leading_dense_block_count": 1,
        "expert_feed_forward_length": experts,
        "expert_shared_count": shared,
        "expert_weights_scale": 1.0,
        "expert_gating_func": 1,
    }


def _period(every: int, layers: int) -> tuple[bool, ...]:
    return tuple((layer + 1) % every != 0 for layer in range(layers))


def _llama(
    layers: int, e: int, heads: int, kv: _Each, ff: _Each, *, arch: str = "llama", head: int = 128, **k: Any
) -> Spec:
    return Spec(
        arch=arch, layers=layers, embedding=e, heads=heads, kv_heads=kv, head=head, ff=ff, vocab=WORDS, kind="Q4_K", **k
    )


def _encoder(arch: str, layers: int, e: int, heads: int, ff: int, context: int) -> Spec:
    more = {"attention.causal": False, "pooling_type": 1}
    return _llama(layers, e, heads, heads, ff, arch=arch, head=e // heads, context=context, more=more)


_POOLED = {"pooling_type": 3}

SPECS: dict[str, Spec] = {
    "llama3.2:1b": _llama(16, 2048, 32, 8, 8192, head=64, tied=True),
    "llama3.2:3b": _llama(28, 3072, 24, 8, 8192, tied=True),
    "llama3.1:8b": _llama(32, 4096, 32, 8, 14336),
    "llama3.3:70b": _llama(80, 8192, 64, 8, 28672),
    "mistral-small3.2:24b": _llama(40, 5120, 32, 8, 32768, arch="mistral3"),
    "mixtral:8x7b": _llama(32, 4096, 32, 8, 14336, experts=8, used=2),
    "qwen2.5:0.5b": _llama(24, 896, 14, 2, 4864, arch="qwen2", head=64, tied=True),
    "qwen2.5:14b": _llama(48, 5120, 40, 8, 13824, arch="qwen2"),
    "qwen2.5:72b": _llama(80, 8192, 64, 8, 29568, arch="qwen2"),
    "qwen3:0.6b": _llama(28, 1024, 16, 8, 3072, arch="qwen3", tied=True, context=40960),
    "qwen3:4b": _llama(36, 2560, 32, 8, 9728, arch="qwen3", tied=True),
    "qwen3:8b": _llama(36, 4096, 32, 8, 12288, arch="qwen3", context=40960),
    "qwen3:14b": _llama(40, 5120, 40, 8, 17408, arch="qwen3", context=40960),
    "qwen3:32b": _llama(64, 5120, 64, 8, 25600, arch="qwen3", context=40960),
    "qwen3-coder:30b": _llama(
        48, 2048, 32, 4, 6144, arch="qwen3moe", experts=128, used=8, more={"expert_feed_forward_length": 768}
    ),
    "qwen3-embedding:0.6b": _llama(28, 1024, 16, 8, 3072, arch="qwen3", tied=True, context=32768, more=_POOLED),
    "qwen3.5:4b": _llama(32, 2560, 16, 4, 9216, arch="qwen35", head=256, tied=True, more=_qwen35(32)),
    "qwen3.5:9b": _llama(32, 4096, 16, 4, 12288, arch="qwen35", head=256, more=_qwen35(32)),
    "qwen3.6:27b": _llama(64, 5120, 24, 4, 17408, arch="qwen35", head=256, more=_qwen35(48)),
    "qwen3.6:35b": _llama(
        40, 2048, 16, 2, 0, arch="qwen35moe", head=256, experts=256, used=8, more=_qwen35(32, experts=512)
    ),
    "qwen3.5:122b": _llama(
        48, 3072, 32, 2, 0, arch="qwen35moe", head=256, experts=256, used=8, more=_qwen35(64, experts=1024)
    ),
    "gemma2:9b": _llama(
        42,
        3584,
        16,
        8,
        14336,
        arch="gemma2",
        head=256,
        tied=True,
        context=8192,
        more={"attention.sliding_window": 4096},
    ),
    "gemma3:1b": _llama(
        26, 1152, 4, 1, 6912, arch="gemma3", head=256, tied=True, context=32768, more={"attention.sliding_window": 512}
    ),
    "gemma3:4b": _llama(
        34, 2560, 8, 4, 10240, arch="gemma3", head=256, tied=True, more={"attention.sliding_window": 1024}
    ),
    "gemma3:12b": _llama(
        48, 3840, 16, 8, 15360, arch="gemma3", head=256, tied=True, more={"attention.sliding_window": 1024}
    ),
    "gemma3:27b": _llama(62, 5376, 32, 16, 21504, arch="gemma3", tied=True, more={"attention.sliding_window": 1024}),
    "gemma4:e2b": _llama(
        35,
        1536,
        8,
        1,
        (6144,) * 15 + (12288,) * 20,
        arch="gemma4",
        head=512,
        tied=True,
        more=_gemma4(512, _period(5, 35), shared=20, inner=256),
    ),
    "gemma4:e4b": _llama(
        42,
        2560,
        8,
        2,
        10240,
        arch="gemma4",
        head=512,
        tied=True,
        more=_gemma4(512, _period(6, 42), shared=18, inner=256),
    ),
    "gemma4:26b": _llama(
        30,
        2816,
        16,
        (8, 8, 8, 8, 8, 2) * 5,
        2112,
        arch="gemma4",
        head=512,
        tied=True,
        experts=128,
        used=8,
        more=_gemma4(1024, _period(6, 30), expert_feed_forward_length=704),
    ),
    "gemma4:31b": _llama(
        60,
        5376,
        32,
        (16, 16, 16, 16, 16, 4) * 10,
        21504,
        arch="gemma4",
        head=512,
        tied=True,
        more=_gemma4(1024, _period(6, 60)),
    ),
    "gpt-oss:20b": _llama(
        24,
        2880,
        64,
        8,
        2880,
        arch="gpt-oss",
        head=64,
        experts=32,
        used=4,
        context=131072,
        more={"attention.sliding_window": 128, "expert_feed_forward_length": 2880},
    ),
    "gpt-oss:120b": _llama(
        36,
        2880,
        64,
        8,
        2880,
        arch="gpt-oss",
        head=64,
        experts=128,
        used=4,
        context=131072,
        more={"attention.sliding_window": 128, "expert_feed_forward_length": 2880},
    ),
    "phi4:14b": _llama(40, 5120, 40, 10, 17920, arch="phi3", context=16384, more={"rope.dimension_count": 128}),
    "glm-4.7-flash": _llama(
        47,
        2048,
        20,
        1,
        10240,
        arch="deepseek2",
        head=576,
        experts=64,
        used=4,
        more=_mla(query=768, keys=256, values=256, experts=1536, shared=1),
    ),
    "nomic-embed-text": _encoder("nomic-bert", 12, 768, 12, 3072, 2048),
    "mxbai-embed-large": _encoder("bert", 24, 1024, 16, 4096, 512),
    "all-minilm": _encoder("bert", 6, 384, 12, 1536, 512),
    "embeddinggemma:300m": _llama(
        24,
        768,
        3,
        1,
        1152,
        arch="gemma-embedding",
        head=256,
        tied=True,
        context=2048,
        more={"attention.sliding_window": 512, "attention.causal": False, **_POOLED, "pooling_type": 1},
    ),
}
"""Each with the quantization's main type in all matrices."""

VOCABULARY = {"llama": 128256, "mistral3": 131072, "qwen2": 151936, "qwen3": 151936, "qwen35": 248320, "gemma": 262144}


def with_vocabulary(name: str, words: int, kind: str | None = None) -> Spec:
    """A spec with a vocabulary of so many words, and its matrices in another type."""
    return replace(SPECS[name], vocab=words, kind=kind or SPECS[name].kind)
