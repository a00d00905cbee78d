"""The hyperparameters of a language model, as a GGUF header tells them.

Key names: ggml, docs/gguf.md; defaults for absent keys: llama.cpp, llama-model.cpp, ``load_hparams``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelfetch.formats.gguf import VOCABULARY, ArrayHead

if TYPE_CHECKING:
    from modelfetch.formats.gguf import GgufHeader

_MOST = 2**31
_MOST_LAYERS = 1024
_MOST_USED = 64
"""Several times what the largest models have; each layer, and each expert of one, is gone through."""


class UnknownModelError(Exception):
    """The header does not tell what an estimate needs; the message says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyper:
    """What memory depends on; ``heads``, ``kv_heads`` and ``ff`` have one number a layer.

    ``trained_context`` is in tokens, ``window`` the sliding window in tokens where there is one.
    """

    arch: str
    embedding: int
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    ff: tuple[int, ...]
    key_length: int
    value_length: int
    vocabulary: int
    trained_context: int
    window: int | None = None
    experts: int = 0
    experts_used: int = 0
    vision: bool = False

    @property
    def layers(self) -> int:
        """The number of blocks."""
        return len(self.heads)

    @property
    def queries(self) -> int:
        """The widest query of a layer, in elements a token."""
        return max(self.heads) * self.key_length


def hyperparameters(header: GgufHeader) -> Hyper:
    """The hyperparameters of a language model.

    Raises:
        UnknownModelError: One is missing or makes no sense.
    """
    read = _Keys(header)
    layers = read.whole("block_count", most=_MOST_LAYERS)
    embedding = read.whole("embedding_length")
    heads = read.per_layer("attention.head_count", layers)
    head_length = embedding // max(1, min(h for h in heads if h) if any(heads) else 1)
    feed_forward = "expert_feed_forward_length" if read.has("expert_feed_forward_length") else "feed_forward_length"
    return Hyper(
        arch=read.arch,
        embedding=embedding,
        heads=heads,
        kv_heads=read.per_layer("attention.head_count_kv", layers, default=heads),
        ff=read.per_layer(feed_forward, layers),
        key_length=read.whole("attention.key_length", default=head_length),
        value_length=read.whole("attention.value_length", default=head_length),
        vocabulary=read.vocabulary(),
        trained_context=read.whole("context_length"),
        window=read.whole("attention.sliding_window", default=0) or None,
        experts=read.whole("expert_count", default=0),
        experts_used=read.whole("expert_used_count", default=0, most=_MOST_USED),
        vision=read.has("vision.block_count"),
    )


class _Keys:
    def __init__(self, header: GgufHeader) -> None:
        self._metadata = header.metadata
        arch = header.metadata.get("general.architecture")
        if not isinstance(arch, str) or not arch:
            raise UnknownModelError("the header names no architecture")
        self.arch = arch

    def has(self, key: str) -> bool:
        return f"{self.arch}.{key}" in self._metadata

    def whole(self, key: str, *, default: int | None = None, most: int = _MOST) -> int:
        value = self._metadata.get(f"{self.arch}.{key}", default)
        if value is None:
            raise UnknownModelError(f"the header has no {self.arch}.{key}")
        if not _is_whole(value, least=0 if default is not None else 1, most=most):
            raise UnknownModelError(f"{self.arch}.{key} is {value!r:.60}, expected a whole number up to {most}")
        return int(value)

    def per_layer(self, key: str, layers: int, *, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        value: Any = self._metadata.get(f"{self.arch}.{key}", default)
        if not isinstance(value, tuple) or isinstance(value, ArrayHead):
            return (self.whole(key),) * layers
        if len(value) != layers or not all(_is_whole(v, least=0, most=_MOST) for v in value) or not any(value):
            raise UnknownModelError(f"{self.arch}.{key} is no list of {layers} whole numbers")
        return value

    def vocabulary(self) -> int:
        for key in VOCABULARY:
            found = self._metadata.get(key)
            if isinstance(found, tuple):
                return found.length if isinstance(found, ArrayHead) else len(found)
        return self.whole("vocab_size")


def _is_whole(value: object, *, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
