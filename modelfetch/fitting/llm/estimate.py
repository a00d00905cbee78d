"""The GPU memory of a language model under llama.cpp or Ollama's engine.

Weights are the tensors that are put on the GPU. The key-value cache is exact: its layout is fixed. The compute buffer
is what ggml's allocator takes for the graph of one batch, see `modelfetch.fitting.llm.graph`; it was compared with
the buffers that Ollama 0.9.6 logs (tests/fitting/llm/test_estimate.py has them). For encoders and Ollama's own engine
it is the peak of what a block keeps alive at once, in 32-bit elements a token: e is the embedding, q the queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from modelfetch.fitting.llm import ollama_scheduler
from modelfetch.fitting.llm.graph import PLAIN, Form, graph_bytes
from modelfetch.fitting.llm.hyperparameters import Hyper, UnknownModelError, hyperparameters
from modelfetch.fitting.types import Estimate
from modelfetch.formats.range_reader import GIB

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modelfetch.fitting.types import Method
    from modelfetch.formats.gguf import GgufHeader, Tensor

OVERHEAD = int(0.45 * GIB)
"""What llama.cpp's CUDA context takes beside its buffers, in bytes."""

KV_BYTES = {"f16": Fraction(2), "q8_0": Fraction(34, 32), "q4_0": Fraction(18, 32)}
"""Bytes of an element of the cache."""

BATCH = 512
"""Ollama's and llama.cpp's default micro batch, in tokens."""

_ON_CPU = frozenset(
    (
        "token_embd.weight",
        "token_types.weight",
        "position_embd.weight",
        "token_embd_norm.weight",
        "token_embd_norm.bias",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmOptions:
    """How a language model is run; ``context`` is in tokens for each of ``parallel`` sequences."""

    context: int = 4096
    parallel: int = 1
    kv_type: str = "f16"
    flash_attention: bool = False
    batch: int = BATCH


@dataclass(frozen=True, slots=True, kw_only=True)
class _Graph:
    """How an architecture is computed.

    Attributes:
        form: What is particular about llama.cpp's graph of it.
        global_every: One layer in so many keeps the whole context, the others only their window.
        engine: Ollama's own engine, which computes the output only for the last token of a sequence.
        encoder: No cache, no output; the batch attends to itself.
    """

    form: Form = PLAIN
    global_every: int | None = None
    engine: bool = False
    encoder: bool = False


ARCHITECTURES = {
    **dict.fromkeys(("llama", "deci", "granite", "qwen2"), _Graph()),
    **dict.fromkeys(("qwen3", "qwen3moe"), _Graph(form=Form(normed=True))),
    "phi3": _Graph(form=Form(fused=True)),
    "gemma2": _Graph(form=Form(after=True, window_every=2)),
    "gemma3": _Graph(global_every=6, engine=True),
    **dict.fromkeys(("bert", "nomic-bert"), _Graph(encoder=True)),
}
"""The architectures whose buffers are known; any other is reported as unknown."""


def llm_estimate(name: str, uri: str, header: GgufHeader, options: LlmOptions, *, extra: int | None = 0) -> Estimate:
    """What a language model needs.

    Args:
        name: Its name in the report.
        uri: Where it comes from.
        header: Its GGUF header, with or without tensors; without, the file's size bounds the weights.
        options: How it is run.
        extra: Bytes of further weights, such as a projector's file; None where their size is not known.
    """
    weights, on_cpu, method, doubts = _weights(header, extra)
    try:
        hyper: Hyper | None = hyperparameters(header)
    except UnknownModelError as error:
        hyper = None
        doubts += (str(error),)
    graph = ARCHITECTURES.get(hyper.arch) if hyper else None
    if hyper and graph is None:
        doubts += (f"the architecture {hyper.arch!r} is not known",)
    if hyper and (hyper.vision or extra != 0):
        doubts += ("the buffers of its vision part are not known",)
    if hyper is None or graph is None:
        return Estimate(
            name=name, uri=uri, weights=weights, kv=None, compute=None, overhead=OVERHEAD, method=method, unknown=doubts
        )
    run = _effective(hyper, graph, options)
    demanded = ollama_scheduler.free_needed(
        header, hyper, run.context * run.parallel, run.parallel, run.kv_type, run.batch
    )
    return Estimate(
        name=name,
        uri=uri,
        weights=weights,
        kv=kv_bytes(hyper, run),
        compute=compute_bytes(hyper, run),
        overhead=OVERHEAD,
        method=method,
        assumptions=_assumptions(hyper, options, run, on_cpu),
        unknown=doubts,
        demanded=demanded,
    )


# ── weights ──
def _weights(header: GgufHeader, extra: int | None) -> tuple[int | None, int | None, Method, tuple[str, ...]]:
    """Bytes on the GPU, bytes that stay in RAM, the method, and what is not known."""
    doubts: tuple[str, ...] = () if extra is not None else ("the size of its projector is not known",)
    if header.tensors is None:
        size = None if header.size is None else header.size + (extra or 0)
        return size, None, "size", doubts if size is not None else (*doubts, "the file's size is not known")
    strange = sorted({tensor.kind for tensor in header.tensors if tensor.nbytes is None})
    if strange:
        return None, None, "header", (*doubts, "tensors of unknown type " + ", ".join(map(str, strange)))
    on_cpu = sum(tensor.nbytes or 0 for tensor in header.tensors if tensor.name in stays_on_cpu(header.tensors))
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
def _effective(hyper: Hyper, graph: _Graph, options: LlmOptions) -> LlmOptions:
    """The settings as the runner takes them.

    The context is at most the trained one; the cache is quantized only with flash attention (source: ollama,
    llm/server.go); an encoder has neither, and answers one request at a time (server/sched.go).
    """
    flash = options.flash_attention and hyper.key_length == hyper.value_length and not graph.encoder
    return LlmOptions(
        context=min(options.context, hyper.trained_context),
        parallel=1 if graph.encoder else options.parallel,
        kv_type=options.kv_type if flash else "f16",
        flash_attention=flash,
        batch=options.batch,
    )


def _assumptions(hyper: Hyper, asked: LlmOptions, run: LlmOptions, on_cpu: int | None) -> dict[str, Any]:
    notes = []
    if run.context != asked.context:
        notes.append(f"trained for {run.context} tokens, so the context is that")
    if run.kv_type != asked.kv_type:
        notes.append("the cache is quantized only with flash attention")
    return {
        "architecture": hyper.arch,
        "context": run.context,
        "parallel": run.parallel,
        "kv_type": run.kv_type,
        "flash_attention": run.flash_attention,
        "batch": run.batch,
        "layers": hyper.layers,
        **({"weights_in_ram": on_cpu} if on_cpu is not None else {}),
        **({"notes": notes} if notes else {}),
    }


def _padded(tokens: int, run: LlmOptions) -> int:
    """The cache's length: a multiple of 32, of 256 with flash attention (source: llama-kv-cache.cpp, get_padding)."""
    unit = 256 if run.flash_attention else 32
    return -(-tokens // unit) * unit


# ── key-value cache ──
def kv_bytes(hyper: Hyper, run: LlmOptions) -> int:
    """The cache, layer by layer: tokens * (key + value length) * key-value heads * bytes."""
    graph = ARCHITECTURES[hyper.arch]
    if graph.encoder:
        return 0
    whole = _padded(run.context * run.parallel, run)
    every, window = graph.global_every, hyper.window
    short = whole
    if every and window and run.context >= window:  # (source: ollama, kvcache/causal.go)
        short = _padded(run.parallel * window + run.batch, run)
    width = (hyper.key_length + hyper.value_length) * KV_BYTES[run.kv_type]
    return sum(
        int((short if every and (layer + 1) % every else whole) * width * heads)
        for layer, heads in enumerate(hyper.kv_heads)
    )


# ── compute buffer ──
def compute_bytes(hyper: Hyper, run: LlmOptions, *, on_cpu: bool = False) -> int:
    """The compute buffer on the GPU; with ``on_cpu`` that of a model which is on the CPU alone."""
    graph = ARCHITECTURES[hyper.arch]
    context = _padded(run.context * run.parallel, run)
    batch = min(run.batch, context)
    if graph.encoder:
        return 4 * batch * (_encoder(hyper, batch) + 1)
    if graph.engine:
        return 4 * batch * (_engine(hyper, context, flash=run.flash_attention) + 1)
    return graph_bytes(hyper, graph.form, context=context, batch=batch, flash=run.flash_attention, on_cpu=on_cpu)


def _encoder(hyper: Hyper, batch: int) -> int:
    """The scores of all heads beside the mask and what attention keeps, or both halves of the feed-forward."""
    e, q = hyper.embedding, hyper.queries
    return max(batch * (1 + max(hyper.heads)) + 2 * e + 2 * q, batch + 3 * e + 2 * max(hyper.ff))


def _engine(hyper: Hyper, context: int, *, flash: bool) -> int:
    """Ollama's engine: the masks come as inputs, of which the GPU gets copies; the output is one token's."""
    e, q, halves = hyper.embedding, hyper.queries, 2 * max(hyper.ff)
    scores = 0 if flash else context * max(hyper.heads)
    return max(scores + e + q, halves + 2 * e + 2 * q) + 2 * context
