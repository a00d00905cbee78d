"""The hyperparameters of a language model, read from its GGUF header.

Key names: ggml, docs/gguf.md; llama.cpp, src/llama-arch.cpp. Defaults for absent keys: llama.cpp, src/models/*.cpp
(``load_arch_hparams``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from modelfetch.fitting.llm.architectures import ARCHITECTURES, Architecture
from modelfetch.formats.gguf import VOCABULARY, ArrayHead

if TYPE_CHECKING:
    from modelfetch.formats.gguf import GgufHeader

_MAX = 2**31
_MAX_LAYERS = 1024
_MAX_USED = 64
"""Several times the numbers of the largest models; every layer and every expert in use is visited."""


class UnknownModelError(Exception):
    """The header lacks a value that an estimate needs; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One block.

    Attributes:
        heads: Query heads; 0 where a block has no attention.
        kv_heads: Key-value heads.
        keys: Elements of a key, for each head.
        values: Elements of a value, for each head.
        ff: Width of the dense feed-forward part; 0 where the block has experts only.
        windowed: Whether attention sees only the sliding window.
        recurrent: Whether a state of fixed size takes the place of a key-value cache.
        cached: Whether the block has its own cache; False if it shares that of an earlier block.
        experts: Whether the block has experts.
    """

    heads: int
    kv_heads: int
    keys: int
    values: int
    ff: int
    windowed: bool = False
    recurrent: bool = False
    cached: bool = True
    experts: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrent:
    """The sizes of gated delta net layers: elements of the convolution's input, of a state and of the output."""

    kernel: int
    state: int
    heads: int
    groups: int

    @property
    def inner(self) -> int:
        """Elements of the output for each token."""
        return self.state * self.heads

    @property
    def channels(self) -> int:
        """Channels of the convolution."""
        return self.inner + 2 * self.groups * self.state


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """Multi-head latent attention: ranks of the compressed queries (0: none) and key-values, and the head sizes."""

    query_rank: int
    rank: int
    rope: int
    keys: int
    values: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyper:
    """The numbers that memory depends on; ``trained_context`` and ``window`` (None: none) are in tokens.

    ``per_layer_input`` is the width of the separate embeddings of each block, 0 for most models.
    """

    arch: str
    embedding: int
    layers: tuple[Layer, ...]
    vocabulary: int
    trained_context: int
    window: int | None = None
    experts: int = 0
    experts_used: int = 0
    expert_ff: int = 0
    shared_ff: int = 0
    recurrent: Recurrent | None = None
    latent: Latent | None = None
    per_layer_input: int = 0
    pooled: bool = False
    vision: bool = False

    @property
    def architecture(self) -> Architecture:
        """The differences of the architecture.

        Raises:
            UnknownModelError: It is not in the table.
        """
        known = ARCHITECTURES.get(self.arch)
        if known is None:
            raise UnknownModelError(f"the architecture {self.arch!r} is not known")
        return known


def hyperparameters(header: GgufHeader) -> Hyper:
    """The hyperparameters of a language model; for an unknown architecture, those that most architectures have.

    Raises:
        UnknownModelError: One is missing or has an impossible value.
    """
    read = _Keys(header)
    known = ARCHITECTURES.get(read.arch, Architecture())
    experts = read.whole("expert_count", default=0)
    expert_ff = read.whole("expert_feed_forward_length", default=0)
    if experts and not expert_ff:  # Mixtral's experts are as wide as the feed-forward part that they replace
        expert_ff = max(read.per_layer("feed_forward_length", read.layers))
    return Hyper(
        arch=read.arch,
        embedding=read.whole("embedding_length"),
        layers=_layers(read, known, experts=bool(experts)),
        vocabulary=read.vocabulary(),
        trained_context=read.whole("context_length"),
        window=read.whole("attention.sliding_window", default=0) or None,
        experts=experts,
        experts_used=read.whole("expert_used_count", default=0, most=_MAX_USED),
        expert_ff=expert_ff,
        shared_ff=read.whole("expert_shared_feed_forward_length", default=0)
        or expert_ff * read.whole("expert_shared_count", default=0, most=_MAX_USED),
        recurrent=_recurrent(read) if known.linear else None,
        latent=_latent(read) if known.latent else None,
        per_layer_input=read.whole("embedding_length_per_layer_input", default=0),
        pooled=read.has("pooling_type"),
        vision=read.has("vision.block_count") or header_has_vision(header),
    )


def header_has_vision(header: GgufHeader) -> bool:
    """Whether a header declares tensors of a vision or audio tower in addition to the text model's."""
    return any(tensor.name.startswith(("v.", "mm.", "a.")) for tensor in header.tensors or ())


def _layers(read: _Keys, known: Architecture, *, experts: bool) -> tuple[Layer, ...]:
    count = read.layers
    heads = read.per_layer("attention.head_count", count)
    kv_heads = read.per_layer("attention.head_count_kv", count, default=heads)
    optional_ff = (0,) * count if experts else None
    ff = read.per_layer("feed_forward_length", count, default=optional_ff)
    head = read.whole("embedding_length") // max(1, min((h for h in heads if h), default=1))
    keys = read.whole("attention.key_length", default=head)
    values = read.whole("attention.value_length", default=head)
    short_keys = read.whole("attention.key_length_swa", default=keys)
    short_values = read.whole("attention.value_length_swa", default=values)
    windowed = read.windowed(count, known)
    every = read.whole("full_attention_interval", default=4, least=1)
    dense = read.whole("leading_dense_block_count", default=0)
    cached = count - read.whole("attention.shared_kv_layers", default=0)
    return tuple(
        Layer(
            heads=heads[layer],
            kv_heads=kv_heads[layer],
            keys=short_keys if windowed[layer] else keys,
            values=short_values if windowed[layer] else values,
            ff=ff[layer] if not experts or known.dense_with_experts or layer < dense else 0,
            windowed=windowed[layer],
            recurrent=known.linear and (layer + 1) % every != 0,
            cached=layer < cached,
            experts=experts and layer >= dense,
        )
        for layer in range(count)
    )


def _recurrent(read: _Keys) -> Recurrent:
    return Recurrent(
        kernel=read.whole("ssm.conv_kernel"),
        state=read.whole("ssm.state_size"),
        heads=read.whole("ssm.time_step_rank"),
        groups=read.whole("ssm.group_count"),
    )


def _latent(read: _Keys) -> Latent:
    return Latent(
        query_rank=read.whole("attention.q_lora_rank", default=0),
        rank=read.whole("attention.kv_lora_rank"),
        rope=read.whole("rope.dimension_count"),
        keys=read.whole("attention.key_length_mla"),
        values=read.whole("attention.value_length_mla"),
    )


def largest_state(header: GgufHeader) -> int:
    """Bytes of a recurrent layer's state for one sequence, in an unknown architecture with the usual keys: at most.

    It is the sum of what Mamba and RWKV keep; 0 if the header has no such keys.

    Raises:
        UnknownModelError: One has an impossible value.
    """
    whole = partial(_Keys(header).whole, default=0)
    state = whole("ssm.state_size")
    inner = max(whole("ssm.inner_size"), whole("ssm.time_step_rank") * state)
    mamba = whole("ssm.conv_kernel") * (inner + 2 * whole("ssm.group_count") * state) + state * inner
    head = whole("wkv.head_size")
    rwkv = (head + 2) * whole("embedding_length") if head else 0
    return 4 * (mamba + rwkv)


class _Keys:
    def __init__(self, header: GgufHeader) -> None:
        self._metadata = header.metadata
        arch = header.metadata.get("general.architecture")
        if not isinstance(arch, str) or not arch:
            raise UnknownModelError("the header names no architecture")
        self.arch = arch
        extra = self.whole("nextn_predict_layers", default=0)  # blocks for speculation, not run without it
        self.layers = max(1, self.whole("block_count", most=_MAX_LAYERS) - extra)

    def has(self, key: str) -> bool:
        return f"{self.arch}.{key}" in self._metadata

    def whole(self, key: str, *, default: int | None = None, least: int | None = None, most: int = _MAX) -> int:
        """A number; ``least`` is 1 for a required key and 0 for one with a default, unless given."""
        value = self._metadata.get(f"{self.arch}.{key}", default)
        if value is None:
            raise UnknownModelError(f"the header has no {self.arch}.{key}")
        if least is None:
            least = 1 if default is None else 0
        if not _is_whole(value, least=least, most=most):
            raise UnknownModelError(
                f"{self.arch}.{key} is {value!r:.60}, expected a whole number from {least} to {most}"
            )
        return int(value)

    def per_layer(self, key: str, layers: int, *, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        value: Any = self._metadata.get(f"{self.arch}.{key}", default)
        if default is not None and value is default:
            return default
        if not isinstance(value, tuple) or isinstance(value, ArrayHead):
            return (self.whole(key, default=default[0] if default else None),) * layers
        if len(value) < layers or not all(_is_whole(v, least=0, most=_MAX) for v in value) or not any(value):
            raise UnknownModelError(f"{self.arch}.{key} is not a list of {layers} whole numbers")
        return tuple(int(v) for v in value[:layers])

    def windowed(self, layers: int, known: Architecture) -> tuple[bool, ...]:
        """Which blocks see only the window: as the header lists them, else by the architecture's period."""
        if not self.has("attention.sliding_window") or not known.window_every:
            return (False,) * layers
        listed: Any = self._metadata.get(f"{self.arch}.attention.sliding_window_pattern")
        if isinstance(listed, tuple) and not isinstance(listed, ArrayHead) and len(listed) >= layers:
            return tuple(bool(value) for value in listed[:layers])
        every = listed if _is_whole(listed, least=1, most=_MAX_LAYERS) else known.window_every
        return tuple(layer % every < every - 1 for layer in range(layers))

    def vocabulary(self) -> int:
        for key in VOCABULARY:
            found = self._metadata.get(key)
            if isinstance(found, tuple):
                return found.length if isinstance(found, ArrayHead) else len(found)
        return self.whole("vocab_size")


def _is_whole(value: object, *, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
