"""The kinds of model that each consumer can load, and the folder for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelfetch.core.root import CONSUMERS
from modelfetch.formats.content_check import has_known_suffix
from modelfetch.formats.signatures import IMAGE_SUFFIXES
from modelfetch.manifest.paths import check_relative, safe_name
from modelfetch.manifest.uri import FileUri, HfUri, HttpUri

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modelfetch.manifest.model import Manifest, Model
    from modelfetch.manifest.uri import Uri

IMMICH_TASKS = ("clip", "facial-recognition", "ocr")
"""The tasks of Immich's machine learning, and its folders.

Source: immich-app/immich v3.1.0, ``machine-learning/immich_ml/schemas.py`` (ModelTask).
"""

REPO_KINDS = ("snapshot", "immich-model")
"""The kinds whose source is a repository and not a single file."""

HF_CACHES = {"whisper": "hub", "diffrhythm": ""}
"""The consumers that read snapshots in Hugging Face cache form, and where below their folder the cache is."""

NAMED_BY_REPO = frozenset(("anythingllm",))
"""The consumers that look for a repository in a folder ORG/NAME, as transformers.js does; others in NAME.

Source: xenova/transformers.js v2.17.2, ``src/utils/hub.js`` (FileCache).
"""

_IMAGE = {
    "checkpoint": ("models/Stable-diffusion", "models/checkpoints"),
    "diffusion-model": ("models/Stable-diffusion", "models/diffusion_models"),
    "text-encoder": ("models/text_encoder", "models/text_encoders"),
    "vae": ("models/VAE", "models/vae"),
    "lora": ("models/Lora", "models/loras"),
    "controlnet": ("models/ControlNet", "models/controlnet"),
    "upscaler": ("models/ESRGAN", "models/upscale_models"),
    "embedding": ("embeddings", "models/embeddings"),
    "clip-vision": (None, "models/clip_vision"),
    "model-patch": (None, "models/model_patches"),
    "latent-upscaler": (None, "models/latent_upscale_models"),
    "audio-encoder": (None, "models/audio_encoders"),
    "style-model": (None, "models/style_models"),
    "geometry": (None, "models/geometry_estimation"),
    "detection": (None, "models/detection"),
    "optical-flow": (None, "models/optical_flow"),
    "background-removal": (None, "models/background_removal"),
    "frame-interpolation": (None, "models/frame_interpolation"),
    "snapshot": ("models/diffusers", "models/diffusers"),
}

FOLDERS: dict[tuple[str, str], str] = {
    **{("stable-diffusion", kind): folder for kind, (folder, _) in _IMAGE.items() if folder is not None},
    **{("comfyui", kind): folder for kind, (_, folder) in _IMAGE.items()},
    **{(consumer, "snapshot"): folder for consumer, folder in HF_CACHES.items()},
    ("whisper", "torch-checkpoint"): "torch/hub/checkpoints",
    ("whisper", "whisper"): "openai",
    ("immich", "immich-model"): "",
    ("anythingllm", "snapshot"): "models",
    **{(consumer, "file"): "" for consumer in CONSUMERS},
}
"""(consumer, kind) to the folder below the consumer's own; a pair that is not here is not supported.

``""`` is the consumer's folder itself. An ``ollama://`` source has no kind and is not in the table.
"""

KINDS = tuple(dict.fromkeys((*_IMAGE, "torch-checkpoint", "whisper", "immich-model", "file")))
"""All kinds, in the order of the documentation."""

WEIGHT_KINDS = frozenset(KINDS) - {*REPO_KINDS, "file"}
"""The kinds whose single file is model weights, whatever it is called."""

_TORCH_SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl", ".gguf")
_LISTED = {
    ("stable-diffusion", "checkpoint"): (".safetensors", ".ckpt", ".gguf"),
    ("stable-diffusion", "diffusion-model"): (".safetensors", ".ckpt", ".gguf"),
    ("comfyui", "detection"): (*_TORCH_SUFFIXES, ".onnx"),
    ("stable-diffusion", "embedding"): (*_TORCH_SUFFIXES, *IMAGE_SUFFIXES),
    ("comfyui", "embedding"): (*_TORCH_SUFFIXES, *IMAGE_SUFFIXES),
}


def unlisted_name(consumer: str, kind: str | None, name: str) -> str | None:
    """Return a warning if an image service does not list a file of this name in the folder of a kind.

    Forge lists no folders, so no snapshot either. Only names with the suffix of other files count, such as ``.onnx``:
    a file without a known suffix gets that of its content. Source: ComfyUI, ``folder_paths.py``
    (supported_pt_extensions; ComfyUI-GGUF adds ``.gguf``); AUTOMATIC1111 and Forge, ``modules/sd_models.py``. Nodes for
    poses read ONNX files in ComfyUI's ``detection``.
    """
    if (consumer, kind) == ("stable-diffusion", "snapshot"):
        return (
            "stable-diffusion lists no snapshot: only an extension that loads a folder by its path can use it; "
            "for a model in the menu, use kind checkpoint with a single file"
        )
    if consumer not in ("comfyui", "stable-diffusion") or kind not in _IMAGE or kind in REPO_KINDS:
        return None
    suffixes = _LISTED.get((consumer, kind), _TORCH_SUFFIXES)
    if name.lower().endswith(suffixes) or not has_known_suffix(name):
        return None
    found = f"{consumer} does not list {name[:80]!r}: for kind {kind} it lists names that end in {' '.join(suffixes)}"
    return f"{found}; kind file places any other file"


def name_warnings(model: Model, consumer: str, name: str) -> Iterator[str]:
    """Yield what is doubtful about a file's name, which may be the server's, or about the folder in the manifest."""
    if warning := unlisted_name(consumer, model.kind, name):
        yield f"{model.position}: {warning}"
    folder = consumer if model.kind == "file" else FOLDERS.get((consumer, model.kind or ""))
    key, given = ("path", model.path) if model.kind == "file" else ("filename", model.filename)
    if folder and given and given.startswith(f"{folder}/"):
        below = folder if model.kind == "file" else f"{consumer}/{folder}"
        yield f"{model.position}: {key} begins with the folder that it is placed in anyway: {below}/{given[:80]}"


def manifest_warnings(manifest: Manifest) -> Iterator[str]:
    """Yield what is doubtful about the names in a manifest: its service does not list them, or they repeat a folder."""
    for model in manifest.models:
        for consumer in model.consumers:
            yield from name_warnings(model, consumer, model.filename or upstream_name(model.source) or "")


ONLY_WITH: dict[str, tuple[str, ...]] = {
    "files": REPO_KINDS,
    "include": REPO_KINDS,
    "cache_as": ("snapshot",),
    "path": ("file",),
    "unpack": ("file",),
    "task": ("immich-model",),
}
"""The keys that are allowed with some kinds only."""

REQUIRED_WITH = {"file": "path", "immich-model": "task"}
"""The key that a kind requires."""


SELECTING = ("files", "include")
"""Of these, the keys that also choose a file of an ``oci://`` artifact, whatever its kind."""


def kinds_of(consumer: str) -> tuple[str, ...]:
    """Return the kinds that a consumer can load."""
    return tuple(kind for kind in KINDS if (consumer, kind) in FOLDERS)


def consumers_of(kind: str) -> tuple[str, ...]:
    """Return the consumers that can load a kind."""
    return tuple(consumer for consumer in CONSUMERS if (consumer, kind) in FOLDERS)


def repo_folder(consumer: str, model: Model) -> str:
    """The folder below ROOT for the files of a repository, where the consumer reads no Hugging Face cache."""
    repo = model.source.repo if isinstance(model.source, HfUri) else model.name
    name = model.filename or (repo if consumer in NAMED_BY_REPO else repo.rpartition("/")[2])
    parts = (consumer, FOLDERS[consumer, model.kind or ""], model.task, name)
    return "/".join(part for part in parts if part)


HF_MODEL_PREFIX = "models--"
"""Begins the names of model repos in a Hugging Face cache."""


def hf_folder_name(repo: str) -> str:
    """The name of a model repo's folder in a Hugging Face cache: ``models--ORG--NAME``."""
    return f"{HF_MODEL_PREFIX}{repo.replace('/', '--')}"


def hf_repo_folder(consumer: str, repo: str) -> str:
    """The folder of a repo in a consumer's Hugging Face cache, below ROOT."""
    return "/".join(filter(None, (consumer, HF_CACHES[consumer], hf_folder_name(repo))))


def upstream_name(source: Uri) -> str | None:
    """Return the name that a URI alone gives to a single file: its path's last part, a web server's made safe.

    None if only the source knows it (civitai, oci, ollama, a URL that ends in ``/``) or if the path
    ends in no name that a file could have.
    """
    if not isinstance(source, HfUri | HttpUri | FileUri) or source.path is None:
        return None
    last = source.path.rpartition("/")[2]
    if isinstance(source, HttpUri):
        return safe_name(last)
    try:
        return check_relative(last)
    except ValueError:
        return None
