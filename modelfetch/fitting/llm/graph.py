"""The graphs that llama.cpp builds for one batch of a language model, as far as they affect memory.

Source: llama.cpp b11739: src/llama-graph.cpp (build_attn, build_ffn, build_moe_ffn), src/models/*.cpp,
ggml/src/ggml-backend.cpp (a split's inputs are copied to the GPU before its first node). Only sizes, order and
operations in place matter here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from modelfetch.fitting.llm.allocator import GIVEN, Graph, Tensor

if TYPE_CHECKING:
    from modelfetch.fitting.llm.hyperparameters import Hyper, Latent, Layer, Recurrent


_ENOUGH = 12
"""Blocks that are simulated at each end: a multiple of the period of every common pattern."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One batch: ``tokens`` over ``sequences`` caches of ``context`` tokens, ``short`` where a layer has a window.

    ``outputs`` is the number of tokens whose probabilities are computed; with ``quantized`` caches queries, keys and
    values are rotated before they are used, and the result is rotated back (source: build_attn, ``self_k_rot``).
    """

    tokens: int
    outputs: int
    context: int
    short: int
    sequences: int = 1
    flash: bool = True
    quantized: bool = False


@lru_cache(maxsize=256)
def graph_bytes(hyper: Hyper, batch: Batch) -> int:
    """The compute buffer on the GPU in bytes; the embedded tokens are looked up on the CPU and come as an input."""
    return _Builder(hyper, batch).build().peak_bytes()


def _new(*shape: int, of: tuple[Tensor, ...], width: int = 4) -> Tensor:
    return Tensor(shape=shape, width=width, sources=of)


def _same(first: Tensor, *others: Tensor) -> Tensor:
    """The result of an operation that may overwrite its first source."""
    return Tensor(shape=first.shape, width=first.width, sources=(first, *others), inplace=True)


def _norm(tensor: Tensor) -> Tensor:
    return _same(_same(tensor), GIVEN)


def _representative(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The blocks to simulate: the patterns of deep models repeat, and so does their memory."""
    return layers if len(layers) <= 2 * _ENOUGH else layers[:_ENOUGH] + layers[-_ENOUGH:]


class _Builder:
    def __init__(self, hyper: Hyper, batch: Batch) -> None:
        self._hyper, self._batch = hyper, batch
        self._known = hyper.architecture
        self._graph = Graph()
        self._n = batch.tokens

    # ── inputs ──
    def _input(self, *shape: int, width: int = 4) -> Tensor:
        tensor = Tensor(shape=shape, width=width, is_input=True)
        self._graph.expand(tensor)
        return tensor

    def _masks(self) -> None:
        """Masks of the whole context and of the window, with flash attention in 16 bits."""
        batch, n = self._batch, self._n
        width = 2 if batch.flash else 4
        layers = self._hyper.layers
        lengths = (n, n) if self._known.encoder else (batch.context, batch.short)
        needed = (
            any(not layer.windowed and not layer.recurrent for layer in layers),
            any(layer.windowed for layer in layers),
        )
        self._mask, self._short_mask = (
            self._input(length, n, width=width) if present else GIVEN
            for length, present in zip(lengths, needed, strict=True)
        )
        if not self._known.encoder:
            values = max((layer.kv_heads * layer.values for layer in layers), default=0)
            for present in needed:
                if present:
                    self._input(n, width=8)  # the cells that keys and values are written to
                    self._input(n * (1 if batch.flash or self._hyper.latent else values), width=8)

    def build(self) -> Graph:
        """The graph from the embedded tokens to the probabilities of the next ones."""
        hyper, n = self._hyper, self._n
        mixed, rows, slots = self._input(hyper.embedding, n), self._input(hyper.embedding, n), self._input(n, width=8)
        state = self._input(hyper.embedding, n)
        self._positions = self._input(4 * n if hyper.recurrent else n)
        self._masks()
        if hyper.per_layer_input:
            self._own = self._input(hyper.per_layer_input * len(hyper.layers), n)
            self._own_inputs: Tensor | None = None
        self._chosen = self._input(self._batch.outputs)
        copied = _new(hyper.embedding, n, of=(mixed,))
        self._graph.expand(Tensor(shape=rows.shape, sources=(rows, slots, copied), root=copied))
        if self._known.block == "bert":
            types = self._input(hyper.embedding)
            if self._known.learned_positions:
                types = _same(self._input(hyper.embedding, n), types)
            state = _norm(_same(state, types))
        elif self._known.scaled:
            state = _same(state, GIVEN)
        self._embedded = state
        blocks = _representative(hyper.layers)
        for number, layer in enumerate(blocks):
            state = self._block(state, layer, last=number == len(blocks) - 1)
            self._graph.expand(state)
        if not self._known.encoder:
            outputs = state.shape[1]
            self._graph.expand(_new(hyper.vocabulary, outputs, of=(GIVEN, _norm(state))))
        return self._graph

    # ── blocks ──
    def _block(self, state: Tensor, layer: Layer, *, last: bool) -> Tensor:
        known = self._known
        before = state
        cur = self._mixed(state if known.block == "bert" else _norm(state), layer)
        if last and not known.encoder and not self._hyper.recurrent:
            cur, before = (_new(t.shape[0], self._batch.outputs, of=(t, self._chosen)) for t in (cur, before))
        cur = _same(cur, before) if layer.heads or layer.recurrent else before
        if known.block == "bert":
            cur = _norm(cur)
        inner = cur
        if not layer.ff and not layer.experts:
            return inner
        cur = self._feed_forward(inner, layer)
        if known.after:
            cur = _norm(cur)
        cur = _same(cur, inner)
        if known.block == "bert":
            return _norm(cur)
        if last and self._hyper.recurrent:
            cur = _new(cur.shape[0], self._batch.outputs, of=(cur, self._chosen))
        return self._with_own_input(cur) if self._hyper.per_layer_input else cur

    def _mixed(self, cur: Tensor, layer: Layer) -> Tensor:
        """The part that mixes tokens: some kind of attention, or a gated delta net."""
        if layer.recurrent and self._hyper.recurrent:
            return self._delta_net(cur, self._hyper.recurrent)
        if not layer.heads:
            return cur
        if self._hyper.latent:
            cur = self._latent_attention(cur, layer, self._hyper.latent)
        else:
            cur = self._attention(cur, layer)
        return _norm(cur) if self._known.after else cur

    def _feed_forward(self, inner: Tensor, layer: Layer) -> Tensor:
        """The dense part, the experts, or both; gemma4's parts are normalised one by one."""
        if not layer.experts:
            return self._dense(inner if self._known.block == "bert" else _norm(inner), layer.ff)
        if self._known.block == "gemma4":
            moe = self._experts(_norm(inner), chosen_by=_same(_norm(inner)), joined=True)
            self._graph.expand(moe)
            return _same(_norm(self._dense(_norm(inner), layer.ff)), _norm(moe))
        cur = _norm(inner)
        made = self._experts(cur, chosen_by=cur)
        self._graph.expand(made)
        if self._hyper.shared_ff:
            shared = self._dense(cur, self._hyper.shared_ff)
            if self._known.linear:
                shared = _same(shared, _new(1, cur.shape[1], of=(GIVEN, cur)))
            made = _same(made, shared)
        return made

    def _with_own_input(self, cur: Tensor) -> Tensor:
        """The separate embedding of each block (gemma4's small models); made once, kept for all blocks."""
        width, n, e = self._hyper.per_layer_input, cur.shape[1], self._hyper.embedding
        gate = _same(_new(width, n, of=(GIVEN, cur)))
        self._graph.expand(gate)
        if self._own_inputs is None:
            everything = width * len(self._hyper.layers)
            projected = _norm(_same(_new(everything, self._n, of=(GIVEN, self._embedded))).view(everything, self._n))
            mixed = _same(_same(projected, _same(self._own)))
            self._own_inputs = _new(everything, self._n, of=(mixed.view(self._n, everything),))
        own = self._own_inputs.view(width, n)
        return _same(_same(cur, _norm(_new(e, n, of=(GIVEN, _same(gate, own))))), GIVEN)

    # ── attention ──
    def _attention(self, cur: Tensor, layer: Layer) -> Tensor:
        hyper, n, known = self._hyper, self._n, self._known
        gate = None
        if known.gated:
            both = _new(2 * layer.keys, layer.heads, n, of=(GIVEN, cur))
            q = _norm(_new(layer.keys, layer.heads, n, of=(both.view(layer.keys, layer.heads, n),)))
            q = self._spread(_same(q, self._positions))
            gate = both.view(layer.keys * layer.heads, n)
            k, v = self._project(cur, layer.keys, layer.kv_heads), self._project(cur, layer.values, layer.kv_heads)
            k, v = self._spread(_same(_norm(k), self._positions)), self._spread(v)
        else:
            q, k, v = self._projections(cur, layer)
        for tensor in (q, v, k):
            self._graph.expand(tensor)
        if known.encoder:
            k, v = self._halved(k), self._halved(v)
        elif layer.cached:
            self._store(k)
            self._store(v)
        mixed = self._mix(q, k, v, layer)
        if gate is not None:
            mixed = _same(mixed, _same(_new(*gate.shape, of=(gate,))))
        self._graph.expand(mixed)
        return _new(hyper.embedding, n, of=(GIVEN, mixed))

    def _project(self, cur: Tensor, length: int, heads: int) -> Tensor:
        return _new(length * heads, self._n, of=(GIVEN, cur)).view(length, heads, self._n)

    def _projections(self, cur: Tensor, layer: Layer) -> tuple[Tensor, Tensor, Tensor]:
        n, known = self._n, self._known
        shapes = ((layer.keys, layer.heads), (layer.keys, layer.kv_heads), (layer.values, layer.kv_heads))
        if known.fused:
            whole = _new(sum(d * h for d, h in shapes), n, of=(GIVEN, cur))
            q, k = (_new(d, h, n, of=(whole.view(d, h, n), self._positions)) for d, h in shapes[:2])
            return q, k, whole.view(*shapes[2], n)
        q = self._spread(self._rotated(self._project(cur, *shapes[0])))
        self._graph.expand(q)
        if known.block == "gemma4" and not layer.cached:
            return q, GIVEN, GIVEN
        if known.block == "gemma4":
            k = self._spread(self._rotated(self._project(cur, *shapes[1])))
            return q, k, self._spread(_same(self._project(cur, *shapes[2])))
        if self._batch.quantized:
            k = self._spread(self._rotated(self._project(cur, *shapes[1])))
            self._graph.expand(k)
            return q, k, self._spread(self._project(cur, *shapes[2]))
        v = self._project(cur, *shapes[2])
        self._graph.expand(v)
        return q, self._rotated(self._project(cur, *shapes[1])), v

    def _spread(self, tensor: Tensor) -> Tensor:
        """Queries, keys or values multiplied by a rotation, which spreads outliers before they are quantized."""
        return _new(*tensor.shape, of=(GIVEN, tensor)) if self._batch.quantized else tensor

    def _rotated(self, tensor: Tensor) -> Tensor:
        if self._known.learned_positions:
            return tensor
        return _same(_norm(tensor) if self._known.normed else tensor, self._positions)

    def _store(self, tensor: Tensor) -> None:
        """Copy keys or values into the cache."""
        self._graph.expand(Tensor(shape=tensor.shape, sources=(tensor.view(*tensor.shape), GIVEN), root=GIVEN))

    def _halved(self, tensor: Tensor) -> Tensor:
        """Keys or values of an encoder, padded and cast to 16 bits for flash attention."""
        if not self._batch.flash:
            return tensor
        padded = _new(*tensor.shape, of=(tensor,))
        half = _new(*tensor.shape, of=(padded.view(*tensor.shape),), width=2)
        half.sources = (*half.sources, half)  # a cast has itself for a source (source: ggml.c, ggml_cast)
        self._graph.expand(half)
        return half

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, layer: Layer) -> Tensor:
        n, heads, batch = self._n, layer.heads, self._batch
        mask = self._short_mask if layer.windowed else self._mask
        turned = q.view(q.shape[0], n, heads)
        keys, values = (k, v) if self._known.encoder else (GIVEN, GIVEN)
        if batch.flash:
            mixed = _new(layer.values, heads, n, of=(turned, keys, values, mask))
            return self._spread(mixed.view(layer.values, heads * n)).view(layer.values * heads, n)
        length = n if self._known.encoder else batch.short if layer.windowed else batch.context
        if self._known.encoder:
            values = _new(*v.shape, of=(v.view(*v.shape),))  # transposed
        scores = _same(_new(length, n, heads, of=(keys, turned)), mask)
        mixed = _new(layer.values, n, heads, of=(values, scores))
        return _new(layer.values * heads, n, of=(mixed.view(layer.values, heads, n),))

    def _latent_attention(self, cur: Tensor, layer: Layer, latent: Latent) -> Tensor:
        n, heads = self._n, layer.heads
        source = _norm(_new(latent.query_rank, n, of=(GIVEN, cur))) if latent.query_rank else cur
        q = _new(latent.keys * heads, n, of=(GIVEN, source))
        plain, turned = (q.view(size, heads, n) for size in (latent.keys - latent.rope, latent.rope))
        both = _new(latent.rank + latent.rope, n, of=(GIVEN, cur))
        rotated = _new(latent.rope, heads, n, of=(turned, self._positions))
        key_part = _new(latent.rope, 1, n, of=(both.view(latent.rope, 1, n), self._positions))
        compressed = _same(_new(latent.rank, n, of=(both.view(latent.rank, n),)), GIVEN)
        absorbed = _new(latent.rank, n, heads, of=(GIVEN, plain.view(plain.shape[0], n, heads)))
        query = _new(latent.rank + latent.rope, heads, n, of=(absorbed.view(latent.rank, heads, n), rotated))
        key = _new(latent.rank + latent.rope, 1, n, of=(compressed.view(latent.rank, 1, n), key_part))
        self._graph.expand(query)
        self._graph.expand(key)
        self._store(key)
        context = self._batch.context
        if self._batch.flash:
            mixed = _new(latent.rank, heads, n, of=(query.view(query.shape[0], n, heads), GIVEN, GIVEN, self._mask))
            mixed = mixed.view(latent.rank, n, heads)
        else:
            scores = _same(_new(context, n, heads, of=(GIVEN, query.view(query.shape[0], n, heads))), self._mask)
            values = _new(context, latent.rank, of=(GIVEN,), width=2)  # the cache, transposed
            mixed = _new(latent.rank, n, heads, of=(values, scores))
        decompressed = _new(latent.values, n, heads, of=(GIVEN, mixed))
        joined = _new(latent.values * heads, n, of=(decompressed.view(latent.values, heads, n),))
        self._graph.expand(joined)
        return _new(self._hyper.embedding, n, of=(GIVEN, joined))

    # ── gated delta nets ──
    def _delta_net(self, cur: Tensor, size: Recurrent) -> Tensor:
        n, sequences = self._n, self._batch.sequences
        self._graph.expand(cur)
        window = _new((size.kernel - 1) * size.channels, sequences, of=(GIVEN,))
        self._graph.expand(window)
        qkv = _new(size.channels, n, of=(GIVEN, cur))
        per_sequence = n // sequences + size.kernel - 1
        joined = _new(
            per_sequence, size.channels, sequences, of=(window.view(*window.shape), qkv.view(n, size.channels))
        )
        self._graph.expand(Tensor(shape=window.shape, sources=(joined.view(*window.shape), GIVEN), root=GIVEN))
        state = _new(size.state * size.inner, sequences, of=(GIVEN,))
        self._graph.expand(state)
        convolved = _same(_new(size.channels, n, of=(joined, GIVEN)))
        keys = size.groups * size.state
        q, k = (_same(_new(keys, n, of=(convolved.view(keys, n),))) for _ in range(2))
        self._graph.expand(q)
        self._graph.expand(k)
        decay, beta = (_same(_new(size.heads, n, of=(GIVEN, cur))) for _ in range(2))
        self._graph.expand(decay)
        self._graph.expand(beta)
        sources = (q, k, convolved.view(size.inner, n), decay, beta, state.view(*state.shape))
        both = _new(size.inner * n + size.state * size.inner * sequences, of=sources)
        self._graph.expand(Tensor(shape=state.shape, sources=(both.view(*state.shape), GIVEN), root=GIVEN))
        output = _same(_new(size.inner, n, of=(both.view(size.inner, n),)), GIVEN)
        self._graph.expand(output)
        gated = _same(output, _same(_new(size.inner, n, of=(GIVEN, cur))))
        return _new(self._hyper.embedding, n, of=(GIVEN, gated))

    # ── feed-forward ──
    def _dense(self, cur: Tensor, ff: int) -> Tensor:
        n = cur.shape[1]
        if self._known.ungated:
            inner = _same(_same(_new(ff, n, of=(GIVEN, cur)), GIVEN))
        elif self._known.fused and self._known.block != "bert":
            inner = _new(ff, n, of=(_new(2 * ff, n, of=(GIVEN, cur)),))
        else:
            gate, up = _new(ff, n, of=(GIVEN, cur)), _new(ff, n, of=(GIVEN, cur))
            inner = _new(ff, n, of=(gate, up))
        return _new(self._hyper.embedding, n, of=(GIVEN, inner))

    def _experts(self, cur: Tensor, *, chosen_by: Tensor, joined: bool = False) -> Tensor:
        hyper, n, used = self._hyper, cur.shape[1], self._hyper.experts_used
        e, ff = hyper.embedding, hyper.expert_ff
        odds = _same(_new(hyper.experts, n, of=(GIVEN, chosen_by)))
        chosen = _new(hyper.experts, n, of=(odds,)).view(used, n)
        weights = _new(1, used, n, of=(odds.view(1, hyper.experts, n), chosen)).view(used, n)
        weights = _same(weights, _same(_new(1, n, of=(weights,)))).view(1, used, n)
        self._graph.expand(weights)
        if joined:
            both = _new(2 * ff, used, n, of=(GIVEN, cur.view(e, 1, n), chosen))
            inner = _new(ff, used, n, of=(both.view(ff, used, n), both.view(ff, used, n)))
        else:
            gate, up = (_new(ff, used, n, of=(GIVEN, cur.view(e, 1, n), chosen)) for _ in range(2))
            inner = _new(ff, used, n, of=(gate, up))
        down = _same(_new(e, used, n, of=(GIVEN, inner, chosen)), weights)
        if used < 2:
            return _new(e, n, of=(down.view(e, n),))
        views = [down.view(e, n) for _ in range(used)]
        self._graph.expand(down)
        for view in views:
            self._graph.expand(view)
        total = _same(views[0], views[1])
        for view in views[2:]:
            total = _same(total, view)
        return total
