"""The GPU memory of a language model under llama.cpp's server, which Ollama runs from version 0.30 on.

Weights are the tensors on the GPU. The cache is exact: its layout is fixed. The compute buffer is the peak of ggml's
allocator for the graph of one batch, see `modelfetch.fitting.llm.graph`. All three are compared with llama.cpp itself
(tests/e2e/test_fit_llama_cpp.py).

Source: ollama, llm/llama_server.go (the server's arguments); llama.cpp, src/llama-kv-cache*.cpp,
src/llama-memory-recurrent.cpp, common/fit.cpp.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from modelfetch.fitting.llm.graph import Batch, graph_bytes
from modelfetch.fitting.llm.hyperparameters import Hyper, UnknownModelError, hyperparameters, largest_state
from modelfetch.fitting.llm.layers import LayerSizes
from modelfetch.fitting.types import Estimate
from modelfetch.formats.range_reader import GIB

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modelfetch.fitting.llm.hyperparameters import Layer
    from modelfetch.fitting.types import Method
    from modelfetch.formats.gguf import GgufHeader, Tensor

OVERHEAD = int(0.45 * GIB)
"""The CUDA context of a llama.cpp process, in bytes."""

MARGIN = GIB
"""Memory that the server leaves free when it loads (``--fit-target``); with less, layers go to the CPU."""

VISION = GIB
"""What Ollama keeps free for the buffers of a vision encoder, in addition to its weights.

The real need depends on the image. (Source: ollama, llm/llama_server.go, ``mmprojOffloadHeadroom``.)
"""

KV_BYTES = {"f16": Fraction(2), "q8_0": Fraction(34, 32), "q4_0": Fraction(18, 32)}
"""Bytes of an element of the cache."""

BATCH = 512
"""Ollama's batch in tokens; the micro batch is as long."""

ENCODER_BATCH = 2048
"""Ollama's batch for embedding models, in tokens; at most the context."""

_EXPERTS = re.compile(r"\.ffn_(?:up|down|gate_up|gate)_(?:ch)?exps")  # the weights that go to the CPU first

_PADDING = 256  # a cache is a multiple of so many tokens long

_ON_CPU = frozenset(
    (
        "token_embd.weight",
        "per_layer_token_embd.weight",
        "token_types.weight",
        "position_embd.weight",
        "token_embd_norm.weight",
        "token_embd_norm.bias",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmOptions:
    """Settings of the server; ``context`` is in tokens for each of ``parallel`` slots, ``margin`` in bytes."""

    context: int = 4096
    parallel: int = 1
    kv_type: str = "f16"
    flash_attention: bool = True
    batch: int | None = None
    margin: int = MARGIN


def llm_estimate(name: str, uri: str, header: GgufHeader, options: LlmOptions, *, extra: int | None = 0) -> Estimate:
    """Estimate a language model.

    Args:
        name: Its name in the report.
        uri: Its source.
        header: Its GGUF header, with or without tensors; without them, the file's size bounds the weights.
        options: The server's settings.
        extra: Bytes of further weights, such as the file of a projector; None if their size is not known.
    """
    weights, on_cpu, method, doubts = _weights(header, extra)
    found = Estimate(
        name=name,
        uri=uri,
        weights=weights,
        kv=None,
        compute=None,
        overhead=OVERHEAD,
        margin=options.margin,
        method=method,
        unknown=doubts,
    )
    try:
        hyper = hyperparameters(header)
    except UnknownModelError as error:
        return replace(found, unknown=(*doubts, str(error)))
    run = _effective(hyper, options)
    heaviest = _most_weights(header, extra, weights)
    try:
        known = hyper.architecture
    except UnknownModelError as error:
        return replace(found, unknown=(*doubts, str(error)), most=_most(header, hyper, run, heaviest))
    encoder = known.encoder
    vision = 0 if encoder or not (hyper.vision or extra != 0) else VISION
    kv, compute = kv_bytes(hyper, run), compute_bytes(hyper, run)
    return replace(
        found,
        kv=kv,
        compute=compute,
        most=heaviest + kv + compute + OVERHEAD if doubts and heaviest is not None else None,
        margin=options.margin + vision,
        assumptions=_assumptions(hyper, options, run, on_cpu, vision=bool(vision)),
        layers=None if encoder else _layer_sizes(header, hyper, run, extra or 0),
    )


# ── weights ──
def _weights(header: GgufHeader, extra: int | None) -> tuple[int | None, int | None, Method, tuple[str, ...]]:
    """Bytes on the GPU, bytes in RAM, the method, and the reasons why something is not known."""
    doubts: tuple[str, ...] = () if extra is not None else ("the size of its projector is not known",)
    if header.tensors is None:
        size = None if header.size is None else header.size + (extra or 0)
        return size, None, "size", doubts if size is not None else (*doubts, "the file's size is not known")
    unknown_types = sorted({tensor.kind for tensor in header.tensors if tensor.nbytes is None})
    if unknown_types:
        return None, None, "header", (*doubts, "tensors of unknown type " + ", ".join(map(str, unknown_types)))
    names = stays_on_cpu(header.tensors)
    on_cpu = sum(tensor.nbytes or 0 for tensor in header.tensors if tensor.name in names)
    return sum(tensor.nbytes or 0 for tensor in header.tensors) - on_cpu + (extra or 0), on_cpu, "header", doubts


def stays_on_cpu(tensors: Iterable[Tensor]) -> frozenset[str]:
    """The tensors of the input layer, which llama.cpp keeps in RAM.

    Where the output shares the token embedding, the GPU holds a copy of it as the output (source: llama-model.cpp,
    ``TENSOR_DUPLICATED``). Encoders have no output, so nothing is copied.
    """
    names = {tensor.name for tensor in tensors}
    tied = "output.weight" not in names and "output_norm.weight" in names
    return _ON_CPU - {"token_embd.weight"} if tied else _ON_CPU


# ── settings ──
def _effective(hyper: Hyper, options: LlmOptions) -> LlmOptions:
    """The settings that take effect.

    The context is at most the trained one; values are quantized only with flash attention.
    """
    context = min(options.context, hyper.trained_context)
    batch = options.batch or (min(ENCODER_BATCH, context) if hyper.pooled else BATCH)
    return LlmOptions(
        context=context,
        parallel=options.parallel,
        kv_type=options.kv_type if options.flash_attention else "f16",
        flash_attention=options.flash_attention,
        batch=batch,
    )


def _assumptions(
    hyper: Hyper, requested: LlmOptions, run: LlmOptions, on_cpu: int | None, *, vision: bool
) -> dict[str, Any]:
    notes = []
    if run.context != requested.context:
        notes.append(f"trained for {run.context} tokens, so the context is that")
    if run.kv_type != requested.kv_type:
        notes.append("the cache is quantized only with flash attention")
    if vision:
        notes.append(
            "1 GiB of that is what Ollama reserves for the buffers of its vision encoder; the need is not known"
        )
    return {
        "architecture": hyper.arch,
        "context": run.context,
        "parallel": run.parallel,
        "kv_type": run.kv_type,
        "flash_attention": run.flash_attention,
        "batch": run.batch,
        "layers": len(hyper.layers),
        **({"weights_in_ram": on_cpu} if on_cpu is not None else {}),
        **({"notes": notes} if notes else {}),
    }


# ── cache ──
def _padded(tokens: int) -> int:
    return -(-tokens // _PADDING) * _PADDING


def _lengths(hyper: Hyper, run: LlmOptions) -> tuple[int, int]:
    """Tokens of one slot's cache in a layer that keeps the whole context, and in one that keeps its window."""
    whole = _padded(run.context)
    return whole, min(whole, _padded((hyper.window or 0) + (run.batch or BATCH)))


def kv_bytes(hyper: Hyper, run: LlmOptions) -> int:
    """The cache of all slots: keys and values layer by layer, and the states of recurrent layers."""
    return sum(_layer_kv(hyper, layer, run) for layer in hyper.layers)


def _layer_kv(hyper: Hyper, layer: Layer, run: LlmOptions) -> int:
    if hyper.architecture.encoder or not layer.cached:
        return 0
    if layer.recurrent and hyper.recurrent:
        size = hyper.recurrent
        return 4 * run.parallel * ((size.kernel - 1) * size.channels + size.state * size.inner)
    whole, short = _lengths(hyper, run)
    values = layer.kv_heads * layer.values
    if not run.flash_attention:  # transposed values of all layers are as wide as the widest (llama-kv-cache.cpp)
        values = max(other.kv_heads * other.values for other in hyper.layers)
    width = layer.kv_heads * layer.keys + values
    if hyper.latent:  # values are a part of the keys
        width = hyper.latent.rank + hyper.latent.rope
    return int(run.parallel * (short if layer.windowed else whole) * width * KV_BYTES[run.kv_type])


# ── compute buffer ──
def compute_bytes(hyper: Hyper, run: LlmOptions) -> int:
    """The compute buffer on the GPU. A chat model computes one token's probabilities for each slot."""
    whole, short = _lengths(hyper, run)
    tokens = min(run.batch or BATCH, run.context * run.parallel)
    tokens = -(-tokens // run.parallel) * run.parallel
    batch = Batch(
        tokens=tokens,
        outputs=tokens if hyper.pooled else min(tokens, run.parallel),
        context=whole,
        short=short,
        sequences=run.parallel,
        flash=run.flash_attention,
        quantized=run.kv_type != "f16",
    )
    return graph_bytes(hyper, batch)


# ── what does not fit, what is not known ──
def _layer_sizes(header: GgufHeader, hyper: Hyper, run: LlmOptions, extra: int) -> LayerSizes | None:
    """The bytes of each layer; None if the tensors were not read."""
    if header.tensors is None:
        return None
    layers = [_layer_kv(hyper, layer, run) for layer in hyper.layers]
    experts = [0] * len(layers)
    output = extra
    on_cpu = stays_on_cpu(header.tensors)
    for tensor in header.tensors:
        number = tensor.name.split(".")[1] if tensor.name.startswith("blk.") else ""
        if number.isdecimal() and int(number) < len(layers):
            (experts if _EXPERTS.search(tensor.name) else layers)[int(number)] += tensor.nbytes or 0
        elif tensor.name not in on_cpu:
            output += tensor.nbytes or 0
    return LayerSizes(output=output, layers=tuple(layers), experts=tuple(experts) if any(experts) else ())


def _most_weights(header: GgufHeader, extra: int | None, known: int | None) -> int | None:
    """Upper bound for the weights: the size of the files if there are tensors of unknown types; None if unknown too."""
    if extra is None:
        return None
    return known if known is not None or header.size is None else header.size + extra


def _most(header: GgufHeader, hyper: Hyper, run: LlmOptions, weights: int | None) -> int | None:
    """Upper bound for an unknown architecture: a full cache and a state in every layer, and no flash attention."""
    if weights is None:
        return None
    try:
        states = len(hyper.layers) * largest_state(header)
    except UnknownModelError:
        return None
    context, batch = _padded(run.context), run.batch or BATCH
    cache = sum(context * layer.kv_heads * (layer.keys + layer.values) * 2 for layer in hyper.layers)
    widest = max(max(layer.ff, hyper.expert_ff * hyper.experts_used) for layer in hyper.layers)
    scores = (max(layer.heads for layer in hyper.layers) + 2) * context  # with two masks
    inputs = hyper.per_layer_input * len(hyper.layers)
    compute = 4 * batch * (scores + 4 * widest + 16 * hyper.embedding + inputs + hyper.vocabulary)
    return weights + run.parallel * (cache + states) + compute + OVERHEAD
