"""Language models: against the logs of the real Ollama, and against its own scheduler."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from modelfetch.fitting.llm import ollama_scheduler
from modelfetch.fitting.llm.estimate import OVERHEAD, LlmOptions, compute_bytes, llm_estimate
from modelfetch.fitting.llm.hyperparameters import UnknownModelError, hyperparameters
from modelfetch.formats.gguf import GgufHeader, read_gguf
from modelfetch.formats.range_reader import GIB, MIB
from tests.fitting.build import U32, Shape, TensorSpec, array, gguf, llm, metadata, tensors, text, u32
from tests.fitting.measured import MEASURED, SHAPES, Measured
from tests.fitting.real import REAL, real_llm

if TYPE_CHECKING:
    from modelfetch.fitting.types import Estimate


def estimate(header: GgufHeader, **options: object) -> Estimate:
    return llm_estimate("m", "ollama://m", header, replace(LlmOptions(), **options))  # type: ignore[arg-type]


def total(made: Estimate) -> int:
    assert made.total is not None
    return made.total


# ── buffers that were measured ──
@pytest.mark.parametrize("row", MEASURED, ids=lambda r: f"{r.shape}-{r.context}-{r.flash_attention}-{r.kv_type}")
def test_every_buffer_is_the_one_of_the_log(row: Measured) -> None:
    header = read_gguf(llm(SHAPES[row.shape]))
    run = LlmOptions(context=row.context, flash_attention=row.flash_attention, kv_type=row.kv_type)
    made = llm_estimate("m", "", header, run)
    assert made.weights is not None
    assert made.kv is not None
    assert made.compute is not None
    assert (made.weights + made.assumptions["weights_in_ram"]) / MIB == pytest.approx(row.weights, abs=0.011)
    assert made.kv / MIB == pytest.approx(row.kv, abs=0.011)
    assert compute_bytes(hyperparameters(header), run, on_cpu=True) / MIB == pytest.approx(row.compute, abs=0.011)
    assert made.compute / MIB == pytest.approx(row.compute, rel=on_a_gpu(row))


def on_a_gpu(row: Measured) -> float:
    """How far the buffer on a GPU, where the embedded tokens come in from the CPU, is from that on the CPU alone."""
    return 0.14 if row.flash_attention and row.shape in {"q3moe", "moe1", "phi3deep", "gemma2wide"} else 0.009


def test_every_shape_was_measured_with_and_without_flash_attention() -> None:
    assert {(r.shape, r.flash_attention) for r in MEASURED} == {(s, f) for s in SHAPES for f in (False, True)}


# name, context in all, weights on the GPU, cache, compute in MiB (source: ollama issues, logs of CUDA cards)
ON_GPU = [("llama3.1:8b", 8192, 4403.49, 1024.0, 560.0), ("llama3.2:3b", 8192, 1918.35, 896.0, 424.0)]


@pytest.mark.parametrize(("name", "context", "weights", "kv", "compute"), ON_GPU)
def test_real_models_take_on_a_gpu_what_the_logs_of_real_cards_say(
    name: str, context: int, weights: float, kv: float, compute: float
) -> None:
    made = estimate(read_gguf(real_llm(name)), context=context // 2, parallel=2)
    assert [round((part or 0) / MIB, 2) for part in (made.weights, made.kv, made.compute)] == [weights, kv, compute]


@pytest.mark.parametrize("context", [4096, 8192, 32768])
def test_with_flash_attention_a_real_card_takes_no_more_than_the_output_does(context: int) -> None:
    made = estimate(read_gguf(real_llm("llama3.1:8b")), context=context, flash_attention=True)
    assert (made.compute or 0) / MIB == pytest.approx(258.5, abs=0.01)  # as a real card's log had it


def test_the_input_embedding_stays_in_ram_unless_the_output_shares_it() -> None:
    assert estimate(read_gguf(real_llm("llama3.1:8b"))).assumptions["weights_in_ram"] / MIB == pytest.approx(
        281.81, abs=0.01
    )
    assert estimate(read_gguf(real_llm("llama3.2:3b"))).assumptions["weights_in_ram"] == 0


EXACT = {
    "qwen2.5:0.5b": 391_859_712,
    "llama3.2:3b": 2_011_539_712,
    "llama3.1:8b": 4_912_898_304,
    "llama3.3:70b": 42_512_531_712,
}


@pytest.mark.parametrize("name", EXACT)
def test_the_real_shapes_add_up_to_the_bytes_of_the_real_files(name: str) -> None:
    header = read_gguf(real_llm(name))
    assert sum(t.nbytes or 0 for t in header.tensors or ()) == EXACT[name]


# GiB of weights, cache and compute: context 4096, the same with flash attention and an 8-bit cache, then 32768 and
# 131072 with flash attention
BUFFERS = [
    ("qwen2.5:0.5b", 0.70, 0.68, 1.03, None),
    ("llama3.2:3b", 2.56, 2.36, 5.62, 16.3),
    ("llama3.1:8b", 5.09, 4.82, 8.55, 20.7),
    ("llama3.3:70b", 40.86, 39.97, 49.3, 79.5),
]


@pytest.mark.parametrize(("name", "plain", "quantized", "longer", "longest"), BUFFERS)
def test_buffers_of_the_catalog(
    name: str, plain: float, quantized: float, longer: float, longest: float | None
) -> None:
    header = read_gguf(real_llm(name))

    def buffers(**options: object) -> float:
        return (total(estimate(header, **options)) - OVERHEAD) / GIB

    assert buffers() == pytest.approx(plain, abs=0.01)
    assert buffers(flash_attention=True, kv_type="q8_0") == pytest.approx(quantized, abs=0.01)
    assert buffers(flash_attention=True, context=32768) == pytest.approx(longer, rel=0.01)
    if longest is not None:
        assert buffers(flash_attention=True, context=131072) == pytest.approx(longest, rel=0.01)


# ── Ollama's scheduler: (reported, free needed) in GiB by context, as its own estimator gave them ──
DEMANDS = [
    ("qwen2.5:0.5b", 4096, 1.16, 1.27),
    ("qwen2.5:0.5b", 8192, 1.21, 1.32),
    ("llama3.2:3b", 4096, 3.08, 3.39),
    ("llama3.2:3b", 8192, 3.70, 3.85),
    ("llama3.2:3b", 131072, 23.15, None),
    ("llama3.1:8b", 4096, 5.68, 6.06),
    ("llama3.1:8b", 8192, 6.45, 6.57),
    ("llama3.1:8b", 32768, 11.10, None),
    ("llama3.1:8b", 131072, 29.66, None),
    ("llama3.3:70b", 4096, 41.83, 42.34),
    ("llama3.3:70b", 8192, 43.61, 43.65),
    ("llama3.3:70b", 32768, 54.25, None),
    ("llama3.3:70b", 131072, 96.81, None),
]


@pytest.mark.parametrize(("name", "context", "reported", "free"), DEMANDS)
def test_what_ollamas_scheduler_demands(name: str, context: int, reported: float, free: float | None) -> None:
    header = read_gguf(real_llm(name))
    found = ollama_scheduler.demand(header, hyperparameters(header), context, 1, "f16", 512)
    assert found is not None
    assert found.reported / GIB == pytest.approx(reported, abs=0.011)
    if free is not None:
        assert found.free / GIB == pytest.approx(free, abs=0.011)


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("context", [2048, 8192, 32768])
def test_the_bound_from_the_first_range_is_above_the_exact_number_and_near_it(name: str, context: int) -> None:
    quick, exact = read_gguf(real_llm(name), tensors=False), read_gguf(real_llm(name))
    assert quick.tensors is None
    bound, demand = estimate(quick, context=context), estimate(exact, context=context)
    assert bound.method == "size"
    assert demand.method == "header"
    assert total(demand) <= total(bound) <= total(demand) * 1.07
    assert demand.demanded is not None
    assert bound.demanded is not None
    assert demand.demanded <= bound.demanded <= demand.demanded * 1.09


# ── settings ──
def test_the_cache_is_quantized_only_with_flash_attention() -> None:
    header = read_gguf(llm(Shape()))
    assert estimate(header, kv_type="q8_0").kv == estimate(header).kv
    assert estimate(header, kv_type="q8_0").assumptions["notes"] == ["the cache is quantized only with flash attention"]
    flash = estimate(header, kv_type="q8_0", flash_attention=True)
    assert (flash.kv or 0) * 32 == (estimate(header).kv or 0) * 17
    assert (estimate(header, kv_type="q4_0", flash_attention=True).kv or 0) * 32 == (estimate(header).kv or 0) * 9


def test_flash_attention_needs_keys_and_values_of_the_same_length() -> None:
    shape = Shape()
    pairs = metadata(shape) | {"llama.attention.key_length": u32(96), "llama.attention.value_length": u32(64)}
    made = estimate(read_gguf(gguf(pairs, tensors(shape))), flash_attention=True)
    assert made.assumptions["flash_attention"] is False
    assert made.kv == 4 * 4096 * 4 * (96 + 64) * 2


def test_the_context_is_at_most_the_trained_one_for_each_sequence() -> None:
    header = read_gguf(llm(Shape(context=2048)))
    made = estimate(header, context=8192, parallel=2)
    assert made.assumptions["context"] == 2048
    assert made.kv == estimate(header, context=2048, parallel=2).kv == 2 * 2048 * 4 * 4 * 128 * 2


def test_the_cache_counts_the_heads_of_each_layer() -> None:
    made = estimate(read_gguf(llm(SHAPES["deci"])), context=4096)
    assert made.kv == 4096 * 64 * 2 * 2 * (8 + 2 + 4 + 1)


def test_a_short_context_shrinks_the_batch_too() -> None:
    made = estimate(read_gguf(llm(Shape(vocab=32000))), context=64)
    assert made.compute == pytest.approx(4 * 64 * (256 + 32000), rel=0.001)


# ── gemma3 in Ollama's engine: bytes of a windowed and a whole layer, and of the graph, as its debug log has them ──
GEMMA = Shape(
    arch="gemma3",
    embedding=1152,
    heads=4,
    kv_heads=1,
    head_dim=256,
    ff=6912,
    vocab=4000,
    tied=True,
    window=512,
    layers=26,
)
ENGINE = [
    (4096, 1, False, 1048576, 4194304, 38010880),
    (8192, 1, False, 1048576, 8388608, 71565312),
    (8192, 1, True, 1048576, 8388608, 37224448),
]


@pytest.mark.parametrize(("context", "parallel", "flash", "window", "whole", "graph"), ENGINE)
def test_five_layers_of_six_keep_only_their_window(
    context: int, parallel: int, flash: bool, window: int, whole: int, graph: int
) -> None:
    made = estimate(read_gguf(llm(GEMMA)), context=context, parallel=parallel, flash_attention=flash)
    assert made.kv == 22 * window + 4 * whole
    masks = 4 * 512 * 2 * context  # on a CPU the masks are no part of the graph; a GPU gets copies
    assert (made.compute or 0) - masks == pytest.approx(graph, rel=0.001)


def test_two_sequences_have_two_windows_and_one_batch() -> None:
    made = estimate(read_gguf(llm(GEMMA)), context=4096, parallel=2)
    assert made.kv == 22 * 1572864 + 4 * 8388608


def test_a_context_below_the_window_is_kept_whole() -> None:
    assert estimate(read_gguf(llm(GEMMA)), context=256).kv == 26 * 256 * 512 * 2


# ── embedding models ──
@pytest.mark.parametrize("arch", ["bert", "nomic-bert"])
def test_an_embedding_model_has_no_cache_and_keeps_its_input_layer_in_ram(arch: str) -> None:
    shape = Shape(arch=arch, layers=2, embedding=768, heads=12, kv_heads=12, ff=3072, vocab=30522, context=2048)
    made = estimate(read_gguf(llm(shape)), context=8192, parallel=4)
    assert made.kv == 0
    assert made.total is not None
    assert made.compute == 4 * 512 * (512 * 13 + 4 * 768 + 1)
    assert made.assumptions["weights_in_ram"] > 768 * 30522 * 2
    assert made.assumptions["parallel"] == 1


# ── what a header may claim ──
def test_as_many_layers_and_experts_as_are_believed_take_no_time() -> None:
    shape = Shape(layers=2, experts=64, experts_used=64)
    pairs = metadata(shape)
    pairs |= {"llama.block_count": u32(1024), "llama.attention.head_count": array(U32, [4] + [0] * 1023)}
    pairs["llama.attention.head_count_kv"] = array(U32, [4] * 1024)
    started = time.monotonic()
    made = estimate(read_gguf(gguf(pairs, tensors(shape))), flash_attention=True)
    assert made.compute is not None
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("key", "value", "most"),
    [("block_count", 1025, 1024), ("expert_used_count", 65, 64), ("block_count", 2**32 - 1, 1024)],
)
def test_more_of_them_are_not_believed(key: str, value: int, most: int) -> None:
    pairs = metadata(Shape()) | {f"llama.{key}": u32(value)}
    made = estimate(read_gguf(gguf(pairs, tensors(Shape()))))
    assert made.total is None
    assert made.unknown == (f"llama.{key} is {value}, expected a whole number up to {most}",)


# ── what is not known ──
def test_an_unknown_architecture_is_unknown_and_not_guessed() -> None:
    made = estimate(read_gguf(llm(Shape(arch="newarch"))))
    assert (made.kv, made.compute, made.total) == (None, None, None)
    assert made.unknown == ("the architecture 'newarch' is not known",)
    assert made.weights is not None


def test_an_unknown_tensor_type_is_unknown_and_not_counted_as_nothing() -> None:
    shape = Shape()
    strange = [*tensors(shape), TensorSpec(name="odd.weight", shape=(256, 4), kind_id=77)]
    made = estimate(read_gguf(gguf(metadata(shape), strange)))
    assert made.weights is None
    assert made.total is None
    assert made.demanded is None
    assert made.unknown == ("tensors of unknown type 77",)


def test_a_header_without_hyperparameters_is_unknown() -> None:
    made = estimate(read_gguf(gguf({"general.architecture": text("llama")}, [])))
    assert made.total is None
    assert made.unknown == ("the header has no llama.block_count",)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("llama.block_count", u32(0), "whole number"),
        ("llama.block_count", text("four"), "whole number"),
        ("llama.block_count", u32(4_000_000), "whole number"),
        ("llama.attention.head_count_kv", array(4, [1, 2]), "list of 4"),
        ("llama.attention.head_count", array(4, [0, 0, 0, 0]), "list of 4"),
    ],
)
def test_hyperparameters_that_make_no_sense_are_refused(key: str, value: object, why: str) -> None:
    shape = Shape()
    pairs = metadata(shape) | {key: value}
    with pytest.raises(UnknownModelError, match=why):
        hyperparameters(read_gguf(gguf(pairs, tensors(shape))))  # type: ignore[arg-type]


def test_a_vision_part_is_unknown() -> None:
    shape = Shape()
    pairs = metadata(shape) | {"llama.vision.block_count": u32(24)}
    assert estimate(read_gguf(gguf(pairs, tensors(shape)))).total is None
    header = read_gguf(llm(shape))
    made = llm_estimate("m", "u", header, LlmOptions(), extra=1000)
    assert made.total is None
    assert made.weights == (estimate(header).weights or 0) + 1000


def test_experts_are_demanded_as_ollama_demands_them() -> None:
    header = read_gguf(llm(SHAPES["moe"]))
    made = estimate(header)
    assert made.demanded is not None
    assert made.total is not None
    assert made.demanded > made.total - OVERHEAD
    assert estimate(read_gguf(llm(replace(SHAPES["moe"], vocab=60000)), tensors=False)).demanded is None
