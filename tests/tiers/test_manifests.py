"""The content of the shipped tiers."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from modelfetch.manifest.budget import together
from modelfetch.manifest.kinds import repo_folder
from modelfetch.manifest.model import FileSpec
from modelfetch.manifest.uri import HfUri, HttpUri, OllamaUri
from tests.cases import THOROUGH, each
from tests.fitting.world import TIERS, shipped

if TYPE_CHECKING:
    from modelfetch.manifest.model import Manifest, Model

ROOT = Path(__file__).parent.parent.parent
GIB = 2**30

LANGUAGES = ("fr", "de", "es", "it")
"""Those whose alignment models WhisperX gets from torchaudio, except English."""

EVERY = each("tier", TIERS)

OPEN = {"diffrhythm-1.2", "diffrhythm-vae", "immich-clip"}
"""The models with a file whose digest was not found, or not checked."""

IMMICH = ("clip/ViT-B-32__openai", "facial-recognition/buffalo_l", "ocr/PP-OCRv5_mobile")

# What the plan names for each tier: chat model, image models, speech model.
HEART = {
    "8g": ("qwen2.5:0.5b", {"v1-5-pruned-emaonly.safetensors"}, "faster-whisper-small"),
    "16g": ("llama3.2:3b", {"sd_xl_base_1.0.safetensors"}, "faster-whisper-large-v3-turbo"),
    "32g": ("llama3.1:8b", {"flux1-schnell-fp8.safetensors"}, "faster-whisper-large-v3"),
    "94g": ("llama3.1:70b", {"flux1-dev.safetensors"}, "faster-whisper-large-v3"),
}


def text(tier: str) -> str:
    return (ROOT / "manifests" / f"{tier}.yaml").read_text()


def for_(manifest: Manifest, consumer: str) -> list[Model]:
    return [model for model in manifest.models if consumer in model.consumers]


def is_pinned(model: Model) -> bool:
    return all(file.digest for file in model.files) if model.files is not None else model.digest is not None


@EVERY
def test_each_tier_has_its_main_models(tier: str) -> None:
    chat, images, speech = HEART[tier]
    manifest = shipped(tier)
    names = [f"{m.source.model}:{m.source.tag}" for m in manifest.models if isinstance(m.source, OllamaUri)]
    assert names == [chat, "nomic-embed-text:latest"]
    found = {
        m.source.path.rpartition("/")[2]
        for m in manifest.models
        if isinstance(m.source, HfUri) and m.source.path and m.kind in ("checkpoint", "diffusion-model")
    }
    assert found == images
    assert speech in [model.name for model in for_(manifest, "whisper")]


@EVERY
def test_each_model_has_a_license_and_non_commercial_ones_are_marked(tier: str) -> None:
    licenses = {model.name: model.license or "" for model in shipped(tier).models}
    assert all(licenses.values())
    marked = {name for name, license_ in licenses.items() if "non-commercial" in license_}
    always = {"muq-mulan-large", "muq-large-msd-iter", "immich-faces", *(f"voxpopuli-{code}" for code in LANGUAGES)}
    assert marked == always | ({"flux1-dev"} if tier == "94g" else set())


@EVERY
def test_all_models_are_pinned_except_the_listed_ones(tier: str) -> None:
    models = shipped(tier).models
    assert {model.name for model in models if not is_pinned(model)} == OPEN & {model.name for model in models}
    for model in models:
        if isinstance(model.source, HfUri):
            assert model.source.commit, model.name
        if isinstance(model.source, HfUri) and model.source.path:
            assert model.size, model.name
        if isinstance(model.source, HttpUri):
            assert not re.search(r"/(main|master|gh-pages)/", model.source.url), model.name


@EVERY
def test_unpinned_models_have_a_comment(tier: str) -> None:
    for entry in re.split(r"\n\n(?=  [-#])", text(tier)):
        name = re.search(r"- name: (\S+)", entry)
        if name and name[1] in OPEN:
            words = " ".join(" ".join(re.findall(r"#\s*(.*)", entry)).split())
            assert "not found" in words, entry


@EVERY
def test_budgets_fit_the_card_and_name_models_of_the_tier(tier: str) -> None:
    manifest = shipped(tier)
    assert manifest.vram == int(tier.removesuffix("g")) * GIB
    assert manifest.usable is not None
    assert together(manifest.services) <= manifest.usable
    known = {model.name for model in manifest.models} | {
        str(model.source).removeprefix("ollama://") for model in manifest.models
    }
    for service in manifest.services:
        assert service.vram
        assert service.memory
        if service.model is not None and service.name != "whisper":
            assert service.model in known, service
    whisper = next(s for s in manifest.services if s.name == "whisper")
    assert f"faster-whisper-{whisper.model}" in known


@EVERY
def test_the_settings_of_ollama_are_explicit(tier: str) -> None:
    ollama = next(s for s in shipped(tier).services if s.name == "ollama")
    assert None not in (ollama.context, ollama.parallel, ollama.kv_type, ollama.flash_attention)


@EVERY
def test_both_image_generators_share_one_copy_of_each_model(tier: str) -> None:
    manifest = shipped(tier)
    assert for_(manifest, "stable-diffusion")
    forge = [model for model in for_(manifest, "stable-diffusion") if model.kind != "file"]
    assert forge == for_(manifest, "comfyui")
    budgets = {s.name: (s.vram, s.model, s.offload, s.exclusive) for s in manifest.services}
    assert budgets["stable-diffusion"] == budgets["comfyui"]


def test_sdxl_comes_with_a_vae_that_runs_in_16_bits() -> None:
    names = {model.name: model for model in shipped("16g").models}
    assert names["sdxl-vae-fp16-fix"].consumers == names["sdxl-base"].consumers


def test_flux_dev_comes_with_its_text_encoders_and_its_vae() -> None:
    parts = [m for m in shipped("94g").models if "comfyui" in m.consumers]
    assert sorted(str(m.kind) for m in parts) == ["diffusion-model", "text-encoder", "text-encoder", "vae"]


@EVERY
def test_speech_comes_with_alignment_and_sentence_data(tier: str) -> None:
    kinds = {model.kind: model for model in for_(shipped(tier), "whisper")}
    assert set(kinds) == {"snapshot", "torch-checkpoint", "file"}
    assert (kinds["file"].path, kinds["file"].unpack) == ("nltk_data/tokenizers", "zip")


@EVERY
def test_diffrhythm_is_five_repos_and_optional_below_94g(tier: str) -> None:
    models = for_(shipped(tier), "diffrhythm")
    assert len(models) == 5
    assert {model.optional for model in models} == {tier != "94g"}
    xlm = next(model for model in models if model.name == "xlm-roberta-base")
    assert xlm.cache_as == "xlm-roberta-base"
    for model in models:
        pickles = [f for f in model.files or () if f.path.endswith(".pt")]
        assert model.allow_pickle is any(file.digest is None for file in pickles), model.name
    optional = {name for model in shipped(tier).models if model.optional for name in model.consumers}
    assert optional == {"whisper", "anythingllm"} | (set() if tier == "94g" else {"diffrhythm", "immich"})


@EVERY
def test_whisperx_has_the_alignment_models_that_it_fetches_without_hugging_face(tier: str) -> None:
    # m-bain/whisperX 3.8.6, whisperx/alignment.py: DEFAULT_ALIGN_MODELS_TORCH, loaded by torch.hub
    models = [model for model in for_(shipped(tier), "whisper") if model.kind == "torch-checkpoint"]
    assert {model.name: model.optional for model in models} == {
        "wav2vec2-base-960h": False,
        **{f"voxpopuli-{code}": True for code in LANGUAGES},
    }
    assert all(model.digest for model in models)


@EVERY
def test_the_tesseract_data_of_anythingllm_is_in_the_tier(tier: str) -> None:
    # naptha/tesseract.js 6.0.1, src/worker-script/index.js: LANGUAGE.traineddata in cachePath, packed or not.
    # Mintplex-Labs/anything-llm, collector/utils/OCRLoader: cachePath is models/tesseract in STORAGE_DIR.
    (model,) = [model for model in for_(shipped(tier), "anythingllm") if model.kind == "file"]
    assert model.path == "models/tesseract/eng.traineddata"
    assert model.digest


@EVERY
def test_the_reranker_of_anythingllm_is_in_the_tier(tier: str) -> None:
    # Mintplex-Labs/anything-llm, server/utils/EmbeddingRerankers/native: cache_dir is models in STORAGE_DIR.
    # xenova/transformers.js v2.17.2, src/utils/hub.js: the cache holds ORG/NAME/FILE; models.js: model_quantized.onnx
    (model,) = [model for model in for_(shipped(tier), "anythingllm") if model.kind == "snapshot"]
    assert repo_folder("anythingllm", model) == "anythingllm/models/Xenova/ms-marco-MiniLM-L-6-v2"
    assert {file.path for file in model.files or () if file.digest} == {
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "onnx/model_quantized.onnx",
    }


@EVERY
def test_forge_has_the_file_that_it_fetches_for_the_preview_of_sdxl(tier: str) -> None:
    # lllyasviel/stable-diffusion-webui-forge, modules/sd_vae_approx.py at dfdcbab6: models/VAE-approx/vaeapprox-sdxl.pt
    (model,) = [model for model in for_(shipped(tier), "stable-diffusion") if model.kind == "file"]
    assert model.path == "models/VAE-approx/vaeapprox-sdxl.pt"
    assert model.digest


@EVERY
def test_immich_has_the_models_of_its_default_settings_where_it_looks(tier: str) -> None:
    # immich-app/immich v3.1.0, server/src/config.ts: clip ViT-B-32__openai, faces buffalo_l, ocr PP-OCRv5_mobile
    found = {
        f"{repo_folder('immich', model)}/{file.path}" if model.kind == "immich-model" else f"immich/{model.path}"
        for model in for_(shipped(tier), "immich")
        for file in model.files or (FileSpec(path=""),)
    }
    clip, faces, ocr = (f"immich/{name}" for name in IMMICH)
    assert found == {
        *(f"{clip}/{name}" for name in ("config.json", "visual/model.onnx", "visual/preprocess_cfg.json")),
        *(f"{clip}/textual/{name}" for name in ("model.onnx", "tokenizer.json", "tokenizer_config.json")),
        *(f"{folder}/{part}/model.onnx" for folder in (faces, ocr) for part in ("detection", "recognition")),
    }


@THOROUGH
@EVERY
def test_a_shipped_manifest_matches_the_schema(tier: str) -> None:
    schema: dict[str, Any] = json.loads((ROOT / "docs/reference/manifest.schema.json").read_text())
    importlib.import_module("jsonschema").validate(YAML(typ="safe", pure=True).load(text(tier)), schema)
    assert text(tier).startswith("# yaml-language-server: $schema=../docs/reference/manifest.schema.json\n")


@EVERY
def test_differences_from_the_plan_are_noted(tier: str) -> None:
    assert "differ from the plan" in text(tier).partition("version:")[0]
