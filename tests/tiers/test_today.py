"""The dated tiers hold: the rules of `modelfetch fit` on headers with the shapes of their models, without a hub.

The layers of the newest Ollama models are not known, only their manifests' digests, so these tiers can't be served.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from modelfetch.fitting.candidates import pinned_candidate
from modelfetch.fitting.types import Candidate, File
from modelfetch.fitting.verdict import fit_tier
from modelfetch.formats.range_reader import HeaderBuffer
from modelfetch.manifest.uri import HfUri, HttpUri, OllamaUri
from tests.fitting.architectures import made
from tests.fitting.build import MadeFile, llm, safetensors
from tests.fitting.shapes import SPECS
from tests.fitting.world import NOMIC, shipped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from modelfetch.manifest.model import Model

DATED = ("16g-2026", "24g-2026", "32g-2026", "94g-2026")
EVERY = pytest.mark.parametrize("tier", DATED)
VISION = ("gemma3", "qwen35", "qwen35moe")

# A tensor that tells what each file is, and the type of the rest of its weights.
MARKS: Mapping[str, tuple[str, Sequence[int], str]] = {
    "flux2-klein-4b": ("double_stream_modulation_img.lin.weight", (18432, 3072), "BF16"),
    "z-image-turbo": ("cap_embedder.1.weight", (3840, 2560), "BF16"),
    "qwen-image-2512-fp8": ("txt_norm.weight", (3584,), "F8_E4M3"),
}


def chat(model: Model, tag: str) -> MadeFile:
    """A header of the real shape, of a file as long as all layers together."""
    if tag.startswith("nomic"):
        return llm(NOMIC)
    spec = SPECS[tag]
    more = {"vision.block_count": 27} if spec.arch in VISION else {}
    file = made(replace(spec, more={**spec.more, **more}))
    assert model.size is not None
    return MadeFile(header=file.header, size=max(model.size, file.size or 0))


def part(model: Model) -> MadeFile:
    name, shape, dtype = MARKS.get(model.name, ("weight", (1,), "BF16"))
    assert model.size is not None
    rest = (model.size - 300_000 - math.prod(shape)) // (1 if dtype == "F8_E4M3" else 2)
    return safetensors({name: ("BF16", shape), "all_other_weights": (dtype, (rest,))})


def candidate(model: Model) -> Candidate:
    if isinstance(model.source, OllamaUri):
        file, path = chat(model, f"{model.source.model}:{model.source.tag}"), "model"
    elif model.kind in ("diffusion-model", "text-encoder", "vae"):
        file, path = part(model), "model.safetensors"
    else:
        return pinned_candidate(model)
    files = (File(path=path, size=file.size, prefix=HeaderBuffer(file)),)
    return Candidate(name=model.name, uri=str(model.source), kind=model.kind, consumers=model.consumers, files=files)


@EVERY
def test_a_dated_tier_holds(tier: str) -> None:
    manifest = shipped(tier)
    report = fit_tier(
        tier=tier,
        services=manifest.services,
        candidates=[candidate(model) for model in manifest.models],
        usable=manifest.usable,
    )
    assert report.ok, [error.message for error in report.errors]


@EVERY
def test_every_model_of_its_own_is_pinned_and_has_a_licence(tier: str) -> None:
    manifest = shipped(tier)
    for model in manifest.models:
        assert model.license, model.name
        if "comfyui" in model.consumers or "ollama" in model.consumers:
            assert model.digest, model.name
            assert model.size, model.name
        if isinstance(model.source, HfUri):
            assert model.source.commit, model.name
        assert not isinstance(model.source, HttpUri) or model.digest, model.name


@EVERY
def test_the_named_models_are_those_of_the_tier(tier: str) -> None:
    manifest = shipped(tier)
    known = {model.name for model in manifest.models} | {
        str(m.source).removeprefix("ollama://") for m in manifest.models
    }
    for service in manifest.services:
        if service.model is not None and service.name != "whisper":
            assert service.model in known, service.name
