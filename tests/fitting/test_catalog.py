"""Every shipped tier fits its card and its budgets, by the rules of `modelfetch fit` on headers of the real shapes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from modelfetch.fitting.verdict import fit_tier
from modelfetch.manifest.uri import HfUri, HttpUri, OllamaUri
from tests.cases import THOROUGH, each
from tests.fitting.catalog import TIERS, candidate, report
from tests.fitting.world import shipped

if TYPE_CHECKING:
    from modelfetch.manifest.model import FileSpec, Model

EVERY = each("tier", TIERS)

OPEN = {
    "diffrhythm-1.2/cfm_model.pt",
    "diffrhythm-vae/vae_model.pt",
    "immich-clip/config.json",
    "immich-clip/visual/preprocess_cfg.json",
    "immich-clip/textual/tokenizer_config.json",
}
"""Files whose size or digest was not found in public; a commit pins each of them."""


def test_every_memory_class_has_a_current_tier() -> None:
    plain = {name for name in TIERS if "-" not in name}
    assert plain == {"8g", "12g", "16g", "24g", "32g", "94g"}
    assert {name.partition("-")[0] for name in TIERS if "-" in name} == plain


@THOROUGH
@EVERY
def test_a_shipped_tier_fits(tier: str) -> None:
    found = report(tier)
    assert found.ok, [error.message for error in found.errors]
    assert found.usable is not None
    assert found.needed <= found.usable
    for service in found.services:
        assert service.on_cpu or service.models, service.service
        assert all(not model.unknown for model in service.models), service.service


@EVERY
def test_budgets_are_at_least_three_quarters_used(tier: str) -> None:
    """No budget is half empty, except if a service has no models or the card is a large one."""
    for service in report(tier).services:
        if service.budget and not service.on_cpu and tier != "94g-2026":
            assert service.needed > 0.75 * service.budget, service.service


@EVERY
def test_a_whole_tier_is_judged_from_few_bytes(tier: str) -> None:
    assert report(tier).bytes_fetched <= 8 * 2**20


def test_a_tight_budget_reads_the_tensors_of_the_chat_model_alone() -> None:
    manifest = shipped("24g")
    ollama = replace(next(s for s in manifest.services if s.name == "ollama"), vram=int(6.95 * 2**30))
    mine = {model.name: candidate(model) for model in manifest.models if "ollama" in model.consumers}
    found = fit_tier(tier="24g", services=(ollama,), candidates=tuple(mine.values()), usable=None)
    assert found.ok
    assert {model.name: model.method for model in found.services[0].models} == {
        "llama3.1-8b": "header",
        "nomic-embed-text": "size",
    }
    assert mine["nomic-embed-text"].fetched == 64 * 2**10
    assert found.bytes_fetched <= 8 * 2**20


def _files(model: Model) -> list[tuple[str, Model | FileSpec]]:
    if model.files is None:
        return [(model.name, model)]
    return [(f"{model.name}/{file.path}", file) for file in model.files]


@EVERY
def test_every_file_has_a_licence_a_size_and_a_digest_but_those_that_are_open(tier: str) -> None:
    for model in shipped(tier).models:
        assert model.license, model.name
        assert not isinstance(model.source, HfUri) or model.source.commit, model.name
        assert not isinstance(model.source, HttpUri | OllamaUri) or model.digest, model.name
        for name, file in _files(model):
            pinned = file.size is not None and file.digest is not None
            assert pinned == (name not in OPEN), name


@EVERY
def test_a_service_names_a_model_of_the_tier(tier: str) -> None:
    manifest = shipped(tier)
    known = {model.name for model in manifest.models}
    known |= {str(model.source).removeprefix("ollama://") for model in manifest.models}
    known |= {model.name.removeprefix("faster-whisper-") for model in manifest.models}
    assert {service.model for service in manifest.services if service.model} <= known


@EVERY
def test_models_for_non_commercial_use_are_marked(tier: str) -> None:
    marked = {model.name for model in shipped(tier).models if "non-commercial" in (model.license or "")}
    always = {"muq-mulan-large", "muq-large-msd-iter", "immich-faces"}
    always |= {f"voxpopuli-{language}" for language in ("fr", "de", "es", "it")}
    assert marked == always | ({"flux1-dev"} if tier == "94g" else set())
