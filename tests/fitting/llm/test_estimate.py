"""Estimates of language models, compared with the buffers of llama.cpp, and hostile headers."""

from __future__ import annotations

import csv
import functools
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from modelfetch.fitting.llm.estimate import MARGIN, OVERHEAD, VISION, LlmOptions, llm_estimate
from modelfetch.fitting.llm.hyperparameters import UnknownModelError, hyperparameters
from modelfetch.fitting.llm.layers import OnGpu
from modelfetch.formats.gguf import GgufHeader, read_gguf
from modelfetch.formats.range_reader import GIB, MIB
from tests.cases import THOROUGH, each, first
from tests.examples import SHARE
from tests.fitting.architectures import made
from tests.fitting.build import U32, Shape, TensorSpec, array, gguf, llm, metadata, tensors, text, u32
from tests.fitting.real import REAL, real_llm
from tests.fitting.shapes import SPECS
from tests.fitting.small import SHAPES

if TYPE_CHECKING:
    from modelfetch.fitting.types import Estimate

TABLE = Path(__file__).parent.parent / "llama_cpp.csv"
"""What llama.cpp b11739 takes on a separate device; tests/e2e/test_fit_llama_cpp.py measures it again."""
ROWS = list(csv.DictReader(TABLE.read_text().splitlines()))
SAMPLE = range(0, len(ROWS), 1 if SHARE >= 1 else 4)


def estimate(header: GgufHeader, **options: object) -> Estimate:
    return llm_estimate("m", "ollama://m", header, replace(LlmOptions(), **options))  # type: ignore[arg-type]


def total(found: Estimate) -> int:
    assert found.total is not None, found.unknown
    return found.total


@functools.cache
def of(name: str) -> GgufHeader:
    return read_gguf(made(SPECS[name]))


# ── buffers that were measured ──
@functools.cache
def measured(number: int) -> Estimate:
    """The estimate for a row of the table."""
    row = ROWS[number]
    return estimate(
        of(row["model"]),
        context=int(row["context"]),
        parallel=int(row["parallel"]),
        kv_type=row["kv_type"],
        flash_attention=row["flash_attention"] == "1",
    )


@each("number", SAMPLE)
def test_every_buffer_has_the_size_that_the_engine_reports(number: int) -> None:
    found, row = measured(number), ROWS[number]
    assert found.weights == pytest.approx(int(row["weights"]), abs=0.01 * MIB)
    assert found.kv == int(row["kv"])
    assert found.compute == pytest.approx(int(row["compute"]), rel=0.05)


def test_most_compute_buffers_are_right_to_a_hundredth() -> None:
    near = sum(abs((measured(n).compute or 0) / int(ROWS[n]["compute"]) - 1) < 0.01 for n in SAMPLE)
    assert near / len(SAMPLE) > 0.9


def test_the_table_has_every_architecture_with_and_without_flash_attention() -> None:
    assert {(row["model"], row["flash_attention"]) for row in ROWS} >= {
        (name, flash) for name in SPECS for flash in "01" if SPECS[name].context >= 2048
    }


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


def test_real_models_have_on_a_gpu_the_weights_and_the_cache_of_real_logs() -> None:
    # MiB of weights and of a cache of 8192 tokens (source: logs of CUDA cards in Ollama's issues)
    for name, weights, kv in (("llama3.1:8b", 4403.49, 1024.0), ("llama3.2:3b", 1918.35, 896.0)):
        found = estimate(read_gguf(real_llm(name)), context=8192)
        assert [round((part or 0) / MIB, 2) for part in (found.weights, found.kv)] == [weights, kv]


def test_the_input_embedding_stays_in_ram_unless_the_output_shares_it() -> None:
    found = estimate(read_gguf(real_llm("llama3.1:8b")))
    assert found.assumptions["weights_in_ram"] / MIB == pytest.approx(281.81, abs=0.01)
    assert estimate(read_gguf(real_llm("llama3.2:3b"))).assumptions["weights_in_ram"] == 0


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("context", first(1, [8192, 2048, 32768]))
def test_the_bound_from_the_first_range_is_above_the_exact_number_and_near_it(name: str, context: int) -> None:
    quick, exact = read_gguf(real_llm(name), tensors=False), read_gguf(real_llm(name))
    assert quick.tensors is None
    bound, found = estimate(quick, context=context), estimate(exact, context=context)
    assert (bound.method, found.method) == ("size", "header")
    assert total(found) <= total(bound) <= total(found) * 1.07


# ── settings ──
def test_the_cache_is_quantized_only_with_flash_attention() -> None:
    header = of("llama3.1:8b")
    plain = estimate(header, kv_type="q8_0", flash_attention=False)
    assert plain.kv == estimate(header).kv
    assert plain.assumptions["notes"] == ["the cache is quantized only with flash attention"]
    assert (estimate(header, kv_type="q8_0").kv or 0) * 32 == (estimate(header).kv or 0) * 17
    assert (estimate(header, kv_type="q4_0").kv or 0) * 32 == (estimate(header).kv or 0) * 9


def test_the_context_is_at_most_the_trained_one_for_each_slot() -> None:
    header = read_gguf(llm(Shape(context=2048)))
    found = estimate(header, context=8192, parallel=2)
    assert found.assumptions["context"] == 2048
    assert found.kv == estimate(header, context=2048, parallel=2).kv == 2 * 2048 * 4 * 4 * 128 * 2


def test_the_cache_counts_the_heads_of_each_layer() -> None:
    assert estimate(read_gguf(llm(SHAPES["deci"])), context=4096).kv == 4096 * 64 * 2 * 2 * (8 + 2 + 4 + 1)


def test_every_slot_has_its_own_window() -> None:
    one, two = (estimate(of("gemma3:1b"), context=8192, parallel=slots) for slots in (1, 2))
    width = 2 * 256 * 2
    assert one.kv == width * (4 * 8192 + 22 * 1024)  # 512 tokens of the window and 512 of the batch
    assert two.kv == 2 * (one.kv or 0)


def test_recurrent_layers_take_the_same_memory_for_any_context() -> None:
    def per_token(name: str) -> float:
        short, long = (estimate(of(name), context=context).kv or 0 for context in (4096, 8192))
        return (long - short) / 4096

    assert per_token("qwen3.6:27b") == 16 * 4 * 256 * 2 * 2  # 16 of 64 layers
    assert per_token("qwen3.6:35b") == 10 * 2 * 256 * 2 * 2


def test_latent_attention_keeps_one_vector_a_token() -> None:
    assert estimate(of("glm-4.7-flash"), context=4096).kv == 4096 * 47 * 576 * 2


def test_an_embedding_model_runs_with_a_batch_as_long_as_its_context() -> None:
    short, long = (estimate(of("qwen3-embedding:0.6b"), context=context) for context in (512, 32768))
    assert (short.assumptions["batch"], long.assumptions["batch"]) == (512, 2048)


@each("name", ["nomic-embed-text", "mxbai-embed-large", "embeddinggemma:300m"])
def test_an_encoder_has_no_cache_and_keeps_its_input_layer_in_ram(name: str) -> None:
    found = estimate(of(name), context=8192, parallel=4)
    assert found.kv == 0
    assert found.total is not None
    assert (found.assumptions["weights_in_ram"] > 0) is (name != "embeddinggemma:300m")  # its output shares them


# ── what must be free, and what happens with less ──
def test_the_server_keeps_one_gigabyte_free() -> None:
    found = estimate(of("llama3.1:8b"))
    assert found.margin == MARGIN == GIB
    assert found.needed == total(found) + GIB


def test_layers_go_to_the_cpu_from_the_first_one_on() -> None:
    found = estimate(of("llama3.1:8b"))
    assert found.layers is not None
    assert found.layers.output + sum(found.layers.layers) == (found.weights or 0) + (found.kv or 0)
    assert found.on_gpu(found.needed) == OnGpu(layers=33, experts=0)
    assert found.on_gpu(found.needed - 1) == OnGpu(layers=32, experts=0)
    assert found.on_gpu(0) == OnGpu(layers=0, experts=0)


def test_of_a_mixture_of_experts_the_experts_of_the_last_layers_go_to_the_cpu_first() -> None:
    found = estimate(of("qwen3-coder:30b"))
    assert found.layers is not None
    parts = found.layers
    assert parts.output + sum(parts.layers) + sum(parts.experts) == (found.weights or 0) + (found.kv or 0)
    assert found.on_gpu(found.needed) == OnGpu(layers=49, experts=48)
    assert found.on_gpu(found.needed - 1) == OnGpu(layers=49, experts=47)
    assert found.on_gpu(found.needed - sum(parts.experts[10:])) == OnGpu(layers=49, experts=10)
    without = found.needed - sum(parts.experts) - sum(parts.layers[:20])
    assert found.on_gpu(without + parts.experts[20]) == OnGpu(layers=29, experts=1)  # the foremost keeps its experts


def test_an_embedding_model_is_not_split() -> None:
    assert estimate(of("nomic-embed-text")).layers is None


def test_a_vision_encoder_counts_with_its_bound_and_its_weights() -> None:
    header = of("llama3.1:8b")
    found = llm_estimate("m", "u", header, LlmOptions(), extra=1000)
    assert found.weights == (estimate(header).weights or 0) + 1000
    assert found.margin == MARGIN + VISION
    shape = Shape()
    inline = [*tensors(shape), TensorSpec(name="v.blk.0.attn_q.weight", shape=(256, 256))]
    assert estimate(read_gguf(gguf(metadata(shape), inline))).margin == MARGIN + VISION


# ── what a header may claim ──
def test_the_largest_accepted_number_of_layers_and_experts_is_computed_fast() -> None:
    shape = Shape(layers=2, experts=64, experts_used=64)
    pairs = metadata(shape)
    pairs |= {"llama.block_count": u32(1024), "llama.attention.head_count": array(U32, [4] + [0] * 1023)}
    pairs["llama.attention.head_count_kv"] = array(U32, [4] * 1024)
    started = time.monotonic()
    assert estimate(read_gguf(gguf(pairs, tensors(shape)))).compute is not None
    assert time.monotonic() - started < 10


@each(
    ("key", "value", "limits"),
    [("block_count", 1025, "1 to 1024"), ("expert_used_count", 65, "0 to 64"), ("block_count", 2**31, "1 to 1024")],
)
def test_an_implausible_number_of_layers_or_experts_is_unknown(key: str, value: int, limits: str) -> None:
    shape = Shape(experts=8, experts_used=2)
    found = estimate(read_gguf(gguf(metadata(shape) | {f"llama.{key}": u32(value)}, tensors(shape))))
    assert found.total is None
    assert found.unknown == (f"llama.{key} is {value}, expected a whole number from {limits}",)


def test_an_interval_of_no_layers_is_unknown() -> None:
    header = of("qwen3.5:4b")
    found = estimate(replace(header, metadata={**header.metadata, "qwen35.full_attention_interval": 0}))
    assert found.unknown == (f"qwen35.full_attention_interval is 0, expected a whole number from 1 to {2**31}",)


def test_an_unknown_architecture_is_unknown_with_bounds() -> None:
    found, known = (estimate(read_gguf(llm(Shape(arch=arch)))) for arch in ("newarch", "llama"))
    assert (found.kv, found.compute, found.total) == (None, None, None)
    assert found.unknown == ("the architecture 'newarch' is not known",)
    assert found.most is not None
    assert found.known < total(known) < found.most
    assert found.as_dict()["assumptions"]["at_most"] == found.most


@THOROUGH
@each("flash", [True, False])
@each("context", [512, 131072])
@each("name", ["llama3.2:1b", "qwen2.5:0.5b", "qwen3.5:4b", "qwen3.6:35b", "gemma4:e2b", "gpt-oss:20b"])
def test_the_upper_bound_of_an_unknown_architecture_is_above_the_known_need(
    name: str, context: int, *, flash: bool
) -> None:
    known = estimate(of(name), context=context, parallel=4, flash_attention=flash)
    spec = replace(SPECS[name], arch="newarch", ff=SPECS[name].ff or 512)
    found = estimate(read_gguf(made(spec)), context=context, parallel=4, flash_attention=flash)
    assert found.most is not None
    assert found.weights is not None
    assert found.most - found.weights >= (known.kv or 0) + (known.compute or 0) + known.overhead


def test_an_impossible_state_of_an_unknown_architecture_leaves_it_without_an_upper_bound() -> None:
    shape = Shape(arch="newarch")
    found = estimate(read_gguf(gguf(metadata(shape) | {"newarch.ssm.state_size": text("huge")}, tensors(shape))))
    assert found.unknown
    assert found.most is None


def test_a_tensor_of_an_unknown_type_is_bounded_by_the_size_of_the_file() -> None:
    shape = Shape()
    strange = [*tensors(shape), TensorSpec(name="odd.weight", shape=(256, 4), kind_id=77)]
    header = read_gguf(gguf(metadata(shape), strange))
    found = estimate(header)
    assert found.weights is None
    assert found.total is None
    assert found.unknown == ("tensors of unknown type 77",)
    assert found.most == (header.size or 0) + found.known


def test_a_header_without_hyperparameters_is_unknown() -> None:
    found = estimate(read_gguf(gguf({"general.architecture": text("llama")}, [])))
    assert found.total is None
    assert found.overhead == OVERHEAD
    assert found.unknown == ("the header has no llama.block_count",)


@each(
    ("key", "value", "why"),
    [
        ("llama.block_count", u32(0), "whole number"),
        ("llama.block_count", text("four"), "whole number"),
        ("llama.block_count", u32(4_000_000), "whole number"),
        ("llama.attention.head_count_kv", array(4, [1, 2]), "list of 4"),
        ("llama.attention.head_count", array(4, [0, 0, 0, 0]), "list of 4"),
    ],
)
def test_invalid_hyperparameters_are_refused(key: str, value: object, why: str) -> None:
    shape = Shape()
    pairs = metadata(shape) | {key: value}
    with pytest.raises(UnknownModelError, match=why):
        hyperparameters(read_gguf(gguf(pairs, tensors(shape))))  # type: ignore[arg-type]
