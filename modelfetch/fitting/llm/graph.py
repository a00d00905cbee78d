"""The graphs that llama.cpp builds of language models for one batch, as far as memory is concerned.

Source: llama.cpp in ollama v0.9.6 (commit de4c07f9): llama-graph.cpp (build_attn, build_ffn, build_moe_ffn),
llama-model.cpp (llm_build_llama and its relatives). Only sizes, order, and what is written in place matter here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from modelfetch.fitting.llm.allocator import GIVEN, Graph, Tensor

if TYPE_CHECKING:
    from modelfetch.fitting.llm.hyperparameters import Hyper

_MASK_ROWS = 64  # masks have a multiple of so many rows (source: ggml.h, GGML_KQ_MASK_PAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What is particular about an architecture's graph.

    Attributes:
        fused: Query, key and value come from one matrix, and so do the two halves of the feed-forward.
        normed: Queries and keys are normed before they are rotated.
        after: Attention and feed-forward are normed behind, too.
        window_every: Of so many layers all but the last see a window only, through a mask of their own.
    """

    fused: bool = False
    normed: bool = False
    after: bool = False
    window_every: int = 1


PLAIN = Form()
"""The graph of most architectures."""


@lru_cache(maxsize=256)
def graph_bytes(hyper: Hyper, form: Form, *, context: int, batch: int, flash: bool, on_cpu: bool = False) -> int:
    """The compute buffer of a batch of ``batch`` tokens over a cache of ``context`` tokens, in bytes.

    On a GPU the embedded tokens come from the CPU, as an input. With ``on_cpu`` all is on the CPU, as in the runs that
    these graphs were held against.
    """
    builder = _Builder(hyper, form, context, batch, flash=flash)
    if on_cpu:
        return builder.build(_new(hyper.embedding, batch, of=(GIVEN, _input(batch)))).peak_bytes()
    return builder.build(_input(hyper.embedding, batch)).peak_bytes()


def _new(*shape: int, of: tuple[Tensor, ...], width: int = 4) -> Tensor:
    return Tensor(shape=shape, width=width, sources=of)


def _same(first: Tensor, *others: Tensor) -> Tensor:
    """The result of an operation that may be written in its first source's place."""
    return Tensor(shape=first.shape, width=first.width, sources=(first, *others), inplace=True)


def _input(*shape: int) -> Tensor:
    return Tensor(shape=shape, asked=True)


def _norm(tensor: Tensor) -> Tensor:
    return _same(_same(tensor), GIVEN)


class _Builder:
    def __init__(self, hyper: Hyper, form: Form, context: int, batch: int, *, flash: bool) -> None:
        self._hyper, self._form = hyper, form
        self._context, self._batch, self._flash = context, batch, flash
        self._graph = Graph()
        self._positions = _input(batch)
        rows = -(-batch // _MASK_ROWS) * _MASK_ROWS
        self._masks = [self._mask(rows) for _ in range(min(form.window_every, 2))]

    def _mask(self, rows: int) -> Tensor:
        mask = _input(self._context, rows)
        if not self._flash:
            return mask
        half = _new(*mask.shape, of=(mask,), width=2)
        half.sources = (mask, half)  # a cast has itself for a source (source: ggml.c, ggml_cast)
        return half

    def build(self, state: Tensor) -> Graph:
        """The graph from the embedded tokens to the probabilities of the next ones."""
        hyper = self._hyper
        for layer in range(hyper.layers):
            state = self._block(state, layer, last=layer == hyper.layers - 1)
            self._graph.expand(state)  # as the next layer would first of all; so none begins far below the last
        self._graph.expand(_new(hyper.vocabulary, self._batch, of=(GIVEN, _norm(state))))
        return self._graph

    def _block(self, state: Tensor, layer: int, *, last: bool) -> Tensor:
        hyper, form = self._hyper, self._form
        cur, before = state, state
        if hyper.heads[layer]:
            cur = self._attention(_norm(state), layer)
        if form.after:
            cur = _norm(cur)
        if last:
            chosen = _input(self._batch)
            cur = _new(*cur.shape, of=(cur, chosen))
            before = _new(*state.shape, of=(state, chosen))
        if not hyper.ff[layer]:
            return state
        inner = _same(cur, before) if hyper.heads[layer] else cur
        cur = self._experts(_norm(inner)) if hyper.experts_used else self._feed_forward(_norm(inner), hyper.ff[layer])
        if form.after:
            cur = _norm(cur)
        return _same(inner, cur) if form.fused else _same(cur, inner)

    # ── attention ──
    def _attention(self, cur: Tensor, layer: int) -> Tensor:
        hyper, n = self._hyper, self._batch
        heads, kv = hyper.heads[layer], hyper.kv_heads[layer]
        if not kv:
            return _new(hyper.embedding, n, of=(GIVEN, cur))
        q, k, v = self._projections(cur, heads, kv)
        q, k = self._rotated(q), self._rotated(k)
        for tensor in (q, k, v):
            self._graph.expand(tensor)
        self._store(k, v)
        mixed = self._mix(q, heads, layer)
        self._graph.expand(mixed)
        return _new(hyper.embedding, n, of=(GIVEN, mixed))

    def _projections(self, cur: Tensor, heads: int, kv: int) -> tuple[Tensor, Tensor, Tensor]:
        hyper, n = self._hyper, self._batch
        dk, dv = hyper.key_length, hyper.value_length
        shapes = ((dk, heads), (dk, kv), (dv, kv))
        if self._form.fused:
            whole = _new(sum(d * h for d, h in shapes), n, of=(GIVEN, cur))
            parts = [_new(d * h, n, of=(whole.view(d * h, n),)) for d, h in shapes]
        else:
            parts = [_new(d * h, n, of=(GIVEN, cur)) for d, h in shapes]
        q, k, v = (part.view(d, h, n) for part, (d, h) in zip(parts, shapes, strict=True))
        return q, k, v

    def _rotated(self, tensor: Tensor) -> Tensor:
        return _same(_norm(tensor) if self._form.normed else tensor, self._positions)

    def _store(self, k: Tensor, v: Tensor) -> None:
        """Copy keys and values into the cache."""
        for tensor in (k, v.view(*v.shape)):
            self._graph.expand(Tensor(shape=tensor.shape, sources=(tensor, GIVEN), root=GIVEN))

    def _mix(self, q: Tensor, heads: int, layer: int) -> Tensor:
        n, dv = self._batch, self._hyper.value_length
        every = self._form.window_every
        windowed = layer % every < every - 1
        mask = self._masks[0 if windowed or every == 1 else 1]
        turned = q.view(q.shape[0], n, heads)
        if self._flash:
            return _new(dv, heads, n, of=(turned, GIVEN, GIVEN, mask)).view(dv * heads, n)
        scores = _same(_new(self._context, n, heads, of=(GIVEN, turned)), mask)
        mixed = _new(dv, n, heads, of=(GIVEN, scores))
        return _new(dv * heads, n, of=(mixed.view(dv, heads, n),))

    # ── feed-forward ──
    def _feed_forward(self, cur: Tensor, ff: int) -> Tensor:
        n = self._batch
        if self._form.fused:
            both = _new(2 * ff, n, of=(GIVEN, cur))
            gate, up = (_new(ff, n, of=(both.view(ff, n),)) for _ in range(2))
        else:
            up, gate = _new(ff, n, of=(GIVEN, cur)), _new(ff, n, of=(GIVEN, cur))
        return _new(self._hyper.embedding, n, of=(GIVEN, _same(_same(gate), up)))

    def _experts(self, cur: Tensor) -> Tensor:
        hyper, n, used = self._hyper, self._batch, self._hyper.experts_used
        e, ff = hyper.embedding, max(hyper.ff)
        odds = _same(_new(hyper.experts, n, of=(GIVEN, cur)))
        chosen = _new(hyper.experts, n, of=(odds,)).view(used, n)
        weights = _new(1, used, n, of=(odds.view(1, hyper.experts, n), chosen)).view(used, n)
        weights = _same(weights, _new(1, n, of=(weights,))).view(1, used, n)
        cur = cur.view(e, 1, n)
        up = _new(ff, used, n, of=(GIVEN, cur, chosen))
        gate = _new(ff, used, n, of=(GIVEN, cur, chosen))
        down = _same(_new(e, used, n, of=(GIVEN, _same(_same(gate), up), chosen)), weights)
        total = down.view(e, n)
        for _ in range(used - 1):
            total = _same(total, down.view(e, n))
        return total if used > 1 else _new(e, n, of=(total,))
