"""`modelfetch fit` against two other estimators: gguf-parser-go, and the conformance vectors of fitllm."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.fitting.llm.estimate import LlmOptions, kv_bytes, llm_estimate
from modelfetch.fitting.llm.hyperparameters import hyperparameters
from modelfetch.formats.gguf import read_gguf
from modelfetch.formats.range_reader import MIB
from tests.e2e import peers
from tests.e2e.cache import must_run
from tests.fitting.architectures import made
from tests.fitting.shapes import SPECS

if TYPE_CHECKING:
    from pathlib import Path

CONTEXTS = (2048, 8192, 32768, 131072)

OTHER_CACHE = {
    "qwen3-embedding:0.6b": "it takes every embedding model for an encoder without a cache",
    "glm-4.7-flash": "it leaves out the rotated part of the latent keys",
}
"""Models for whose cache llama.cpp takes what modelfetch estimates, and gguf-parser-go estimates something else."""

OTHER_WEIGHTS = {
    "gemma4:e2b": "it keeps the projection of the per-layer embeddings in RAM",
    "gemma4:e4b": "the same",
    "nomic-embed-text": "it counts the input layer of encoders for the GPU",
    "mxbai-embed-large": "the same",
    "all-minilm": "the same",
}


@pytest.fixture(scope="module")
def gguf_parser() -> Path:
    return peers.gguf_parser()


@pytest.mark.parametrize("name", SPECS)
def test_weights_and_cache_are_those_of_gguf_parser(gguf_parser: Path, workplace: Path, name: str) -> None:
    spec = SPECS[name]
    model = made(spec)
    path = model.write(workplace / "model.gguf")
    windows = "attention.sliding_window" in spec.more  # for several slots it counts one batch beside all windows
    options = [
        LlmOptions(context=min(context, spec.context), kv_type=kv_type, parallel=parallel)
        for context in CONTEXTS
        for kv_type, parallel in (("f16", 1), ("q8_0", 1), ("q4_0", 1), *((("f16", 2),) if not windows else ()))
    ]
    queries = [
        {"path": str(path), "context": o.context, "parallel": o.parallel, "kv_type": o.kv_type, "flash_attention": True}
        for o in options
    ]
    (workplace / "queries.json").write_text(json.dumps(queries))
    header = read_gguf(model)
    answers = must_run(gguf_parser, workplace / "queries.json").splitlines()
    for option, answer in zip(options, answers, strict=True):
        theirs, ours = json.loads(answer), llm_estimate(name, "", header, option)
        near = {part: pytest.approx(theirs[part], abs=0.01 * MIB) for part in theirs}
        assert (ours.weights == near["weights"]) == (name not in OTHER_WEIGHTS), option
        assert (ours.kv == near["kv"]) == (name not in OTHER_CACHE), option


# ── fitllm ──
@pytest.fixture(scope="module")
def vectors() -> dict[str, dict[str, Any]]:
    """The conformance vectors by their id."""
    text = (peers.fitllm() / "vectors" / "fit-vectors-v1.json").read_text()
    return {vector["id"]: vector for vector in json.loads(text)["vectors"]}


def cache(name: str, context: int) -> int:
    """Bytes of the cache, in 16 bits."""
    return kv_bytes(hyperparameters(read_gguf(made(SPECS[name]))), LlmOptions(context=context, batch=512))


def test_latent_attention_grows_as_in_the_vectors(vectors: dict[str, dict[str, Any]]) -> None:
    grown = cache("glm-4.7-flash", 8192) - cache("glm-4.7-flash", 4096)
    assert grown == 4096 * vectors["glm47-mla-per-token"]["expect"]


def test_beyond_the_window_half_of_the_layers_grow(vectors: dict[str, dict[str, Any]]) -> None:
    grown = cache("gpt-oss:20b", 131072) - cache("gpt-oss:20b", 65536)
    assert grown == 65536 * vectors["gptoss20b-marginal-past-window"]["expect"]


def test_only_full_layers_of_a_hybrid_model_grow(vectors: dict[str, dict[str, Any]]) -> None:
    grown = cache("qwen3.6:27b", 131072) - cache("qwen3.6:27b", 65536)
    assert grown == vectors["qwen27b-kv-131k-q8"]["expect"]  # half of the context, in twice as many bits


def test_the_state_of_the_other_layers_is_nearly_that_of_the_vectors(vectors: dict[str, dict[str, Any]]) -> None:
    grown = cache("qwen3.6:27b", 8192) - cache("qwen3.6:27b", 4096)
    state = cache("qwen3.6:27b", 4096) - grown
    # the vectors keep the convolution's input in 16 bits and one step longer; llama.cpp keeps it in 32
    assert state == pytest.approx(vectors["qwen36-27b-linear-state"]["expect"], rel=0.015)


def test_windows_of_gemma_4_keep_one_batch_more_than_in_the_vectors(vectors: dict[str, dict[str, Any]]) -> None:
    batch = 50 * 512 * 2 * 16 * 256 * 2
    assert cache("gemma4:31b", 262144) == vectors["gemma31b-kv-full-bf16"]["expect"] + batch
