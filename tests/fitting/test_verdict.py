"""Tiers: budgets, exclusive groups, what would make a service fit, and the report's shape."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.errors import UnreachableError
from modelfetch.fitting.types import Candidate, FitReport, ModelFile
from modelfetch.fitting.verdict import fit_alone, fit_tier
from modelfetch.formats.range_reader import FIRST, GIB, LIMIT, HeaderBuffer
from modelfetch.manifest.model import Service
from tests.cases import each
from tests.fitting.architectures import made as header_of
from tests.fitting.build import MadeFile, Shape, llm
from tests.fitting.real import clip_l, flux_dev, flux_fp8, flux_vae, real_llm, sd15, sdxl, sdxl_vae, t5
from tests.fitting.shapes import SPECS

if TYPE_CHECKING:
    from collections.abc import Callable

WHISPER = {"small": 483_546_902, "large-v3-turbo": 1_617_884_929, "large-v3": 3_087_284_237}


def gib(size: float) -> int:
    return int(size * GIB)


def made(name: str, path: str, file: MadeFile, consumers: tuple[str, ...], kind: str | None = None) -> Candidate:
    scheme = "ollama://" if consumers == ("ollama",) else "hf://someone/"
    files = (ModelFile(path=path, size=file.size, prefix=HeaderBuffer(file)),)
    return Candidate(name=name, uri=f"{scheme}{name}", files=files, consumers=consumers, kind=kind)


def chat(name: str) -> Candidate:
    return made(name, "model", real_llm(name), ("ollama",))


def image(name: str, file: MadeFile, kind: str = "checkpoint") -> Candidate:
    return made(name, f"{name}.safetensors", file, ("stable-diffusion", "comfyui"), kind)


def whisper(model: str) -> Candidate:
    files = (ModelFile(path="config.json", size=2000), ModelFile(path="model.bin", size=WHISPER[model]))
    uri = f"hf://Systran/faster-whisper-{model}@{'0' * 40}"
    return Candidate(name=f"faster-whisper-{model}", uri=uri, files=files, consumers=("whisper",), kind="snapshot")


ALIGNER = Candidate(
    name="aligner",
    uri="https://example.invalid/wav2vec2.pth",
    files=(ModelFile(path="wav2vec2.pth", size=377_664_473),),
    consumers=("whisper",),
    kind="torch-checkpoint",
)
EMBEDDER = Shape(arch="nomic-bert", layers=12, embedding=768, heads=12, kv_heads=12, ff=3072, vocab=30522, context=2048)


def service(name: str, vram: float | None = None, **settings: Any) -> Service:
    return Service(name=name, vram=None if vram is None else gib(vram), **settings)


def verdict(usable: float, services: list[Service], *candidates: Candidate) -> FitReport:
    return fit_tier(tier="t", services=services, candidates=candidates, usable=gib(usable))


# ── the tiers of the catalog, with the corrected budgets ──
TIERS: dict[str, tuple[float, list[Service], Callable[[], list[Candidate]]]] = {
    "8g": (
        7.5,
        [service("ollama", 2, parallel=2), service("stable-diffusion", 4), service("whisper", 1.5)],
        lambda: [chat("qwen2.5:0.5b"), image("sd15", sd15()), whisper("small")],
    ),
    "16g": (
        15,
        [
            service("ollama", 4.5, parallel=2),
            service("stable-diffusion", 6.5, offload="medium", exclusive="image"),
            service("comfyui", 6.5, offload="medium", exclusive="image"),
            service("whisper", 2.5),
        ],
        lambda: [
            chat("llama3.2:3b"),
            image("sdxl", sdxl()),
            image("fix", sdxl_vae(), "vae"),
            whisper("large-v3-turbo"),
        ],
    ),
    "32g": (
        30.9,
        [service("ollama", 7, parallel=2), service("comfyui", 16.5, offload="text-encoder"), service("whisper", 4.5)],
        lambda: [chat("llama3.1:8b"), image("flux", flux_fp8()), whisper("large-v3")],
    ),
    "94g": (
        93,
        [
            service("ollama", 44, parallel=2),
            service("comfyui", 28, offload="text-encoder"),
            service("whisper", 6),
            service("diffrhythm", 8),
            service("immich", 3),
        ],
        lambda: [
            chat("llama3.3:70b"),
            image("flux", flux_dev(), "diffusion-model"),
            image("t5", t5(), "text-encoder"),
            image("clip", clip_l(), "text-encoder"),
            image("ae", flux_vae(), "vae"),
            whisper("large-v3"),
        ],
    ),
}


@each("tier", TIERS)
def test_the_tiers_of_the_catalog_fit(tier: str) -> None:
    usable, services, candidates = TIERS[tier]
    report = verdict(usable, services, *candidates())
    assert report.ok, report.errors
    assert report.exit_code == 0
    assert all(fit.fits for fit in report.services)
    assert report.bytes_fetched < 10 * 2**20


# the plan's own budgets: 0.5B in 1 GiB, SDXL all resident in 6, FLUX fp8 in 10, 70B in 40 and FLUX.1-dev in 20
@pytest.mark.parametrize(
    ("wrong", "candidates"),
    [
        (service("ollama", 1, parallel=2), lambda: [chat("qwen2.5:0.5b")]),
        (service("ollama", 1), lambda: [chat("qwen2.5:0.5b")]),
        (service("stable-diffusion", 6), lambda: [image("sdxl", sdxl())]),
        (service("comfyui", 10), lambda: [image("flux", flux_fp8())]),
        (service("comfyui", 10, offload="medium"), lambda: [image("flux", flux_fp8())]),
        (service("ollama", 40), lambda: [chat("llama3.3:70b")]),
        (service("ollama", 41), lambda: [chat("llama3.3:70b")]),
        (service("ollama", 40, kv_type="q8_0"), lambda: [chat("llama3.3:70b")]),
        (service("comfyui", 20), lambda: [image("flux", flux_dev(), "diffusion-model")]),
    ],
)
def test_smaller_budgets_do_not_fit(wrong: Service, candidates: Callable[[], list[Candidate]]) -> None:
    report = verdict(93, [wrong], *candidates())
    assert not report.ok
    assert report.exit_code == 1
    assert [error.code for error in report.errors] == ["does-not-fit"]
    assert not report.services[0].fits


# ── how much is read ──
def test_the_first_range_is_enough_where_even_the_bound_fits() -> None:
    report = verdict(15, [service("ollama", 4.5, parallel=2)], chat("llama3.2:3b"))
    assert report.bytes_fetched == FIRST
    assert report.services[0].models[0].method == "size"


def test_the_tensors_are_read_where_the_bound_does_not_fit() -> None:
    report = verdict(31, [service("ollama", 6.2, parallel=2)], chat("llama3.1:8b"))
    assert report.ok
    assert report.services[0].models[0].method == "header"
    assert FIRST < report.bytes_fetched < 10 * 2**20


# ── what is loaded at once ──
def test_embedding_models_stay_loaded_while_chat_models_take_turns() -> None:
    embedder = made("nomic-embed-text", "model", llm(EMBEDDER), ("ollama",))
    one = verdict(15, [service("ollama")], chat("llama3.2:3b")).needed
    two = verdict(15, [service("ollama")], chat("llama3.2:3b"), chat("qwen2.5:0.5b")).needed
    three = verdict(15, [service("ollama")], chat("llama3.2:3b"), chat("qwen2.5:0.5b"), embedder)
    alone = verdict(15, [service("ollama")], embedder).needed
    assert one == two
    assert three.needed == one + alone - GIB  # the memory that must stay free is needed once
    assert len(three.services[0].models) == 3


def test_a_service_is_budgeted_for_the_model_that_it_names() -> None:
    both = [chat("llama3.2:3b"), chat("qwen2.5:0.5b")]
    named = verdict(15, [service("ollama", 2, model="qwen2.5:0.5b")], *both)
    assert named.ok
    assert [m.name for m in named.services[0].models] == ["qwen2.5:0.5b"]
    assert not verdict(15, [service("ollama", 2, model="llama3.2:3b")], *both).ok


def test_whisper_models_are_named_as_whisper_services_name_them() -> None:
    both = [whisper("small"), whisper("large-v3")]
    report = verdict(15, [service("whisper", model="small")], *both)
    assert [m.name for m in report.services[0].models] == ["faster-whisper-small"]


def test_an_alignment_model_stays_loaded_with_whisper() -> None:
    report = verdict(15, [service("whisper")], whisper("small"), ALIGNER)
    assert report.needed == verdict(15, [service("whisper")], whisper("small")).needed + 377_664_473


def test_loras_and_models_of_other_services_are_not_counted() -> None:
    lora = image("style", sd15(), "lora")
    report = verdict(15, [service("stable-diffusion")], image("sd15", sd15()), lora, chat("llama3.1:8b"))
    assert [m.name for m in report.services[0].models] == ["sd15"]


def test_the_largest_of_an_exclusive_group_counts_once() -> None:
    services = [
        service("stable-diffusion", 12, exclusive="image"),
        service("comfyui", 6.5, exclusive="image", offload="medium"),
    ]
    report = verdict(12, services, image("sdxl", sdxl()))
    assert report.ok
    assert report.needed == max(fit.needed for fit in report.services)
    apart = verdict(12, [replace(s, exclusive=None) for s in services], image("sdxl", sdxl()))
    assert apart.needed == sum(fit.needed for fit in apart.services)
    assert not apart.ok


def test_a_service_on_the_cpu_needs_nothing_and_nothing_is_read_for_it() -> None:
    report = verdict(1, [service("ollama", device="cpu")], chat("llama3.3:70b"))
    assert report.ok
    assert report.needed == report.bytes_fetched == 0


# ── what runs on the CPU if it does not fit ──
def test_of_a_mixture_of_experts_the_layers_with_their_experts_on_the_gpu_are_counted() -> None:
    model = made("mixture", "model", header_of(SPECS["gpt-oss:20b"]), ("ollama",))
    report = fit_alone(model, service("ollama"), usable=gib(8))
    assert "25 of 25 layers would run on the GPU, 3 of them with their experts" in report.errors[-1].message


# ── what would make it fit ──
def hint(report: FitReport) -> str:
    return report.errors[-1].hint or ""


def test_fewer_requests_at_once_are_offered_first() -> None:
    report = verdict(15, [service("ollama", 3.3, parallel=2)], chat("llama3.2:3b"))
    assert hint(report).startswith("it would fit with parallel: 1 (needs 3.0")
    assert "26 of 29 layers would run on the GPU, the rest on the CPU" in report.errors[-1].message
    assert hint(report).endswith("device: cpu (uses no VRAM)")


@each(
    ("tight", "candidates", "expected"),
    [
        (service("ollama", 20, context=131072), lambda: [chat("llama3.1:8b")], "kv_type: q8_0"),
        (service("ollama", 12, context=131072), lambda: [chat("llama3.1:8b")], "context: 32768"),
        (service("comfyui", 17), lambda: [image("flux", flux_fp8())], "offload: text-encoder (needs 16.08 GiB)"),
        (service("comfyui", 14), lambda: [image("flux", flux_fp8())], "offload: medium (needs 12.67 GiB)"),
        (
            service("comfyui", 13, offload="medium"),
            lambda: [image("flux", flux_dev(), "diffusion-model")],
            "weights in fp8",
        ),
        (service("stable-diffusion", 9), lambda: [image("sdxl", sdxl())], "resolution: 512x512"),
        (service("whisper", 3), lambda: [whisper("large-v3")], "compute_type: int8 (needs 2.77 GiB)"),
        (service("whisper", 4.5, batch=8), lambda: [whisper("large-v3")], "batch: 1 (needs 4.20 GiB)"),
    ],
)
def test_settings_that_make_it_fit(tight: Service, candidates: Callable[[], list[Candidate]], expected: str) -> None:
    report = verdict(93, [tight], *candidates())
    assert not report.ok
    assert expected in hint(report)


def test_a_service_without_settings_needs_a_larger_budget() -> None:
    report = verdict(93, [service("diffrhythm", 2)])
    assert report.errors[0].hint == "raise its vram to 7.45 GiB, or drop the service"
    assert report.errors[0].message == "diffrhythm needs 7.45 GiB, but its budget is 2.00 GiB"


ALL_THREE = [service("ollama", parallel=2), service("comfyui"), service("whisper")]


def test_a_tier_beyond_the_cards_memory_is_refused_and_each_service_that_could_help_is_named() -> None:
    report = verdict(28, ALL_THREE, chat("llama3.1:8b"), image("flux", flux_fp8()), whisper("large-v3"))
    error = report.errors[-1]
    assert error.code == "does-not-fit"
    assert "but 28.00 GiB are usable" in error.message
    assert "comfyui: it would fit with offload: text-encoder" in (error.hint or "")
    assert "whisper: it would fit with device: cpu" in (error.hint or "")
    assert all(fit.fits for fit in report.services)


def test_changes_of_several_services_are_offered_where_none_is_enough() -> None:
    report = verdict(21, ALL_THREE, chat("llama3.1:8b"), image("flux", flux_fp8()), whisper("large-v3"))
    assert hint(report).startswith("it would fit with all of: comfyui with ")
    assert "whisper with device: cpu" in hint(report)
    assert "ollama with device: cpu" not in hint(report)
    report = verdict(13, ALL_THREE, chat("llama3.1:8b"), image("flux", flux_fp8()), whisper("large-v3"))
    assert "ollama with device: cpu" in hint(report)
    report = verdict(3, ALL_THREE, chat("llama3.1:8b"), image("flux", flux_fp8()), whisper("large-v3"))
    assert hint(report).startswith("use a smaller")


def test_services_that_take_turns_are_changed_together() -> None:
    services = [service("stable-diffusion", exclusive="image"), service("comfyui", exclusive="image")]
    report = verdict(8, services, image("sdxl", sdxl()))
    assert hint(report).startswith("stable-diffusion and comfyui: it would fit with offload: medium (needs 5.89 GiB)")


def test_of_services_that_take_turns_only_those_that_need_too_much_are_changed() -> None:
    services = [service("stable-diffusion", exclusive="image", offload="medium"), service("comfyui", exclusive="image")]
    report = verdict(8, services, image("sdxl", sdxl()))
    assert hint(report).startswith("comfyui: it would fit with offload: medium (needs 5.89 GiB)")


def test_a_model_that_fails_for_two_services_is_one_problem() -> None:
    services = [service("stable-diffusion", 8, exclusive="image"), service("comfyui", 8, exclusive="image")]
    broken = image("broken", MadeFile(header=b"<html>" + bytes(100), size=106))
    report = verdict(15, services, replace(broken, consumers=("stable-diffusion", "comfyui")))
    assert [error.code for error in report.errors] == ["not-a-model"]
    assert [fit.fits for fit in report.services] == [False, False]


def test_a_tier_with_less_than_a_twentieth_left_is_tight() -> None:
    candidates = [chat("llama3.1:8b")]
    assert verdict(7, [service("ollama", parallel=2)], *candidates).tight
    assert not verdict(8, [service("ollama", parallel=2)], *candidates).tight
    assert not verdict(6, [service("ollama", parallel=2)], *candidates).tight


# ── what is not known, and what fails ──
def test_with_an_unknown_model_a_tier_does_not_fit_and_other_models_are_still_judged() -> None:
    strange = made("strange", "model", llm(Shape(arch="newarch")), ("ollama",))
    report = verdict(15, [service("ollama", 8), service("stable-diffusion", 4)], strange, image("sd15", sd15()))
    assert [fit.fits for fit in report.services] == [False, True]
    assert [error.code for error in report.errors] == ["unknown-model"]
    assert "'newarch'" in report.errors[0].message
    assert report.services[0].models[0].total is None


def test_a_broken_header_is_65_and_other_models_are_still_judged() -> None:
    broken = made("broken", "model", MadeFile(header=b"<html>" + bytes(100), size=106), ("ollama",))
    report = verdict(15, [service("ollama", 8)], broken, chat("qwen2.5:0.5b"))
    assert report.exit_code == 65
    assert report.errors[0].code == "not-a-model"
    assert report.errors[0].model == "broken"
    assert [m.name for m in report.services[0].models] == ["qwen2.5:0.5b"]


def test_a_broken_checkpoint_is_65() -> None:
    report = verdict(15, [service("comfyui", 8)], image("broken", MadeFile(header=b"<html>" + bytes(100), size=106)))
    assert report.exit_code == 65
    assert report.services[0].models == ()


def test_a_source_that_fails_keeps_its_code() -> None:
    class Away(MadeFile):
        def read(self, offset: int, length: int) -> bytes:
            raise UnreachableError("no route")

    report = verdict(15, [service("ollama", 8)], made("away", "model", Away(header=b"", size=10**9), ("ollama",)))
    assert report.exit_code == 69
    assert report.errors[0].code == "unreachable"


def test_a_model_that_can_not_be_read_by_range_is_unknown() -> None:
    pickle = Candidate(
        name="old",
        uri="https://x/old.ckpt",
        files=(ModelFile(path="old.ckpt", size=4 * 10**9),),
        consumers=("comfyui",),
    )
    report = verdict(15, [service("comfyui", 8)], pickle)
    assert report.services[0].models[0].unknown == ("its parts are not known",)
    assert report.services[0].models[0].weights == 4 * 10**9
    assert report.exit_code == 1


def test_a_service_without_models_is_unknown_and_counts_as_its_budget() -> None:
    report = verdict(15, [service("ollama", 4)])
    assert report.needed == gib(4)
    assert report.errors[0].code == "unknown-model"


def test_only_some_shards_of_a_model_are_unknown() -> None:
    from tests.fitting.build import gguf, metadata, tensors, u32

    shape = Shape(vocab=64)
    specs = tensors(shape)
    pairs = metadata(shape) | {"split.count": u32(2), "split.no": u32(0)}
    first = gguf(pairs, specs[:20])
    second = gguf({"general.architecture": pairs["general.architecture"], "split.no": u32(1)}, specs[20:])
    both = Candidate(
        name="m",
        uri="hf://x/m",
        files=tuple(
            ModelFile(path=f"m-{i}.gguf", size=f.size, prefix=HeaderBuffer(f)) for i, f in enumerate((first, second))
        ),
    )
    whole = fit_alone(made("m", "m.gguf", llm(shape), ()), service("ollama"))
    assert fit_alone(both, service("ollama")).needed == whole.needed
    half = fit_alone(replace(both, files=both.files[:1]), service("ollama"))
    assert half.services[0].models[0].unknown == ("only 1 of its 2 shards are here",)


# ── one model by itself ──
def test_one_model_has_one_service_and_no_budget() -> None:
    report = fit_alone(chat("llama3.1:8b"), service("ollama", parallel=2))
    assert report.ok
    assert report.tier is None
    assert len(report.services) == 1
    assert report.services[0].budget is None
    assert report.services[0].models[0].method == "header"


def test_one_model_is_compared_with_a_card() -> None:
    report = fit_alone(chat("llama3.1:8b"), service("ollama", parallel=2), usable=gib(6.2))
    assert report.exit_code == 1
    assert "parallel: 1" in hint(report)
    assert fit_alone(chat("llama3.1:8b"), service("ollama", parallel=2), usable=gib(7)).ok


@each(
    ("candidate", "total"),
    [
        (image("sdxl", sdxl()), gib(11.3)),
        (whisper("small"), 1_550 * 10**6),
        (made("flux", "flux.safetensors", flux_fp8(), ()), gib(20.75)),
    ],
)
def test_models_of_other_kinds_are_estimated_without_a_service(candidate: Candidate, total: int) -> None:
    assert fit_alone(candidate, service("x")).needed == pytest.approx(total, rel=0.01)


@each("path", ["weights.pt", "README.md", "model.bin"])
def test_a_file_of_another_kind_is_unknown(path: str) -> None:
    candidate = Candidate(name="x", uri="https://x/y", files=(ModelFile(path=path, size=100),))
    report = fit_alone(candidate, service("x"))
    assert not report.ok
    assert report.services[0].models[0].total is None


# ── the report ──
def test_the_report_has_the_contracts_keys_and_types() -> None:
    usable, services, candidates = TIERS["16g"]
    report = verdict(usable, services, *candidates()).as_dict()
    assert list(report) == ["ok", "tier", "usable", "needed", "services", "bytes_fetched", "errors"]
    for one in report["services"]:
        assert list(one) == ["service", "budget", "needed", "fits", "models"]
        for model in one["models"]:
            keys = ["name", "uri", "weights", "kv", "compute", "overhead", "total", "method", "assumptions"]
            assert list(model) == keys
            assert model["total"] == model["weights"] + model["kv"] + model["compute"] + model["overhead"]
            assert model["method"] in ("header", "size", "table")
            assert all(type(model[key]) is int for key in keys[2:7])


def test_findings_have_the_keys_of_the_reports_errors() -> None:
    report = verdict(15, [service("ollama", 1)], chat("llama3.2:3b")).as_dict()
    assert list(report["errors"][0]) == ["code", "exit_code", "model", "uri", "message", "hint"]
    assert report["ok"] is False


def test_the_bytes_read_for_a_tier_stay_below_the_limit() -> None:
    for usable, services, candidates in TIERS.values():
        found = candidates()
        verdict(usable, services, *found)
        assert all(candidate.fetched <= LIMIT for candidate in found)
