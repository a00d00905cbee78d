"""Detect the kind of a model by its header, its folder, its address and its repo's files. Pure.

Sources of the tensor names: ComfyUI (comfy/model_detection.py, comfy/lora.py, comfy/sd.py, comfy/sd1_clip.py),
spandrel (architectures), kohya's sd-scripts (networks), and of GGUF architectures: llama.cpp and ComfyUI-GGUF.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from modelfetch.fitting.candidates import WEIGHT_SUFFIXES
from modelfetch.manifest.kinds import FOLDERS, consumers_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from modelfetch.formats.gguf import GgufHeader
    from modelfetch.formats.safetensors import SafetensorsHeader


@dataclass(frozen=True, slots=True, kw_only=True)
class Detected:
    """The result of detection; an unknown part is None or empty.

    Attributes:
        kind: The manifest's kind.
        consumers: The services that can use it.
        family: The family of the model, as it is shown: ``sdxl``, ``flux``, ``llama`` …
        why: The evidence, as it is shown.
        choices: The files of a repo of which one has to be named.
        task: The task of Immich that a model is for.
    """

    kind: str | None = None
    consumers: tuple[str, ...] = ()
    family: str | None = None
    why: str = ""
    choices: tuple[str, ...] = ()
    task: str | None = None


# ── by tensors ──
_RULES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "lora",
        "low-rank weights",
        (
            r"\.lora_(?:up|down|A|B|mid)\.",
            r"\.lora\.(?:up|down)\.",
            r"\.lok[er]_w|\.hada_w|\.oft_(?:blocks|diag)|\.dora_scale$",
            r"^lora_(?:unet|te\d?|transformer)_",
        ),
    ),
    ("embedding", "a learned embedding", (r"^(?:emb_params|string_to_param(?:\..*)?|clip_[lg])$",)),
    (
        "controlnet",
        "a ControlNet",
        (
            r"^control_model\.|input_hint_block|^zero_convs\.",
            r"controlnet_(?:cond_embedding|down_blocks|blocks|mode_embedder|x_embedder)",
            r"^adapter\.(?:body|conv_in)\.",
        ),
    ),
    ("style-model", "a style model", (r"^redux_(?:up|down)\.|^style_embedding$",)),
    (
        "clip-vision",
        "a vision encoder",
        (
            r"^(?:vision_model\.encoder\.layers|visual\.transformer\.resblocks)\.",
            r"^encoder\.layer\.\d+\.attention\.attention\.",
        ),
    ),
    (
        "audio-encoder",
        "an audio encoder",
        (r"^(?:wav2vec2\.)?feature_extractor\.conv_layers\.|^model\.encoder\.conv1\.",),
    ),
)
"""Kinds that the name of one tensor proves, in the order in which they are tried."""

_DENOISER = re.compile(
    r"^(?:model\.)?(?:diffusion_model\.)?(?:double_blocks|single_blocks|joint_blocks|transformer_blocks|input_blocks"
    r"|down_blocks|noise_refiner|context_refiner|blocks\.\d+\.(?:self_attn|attn1|cross_attn|adaln)"
    r"|layers\.\d+\.(?:adaLN_modulation|attention)|double_stream_blocks|caption_projection|net\.blocks"
    r"|transformer\.(?:double_blocks|single_blocks))\b"
)
_TEXT_ENCODER = re.compile(
    r"^(?:text_model\.|transformer\.(?:text_model|resblocks)\.|encoder\.block\.\d+\.layer\.\d+\.SelfAttention"
    r"|shared\.weight|(?:model\.)?(?:language_model\.)?(?:layers\.\d+\.self_attn\.[qkv]_proj|embed_tokens)\.)"
)
_VAE = re.compile(
    r"^(?:first_stage_model\.|vae\.)?(?:en|de)coder\."
    r"(?:up|down|mid|up_blocks|down_blocks|middle|upsamples|downsamples|conv_in|conv_out|conv1|head|layers)\."
)
_UPSCALER = re.compile(
    r"^(?:params_ema\.|params\.)?(?:model\.\d+\.(?:weight|sub\.)|body\.\d+\.(?:rdb\d|weight|attn|norm)|RRDB_trunk"
    r"|layers\.\d+\.residual_group|conv_first\.|upsampler\.|upconv1|conv_up1|to_img\.|feats\.)"
)
_BUNDLED = ("first_stage_model.", "vae.")
_BUNDLED_TEXT = ("cond_stage_model.", "conditioner.embedders.", "text_encoders.")


def by_tensors(header: SafetensorsHeader) -> Detected:
    """Detect a model's kind by the names of its tensors."""
    names = [tensor.name for tensor in header.tensors]
    family = family_of(names, header.metadata)
    if any(name.startswith("model.diffusion_model.") for name in names) and any(
        name.startswith((*_BUNDLED, *_BUNDLED_TEXT)) for name in names
    ):
        return Detected(kind="checkpoint", family=family, why="a denoiser with its VAE or text encoder")
    for kind, what, patterns in _RULES:
        if kind == "embedding" and len(names) > 4:
            continue
        pattern = re.compile("|".join(patterns))
        if any(pattern.search(name) for name in names):
            return Detected(kind=kind, family=family, why=what)
    for kind, what, pattern in (
        ("diffusion-model", "a denoiser alone", _DENOISER),
        ("text-encoder", "a text encoder's layers", _TEXT_ENCODER),
        ("vae", "an encoder and decoder of images", _VAE),
        ("upscaler", "an upscaler's layers", _UPSCALER),
    ):
        if any(pattern.match(name) for name in names):
            return Detected(kind=kind, family=family, why=what)
    return Detected()


_FAMILIES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("flux", re.compile(r"double_blocks[._]\d+[._]img_(?:attn|mod)")),
    ("sdxl", re.compile(r"conditioner\.embedders\.1\.|lora_te2_|add_embedding\.|label_emb\.")),
    ("sd15", re.compile(r"cond_stage_model\.transformer\.text_model\.|lora_te_text_model")),
    ("sd3", re.compile(r"joint_blocks\.\d+\.x_block")),
    ("qwen-image", re.compile(r"transformer_blocks\.\d+\.img_mlp")),
    ("z-image", re.compile(r"noise_refiner\.\d+\.")),
    ("wan", re.compile(r"blocks\.\d+\.cross_attn\.(?:q|k)\.")),
    ("t5", re.compile(r"encoder\.block\.\d+\.layer\.\d+\.SelfAttention")),
    ("clip", re.compile(r"text_model\.encoder\.layers")),
)
_BASE_MODELS = {
    "sd_v1": "sd15",
    "stable-diffusion-v1": "sd15",
    "sdxl_base": "sdxl",
    "stable-diffusion-xl": "sdxl",
    "flux": "flux",
    "sd3": "sd3",
}
"""Parts of the names that trainers give to the base of a model, and its family."""


def family_of(names: Iterable[str], metadata: Mapping[str, str]) -> str | None:
    """Return the family of a model by its metadata or its tensors' names."""
    bases = " ".join(metadata.get(key, "") for key in ("ss_base_model_version", "modelspec.architecture")).lower()
    for part, family in _BASE_MODELS.items():
        if part in bases:
            return family
    text = "\n".join(names)
    return next((family for family, pattern in _FAMILIES if pattern.search(text)), None)


# ── by other things ──
_IMAGE_GGUF = (
    "flux",
    "sd1",
    "sdxl",
    "sd3",
    "aura",
    "hidream",
    "cosmos",
    "ltxv",
    "hyvid",
    "wan",
    "lumina2",
    "qwen_image",
)
_TEXT_GGUF = ("t5", "t5encoder", "clip")


def by_gguf(header: GgufHeader) -> Detected:
    """Detect a GGUF file's kind by its architecture; a language model has none, because Ollama pulls its own."""
    arch = header.metadata.get("general.architecture")
    if not isinstance(arch, str):
        return Detected()
    why = f"GGUF of the architecture {arch[:40]}"
    if arch in _IMAGE_GGUF:
        return Detected(kind="diffusion-model", family=arch, why=why)
    if arch in _TEXT_GGUF:
        return Detected(kind="text-encoder", family=arch, why=why)
    return Detected(family=arch, consumers=("ollama",), why=why)


_KIND_OF_FOLDER = {
    folder.removeprefix("models/"): kind
    for (consumer, kind), folder in FOLDERS.items()
    if consumer == "comfyui" and kind not in ("snapshot", "file")
} | {
    "unet": "diffusion-model",
    "transformer": "diffusion-model",
    "clip": "text-encoder",
    "text_encoder": "text-encoder",
    "lora": "lora",
    "esrgan": "upscaler",
}
_SURE = ("checkpoint", "lora", "embedding", "controlnet")
_ADDRESSES = (
    (re.compile(r"openaipublic\.azureedge\.net/main/whisper/models/.*\.pt\Z"), "whisper"),
    (re.compile(r"download\.pytorch\.org/torchaudio/models/.*\.pth?\Z"), "torch-checkpoint"),
)
_CATEGORIES = {
    "checkpoint": "checkpoint",
    "lora": "lora",
    "locon": "lora",
    "dora": "lora",
    "controlnet": "controlnet",
    "textualinversion": "embedding",
    "vae": "vae",
    "upscaler": "upscaler",
}
"""CivitAI's types of models (source: its API's reference), each with the kind of a manifest."""


def by_folder(path: str) -> Detected:
    """Detect a model's kind by the folders of its path, which publishers name as the programs do."""
    for part in reversed(PurePosixPath(path).parts[:-1]):
        if kind := _KIND_OF_FOLDER.get(part.lower()):
            return Detected(kind=kind, why=f"its folder {part}")
    return Detected()


def by_upstream(address: str, category: str | None) -> Detected:
    """Detect a model's kind by its address, or by its hub's ``category`` for it (CivitAI's type)."""
    for pattern, kind in _ADDRESSES:
        if pattern.search(address):
            return Detected(kind=kind, why="its address")
    known = _CATEGORIES.get((category or "").lower())
    return Detected(kind=known, why=f"its hub calls it {category}") if known else Detected()


def combine(content: Detected, folder: Detected, upstream: Detected) -> Detected:
    """Combine the evidence of a file's content, its folder and its hub, and choose the services that can load it.

    Kinds that content proves come first. A folder separates parts that look alike; a hub's category is often coarse.
    """
    if content.kind in _SURE or (content.kind is None and content.consumers):
        chosen = content
    else:
        chosen = next((found for found in (folder, content, upstream) if found.kind is not None), content)
    consumers = chosen.consumers or (consumers_for(chosen.kind, content.family) if chosen.kind else ())
    return Detected(kind=chosen.kind, consumers=consumers, family=content.family, why=chosen.why)


_WEBUI_FAMILIES = ("sd15", "sdxl", "sd3", "flux", "sd1", "clip", "t5", None)


def consumers_for(kind: str, family: str | None) -> tuple[str, ...]:
    """The services that take a kind; Forge and similar programs are left out for families that they can't load."""
    takers = tuple(consumer for consumer in consumers_of(kind) if consumer not in ("ollama", "diffrhythm"))
    if "stable-diffusion" in takers and family not in _WEBUI_FAMILIES:
        takers = tuple(consumer for consumer in takers if consumer != "stable-diffusion")
    return takers


def by_files(repo: str, paths: Iterable[str]) -> Detected:
    """Detect the kind of a repo by its list of files."""
    names = sorted(paths)
    top = {name for name in names if "/" not in name}
    if "diffrhythm" in repo.lower():
        return Detected(kind="snapshot", consumers=("diffrhythm",), family="diffrhythm", why="a DiffRhythm repo")
    if {"model.bin", "config.json"} <= top and any(name.startswith("vocabulary.") for name in top):
        return Detected(kind="snapshot", consumers=("whisper",), family="whisper", why="a CTranslate2 repo")
    if {"textual/model.onnx", "visual/model.onnx"} <= set(names):
        return Detected(kind="immich-model", consumers=("immich",), task="clip", why="a repo of Immich's")
    if {"detection/model.onnx", "recognition/model.onnx"} <= set(names):
        task = "ocr" if "ocr" in repo.lower() else "facial-recognition"
        return Detected(kind="immich-model", consumers=("immich",), task=task, why="a repo of Immich's")
    if "model_index.json" in top:
        return Detected(kind="snapshot", consumers=("comfyui",), why="a diffusers repo")
    weights = tuple(name for name in names if name.lower().endswith(WEIGHT_SUFFIXES))
    return Detected(choices=weights or tuple(names), why="a repo of several files")
