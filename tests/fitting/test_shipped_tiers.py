"""Each shipped tier fits, as `modelfetch fit` reads it from headers with the real shapes, over real sockets."""

from __future__ import annotations

import hashlib
import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.cli.app import run
from modelfetch.demo.hub import Hub
from tests.cases import THOROUGH, each, first
from tests.fitting.world import LIBRARY, TIERS, shipped, tier_world

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GIB = 2**30
DETAILED = (*TIERS, "12g", "24g", "8g-2026", "24g-2026")
"""The tiers whose Ollama manifests are known layer by layer; tests/fitting/test_catalog.py has all of them."""


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub(tier_world(*(shipped(tier) for tier in DETAILED))) as hub:
        yield hub


@pytest.fixture
def fit(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("MODELFETCH_OLLAMA_REGISTRY", hub.ollama)
    monkeypatch.setenv("HF_TOKEN", "hf_member")
    hub.log.clear()

    def call(*words: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = run(["fit", *words, "--root", str(tmp_path / "models"), "--json", "--retries", "1"])
        out, err = capsys.readouterr()
        assert out.startswith("{"), err
        return code, json.loads(out)

    return call


@pytest.mark.parametrize("tier", first(4, DETAILED))
def test_a_shipped_tier_fits_its_budgets(tier: str, fit: Any) -> None:
    code, report = fit("--tier", tier)
    assert code == 0, report["errors"]
    assert report["ok"] is True
    assert report["tier"] == tier
    assert report["needed"] <= report["usable"] == shipped(tier).usable
    for service in report["services"]:
        assert service["fits"], service
        assert service["needed"] <= service["budget"], service
        assert service["models"] or service["service"] == "immich" or service["budget"] == 0


@THOROUGH
def test_the_needs_of_each_tier_match_the_reference_values(fit: Any) -> None:
    needed: dict[tuple[str, str], float] = {}
    for tier in TIERS:
        _, report = fit("--tier", tier)
        needed |= {(tier, s["service"]): round(s["needed"] / GIB, 2) for s in report["services"]}
    # Ollama: the chat model's buffers and driver, those of the embedding model, and 0.25 GiB that must stay free
    assert needed["8g", "ollama"] == pytest.approx(1.92, abs=0.05)
    assert needed["16g", "ollama"] == pytest.approx(4.3, abs=0.05)
    assert needed["32g", "ollama"] == pytest.approx(7.2, abs=0.05)  # the bound by the size of the file is enough
    assert needed["94g", "ollama"] == pytest.approx(43.84, abs=0.2)
    assert needed["8g", "stable-diffusion"] == needed["8g", "comfyui"] == pytest.approx(3.7, abs=0.1)
    assert needed["16g", "comfyui"] == pytest.approx(5.9, abs=0.05)
    assert needed["32g", "comfyui"] == needed["32g", "stable-diffusion"] == pytest.approx(16.1, abs=0.05)
    assert needed["94g", "comfyui"] == needed["94g", "stable-diffusion"] == pytest.approx(27.2, abs=0.05)


@pytest.mark.parametrize("tier", first(3, DETAILED))
def test_a_tier_is_judged_by_few_bytes_and_round_trips_and_reads_none_twice(tier: str, fit: Any, hub: Hub) -> None:
    _, report = fit("--tier", tier)
    ranges: dict[str, list[tuple[int, int]]] = {}
    for entry in hub.log.requests(origin="cdn"):
        if entry.range:
            first, last = entry.range.removeprefix("bytes=").split("-")
            ranges.setdefault(entry.path, []).append((int(first), int(last)))
    for path, asked in ranges.items():
        assert all(last - first < 4 * 2**20 for first, last in asked), path
        assert sorted(asked) == asked
        assert all(before[1] + 1 == after[0] for before, after in itertools.pairwise(asked)), path
    assert report["bytes_fetched"] <= 8 * 2**20
    assert report["bytes_fetched"] < 0.002 * sum(size(tier))
    requests = hub.log.requests()
    connections = {entry.connection for entry in requests}
    # one round trip for a request, two for a new connection (TCP, TLS): below 3 seconds if each takes 50 ms
    assert len(requests) + 2 * len(connections) < 3 / 0.05


def size(tier: str) -> list[int]:
    models = [model.size or 0 for model in shipped(tier).models]
    chat = next(s.model for s in shipped(tier).services if s.name == "ollama")
    assert chat is not None
    return [*models, sum(layer.size for layer in LIBRARY[chat].layers)]


def test_a_gated_model_without_a_token_is_77_and_the_rest_is_judged(fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    code, report = fit("--tier", "94g")
    assert code == 77
    assert {error["model"] for error in report["errors"] if error["exit_code"] == 77} == {"flux1-dev"}
    assert next(s for s in report["services"] if s["service"] == "ollama")["fits"]


@THOROUGH
@pytest.mark.usefixtures("fit")
def test_a_budget_for_a_model_that_is_not_there_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for tier in TIERS:
        run(["fit", "--tier", tier, "--progress", "log"])
    assert "is budgeted for" not in capsys.readouterr().err
    (tmp_path / "mine.yaml").write_text("version: 1\nextends: 8g\nservices: {ollama: {vram: 2.1GiB, model: typo}}\n")
    assert run(["fit", "--manifest", "mine.yaml", "--progress", "log"]) == 0
    err = capsys.readouterr().err
    assert "ollama is budgeted for 'typo', which is none of its models (hint: it has qwen2.5-0.5b, nomic" in err


def test_a_longer_context_exceeds_the_smallest_tier_and_gets_a_hint(fit: Any) -> None:
    code, report = fit("--tier", "8g", "--context", "32768", "--no-flash-attention")
    assert code == 1
    (error, *_) = report["errors"]
    assert error["code"] == "does-not-fit"
    assert "context" in error["hint"]


@each(
    "name", ["qwen2.5:0.5b", "llama3.2:3b", "llama3.1:8b", "llama3.1:70b", "nomic-embed-text", "gemma3:1b", "qwen3:8b"]
)
def test_the_pinned_digest_and_size_of_an_ollama_model_are_those_of_its_manifest_rebuilt(name: str) -> None:
    pins = {str(m.source).removeprefix("ollama://"): m for tier in DETAILED for m in shipped(tier).models}
    text = LIBRARY[name].manifest
    assert str(pins[name].digest) == "sha256:" + hashlib.sha256(text).hexdigest()
    rebuilt = json.loads(text)
    assert pins[name].size == sum(layer["size"] for layer in [rebuilt["config"], *rebuilt["layers"]])
