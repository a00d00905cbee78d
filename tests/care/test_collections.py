"""Folders of other programs: which files are models, and which program a folder belongs to."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.care.collections import find_candidates, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.pipeline.conftest import Bench, Result

SHA, ETAG, COMMIT = "a" * 64, "b" * 40, "c" * 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """``models``: the files that are models; ``others`` the rest; ``links`` lead from a path to another one."""

    program: str
    models: tuple[str, ...]
    others: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()

    def make(self, folder: Path) -> Path:
        for name in (*self.models, *self.others):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"\0" + name.encode())
        for name, target in self.links:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(os.path.relpath(folder / target, path.parent))
        return folder


COLLECTIONS = {
    "AUTOMATIC1111": Collection(
        program="AUTOMATIC1111 or Forge",
        models=(
            "models/Stable-diffusion/v1-5-pruned-emaonly.safetensors",
            "models/Stable-diffusion/anime/mine.ckpt",
            "models/VAE/vae-ft-mse-840000-ema-pruned.safetensors",
            "models/VAE-approx/model.pt",
            "models/Lora/style.safetensors",
            "models/ESRGAN/4x-UltraSharp.pth",
            "models/hypernetworks/old.pt",
            "models/ControlNet/control_v11p_sd15_canny.pth",
            "embeddings/easynegative.safetensors",
            "embeddings/bad-hands-5.pt",
        ),
        others=(
            "models/Stable-diffusion/Put Stable Diffusion checkpoints here.txt",
            "models/Stable-diffusion/v1-5-pruned-emaonly.civitai.info",
            "models/Stable-diffusion/v1-5-pruned-emaonly.preview.png",
            "models/Lora/style.json",
            "embeddings/easynegative.safetensors.sha256",
            "outputs/txt2img-images/2026-01-01/00001.png",
            "cache.json",
            "config.json",
            "webui.py",
        ),
    ),
    "Forge": Collection(
        program="AUTOMATIC1111 or Forge",
        models=(
            "models/Stable-diffusion/flux1-dev-bnb-nf4-v2.safetensors",
            "models/Stable-diffusion/flux1-dev-Q4_K_S.gguf",
            "models/text_encoder/t5xxl_fp8_e4m3fn.safetensors",
            "models/VAE/ae.safetensors",
            "models/ControlNetPreprocessor/depth_anything/depth_anything_vitl14.pth",
        ),
        others=("models/text_encoder/Put text encoder files here.txt", "backend/huggingface/x/config.json"),
    ),
    "ComfyUI": Collection(
        program="ComfyUI",
        models=(
            "models/checkpoints/sd_xl_base_1.0.safetensors",
            "models/diffusion_models/wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors",
            "models/unet/flux1-schnell-Q8_0.gguf",
            "models/text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors",
            "models/clip_vision/clip_vision_h.safetensors",
            "models/loras/sub/lightning.safetensors",
            "models/upscale_models/RealESRGAN_x4plus.pth",
            "custom_nodes/comfyui_controlnet_aux/ckpts/lllyasviel/Annotators/body_pose_model.pth",
        ),
        others=(
            "models/checkpoints/put_checkpoints_here",
            "models/configs/v1-inference.yaml",
            "models/nltk_data/tokenizers/punkt_tab.zip",
            "models/loras/sub/lightning.safetensors.part",
            "models/loras/other.safetensors.aria2",
            "custom_nodes/comfyui_controlnet_aux/.git/objects/pack/pack-1.bin",
            "output/ComfyUI_00001_.png",
            "user/default/workflows/a.json",
            "extra_model_paths.yaml.example",
        ),
        links=(("models/checkpoints/same.safetensors", "models/checkpoints/sd_xl_base_1.0.safetensors"),),
    ),
    "Stability Matrix": Collection(
        program="Stability Matrix",
        models=(
            "Data/Models/StableDiffusion/juggernautXL.safetensors",
            "Data/Models/DiffusionModels/flux1-dev.safetensors",
            "Data/Models/TextEncoders/clip_l.safetensors",
            "Data/Models/Lora/detail.safetensors",
            "Data/Models/VAE/sdxl_vae.safetensors",
            "Data/Models/ESRGAN/4x.pth",
        ),
        others=(
            "Data/Models/StableDiffusion/juggernautXL.cm-info.json",
            "Data/Models/StableDiffusion/juggernautXL.preview.jpeg",
            "Data/settings.json",
            "Data/Packages/ComfyUI/main.py",
        ),
        links=(("Data/Packages/ComfyUI/models/checkpoints", "Data/Models/StableDiffusion"),),
    ),
    "Hugging Face cache of 0.x and 1.x": Collection(
        program="Hugging Face cache",
        models=(
            f"hub/models--Systran--faster-whisper-small/blobs/{SHA}",
            f"hub/models--Systran--faster-whisper-small/blobs/{ETAG}",
        ),
        others=(
            "hub/version.txt",
            "hub/CACHEDIR.TAG",
            "hub/models--Systran--faster-whisper-small/refs/main",
            f"hub/models--Systran--faster-whisper-small/.no_exist/{COMMIT}/added_tokens.json",
            f"hub/models--Systran--faster-whisper-small/blobs/{'d' * 64}.incomplete",
            f"hub/.locks/models--Systran--faster-whisper-small/{SHA}.lock",
            f"xet/https___cas/shard-cache/{SHA}.mdb",
            "xet/https___cas/chunk-cache/aB/c2hhcmQ",
            "token",
        ),
        links=(
            (
                f"hub/models--Systran--faster-whisper-small/snapshots/{COMMIT}/model.bin",
                f"hub/models--Systran--faster-whisper-small/blobs/{SHA}",
            ),
            (
                f"hub/models--Systran--faster-whisper-small/snapshots/{COMMIT}/config.json",
                f"hub/models--Systran--faster-whisper-small/blobs/{ETAG}",
            ),
        ),
    ),
    "Hugging Face cache before 0.8": Collection(
        program="folder",
        models=(f"{SHA}.{'e' * 64}",),
        others=(f"{SHA}.{'e' * 64}.json", f"{SHA}.{'e' * 64}.lock"),
    ),
    "Hugging Face cache of 2.x": Collection(
        program="Hugging Face cache",
        models=(f"blobs/ab/{SHA}",),
        others=("blobs/.huggingface-shared-blobs", "models--acme--art/refs/main"),
        links=(
            (f"models--acme--art/blobs/{SHA}", f"blobs/ab/{SHA}"),
            (f"models--acme--art/snapshots/{COMMIT}/art.safetensors", f"blobs/ab/{SHA}"),
        ),
    ),
    "Ollama": Collection(
        program="Ollama",
        models=(
            f"blobs/sha256-{SHA}",
            f"blobs/sha256-{'1' * 64}",
            "manifests/registry.ollama.ai/library/llama3.2/3b",
            "manifests/hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF/Q4_K_M",
        ),
        others=(f"blobs/sha256-{'2' * 64}-partial", f"blobs/sha256-{'2' * 64}-partial-0"),
    ),
    "the folder above Ollama's models": Collection(
        program="Ollama",
        models=(f"models/blobs/sha256-{SHA}", "models/manifests/registry.ollama.ai/library/llama3.2/3b"),
        others=("id_ed25519", "id_ed25519.pub", "history"),
    ),
    "LM Studio": Collection(
        program="LM Studio",
        models=(
            "lmstudio-community/Qwen3-8B-GGUF/Qwen3-8B-Q4_K_M.gguf",
            "bartowski/gemma-3-12b-it-GGUF/mmproj-gemma-3-12b-it-f16.gguf",
            "mlx-community/Llama-3.2-3B-Instruct-4bit/model.safetensors",
        ),
        others=(
            "mlx-community/Llama-3.2-3B-Instruct-4bit/model.safetensors.index.json",
            "mlx-community/Llama-3.2-3B-Instruct-4bit/config.json",
            "lmstudio-community/Qwen3-8B-GGUF/.DS_Store",
        ),
    ),
}


@pytest.mark.parametrize("name", COLLECTIONS)
def test_each_model_of_a_collection_is_found_once_and_other_files_are_not(tmp_path: Path, name: str) -> None:
    collection = COLLECTIONS[name]
    folder = collection.make(tmp_path / "manifests/theirs")  # its own folders matter, not those above it
    found = list(find_candidates(folder))
    assert sorted(os.path.relpath(one.file, folder) for one in found) == sorted(collection.models)
    assert kind_of(folder) == collection.program


def test_the_models_of_every_collection_are_adopted_unchanged(bench: Bench, care: Callable[..., Result]) -> None:
    folders = [one.make(bench.folder / name) for name, one in COLLECTIONS.items()]
    files = [folder / name for folder, one in zip(folders, COLLECTIONS.values(), strict=True) for name in one.models]

    def states() -> list[Any]:
        return [(s.st_ino, s.st_mode, s.st_uid, s.st_gid, s.st_mtime_ns) for s in map(os.stat, files)]

    files[0].chmod(0o600)
    if os.geteuid() == 0:
        os.chown(files[1], 1234, 1234)
    before = states()
    result = care("adopt", *map(str, folders))
    assert result.code == 0, result.err
    assert states() == before
    digests = {f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files}
    assert {a["digest"] for m in result.report["models"] for a in m["artifacts"]} == digests
    blobs = {path.name for path in (bench.root / ".modelfetch/blobs/sha256").glob("??/" + "?" * 64)}
    assert {f"sha256:{name}" for name in blobs} == digests
