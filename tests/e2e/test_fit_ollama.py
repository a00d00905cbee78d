"""`modelfetch fit` against the real Ollama: models of many shapes are loaded, and its log is held against the estimate.

The weights are holes of zeros: nothing is generated, the buffers are only allocated.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, NamedTuple

import pytest

from modelfetch.fitting.llm import ollama_scheduler
from modelfetch.fitting.llm.estimate import LlmOptions, compute_bytes, llm_estimate
from modelfetch.fitting.llm.hyperparameters import hyperparameters
from modelfetch.formats.gguf import read_gguf
from modelfetch.formats.range_reader import MIB, FileReader
from tests.e2e.servers import free_port, plain_environment, running, serve_ollama, tail
from tests.fitting.build import Shape, llm
from tests.fitting.measured import SHAPES

if TYPE_CHECKING:
    from pathlib import Path

_SIZES = re.compile(r"(model|KV|compute) buffer size = *([\d.]+) MiB")
_OFFLOAD = re.compile(r"memory\.(required\.full|required\.kv)=\"([\d.]+) ([KMG])iB\"")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


class Buffers(NamedTuple):
    """MiB, as the log has them."""

    weights: float
    kv: float
    compute: float


def logged(log: str) -> Buffers:
    found = {kind: float(size) for kind, size in _SIZES.findall(log)}
    return Buffers(found["model"], found["KV"], found["compute"])


def loaded(binary: Path, model: Path, folder: Path, options: LlmOptions) -> Buffers:
    """Load a model in Ollama's runner and read the buffers from its log."""
    command = [str(binary), "runner", "--model", str(model), "--port", str(free_port()), "--threads", "2"]
    command += ["--ctx-size", str(options.context), "--batch-size", str(options.batch), "--no-mmap"]
    if options.flash_attention:
        command += ["--flash-attn", "--kv-cache-type", options.kv_type]
    log = folder / "server.log"
    with running(
        command, environment=plain_environment(folder), folder=folder, ready=lambda: "graph splits" in tail(log, 5000)
    ):
        return logged(log.read_text(errors="replace"))


CASES = [
    LlmOptions(context=2048),
    LlmOptions(context=8192),
    LlmOptions(context=4096, batch=256),
    LlmOptions(context=4096, flash_attention=True),
    LlmOptions(context=4096, flash_attention=True, kv_type="q8_0"),
    LlmOptions(context=16384, flash_attention=True, kv_type="q4_0"),
]


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_buffers_of_the_real_runner_are_the_estimated_ones(
    ollama_binary: Path, workplace: Path, shape: str, options: LlmOptions
) -> None:
    model = llm(SHAPES[shape]).write(workplace / "model.gguf")
    header = read_gguf(FileReader(model))
    made = llm_estimate(shape, "", header, options)
    real = loaded(ollama_binary, model, workplace, options)
    assert made.weights is not None
    assert made.kv is not None
    assert made.compute is not None
    assert (made.weights + made.assumptions["weights_in_ram"]) / MIB == pytest.approx(real.weights, abs=0.011)
    assert made.kv / MIB == pytest.approx(real.kv, abs=0.011)
    computed = compute_bytes(hyperparameters(header), options, on_cpu=True)
    assert computed / MIB == pytest.approx(real.compute, abs=0.011)
    tolerance = 0.14 if options.flash_attention else 0.03  # for a GPU, to which the embedded tokens are copied
    assert made.compute / MIB == pytest.approx(real.compute, rel=tolerance)


# ── through `ollama serve`, as a stack runs it ──
def place(models: Path, name: str, shape: Shape) -> Path:
    """Put a model into an Ollama store by hand; returns its blob."""
    blobs = models / "blobs"
    blobs.mkdir(parents=True)
    temporary = llm(shape).write(blobs / "new")
    with temporary.open("rb") as file:
        model = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    config = json.dumps({"model_format": "gguf", "model_family": shape.arch, "model_families": [shape.arch]}).encode()
    config_digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
    blob = temporary.rename(blobs / model.replace(":", "-"))
    (blobs / config_digest.replace(":", "-")).write_bytes(config)
    docker, image = "application/vnd.docker", "application/vnd.ollama.image.model"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{docker}.distribution.manifest.v2+json",
        "config": {
            "mediaType": f"{docker}.container.image.v1+json",
            "digest": config_digest,
            "size": len(config),
        },
        "layers": [{"mediaType": image, "digest": model, "size": blob.stat().st_size}],
    }
    path = models / "manifests" / "registry.ollama.ai" / "library" / name / "latest"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(manifest))
    return blob


@pytest.mark.parametrize("shape", ["gqa", "tied", "bigvocab", "qwen2", "gemma2", "moe"])
def test_the_scheduler_of_the_real_ollama_demands_what_is_said(
    ollama_binary: Path, workplace: Path, shape: str
) -> None:
    blob = place(workplace / "models", shape, SHAPES[shape])
    header = read_gguf(FileReader(blob))
    with serve_ollama(ollama_binary, workplace / "models", workplace / "home") as server:
        server.post("/api/generate", model=shape, options={"num_ctx": 4096})
        log = server.log.read_text(errors="replace")
    told = {key: float(size) * _UNITS[unit] for key, size, unit in _OFFLOAD.findall(log)}
    parallel = int(re.findall(r"--parallel (\d+)", log)[-1])
    found = ollama_scheduler.demand(header, hyperparameters(header), 4096 * parallel, parallel, "f16", 512)
    assert found is not None
    assert told["required.full"] == pytest.approx(found.reported - ollama_scheduler.MINIMUM, rel=0.005)
    made = llm_estimate(shape, "", header, LlmOptions(parallel=parallel))
    real = logged(log)
    assert (made.kv or 0) / MIB == pytest.approx(real.kv, abs=0.011)
    assert (made.compute or 0) / MIB == pytest.approx(real.compute, rel=0.03)
