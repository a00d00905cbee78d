"""Compute the stack's variables that a tier sets, from the manifest's services and models. Pure."""

from __future__ import annotations

from decimal import ROUND_UP, Decimal
from typing import TYPE_CHECKING

from modelfetch.core.units import GIB, MIB
from modelfetch.manifest.budget import MIN_FREE, in_turns, together, vram_of
from modelfetch.manifest.uri import OLLAMA_HOST, OllamaUri
from modelfetch.tiers.discovery import normalise_tier
from modelfetch.tiers.dotenv.variables import VARIABLES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modelfetch.manifest.model import Manifest, Service

_EMBEDDERS = ("embed", "minilm", "bge-", "paraphrase")
"""Words that appear in the names of Ollama's embedding models but not of chat models."""

_NOT_BERT = {"embeddinggemma": "gemma3", "qwen3-embedding": "qwen3", "nomic-embed-text-v2-moe": "nomic-bert-moe"}
"""Embedding models of the Ollama library with a family that PrivateGPT does not accept, each with its family."""

_CACHE_STEP = 32
"""Prompt cache sizes are multiples of this, in MiB."""

_PROFILES = {
    "ollama": "chat",
    "stable-diffusion": "sd",
    "comfyui": "comfyui",
    "whisper": "whisper",
    "diffrhythm": "diffrhythm",
    "immich": "media",
}
"""The compose profile of each service that can have a budget in a tier."""

_MEMORY = {
    "ollama": "OLLAMA_MEMORY_LIMIT",
    "stable-diffusion": "STABLE_DIFFUSION_MEMORY_LIMIT",
    "comfyui": "COMFYUI_MEMORY_LIMIT",
    "whisper": "WHISPERX_MEMORY_LIMIT",
    "diffrhythm": "DIFFRHYTHM_MEMORY_LIMIT",
    "immich": "IMMICH_ML_MEMORY_LIMIT",
}

DEFAULTS = {variable.name: variable.default for variable in VARIABLES}


def tier_values(manifest: Manifest, *, tier: str | None = None) -> dict[str, str]:
    """The variables that a tier sets: the same ones for every tier, with the table's default if it has no value.

    Args:
        manifest: The tier.
        tier: The name under which it was found, for ``GPU_VRAM_DEFAULT``; default: the manifest's own name.
    """
    services = {service.name: service for service in manifest.services}
    name = tier or manifest.tier or DEFAULTS["GPU_VRAM_DEFAULT"]
    values = {"COMPOSE_PROFILES": _profiles(manifest), "GPU_VRAM_DEFAULT": normalise_tier(name)}
    for service_name, variable in _MEMORY.items():
        service = services.get(service_name)
        limit = service.memory if service else None
        values[variable] = compose_size(limit) if limit else DEFAULTS[variable]
    chat, embedding = _ollama_models(manifest, services.get("ollama"))
    values |= {"OLLAMA_AUTO_PULL_MODEL": ",".join(chat), "OLLAMA_CHAT_MODEL": chat[0] if chat else ""}
    values["OLLAMA_EMBEDDING_MODEL"] = embedding
    values |= dict.fromkeys(("STABLE_DIFFUSION_AUTO_DOWNLOAD_MODEL", "COMFYUI_AUTO_DOWNLOAD_MODEL"), "")
    values |= _ollama(services.get("ollama"), manifest)
    values["STABLE_DIFFUSION_ARGS"] = _webui(services.get("stable-diffusion"))
    values["COMFYUI_ARGS"] = _comfyui(services.get("comfyui"), manifest)
    values |= _whisper(services.get("whisper"))
    immich = services.get("immich")
    values["IMMICH_GPU_ENABLE"] = "true" if immich and immich.device != "cpu" else "false"
    return values


def shares(manifest: Manifest) -> str:
    """The VRAM of each service, in one line; empty if the tier has no budgets."""
    groups = in_turns(service for service in manifest.services if service.vram is not None)
    if not groups:
        return ""
    parts = [
        " or ".join(f"{service.name} {_gib(vram_of(service))}" for service in group)
        + (", one at a time" if len(group) > 1 else "")
        for group in sorted(groups, key=lambda group: group[0].exclusive is not None)
    ]
    usable = f" of {_gib(manifest.usable)} usable" if manifest.usable is not None else ""
    return f"VRAM in GiB: {'; '.join(parts)}; together {_gib(together(manifest.services))}{usable}"


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}".rstrip("0").rstrip(".")


def compose_size(size: int) -> str:
    """Format bytes as a compose memory limit: ``6g``, ``1536m``, otherwise plain bytes with ``b``."""
    for unit, factor in (("g", GIB), ("m", 2**20), ("k", 2**10)):
        if size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}b"


def _profiles(manifest: Manifest) -> str:
    """The profiles of the tier's services; only the first of those that take turns."""
    known = in_turns(service for service in manifest.services if service.name in _PROFILES)
    return ",".join(sorted((_PROFILES[group[0].name] for group in known), key=list(_PROFILES.values()).index))


def _ollama_models(manifest: Manifest, service: Service | None) -> tuple[list[str], str]:
    """The chat models, starting with the one that the service's budget is for, and the embedding model."""
    names = [short_name(model.source) for model in manifest.models if isinstance(model.source, OllamaUri)]
    embedding = next((name for name in names if any(word in name for word in _EMBEDDERS)), "")
    chat = [name for name in names if name != embedding]
    if service and service.model:
        wanted = (service.model, f"{service.model}:latest")
        chat.sort(key=lambda name: name not in wanted)
    return chat, embedding


def short_name(uri: OllamaUri) -> str:
    """An Ollama name as shown by `ollama list`: ``qwen2.5:0.5b``, ``nomic-embed-text:latest``.

    It always has a tag, because PrivateGPT compares it with that list and fails to start if the name is not in it.
    """
    host = "" if uri.host == OLLAMA_HOST else f"{uri.host}/"
    namespace = "" if not host and uri.namespace == "library" else f"{uri.namespace}/"
    return f"{host}{namespace}{uri.model}:{uri.tag}"


def _ollama(service: Service | None, manifest: Manifest) -> dict[str, str]:
    context, parallel = (service.context, service.parallel) if service else (None, None)
    return {
        "OLLAMA_CONTEXT_LENGTH": str(context or DEFAULTS["OLLAMA_CONTEXT_LENGTH"]),
        "OLLAMA_NUM_PARALLEL": str(parallel or DEFAULTS["OLLAMA_NUM_PARALLEL"]),
        "OLLAMA_FLASH_ATTENTION": "1" if service and service.flash_attention else "0",
        "OLLAMA_KV_CACHE_TYPE": (service.kv_type if service else None) or "f16",
        "LLAMA_ARG_CACHE_RAM": str(prompt_cache(service)),
        "LLAMA_ARG_FIT_TARGET": str(max(MIN_FREE, spare(manifest)) // MIB),
    }


def spare(manifest: Manifest) -> int:
    """The usable VRAM that the tier assigns to no service, in bytes."""
    left = manifest.usable - together(manifest.services) if manifest.usable is not None else 0
    return max(0, left)


def prompt_cache(service: Service | None) -> int:
    """The prompt cache of each model that Ollama loads, in MiB; 0 for none.

    A model without a GPU needs as much RAM as its VRAM budget: weights, contexts and buffers (Ollama does not map the
    file if memory is limited). The caches of all loaded models together get half of the memory limit above that.
    """
    if service is None or service.memory is None or service.vram is None:
        return int(DEFAULTS["LLAMA_ARG_CACHE_RAM"])
    loaded = int(DEFAULTS["OLLAMA_MAX_LOADED_MODELS"])
    each = max(0, service.memory - service.vram) // (2 * loaded * MIB)
    return each // _CACHE_STEP * _CACHE_STEP


def unsupported_embedder(values: Mapping[str, str]) -> str | None:
    """Why PrivateGPT can't start with the embedding model in these values; None if no problem is known."""
    name = values.get("OLLAMA_EMBEDDING_MODEL", "")
    family = _NOT_BERT.get(name.rpartition("/")[2].partition(":")[0])
    if family is None:
        return None
    return (
        f"PrivateGPT stops at start with {name}: its family is {family}, not bert, nomic-bert or sentence-transformers"
    )


def _webui(service: Service | None) -> str:
    """The arguments of the SD WebUI (Forge), which keeps either a whole model on the GPU or one part at a time."""
    if service is None:
        return ""
    if service.device == "cpu":
        return "--always-cpu"
    return "" if service.offload in (None, "none") else "--always-offload-from-vram"


def _comfyui(service: Service | None, manifest: Manifest) -> str:
    """The arguments of ComfyUI, which moves parts off the GPU when its share is full."""
    if service is None or service.device == "cpu":
        return "--cpu" if service else ""
    if service.vram is None or manifest.usable is None or service.vram > manifest.usable:
        return ""
    left = (Decimal(manifest.usable - service.vram) / GIB).quantize(Decimal("0.01"), ROUND_UP)
    return f"--reserve-vram {left}"


def _whisper(service: Service | None) -> dict[str, str]:
    device = "cpu" if service and service.device == "cpu" else "cuda"
    batch = service.batch if service else None
    compute_type = (service.compute_type if service else None) or "int8"
    if device == "cpu" and "float16" in compute_type:  # no CPU supports it
        compute_type = "int8"
    return {
        "WHISPERX_MODEL": (service.model if service else None) or DEFAULTS["WHISPERX_MODEL"],
        "WHISPERX_COMPUTE_TYPE": compute_type,
        "WHISPERX_BATCH_SIZE": str(batch or DEFAULTS["WHISPERX_BATCH_SIZE"]),
        "WHISPERX_DEVICE": device,
    }
