"""`modelfetch fit` against llama.cpp itself, the engine of Ollama since 0.30: shapes of today's models, no weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import pytest

from modelfetch.fitting.llm.estimate import BATCH, ENCODER_BATCH, LlmOptions, llm_estimate
from modelfetch.formats.gguf import read_gguf
from modelfetch.formats.range_reader import MIB
from tests.e2e import peers
from tests.e2e.cache import must_run
from tests.fitting.architectures import made
from tests.fitting.shapes import SPECS

if TYPE_CHECKING:
    from pathlib import Path

CONTEXTS = (2048, 4096, 8192, 32768, 65536, 131072)
VARIANTS = tuple(
    LlmOptions(kv_type=kv_type, flash_attention=flash, parallel=parallel)
    for kv_type, flash, parallel in (
        ("f16", True, 1),
        ("q8_0", True, 1),
        ("q4_0", True, 1),
        ("f16", False, 1),
        ("f16", True, 2),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    path: str
    context: int
    parallel: int
    kv_type: str
    flash_attention: bool
    batch: int
    outputs: int
    embeddings: bool


def cases(name: str, path: Path, *, whole: bool) -> list[tuple[LlmOptions, Case]]:
    """A model's contexts, each with every setting (``whole``) or with the settings in turn.

    An encoder has no cache that could be quantized.
    """
    spec, found = SPECS[name], []
    pooled = "pooling_type" in spec.more
    for number, context in enumerate(sorted({min(context, spec.context) for context in CONTEXTS})):
        for variant in VARIANTS if whole else {VARIANTS[0], VARIANTS[number % len(VARIANTS)]}:
            if variant.kv_type != "f16" and pooled:
                continue
            batch = min(ENCODER_BATCH, context) if pooled else BATCH
            options = replace(variant, context=context)
            case = Case(
                path=str(path),
                context=context,
                parallel=options.parallel,
                kv_type=options.kv_type,
                flash_attention=options.flash_attention,
                batch=batch,
                outputs=batch if pooled else options.parallel,
                embeddings=pooled,
            )
            found.append((options, case))
    return found


@pytest.fixture(scope="module")
def llama_cpp() -> list[str]:
    """The command that runs a script with llama.cpp."""
    return peers.llama_cpp()


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.heavy)], ids=["in-turn", "whole"])
def test_the_memory_of_the_real_engine_is_the_estimated_one(
    llama_cpp: list[str], workplace: Path, name: str, *, whole: bool
) -> None:
    model = made(SPECS[name])
    path = model.write(workplace / "model.gguf")
    header = read_gguf(model)
    pairs = cases(name, path, whole=whole)
    (workplace / "cases.json").write_text(json.dumps([asdict(case) for _, case in pairs]))
    script = str(peers.HERE / "llama_cpp.py")
    told = must_run(*llama_cpp, script, workplace / "cases.json", environment={"GGML_NO_BACKTRACE": "1"})
    lines = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    for (options, case), real in zip(pairs, lines, strict=True):
        found = llm_estimate(name, "", header, options)
        assert found.weights == pytest.approx(real["weights"], abs=0.01 * MIB), case
        assert found.kv == pytest.approx(real["kv"], abs=0.01 * MIB), case
        assert found.compute == pytest.approx(real["compute"], rel=0.05, abs=MIB), case
